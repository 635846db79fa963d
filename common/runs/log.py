"""The lines and measurements of a run: `train.log` and the screen, `metrics.jsonl`, and with --tensorboard an event file."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from common.evaluation.metrics import in_words
from common.runs import events
from common.runs.plan import Plan
from common.system.errors import UserError
from common.system.files import read_regular, write_atomically
from common.system.progress import Progress, duration

WORTH_TELLING_SECONDS, LONG_SECONDS = 30, 600  # that a run takes
SHORT = {"crop": 128, "steps": 100, "batch": 32}  # what fine-tunes within minutes on two CPU cores
SHORT_WARMUP = 10  # steps, where a recipe warms up for longer than so short a run


class Log:
    """Lines for a person, and numbers of the steps that count: the first `num_lines` lines are kept."""

    def __init__(self, plan: Plan, folder: Path, file: IO, *, step: int, num_lines: int):
        self.plan, self.first_step = plan, step
        self.metrics = Metrics(folder / "metrics.jsonl", num_lines, tensorboard=plan.config.tensorboard)
        self.progress = Progress(plan.recipe.num_steps, step, plan.recipe.batch, file)
        self.say, self.close = self.progress.say, self.progress.close

    def begin(self, batches: Iterator[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
        """The same training batches; the first one's images are kept for TensorBoard."""
        self.progress.begin()
        return self.metrics.events.with_first_images(batches, self.first_step + 1) if self.metrics.events else batches

    def count(self, step: int) -> None:
        """Show that a step has been given to the devices; after the first two, how long the run takes."""
        number, left = step - self.first_step, self.plan.recipe.num_steps - step
        seconds = self.progress.count(step)
        if number == 1:
            self.say(f"The first step took {duration(seconds)}, with what is made once.")
        elif number == 2 and seconds * left > WORTH_TELLING_SECONDS:
            self.say(
                f"The second took {duration(seconds)}: about {duration(seconds * left)} for the {left:,} that are left, "
                f"besides evaluation.{self._shorter() if seconds * left > LONG_SECONDS else ''}"
            )

    def _shorter(self) -> str:
        """The flags that would make the run shorter, if they change anything."""
        recipe = self.plan.recipe
        numbers = {"crop": recipe.crop, "steps": recipe.num_steps, "batch": recipe.batch}
        flags = {name: SHORT[name] for name in SHORT if numbers[name] > SHORT[name]}
        try:
            self.plan.recipe_by(dataclasses.replace(self.plan.config, **flags))
        except UserError:  # the recipe warms up for longer
            flags["warmup_steps"] = SHORT_WARMUP
        words = " ".join(f"--{name} {value}" for name, value in flags.items())
        return f" For a first look, as on a CPU: {words}" if flags else ""

    def training(self, step: int, means: dict[str, float]) -> None:
        """A line on the steps since the last one."""
        speed = self.progress.advance(step, means["loss"])
        rates = {"train/lr": self.plan.recipe.lrs[step - 1], "images_per_second": round(speed, 1)}
        self.metrics.write(step, {f"train/{name}": value for name, value in means.items()} | rates)

    def evaluation(self, step: int, name: str, result: dict[str, float], seconds: float) -> None:
        """A line on an evaluation, which took `seconds`."""
        self.progress.exclude(seconds)
        self.metrics.write(step, {f"{name}/{metric}": value for metric, value in result.items()})
        self.say(f"step {step:,}: {name} {in_words(result, self.plan.dataset.num_classes)}")


def check_finite(loss: float, what: str) -> None:
    """Raise UserError for a loss that no run can go on from."""
    if not math.isfinite(loss):
        raise UserError(
            f"The {what} is not finite; start again under another --name with a lower --base_lr or longer "
            "--warmup_steps."
        )


class Metrics:
    """`metrics.jsonl`: one object a line, whole lines only."""

    def __init__(self, path: Path, num_lines: int, *, tensorboard: bool = False):
        """Keep the first `num_lines` of an interrupted run: what came after its checkpoint will come again."""
        self.path, self.num_lines, self.damaged, kept = path, 0, [], []
        if path.exists() or num_lines:
            lines = self._read(path).split(b"\n")[:-1][:num_lines]  # what follows the last newline is half a line
            kept = [line for line in lines if is_object(line)]
            if len(kept) < len(lines):
                self.damaged = [f"{path} had {len(lines) - len(kept)} damaged lines, which were dropped."]
            if len(lines) < num_lines:
                self.damaged.append(f"{path} lacks {num_lines - len(lines)} of its {num_lines} lines.")
            write_atomically(path, lambda file: file.writelines(line + b"\n" for line in kept))
            self.num_lines = len(kept)
        self.events = events.EventFile(path.with_name(events.FILE), [*map(json.loads, kept)]) if tensorboard else None

    @staticmethod
    def _read(path: Path) -> bytes:
        try:
            return read_regular(path)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); restore or remove it.") from error

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append a line. UserError where the disk does not take it."""
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps({"step": step} | values) + "\n")
        except OSError as error:
            raise UserError(f"Cannot write {self.path} ({error.strerror or error}); free its disk.") from error
        self.num_lines += 1
        if self.events:
            self.events.write(step, values)


def is_object(line: bytes) -> bool:
    """Whether a line holds one JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
