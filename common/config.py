"""The only list of flags, the same for the three engines: typed, with defaults and units."""

import argparse
import dataclasses
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, get_args, get_type_hints

from common.data.images import EXIF, MAX_PIXELS, ON_BROKEN_IMAGE, RESIZE_KINDS, RESIZE_MODES
from common.data.randaugment import STRONGEST
from common.models import DEFAULT_MODEL, TRAIN_ONLY
from common.recipes.recipe import COMPAT, SCHEDULES
from common.recipes.rules import AUGREG, RULES
from common.system.environment import ENGINE_PACKAGES
from common.system.errors import UserError, exit_with_sentence, is_out_of_memory, nearest, of_memory

PRECISIONS = ("float32", "bfloat16", "float64")


LONGEST_SIDE = math.isqrt(MAX_PIXELS)  # a view has no more pixels than an image file may declare
MOST_SEED = 2**63 - 1
TINY = 1e-30  # what is smaller and not zero would become zero in float32


def flag(default: Any, help: str, **options: Any) -> Any:
    """A field of a config with its help text.

    Of the `options`, `rule` tells what an absent value means, `choices` or `least`, `most` and `below` which values there
    are, and `aliases` other names of the flag.
    """
    return field(default=default, metadata={"help": help, **options})


BROKEN_IMAGES = "stop", "what an image that cannot be decoded does: end the run, or be left out as if it were not there"


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The model, and where its weights come from."""

    model: str = flag(DEFAULT_MODEL, "published name of the model; `list` shows them")
    bit_pretrained_dir: str = flag("weights", "folder of downloaded weights")
    weights: str = flag(
        "pretrained",
        "a file (.npz, .h5, .safetensors), the folder of a run or another, `pretrained`: the published one, or `none`",
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
    workers: int | None = flag(None, "threads that decode images", rule="one per CPU core", least=1, most=1024)
    on_broken_image: str = flag(*BROKEN_IMAGES, choices=ON_BROKEN_IMAGE)


@dataclasses.dataclass(frozen=True)
class RecipeConfig:
    """What a run computes; what is given replaces the recipe's own."""

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
    val_fraction: float = flag(0.0, "part of the training images to validate on, in [0, 1)", least=0, below=1)
    examples_per_class: int | None = flag(None, "training images per class", rule="all", least=1)
    examples_per_class_seed: int = flag(0, "seed of their choice", least=0, most=MOST_SEED)
    exif: str = flag("ignore", "whether photographs are turned as their EXIF says", choices=EXIF)
    batch: int | None = flag(None, "images per training step", rule="the recipe's", least=1)
    steps: int | None = flag(None, "training steps", rule="the recipe's", least=1)
    epochs: float | None = flag(
        None, "passes over the training images, in place of --steps", rule="the recipe's steps", least=TINY, most=1e6
    )
    base_lr: float | None = flag(
        None, "learning rate after warm-up", rule="the recipe's", aliases=("--lr",), least=0, most=1e6
    )
    warmup_steps: int | None = flag(None, "steps of linear warm-up", rule="the recipe's", least=0)
    schedule: str | None = flag(None, "decay of the learning rate", rule="the recipe's", choices=tuple(SCHEDULES))
    cooldown_steps: int | None = flag(
        None, "steps in which --schedule rsqrt falls to zero at the end", rule="0", least=0
    )
    mixup: float | None = flag(
        None, "alpha of mixup's Beta distribution; 0 turns it off", rule="the recipe's", least=0, most=1000
    )
    augmentation: str | None = flag(
        None, "level of mixup and RandAugment in the recipe augreg", rule="the recipe's", choices=tuple(AUGREG)
    )
    dropout: float | None = flag(
        None, "part of the activations that dropout zeroes, in [0, 1)", rule="the recipe's", least=0, below=1
    )
    stochastic_depth: float | None = flag(
        None,
        "part of the examples that skip a branch of the last block, in [0, 1)",
        rule="the recipe's",
        least=0,
        below=1,
    )
    label_smoothing: float | None = flag(
        None, "part of a label that is spread over the others, in [0, 1)", rule="the recipe's", least=0, below=1
    )
    weight_decay: float | None = flag(
        None, "weight decay, by the recipe's convention", rule="the recipe's", least=0, most=1e6
    )
    clip: float | None = flag(
        None, "longest global norm of the gradients; 0: any", rule="the recipe's", least=0, most=1e30
    )
    ema: float | None = flag(
        None,
        "decay of the moving average that is evaluated and saved, in [0, 1); 0: none",
        rule="the recipe's",
        least=0,
        below=1,
    )
    resize: int | None = flag(
        None, "side in pixels to which training images are resized", rule="the recipe's", least=1, most=LONGEST_SIDE
    )
    resize_mode: str | None = flag(
        None,
        "to a square, or only the smaller side to --resize, or `whole`: all of the image to --crop",
        rule="the recipe's",
        choices=RESIZE_MODES,
    )
    flip: float | None = flag(
        None, "part of the training images that are mirrored, in [0, 1]", rule="the recipe's", least=0, most=1
    )
    resize_kind: str | None = flag(None, "how training images are resized", rule="the recipe's", choices=RESIZE_KINDS)
    crop: int | None = flag(
        None, "side in pixels of what the model sees", rule="the recipe's", least=1, most=LONGEST_SIDE
    )
    crop_min_area: float | None = flag(
        None,
        "least part of the image in a random box; 1: no box but --resize and --crop",
        rule="the recipe's",
        least=1e-4,
        most=1,
    )
    eval_resize: int | None = flag(
        None,
        "pixels of the smaller side before evaluation's central crop; 0: squash to the crop",
        rule="the recipe's",
        least=0,
        most=LONGEST_SIDE,
    )
    eval_resize_kind: str | None = flag(
        None, "how evaluation resizes images", rule="the recipe's, or as --resize_kind", choices=RESIZE_KINDS
    )
    randaugment_layers: int | None = flag(
        None, "operations of RandAugment on every training image; 0 turns it off", rule="the recipe's", least=0, most=16
    )
    randaugment_magnitude: float | None = flag(
        None, "strength of RandAugment, 0 to 20", rule="the recipe's", least=0, most=STRONGEST
    )
    seed: int = flag(0, "seed of data order, crops, flips, mixup and initial values", least=0, most=MOST_SEED)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What a run is called, and what it writes when."""

    name: str | None = flag(None, "name of the run's folder", rule="dataset_model_time")
    logdir: str = flag("runs", "folder of runs; gs:// and s3://, too")
    extend_from: str | None = flag(
        None, "folder of a finished run to go on from, with its flags, to more --steps in a new folder", rule="none"
    )
    eval_every: str | None = flag(
        None,
        "steps between evaluations on val, or of several splits: val:500,v2:2000,real:2000; 0: only at the end",
        rule="a tenth of the run",
    )
    checkpoint_every: int | None = flag(
        None, "steps between checkpoints; 0: only at the end", rule="a tenth of the run, at most 1000", least=0
    )
    log_every: int = flag(10, "steps between lines of metrics", least=1)
    keep_best: bool = flag(False, "write the weights of the best val/top1 instead of the last ones")
    tensorboard: bool = flag(False, "write scalars and first images for TensorBoard, too (extra `tensorboard`)")


@dataclasses.dataclass(frozen=True)
class MachineConfig:
    """How it fits on the machine: rounding and time depend on it, and nothing else."""

    batch_eval: int | None = flag(None, "images per evaluation step", rule="as --batch", least=1)
    batch_split: int = flag(1, "micro-batches per training step", least=1)
    remat: bool = flag(False, "compute activations again in the backward pass: less memory, more time")
    shard_parameters: bool = flag(False, "spread parameters and optimizer over the devices: less memory on each")


@dataclasses.dataclass(frozen=True)
class TrainConfig(MachineConfig, RunConfig, RecipeConfig, ModelConfig, DataConfig):
    """Flags of `python -m bit_*.train`, whose help tells their units; None means what `rule` says.

    In Python: `main(Run(TrainConfig(...), engine="bit_jax"))` with `main` of `bit_jax.loop`.
    """


@dataclasses.dataclass(frozen=True)
class VtabConfig(TrainConfig):
    """Flags of `python -m common.vtab`: those of train, for every task."""

    engine: str = flag("bit_pytorch", "engine that trains", choices=tuple(ENGINE_PACKAGES))
    tasks: str | None = flag(None, "some of the 19 tasks, with commas between", rule="all")


MEMORY_FLAGS = (
    "--batch_split 8, --remat or --precision bfloat16, a smaller --crop or --batch, or a smaller --batch_eval where it "
    "was evaluating"
)
OF_A_MACHINE = {"logdir", "bit_pretrained_dir", "datadir", "tfds_data_dir", "workers"}  # flags of train
FREE = OF_A_MACHINE | {  # flags of train that may change when a run goes on, or between runs that are compared
    "batch_eval",
    "batch_split",
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
    """How images are prepared."""

    batch_eval: int = flag(64, "images per step", least=1)
    resolution: int | None = flag(
        None,
        "side in pixels of what the model sees",
        rule="the weights' card, the model's own, or the dataset's by the BiT-HyperRule",
        least=1,
        most=LONGEST_SIDE,
    )
    eval_resize: int | None = flag(
        None,
        "pixels of the smaller side before the central crop; 0: squash to the resolution",
        rule="the weights' card",
        least=0,
        most=LONGEST_SIDE,
    )
    eval_resize_kind: str | None = flag(None, "how images are resized", rule="the weights' card", choices=RESIZE_KINDS)
    exif: str | None = flag(
        None, "whether photographs are turned as their EXIF says", rule="the weights' card, or ignore", choices=EXIF
    )


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
    top: int = flag(5, "classes to print per image", least=1)
    output: str | None = flag(None, "an .npz file for logits [N, K], features [N, D] and files", rule="none")
    workers: int | None = flag(None, "threads that decode images", rule="one per CPU core", least=1, most=1024)
    on_broken_image: str = flag(*BROKEN_IMAGES, choices=ON_BROKEN_IMAGE)


@dataclasses.dataclass(frozen=True)
class ExportConfig(ModelConfig):
    """Flags of `python -m bit_*.export`."""

    to: str | None = flag(
        None,
        "what to write: onnx, torch_export (bit_pytorch); stablehlo (bit_jax); saved_model, litert (bit_tf2)",
        rule="none: say it",
        choices=("onnx", "torch_export", "stablehlo", "saved_model", "litert"),
    )
    output: str | None = flag(None, "file to write, or the folder of a saved_model", rule="none: say it")
    preprocess: bool = flag(False, "take uint8 images [B, H, W, 3] and scale them within the graph")
    resolution: int | None = flag(
        None, "side in pixels of the images", rule="the model's own, or the weights' card", least=1, most=LONGEST_SIDE
    )
    overwrite: bool = flag(False, "replace a file that exists")


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
    """An ArgumentParser whose errors are one sentence, with the nearest flag, and exit status 2.

    Its help begins with words, and `~` means the user's folder wherever it begins a path, which shells leave alone
    in `--logdir=~/runs`.
    """

    def error(self, message: str):
        """Raise UserError with what argparse says."""
        raise UserError(f"{message[:1].upper()}{message[1:]}; see --help.")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """What argparse makes of the words, once `~` is spelt out."""
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([with_home(word) for word in words], namespace)

    def format_help(self) -> str:
        """The description first."""
        formatter = self._get_formatter()
        formatter.add_text(self.description)
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        for group in self._action_groups:
            formatter.start_section(group.title)
            formatter.add_text(group.description)
            formatter.add_arguments(group._group_actions)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()


def with_home(word: str) -> str:
    """A word of a command line with the user's folder in place of `~`."""
    flag, value = re.fullmatch(r"(--\w+=)?(.*)", word, re.DOTALL).groups("")
    return flag + (os.path.expanduser(value) if value.startswith("~") else value)


