"""The patches of a ViT and where they stand; of a FlexiViT, at any size (https://arxiv.org/abs/2212.08013)."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Self

from common.models.family import Config
from common.system.errors import UserError


class Patches(Config):
    """What follows from the fields `patch_size`, `image_size`, `kernel_size` and `position_grid` of a ViT, and from the tokens beside the patches."""

    @property
    def square(self) -> bool:
        """Whether images and patches are as high as wide."""
        return len({*self.image_size}) == len({*self.patch_size}) == 1

    @property
    def patch_px(self) -> tuple[int, int]:
        """Pixels of the image per row and column of patches."""
        return tuple(size * (self.backbone.stride if self.backbone else 1) for size in self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        stride = self.backbone.stride if self.backbone else 1
        return tuple(-(-size // stride) // patch for size, patch in zip(self.image_size, self.patch_size))

    @property
    def stored_kernel(self) -> tuple[int, int]:
        """Height and width of the kernel among the parameters."""
        return self.kernel_size or self.patch_size

    @property
    def stored_grid(self) -> tuple[int, int]:
        """Rows and columns of the learned positions among the parameters."""
        return self.position_grid or self.grid

    @property
    def has_cls(self) -> bool:
        """Whether there is a class token."""
        return self.pooling in ("token", "token_gap")

    @property
    def norm_first(self) -> bool:
        """Whether the last norm comes before the pooling."""
        return self.pooling != "gap_norm"

    @property
    def num_cls(self) -> int:
        """Number of class tokens, which come first."""
        return self.has_cls + self.distilled

    @property
    def num_prefix(self) -> int:
        """Tokens before the patches: class tokens, then registers."""
        return self.num_cls + self.registers

    @property
    def num_positions(self) -> int:
        """Rows of `pos_embedding`: of the class tokens and of the registers that have one, then of the patches."""
        others = self.num_cls * self.cls_position + self.registers * self.register_positions
        return self.stored_grid[0] * self.stored_grid[1] + others

    @property
    def mixed_positions(self) -> bool:
        """Whether class tokens have positions and registers none, or the other way round."""
        return bool(self.num_cls and self.registers) and self.cls_position != self.register_positions

    @property
    def rotary(self) -> bool:
        """Whether positions turn queries and keys."""
        return self.positions == "rotary"

    def with_patch(self, patch_size: tuple[int, int] | None) -> Self:
        """The same model for patches of this height and width in pixels; None: its own."""
        return (
            self if patch_size in (None, self.patch_size) else dataclasses.replace(self, patch_size=tuple(patch_size))
        )

    def at_patch(self, patch_size: tuple[int, int] | None) -> Self:
        """`with_patch`, of the same parameters. Raises UserError where these are for one size only."""
        if patch_size not in (None, self.patch_size) and self.kernel_size is None:
            raise UserError(
                f"The model's patches are of {self.patch_size} pixels for ever, and {patch_size} are wanted."
            )
        return self.with_patch(patch_size)

    def with_side(self, side: int | None) -> Self:
        """The same model for square patches of `side` pixels; None: its own. Raises UserError where they fill no image."""
        return self if side is None else self.filled_by((side,)).with_patch((side, side))

    def resizable(self, sides: Iterable[int]) -> Self:
        """The same model, with the same parameters, for square patches of any of these sides. Raises UserError."""
        return self.filled_by(sides).flexible()

    def filled_by(self, sides: Iterable[int]) -> Self:
        """This model. Raises UserError where square patches of one of these sides do not fill its images."""
        if self.backbone or "pre" in self.patch_norms:
            raise UserError(
                "The patches of hybrids, and those whose pixels are normalised, are of one size; choose a plain ViT for others."
            )
        common = math.gcd(*self.image_size)
        for side in sides:
            if common % side:
                fitting = sorted((n for n in range(2, common + 1) if common % n == 0), key=lambda n: abs(n - side))[:5]
                raise UserError(
                    f"Patches of {side} pixels do not fill images of {' x '.join(map(str, self.image_size))}; choose a side "
                    f"that does, such as {', '.join(map(str, sorted(fitting)))}."
                )
        return self

    def as_naflex(self) -> Self:
        """The same model, with the same parameters, for images that keep their aspect ratio. Raises UserError."""
        return dataclasses.replace(self, naflex=True)

    def like(self, wanted: Config, *, resizes: bool = False) -> Config:
        """This model, with the patches of `wanted` where one of the two has patches of any size, or where they are resized.

        Biases of attention that only `wanted` has are zeros here: timm leaves out those of DINOv3, which are.
        """
        if type(wanted) is not type(self):
            return self
        fields = ("attn_biases",) if {*self.attn_biases} < {*wanted.attn_biases} else ()
        if resizes or self.kernel_size or wanted.kernel_size:
            fields += ("patch_size", "image_size", "kernel_size", "position_grid", "positions")
        return dataclasses.replace(self, **{name: getattr(wanted, name) for name in fields})

    def as_published(self, published: Config) -> Config:
        """A FlexiViT where the published row is one, with the kernel of the file, a NaFlex, or DINOv2, which resizes positions
        in its own way: their parameters do not tell."""
        if type(published) is not type(self):
            return self
        told = published if self.position_resize == "corners" else self
        fields = {"position_resize": told.position_resize}
        if self.kernel_size or not published.kernel_size:
            return dataclasses.replace(self, **fields, naflex=self.naflex or published.naflex)
        grid = published.position_grid if self.positions == "learned" else None
        fields |= {"kernel_size": self.patch_size, "position_grid": grid}
        fields |= {name: getattr(published, name) for name in ("patch_size", "image_size")}
        return dataclasses.replace(self, **fields)

    def flexible(self) -> Self:
        """The same model with the same parameters, for patches of any size."""
        grid = self.grid if self.positions == "learned" else None
        return self if self.kernel_size else dataclasses.replace(self, kernel_size=self.patch_size, position_grid=grid)

    def fixed(self) -> Self:
        """The model for patches of its own size alone."""
        return dataclasses.replace(self, kernel_size=None, position_grid=None)


def check_strip(config: Patches, height: int, width: int, count: int | None) -> None:
    """Raise UserError for what is no strip of `count` patches, or where the model takes none."""
    if not config.naflex:
        raise UserError("The model takes images of one size, and coordinates of patches are given; leave them out.")
    if count is None:
        raise UserError(
            "A NaFlex takes patches with their coordinates and patch_mask, and images alone are given; give all three."
        )
    patch_height, patch_width = config.patch_size
    if (height, width) != (count * patch_height, patch_width):
        raise UserError(
            f"The strip of patches is of {height} x {width} pixels, expected {count} patches of {patch_height} x "
            f"{patch_width} one below the other; give as many patches as coordinates."
        )


def check_patches(config: Patches) -> None:
    """Raise UserError for a kernel and positions of which only one can be resized."""
    if (config.position_grid is not None) != (config.kernel_size is not None and config.positions == "learned"):
        raise UserError("A ViT has a kernel_size and, of learned positions, a position_grid, or neither; give both.")
    if config.kernel_size and config.backbone:
        raise UserError("The patches of a hybrid are of one size; leave out its kernel_size.")
    if config.kernel_size and (config.rotary or "pre" in config.patch_norms):
        raise UserError("Rotary positions and norms of pixels are for patches of one size; leave out the kernel_size.")
    if config.naflex and (
        config.positions != "learned" or config.backbone or config.kernel_size or config.pooling == "first"
    ):
        raise UserError(
            "A NaFlex has learned positions, no backbone, patches of one size and another pooling than 'first'; choose "
            "such a model, or leave naflex, --tokens and --token_lengths out."
        )
