"""The update of a Recipe (common/recipes/recipe.py has the formulas), native: moments and moving average beside a model."""

import contextlib
import functools
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from common.recipes import groups
from common.recipes.moments import Means, means
from common.recipes.recipe import Recipe, UpdateNumbers

MEANS = ("rows", "columns")  # of the second moment of adafactor
Path = tuple[str | int, ...]  # of attributes


class Optimizer:
    """The trained parameters of a model, and its state, each part {path: variable}; common/recipes/moments.py has the parts."""

    def __init__(self, model: keras.Model, recipe: Recipe):
        self.parameters, self.devices = trained(model), model.devices
        self.state = {"first": {path: zeros(value, recipe.first_moment) for path, value in self.parameters.items()}}
        by_head = model.config.shapes_by_head() if recipe.optimizer == "adafactor" else {}
        self.means = {path: means(by_head[canonical_name(path)]) for path in self.parameters} if by_head else {}
        if recipe.optimizer != "sgd":
            whole = {path: w for path, w in self.parameters.items() if not self.means.get(path)}
            self.state["second"] = {path: tf.Variable(tf.zeros_like(w)) for path, w in whole.items()}
        if self.means:
            zeros_of = lambda shape: tf.Variable(tf.zeros(shape, model.dtype))
            kept = {path: kept.shapes for path, kept in self.means.items() if kept}
            self.state |= {part: {path: zeros_of(shapes[part]) for path, shapes in kept.items()} for part in MEANS}
        if recipe.ema:
            self.state["average"] = {path: tf.Variable(tf.identity(w)) for path, w in self.parameters.items()}


def parameters(model: keras.Model) -> dict[Path, tf.Variable]:
    """{attribute path: parameter} of the variables of `model` themselves, not of copies."""
    return dict(_walk(model, ()))


def trained(model: keras.Model) -> dict[Path, tf.Variable]:
    """Those of `parameters` that are trained."""
    found = parameters(model)
    names = groups.trained(model.groups, map(canonical_name, found))
    return {path: value for path, value in found.items() if canonical_name(path) in names}


def _walk(value: object, path: Path) -> Iterator[tuple[Path, tf.Variable]]:
    if isinstance(value, keras.Variable):
        yield path, value.value
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _walk(item, (*path, number))
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _walk(item, (*path, name))
    elif isinstance(value, keras.layers.Layer):
        for name, item in vars(value).items():
            if isinstance(item, keras.Variable) or not name.startswith("_"):  # Keras's own lists of the same variables
                yield from _walk(item, (*path, name.removeprefix("_")))  # Keras's own layers say `_kernel`


def canonical_name(path: Path) -> str:
    """`("blocks", 0, "conv1", "kernel")` -> `blocks/0/conv1/kernel`."""
    return "/".join(map(str, path))


def zeros(value: tf.Variable, dtype: str) -> tf.Variable:
    """A moment of a parameter: bfloat16, or else of the parameter's type."""
    return tf.Variable(tf.zeros_like(value, tf.bfloat16 if dtype == "bfloat16" else value.dtype))


def create_optimizer(model: keras.Model, recipe: Recipe) -> Optimizer:
    """The optimizer of `model`; the numbers of an update are given with it."""
    with model.devices.scope_of_equals():
        return Optimizer(model, recipe)


def global_norm(gradients: dict[Path, Tensor]) -> Tensor:
    """The norm of all gradients as one vector."""
    return tf.linalg.global_norm(list(gradients.values()))


def update(optimizer: Optimizer, recipe: Recipe, numbers: UpdateNumbers, gradients: dict[Path, Tensor]) -> None:
    """One update of every trained parameter, in place, on every device alike."""
    update_copy = functools.partial(update_on_one, recipe, numbers, optimizer.means)
    optimizer.devices.on_each(update_copy, optimizer.parameters, optimizer.state, gradients)


