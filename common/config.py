"""The flags of the commands, the same for the three engines: declarations only (common/flags.py reads them)."""

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any, Literal

from common.flags import MOST_SEED, TINY, flag
from common.models import DEFAULT_MODEL, DOWNLOADS
from common.recipes.big_vision import AUGREG
from common.recipes.bit import COMPAT
from common.recipes.choices import (
    LONGEST_SIDE,
    STRONGEST,
    CodeDropout,
    Distance,
    Exif,
    Features,
    Map,
    OnBrokenImage,
    Optimizer,
    Precision,
    ResizeKind,
    ResizeMode,
    RewardName,
    TeacherView,
    TrainOnly,
)  # fmt: skip
from common.recipes.distill import VARIANTS
from common.recipes.per_step import lengths, sides
from common.recipes.rules import RULES
from common.recipes.schedules import SCHEDULES
from common.system.environment import ENGINE_PACKAGES
from common.system.errors import UserError

EvaluatorName = Literal["classification", "zero_shot", "retrieval", "likelihood", "scoring", "captions", "maps"]
Format = Literal["onnx", "torch_export", "stablehlo", "saved_model", "litert"]


def replacing(help: str, rule: str = "the recipe's", **options) -> Any:
    """A flag that takes the place of a recipe's own number or choice, which an absent one leaves as it is."""
    return flag(None, help, rule=rule, replaces=True, **options)


def check_name(name: str) -> None:
    """Raise UserError for a --name that leads out of the --logdir, or that nobody can read."""
    path = Path(str(name))
    if (
        not path.parts
        or ".." in path.parts
        or path.is_absolute()
        or not isinstance(name, str)
        or not name.isprintable()
    ):
        raise UserError(f"The --name {name!a} is no folder below --logdir; give a name such as cifar10_r50.")


