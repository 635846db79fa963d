"""Where a run goes on: at its own checkpoint, at the end of the run that it makes longer, or at the beginning."""

import dataclasses
from collections.abc import Collection
from typing import Any

from common import weights
from common.models.cards import Preprocessing
from common.recipes.recipe import Recipe, upgraded
from common.recipes.task import Classification
from common.runs.checkpoint import Checkpoint
from common.runs.extend import RATES, is_number
from common.runs.log import check_finite
from common.runs.plan import Plan, scaling
from common.runs.run_folder import Folder
from common.system.errors import UserError


@dataclasses.dataclass
class State:
    """What a run has come to."""

    step: int = 0  # completed updates
    saved_step: int = 0  # of its last checkpoint
    arrays: weights.Arrays | None = None  # of the model; None: as planned
    optimizer: weights.Arrays | None = None  # moments and moving average; None: none yet
    measured: dict[str, list] = dataclasses.field(default_factory=dict)  # of the steps since the last line of training
    best: float | None = None  # with --keep_best
    results: dict[str, float] = dataclasses.field(default_factory=dict)  # of the last evaluations, for the card
    seconds: float = 0.0  # that it took, without interruptions and what they undid
    num_lines: int = 0  # of metrics.jsonl
    took_up: str = ""  # a sentence on where it goes on

    def means(self, step: int) -> dict[str, float]:
        """Of what was measured until `step`, floats from now on; none of nothing. UserError where the loss is not finite."""
        self.measured = {name: [*map(float, values)] for name, values in self.measured.items()}
        means = {name: sum(values) / len(values) for name, values in self.measured.items()}
        if means:
            check_finite(means["loss"], f"loss between steps {step - len(self.measured['loss'])} and {step}")
        return means


def facts(plan: Plan, state: State, engine: str) -> dict[str, Any]:
    """What a checkpoint states of its run, but for its time and lines; later steps do not change it."""
    measured = {name: [*values] for name, values in state.measured.items()}
    return {
        "seed": plan.config.seed,
        "engine": engine,
        "config": dataclasses.asdict(plan.config),
        "constants": plan.constants,
        "losses": measured.pop("loss", []),
        "measured": measured,
        "best": state.best,
    }


def continued(plan: Plan, folder: Folder, checkpoint: Checkpoint) -> State:
    """The state that a checkpoint in the run's folder holds. Raises UserError where it is of another run."""
    facts, where = checkpoint.facts, f"The checkpoint in {folder.place}"
    check_facts(plan, checkpoint, where)
    folder.check_config(facts["config"])
    check_constants(plan, facts["constants"], where)
    state = taken_up(plan, checkpoint, where)
    state.saved_step, state.best, state.num_lines = checkpoint.step, facts["best"], facts["metrics_lines"]
    further = facts.get("measured", {})
    state.measured = {"loss": facts["losses"], **further} if facts["losses"] else {}
    state.took_up = f"Continuing after step {state.step:,}, which {facts['engine']} saved"
    return state


def extended(plan: Plan) -> State:
    """The end of the run that this one makes longer; losses, metrics and checkpoints are this one's own."""
    finished = plan.finished
    checkpoint, state = finished.restore(), State(finished.num_steps, seconds=finished.seconds)
    if checkpoint:
        where = f"The checkpoint in {finished.folder}"
        check_facts(plan, checkpoint, where)
        check_constants(plan, checkpoint.facts["constants"], where, besides=RATES)
        state = taken_up(plan, checkpoint, where)
        state.best = checkpoint.facts["best"] if plan.config.keep_best else None
    state.took_up = finished.describe(bool(checkpoint), plan.recipe.lrs)
    return state


def taken_up(plan: Plan, checkpoint: Checkpoint, where: str) -> State:
    """Its step, time, parameters and state of the optimizer, which must be of this model and recipe."""
    parts = {part: weights.below(checkpoint.arrays, part) for part in plan.state_shapes}
    for part, shapes in plan.state_shapes.items():
        weights.check_shapes(parts[part], shapes, where)
    seconds = checkpoint.facts["seconds"]
    return State(checkpoint.step, arrays=parts["model"], optimizer=parts["optimizer"], seconds=seconds)


def check_facts(plan: Plan, checkpoint: Checkpoint, where: str) -> None:
    """Raise UserError for what no run of ours has written."""
    for name in FACTS:
        if name not in checkpoint.facts:
            raise UserError(
                f"{where} lacks {name}, which this version writes; finish it with the version that made it."
            )
    for name, fits in (FACTS | LATER_FACTS).items():
        if name in checkpoint.facts and not fits(checkpoint.facts[name]):
            found = repr(checkpoint.facts[name])[:80]
            raise UserError(f"{where} holds {found} as {name}, which no run has written; restore or remove it.")
    if checkpoint.step > plan.recipe.num_steps:
        raise UserError(
            f"{where} is of step {checkpoint.step:,} of a run of {plan.recipe.num_steps:,}; restore or remove it."
        )
    for name, array in checkpoint.arrays.items():
        if array.dtype.kind != "f":
            raise UserError(f"{where} holds {name} as {array.dtype}, expected floats; restore or remove it.")


def check_constants(plan: Plan, before: dict[str, Any], where: str, besides: Collection[str] = ()) -> None:
    """Raise UserError where a checkpoint is of other images or another recipe; fields that it lacks had their default."""
    defaults = {item.name: item.default for item in dataclasses.fields(Recipe)} | scaling(Preprocessing())
    defaults |= {item.name: item.default for item in dataclasses.fields(plan.recipe.task)}
    defaults["task"], before = Classification.name, upgraded(before)
    for name, value in plan.constants.items():
        if name not in besides and before.get(name, defaults.get(name)) != value:
            raise UserError(
                f"{where} was made with {before.get(name, defaults.get(name))} as {name}, not {value}; choose another "
                "--name, or bring back the images and the version that it was made with."
            )


def is_count(value: Any) -> bool:
    """Whether what JSON holds is a whole number, 0 or more."""
    return type(value) is int and value >= 0


def are_numbers(value: Any) -> bool:
    """Whether what JSON holds is a list of finite numbers."""
    return isinstance(value, list) and all(map(is_number, value))


FACTS = {  # what a checkpoint states of its run, besides its step and arrays, and what it has to be
    "engine": lambda value: isinstance(value, str),
    "config": lambda value: isinstance(value, dict),
    "constants": lambda value: isinstance(value, dict),
    "losses": are_numbers,
    "metrics_lines": is_count,
    "best": lambda value: value is None or is_number(value),
    "seconds": lambda value: is_number(value) and value >= 0,
}
LATER_FACTS = {  # that older runs lack: what was measured besides losses
    "measured": lambda value: isinstance(value, dict) and all(map(are_numbers, value.values())),
}
