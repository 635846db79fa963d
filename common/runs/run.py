"""A training run: what it prepares before the first step, and what it leaves in `{logdir}/{name}/`.

`config.json`, `recipe.json`, `environment.json`, `train.log`, `metrics.jsonl`, the checkpoints, and at the end
`weights.npz`, `card.json`, `predictions.npz` and `curves.png`; with --tensorboard, an event file.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import secrets
import shlex
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Self, SupportsFloat

import numpy as np

from common import weights
from common.config import MEMORY_FLAGS, TrainConfig, periods
from common.data.batches import EvalBatches, TrainBatches, prefetch
from common.data.checked import checked, open_turned
from common.data.sources import Opener
from common.data.split import SPLITS, Split, choose_splits
from common.evaluation.metrics import Keep, accuracies
from common.evaluation.predictions import PREDICTIONS, Predictions, write_predictions
from common.flags import arguments, changes, check, scoped
from common.models import find_model, with_noise
from common.models.cards import Preprocessing
from common.models.families import dump_config
from common.recipes.create import create_recipe
from common.recipes.groups import trained
from common.recipes.recipe import Recipe, check_sharing, upgraded
from common.recipes.task import Classification
from common.reports import curves
from common.reports.record import read_record
from common.runs import events
from common.runs.checkpoint import Checkpoint, Checkpoints
from common.runs.extend import RATES, Finished, is_number
from common.runs.mirror import RemoteRun
from common.system import remote as storage
from common.system.environment import environment
from common.system.errors import UserError, is_out_of_memory, of_memory, reason
from common.system.files import locked_log, read_regular, remove_leftovers, write_atomically, write_json
from common.system.interruption import Interruption
from common.system.processes import MOST, Devices, together
from common.system.progress import Progress, duration, follow

WORTH_TELLING_SECONDS, LONG_SECONDS = 30, 600  # that a run takes
SHORT = {"crop": 128, "steps": 100, "batch": 32}  # what fine-tunes within minutes on two CPU cores


class Run:
    """Everything about a run but its mathematics; used as a context manager around the training loop.

    `config` holds the flags, and `engine` is the package that computes. What is missing or wrong (weights, images,
    numbers that contradict one another) raises UserError here, before a framework is imported or a file written;
    the folder is made when the context is entered. `folder`, `recipe` and `splits` tell what a run is about.
    """

    def __init__(self, config: TrainConfig, engine: str, open_torchvision: Opener | None = None):
        check(config)
        model = find_model(config.model)
        given = {} if config.eval_every is None else periods(config.eval_every)
        dataset = checked(open_turned(config, open_torchvision), config, (*SPLITS, *given))
        self.splits = choose_splits(dataset, config, given)
        self.recipe = create_recipe(config, len(self.splits["train"]), dataset.image_size, dataset.recipe)
        self.engine, self.dataset = engine, dataset
        self.finished = Finished(config) if config.extend_from else None
        if self.finished:
            self.finished.check(self.recipe.num_steps, dataset.class_names)
            path = self.finished.weights
        else:
            path = weights.choose_file(model, config.weights, config.bit_pretrained_dir)
        size, self.adapted = (self.recipe.crop, self.recipe.crop), [*dataset.notes]
        self.model_config, self.initial, card = weights.starting_values(
            model, path, dataset.num_classes, config.seed, image_size=size, head_bias=self.recipe.head_bias,
            say=self.adapted.append,
        )  # fmt: skip
        prepared = self.recipe.crop, self.recipe.eval_resize, self.recipe.eval_resize_kind
        scaling = card.preprocessing.mean, card.preprocessing.std
        self.preprocessing = Preprocessing(*prepared, *scaling, config.exif)
        self.model_config = with_noise(self.model_config, self.recipe.dropout, self.recipe.stochastic_depth)
        self.workers = config.workers or os.cpu_count()
        self.periods = {"val": max(1, self.recipe.num_steps // 10)} | given
        if config.tensorboard:
            events.check_installed()
        if config.keep_best and "val" not in self.splits:
            raise UserError("--keep_best needs a val split to choose by; give --val_fraction as well.")
        moment = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"  # runs may start in the same second
        name = f"{Path(config.dataset).name}_{config.model}_{moment}"
        self.is_named, self.devices = bool(config.name), Devices()
        self.config = dataclasses.replace(config, name=config.name or name.replace("/", "_").replace(":", "_"))
        self.remote = None
        self.folder = self.place = Path(config.logdir) / self.config.name
        if storage.is_remote(config.logdir):
            self.remote = RemoteRun(f"{config.logdir.rstrip('/')}/{self.config.name}")
            self.folder, self.place = self.remote.folder, self.remote.url
        self.checkpoint_every = config.checkpoint_every
        if self.checkpoint_every is None:
            self.checkpoint_every = min(1000, self.recipe.num_steps // 10)  # 0, only at the end, below ten steps
        self.checkpoint_is_due, self.signal = False, 0
        self.step, self.saved_step, self.restored, self.losses = 0, 0, None, []
        self.best, self.results, self.seconds_before, self.took_up = None, {}, 0.0, ""
        if not self.remote:
            self._claim_folder()  # and once more when it is locked

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
                    self._open_folder(stack)
            with together(self.devices):
                if not self.writes:
                    self._follow_folder(stack)
                self._check_sameness()
            self.interruption = stack.enter_context(Interruption())
            self._open = stack.pop_all()
        self.started = time.monotonic()
        return self

    def _check_devices(self) -> None:
        """Raise UserError where the devices cannot work together on this run."""
        if self.devices.num_processes > 1 and not self.is_named:
            raise UserError(
                f"{self.devices.num_processes} processes work on this run and need one folder; give it a --name."
            )
        check_sharing(self.recipe, self.devices.num_devices)

    def _open_folder(self, stack: contextlib.ExitStack) -> None:
        """Lock the folder and take up what it holds."""
        if self.remote:
            stack.enter_context(self.remote)
        log = stack.enter_context(locked_log(self.folder / "train.log"))
        remove_leftovers(self.folder)
        self._claim_folder()
        self.checkpoints = Checkpoints(self.folder, *([self.remote.publish_checkpoint] if self.remote else []))
        checkpoint = self.checkpoints.restore()
        num_lines = self._continue_from(checkpoint) if checkpoint else 0
        if self.finished and not checkpoint:
            self._extend()
        if self.best is not None and not self.remote and not (self.folder / "best.npz").exists():
            raise UserError(
                f"{self.folder}/best.npz, the weights of the best evaluation so far, is missing; restore it, or start "
                "again under another --name."
            )
        write_json(self.folder / "config.json", dataclasses.asdict(self.config))
        write_json(self.folder / "recipe.json", self.recipe.record())
        write_json(self.folder / "environment.json", environment(self.engine))
        self.metrics = Metrics(self.folder / "metrics.jsonl", num_lines, tensorboard=self.config.tensorboard)
        self.progress = Progress(self.recipe.num_steps, self.step, self.recipe.batch, log)
        stack.callback(self.progress.close)
        for line in (*self.checkpoints.damaged, *self.metrics.damaged, self.summary(), *self.adapted):
            self.progress.say(line)

    def _follow_folder(self, stack: contextlib.ExitStack) -> None:
        """Take up what the folder of the process that writes holds, and leave it as it is."""
        if self.remote:
            self.remote = RemoteRun(self.remote.url, copy=self.devices.process)
            self.folder = stack.enter_context(self.remote).folder
        self.checkpoints = Checkpoints(self.folder)
        if checkpoint := self.checkpoints.restore():
            self._continue_from(checkpoint)
        elif self.finished:
            self._extend()

    def _check_sameness(self) -> None:
        """Raise UserError where processes are about to do different things."""
        own = scoped(TrainConfig, "machine")
        config = {name: value for name, value in dataclasses.asdict(self.config).items() if name not in own}
        facts = json.dumps([config, self._constants, self.step, self.losses, self.best])
        number = int(hashlib.sha256(facts.encode()).hexdigest()[:7], 16)
        if self.devices.agree(number) != MOST - self.devices.agree(MOST - number):
            raise UserError(
                f"The processes of this run do not see the same images, flags and checkpoint (process "
                f"{self.devices.process} is at step {self.step}); give all the same command, and a --logdir and images "
                "that all of them see."
            )

    def __exit__(self, _: object, error: BaseException | None, *trace: object) -> None:
        if error and is_out_of_memory(error):
            error = of_memory(error, MEMORY_FLAGS)
        elif error and self.devices.has_lost(error):
            error = UserError(
                f"Another process of this run has ended or cannot be reached ({reason(error)}); see what it said."
            )
        try:
            self.checkpoints.close()
        except UserError as unsaved:
            error = error or unsaved
        self._open.close()
        if isinstance(error, UserError):
            raise UserError(f"{error} {self.checkpoints.what_is_left()}" if self.writes else str(error)) from error

    def _claim_folder(self) -> None:
        """Raise UserError where the folder holds a finished run or one with other flags."""
        path = self.folder / "config.json"
        if (self.folder / "weights.npz").exists():
            raise UserError(f"{self.place} holds a finished run; choose another --name, or remove the folder.")
        if path.exists():
            try:
                old = json.loads(read_regular(path))
                if not isinstance(old, dict):
                    raise ValueError(f"it holds {old}")  # noqa: TRY004
            except (OSError, ValueError) as error:
                raise UserError(
                    f"{path} cannot be read ({error}); restore it, choose another --name, or remove {self.place}."
                ) from error
            self._check_config(old)

    def _check_config(self, old: dict[str, Any]) -> None:
        for name, before, now in changes(old, self.config):
            raise UserError(
                f"{self.place} holds a run with --{name} {before}, not {now}; continue it with the flags in its "
                "config.json, or choose another --name."
            )

    def _continue_from(self, checkpoint: Checkpoint) -> int:
        """Take up the state of a checkpoint of this run; returns the number of its metrics lines."""
        facts, where = checkpoint.facts, f"The checkpoint in {self.place}"
        self._check_facts(checkpoint, where)
        self._check_config(facts["config"])
        self._check_constants(facts["constants"], where)
        self._take_up(checkpoint, where)
        self.saved_step, self.losses, self.best = checkpoint.step, facts["losses"], facts["best"]
        self.took_up = f"Continuing after step {self.step:,}, which {facts['engine']} saved"
        return facts["metrics_lines"]

    def _extend(self) -> None:
        """Take up the end of the run that this one makes longer; losses, metrics and checkpoints are this one's own."""
        checkpoint, place = self.finished.restore(), self.finished.folder
        self.step, self.seconds_before = self.finished.num_steps, self.finished.seconds
        if checkpoint:
            where = f"The checkpoint in {place}"
            self._check_facts(checkpoint, where)
            self._check_constants(checkpoint.facts["constants"], where, besides=RATES)
            self._take_up(checkpoint, where)
            self.best = checkpoint.facts["best"] if self.config.keep_best else None
            if self.best is not None and self.writes:
                best = weights.read_weights(place / "best.npz", self.model_config)
                weights.write_weights(self.folder / "best.npz", best, self.model_config)
        self.took_up = self.finished.describe(bool(checkpoint), self.recipe.lrs)

    def _take_up(self, checkpoint: Checkpoint, where: str) -> None:
        """Its step, time, parameters and state of the optimizer, which must be of this model and recipe."""
        parts = {part: weights.below(checkpoint.arrays, part) for part in ("model", "optimizer")}
        shapes, state = self.model_config.parameter_shapes(), ["first"]
        state += ["second"] * (self.recipe.optimizer == "adam") + ["average"] * bool(self.recipe.ema)
        names = trained(self.recipe.groups, shapes)
        weights.check_shapes(parts["model"], shapes, where)
        weights.check_shapes(
            parts["optimizer"], {f"{kind}/{name}": shapes[name] for kind in state for name in names}, where
        )
        self.step, self.seconds_before = checkpoint.step, checkpoint.facts["seconds"]
        self.initial, self.restored = parts["model"], parts["optimizer"]

    def _check_facts(self, checkpoint: Checkpoint, where: str) -> None:
        """Raise UserError for what no run of ours has written."""
        for name, fits in FACTS.items():
            if name not in checkpoint.facts:
                raise UserError(
                    f"{where} lacks {name}, which this version writes; finish it with the version that made it."
                )
            if not fits(checkpoint.facts[name]):
                found = repr(checkpoint.facts[name])[:80]
                raise UserError(f"{where} holds {found} as {name}, which no run has written; restore or remove it.")
        if checkpoint.step > self.recipe.num_steps:
            raise UserError(
                f"{where} is of step {checkpoint.step:,} of a run of {self.recipe.num_steps:,}; restore or remove it."
            )
        for name, array in checkpoint.arrays.items():
            if array.dtype.kind != "f":
                raise UserError(f"{where} holds {name} as {array.dtype}, expected floats; restore or remove it.")

    def _check_constants(self, before: dict[str, Any], where: str, besides: Collection[str] = ()) -> None:
        """Raise UserError where a checkpoint is of other images or another recipe; fields that it lacks had their default."""
        defaults = {item.name: item.default for item in dataclasses.fields(Recipe)} | scaling(Preprocessing())
        defaults |= {item.name: item.default for item in dataclasses.fields(self.recipe.task)}
        defaults["task"], before = Classification.name, upgraded(before)
        for name, value in self._constants.items():
            if name not in besides and before.get(name, defaults.get(name)) != value:
                raise UserError(
                    f"{where} was made with {before.get(name, defaults.get(name))} as {name}, not {value}; choose another "
                    "--name, or bring back the images and the version that it was made with."
                )

    @functools.cached_property
    def _constants(self) -> dict[str, Any]:
        """What a run keeps from its first step to its last, besides its flags: also every checkpoint states it."""
        recipe = self.recipe.constants() | {"num_steps": self.recipe.num_steps}
        recipe = {name: value for name, value in recipe.items() if name not in scoped(TrainConfig, "run")}
        recipe["lrs"] = f"SHA-256 {hashlib.sha256(json.dumps(recipe['lrs']).encode()).hexdigest()}"
        splits = {name: self.splits[name] for name in SPLITS if name in self.splits}
        counts = {f"number of {name} images": len(split) for name, split in splits.items()}
        labels = {f"classes of {name} images": self._digest_of_classes(split) for name, split in splits.items()}
        return recipe | scaling(self.preprocessing) | counts | labels

    def _digest_of_classes(self, split: Split) -> str:
        """Of which class each image is, by the classes' names."""
        digest = hashlib.sha256(json.dumps(self.dataset.class_names).encode())
        labels = (split.labels.classes, split.labels.first) if split.is_multi_label else (split.labels,)
        for numbers in labels:
            digest.update(numbers.astype(np.int64).tobytes())
        return f"SHA-256 {digest.hexdigest()}"

    def summary(self) -> str:
        """What a person wants to know before the first step."""
        config, recipe = self.config, self.recipe
        sizes = ", ".join(f"{len(split):,} {name}" for name, split in self.splits.items())
        side = "smaller side at " if recipe.resize_mode == "small_side" else ""
        box = (
            f"boxes of at least {recipe.crop_min_area:.0%}" if recipe.crop_min_area < 1 else f"{side}{recipe.resize} px"
        )
        return (
            f"{config.model} on {config.dataset} ({self.dataset.num_classes} classes; {sizes} images), {self.engine}\n"
            f"{recipe.num_steps} steps of {recipe.batch} images, {box} -> {recipe.crop} px, "
            f"learning rate up to {max(recipe.lrs):g}, mixup {recipe.mixup:g}{self._frozen()}\n"
            f"Folder {self.place}; to resume: {self.command}" + (f"\n{self.took_up}" if self.took_up else "")
        )

    def _frozen(self) -> str:
        """What --train_only leaves to train, in words."""
        count = len(trained(self.recipe.groups, self.initial))
        return f", {count} of {len(self.initial)} parameter arrays trained" if count < len(self.initial) else ""

    @property
    def command(self) -> str:
        """What starts this run again, in words where a launcher has to start it several times."""
        command = shlex.join(("python", "-m", f"{self.engine}.train", *arguments(self.config)))
        several = self.devices.num_processes
        return f"start {several} processes as before, each as {command}" if several > 1 else command

    def train_batches(self) -> Iterator[dict[str, np.ndarray]]:
        """The batches of the steps that remain."""
        if self.writes:
            self.progress.begin()
        share = self.devices.process, self.devices.num_processes
        batches = TrainBatches(self.splits["train"], self.recipe, self.config.seed, *share, config=self.model_config)
        prepared = prefetch(batches, range(self.step, self.recipe.num_steps), self.workers)
        if self.writes and self.metrics.events:
            prepared = self.metrics.events.with_first_images(prepared, self.step + 1)
        return prepared

    def eval_batches(self, split: str) -> Iterator[dict[str, np.ndarray]]:
        """Every example of one split, at the resolution of the recipe; of every batch, this process's share."""
        recipe, devices, prepared = self.recipe, self.devices, self.preprocessing
        self.evaluation_started = time.monotonic()
        batch_eval = -(-recipe.batch_eval // devices.num_devices) * devices.num_devices  # what is too much is masked
        share = devices.process, devices.num_processes
        batches = EvalBatches(self.splits[split], prepared, batch_eval, *share)
        prepared = prefetch(batches, range(len(batches)), self.workers)
        for number, batch in enumerate(follow(prepared, len(batches), split) if self.writes else prepared):
            if self.saved_step == recipe.num_steps and (devices.num_processes == 1 or number == 0):
                self._listen()  # nothing is lost when it ends here
                self._stop_if_asked()
            yield batch

    @property
    def final_splits(self) -> list[str]:
        """The splits that are evaluated once training has ended."""
        return [split for split in self.splits if split != "train"]

    def keeper(self, split: str) -> Keep | None:
        """What `evaluate` tells its predictions on `split`: those on the held-out images, of one class each, are kept."""
        images, held_out = self.splits[split], "test" if "test" in self.splits else "val"
        if split != held_out or images.is_multi_label:
            return None

        def keep(predicted: np.ndarray, probability: np.ndarray) -> None:
            if self.writes:
                count = len(images)  # the last batch is padded
                found = Predictions(split, images.labels, predicted[:count], probability[:count])
                write_predictions(self.folder / PREDICTIONS, found)

        return keep

    def show_step(self, step: int, loss: SupportsFloat) -> None:
        """Show that a step has been given to the devices. The first two are waited for, to tell how long a run takes."""
        number, num_steps = step - self.step, self.recipe.num_steps
        if number <= 2:
            float(loss)
        if not self.writes:
            return
        seconds = self.progress.count(step)
        if number == 1:
            self.progress.say(f"The first step took {duration(seconds)}, with what is made once.")
        elif number == 2 and (left := seconds * (num_steps - step)) > WORTH_TELLING_SECONDS:
            self.progress.say(
                f"The second took {duration(seconds)}: about {duration(left)} for the {num_steps - step:,} that are left, "
                f"besides evaluation.{self._shorter() if left > LONG_SECONDS else ''}"
            )

    def _shorter(self) -> str:
        """Which flags make a run short, if they change anything."""
        numbers = {"crop": self.recipe.crop, "steps": self.recipe.num_steps, "batch": self.recipe.batch}
        flags = [f"--{name} {SHORT[name]}" for name in SHORT if numbers[name] > SHORT[name]]
        return f" For a first look, as on a CPU: {' '.join(flags)}" if flags else ""

    def wants_log(self, step: int) -> bool:
        """Whether losses are read after `step` completed updates."""
        return step % self.config.log_every == 0 or step == self.recipe.num_steps

    def splits_due(self, step: int) -> list[str]:
        """The splits that are evaluated after `step` completed updates; the end of the run evaluates all of them anyway."""
        due = [
            split for split, period in self.periods.items() if split in self.splits and period and step % period == 0
        ]
        if step == self.recipe.num_steps:
            return [split for split in due if split == "val" and self.config.keep_best]
        return due

    def wants_checkpoint(self, step: int) -> bool:
        """Whether a checkpoint follows `step` completed updates: one is due, the run ends, or a signal asks for it.

        One that is due while the one before is still being written waits for a later step, not the step for it. All
        processes must decide alike: several ask one another for signals only where they wait for losses anyway, and
        never how far the one that writes has come.
        """
        is_writing = self.checkpoints.is_writing()  # a failure ends the run here, not only when the next one is due
        if self.checkpoint_every and step % self.checkpoint_every == 0:
            self.checkpoint_is_due = True
        alone = self.devices.num_processes == 1
        if alone or self.wants_log(step):
            self._listen()
        must = step == self.recipe.num_steps or self.signal
        return bool(must or (self.checkpoint_is_due and not (alone and is_writing)))

    def _listen(self) -> None:
        """Learn of a signal that any process has received."""
        self.signal = self.devices.agree(self.interruption.signal or 0)

    def log_training(self, step: int, losses: list[float]) -> None:
        """Record the mean of the losses since the last call; a loss that is not finite ends the run."""
        loss = self._mean_loss(step, losses)
        if self.writes:
            speed = self.progress.advance(step, loss)
            self.metrics.write(
                step, {"train/loss": loss, "train/lr": self.recipe.lrs[step - 1], "images_per_second": round(speed, 1)}
            )

    def _mean_loss(self, step: int, losses: list[float]) -> float:
        loss = sum(losses) / len(losses)
        self._check_finite(loss, f"loss between steps {step - len(losses)} and {step}")
        return loss

    def log_evaluation(self, step: int, split: str, result: dict[str, float]) -> bool:
        """Record an evaluation; True when it is the best `val` so far and the run keeps the best."""
        self._check_finite(result["loss"], f"{split} loss after step {step}")
        if self.writes:
            self.progress.exclude(time.monotonic() - self.evaluation_started)
            self.metrics.write(step, {f"{split}/{name}": value for name, value in result.items()})
            told = accuracies(result, self.dataset.num_classes)
            self.progress.say(f"step {step:,}: {split} {told}, loss {result['loss']:.4f}")
        self.results[split] = result["top1"]
        better = split == "val" and self.config.keep_best and (self.best is None or result["top1"] > self.best)
        if better:
            self.best = result["top1"]
        return better

    def _check_finite(self, loss: float, what: str) -> None:
        if not math.isfinite(loss):
            raise UserError(
                f"The {what} is not finite; start again under another --name with a lower --base_lr or longer "
                "--warmup_steps."
            )

    def write_best(self, arrays: weights.Arrays) -> None:
        """Keep the weights of the best `val/top1` beside the run's checkpoints."""
        if self.writes:
            weights.write_weights(self.folder / "best.npz", arrays, self.model_config)

    def read_best(self) -> weights.Arrays:
        """What `write_best` kept."""
        if self.remote and not self.writes:
            self.remote.fetch("best.npz", self.folder / "best.npz")
        return weights.read_weights(self.folder / "best.npz", self.model_config)

    def save(self, step: int, model: weights.Arrays, optimizer: weights.Arrays, losses: list[float]) -> None:
        """Write a checkpoint of parameters and optimizer state in the background; ends the run if a signal asked for it.

        `losses` are those since the last `log_training`. What is not finite is no checkpoint: it ends the run.
        """
        if losses:
            self._mean_loss(step, losses)
        if self.writes:
            self._save(step, {"model": model, "optimizer": optimizer}, losses)
        self.saved_step, self.checkpoint_is_due = step, False
        self._stop_if_asked()

    def _save(self, step: int, parts: dict[str, weights.Arrays], losses: list[float]) -> None:
        arrays = {f"{part}/{name}": array for part in parts for name, array in parts[part].items()}
        facts = {
            "seed": self.config.seed,
            "engine": self.engine,
            "config": dataclasses.asdict(self.config),
            "constants": self._constants,
            "losses": losses,
            "metrics_lines": self.metrics.num_lines,
            "best": self.best,
            "seconds": self.seconds,
        }
        self.checkpoints.save(step, arrays, facts)

    def _stop_if_asked(self) -> None:
        if self.signal:
            with together(self.devices):
                self.checkpoints.wait()
            if self.writes:
                self.progress.say(f"Stopped after step {self.saved_step:,}; to resume: {self.command}")
            raise SystemExit(128 + self.signal)

    @property
    def seconds(self) -> float:
        """How long the run has taken, without its interruptions and what they undid."""
        return round(self.seconds_before + time.monotonic() - self.started, 1)

    def finish(self, arrays: weights.Arrays) -> None:
        """Leave the weights in their published layout, the card and the curves."""
        with together(self.devices):
            if self.writes:
                self._finish(arrays)

    def _finish(self, arrays: weights.Arrays) -> None:
        self.checkpoints.wait()
        card = {
            "model": self.config.model,
            "class_names": self.dataset.class_names,
            **dataclasses.asdict(self.preprocessing),
            "skipped_images": self.dataset.skipped,
            "loss": self.recipe.task.loss,
            "config": dump_config(self.model_config),
            "source": f"{self.engine}, {self.config.dataset}, {self.recipe.name}, {self.recipe.num_steps} steps",
            "accuracy": self.results,
            "seconds": self.seconds,
        }
        write_json(self.folder / "card.json", card)
        curves.write_png([read_record(self.folder)], self.folder / "curves.png")
        weights.write_weights(self.folder / "weights.npz", arrays, self.model_config)
        self.progress.say(f"Wrote {self.place}/weights.npz, card.json and curves.png")
        if self.remote:
            self.remote.publish()


def is_count(value: Any) -> bool:
    """Whether what JSON holds is a whole number, 0 or more."""
    return type(value) is int and value >= 0


FACTS = {  # what a checkpoint tells of its run, besides its step and arrays, and what it has to be
    "engine": lambda value: isinstance(value, str),
    "config": lambda value: isinstance(value, dict),
    "constants": lambda value: isinstance(value, dict),
    "losses": lambda value: isinstance(value, list) and all(map(is_number, value)),
    "metrics_lines": is_count,
    "best": lambda value: value is None or is_number(value),
    "seconds": lambda value: is_number(value) and value >= 0,
}


def scaling(preprocessing: Preprocessing) -> dict[str, list[float]]:
    """By which numbers pixels become what the model sees, as JSON keeps them."""
    return {"mean": list(preprocessing.mean), "std": list(preprocessing.std)}


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
