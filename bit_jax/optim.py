"""The update of a Recipe (common/recipes/recipe.py has the formulas), native: moments and moving average beside a model."""

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import optax
from flax import nnx
from jax import Array, lax
from jax import numpy as jnp

from common.recipes import groups
from common.recipes.moments import Means, means
from common.recipes.recipe import Recipe, UpdateNumbers

MEANS = ("rows", "columns")  # of the second moment of adafactor
Params = dict[tuple[str | int, ...], Array]  # {attribute path of a parameter: its value, gradient or moment}


class Split(NamedTuple):
    """A model in parts: its graph, which is static in compiled functions, and its parameters, trained and frozen."""

    graph: nnx.GraphDef
    trained: dict[tuple[str | int, ...], nnx.Param]
    frozen: dict[tuple[str | int, ...], nnx.Param]

    @property
    def parameters(self) -> dict[tuple[str | int, ...], nnx.Param]:
        """All of them."""
        return self.trained | self.frozen


SPLITS: weakref.WeakKeyDictionary[nnx.Module, Split] = weakref.WeakKeyDictionary()  # each takes tens of milliseconds


def split(model: nnx.Module) -> Split:
    """The parts of a model, as they were when its optimizer was made, or at the first call."""
    if model not in SPLITS:
        found = parameters(model)
        names = groups.trained(model.groups, map(canonical_name, found))
        trained = {path: value for path, value in found.items() if canonical_name(path) in names}
        frozen = {path: value for path, value in found.items() if path not in trained}
        SPLITS[model] = Split(nnx.graphdef(model), trained, frozen)
    return SPLITS[model]


def values(parameters: dict[tuple[str | int, ...], nnx.Param]) -> Params:
    """The values of some parameters."""
    return {path: value.get_value() for path, value in parameters.items()}


class Optimizer:
    """The trained parameters of a model, and its state, each part {path: array}; common/recipes/moments.py has the parts."""

    def __init__(self, model: nnx.Module, recipe: Recipe):
        SPLITS.pop(model, None)  # its head may be another one since
        self.parameters = trained(model)
        self.state = {"first": at_once(functools.partial(zeros, dtype=recipe.first_moment), self.params)}
        by_head = model.config.shapes_by_head() if recipe.optimizer == "adafactor" else {}
        self.means = {path: means(by_head[canonical_name(path)]) for path in self.parameters} if by_head else {}
        if recipe.optimizer != "sgd":
            whole = {path: value for path, value in self.params.items() if not self.means.get(path)}
            self.state["second"] = at_once(jnp.zeros_like, whole)
        if self.means:
            zeros_of = functools.partial(jnp.zeros, dtype=model.dtype, device=model.devices.place())
            kept = {path: kept.shapes for path, kept in self.means.items() if kept}
            self.state |= {part: {path: zeros_of(shapes[part]) for path, shapes in kept.items()} for part in MEANS}
        if recipe.ema:
            self.state["average"] = at_once(jnp.copy, self.params)

    @property
    def params(self) -> Params:
        """The values of the trained parameters."""
        return values(self.parameters)

    @params.setter
    def params(self, params: Params) -> None:
        for path, value in self.parameters.items():
            value.set_value(params[path])


def parameters(model: nnx.Module) -> dict[tuple[str | int, ...], nnx.Param]:
    """{attribute path: parameter} of the variables of `model` themselves, not of copies."""
    return dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))


def trained(model: nnx.Module) -> dict[tuple[str | int, ...], nnx.Param]:
    """Those of `parameters` that are trained."""
    return split(model).trained


def canonical_name(path: tuple[str | int, ...]) -> str:
    """`("blocks", 0, "conv1", "kernel")` -> `blocks/0/conv1/kernel`; flax's leaves have the canonical names."""
    return "/".join(map(str, path))


def zeros(value: Array, dtype: str) -> Array:
    """A moment of a parameter: bfloat16, or else of the parameter's type."""
    return jnp.zeros_like(value, jnp.bfloat16 if dtype == "bfloat16" else value.dtype)


def at_once(function: Callable[[Array], Array], params: Params) -> Params:
    """`function` of every value, where the value lies, as one program: one by one, every shape would be compiled."""
    places = {path: value.sharding for path, value in params.items()}
    return jax.jit(functools.partial(jax.tree.map, function), out_shardings=places)(params)


def create_optimizer(model: nnx.Module, recipe: Recipe) -> Optimizer:
    """The optimizer of `model`; the numbers of an update are given with it."""
    return Optimizer(model, recipe)


def global_norm(gradients: Params) -> Array:
    """The norm of all gradients as one vector."""
    return optax.tree.norm(gradients)


def update(optimizer: Optimizer, recipe: Recipe, numbers: UpdateNumbers, gradients: Params) -> None:
    """One update of every trained parameter."""
    options = {"recipe": recipe, "means": tuple(optimizer.means.values())}
    optimizer.params, optimizer.state = compiled_update(
        optimizer.params, optimizer.state, gradients, numbers, **options
    )


