"""The only list of flags, the same for the three engines: typed, with defaults and units."""

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, get_args, get_type_hints

from common.errors import UserError, exit_with_sentence, nearest, reason
from common.images import MAX_PIXELS, RESIZE_KINDS, RESIZE_MODES
from common.models import DEFAULT_MODEL, TRAIN_ONLY
from common.recipes import COMPAT, SCHEDULES
from common.rules import AUGREG, RULES

ENGINE_PACKAGES = {  # what the extra of the same name installs
    "bit_pytorch": ("torch", "torchvision"),
    "bit_jax": ("jax", "jaxlib", "flax", "optax"),
    "bit_tf2": ("tensorflow", "keras"),
}
PRECISIONS = ("float32", "bfloat16", "float64")


def flag(default: Any, help: str, **options: Any) -> Any:
    """A field of a config with its help text; `choices` and `rule` (what an absent value means) may follow."""
    return field(default=default, metadata={"help": help, **options})


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What train, evaluate and predict have in common."""

    model: str = flag(DEFAULT_MODEL, "published name of the model")
    bit_pretrained_dir: str = flag("weights", "folder of downloaded weights")
    weights: str = flag(
        "pretrained",
        "a file (.npz, .h5, .safetensors) or folder, `pretrained`: the published one, or `none`: initial values",
    )
    precision: str = flag("float32", "type of the computation", choices=PRECISIONS)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the images come from."""

    dataset: str = flag(
        "cifar10-sample", "a name, tfds:NAME, vtab:TASK, or a folder PATH/{train,val|test}/<class>/*.jpg"
    )
    datadir: str = flag("data", "folder of prepared datasets")
    tfds_data_dir: str | None = flag(
        None, "folder of prepared TFDS datasets; gs:// and s3://, too", rule="~/tensorflow_datasets"
    )
    workers: int | None = flag(None, "threads that decode images", rule="one per CPU core")


