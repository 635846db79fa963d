"""The engines that compile do so in the first step and the first evaluation, and never again."""

import dataclasses
import logging
from collections.abc import Callable

import numpy as np
import pytest
from engines import INSTALLED, Engine
from test_noise import RECIPE, VIT, parameters, split

from common.data.batches import EvalBatches, TrainBatches, prefetch
from common.models.cards import Preprocessing

CONFIG = dataclasses.replace(VIT, depth=1)
MIXUP = dataclasses.replace(
    RECIPE, mixup=0.1, lrs=(0.1, 0.05, 0.025), weight_decay=1e-4, optimizer="adam", clip=1.0, ema=0.9
)


def train(engine: Engine, counted: Callable[[], int]) -> list[int]:
    """What was compiled until each step was done, and the evaluation after it, whose last batch is padded."""
    model = engine.build(CONFIG, parameters(CONFIG))
    optimizer = engine.optim.create_optimizer(model, MIXUP)
    counts = []
    batches = prefetch(TrainBatches(split(), MIXUP, 7, config=CONFIG), range(MIXUP.num_steps), 1)
    for step, batch in enumerate(engine.devices.to_device(batches, model.devices)):
        engine.loop.train_step({"model": model}, optimizer, batch, MIXUP, step=step)
        engine.optim.swap_average(optimizer)
        batches = EvalBatches(split(), Preprocessing(MIXUP.crop), MIXUP.batch_eval)
        assert len(batches) * batches.batch > len(batches.split)
        evaluated = prefetch(batches, range(len(batches)), 1)
        assert engine.evaluate(model, evaluated)["top5"] == 1
        engine.optim.swap_average(optimizer)
        counts.append(counted())
    return counts


@pytest.mark.skipif("bit_jax" not in INSTALLED, reason="jax is not installed")
def test_jax_compiles_nothing_after_the_first_step(caplog):
    """Not a function of ours, and none of JAX's small ones either."""
    import jax

    def compiled() -> int:
        return sum(record.getMessage().startswith("Compiling ") for record in caplog.records)

    with caplog.at_level(logging.WARNING), jax.log_compiles():
        first, *later = train(Engine("bit_jax"), compiled)
        assert first > 0
        assert later == [first] * len(later)
        jax.jit(lambda x: x - 1)(np.zeros(3))
        assert compiled() == first + 1  # what would have been seen


@pytest.mark.skipif("bit_tf2" not in INSTALLED, reason="tensorflow is not installed")
def test_tensorflow_traces_nothing_after_the_first_step():
    engine = Engine("bit_tf2")
    functions = engine.loop.compiled_step, engine.loop.eval_step

    def traced() -> int:
        return sum(function.experimental_get_tracing_count() for function in functions)

    before = traced()
    first, *later = train(engine, traced)
    assert first == before + 2
    assert later == [first] * len(later)
