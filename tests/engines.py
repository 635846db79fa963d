"""The three engines behind one face, for tests that compare them."""

import contextlib
import functools
import gc
import importlib
import importlib.util
import types

import numpy as np
import pytest

from common.evaluation.classification import ClassificationEvaluator
from common.recipes.groups import create_groups
from common.recipes.recipe import Recipe
from common.recipes.task import Classification

FRAMEWORKS = {"bit_pytorch": "torch", "bit_jax": "jax", "bit_tf2": "tensorflow"}
NAMES = tuple(FRAMEWORKS)
TASKS = {loss: Classification(loss) for loss in ("softmax", "sigmoid")}
INSTALLED = tuple(name for name, framework in FRAMEWORKS.items() if importlib.util.find_spec(framework))


def recipe_of(lrs, **changes) -> Recipe:
    """A recipe with these rates: SGD 0.9 on images of 32 pixels but for `changes`."""
    task = Classification(**{name: changes.pop(name) for name in ("loss", "label_smoothing") if name in changes})
    groups = {name: changes.pop(name) for name in ("train_only", "decay_mask") if name in changes}
    fields = {"name": "test", "batch": 8, "batch_split": 1, "batch_eval": 8, "resize": 32, "crop": 32} | changes
    fields = {
        "crop_min_area": 1.0,
        "mixup": 0.0,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "lrs": tuple(lrs),
        "task": task,
        "groups": create_groups(**groups),
    } | fields
    return Recipe(**fields)


def float64(engine):
    """Within it, JAX computes in float64, too."""
    return importlib.import_module("jax").enable_x64(True) if engine.name == "bit_jax" else contextlib.nullcontext()


@functools.cache
def modules(name: str) -> dict[str, types.ModuleType]:
    """The parts of an engine, by name."""
    parts = ("api", "dense", "devices", "inference", "loop", "losses", "optim", "weights")
    found = {part: importlib.import_module(f"{name}.{part}") for part in parts}
    gc.freeze()  # as in conftest.py
    return found


class Engine:
    """One engine: numpy in, numpy out."""

    def __init__(self, name: str):
        if name not in INSTALLED:
            pytest.skip(f"{FRAMEWORKS[name]} is not installed")
        self.name = name
        self.__dict__ |= modules(name)

    def dtype(self, precision: str):
        """The framework's type called `precision`."""
        namespace = {"bit_jax": "jax.numpy"}.get(self.name, FRAMEWORKS[self.name])
        return getattr(importlib.import_module(namespace), precision)

    def build(self, config, arrays, precision: str = "float32", **options):
        return self.api.build(config, arrays, precision=precision, **options)

    def tensor(self, images: np.ndarray):
        """NHWC images as the engine's models take them."""
        return self.raw(images).permute(0, 3, 1, 2) if self.name == "bit_pytorch" else self.raw(images)

    def raw(self, array: np.ndarray):
        """An array as the framework's tensor."""
        if self.name == "bit_pytorch":
            return importlib.import_module("torch").from_numpy(array)
        if self.name == "bit_jax":
            return importlib.import_module("jax.numpy").asarray(array)
        return importlib.import_module("tensorflow").convert_to_tensor(array)

    def cast(self, tensor, precision: str):
        """`tensor` in the framework's type called `precision`."""
        if self.name == "bit_pytorch":
            return tensor.to(self.dtype(precision))
        if self.name == "bit_jax":
            return tensor.astype(self.dtype(precision))
        return importlib.import_module("tensorflow").cast(tensor, self.dtype(precision))

    def array(self, tensor) -> np.ndarray:
        return np.asarray(tensor.detach() if self.name == "bit_pytorch" else tensor)

    def logits(self, model, images: np.ndarray) -> np.ndarray:
        """Logits [B, K] of NHWC images in [-1, 1]."""
        return self.array(model(self.tensor(images)))

    def features(self, model, images: np.ndarray) -> np.ndarray:
        """Pooled features [B, D] of NHWC images in [-1, 1]."""
        return self.array(model.features(self.tensor(images)))

    def forget_compiled(self) -> None:
        """Let the next step be compiled anew, after a test has changed a function that it calls."""
        if self.name == "bit_jax":
            importlib.import_module("jax").clear_caches()

    def keep_images(self, monkeypatch) -> None:
        """Let images through that are in [-1, 1] already, as golden ones are."""
        scale = {
            "bit_pytorch": lambda images, model: images.permute(0, 3, 1, 2).to(model.dtype),
            "bit_jax": lambda images, model: images.astype(model.dtype),
            "bit_tf2": lambda images, model: self.cast(images, model.dtype.name),
        }[self.name]
        monkeypatch.setattr(self.losses, "scale", scale)
        self.forget_compiled()

    def train(self, config, arrays, batches, recipe, *, precision, **options):
        """(losses, trained arrays) of one update per batch."""
        model = self.build(config, arrays, precision, **options)
        optimizer = self.optim.create_optimizer(model, recipe)
        losses = [
            float(self.loop.train_step({"model": model}, optimizer, batch, recipe, step=step)["loss"])
            for step, batch in enumerate(self.devices.to_device(iter(batches), model.devices))
        ]
        self.optim.swap_average(optimizer)
        return losses, self.weights.dump(model)

    def evaluate(self, model, evaluator, loss: str = "softmax") -> dict[str, float]:
        """The metrics of an evaluator, or top-1, top-5 and loss on batches."""
        if not hasattr(evaluator, "passes"):
            evaluator = ClassificationEvaluator("test", evaluator)
        return self.loop.evaluate({"model": model}, evaluator, TASKS[loss])

    def slopes(self, models, batch, recipe) -> dict[str, np.ndarray]:
        """{canonical name: gradient} of a batch, before anything is done to them, in canonical layout."""
        _, found = self.loop.gradients(models, batch, recipe)
        if self.name == "bit_pytorch":
            return self.weights.to_arrays(models["model"], found.items())
        return {self.weights.canonical_name(path): np.asarray(value) for path, value in found.items()}

    def gradient_norm(self, model, batch, recipe) -> float:
        """The global norm of the gradients of a batch, before anything is done to them."""
        _, gradients = self.loop.gradients({"model": model}, batch, recipe)
        return float(self.optim.global_norm(gradients))

    def apply(self, optimizer, recipe, step, gradients) -> None:
        """One update by gradients {canonical name: array}."""
        numbers, found = recipe.update_numbers(step), {}
        for name, value in optimizer.parameters.items():
            dtype = str(value.dtype if self.name != "bit_tf2" else value.dtype.name).removeprefix("torch.")
            if self.name == "bit_pytorch":
                ours = self.weights.canonical_name(name, value)
                tensor = self.weights.to_tensor(gradients[ours], ours)
            else:
                tensor = self.raw(gradients[self.weights.canonical_name(name)])
            found[name] = self.cast(tensor, dtype)
        if self.name == "bit_tf2":
            nest = importlib.import_module("tensorflow").nest
            numbers = nest.map_structure(lambda number: self.cast(self.raw(np.array(number)), dtype), numbers)
        assert len(found) == len(gradients)
        self.optim.update(optimizer, recipe, numbers, found)