def check_pattern(flag: str, pattern: str) -> None:
    """Raise UserError where the value of --`flag` is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f"--{flag} is {pattern!r}, expected a regular expression ({error}); correct it.") from error


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


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The model and the source of its weights."""

    model: str = flag(DEFAULT_MODEL, "published name of the model; `list` shows them")
    bit_pretrained_dir: str = flag(DOWNLOADS, "folder of downloaded weights", scope="machine")
    weights: str = flag(
        "pretrained",
        "a file (.npz, .h5, .safetensors), a folder such as a run's, `pretrained` (the published file), or `none`",
    )
    patch_size: int | None = flag(
        None,
        "side in pixels of a ViT's patches; its weights are resized for them",
        rule="the weights' own",
        least=1,
        most=LONGEST_SIDE,
    )
    precision: Precision = flag("float32", "type of the computation")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The source of the images."""

    dataset: str = flag(
        "cifar10-sample",
        "a name, tfds:NAME, vtab:TASK, wds: or parquet:PATTERN, or a folder PATH/{train,val|test}/<class>/*.jpg",
    )
    datadir: str = flag("data", "folder of prepared datasets", scope="machine")
    tfds_data_dir: str | None = flag(
        None, "folder of prepared TFDS datasets; gs:// and s3://, too", rule="~/tensorflow_datasets", scope="machine"
    )


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
    """How images are decoded."""

    workers: int | None = flag(
        None, "threads, or in a long run processes, that decode images", rule="one per CPU core", scope="machine", least=1,
        most=1024,
    )  # fmt: skip
    on_broken_image: OnBrokenImage = flag(
        "stop", "effect of an image that cannot be decoded: end the run, or leave the image out"
    )


@dataclasses.dataclass(frozen=True)
class RecipeConfig:
    """The recipe, the trained parameters, and the images to train on."""

    recipe: str = flag("bit_finetune", "set of hyper-parameters", choices=tuple(RULES))
    compat: str | None = flag(
        None,
        "bit2021: mirror all training images and resize without antialiasing, as the original code",
        rule="off",
        choices=tuple(COMPAT),
        recipes=("bit_finetune",),
    )
    train_only: TrainOnly = flag("all", "parameters to train: all, the head, or norms (scales and biases) and head")
    val_fraction: float = flag(0.0, "part of the training images to validate on, in [0, 1)", least=0, below=1)
    examples_per_class: int | None = flag(None, "training images per class", rule="all", least=1)
    examples_per_class_seed: int = flag(0, "seed of their choice", least=0, most=MOST_SEED)
    exif: Exif = flag("ignore", "turn photographs by their EXIF orientation, or ignore it")
    seed: int = flag(0, "seed of data order, crops, flips, mixup and initial values", least=0, most=MOST_SEED)


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """The length of a run, and its learning rates."""

    batch: int | None = replacing("images per training step", least=1)
    steps: int | None = replacing("training steps", least=1)
    epochs: float | None = flag(
        None,
        "passes over the training images, in place of --steps",
        rule="the recipe's steps",
        least=TINY,
        most=1e6,
        excludes=("steps", "how long the run is"),
    )
    base_lr: float | None = replacing("learning rate after warm-up", aliases=("--lr",), least=0, most=1e6)
    warmup_steps: int | None = replacing("steps of linear warm-up", least=0)
    schedule: str | None = replacing("decay of the learning rate", choices=tuple(SCHEDULES))
    cooldown_steps: int | None = replacing(
        "steps in which --schedule rsqrt falls to zero at the end", rule="0", least=0
    )


@dataclasses.dataclass(frozen=True)
class ViewsConfig:
    """Resizing, crops and augmentation of images."""

    resize: int | None = replacing("side in pixels to which training images are resized", least=1, most=LONGEST_SIDE)
    resize_mode: ResizeMode | None = replacing(
        "to a square, or only the smaller side to --resize, or `whole`: all of the image to --crop"
    )
    resize_kind: ResizeKind | None = replacing("how training images are resized")
    crop: int | None = replacing("side in pixels of what the model sees", least=1, most=LONGEST_SIDE)
    crop_min_area: float | None = replacing(
        "least part of the image in a random box; 1: no box but --resize and --crop", least=1e-4, most=1
    )
    flip: float | None = replacing("part of the training images that are mirrored, in [0, 1]", least=0, most=1)
    mixup: float | None = replacing("alpha of mixup's Beta distribution; 0 turns it off", least=0, most=1000)
    augmentation: str | None = replacing(
        "level of mixup and RandAugment in the recipe augreg", choices=tuple(AUGREG), recipes=("augreg",)
    )
    randaugment_layers: int | None = replacing(
        "operations of RandAugment on every training image; 0 turns it off", least=0, most=16
    )
    randaugment_magnitude: float | None = replacing("strength of RandAugment, 0 to 20", least=0, most=STRONGEST)
    eval_resize: int | None = replacing(
        "pixels of the smaller side before evaluation's central crop; 0: squash to the crop", least=0, most=LONGEST_SIDE
    )
    eval_resize_kind: ResizeKind | None = replacing(
        "how evaluation resizes images", rule="the recipe's, or as --resize_kind"
    )
    tokens: int | None = flag(
        None,
        "most patches of an image: it keeps its aspect ratio, and any ViT becomes a NaFlex",
        rule="images of one size, or the largest of --token_lengths",
        least=1,
        most=LONGEST_SIDE,
        tasks=("classification", "contrastive"),
    )
    token_lengths: str | None = replacing(
        "the same for training alone, of which each step draws one: 64,144,256, or with weights 64:1,256:2",
        rule="--tokens",
        check=lengths,
        tasks=("classification", "contrastive"),
    )


@dataclasses.dataclass(frozen=True)
class TeachersConfig:
    """What a student learns from its teachers."""

    teacher: str | None = replacing(
        "published name of a teacher, its file, or the folder of a run; may be given again",
        repeats=True,
        tasks=("distillation",),
    )
    distance: Distance | None = replacing("what is compared of student and teacher", tasks=("distillation",))
    temperature: float | None = replacing(
        "what --distance kl divides logits by", least=TINY, most=1e6, tasks=("distillation",)
    )
    teacher_view: TeacherView | None = replacing(
        "what a teacher sees: the student's view, its own one, or a fixed one", tasks=("distillation",)
    )
    variant: str | None = replacing(
        "how patient it is",
        rule="medium",
        choices=VARIANTS,
        recipes=("distill_flowers", "distill_pets", "distill_food", "distill_sun"),
    )


@dataclasses.dataclass(frozen=True)
class TextsConfig:
    """How images and texts are compared, and where their towers come from."""

    chunk: int | None = replacing(
        "texts whose similarities are in memory at once; 0: those of the whole batch", least=0, tasks=("contrastive",)
    )
    first_temperature: float | None = replacing(
        "exp(t) of a new model, which products of embeddings are multiplied by",
        least=TINY,
        most=1e6,
        tasks=("contrastive",),
    )
    first_bias: float | None = replacing(
        "b of a new model, which is added to them", least=-1e6, most=1e6, tasks=("contrastive",)
    )
    third_tower: str | None = replacing(
        "published name, file or folder of a run of a frozen third tower, to which both others are drawn",
        rule="none",
        tasks=("contrastive",),
    )
    most_temperature: float | None = replacing(
        "largest exp(t) that an update leaves, and 1 the smallest; 0: any", least=0, most=1e6, tasks=("contrastive",)
    )
    image_weights: str | None = flag(
        None,
        "file of the image tower, in place of --weights",
        rule="--weights",
        tasks=("contrastive", "captioning", "coded"),
    )
    text_weights: str | None = flag(
        None, "file of the text tower, in place of --weights", rule="--weights", tasks=("contrastive",)
    )
    vocabulary: str | None = flag(
        None,
        "file of the vocabulary of the model's texts",
        rule="the model's, in --bit_pretrained_dir",
        tasks=("contrastive", "captioning", "rewarded"),
    )
    zero_shot: str | None = flag(
        None,
        "data sets, with commas between, of whose classes the model is judged by prompts; their periods in --eval_every",
        rule="none",
        tasks=("contrastive",),
    )


@dataclasses.dataclass(frozen=True)
class CaptionsConfig:
    """How texts are predicted."""

    parallel: float | None = replacing(
        "part of the texts whose tokens are all predicted at once, of hidden ones; in [0, 1]",
        least=0,
        most=1,
        tasks=("captioning",),
    )
    masking_ratio: float | None = replacing(
        "part of the tokens of such a text that are hidden; in [0, 1]", least=0, most=1, tasks=("captioning",)
    )
    reward: RewardName | None = replacing(
        "what drawn texts, or maps of drawn codes, are rewarded for", tasks=("rewarded",)
    )
    samples: int | None = replacing(
        "texts, or codes, drawn for each image in a step, each judged against the others",
        least=2,
        most=1024,
        tasks=("rewarded",),
    )
    prompt: str | None = flag(
        None,
        "what every caption begins with, which is given and not predicted",
        rule="as the weights were trained, or nothing",
        tasks=("captioning", "rewarded"),
    )
    class_prompt: str | None = flag(
        None,
        "what the name of an image's class begins with, which becomes one more of its texts; it is given, too",
        rule="no names of classes",
        tasks=("captioning",),
    )
    captions_of: int = flag(
        0,
        "held-out images that texts are written of at the end, for CIDEr-D and BLEU (extra `captions`); earlier with --eval_every captions:N",
        least=0,
        scope="run",
        tasks=("captioning",),
    )


@dataclasses.dataclass(frozen=True)
class DenseConfig:
    """How what is known of every pixel becomes codes, and is predicted by them."""

    commitment_weight: float | None = replacing(
        "weight of how far vectors are from the words of the codebook that they become",
        least=0,
        most=1e6,
        tasks=("dense",),
    )
    code_dropout: CodeDropout | None = replacing(
        "codes that the decoder does not see in training: the last ones of a map, or random ones, as many as drawn",
        tasks=("dense",),
    )
    frozen_codebook: bool = flag(False, "leave the codebook as it is", replaces=True, tasks=("dense",))
    oracle: str | None = replacing(
        "published name, file or folder of a run of the frozen model whose codes of maps are written",
        rule="none",
        tasks=("coded", "rewarded"),
    )
    maps_of: int = flag(
        0,
        "held-out images whose maps are predicted by their codes at the end, and judged; earlier with --eval_every maps:N",
        least=0,
        scope="run",
        tasks=("coded",),
    )


@dataclasses.dataclass(frozen=True)
class UpdateConfig:
    """How parameters are updated, and what keeps a model from learning its images by heart."""

    dropout: float | None = replacing("part of the activations that dropout zeroes, in [0, 1)", least=0, below=1)
    stochastic_depth: float | None = replacing(
        "part of the examples that skip a branch of the last block, in [0, 1)", least=0, below=1
    )
    patch_sizes: str | None = replacing(
        "sides in pixels of a ViT's patches, of which each step draws one: 8,12,16, or with weights 8:1,12:2,16:1",
        rule="the recipe's, or one size",
        check=sides,
        tasks=("classification", "distillation", "contrastive"),
    )
    patch_dropout: float | None = replacing(
        "part of an image's patches that a ViT does not see in training, in [0, 1)", least=0, below=1
    )
    label_smoothing: float | None = replacing(
        "part of a label that is spread over the others, in [0, 1)",
        tasks=("classification", "distillation", "captioning"),
        least=0,
        below=1,
    )
    locked: str | None = replacing(
        "regular expression of whole names of parameters that stay as they are, such as image/.*",
        rule="the recipe's, or none",
        check=functools.partial(check_pattern, "locked"),
    )
    lora_rank: int | None = replacing(
        "rank of LoRA's matrices, which learn in the place of a transformer's or Mixer's kernels, beside the head",
        rule="the recipe's, or no LoRA",
        least=1,
    )
    lora_alpha: float | None = replacing(
        "what the product of LoRA's matrices is multiplied by, over the rank",
        rule="--lora_rank",
        least=TINY,
        most=1e6,
    )
    lora_targets: str | None = replacing(
        "regular expression of whole names of the kernels that LoRA adapts",
        rule="queries and values of attention, or what mixes the channels of a Mixer",
        check=functools.partial(check_pattern, "lora_targets"),
    )
    optimizer: Optimizer | None = replacing(
        "how gradients become updates: sgd with momentum, adam, or adafactor; each needs a --base_lr of its own"
    )
    weight_decay: float | None = replacing("weight decay, by the recipe's convention", least=0, most=1e6)
    clip: float | None = replacing("longest global norm of the gradients; 0: any", least=0, most=1e30)
    ema: float | None = replacing(
        "decay of the moving average that is evaluated and saved, in [0, 1); 0: none", least=0, below=1
    )
    rho: float | None = replacing(
        "how far SAM takes the parameters uphill before it takes the gradients; 0: off", least=0, most=1e6
    )
    rho_min: float | None = replacing(
        "rho where the learning rate has come to its end", rule="the recipe's, or as --rho", least=0, most=1e6
    )
    gsam_alpha: float | None = replacing(
        "part of the plain gradients, across those of SAM, that GSAM takes off; 0: SAM", least=0, most=1e6
    )
    sam_group: int | None = replacing(
        "images whose gradients show SAM one way uphill; a divisor of the batch, or 0: all of it", least=0
    )


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The name of a run, and when it writes."""

    name: str | None = flag(None, "name of the run's folder", rule="dataset_model_time", scope="run", check=check_name)
    logdir: str = flag("runs", "folder of runs; gs:// and s3://, too", scope="machine")
    extend_from: str | None = flag(
        None, "folder of a finished run to go on from, with its flags, to more --steps in a new folder", rule="none"
    )
    eval_every: str | None = flag(
        None,
        "steps between evaluations on val, or of several splits: val:500,v2:2000,real:2000; 0: only at the end",
        rule="a tenth of the run",
        scope="run",
        check=periods,
    )
    checkpoint_every: int | None = flag(
        None,
        "steps between checkpoints; 0: only at the end",
        rule="a tenth of the run, at most 1000",
        scope="run",
        least=0,
    )
    log_every: int = flag(10, "steps between lines of metrics", scope="run", least=1)
    keep_best: bool = flag(
        False, "write the weights that were best on val (top-1, or recall@1) instead of the last ones"
    )
    tensorboard: bool = flag(
        False, "write scalars and first images for TensorBoard, too (extra `tensorboard`)", scope="run"
    )


