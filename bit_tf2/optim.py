"""SGD as every engine here defines it: v = momentum * v + g + weight_decay * w (kernels only); w = w - lr * v."""

from collections.abc import Iterator

import keras
import tensorflow as tf
from tensorflow import Tensor

Path = tuple[str | int, ...]  # of attributes


class SGD:
    """v of every parameter of a model. Keras's own SGD keeps the learning rate inside v: another definition."""

    def __init__(self, model: keras.Model, *, momentum: float, weight_decay: float):
        self.parameters = parameters(model)
        self.momenta = {path: tf.Variable(tf.zeros_like(value)) for path, value in self.parameters.items()}
        self.momentum, self.weight_decay = momentum, weight_decay


def parameters(model: keras.Model) -> dict[Path, tf.Variable]:
    """{attribute path: parameter} of the variables of `model` themselves, not of copies."""
    return dict(_walk(model, ()))


def _walk(value: object, path: Path) -> Iterator[tuple[Path, tf.Variable]]:
    if isinstance(value, keras.Variable):
        yield path, value.value
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _walk(item, (*path, number))
    elif isinstance(value, keras.layers.Layer):
        for name, item in vars(value).items():
            if isinstance(item, keras.Variable) or not name.startswith("_"):  # Keras's own lists of the same variables
                yield from _walk(item, (*path, name.removeprefix("_")))  # Keras's own layers say `_kernel`


def create_optimizer(model: keras.Model, *, momentum: float, weight_decay: float) -> SGD:
    """The optimizer of `model`; its learning rate is given with every update."""
    with model.devices.scope():
        return SGD(model, momentum=momentum, weight_decay=weight_decay)


def update(optimizer: SGD, lr: Tensor, gradients: dict[Path, Tensor]) -> None:
    """One update of every parameter, in place."""
    for path, w in optimizer.parameters.items():
        v, g = optimizer.momenta[path], gradients[path]
        if w.shape.rank > 1 and optimizer.weight_decay:
            g = g + optimizer.weight_decay * w
        v.assign(optimizer.momentum * v + g)
        w.assign_sub(lr * v)