@dataclasses.dataclass(frozen=True)
class TrainConfig(ModelConfig, DataConfig):
    """Flags of `python -m bit_*.train`, whose help tells their units; None means what `rule` says.

    In Python: `main(Run(TrainConfig(...), engine="bit_jax"))` with `main` of `bit_jax.loop`.
    """

    name: str | None = flag(None, "name of the run's folder", rule="dataset_model_time")
    logdir: str = flag("runs", "folder of runs; gs:// and s3://, too")
    recipe: str = flag("bit_finetune", "set of hyper-parameters", choices=tuple(RULES))
    compat: str | None = flag(
        None,
        "what the original code did otherwise: bit2021 mirrors all training images and resizes without antialiasing",
        rule="off",
        choices=tuple(COMPAT),
    )
    train_only: str = flag(
        "all", "all parameters, the head, or norms (scales and biases) and head; the rest is frozen", choices=TRAIN_ONLY
    )
    val_fraction: float = flag(0.0, "part of the training images to validate on, in [0, 1)")
    examples_per_class: int | None = flag(None, "training images per class", rule="all")
    examples_per_class_seed: int = flag(0, "seed of their choice")
    batch: int | None = flag(None, "images per training step", rule="the recipe's")
    batch_eval: int | None = flag(None, "images per evaluation step", rule="as --batch")
    batch_split: int = flag(1, "micro-batches per training step")
    base_lr: float | None = flag(None, "learning rate after warm-up", rule="the recipe's")
    steps: int | None = flag(None, "training steps", rule="the recipe's")
    warmup_steps: int | None = flag(None, "steps of linear warm-up", rule="the recipe's")
    schedule: str | None = flag(None, "decay of the learning rate", rule="the recipe's", choices=tuple(SCHEDULES))
    cooldown_steps: int | None = flag(None, "steps in which --schedule rsqrt falls to zero at the end", rule="0")
    mixup: float | None = flag(None, "alpha of mixup's Beta distribution; 0 turns it off", rule="the recipe's")
    augmentation: str | None = flag(
        None, "level of mixup and RandAugment in the recipe augreg", rule="the recipe's", choices=tuple(AUGREG)
    )
    dropout: float | None = flag(None, "part of the activations that dropout zeroes, in [0, 1)", rule="the recipe's")
    stochastic_depth: float | None = flag(
        None, "part of the examples that skip a branch of the last block, in [0, 1)", rule="the recipe's"
    )
    label_smoothing: float | None = flag(
        None, "part of a label that is spread over the others, in [0, 1)", rule="the recipe's"
    )
    weight_decay: float | None = flag(None, "weight decay, by the recipe's convention", rule="the recipe's")
    clip: float | None = flag(None, "longest global norm of the gradients; 0: any", rule="the recipe's")
    ema: float | None = flag(
        None, "decay of the moving average that is evaluated and saved, in [0, 1); 0: none", rule="the recipe's"
    )
    resize: int | None = flag(None, "side in pixels to which training images are resized", rule="the recipe's")
    resize_mode: str | None = flag(
        None,
        "to a square, or only the smaller side to --resize, or `whole`: all of the image to --crop",
        rule="the recipe's",
        choices=RESIZE_MODES,
    )
    flip: float | None = flag(None, "part of the training images that are mirrored, in [0, 1]", rule="the recipe's")
    resize_kind: str | None = flag(None, "how training images are resized", rule="the recipe's", choices=RESIZE_KINDS)
    crop: int | None = flag(None, "side in pixels of what the model sees", rule="the recipe's")
    crop_min_area: float | None = flag(
        None, "least part of the image in a random box; 1: no box but --resize and --crop", rule="the recipe's"
    )
    eval_resize: int | None = flag(
        None, "pixels of the smaller side before evaluation's central crop; 0: squash to the crop", rule="the recipe's"
    )
    eval_resize_kind: str | None = flag(
        None, "how evaluation resizes images", rule="the recipe's, or as --resize_kind", choices=RESIZE_KINDS
    )
    randaugment_layers: int | None = flag(
        None, "operations of RandAugment on every training image; 0 turns it off", rule="the recipe's"
    )
    randaugment_magnitude: float | None = flag(None, "strength of RandAugment, 0 to 20", rule="the recipe's")
    eval_every: str | None = flag(
        None,
        "steps between evaluations on val, or of several splits: val:500,v2:2000,real:2000; 0: only at the end",
        rule="a tenth of the run",
    )
    checkpoint_every: int | None = flag(
        None, "steps between checkpoints; 0: only at the end", rule="a tenth of the run, at most 1000"
    )
    log_every: int = flag(10, "steps between lines of metrics")
    seed: int = flag(0, "seed of data order, crops, flips, mixup and initial values")
    remat: bool = flag(False, "compute activations again in the backward pass: less memory, more time")
    shard_parameters: bool = flag(False, "spread parameters and optimizer over the devices: less memory on each")
    keep_best: bool = flag(False, "write the weights of the best val/top1 instead of the last ones")
    tensorboard: bool = flag(False, "write scalars and first images for TensorBoard, too (extra `tensorboard`)")


@dataclasses.dataclass(frozen=True)
class VtabConfig(TrainConfig):
    """Flags of `python -m common.vtab`: those of train, for every task."""

    engine: str = flag("bit_pytorch", "engine that trains", choices=tuple(ENGINE_PACKAGES))
    tasks: str | None = flag(None, "some of the 19 tasks, with commas between", rule="all")


OF_A_MACHINE = {"logdir", "bit_pretrained_dir", "datadir", "tfds_data_dir", "workers"}  # flags of train
FREE = OF_A_MACHINE | {  # flags of train that may change when a run goes on, or between runs that are compared
    "name",
    "log_every",
    "eval_every",
    "checkpoint_every",
    "remat",
    "shard_parameters",
    "tensorboard",
}


