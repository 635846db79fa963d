"""A training run: what it prepares before the first step, and what it leaves in `{logdir}/{name}/`.

`config.json`, `recipe.json`, `train.log`, `metrics.jsonl`, the checkpoints, and at the end `weights.npz`, `card.json`
and `curves.png`.
"""

import dataclasses
import json
import math
import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common import report, weights
from common.batches import EvalBatches, TrainBatches, prefetch
from common.checkpoint import Checkpoints
from common.config import TrainConfig
from common.datasets import Dataset, Opener, Split, carve, few_shot, open_dataset
from common.errors import UserError
from common.files import write_atomically
from common.models import find_model
from common.progress import Progress, follow
from common.recipes import create_recipe

FREE = {
    "logdir",
    "bit_pretrained_dir",
    "datadir",
    "tfds_data_dir",
    "workers",
    "log_every",
    "eval_every",
    "checkpoint_every",
}


class Run:
    """Everything about a run but its mathematics; used as a context manager around the training loop."""

    def __init__(self, config: TrainConfig, engine: str, open_torchvision: Opener | None = None):
        model = find_model(config.model)
        dataset = open_dataset(config.dataset, config.datadir, config.tfds_data_dir, open_torchvision)
        self.splits = choose_splits(dataset, config)
        self.recipe = create_recipe(config, len(self.splits["train"]), dataset.image_size, dataset.recipe)
        self.engine, self.dataset = engine, dataset
        path = weights.choose_file(model, config.weights, config.bit_pretrained_dir)
        self.model_config, self.initial = weights.starting_values(model, path, dataset.num_classes, config.seed)
        self.workers = config.workers or os.cpu_count()
        self.eval_every = config.eval_every if config.eval_every is not None else max(1, self.recipe.num_steps // 10)
        if config.keep_best and "val" not in self.splits:
            raise UserError("--keep_best needs a val split to choose by; give --val_fraction as well.")
        name = f"{Path(config.dataset).name}_{config.model}_{time.strftime('%Y%m%d-%H%M%S')}"
        self.config = dataclasses.replace(config, name=config.name or name.replace("/", "_").replace(":", "_"))
        self.folder = Path(config.logdir) / self.config.name
        self.step, self.restored, self.best, self.results = 0, None, None, {}

    def __enter__(self) -> "Run":
        self._claim_folder()
        self.checkpoints = Checkpoints(self.folder)
        checkpoint = self.checkpoints.restore()
        if checkpoint:
            self.step, arrays = checkpoint
            self.restored = {part: weights.below(arrays, part) for part in ("model", "optimizer")}
        self.metrics = Metrics(self.folder / "metrics.jsonl", self.step)
        self.progress = Progress(self.recipe.num_steps, self.step, self.recipe.batch, self.folder / "train.log")
        self.progress.say(self.summary())
        self.started = time.monotonic()
        return self

    def __exit__(self, *error) -> None:
        self.progress.close()
        self.checkpoints.close()

    def summary(self) -> str:
        """What a person wants to know before the first step."""
        config, recipe = self.config, self.recipe
        flags = shlex.join(
            word for name, value in self._given() for word in ([name] if value is True else [name, value])
        )
        sizes = ", ".join(f"{len(split):,} {name}" for name, split in self.splits.items())
        box = f"boxes of at least {recipe.crop_min_area:.0%}" if recipe.crop_min_area < 1 else f"{recipe.resize} px"
        return (
            f"{config.model} on {config.dataset} ({self.dataset.num_classes} classes; {sizes} images), {self.engine}\n"
            f"{recipe.num_steps} steps of {recipe.batch} images, {box} -> {recipe.crop} px, "
            f"learning rate up to {max(recipe.lrs):g}, mixup {recipe.mixup:g}\n"
            f"Folder {self.folder}; to resume: python -m {self.engine}.train {flags}"
        )

    def _given(self) -> list[tuple[str, str | bool]]:
        """The flags that differ from their defaults."""
        values = [(f, getattr(self.config, f.name)) for f in dataclasses.fields(self.config)]
        return [(f"--{f.name}", value is True or str(value)) for f, value in values if value != f.default]

    def _claim_folder(self) -> None:
        values = dataclasses.asdict(self.config)
        path = self.folder / "config.json"
        if path.exists():
            old = json.loads(path.read_text())
            changed = [name for name in values if name not in FREE and old.get(name) != values[name]]
            if changed:
                raise UserError(
                    f"{self.folder} holds a run with another --{changed[0]} ({old.get(changed[0])}); "
                    "choose another --name."
                )
            if (self.folder / "weights.npz").exists():
                raise UserError(f"{self.folder} holds a finished run; choose another --name or remove the folder.")
        write_json(path, values)
        write_json(self.folder / "recipe.json", dataclasses.asdict(self.recipe))

    def train_batches(self) -> Iterator[dict[str, np.ndarray]]:
        """The batches of the steps that remain."""
        batches = TrainBatches(self.splits["train"], self.recipe, self.config.seed)
        return prefetch(batches, range(self.step, self.recipe.num_steps), self.workers)

    def eval_batches(self, split: str) -> Iterator[dict[str, np.ndarray]]:
        """Every example of one split, at the resolution of the recipe."""
        recipe = self.recipe
        self.evaluation_started = time.monotonic()
        batches = EvalBatches(self.splits[split], recipe.crop, recipe.resize_kind, recipe.batch_eval)
        return follow(prefetch(batches, range(len(batches)), self.workers), len(batches), split)

    @property
    def final_splits(self) -> list[str]:
        """The splits that are evaluated once training has ended."""
        return [split for split in ("val", "test") if split in self.splits]

    def wants_log(self, step: int) -> bool:
        """Whether losses are read after `step` completed updates."""
        return step % self.config.log_every == 0 or step == self.recipe.num_steps

    def wants_evaluation(self, step: int) -> bool:
        """Whether `val` is evaluated after `step` completed updates; the end of the run evaluates anyway."""
        last = step == self.recipe.num_steps and not self.config.keep_best
        return "val" in self.splits and self.eval_every > 0 and step % self.eval_every == 0 and not last

    def wants_checkpoint(self, step: int) -> bool:
        """Whether a checkpoint follows `step` completed updates."""
        periodic = self.config.checkpoint_every and step % self.config.checkpoint_every == 0
        return bool(periodic or step == self.recipe.num_steps)

    def log_training(self, step: int, losses: list[float]) -> None:
        """Record the mean of the losses since the last call; a loss that is not finite ends the run."""
        loss = sum(losses) / len(losses)
        self._check_finite(loss, f"loss between steps {step - len(losses)} and {step}")
        speed = self.progress.advance(step, loss)
        self.metrics.write(
            step, {"train/loss": loss, "train/lr": self.recipe.lrs[step - 1], "images_per_second": round(speed, 1)}
        )

    def log_evaluation(self, step: int, split: str, result: dict[str, float]) -> bool:
        """Record an evaluation; True when it is the best `val` so far and the run keeps the best."""
        self._check_finite(result["loss"], f"{split} loss after step {step}")
        self.progress.exclude(time.monotonic() - self.evaluation_started)
        self.metrics.write(step, {f"{split}/{name}": value for name, value in result.items()})
        self.progress.say(
            f"step {step:,}: {split} top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%}, loss {result['loss']:.4f}"
        )
        self.results[split] = result["top1"]
        better = split == "val" and self.config.keep_best and (self.best is None or result["top1"] > self.best)
        if better:
            self.best = result["top1"]
        return better

    def _check_finite(self, loss: float, what: str) -> None:
        if not math.isfinite(loss):
            raise UserError(
                f"The {what} is not finite; lower --base_lr or lengthen --warmup_steps. "
                f"Checkpoints, if any were due, are in {self.folder}."
            )

    def write_best(self, arrays: weights.Arrays) -> None:
        """Keep the weights of the best `val/top1` beside the run's checkpoints."""
        weights.write_weights(self.folder / "best.npz", arrays, self.model_config)

    def read_best(self) -> weights.Arrays:
        """What `write_best` kept."""
        return weights.read_weights(self.folder / "best.npz", self.model_config)

    def save(self, step: int, model: weights.Arrays, optimizer: weights.Arrays) -> None:
        """Write a checkpoint of parameters and optimizer state in the background."""
        parts = {"model": model, "optimizer": optimizer}
        self.checkpoints.save(step, {f"{part}/{name}": a for part in parts for name, a in parts[part].items()})

    def finish(self, arrays: weights.Arrays) -> None:
        """Leave the weights in their published layout, the card and the curves."""
        card = {
            "model": self.config.model,
            "class_names": self.dataset.class_names,
            "resolution": self.recipe.crop,
            "resize_kind": self.recipe.resize_kind,
            "group_norm_epsilon": self.model_config.group_norm_epsilon,
            "standardization_epsilon": self.model_config.standardization_epsilon,
            "source": f"{self.engine}, {self.config.dataset}, {self.recipe.name}, {self.recipe.num_steps} steps",
            "accuracy": self.results,
            "seconds": round(time.monotonic() - self.started, 1),
        }
        write_json(self.folder / "card.json", card)
        report.plot_curves([self.folder], self.folder / "curves.png")
        weights.write_weights(self.folder / "weights.npz", arrays, self.model_config)
        self.progress.say(f"Wrote {self.folder / 'weights.npz'}, card.json and curves.png")


class Metrics:
    """`metrics.jsonl`: one object a line, whole lines only."""

    def __init__(self, path: Path, step: int):
        self.path = path
        if path.exists():  # a resumed run repeats what came after its checkpoint
            kept = [line for line in path.read_text().splitlines(keepends=True) if json.loads(line)["step"] <= step]
            write_atomically(path, lambda file: file.write("".join(kept).encode()))

    def write(self, step: int, values: dict[str, float]) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": step} | values) + "\n")


def write_json(path: Path, value) -> None:
    """Write `value` atomically as indented JSON."""
    write_atomically(path, lambda file: file.write((json.dumps(value, indent=1) + "\n").encode()))


def choose_splits(dataset: Dataset, config: TrainConfig) -> dict[str, Split]:
    """`train`, the split `val` that curves and choices may read, and the dataset's held-out split.

    With --val_fraction, `val` is carved from `train`, and a dataset's own `val` is held out like a test set.
    """
    train, splits = dataset.splits["train"], dict(dataset.splits)
    if not ({"val", "test"} & set(splits)) and not config.val_fraction:
        raise UserError(f"{dataset.name} has no held-out part; add val/ or test/, or give --val_fraction.")
    if config.val_fraction:
        if "test" not in splits and "val" in splits:
            splits["test"] = splits["val"]
        train, splits["val"] = carve(train, config.val_fraction)
    if config.examples_per_class:
        train = few_shot(train, dataset.class_names, config.examples_per_class, config.examples_per_class_seed)
    return {"train": train} | {name: splits[name] for name in ("val", "test") if name in splits}