@functools.partial(jax.jit, static_argnames=("recipe", "means"), donate_argnames=("params", "state"))
def compiled_update(
    params: Params, state: dict[str, Params], gradients: Params, numbers: UpdateNumbers, *,
    recipe: Recipe, means: tuple[Means | None, ...],
) -> tuple[Params, dict[str, Params]]:  # fmt: skip
    """(parameters, state) after `update`, in their own memory; the numbers take the type of the parameters."""
    shrink = jnp.minimum(recipe.clip / global_norm(gradients), 1) if recipe.clip else None
    params, state = dict(params), {part: dict(values) for part, values in state.items()}
    all_numbers = numbers
    means = dict(zip(params, means))
    for part, (path, w) in zip(recipe.parts(tuple(map(canonical_name, params))), params.items()):
        numbers = recipe.numbers_of(part, all_numbers)
        g = gradients[path] * shrink if recipe.clip else gradients[path]
        if part.decayed and recipe.decay == "gradient":
            g = g + recipe.weight_decay * w
        elif part.decayed:
            w = (1 - numbers.decay) * w
        if recipe.optimizer == "adafactor":
            g = normalized(g, state, path, means[path], numbers)
        first = recipe.first_decay * state["first"][path].astype(w.dtype)
        if recipe.first_moment == "bfloat16":  # a product of two bfloat16 would be rounded or not, as XLA pleases
            first = lax.reduce_precision(first, exponent_bits=8, mantissa_bits=7)
        first = first + numbers.gain * g
        if recipe.optimizer == "adam":
            second = recipe.beta2 * state["second"][path] + (1 - recipe.beta2) * g * g
            w = w - numbers.rate * first / (jnp.sqrt(second) + numbers.epsilon)
            state["second"][path] = second
        else:
            w = w - numbers.rate * first
        if part.bounds:
            w = jnp.clip(w, *part.bounds)
        state["first"][path] = first.astype(state["first"][path].dtype)
        if recipe.ema:
            average = state["average"][path]
            state["average"][path] = average + (1 - numbers.ema) * (w - average)
        params[path] = w
    return params, state


def normalized(
    g: Array, state: dict[str, Params], path: tuple[str | int, ...], kept: Means | None, numbers: UpdateNumbers
) -> Array:
    """Adafactor's gradient over the root of its second moment, of which `state` keeps the new one."""

    def renew(part: str, value: Array) -> Array:
        state[part][path] = numbers.second_decay * state[part][path] + numbers.second_gain * value
        return state[part][path]

    squares = g * g + 1e-30
    if kept is None:
        return g / jnp.sqrt(renew("second", squares))
    squares = squares.reshape(kept.shape)
    rows, columns = renew("rows", squares.mean(kept.longest)), renew("columns", squares.mean(kept.second))
    rows = rows / rows.mean(kept.second_of_rows, keepdims=True)
    roots = jnp.expand_dims(jnp.sqrt(rows), kept.longest), jnp.expand_dims(jnp.sqrt(columns), kept.second)
    return (g.reshape(kept.shape) / roots[0] / roots[1]).reshape(g.shape)


@contextlib.contextmanager
def ascended(optimizer: Optimizer, gradients: Params, numbers: UpdateNumbers) -> Iterator[None]:
    """Within it every trained parameter w is w + rho * g / (|g| + 1e-12), afterwards w again, bit for bit.

    |g| is the norm of all gradients. Source: `trainers/proj/gsam/gsam.py` of google-research/big_vision; SAM, equation 2
    (https://arxiv.org/abs/2010.01412).
    """
    kept = optimizer.params
    optimizer.params = compiled_ascent(kept, gradients, numbers.rho)
    try:
        yield
    finally:
        optimizer.params = kept


@jax.jit
def compiled_ascent(params: Params, gradients: Params, rho: Array) -> Params:
    """The parameters within `ascended`."""
    scale = rho / (global_norm(gradients) + 1e-12)
    return {path: w + scale * gradients[path] for path, w in params.items()}


def sharpness_aware(clean: Params, sharp: Params, recipe: Recipe) -> Params:
    """The gradients that SAM or GSAM updates by: `clean` ones are of the parameters, `sharp` ones of the `ascended`.

    sharp - gsam_alpha * (clean - its part along sharp); GSAM, algorithm 1 (https://arxiv.org/abs/2203.08065). Where the
    sharp ones are all 0, nothing is along them; the original divides 0 by 0 there.
    """
    return without_across(clean, sharp, recipe.gsam_alpha) if recipe.gsam_alpha else sharp


@jax.jit
def without_across(clean: Params, sharp: Params, alpha: Array) -> Params:
    """`sharpness_aware` gradients with an alpha."""
    share = dot(clean, sharp) / jnp.maximum(dot(sharp, sharp), jnp.finfo(jnp.float32).tiny)
    return {path: (1 + alpha * share) * value - alpha * clean[path] for path, value in sharp.items()}


def dot(a: Params, b: Params) -> Array:
    """The product of two gradients as vectors."""
    return sum((a[path] * b[path]).sum() for path in a)


def swap_average(optimizer: Optimizer) -> None:
    """Exchange the parameters and their moving average, if there is one; twice is nothing."""
    if "average" in optimizer.state:
        optimizer.params, optimizer.state["average"] = optimizer.state["average"], optimizer.params
