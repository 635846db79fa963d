"""SGD as every engine here defines it: v = momentum * v + g + weight_decay * w (kernels only); w = w - lr * v."""

import functools
from typing import Any

import jax
import optax
from flax import nnx
from jax import Array

Params = dict[tuple[str | int, ...], Array]  # {attribute path of a parameter: its value, gradient or momentum}


class SGD:
    """The state of an optax transformation, beside the parameters of the model that it updates in place."""

    def __init__(self, model: nnx.Module, transformation: optax.GradientTransformation):
        self.graphdef, self.parameters = nnx.graphdef(model), parameters(model)
        self.transformation = transformation
        self.state = transformation.init(self.params)

    @property
    def params(self) -> Params:
        """The values of the model's parameters."""
        return {path: value.get_value() for path, value in self.parameters.items()}

    @params.setter
    def params(self, params: Params) -> None:
        for path, value in self.parameters.items():
            value.set_value(params[path])

    @property
    def momenta(self) -> Params:
        """v of every parameter, all that the state holds."""
        return dict(optax.tree.get(self.state, "trace"))

    @momenta.setter
    def momenta(self, momenta: Params) -> None:
        self.state = optax.tree.set(self.state, trace=momenta)


def parameters(model: nnx.Module) -> dict[tuple[str | int, ...], nnx.Param]:
    """{attribute path: parameter} of the variables of `model` themselves, not of copies."""
    return dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))


def create_optimizer(model: nnx.Module, *, momentum: float, weight_decay: float) -> SGD:
    """The optimizer of `model`; its learning rate is given with every update."""
    return SGD(model, sgd(momentum, weight_decay))


@functools.cache  # the same numbers are the same transformation, for which a compiled step is found again
def sgd(momentum: float, weight_decay: float) -> optax.GradientTransformation:
    """From g and w to v."""
    decay = optax.add_decayed_weights(weight_decay, mask=lambda params: jax.tree.map(lambda w: w.ndim > 1, params))
    return optax.chain(decay, optax.trace(decay=momentum, nesterov=False))


def update(optimizer: SGD, lr: float, gradients: Params) -> None:
    """One update of every parameter."""
    optimizer.params, optimizer.state = compiled_update(
        optimizer.params, optimizer.state, gradients, float(lr), transformation=optimizer.transformation
    )


@functools.partial(jax.jit, static_argnames="transformation", donate_argnames=("params", "state"))
def compiled_update(
    params: Params, state: Any, gradients: Params, lr: Array, *, transformation: optax.GradientTransformation
) -> tuple[Params, Any]:
    """(parameters, state) after `update`, in their own memory; lr takes the type of the parameters."""
    velocity, state = transformation.update(gradients, state, params)
    return jax.tree.map(lambda w, v: w - lr * v, params, velocity), state
