"""The three engines behind one face, for tests that compare them."""

import importlib
import importlib.util

import numpy as np
import pytest

FRAMEWORKS = {"bit_pytorch": "torch", "bit_jax": "jax", "bit_tf2": "tensorflow"}
NAMES = tuple(FRAMEWORKS)
INSTALLED = tuple(name for name, framework in FRAMEWORKS.items() if importlib.util.find_spec(framework))


class Engine:
    """One engine: numpy in, numpy out."""

    def __init__(self, name: str):
        if name not in INSTALLED:
            pytest.skip(f"{FRAMEWORKS[name]} is not installed")
        self.name = name
        if name == "bit_tf2" and importlib.util.find_spec("triton"):
            # timm brings triton, which aborts the process when its copy of LLVM is loaded after TensorFlow's.
            importlib.import_module("triton")
        for part in ("api", "devices", "inference", "loop", "optim", "weights"):
            setattr(self, part, importlib.import_module(f"{name}.{part}"))

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

    def train(
        self, config, arrays, batches, lrs, *, precision, momentum=0.9, weight_decay=0.0, batch_split=1, **options
    ):
        """(losses, trained arrays) of one update per batch."""
        model = self.build(config, arrays, precision, **options)
        optimizer = self.optim.create_optimizer(model, momentum=momentum, weight_decay=weight_decay)
        losses = [
            float(
                self.loop.train_step(
                    model, optimizer, batch, lr=lr, batch_split=batch_split, dtype=self.dtype(precision)
                )
            )
            for batch, lr in zip(self.devices.to_device(iter(batches), model.devices), lrs)
        ]
        return losses, self.weights.dump(model)
