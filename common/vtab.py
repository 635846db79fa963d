"""VTAB-1k: fine-tune a model on each of the 19 tasks and sum up: `python -m common.vtab --engine bit_jax --model NAME`.

Every task is a run of its own, `{logdir}/{name}/{task}/`, by the BiT-HyperRule on its 1,000 images and all other flags of
`train`, evaluated once on the task's test images. The same command goes on after an interruption; tasks whose data are not
prepared are listed with what prepares them. `vtab.json` beside the runs holds the summary.
"""

import common.system.quiet  # noqa: F401, I001  first: Ctrl-C ends without a traceback from here on

import dataclasses
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from common.system import remote
from common.config import TrainConfig, VtabConfig
from common.flags import arguments, changes
from common.runs.command import parse
from common.system.errors import UserError, exit_with_sentence
from common.system.files import write_json
from common.weights.containers import read_json
from common.system.interruption import Interruption
from common.models import find_model
from common.system.progress import show
from common.data.sources.vtab import GROUPS, TASKS, find_data, find_task

PUBLISHED = {  # README of google-research/big_transfer: "re-runs and not the exact paper models"
    "BiT-M-R152x4": {"natural": 0.8077, "specialized": 0.8567, "structured": 0.6108, "all": 0.7351},
    "BiT-M-R101x3": {"natural": 0.8029, "specialized": 0.8575, "structured": 0.5940, "all": 0.7265},
}


@dataclasses.dataclass
class Outcome:
    """The state of one task."""

    group: str
    status: str  # done, missing (its data), failed, or waiting
    top1: float | None = None  # on the test images
    why: str = ""  # it is missing or has failed


class Suite:
    """The tasks of one command, each with its run."""

    def __init__(self, config: VtabConfig):
        find_model(config.model)
        if config.dataset != TrainConfig.dataset or config.recipe != TrainConfig.recipe:
            raise UserError("VTAB-1k chooses the dataset, and the BiT-HyperRule the recipe; leave both flags out.")
        if config.extend_from:
            raise UserError("--extend_from lengthens one run, and VTAB-1k is many; leave it out.")
        if remote.is_remote(config.logdir):
            raise UserError(f"--logdir {config.logdir} is not on this machine, where the summary reads; name a folder.")
        self.config = config
        self.name = config.name or f"vtab_{config.model.replace('/', '_')}"
        self.folder = Path(config.logdir) / self.name
        names = list(dict.fromkeys(config.tasks.split(","))) if config.tasks else list(TASKS)
        self.outcomes = {name: self.found(name) for name in names}

    def found(self, name: str) -> Outcome:
        """Read the state of a task from the disk; UserError where a finished run had other flags."""
        task, run = find_task(name), self.folder / name
        if (run / "weights.npz").exists():
            for flag, before, now in changes(read_json(run / "config.json"), self.flags(name)):
                raise UserError(f"{run} was made with --{flag} {before}, not {now}; choose another --name.")
            return Outcome(task.group, "done", read_accuracy(run))
        try:
            find_data(task, self.config.tfds_data_dir)
        except UserError as error:
            return Outcome(task.group, "missing", why=str(error))
        return Outcome(task.group, "waiting")

    def flags(self, name: str) -> TrainConfig:
        """The flags of `train` for a task."""
        given = {item.name: getattr(self.config, item.name) for item in dataclasses.fields(TrainConfig)}
        return TrainConfig(**given | {"dataset": f"vtab:{name}", "name": name, "logdir": str(self.folder)})

    def run(self) -> None:
        """Train on every task that waits, and sum up after each; a UserError at the end names those that failed."""
        with Interruption() as interruption:
            for name in [name for name, outcome in self.outcomes.items() if outcome.status == "waiting"]:
                show(f"VTAB-1k {name} ({list(self.outcomes).index(name) + 1} of {len(self.outcomes)})")
                status = self.train(name, interruption)
                self.outcomes[name] = self.found(name)
                if interruption.signal:
                    break
                if self.outcomes[name].status != "done":
                    self.outcomes[name].status = "failed"
                    self.outcomes[name].why = f"its training ended with status {status}, see its messages"
                self.write()
        self.write()
        show(self.table())
        if interruption.signal:
            raise SystemExit(128 + interruption.signal)
        failed = [name for name, outcome in self.outcomes.items() if outcome.status == "failed"]
        if failed:
            raise UserError(
                f"Training failed on {', '.join(failed)}; mend what it says above, and give the same command."
            )
        if all(outcome.status == "missing" for outcome in self.outcomes.values()):
            raise UserError("The data of none of these tasks are prepared; prepare some, or say --tfds_data_dir.")

    def train(self, name: str, interruption: Interruption) -> int:
        """The exit status of the run of one task, which gets the signals that this process gets."""
        command = [sys.executable, "-m", f"{self.config.engine}.train", *arguments(self.flags(name))]
        passed_on = False
        with subprocess.Popen(command) as process:
            while True:
                try:
                    return process.wait(timeout=0.2)
                except subprocess.TimeoutExpired:
                    if interruption.signal == signal.SIGTERM and not passed_on:  # Ctrl-C reaches both by itself
                        process.terminate()
                        passed_on = True

    def means(self) -> dict[str, dict[str, Any]]:
        """{group or `all`: the mean top-1 over its tasks that are done, their number, and the number of the benchmark}."""
        found = {}
        for group in (*GROUPS, "all"):
            members = [name for name in TASKS if group in (TASKS[name].group, "all")]
            values = [
                self.outcomes[n].top1 for n in members if n in self.outcomes and self.outcomes[n].status == "done"
            ]
            found[group] = {
                "top1": statistics.fmean(values) if values else None,
                "tasks": len(values),
                "of": len(members),
            }
        return found

    def write(self) -> None:
        """The contents of the table, for vtab.json."""
        facts = {"model": self.config.model, "engine": self.config.engine, "means": self.means()}
        tasks = {name: dataclasses.asdict(outcome) for name, outcome in self.outcomes.items()}
        write_json(self.folder / "vtab.json", facts | {"tasks": tasks})

    def table(self) -> str:
        """The summary that a person reads."""
        lines = [f"\nVTAB-1k, {self.config.model}, test top-1 ({self.folder}/vtab.json)"]
        for name, outcome in self.outcomes.items():
            result = f"{outcome.top1:7.2%}" if outcome.status == "done" else outcome.status
            lines.append(f"  {outcome.group:12} {name:22} {result}")
        published = PUBLISHED.get(self.config.model, {})
        for group, mean in self.means().items():
            text = f"{mean['top1']:7.2%}" if mean["tasks"] else "      -"
            complete = "" if mean["tasks"] == mean["of"] else ", not the benchmark's number yet"
            stated = f"; published {published[group]:.2%}" if published else ""
            lines.append(f"  {group:12} {'mean':22} {text} of {mean['tasks']} of {mean['of']} tasks{complete}{stated}")
        lines += [f"  {name}: {outcome.why}" for name, outcome in self.outcomes.items() if outcome.why]
        return "\n".join(lines)


def read_accuracy(run: Path) -> float:
    """The test top-1 of a finished run. UserError where its card states none."""
    try:
        return float(read_json(run / "card.json")["accuracy"]["test"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run}/card.json states no accuracy on test ({error!r}); remove the folder.") from error


def main() -> None:
    """The command; a UserError ends with exit status 2."""
    with exit_with_sentence():
        Suite(parse(VtabConfig, sys.argv[1:], "python -m common.vtab", __doc__.partition(":")[0])).run()


if __name__ == "__main__":
    main()
