"""What a family of models is: a configuration with parameters and children, and one row (`Family`) with the rest.

common/models/families.py lists the rows.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from common.recipes.lora import Lora
from common.system.errors import UserError

Shapes = dict[str, tuple[int, ...]]  # {canonical name: shape}, in the order of the forward pass
Arrays = dict[str, np.ndarray]
Say = Callable[[str], None]  # called with a line for a person to read


class Undecided(UserError):
    """Names and shapes are right, and something that the model needs follows from neither."""


class Config:
    """Base of the configurations, which are frozen dataclasses.

    A field that holds a configuration is a child: its parameters lie below the field's name, `backbone/stem/conv/kernel`.
    Shapes, initial values, checks, adaptation and spellings all walk the children.
    """

    image_size: ClassVar[tuple[int, int] | None] = None  # height and width in pixels that it is made for; None: any
    image_kernel: ClassVar[str | None] = "stem/kernel"  # the parameter that takes the images; None: it takes texts
    pooling: ClassVar[str] = "gap"
    naflex: ClassVar[bool] = False  # whether images keep their aspect ratio, as patches with coordinates
    num_branches: ClassVar[int] = 0  # residual branches, which stochastic depth may drop
    num_dropouts: ClassVar[int] = 0  # places at which dropout acts
    num_patches: ClassVar[int] = 0  # patches of an image, some of which training may leave out
    renews: ClassVar[bool] = (
        False  # whether a part of it follows the batches of training without gradients, by what is drawn
    )
    lora: ClassVar[Lora | None] = (
        None  # in training: matrices that learn in the place of its, or its children's, dense kernels
    )

    @property
    def children(self) -> "dict[str, Config]":
        """{field: configuration} of the models within this one."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Config)}

    def measured(self, names: tuple[str, ...]) -> Shapes:
        """{name: shape} of what the loss of a training step measures, where the recipe's `measures` are these `names`."""
        return dict.fromkeys(names, ())

    @property
    def after_training(self) -> "Config":
        """The model that is left when training has ended: its kernels have what LoRA learned in their place."""
        return dataclasses.replace(self, lora=None) if self.lora else self

    def at(self, image_size: tuple[int, int]) -> "Config":
        """The same model for images of this height and width in pixels."""
        return dataclasses.replace(self, image_size=image_size)

    def like(self, wanted: "Config", *, resizes: bool = False) -> "Config":
        """This model, whose sizes are compared with those of `wanted`, but for what is made to fit: with `resizes`, patches."""
        return self

    def as_published(self, published: "Config") -> "Config":
        """The model that a file holds, of which names and shapes tell less than its published row."""
        return self

    def with_side(self, side: int | None) -> "Config":
        """The same model for square patches of `side` pixels; None: its own. Raises UserError where it has none such."""
        if side is not None:
            raise UserError(f"--patch_size {side} is for ViTs, which have patches of one size; leave it out.")
        return self

    def resizable(self, sides: Iterable[int]) -> "Config":
        """The same model for square patches of any of these sides. Raises UserError where it has none such."""
        raise UserError("--patch_sizes is for ViTs, which have patches; leave it out.")

    def as_naflex(self) -> "Config":
        """The same model for images that keep their aspect ratio. Raises UserError where it has no patches."""
        raise UserError("--tokens and --token_lengths are for ViTs, which have patches; leave them out.")

    def fixed(self) -> "Config":
        """The model for patches of its own size alone."""
        return self

    def with_classes(self, num_classes: int | None) -> "Config":
        """The same model with a head for so many classes; None: without a head."""
        return dataclasses.replace(self, num_classes=num_classes)

    def own_shapes(self) -> Shapes:
        """{canonical name: shape} of the parameters that no child has; kernels are HWIO and [in, out]."""
        raise NotImplementedError

    def own_by_head(self) -> Shapes:
        """`own_shapes`, with the heads of attention on an axis of their own, as flax keeps them."""
        shapes = self.own_shapes()
        for name, shape in shapes.items():
            layer = re.fullmatch(r"(?:.*/)?(?:cross_)?attn/(query|key|value|out)/(?:kernel|bias)", name)
            if layer and (layer[1] != "out" or len(shape) == 2):
                axis = 0 if layer[1] == "out" else len(shape) - 1
                shapes[name] = (*shape[:axis], self.num_heads, shape[axis] // self.num_heads, *shape[axis + 1 :])
        return shapes

    def shapes_by_head(self) -> Shapes:
        """`parameter_shapes`, with the heads of attention on an axis of their own."""
        shapes = {}
        for name, child in self.children.items():
            shapes |= within(name, child.shapes_by_head())
        return shapes | self.own_by_head() | self.lora_shapes()

    def lora_shapes(self) -> Shapes:
        """{canonical name: shape} of the matrices of LoRA: .../lora_a [in, rank] and .../lora_b [rank, out] beside kernels [in, out]."""
        return self.lora.shapes(dataclasses.replace(self, lora=None).parameter_shapes()) if self.lora else {}

    def parameter_shapes(self) -> Shapes:
        """{canonical name: shape} of all parameters: the children's, its own, LoRA's; kernels are HWIO and [in, out]."""
        shapes = {}
        for name, child in self.children.items():
            shapes |= within(name, child.parameter_shapes())
        return shapes | self.own_shapes() | self.lora_shapes()


class WithImage:
    """What a model with a tower `image` has of it: the size of the images, and what changes it."""

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the images in pixels; None: any."""
        return self.image.image_size

    @property
    def image_kernel(self) -> str:
        """The parameter that takes the images."""
        return f"image/{self.image.image_kernel}"

    @property
    def naflex(self) -> bool:
        """Whether images keep their aspect ratio, as patches with coordinates."""
        return self.image.naflex

    def at(self, image_size: tuple[int, int]) -> Config:
        """The same model for images of this height and width in pixels."""
        return dataclasses.replace(self, image=self.image.at(image_size))

    def as_published(self, published: Config) -> Config:
        """The model that a file holds, whose image tower sees images as that of the published row does."""
        known = isinstance(published, type(self))
        return dataclasses.replace(self, image=self.image.as_published(published.image)) if known else self

    def like(self, wanted: Config, *, resizes: bool = False) -> Config:
        """This model, whose sizes are compared with those of `wanted`, but for what is made to fit: with `resizes`, patches."""
        known = isinstance(wanted, type(self))
        return dataclasses.replace(self, image=self.image.like(wanted.image, resizes=resizes)) if known else self

    def with_side(self, side: int | None) -> Config:
        """The same model for square patches of `side` pixels; None: its own."""
        return dataclasses.replace(self, image=self.image.with_side(side))

    def fixed(self) -> Config:
        """The model for patches of its own size alone."""
        return dataclasses.replace(self, image=self.image.fixed())

    def check_image(self, height: int, width: int) -> None:
        """Raise UserError for images of another size than the positions are made for."""
        self.image.check_image(height, width)


@dataclasses.dataclass(frozen=True)
class Seen:
    """What is known of a model that a file holds, of which the configuration follows."""

    shapes: Shapes  # of its own parameters, under canonical names
    num_heads: int | None  # where it follows from the shapes
    facts: dict[str, Any]  # fields that files or the user state
    computes: dict[str, Any]  # fields as stated, or else as the spelling's own code computes
    children: dict[str, Config]

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None without a head."""
        return next((self.shapes[name][-1] for name in ("head/bias", "head/kernel") if name in self.shapes), None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models in one row; the hooks do nothing for most of them.

    `arrays` are those of a model without its children's.
    """

    config: type[Config]
    name: str  # for people
    parent: str | None = None  # the same of a model with children; None: `name`
    variants: dict[str, Config]  # {published name: for 1,000 classes and, where the size matters, 224 pixels}
    by_name: bool = True  # whether a variant's name is that of a model, or needs the training data beside it
    sizes: tuple[str, ...]  # fields that make a model another one: no values are made for these
    initial: dict[str, tuple]  # code base -> rows of (pattern of names, draw); the first is the default
    initial_within: tuple = ()  # rows for parameters of children, before the children's own
    spellings: dict[
        str, tuple[str, ...]
    ]  # kind of file -> published spellings; the first that holds a model is written
    infer: Callable[[Seen], Config]  # KeyError for a missing parameter, Undecided where a needed fact is unknown
    needs_record: Callable[[Config], bool] = lambda config: True  # whether names and shapes leave something open
    check_values: Callable[[Arrays, object], None] = lambda arrays, where: None  # UserError for what no training leaves
    adapt: Callable[[Arrays, Config, Config, Say], Arrays] = lambda arrays, config, wanted, say: arrays
    # For spellings that cannot hold all of a model: what they can (configuration, notes), and the arrays there and back.
    express_config: Callable[[Config, dict[str, tuple]], tuple[Config, list[str]]] = lambda config, holds: (config, [])
    express: Callable[[Arrays, Config, Config], Arrays] = lambda arrays, config, there: arrays
    restore: Callable[[Arrays, Config, Config], tuple[Arrays, Config]] = lambda arrays, there, config: (arrays, config)


def below(named: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose names start with `prefix/`, without it."""
    return {name.removeprefix(f"{prefix}/"): value for name, value in named.items() if name.startswith(f"{prefix}/")}


def within(prefix: str, named: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `below`."""
    return {f"{prefix}/{name}": value for name, value in named.items()}


def parted(arrays: Arrays, config: Config) -> tuple[Arrays, dict[str, Arrays]]:
    """(a model's own arrays, {child: its arrays without the child's name})."""
    parts = {name: below(arrays, name) for name in config.children}
    taken = {f"{name}/{rest}" for name, part in parts.items() for rest in part}
    return {name: array for name, array in arrays.items() if name not in taken}, parts


def norm(name: str, width: int) -> Shapes:
    """The two parameters of a normalisation."""
    return {f"{name}/scale": (width,), f"{name}/bias": (width,)}


def dense(name: str, *shape: int) -> Shapes:
    """Kernel of `shape`, [in, out] or HWIO, and bias of a layer."""
    return {f"{name}/kernel": shape, f"{name}/bias": shape[-1:]}


def check_image(expected: tuple[int, int], found: tuple[int, int]) -> None:
    """Raise UserError where images have another height and width than a model takes."""
    if tuple(found) != tuple(expected):
        expected, found = (" x ".join(map(str, size)) for size in (expected, found))
        raise UserError(f"The model takes {expected} pixels and the images have {found}; resize one or the other.")
