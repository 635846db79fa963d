"""What a run is made of, found from its flags before a framework is imported or a file written."""

import functools
import hashlib
import json
import re
from collections.abc import Collection
from typing import Any

import numpy as np

from common import weights
from common.config import TrainConfig, periods
from common.data.checked import checked, open_turned
from common.data.sources import Opener
from common.data.split import SPLITS, Split, choose_splits, held_out
from common.evaluation.evaluator import Evaluator
from common.flags import check, scoped
from common.models import ModelConfig, find_model
from common.models.cards import Preprocessing
from common.models.families import dump_config
from common.models.low_rank import merged
from common.recipes.create import create_recipe
from common.recipes.groups import Groups, trained
from common.recipes.moments import state_shapes
from common.recipes.recipe import Recipe
from common.runs import events
from common.runs.extend import Finished
from common.system.errors import UserError
from common.tasks import FURTHER, TASKS, further


class Plan:
    """The images, the recipe, the task and the models of a run.

    What is missing or wrong (weights, images, numbers that contradict one another) raises UserError.
    """

    def __init__(self, config: TrainConfig, open_torchvision: Opener | None = None):
        check(config)
        model = find_model(config.model)
        given = {} if config.eval_every is None else periods(config.eval_every)
        sets = {name: given.pop(name, None) for name in further(config, given)}
        self.config = config
        self.dataset = checked(open_turned(config, open_torchvision), config, (*SPLITS, *given))
        self.splits = choose_splits(self.dataset, config, given)
        own_size = (model.config().image_size or (None,))[0]
        facts = len(self.splits["train"]), self.dataset.image_size, self.dataset.recipe, own_size
        self.recipe_by = lambda config: create_recipe(config, *facts)
        self.recipe = self.recipe_by(config)
        self.finished = Finished(config) if config.extend_from else None
        if self.finished:
            self.finished.check(self.recipe.num_steps, self.dataset.class_names)
        self.weights_file = (
            self.finished.weights
            if self.finished
            else weights.choose_file(model, config.weights, config.bit_pretrained_dir)
        )
        self.notes = [*self.dataset.notes]  # what a person should read before the first step
        self.task = TASKS[self.recipe.task.name]
        self.models = self.task.models(self)
        if self.finished:
            self.finished.check_files(self.files)
        tenth = max(1, self.recipe.num_steps // 10)
        usual = {name: 0 if name in FURTHER else given.get("val", tenth) for name in sets}
        sets = {name: usual[name] if every is None else every for name, every in sets.items()}
        check_locked(config.locked, self.model_config.parameter_shapes())
        check_trained(self.recipe.groups, self.model_config.parameter_shapes(), config.model)
        self.periods = {"val": tenth} | given | sets  # evaluator -> steps between
        if config.tensorboard:
            events.check_installed()
        if config.keep_best and "val" not in self.splits:
            raise UserError("--keep_best needs a val split to choose by; give --val_fraction as well.")

    @property
    def model_config(self) -> ModelConfig:
        """Of the model that is trained."""
        return self.models["model"].config

    def after_training(self, arrays: weights.Arrays) -> tuple[weights.Arrays, ModelConfig]:
        """(arrays, configuration) of what is left of that model when training has ended."""
        config = self.model_config.after_training
        if self.recipe.lora:
            arrays = merged(arrays, self.recipe.lora)
        return {name: arrays[name] for name in config.parameter_shapes()}, config

    @property
    def kept_config(self) -> ModelConfig:
        """Of what --keep_best keeps: with LoRA its matrices beside the kernels, of which `after_training` makes one."""
        return self.model_config if self.recipe.lora else self.model_config.after_training

    @property
    def preprocessing(self) -> Preprocessing:
        """How the model that is trained sees images."""
        return self.models["model"].preprocessing

    @property
    def held_out(self) -> str:
        """The split that is judged once, at the end."""
        return held_out(self.splits)

    @property
    def checkpoint_every(self) -> int:
        """Steps between checkpoints; 0: only at the end, as below ten steps."""
        given = self.config.checkpoint_every
        return min(1000, self.recipe.num_steps // 10) if given is None else given

    @property
    def state_shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """{`model` and `optimizer`: {name: shape}} of what a checkpoint holds."""
        shapes, recipe = self.model_config.parameter_shapes(), self.recipe
        names, by_head = trained(recipe.groups, shapes), self.model_config.shapes_by_head()
        of_optimizer = state_shapes(recipe.optimizer, bool(recipe.ema), names, shapes, by_head)
        return {"model": shapes, "optimizer": of_optimizer}

    @property
    def best(self) -> tuple[str, str]:
        """(evaluator, metric) that a run is judged by: `val`, `top1`."""
        name, _, metric = self.recipe.task.best.rpartition("/")
        return name, metric

    def evaluators(self) -> dict[str, Evaluator]:
        """New ones, by their names."""
        return {evaluator.name: evaluator for evaluator in self.task.evaluators(self)}

    @property
    def files(self) -> dict[str, str]:
        """{name: digest of its file} of the models that are frozen."""
        return {name: start.digest for name, start in self.models.items() if start.frozen}

    @functools.cached_property
    def constants(self) -> dict[str, Any]:
        """What a run keeps from its first step to its last, besides its flags: also every checkpoint states it."""
        recipe = self.recipe.constants() | {"num_steps": self.recipe.num_steps}
        recipe = {name: value for name, value in recipe.items() if name not in scoped(TrainConfig, "run")}
        recipe["lrs"] = digest(json.dumps(recipe["lrs"]).encode())
        splits = {name: self.splits[name] for name in SPLITS if name in self.splits}
        counts = {f"number of {name} images": len(split) for name, split in splits.items()}
        labels = {f"classes of {name} images": self._digest_of_classes(split) for name, split in splits.items()}
        texts = {name: split.captions for name, split in splits.items() if split.captions is not None}
        labels |= {f"captions of {name} images": digest(*own.dump().values()) for name, own in texts.items()}
        files = {f"file of {name}": digest for name, digest in self.files.items()}
        return recipe | scaling(self.preprocessing) | counts | labels | files

    def _digest_of_classes(self, split: Split) -> str:
        """Of which class each image is, by the classes' names."""
        labels = (split.labels.classes, split.labels.first) if split.is_multi_label else (split.labels,)
        numbers = [array.astype(np.int64).tobytes() for array in labels]
        return digest(json.dumps(self.dataset.class_names).encode(), *numbers)

    def summary(self, engine: str) -> str:
        """What a person wants to know of the images and the recipe before the first step."""
        config, recipe = self.config, self.recipe
        sizes = ", ".join(f"{len(split):,} {name}" for name, split in self.splits.items())
        kind = "maps" if any(split.maps for split in self.splits.values()) else "captions"
        shown = f"{self.dataset.num_classes} classes" if self.dataset.num_classes else kind
        return (
            f"{config.model} on {config.dataset} ({shown}; {sizes} images), {engine}\n"
            f"{recipe.num_steps} steps of {recipe.batch} images, {views_in_words(recipe)}, "
            f"learning rate up to {max(recipe.lrs):g}, mixup {recipe.mixup:g}{self._patches()}{self._frozen()}"
        )

    def card(self, engine: str) -> dict[str, Any]:
        """What is known of the model that comes of it, but for how good it is."""
        config, recipe = self.config, self.recipe
        return {
            "model": config.model,
            **self.task.card(self),
            "config": dump_config(self.model_config.after_training),
            "source": f"{engine}, {config.dataset}, {recipe.name}, {recipe.num_steps} steps",
        }

    def _patches(self) -> str:
        """Which sizes patches have where that differs, in words."""
        return f", patches of {self.recipe.patch_sizes.replace(',', ', ')} px" if self.recipe.patch_sizes else ""

    def _frozen(self) -> str:
        """What is left to train where that is not everything, in words."""
        names = self.model_config.parameter_shapes()
        count = len(trained(self.recipe.groups, names))
        return f", {count} of {len(names)} parameter arrays trained" if count < len(names) else ""


def views_in_words(recipe: Recipe) -> str:
    """Which part of an image the model sees in training, at which size."""
    side = "smaller side at " if recipe.resize_mode == "small_side" else ""
    seen, becomes = f"{side}{recipe.resize} px", f"{recipe.crop} px"
    if recipe.token_lengths:
        whole = recipe.resize == recipe.crop
        seen = "whole images" if whole else f"{recipe.crop / recipe.resize:.0%} of each side"
        becomes = f"at most {recipe.token_lengths.replace(',', ', ')} patches"
    if recipe.crop_min_area < 1:
        seen = f"boxes of at least {recipe.crop_min_area:.0%}"
    return f"{seen} -> {becomes}"


def check_locked(pattern: str | None, names: Collection[str]) -> None:
    """Raise UserError for a --locked that fits no parameter."""
    if pattern and not any(re.fullmatch(pattern, name) for name in names):
        raise UserError(f"--locked {pattern} fits no parameter, such as {next(iter(names))}; correct the pattern.")


def check_trained(groups: Groups, names: Collection[str], model: str) -> None:
    """Raise UserError where nothing is left to train."""
    if not trained(groups, names):
        raise UserError(
            f"Nothing of {model} is left to train, which has {len(names)} parameter arrays; change --train_only or --locked."
        )


def scaling(preprocessing: Preprocessing) -> dict[str, list[float]]:
    """By which numbers pixels become what the model sees, as JSON keeps them."""
    return {"mean": list(preprocessing.mean), "std": list(preprocessing.std)}


def digest(*parts: bytes) -> str:
    """`SHA-256 ...` of bytes."""
    return f"SHA-256 {hashlib.sha256(b''.join(parts)).hexdigest()}"
