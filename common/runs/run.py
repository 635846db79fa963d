"""A training run: what an engine's `main` asks for, and what is left in `{logdir}/{name}/`.

`config.json`, `recipe.json`, `environment.json`, `train.log`, `metrics.jsonl`, the checkpoints, and at the end
`weights.npz`, `card.json`, `predictions.npz` and `curves.png`; with --tensorboard, an event file.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import secrets
import shlex
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Self, SupportsFloat

import numpy as np

from common import weights
from common.config import MEMORY_FLAGS, TrainConfig
from common.data.batches import EvalBatches, TrainBatches, prefetch
from common.data.sources import Opener
from common.evaluation.evaluator import Evaluator, Prepared, Rows
from common.evaluation.metrics import is_better
from common.flags import arguments, scoped
from common.recipes.recipe import check_sharing
from common.runs import resume
from common.runs.due import Due
from common.runs.feed import Feed
from common.runs.log import Log, check_finite
from common.runs.plan import Plan
from common.runs.run_folder import Folder, read_best
from common.system.errors import UserError, is_out_of_memory, of_memory, reason
from common.system.files import in_one_word
from common.system.interruption import Interruption
from common.system.processes import MOST, Devices, together
from common.system.progress import follow
from common.weights.adapter import write_adapter


class Opened:
    """A run between its folder and its devices: entered, the folder is locked and what it holds is taken up.

    `config` holds the flags, and `engine` is the package that computes. What is missing or wrong (weights, images,
    numbers that contradict one another) raises UserError here, before a framework is imported or a file written;
    the folder is made when the context is entered.
    """

    def __init__(self, config: TrainConfig, engine: str, open_torchvision: Opener | None = None):
        self.plan, self.engine = Plan(named(config), open_torchvision), engine
        self.config, self.recipe = self.plan.config, self.plan.recipe
        self.is_named, self.devices = bool(config.name), Devices()
        self.folder, self.state = Folder(self.config, self.plan.files), resume.State()
        self.feed = Feed(self.plan)

    @classmethod
    def of_command(cls, config: TrainConfig, engine: str, open_torchvision: Opener | None = None) -> Self:
        """The same in a process of its own, which can be forked: no framework is imported yet."""
        run = cls(config, engine, open_torchvision)
        run.feed.fork_makers()
        return run

    def on(self, devices: Devices) -> Self:
        """This run on `devices`, to be entered: of several processes, the first one writes."""
        self.devices = devices
        return self

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes and speaks for all."""
        return self.devices.process == 0

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            with together(self.devices):
                self._check_devices()
                if self.writes:
                    self._open(stack)
            with together(self.devices):
                if not self.writes:
                    self.folder.follow(stack, self.devices.process)
                    self._take_up()
                self._check_sameness()
            self.feed.open(self.devices, stack)
            self.due = Due(self.plan, self.devices, stack.enter_context(Interruption()))
            self._stack = stack.pop_all()
        self.started = time.monotonic()
        return self

    def _check_devices(self) -> None:
        """Raise UserError where the devices cannot work together on this run."""
        if self.devices.num_processes > 1 and not self.is_named:
            raise UserError(
                f"{self.devices.num_processes} processes work on this run and need one folder; give it a --name."
            )
        check_sharing(self.recipe, self.devices.num_devices)

    def _open(self, stack: contextlib.ExitStack) -> None:
        """Lock the folder, take up what it holds, and begin to write."""
        file = self.folder.open(stack)
        self._take_up()
        if self.state.best is not None:
            self.folder.check_best()
        self.folder.write_facts(self.recipe.record(), self.engine)
        self.log = Log(self.plan, self.folder.path, file, step=self.state.step, num_lines=self.state.num_lines)
        stack.callback(self.log.close)
        start = f"Folder {self.folder.place}; to resume: {self.command}", self.state.took_up
        lines = "\n".join(filter(None, (self.plan.summary(self.engine), *start)))
        for line in (*self.folder.checkpoints.damaged, *self.log.metrics.damaged, lines, *self.plan.notes):
            self.log.say(line)

    def _take_up(self) -> None:
        """Go on at the newest checkpoint, or at the end of the run that this one makes longer, or begin."""
        if checkpoint := self.folder.checkpoints.restore():
            self.state = resume.continued(self.plan, self.folder, checkpoint)
        elif self.plan.finished:
            self.state = resume.extended(self.plan)
            if self.state.best is not None and self.writes:
                kept = self.plan.kept_config
                self.folder.write_best(read_best(self.plan.finished.folder, kept), kept)
        if self.state.arrays is not None:  # the initial values are let go
            self.plan.models["model"] = self.plan.models["model"]._replace(arrays=self.state.arrays)

    def _check_sameness(self) -> None:
        """Raise UserError where processes are about to do different things."""
        own = scoped(TrainConfig, "machine")
        config = {name: value for name, value in dataclasses.asdict(self.config).items() if name not in own}
        state = self.state
        facts = json.dumps([config, self.plan.constants, state.step, state.measured, state.best])
        number = int(hashlib.sha256(facts.encode()).hexdigest()[:7], 16)
        if self.devices.agree(number) != MOST - self.devices.agree(MOST - number):
            raise UserError(
                f"The processes of this run do not see the same images, flags and checkpoint (process "
                f"{self.devices.process} is at step {state.step}); give all the same command, and a --logdir and images "
                "that all of them see."
            )

    @property
    def models(self) -> dict[str, tuple[tuple, dict[str, Any]]]:
        """{name: ((config, arrays), options)} of the models to build."""
        return {name: start.to_build(self.config, self.recipe) for name, start in self.plan.models.items()}

    @functools.cached_property
    def _judge(self) -> Callable[[Rows], Rows]:
        """What makes further arrays of a batch of the model's answers to it, where the task asks for some."""
        return self.plan.task.judge(self.plan)

    @property
    def step(self) -> int:
        """The completed updates with which the loop begins."""
        return self.state.step

    @property
    def restored(self) -> weights.Arrays | None:
        """State of the optimizer to load; None at a beginning."""
        return self.state.optimizer

    @property
    def command(self) -> str:
        """What starts this run again, in words where a launcher has to start it several times."""
        command = shlex.join(("python", "-m", f"{self.engine}.train", *arguments(self.config)))
        several = self.devices.num_processes
        return f"start {several} processes as before, each as {command}" if several > 1 else command

    def __exit__(self, _: object, error: BaseException | None, *trace: object) -> None:
        if error and is_out_of_memory(error):
            error = of_memory(error, MEMORY_FLAGS)
        elif error and self.devices.has_lost(error):
            error = UserError(
                f"Another process of this run has ended or cannot be reached ({reason(error)}); see what it said."
            )
        checkpoints = self.folder.checkpoints
        try:
            checkpoints.close()
        except UserError as unsaved:
            error = error or unsaved
        self._stack.close()
        if isinstance(error, UserError):
            raise UserError(f"{error} {checkpoints.what_is_left()}" if self.writes else str(error)) from error


