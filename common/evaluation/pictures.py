"""Pictures of what a ViT looks at and of the features of its patches, over its images; in numpy, so that they are the same in every engine."""

from collections.abc import Sequence

import numpy as np

HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)]) / 255  # from none to most
OPACITY = 0.6  # of the colours over an image
ROUNDING = 1e-10  # of the mean square of features: below it, their variance is that of float32


def heat(shares: np.ndarray) -> np.ndarray:
    """Colours [P, 3] in [0, 1] of the parts of the attention [P] that patches have: black of none, to yellow of the most."""
    places = shares / (shares.max() or 1) * (len(HEAT) - 1)
    return np.stack([np.interp(places, range(len(HEAT)), channel) for channel in HEAT.T], 1)


def component_colours(features: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Colours [P, 3] in [0, 1] of the patches [P, D] of each image: the first three principal components of all of them together.

    As in figure 1 of DINOv2 (https://arxiv.org/abs/2304.07193), but of all patches, those of the background too. Red, green
    and blue are the first, second and third component, each from its smallest value among all images to its largest. Signs are
    arbitrary: here the largest weight of a component is positive. A component of rounding errors alone is grey.
    """
    count = sum(map(len, features))
    mean = sum(rows.sum(0, dtype=np.float64) for rows in features) / count
    centred = lambda rows: rows.astype(np.float64) - mean
    covariance = sum(rows.T @ rows for rows in map(centred, features)) / count
    variances, axes = (values[..., :-4:-1] for values in np.linalg.eigh(covariance))  # the largest three
    axes = axes * np.sign(np.take_along_axis(axes, np.abs(axes).argmax(0)[None], 0))
    components = [centred(rows) @ axes for rows in features]
    low, high = np.min([rows.min(0) for rows in components], 0), np.max([rows.max(0) for rows in components], 0)
    shown = variances > ROUNDING * (np.trace(covariance) + mean @ mean)
    found = [np.full((len(rows), 3), 0.5) for rows in features]
    for colours, rows in zip(found, components):
        colours[:, : len(shown)][:, shown] = ((rows - low) / np.where(shown, high - low, 1))[:, shown]
    return found


def over(image: np.ndarray, colours: np.ndarray, extent: tuple[float, float]) -> np.ndarray:
    """uint8 [H, W, 3]: an image with the `colours` [rows, columns, 3] of its patches over it, of which it is `extent` high and wide."""
    rows, columns = (
        np.minimum(((np.arange(side) + 0.5) * patches / side).astype(int), count - 1)
        for side, patches, count in zip(image.shape, extent, colours.shape)
    )
    blended = image * (1 - OPACITY) + 255 * OPACITY * colours[rows[:, None], columns]
    return np.rint(blended).astype(np.uint8)