@dataclasses.dataclass(frozen=True)
class ViewConfig:
    """How evaluate and predict prepare images."""

    batch_eval: int = flag(64, "images per step")
    resolution: int | None = flag(
        None,
        "side in pixels of what the model sees",
        rule="the weights' card, the model's own, or the dataset's by the BiT-HyperRule",
    )
    eval_resize: int | None = flag(
        None,
        "pixels of the smaller side before the central crop; 0: squash to the resolution",
        rule="the weights' card",
    )
    eval_resize_kind: str | None = flag(None, "how images are resized", rule="the weights' card", choices=RESIZE_KINDS)


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(ViewConfig, ModelConfig, DataConfig):
    """Flags of `python -m bit_*.evaluate`."""

    split: str | None = flag(
        None, "split to evaluate, or several: val,v2,real", rule="test, or val where there is no test"
    )
    output: str | None = flag(
        None, "a folder for SPLIT.npz: features [N, D], logits [N, K], labels of its images", rule="none"
    )


@dataclasses.dataclass(frozen=True)
class PredictConfig(ViewConfig, ModelConfig):
    """Flags of `python -m bit_*.predict`."""

    images: tuple[str, ...] = field(default=(), metadata={"help": "image files or folders", "positional": True})
    top: int = flag(5, "classes to print per image")
    output: str | None = flag(None, "an .npz file for logits [N, K], features [N, D] and files", rule="none")
    workers: int | None = flag(None, "threads that decode images", rule="one per CPU core")


def arguments(config: Any) -> list[str]:
    """The flags of a config that differ from their defaults, as on a command line."""
    given = [
        (f"--{f.name}", getattr(config, f.name))
        for f in dataclasses.fields(config)
        if getattr(config, f.name) != f.default
    ]
    return [word for name, value in given for word in ([name] if value is True else [name, str(value)])]