@dataclasses.dataclass(frozen=True)
class MachineConfig:
    """How a run fits on the machine; only rounding and time depend on these flags."""

    batch_eval: int | None = replacing("images per evaluation step", rule="as --batch", scope="run", least=1)
    batch_split: int = flag(1, "micro-batches per training step", scope="run", least=1)
    cache_gib: float | None = flag(
        None,
        "memory in GiB for images that are decoded once, of all processes of a machine together; 0: none",
        rule="a quarter of what is free",
        scope="machine",
        least=0,
        most=2**20,
    )
    remat: bool = flag(False, "compute activations again in the backward pass: less memory, more time", scope="run")
    shard_parameters: bool = flag(
        False, "spread parameters and optimizer over the devices: less memory on each", scope="run"
    )


@dataclasses.dataclass(frozen=True)
class TrainConfig(
    MachineConfig,
    RunConfig,
    UpdateConfig,
    TeachersConfig,
    TextsConfig,
    CaptionsConfig,
    DenseConfig,
    ViewsConfig,
    ScheduleConfig,
    RecipeConfig,
    ModelConfig,
    DecodingConfig,
    DataConfig,
):
    """Flags of `python -m bit_*.train`, whose help states their units; for None, `rule` describes the value.

    In Python: `main(Run(TrainConfig(...), engine="bit_jax"))` with `main` of `bit_jax.loop`.
    """


