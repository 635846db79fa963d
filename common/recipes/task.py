"""What a model is trained for: the numbers of a task, which are static in every compiled step.

Each engine has one function of a task's name in its `losses.py`.
"""

import dataclasses
from typing import Any, ClassVar

from common.flags import check_choices
from common.recipes.choices import CodeDropout, Distance, Loss, RewardName, Target, TeacherView
from common.system.errors import UserError


@dataclasses.dataclass(frozen=True)
class Classification:
    """Each image has one class, or several."""

    name: ClassVar[str] = "classification"  # of the task's flags, and of its loss in every engine
    best: ClassVar[str] = "val/top1"  # the metric that --keep_best and reports judge by
    splits_batches: ClassVar[bool] = True  # whether the mean over parts of a batch is the loss of the whole
    refuses: ClassVar[tuple[str, ...]] = ()  # numbers of a recipe that it has no use for
    measures: ClassVar[tuple[str, ...]] = ()  # what a step measures besides its loss
    asks: ClassVar[str] = (
        ""  # what a step needs of the model before its gradients: one of OUTPUTS, for the task's `judge`
    )

    loss: Loss = "softmax"  # or sigmoid: the sum over the classes of the binary cross-entropies
    label_smoothing: float = 0.0  # part of a label that is spread: over all classes, or in sigmoid towards a half

    def __post_init__(self):
        check_choices(self, "A recipe's {}")


@dataclasses.dataclass(frozen=True)
class Distillation:
    """The model gives the answers of frozen teachers; labels take no part in its loss."""

    name: ClassVar[str] = "distillation"
    best: ClassVar[str] = "val/top1"
    splits_batches: ClassVar[bool] = True
    refuses: ClassVar[tuple[str, ...]] = ()
    measures: ClassVar[tuple[str, ...]] = ()
    asks: ClassVar[str] = ""
    loss: ClassVar[Loss] = "softmax"  # with the labels, in evaluation
    uses: ClassVar[dict[str, tuple[str, ...]]] = {"kl": ("temperature",), "hard": ("label_smoothing",)}

    teacher: str = ""  # published names, files or folders of runs, with commas between; the losses are summed
    distance: Distance = "kl"
    temperature: float = 1.0  # of kl: what the logits are divided by
    label_smoothing: float = 0.0  # of hard: part of the teacher's label that is spread over the other classes
    teacher_view: TeacherView = "same"  # image, box and flip as the student; `own` ones; or as `fixed` as in evaluation

    def __post_init__(self):
        check_choices(self, "A recipe's {}")
        if not self.named:
            raise UserError("Distillation needs a teacher; name a published model, a file or a run with --teacher.")
        if not self.temperature > 0:
            raise UserError(f"A recipe's temperature is {self.temperature}, expected more than 0.")

    @property
    def named(self) -> dict[str, str]:
        """{"teacher": what --teacher names, "teacher2": the second one, ...}."""
        given = filter(None, self.teacher.split(","))
        return {f"teacher{number if number > 1 else ''}": name for number, name in enumerate(given, 1)}

    @property
    def numbers(self) -> dict[str, float]:
        """What the distance takes besides logits."""
        return {name: getattr(self, name) for name in self.uses.get(self.distance, ())}


@dataclasses.dataclass(frozen=True)
class Contrastive:
    """An image and its text have the embeddings that are most alike, among all of a batch."""

    name: ClassVar[str] = "contrastive"
    best: ClassVar[str] = "val/img2txt_recall@1"
    splits_batches: ClassVar[bool] = False  # the towers compute by parts, and the loss compares all pairs
    refuses: ClassVar[tuple[str, ...]] = ("mixup", "dropout", "stochastic_depth")  # texts cannot be mixed; not built
    measures: ClassVar[tuple[str, ...]] = ("temperature", "bias")
    asks: ClassVar[str] = ""

    loss: Loss = (
        "sigmoid"  # of every pair (SigLIP); or softmax: of an image among texts and of a text among images (CLIP)
    )
    chunk: int = 0  # texts whose similarities are in memory at once; 0: those of the whole batch
    first_temperature: float = 10.0  # exp(t) of a new model
    first_bias: float = -10.0  # b of a new model
    third_tower: str = (
        ""  # published name, file or folder of a run of a frozen model of images, whose features are matched
    )

    def __post_init__(self):
        check_choices(self, "A recipe's {}")
        if not self.first_temperature > 0:
            raise UserError(f"A recipe's first_temperature is {self.first_temperature}, expected more than 0.")


@dataclasses.dataclass(frozen=True)
class Writing:
    """How a model writes a text, token by token. Raises UserError for numbers that contradict one another."""

    beams: int = 1  # likeliest beginnings that are kept; 1: the likeliest token always follows
    top_p: float = 0.0  # above 0, a token is drawn from the likeliest that have this share together
    temperature: float = 1.0  # what logits are divided by before a token is drawn

    def __post_init__(self):
        if self.beams < 1 or not 0 <= self.top_p <= 1 or not self.temperature > 0:
            raise UserError(f"{self} cannot write; give beams of 1 or more, top_p of 0 to 1, a temperature above 0.")
        if self.beams > 1 and self.top_p:
            raise UserError(f"--beams {self.beams} keep what is likeliest and --top_p {self.top_p} draws; give one.")
        if self.temperature != 1 and not self.top_p:
            raise UserError(
                f"--sampling_temperature {self.temperature} is for texts that are drawn; give --top_p, too."
            )