class Run(Opened):
    """What `main` of an engine sees of a run: everything but its mathematics, as a context manager around the loop."""

    @property
    def seconds(self) -> float:
        """How long the run has taken, without its interruptions and what they undid."""
        return round(self.state.seconds + time.monotonic() - self.started, 1)

    def train_batches(self) -> Iterator[dict[str, np.ndarray]]:
        """The batches of the steps that remain."""
        split, columns = self.feed.training()
        share = self.devices.process, self.devices.num_processes
        batches = TrainBatches(
            split, self.recipe, self.config.seed, *share, self.plan.model_config, columns, self.devices.num_devices,
            self.feed.makers,
        )  # fmt: skip
        prepared = prefetch(batches, range(self.step, self.recipe.num_steps), self.feed.workers)
        return self.log.begin(prepared) if self.writes else prepared

    def judged(self, rows: Rows) -> Rows:
        """What a step needs besides its batch: what the task makes of the model's answers, of this process's share of them."""
        share = [np.split(values, self.devices.num_processes)[self.devices.process] for values in rows.values()]
        return self._judge(dict(zip(rows, share)))

    def count(self, step: int, measured: dict[str, SupportsFloat]) -> None:
        """Note what a step measures. The first two are waited for, to learn how long a run takes."""
        for name in self.recipe.measures:  # in this order, in which a compiled step need not return them
            self.state.measured.setdefault(name, []).append(measured[name])
        if step - self.step <= 2:
            float(measured["loss"])
        if self.writes:
            self.log.count(step)

    def wants_log(self, step: int) -> bool:
        """Whether losses are read after `step` completed updates."""
        return self.due.log(step)

    def log_training(self, step: int) -> None:
        """Record the means of what was measured since the last call; a loss that is not finite ends the run."""
        means = self.state.means(step)
        self.state.measured = {}
        if self.writes:
            self.log.training(step, means)

    def evaluators_due(self, step: int) -> Iterator[Evaluator]:
        """What judges the model after `step` completed updates."""
        return self._prepared([name for name in self.plan.periods if self.due.evaluation(step, name)])

    def final_evaluators(self) -> Iterator[Evaluator]:
        """What judges the model once training has ended: all that there are."""
        return self._prepared(self.plan.evaluators())

    def _prepared(self, names: Collection[str]) -> Iterator[Evaluator]:
        evaluators = self.plan.evaluators() if names else {}
        for name in names:
            if name in evaluators:
                self.evaluation_started = time.monotonic()
                yield Prepared(evaluators[name], lambda batches, name=name: self._eval_batches(batches, name))

    def _eval_batches(self, batches: EvalBatches, name: str) -> Iterator[dict[str, np.ndarray]]:
        """Of every batch this process's share; where nothing is lost by it, a signal ends the run."""
        batches = batches.on(self.devices, self.feed.decoded(batches.split))
        prepared = prefetch(batches, range(len(batches)), self.feed.workers)
        for number, batch in enumerate(follow(prepared, len(batches), name) if self.writes else prepared):
            if self.due.is_last(self.state.saved_step) and (self.devices.num_processes == 1 or number == 0):
                self.due.listen()
                self._stop_if_asked()
            yield batch

    def log_evaluation(self, step: int, evaluator: Evaluator, result: dict[str, float]) -> bool:
        """Record an evaluation; True when it is the best so far and the run keeps the best."""
        name, (judge, metric) = evaluator.name, self.plan.best
        if "loss" in result:
            check_finite(result["loss"], f"{name} loss after step {step}")
        if self.writes:
            self.log.evaluation(step, name, result, time.monotonic() - self.evaluation_started)
        self.state.results[name] = result.get(metric, next(iter(result.values())))  # zero-shot's is top-1
        better = self.config.keep_best and name == judge
        better = better and is_better(metric, result[metric], self.state.best)
        if better:
            self.state.best = result[metric]
        return better

    def log_result(self, evaluator: Evaluator, result: dict[str, float]) -> None:
        """Record an evaluation of the end, and leave its files."""
        if self.writes:
            evaluator.write(self.folder.path)
        self.log_evaluation(self.recipe.num_steps, evaluator, result)

    @property
    def best(self) -> float | None:
        """The best evaluation so far, where the run keeps its weights."""
        return self.state.best

    def write_best(self, arrays: weights.Arrays) -> None:
        """Keep the weights of the best evaluation so far beside the run's checkpoints."""
        if self.writes:
            kept = self.plan.kept_config
            self.folder.write_best({name: arrays[name] for name in kept.parameter_shapes()}, kept)

    def read_best(self) -> weights.Arrays:
        """What `write_best` kept; what is of use in training only is as this run began."""
        kept = self.folder.read_best(self.plan.kept_config, writes=self.writes)
        return self.plan.models["model"].arrays | kept

    def wants_checkpoint(self, step: int) -> bool:
        """Whether a checkpoint follows `step` completed updates."""
        is_writing = self.folder.checkpoints.is_writing()  # a failure ends the run here, not when the next one is due
        return self.due.checkpoint(step, is_writing=is_writing)

    def save(self, step: int, model: weights.Arrays, optimizer: weights.Arrays) -> None:
        """Write a checkpoint in the background; ends the run if a signal asked for it.

        What is not finite is no checkpoint: it ends the run.
        """
        self.state.means(step)
        if self.writes:
            parts = {"model": model, "optimizer": optimizer}
            arrays = {f"{part}/{name}": array for part in parts for name, array in parts[part].items()}
            facts = resume.facts(self.plan, self.state, self.engine) | {"seconds": self.seconds}
            self.folder.checkpoints.save(step, arrays, facts | {"metrics_lines": self.log.metrics.num_lines})
        self.state.saved_step = step
        self.due.saved()
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.due.signal:
            with together(self.devices):
                self.folder.checkpoints.wait()
            if self.writes:
                self.log.say(f"Stopped after step {self.state.saved_step:,}; to resume: {self.command}")
            raise SystemExit(128 + self.due.signal)

    def finish(self, arrays: weights.Arrays) -> None:
        """Leave the weights in their published layout, the card and the curves."""
        with together(self.devices):
            if self.writes:
                self._finish(arrays)

    def _finish(self, arrays: weights.Arrays) -> None:
        self.folder.checkpoints.wait()
        card = self.plan.card(self.engine) | {"accuracy": self.state.results, "seconds": self.seconds}
        if self.recipe.lora:
            self.log.say(write_adapter(self.folder.path, arrays, self.plan.model_config, self.recipe.groups))
        self.folder.finish(*self.plan.after_training(arrays), card)
        self.log.say(f"Wrote {self.folder.place}/weights.npz, card.json and curves.png")
        self.folder.publish()


def named(config: TrainConfig) -> TrainConfig:
    """The same with a name, if it has none: of the dataset, the model and the moment."""
    if config.name:
        return config
    moment = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"  # runs may start in the same second
    return dataclasses.replace(config, name=in_one_word(f"{Path(config.dataset).name}_{config.model}_{moment}"))