@dataclasses.dataclass(frozen=True)
class VtabConfig(TrainConfig):
    """The tasks of VTAB-1k, and the engine.

    Flags of `python -m common.vtab`; those of train are for every task.
    """

    engine: str = flag("bit_pytorch", "engine that trains", choices=tuple(ENGINE_PACKAGES))
    tasks: str | None = flag(None, "some of the 19 tasks, with commas between", rule="all")


@dataclasses.dataclass(frozen=True)
class WritingConfig:
    """How a model writes texts."""

    prompt: str | None = flag(
        None, "what every text that a model writes begins with", rule="as it was trained, or nothing"
    )
    beams: int = flag(1, "likeliest beginnings that are kept; 1: the likeliest token always follows", least=1, most=64)
    top_p: float = flag(
        0.0, "above 0, draw tokens from the likeliest that have this share together; 1: from all", least=0, most=1
    )
    sampling_temperature: float = flag(1.0, "what logits are divided by before tokens are drawn", least=TINY, most=1e6)
    seed: int = flag(0, "seed of tokens that are drawn", least=0, most=MOST_SEED)


MEMORY_FLAGS = (
    "--batch_split 8, --remat or --precision bfloat16, a smaller --crop or --batch, or a smaller --batch_eval where it "
    "was evaluating"
)


