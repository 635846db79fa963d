"""--train_only: the frozen keep their bits, the trained follow the same update as ever, in every engine alike.

tests/test_vtab.py trains by its command.
"""

import functools
import re

import numpy as np
import pytest
from engines import INSTALLED, Engine, recipe_of
from jobs import Job, assert_close, make_images

from common.config import TrainConfig
from common.models import DecoderConfig, MixerConfig, ResNetConfig, TwoTowersConfig, VqVaeConfig, architectures
from common.recipes.groups import create_groups, trained
from common.runs.command import parse
from common.system.errors import UserError

HEAD = {"head/kernel", "head/bias"}
CONFIGS = {
    "Mixer": MixerConfig((16, 16), 16, 1, 16, 32, 5, image_size=(32, 32)),
    "ResNet": ResNetConfig((1,), 0.5, 5),
}
EVERYTHING = {
    "optimizer": "adam",
    "weight_decay": 0.1,
    "decay": "decoupled",
    "decay_mask": "all",
    "clip": 0.1,
    "ema": 0.5,
}


@pytest.mark.parametrize("name", architectures())
def test_what_each_choice_trains(name):
    """A norm is what has a scale and a bias, and no more. Towers may have heads of their own, a distilled ViT has two."""
    config = architectures()[name]
    if isinstance(config, VqVaeConfig):
        names = set(config.parameter_shapes())
        assert names - trained(create_groups(), names) == {name for name in names if name.startswith("codebook/")}
        assert bool(config.levels) != ("codebook/dictionary" in names)
        return
    config = config if isinstance(config, TwoTowersConfig | DecoderConfig) else config.with_classes(7)
    names = set(config.parameter_shapes())
    found = {choice: trained(create_groups(choice), names) for choice in ("all", "head", "norm")}
    norms = {name.removesuffix("scale") for name in names if name.endswith("/scale") and "layer_scale" not in name}
    heads = {name for name in names if re.search(r"(^|/)head(_dist)?/(kernel|bias)$", name)}
    assert found["all"] == names and (heads >= HEAD or "t" in names)
    assert found["head"] == heads
    assert found["norm"] == heads | {name for name in names if name.startswith(tuple(norms))}


def case(family: str):
    """(arrays, three batches)."""
    rng = np.random.default_rng(0)
    arrays = {n: rng.normal(size=shape) / 4 for n, shape in CONFIGS[family].parameter_shapes().items()}
    batches = [
        {"images": rng.integers(0, 256, (8, 32, 32, 3), np.uint8), "labels": rng.integers(0, 5, 8, np.int32)}
        for _ in range(3)
    ]
    return arrays, batches


def train(engine: Engine, family: str, train_only: str, recipe, *, start=None, first=0, last=3, remat=False):
    """(losses, arrays, state) of the updates from `first` to `last`, in float64."""
    arrays, batches = case(family)
    options = {"groups": create_groups(train_only), "remat": remat}
    model = engine.build(CONFIGS[family], start[0] if start else arrays, "float64", **options)
    optimizer = engine.optim.create_optimizer(model, recipe)
    if start:
        engine.weights.load_optimizer(model, optimizer, start[1])
    losses = []
    for step, batch in enumerate(engine.devices.to_device(iter(batches[first:last]), model.devices), first):
        losses.append(float(engine.loop.train_step({"model": model}, optimizer, batch, recipe, step=step)["loss"]))
    return np.array(losses), engine.weights.dump(model), engine.weights.dump_optimizer(model, optimizer)


@functools.cache
def reference(family: str, train_only: str):
    if "bit_pytorch" not in INSTALLED:
        pytest.skip("the reference engine is not installed")
    return train(Engine("bit_pytorch"), family, train_only, recipe_with(EVERYTHING))


def recipe_with(numbers: dict):
    return recipe_of((0.02, 0.05, 0.01), batch_split=2, base_lr=0.05, **numbers)


@pytest.mark.parametrize(
    ("family", "train_only"),
    [
        ("Mixer", "norm"),
        pytest.param("Mixer", "head", marks=pytest.mark.slow),
        pytest.param("ResNet", "norm", marks=pytest.mark.slow),
    ],
)
def test_the_frozen_keep_their_bits(engine, family, train_only):
    """With decay, moments, an average and micro-batches; as in the other engines; resumed, and computed twice, too."""
    recipe, names = recipe_with(EVERYTHING), trained(create_groups(train_only), CONFIGS[family].parameter_shapes())
    before, (losses, after, state) = case(family)[0], train(engine, family, train_only, recipe)
    for name in before:
        assert (after[name].tobytes() == before[name].tobytes()) == (name not in names), name
        assert name not in names or np.abs(after[name] - before[name]).min() > 0
    assert set(state) == {f"{part}/{name}" for part in ("first", "second", "average") for name in names}
    expected_losses, expected, expected_state = reference(family, train_only)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-9)
    for found, wanted in ((after, expected), (state, expected_state)):
        for name in wanted:
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-7, atol=1e-10, err_msg=name)
    halfway = train(engine, family, train_only, recipe, last=2)[1:]
    _, resumed, _ = train(engine, family, train_only, recipe, start=halfway, first=2, remat=True)
    for name in after:
        np.testing.assert_allclose(resumed[name], after[name], rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("train_only", ("head", "norm"))
def test_clipping_is_by_the_norm_of_what_is_trained(engine, train_only):
    """The first update of SGD is as long as the clipped gradient times the rate."""
    _, after, _ = train(engine, "Mixer", train_only, recipe_with({"clip": 0.01}), last=1)
    moved = [after[name] - array for name, array in case("Mixer")[0].items()]
    assert np.sqrt(sum((array**2).sum() for array in moved)) == pytest.approx(0.02 * 0.01, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ("bit_jax", "bit_tf2"))  # PyTorch: tests/test_devices_pytorch.py
def test_on_several_processes(name, server, tmp_path):
    """Whole or, in JAX, in shards; within rounding of the run on one device."""
    make_images(tmp_path)
    job = functools.partial(Job, server(name), tmp_path)
    flags = ("--train_only", "norm", "--clip", 0.1, "--weight_decay", 0.1, "--ema", 0.5)
    job("alone", *flags).finish()
    for flag in ((), *([("--shard_parameters",)] if name == "bit_jax" else [])):
        job(f"two{len(flag)}", *flags, *flag, num_processes=2).finish()
        assert_close(tmp_path, f"two{len(flag)}", "alone", 1e-9)


def test_a_wrong_value_is_a_sentence():
    with pytest.raises(UserError, match="--train_only: invalid choice: 'heads'"):
        parse(TrainConfig, ("--train_only", "heads"), "python -m bit_jax.train", "Train.")