def parse(config_class: type, argv: Sequence[str], prog: str, description: str) -> Any:
    """The config that the command line describes. Raises UserError for an unknown flag or a bad value."""
    usage = f"{prog} {'IMAGE|FOLDER ... ' if hasattr(config_class, 'images') else ''}[--FLAG VALUE ...]"
    parser = Parser(prog=prog, description=description, usage=usage, allow_abbrev=False)
    add_arguments(parser, config_class)
    values, unknown = parser.parse_known_args(argv)
    if unknown:
        flags = [f"--{item.name}" for item in dataclasses.fields(config_class)]
        raise UserError(f"{prog} knows no {unknown[0]!r}{nearest(unknown[0], flags)} --help lists the flags.")
    given = vars(values)
    if "extend_from" in given:
        from common.runs.extend import taken_over  # which reads files, and so takes longer to import

        given = taken_over(given["extend_from"], given)
    if "weights" in given and "model" not in given and issubclass(config_class, ModelConfig):
        from common.weights.source import stated_model

        given |= stated_model(given["weights"])
    config = config_class(**given)
    check(config)
    return config


def add_arguments(parser: argparse.ArgumentParser, config_class: type) -> None:
    """The flags of a config, in one group for each class that it is made of; only those that are given get a value."""
    types = get_type_hints(config_class)
    groups = {
        cls: parser.add_argument_group(cls.__doc__.partition(".")[0]) for cls in reversed(config_class.__mro__[:-1])
    }
    for item in dataclasses.fields(config_class):
        home = next(cls for cls in config_class.__mro__ if item.name in vars(cls).get("__annotations__", ()))
        add_argument(groups[home], item, types[item.name])


