"""What `predict --map` prepares before an engine computes, and the pictures that it writes."""

import math
from collections.abc import Iterator

import numpy as np

from common.config import PredictConfig
from common.data import images
from common.data.naflex import fitted_size
from common.data.views import seen_part
from common.evaluation.evaluator import Evaluator, Kept, Prepared
from common.evaluation.pictures import component_colours, heat, over
from common.models import FAMILIES, ViTConfig
from common.models.intermediates import ATTENDING
from common.runs.prediction import Prediction
from common.system.errors import UserError, printable
from common.system.files import write_atomically
from common.system.progress import note

OUTPUTS = {"attention": "attention_maps", "pca": "patch_maps"}
MOST_BYTES = 2**32  # of the patches that principal components are of
LONGEST_PX = 2048  # of a picture; a larger image is made smaller for it
Size = tuple[int, int]


class Maps(Prediction):
    """`predict --map`: what a ViT looks at in images, or principal components of the features of all their patches."""

    computes_scores = False

    def check_model(self) -> None:
        """Raise UserError for a model without patches, and for what belongs to predictions."""
        config = self.config
        self.tower = self.model_config.children.get("image", self.model_config)
        for name in ("texts", "vocabulary", "top"):
            if getattr(config, name) != getattr(PredictConfig, name):
                raise UserError(
                    f"--{name} is for predictions, and --map {config.map} draws pictures; leave one of them off."
                )
        if not isinstance(self.tower, ViTConfig) or not self.tower.depth:
            raise UserError(
                f"--map {config.map} shows the patches of a ViT, and {config.model} is of the family "
                f"{FAMILIES[type(self.tower)].name}; "
                "choose a ViT, or leave it off."
            )

    def check_output(self) -> None:
        """Raise UserError where --output is no folder, or would replace one of the images."""
        self.check_folder(f"--map {self.config.map}", self.config.map)

    def names(self) -> tuple[str, ...]:
        """No classes are shown. Raises UserError for more patches than memory holds."""
        patch_bytes = self.tower.width * 4 * (2 if self.config.precision == "float64" else 1)
        image_bytes = patch_bytes * (self.tokens if self.tower.naflex else math.prod(self.tower.grid))
        if self.config.map == "pca" and len(self.files) * image_bytes > MOST_BYTES:
            raise UserError(
                f"--map pca compares the patches of all {len(self.files):,} images, which takes "
                f"{len(self.files) * image_bytes / 2**30:.1f} GiB; give at most {MOST_BYTES // image_bytes:,} images."
            )
        return ()

    def evaluator(self) -> Evaluator:
        """What keeps the maps of every image."""
        self.kept = Kept("images", {OUTPUTS[self.config.map]: self.image_batches(self.split)})
        return Prepared(self.kept, self.prepared)

    def outputs(self) -> Iterator[np.ndarray]:
        """uint8 [H, W, 3]: a picture for every image."""
        maps = self.kept.column(OUTPUTS[self.config.map], "map")
        maps = map(self.without_padding, range(len(maps)), maps) if self.tower.naflex else maps
        if self.config.map == "attention":
            note(f"The last attention of {ATTENDING[self.tower.pooling]}, the mean of {self.tower.num_heads} heads.")
            colours = map(heat, maps)
        else:
            colours = component_colours(list(maps))
        yield from map(self.picture, range(len(self.files)), colours)

    def without_padding(self, number: int, rows: np.ndarray) -> np.ndarray:
        """The rows [P, ...] of the patches that an image has."""
        return rows[: math.prod(self.seen(self.split.decode(number))[1])]

    def seen(self, image: np.ndarray) -> tuple[Size, Size]:
        """An image [H, W, 3] as the model sees it: (height and width in pixels, rows and columns of patches)."""
        if not self.tower.naflex:
            return self.tower.image_size, self.tower.grid
        patch = self.tower.patch_size
        size = fitted_size(image.shape[:2], patch, self.tokens)
        return size, tuple(side // px for side, px in zip(size, patch))

    def picture(self, number: int, colours: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3]: what the model sees of an image under the colours [P, 3] of its patches.

        At the image's resolution, or the model's where that is higher, up to LONGEST_PX.
        """
        image = self.split.decode(number)
        size, grid = self.seen(image)
        if not self.tower.naflex:
            image = image[seen_part(image.shape[:2], self.preprocessing_at(self.resolution))]
        longest = max(image.shape[:2])
        scale = min(max(longest, *size), LONGEST_PX) / longest
        shown = images.resize(image, *(max(1, round(side * scale)) for side in image.shape[:2]))
        return over(shown, colours.reshape(*grid, 3), tuple(side / px for side, px in zip(size, self.tower.patch_px)))

    def show(self, pictures: Iterator[np.ndarray]) -> None:
        """Write the pictures, one after the other."""
        from PIL import Image

        for path, picture in zip(self.places(self.config.map), pictures, strict=True):
            write_atomically(path, lambda file, picture=picture: Image.fromarray(picture).save(file, "PNG"))
            self.tell(f"Wrote {printable(path)}")
