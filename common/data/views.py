"""What a model sees of an image."""

import numpy as np

from common.data import images
from common.models.cards import Preprocessing


def model_view(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """uint8 [resolution, resolution, 3]: the middle of `image` at `eval_resize`, or all of it at 0."""
    side, kind, rounding = preprocessing.resolution, preprocessing.resize_kind, preprocessing.rounding
    if not preprocessing.eval_resize:
        return images.resize(image, side, side, kind)
    return images.central_crop(images.resize_small(image, preprocessing.eval_resize, kind, rounding), side, rounding)