@dataclasses.dataclass(frozen=True)
class PreparationConfig:
    """How images are prepared."""

    oracle: str | None = flag(
        None, "published name, file or folder of a run of what makes maps of the codes that a model writes", rule="none"
    )
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
    eval_resize_kind: ResizeKind | None = flag(None, "how images are resized", rule="the weights' card")
    tokens: int | None = flag(
        None,
        "most patches of an image, for a model that keeps aspect ratios (NaFlex)",
        rule="as many as it has positions",
        least=1,
        most=LONGEST_SIDE,
    )
    exif: Exif | None = flag(
        None, "turn photographs by their EXIF orientation, or ignore it", rule="the weights' card, or ignore"
    )
    vocabulary: str | None = flag(
        None, "file of the vocabulary of an image-text model", rule="the model's, in --bit_pretrained_dir"
    )


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(WritingConfig, PreparationConfig, ModelConfig, DecodingConfig, DataConfig):
    """The splits to evaluate, and the output.

    Flags of `python -m bit_*.evaluate`.
    """

    dataset: str = flag(
        DataConfig.dataset, "the data set, as in train; may be given again: one after the other", repeats=True
    )
    split: str | None = flag(
        None, "split to evaluate, or several: val,v2,real", rule="test, or val where there is no test"
    )
    evaluator: EvaluatorName | None = flag(
        None,
        "how the model is judged: by its head; by the similarity of images to prompts or to captions; of one that writes, by "
        "how likely captions are, or the texts of classes (scoring), or by what it writes; by predicted maps of every pixel",
        rule="by its head; zero_shot for an image-text model, likelihood for one that writes, maps for one of maps",
    )
    prompts: str | None = flag(
        None,
        "a list of prompts for zero_shot, or a file with one in each line, with {} for a class",
        rule="clip_paper",
    )
    features: Features | None = flag(
        None,
        "write features and labels alone, for a probe: what a head is given, or of a ViT class tokens, the mean of patches, or both",
        rule="none: judge the model",
    )
    output: str | None = flag(
        None,
        "a folder for SPLIT.npz: features [N, D], logits [N, K], labels of its images; of several data sets, one in it for each",
        rule="none",
    )


@dataclasses.dataclass(frozen=True)
class PredictConfig(WritingConfig, PreparationConfig, ModelConfig, DecodingConfig):
    """The images to classify, and the output.

    Flags of `python -m bit_*.predict`.
    """

    images: tuple[str, ...] = flag((), "image files or folders", positional="IMAGE|FOLDER")
    texts: tuple[str, ...] = flag(
        (),
        "texts that an image-text model compares images with; `--` ends them: --texts cat dog -- photo.jpg",
        rule="none",
    )
    captions: bool = flag(False, "write a text for each image, as models that write do without this flag")
    top: int = flag(5, "classes or texts to print per image", least=1)
    map: Map | None = flag(
        None,
        "pictures of a ViT in place of classes: the attention that patches get, or principal components of their features",
        rule="none",
    )
    output: str | None = flag(
        None,
        "an .npz file for logits [N, K], features [N, D], files, and texts; a folder for pictures: of --map, and of predicted maps",
        rule="none",
    )


@dataclasses.dataclass(frozen=True)
class ExportConfig(ModelConfig):
    """The format and the file to write.

    Flags of `python -m bit_*.export`.
    """

    to: Format | None = flag(
        None,
        "what to write: onnx, torch_export (bit_pytorch); stablehlo (bit_jax); saved_model, litert (bit_tf2)",
        rule="none: say it",
    )
    output: str | None = flag(None, "file to write, or the folder of a saved_model", rule="none: say it")
    preprocess: bool = flag(False, "take uint8 images [B, H, W, 3] and scale them within the graph")
    resolution: int | None = flag(
        None, "side in pixels of the images", rule="the model's own, or the weights' card", least=1, most=LONGEST_SIDE
    )
    overwrite: bool = flag(False, "replace a file that exists")