def add_argument(group: Any, item: dataclasses.Field, hint: Any) -> None:
    """One flag of the parser, from one field of a config."""
    text, choices = item.metadata["help"], item.metadata.get("choices")
    names = (f"--{item.name}", *item.metadata.get("aliases", ()))
    if item.metadata.get("positional"):
        group.add_argument(item.name, nargs="+", metavar="IMAGE|FOLDER", help=text)
    elif hint is bool:
        group.add_argument(*names, action="store_true", default=argparse.SUPPRESS, help=f"{text} (default: off)")
    else:
        kind = next((t for t in get_args(hint) if t is not type(None)), hint)
        default = item.metadata.get("rule", item.default)
        text = text if default is None else f"{text} (default: {default})"
        group.add_argument(
            *names, dest=item.name, type=kind, default=argparse.SUPPRESS, choices=choices,
            metavar=None if choices else kind.__name__.upper(), help=text.replace("%", "%%"),
        )  # fmt: skip


def check(config: Any) -> None:
    """Raise UserError for a number outside its range, flags that say the same twice, and a name of a folder that is none."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            check_range(f"--{item.name}", value, **{k: v for k, v in item.metadata.items() if k in RANGE})
    steps, epochs = getattr(config, "steps", None), getattr(config, "epochs", None)
    if steps is not None and epochs is not None:
        raise UserError(f"--steps {steps} and --epochs {epochs:g} both say how long the run is; give one of them.")
    if getattr(config, "eval_every", None) is not None:
        periods(config.eval_every)
    if getattr(config, "name", None):
        check_name(config.name)


RANGE = ("least", "most", "below")


def check_range(name: str, value: float, least: float = 0, most: float = math.inf, below: float = math.inf) -> None:
    """Raise UserError for a number that is not in [least, most] or not below `below`, or that float32 takes for 0."""
    expected = None
    if not value >= least:  # nan, too
        expected = f"at least {least:g}"
    elif value > most:
        expected = f"at most {most:,}" if most > 1e6 else f"at most {most:g}"
    elif value >= below:
        expected = f"less than {below:g}" if below < math.inf else "a finite number"
    elif 0 < value < TINY:
        expected = f"{'0 or ' if least == 0 else ''}at least {TINY:g}, since float32 knows no smaller number"
    if expected:
        raise UserError(f"{name} is {value}, expected {expected}; correct the flag.")


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
            if config.model == "list":
                from common.models.__main__ import listed

                return print(listed([], Path(config.bit_pretrained_dir)))
            job = prepare(config)
            load_main()(job)
        except ModuleNotFoundError as error:
            if error.name.partition(".")[0] not in ENGINE_PACKAGES[engine]:
                raise
            extra = engine.removeprefix("bit_")
            raise UserError(
                f"{error.name} is not installed; install the engine with `pip install '.[{extra}]'`."
            ) from error
        except Exception as error:
            if isinstance(error, UserError) or not is_out_of_memory(error):
                raise
            raise of_memory(error, MEMORY_FLAGS if config_class is TrainConfig else "a smaller --batch_eval") from error