@dataclasses.dataclass(frozen=True)
class Captioning:
    """A text of an image is predicted token by token; CapPa (https://arxiv.org/abs/2306.07915) predicts some at once."""

    name: ClassVar[str] = "captioning"
    best: ClassVar[str] = "val/loss"
    splits_batches: ClassVar[bool] = True
    refuses: ClassVar[tuple[str, ...]] = (  # texts cannot be mixed; not built
        "mixup", "dropout", "stochastic_depth", "patch_dropout",
    )  # fmt: skip
    measures: ClassVar[tuple[str, ...]] = ()
    asks: ClassVar[str] = ""

    label_smoothing: float = 0.0  # part of a token that is spread over the others
    parallel: float = 0.0  # part of the texts whose tokens are predicted all at once, some of them hidden
    masking_ratio: float = 1.0  # part of the tokens of such a text that are hidden
    writing: Writing = Writing()  # in evaluation

    def __post_init__(self):
        for name in ("label_smoothing", "parallel", "masking_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"A recipe's {name} is {getattr(self, name)}, expected 0 to 1.")


@dataclasses.dataclass(frozen=True)
class Dense:
    """What is known of every pixel, its target, is compressed into codes; UViM's first stage (https://arxiv.org/abs/2205.10337)."""

    name: ClassVar[str] = "dense"
    best: ClassVar[str] = "val/psnr"  # of colourization; an instance has its own target's
    splits_batches: ClassVar[bool] = True
    refuses: ClassVar[tuple[str, ...]] = (*Captioning.refuses, "rho")  # nor can maps be mixed
    measures: ClassVar[tuple[str, ...]] = ("reconstruction", "commitment", "codebook_zeros_ratio", "codebook_max_ratio")
    asks: ClassVar[str] = ""

    target: Target = "colorization"
    commitment_weight: float = 0.25  # of the mean square of how far vectors are from their words
    frozen_codebook: bool = False  # whether it stays as it is
    # Codes that the decoder does not see in training: a number drawn for each map, `last` or `random` ones.
    code_dropout: CodeDropout = "none"

    def __post_init__(self):
        check_choices(self, "A recipe's {}")
        object.__setattr__(self, "best", BEST[self.target])
        if not self.commitment_weight >= 0:
            raise UserError(f"A recipe's commitment_weight is {self.commitment_weight}, expected at least 0.")


@dataclasses.dataclass(frozen=True)
class Rewarded:
    """A model that writes becomes likelier to write what is rewarded (https://arxiv.org/abs/2302.08242)."""

    name: ClassVar[str] = "rewarded"
    best: ClassVar[str] = "val/reward"  # of texts; an instance that is rewarded for maps has their metric
    splits_batches: ClassVar[bool] = True
    refuses: ClassVar[tuple[str, ...]] = (*Captioning.refuses, "rho")  # uphill, other texts would be drawn
    measures: ClassVar[tuple[str, ...]] = ("reward",)
    asks: ClassVar[str] = "samples"
    parallel: ClassVar[float] = 0.0
    sampling: ClassVar[Writing] = Writing(top_p=1.0)  # as the model has it; otherwise gradients would be biased

    reward: RewardName = "cider"
    samples: int = (
        2  # texts, or codes of maps, that are drawn for each image, each judged against the mean of the others
    )
    oracle: str = ""  # what makes maps of codes, of a reward of maps: published name, file or folder of a run
    writing: Writing = Writing()  # in evaluation

    def __post_init__(self):
        check_choices(self, "A recipe's {}")
        if self.target and not self.oracle:
            raise UserError(
                f"--reward {self.reward} is of maps of {self.target}; name with --oracle what makes them of codes, a file or a run."
            )
        if self.oracle and not self.target:
            raise UserError(
                f"--oracle makes maps of codes, and --reward {self.reward} is of texts; leave it out, or give a --reward of maps: "
                f"{' or '.join(TARGET_OF)}."
            )
        object.__setattr__(self, "best", BEST[self.target] if self.target else self.best)
        if self.samples < 2:
            raise UserError(
                f"A recipe's samples are {self.samples}, expected 2 or more: each is judged against others."
            )

    @property
    def target(self) -> Target | None:
        """Of which maps the reward is; None: of texts."""
        return TARGET_OF.get(self.reward)


@dataclasses.dataclass(frozen=True)
class Coded:
    """The codes that a frozen model, the oracle, makes of maps are predicted one by one; UViM's second stage."""

    name: ClassVar[str] = "coded"
    best: ClassVar[str] = "val/loss"
    splits_batches: ClassVar[bool] = True
    refuses: ClassVar[tuple[str, ...]] = Captioning.refuses  # nor can maps be mixed
    measures: ClassVar[tuple[str, ...]] = ()
    asks: ClassVar[str] = ""
    label_smoothing: ClassVar[float] = 0.0

    oracle: str = ""  # published name, file or folder of a run
    writing: Writing = Writing()  # in evaluation

    def __post_init__(self):
        if not self.oracle:
            raise UserError("Codes need an oracle that makes them of maps; name a file or a run with --oracle.")


BEST: dict[Target, str] = {"colorization": "val/psnr", "depth": "val/rmse", "panoptic": "val/pq"}
TARGET_OF: dict[str, Target] = {best.rpartition("/")[2]: target for target, best in BEST.items()}  # of a metric
Task = Classification | Distillation | Contrastive | Captioning | Dense | Rewarded | Coded
KINDS: dict[str, type[Task]] = {
    kind.name: kind for kind in (Classification, Distillation, Contrastive, Captioning, Dense, Rewarded, Coded)
}


def create_task(values: dict[str, Any]) -> Task:
    """The task that `values` call `task`, classification by default, with those of its numbers that are among them."""
    kind = KINDS[values.get("task", Classification.name)]
    return kind(**{field.name: values[field.name] for field in dataclasses.fields(kind) if field.name in values})


def task_record(task: Task) -> dict[str, Any]:
    """The name and numbers of a task, as JSON holds them."""
    return {"name": task.name} | dataclasses.asdict(task)