def changes(before: dict[str, Any], config: Any) -> list[tuple[str, Any, Any]]:
    """(flag, value before, value now) of the flags that may not change when a run goes on, and do."""
    values = [(f.name, before.get(f.name, f.default), getattr(config, f.name)) for f in dataclasses.fields(config)]
    return [(name, old, new) for name, old, new in values if name not in FREE and old != new]


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one sentence, with the nearest flag, and exit status 2."""

    def error(self, message: str):
        """Raise UserError with what argparse says."""
        raise UserError(f"{message[:1].upper()}{message[1:]}; see --help.")


def parse(config_class: type, argv: Sequence[str], prog: str, description: str) -> Any:
    """The config that the command line describes. Raises UserError for an unknown flag or a bad value."""
    parser = Parser(prog=prog, description=description, allow_abbrev=False)
    types = get_type_hints(config_class)
    for item in dataclasses.fields(config_class):
        add_argument(parser, item, types[item.name])
    values, unknown = parser.parse_known_args(argv)
    if unknown:
        flags = [f"--{item.name}" for item in dataclasses.fields(config_class)]
        raise UserError(f"{prog} knows no {unknown[0]!r}{nearest(unknown[0], flags)} --help lists the flags.")
    config = config_class(**vars(values))
    check(config)
    return config


def add_argument(parser: argparse.ArgumentParser, item: dataclasses.Field, hint: Any) -> None:
    """One flag of the parser, from one field of a config."""
    text, choices = item.metadata["help"], item.metadata.get("choices")
    if item.metadata.get("positional"):
        parser.add_argument(item.name, nargs="+", metavar="IMAGE|FOLDER", help=text)
    elif hint is bool:
        parser.add_argument(f"--{item.name}", action="store_true", help=f"{text} (default: off)")
    else:
        kind = next((t for t in get_args(hint) if t is not type(None)), hint)
        default = item.metadata.get("rule", item.default)
        metavar = None if choices else kind.__name__.upper()
        text = f"{text} (default: {default})".replace("%", "%%")
        parser.add_argument(
            f"--{item.name}", type=kind, default=item.default, choices=choices, metavar=metavar, help=text
        )


POSITIVE = (
    "batch",
    "batch_eval",
    "batch_split",
    "steps",
    "resize",
    "crop",
    "log_every",
    "workers",
    "examples_per_class",
    "resolution",
    "top",
)
FRACTIONS = ("val_fraction", "dropout", "stochastic_depth", "label_smoothing", "ema")
NOT_NEGATIVE = (
    "base_lr",
    "warmup_steps",
    "cooldown_steps",
    "mixup",
    "weight_decay",
    "clip",
    "checkpoint_every",
    "seed",
    "examples_per_class_seed",
    "eval_resize",
    "flip",
    "randaugment_layers",
    "randaugment_magnitude",
    *FRACTIONS,
)
SIDES = ("resize", "crop", "eval_resize", "resolution")
LONGEST_SIDE = math.isqrt(MAX_PIXELS)  # a view has no more pixels than an image file may declare


def check(config: Any) -> None:
    """Raise UserError for a number outside its range, and for a name of a folder that is none."""
    for names, low, words in ((POSITIVE, 1, "at least 1"), (NOT_NEGATIVE, 0, "at least 0")):
        for name in names:
            value = getattr(config, name, None)
            if value is not None and not low <= value < float("inf"):  # refuses nan, too
                raise UserError(f"--{name} is {value}, expected {words}; correct the flag.")
    for name in SIDES:
        if (value := getattr(config, name, None)) is not None and value > LONGEST_SIDE:
            raise UserError(f"--{name} is {value}, expected at most {LONGEST_SIDE}; correct the flag.")
    for name in FRACTIONS:
        if (value := getattr(config, name, None)) is not None and value >= 1:
            raise UserError(f"--{name} is {value}, expected less than 1; correct the flag.")
    if getattr(config, "eval_every", None) is not None:
        periods(config.eval_every)
    if getattr(config, "name", None):
        check_name(config.name)


def check_name(name: str) -> None:
    """Raise UserError for a --name that leads out of the --logdir, or that nobody can read."""
    path = Path(name)
    if not path.parts or ".." in path.parts or path.is_absolute() or not name.isprintable():
        raise UserError(f"The --name {name!a} is no folder below --logdir; give a name such as cifar10_r50.")


def periods(eval_every: str) -> dict[str, int]:
    """{split: steps between its evaluations} of `500`, which speaks of val, or `val:500,v2:2000`. Raises UserError."""
    found = {}
    for part in str(eval_every).split(","):
        split, colon, steps = part.rpartition(":")
        if not (steps.isascii() and steps.isdecimal()) or colon and not split or (split or "val") in found:
            raise UserError(
                f"--eval_every is {eval_every}, expected a number of steps, or SPLIT:STEPS,SPLIT:STEPS; correct the flag."
            )
        found[split or "val"] = int(steps)
    return found


def run_command(
    engine: str, command: str, config_class: type, description: str, prepare: Callable, load_main: Callable
) -> None:
    """Parse the flags, `prepare(config)` the job, which checks its files, and only then import the engine and run it.

    A UserError ends with exit status 2.
    """
    with exit_with_sentence():
        try:
            config = parse(config_class, sys.argv[1:], f"python -m {engine}.{command}", description)
            job = prepare(config)
            load_main()(job)
        except ModuleNotFoundError as error:
            if error.name.partition(".")[0] not in ENGINE_PACKAGES[engine]:
                raise
            extra = engine.removeprefix("bit_")
            raise UserError(
                f"{error.name} is not installed; install the engine with `pip install '.[{extra}]'`."
            ) from error
        except MemoryError as error:
            raise UserError(
                f"Memory does not suffice ({reason(error).rstrip('.')}); give fewer images a step, or smaller ones."
            ) from error
