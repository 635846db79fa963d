"""--extend_from: what a longer run takes over from a finished one.

The longer run continues the count of steps: its first step follows the last of the finished run, and its batches are those of
a run of N steps from there on. Its schedule is the recipe's over N steps; the first of these were made by a shorter schedule.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

from common.config import TrainConfig
from common.flags import changes, scoped
from common.runs.checkpoint import Checkpoint, Checkpoints
from common.system import remote
from common.system.errors import UserError
from common.tasks.frozen import replaced
from common.weights.containers import read_json

SCHEDULE = {"steps", "epochs", "base_lr", "warmup_steps", "schedule", "cooldown_steps"}  # flags that may differ
RATES = {"lrs", "num_steps", "base_lr", "end_lr"}  # what these flags change in a recipe
OWN = {"name", "logdir", "extend_from"}  # flags that are not taken over


def taken_over(folder: str, given: dict[str, Any]) -> dict[str, Any]:
    """The `given` flags, and of all others those that the run in `folder` had. Raises UserError where there is none."""
    known = {item.name for item in dataclasses.fields(TrainConfig)} - OWN
    if {"steps", "epochs"} & given.keys():
        known -= {"steps", "epochs"}
    return {name: value for name, value in read_flags(folder).items() if name in known} | given


def read_flags(folder: str) -> dict[str, Any]:
    """The flags of the run in `folder`; UserError where there is none."""
    if remote.is_remote(folder):
        raise UserError(f"--extend_from {folder} is not on this machine; copy the folder, and name the copy.")
    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"--extend_from {folder} is no folder of a run: it holds no config.json; name one of a run.")
    return read_json(Path(folder) / "config.json")


class Finished:
    """The finished run that another one extends: its `folder`, `num_steps`, last rate, class names and digests of `files`.

    Raises UserError where it has not ended, or had other flags than `config` but for those of the schedule.
    """

    def __init__(self, config: TrainConfig):
        self.folder = Path(config.extend_from)
        flags = read_flags(config.extend_from)
        for name, before, now in changes(flags, config):
            if name not in SCHEDULE | OWN | scoped(TrainConfig, "machine"):
                raise UserError(
                    f"{self.folder} was made with --{name} {before}, not {now}; a longer run has the same, so leave the "
                    "flag out, or start a run of its own from --weights."
                )
        if not (self.folder / "weights.npz").is_file():
            raise UserError(f"{self.folder} has not ended; give its own command again first, or more --steps later.")
        recipe, card = read_json(self.folder / "recipe.json"), read_json(self.folder / "card.json")
        self.class_names, self.seconds = card.get("class_names"), card.get("seconds", 0.0)
        lrs, self.files = recipe.get("lrs"), flags.get("files", {})
        are_rates = isinstance(lrs, list) and lrs and all(is_number(lr) for lr in lrs)
        if not are_rates or not is_number(self.seconds) or not isinstance(self.files, dict):
            raise UserError(
                f"{self.folder} does not tell what it was: config.json, recipe.json or card.json is damaged; restore it."
            )
        self.num_steps, self.last_lr = len(lrs), lrs[-1]
        self.weights = self.folder / "weights.npz"

    def check(self, num_steps: int, class_names: list[str]) -> None:
        """Raise UserError where a run of `num_steps` with these classes is no longer one of the same."""
        if num_steps <= self.num_steps:
            raise UserError(
                f"{self.folder} has ended after {self.num_steps:,} steps and the longer run is to have {num_steps:,}; "
                "give more with --steps or --epochs."
            )
        if self.class_names not in (None, list(class_names)):  # None: of a task without classes
            raise UserError(
                f"{self.folder} was trained on other classes than the dataset has now; bring its images back."
            )

    def check_files(self, files: dict[str, str]) -> None:
        """Raise UserError where a model that is frozen is no longer the file with this digest."""
        for name, before, now in replaced(self.files, files):
            raise UserError(
                f"{self.folder} was made with another file as {name} ({before}, not {now}); restore that file, or start a run "
                "of its own from --weights."
            )

    def restore(self) -> Checkpoint | None:
        """Its last checkpoint; None where it is gone or damaged: the weights alone are left."""
        try:
            checkpoint = Checkpoints(self.folder).restore()
        except UserError:
            return None
        return checkpoint if checkpoint and checkpoint.step == self.num_steps else None

    def describe(self, has_state: bool, lrs: tuple[float, ...]) -> str:
        """Lines on the start of the run, for a person to read before the first step."""
        start = (
            "its last checkpoint: parameters, moments and moving average"
            if has_state
            else "its weights.npz alone, since no checkpoint of its last step is left: the optimizer starts anew"
        )
        return (
            f"Extending {self.folder} from step {self.num_steps:,} to {len(lrs):,}, from {start}\n"
            f"The schedule is that of {len(lrs):,} steps: its rate is {lrs[self.num_steps]:.3g} here, where "
            f"{self.folder.name} ended with {self.last_lr:.3g}. A run of {len(lrs):,} steps from the beginning would have "
            "had other rates before, and is another run"
        )


def is_number(value: Any) -> bool:
    """Whether what JSON holds is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)
