"""How much memory a training step takes, and which of its parts wait for one another so that it does not take more."""

import argparse

import pytest
from engines import INSTALLED, Engine, recipe_of
from tiny_models import CONFIGS, random_arrays

from scripts.benchmarks import memory

UPDATES = {"sgd": {"weight_decay": 0.1}, "adam": {"optimizer": "adam", "decay": "decoupled", "weight_decay": 0.1}}


@pytest.mark.skipif("bit_tf2" not in INSTALLED, reason="TensorFlow is not installed")
@pytest.mark.parametrize("name", UPDATES)
def test_an_update_makes_nothing_of_a_parameter_before_its_gradient(name):
    """Else TensorFlow computes products of all parameters and moments first, and keeps them until gradients come."""
    import tensorflow as tf

    engine = Engine("bit_tf2")
    recipe = recipe_of((0.1,), **UPDATES[name])
    model = engine.build(CONFIGS["bit"], random_arrays(CONFIGS["bit"]))
    optimizer = engine.optim.create_optimizer(model, recipe)

    @tf.function(autograph=False)
    def update(gradients):
        engine.optim.update(optimizer, recipe, recipe.update_numbers(0), gradients)

    gradients = {path: tf.zeros_like(value) for path, value in optimizer.parameters.items()}
    graph = update.get_concrete_function(gradients).graph
    given = {tensor.op for tensor in graph.inputs if tensor.dtype != tf.resource}
    reads = [op for op in graph.get_operations() if op.type == "ReadVariableOp"]
    assert len(given) == len(gradients) and len(reads) > len(gradients)
    assert all(given & before(op) for op in reads)


def before(op) -> set:
    """The operations that come before one, directly or not."""
    found, waiting = set(), [op]
    while waiting:
        op = waiting.pop()
        new = {*(tensor.op for tensor in op.inputs), *op.control_inputs} - found
        found |= new
        waiting += new
    return found


SHARES = {"bit_pytorch": 0.5, "bit_jax": 0.7, "bit_tf2": 0.6}  # in JAX, compiling takes the most of it


@pytest.mark.slow
@pytest.mark.parametrize("engine", INSTALLED)
def test_parts_of_a_batch_take_less_memory(engine):
    """With `--batch_split 8`, the first steps of a process take less memory, graphs included: docs/speed.md has what was measured."""
    args = argparse.Namespace(model="BiT-S-R50x1", resolution=128, memory_batch=32)
    whole, parts = (memory.peak(args, engine, row).steps for row in (memory.Row(), memory.Row(batch_split=8)))
    assert parts <= SHARES[engine] * whole