def update_on_one(
    recipe: Recipe, numbers: UpdateNumbers, means: dict[Path, Means | None], parameters: dict[Path, tf.Variable],
    state: dict[str, dict[Path, tf.Variable]], gradients: dict[Path, Tensor],
) -> None:  # fmt: skip
    """`update` of one device's own copies."""
    shrink = tf.minimum(recipe.clip / global_norm(gradients), 1) if recipe.clip else None
    all_numbers = numbers
    for part, (path, w) in zip(recipe.parts(tuple(map(canonical_name, parameters))), parameters.items()):
        numbers = recipe.numbers_of(part, all_numbers)
        with tf.control_dependencies([gradients[path]]):  # else products of all parameters wait in memory for it
            g = gradients[path] * shrink if recipe.clip else gradients[path]
            if part.decayed and recipe.decay == "gradient":
                g = g + recipe.weight_decay * w
            elif part.decayed:
                w.assign((1 - numbers.decay) * w)
            if recipe.optimizer == "adafactor":
                g = normalized(g, state, path, means[path], numbers)
            first = tf.cast(recipe.first_decay * state["first"][path], w.dtype) + numbers.gain * g
            if recipe.optimizer == "adam":
                second = recipe.beta2 * state["second"][path] + (1 - recipe.beta2) * g * g
                w.assign_sub(numbers.rate * first / (tf.sqrt(second) + numbers.epsilon))
                state["second"][path].assign(second)
            else:
                w.assign_sub(numbers.rate * first)
            if part.bounds:
                w.assign(tf.clip_by_value(w, *part.bounds))
            state["first"][path].assign(tf.cast(first, state["first"][path].dtype))
            if recipe.ema:
                state["average"][path].assign_sub((1 - numbers.ema) * (state["average"][path] - w))


def normalized(
    g: Tensor, state: dict[str, dict[Path, tf.Variable]], path: Path, kept: Means | None, numbers: UpdateNumbers
) -> Tensor:
    """Adafactor's gradient over the root of its second moment, of which `state` keeps the new one."""

    def renew(part: str, value: Tensor) -> Tensor:
        moment = numbers.second_decay * state[part][path] + numbers.second_gain * value
        state[part][path].assign(moment)
        return moment

    squares = g * g + 1e-30
    if kept is None:
        return g / tf.sqrt(renew("second", squares))
    squares = tf.reshape(squares, kept.shape)
    rows = renew("rows", tf.reduce_mean(squares, kept.longest))
    columns = renew("columns", tf.reduce_mean(squares, kept.second))
    rows = rows / tf.reduce_mean(rows, kept.second_of_rows, keepdims=True)
    roots = tf.expand_dims(tf.sqrt(rows), kept.longest), tf.expand_dims(tf.sqrt(columns), kept.second)
    return tf.reshape(tf.reshape(g, kept.shape) / roots[0] / roots[1], g.shape)


@contextlib.contextmanager
def ascended(optimizer: Optimizer, gradients: dict[Path, Tensor], numbers: UpdateNumbers) -> Iterator[None]:
    """Within it every trained parameter w is w + rho * g / (|g| + 1e-12), afterwards w again, bit for bit.

    |g| is the norm of all gradients. Source: `trainers/proj/gsam/gsam.py` of google-research/big_vision; SAM, equation 2
    (https://arxiv.org/abs/2010.01412).
    """
    kept = []  # of one device after the other

    def ascend(parameters: dict[Path, tf.Variable], gradients: dict[Path, Tensor]) -> None:
        kept.append({path: tf.identity(w) for path, w in parameters.items()})
        scale = numbers.rho / (global_norm(gradients) + 1e-12)
        for path, w in parameters.items():
            w.assign_add(scale * gradients[path])

    def descend(parameters: dict[Path, tf.Variable]) -> None:
        for path, value in kept.pop(0).items():
            parameters[path].assign(value)

    optimizer.devices.on_each(ascend, optimizer.parameters, gradients)
    try:
        yield
    finally:
        optimizer.devices.on_each(descend, optimizer.parameters)


def sharpness_aware(clean: dict[Path, Tensor], sharp: dict[Path, Tensor], recipe: Recipe) -> dict[Path, Tensor]:
    """The gradients that SAM or GSAM updates by: `clean` ones are of the parameters, `sharp` ones of the `ascended`.

    sharp - gsam_alpha * (clean - its part along sharp); GSAM, algorithm 1 (https://arxiv.org/abs/2203.08065). Where the
    sharp ones are all 0, nothing is along them; the original divides 0 by 0 there.
    """
    if not recipe.gsam_alpha:
        return sharp
    share = dot(clean, sharp) / tf.maximum(dot(sharp, sharp), np.finfo(np.float32).tiny)
    alpha = recipe.gsam_alpha
    return {path: (1 + alpha * share) * value - alpha * clean[path] for path, value in sharp.items()}


def dot(a: dict[Path, Tensor], b: dict[Path, Tensor]) -> Tensor:
    """The product of two gradients as vectors."""
    return tf.add_n([tf.reduce_sum(a[path] * b[path]) for path in a])


def swap_average(optimizer: Optimizer) -> None:
    """Exchange the parameters and their moving average, if there is one; twice is nothing."""
    for path, average in optimizer.state.get("average", {}).items():
        value = tf.identity(optimizer.parameters[path])
        optimizer.parameters[path].assign(average)
        average.assign(value)
