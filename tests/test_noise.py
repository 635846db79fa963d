"""Stochastic depth and dropout: drawn with the batch, the same in every engine; and recomputed activations."""

import dataclasses
import importlib

import numpy as np
import pytest
from engines import INSTALLED, Engine, recipe_of

from common.data.batches import TrainBatches, branch_drop_rates
from common.data.split import Split
from common.models import MixerConfig, ResNetConfig, ResNetV1Config, ViTConfig, with_noise
from common.models.initial import initial_parameters
from common.recipes.recipe import Recipe
from common.system.errors import UserError

RECIPE = Recipe("test", 8, 1, 8, (0.1,) * 4, 16, 16, 1.0, 0.0, 0.9, 0.0, dropout=0.2, stochastic_depth=0.5)
VIT = ViTConfig((8, 8), 16, 2, 2, 32, 5, image_size=(16, 16), dropout=0.2)
MIXER = MixerConfig((8, 8), 16, 2, 8, 32, 5, image_size=(16, 16))
HYBRID = dataclasses.replace(VIT, patch_size=(1, 1), image_size=(32, 32), backbone=ResNetV1Config((1, 1), 0.5))
FAMILIES = {
    "vit": VIT,
    "map": dataclasses.replace(VIT, pooling="map", pre_logits=12),
    "hybrid": HYBRID,
    "mixer": MIXER,
    "resnet": ResNetConfig((1, 1), 0.5, 5),
    "resnet_v1": ResNetV1Config((1, 1), 0.5, 5),
}


CASES = [pytest.param(name, marks=() if name in ("vit", "resnet") else pytest.mark.slow) for name in FAMILIES]


def split(count: int = 20, size: int = 16) -> Split:
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    return Split(images.__getitem__, np.arange(count, dtype=np.int32) % 5, str)


def parameters(config) -> dict[str, np.ndarray]:
    """Initial values of which none is zero, so that each matters to the logits."""
    rng = np.random.default_rng(3)
    return {name: a + 0.1 * rng.standard_normal(a.shape) for name, a in initial_parameters(0, config).items()}


def batches(config, steps: int = 3, size: int = 16, recipe: Recipe = RECIPE) -> list[dict[str, np.ndarray]]:
    found = []
    for step in range(steps):
        batch, jobs = TrainBatches(split(size=size), recipe, 7, config=config).jobs(step)
        for job in jobs:
            job()
        found.append(batch)
    return found


def recipe_for(config) -> Recipe:
    size = (config.image_size or (32, 32))[0]
    return dataclasses.replace(
        RECIPE,
        dropout=0.2 if config.num_dropouts else 0.0,
        stochastic_depth=0.5 if config.num_branches else 0.0,
        resize=size,
        crop=size,
    )


def plan(**changes) -> dict[str, np.ndarray]:
    return TrainBatches(split(), dataclasses.replace(RECIPE, **changes), 7, config=VIT).plan(2)


def test_noise_is_a_function_of_seed_and_step():
    first, again = plan(), plan()
    assert first["kept_branches"].shape == (8, 4) and first["dropout_seeds"].shape == (8, 7, 2)
    assert all((first[name] == again[name]).all() for name in first)
    other = TrainBatches(split(), RECIPE, 7, config=VIT).plan(3)
    assert (first["dropout_seeds"] != other["dropout_seeds"]).all()


def test_noise_leaves_the_rest_of_the_batch_as_it_is():
    noisy, plain = plan(), plan(dropout=0.0, stochastic_depth=0.0)
    assert set(noisy) - set(plain) == {"kept_branches", "dropout_seeds"}
    assert all((noisy[name] == plain[name]).all() for name in plain)


def test_processes_take_their_part_of_the_noise():
    parts = [TrainBatches(split(), RECIPE, 7, process, 4, config=VIT).plan(2) for process in range(4)]
    for name in ("kept_branches", "dropout_seeds"):
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), plan()[name])


def test_branches_are_dropped_linearly_in_depth():
    """As in big_vision's Mixer: block i of n at i / (n - 1) of the rate, both branches alike and independent."""
    np.testing.assert_allclose(branch_drop_rates(6, 0.5), [0, 0, 0.25, 0.25, 0.5, 0.5])
    assert branch_drop_rates(2, 0.5).tolist() == [0, 0]
    recipe = dataclasses.replace(RECIPE, batch=20000)
    kept = TrainBatches(split(), recipe, 7, config=VIT).plan(0)["kept_branches"]
    np.testing.assert_allclose(kept.mean(0), [1, 1, 0.5, 0.5], atol=0.02)
    assert abs(np.corrcoef(kept[:, 2], kept[:, 3])[0, 1]) < 0.03


def test_noise_is_refused_where_the_family_has_none():
    with pytest.raises(UserError, match="--stochastic_depth 0.1 is for ViT and Mixer"):
        with_noise(FAMILIES["resnet"], 0.0, 0.1)
    with pytest.raises(UserError, match="--dropout 0.1 is for ViT"):
        with_noise(MIXER, 0.1, 0.1)
    assert with_noise(dataclasses.replace(VIT, dropout=0.0), 0.1, 0.0).dropout == 0.1
    assert with_noise(FAMILIES["resnet"], 0.0, 0.0) is FAMILIES["resnet"]


def logits_with(engine, config, arrays: dict[str, np.ndarray], kept: np.ndarray) -> np.ndarray:
    model = engine.build(config, arrays, "float64")
    images = np.random.default_rng(1).uniform(-1, 1, (3, 16, 16, 3))
    return engine.array(model(engine.tensor(images), kept_branches=engine.raw(kept)))


@pytest.mark.parametrize("config", (VIT, MIXER), ids=("vit", "mixer"))
def test_an_example_that_drops_every_branch_skips_the_blocks(engine, config):
    kept = np.ones((3, 4), bool)
    kept[1] = False
    arrays, shallow = parameters(config), dataclasses.replace(config, depth=0)
    found = logits_with(engine, config, arrays, kept)
    whole = logits_with(engine, config, arrays, np.ones((3, 4), bool))
    arrays = {name: arrays[name] for name in shallow.parameter_shapes()}
    without = logits_with(engine, shallow, arrays, np.ones((3, 0), bool))
    np.testing.assert_allclose(found[[0, 2]], whole[[0, 2]], rtol=1e-12)
    np.testing.assert_allclose(found[1], without[1], rtol=1e-12)
    assert np.abs(found[1] - whole[1]).max() > 0.01


def mixed(seeds: np.ndarray, count: int) -> np.ndarray:
    """The rule of `random_bits`, in numpy."""
    seeds, places = seeds.view(np.uint32), np.arange(count, dtype=np.uint32)
    bits = places * np.uint32(0x9E3779B9) ^ seeds[:, :1]
    bits = (bits ^ (bits >> 16)) * np.uint32(0x7FEB352D) + seeds[:, 1:]
    bits = (bits ^ (bits >> 15)) * np.uint32(0x846CA68B)
    return (bits ^ (bits >> 16)) >> 8


def test_dropout_draws_the_same_bits_everywhere(engine):
    layers = importlib.import_module(f"{engine.name}.layers")
    seeds = np.random.default_rng(0).integers(-(2**31), 2**31, (5, 2), np.int32)
    np.testing.assert_array_equal(engine.array(layers.random_bits(engine.raw(seeds), 1000)), mixed(seeds, 1000))


def test_dropout_bits_are_random():
    """Uniform, and independent between examples, places and layers, as far as a few million draws can tell."""
    seeds = np.random.default_rng(1).integers(-(2**31), 2**31, (64, 2), np.int32)
    bits = mixed(seeds, 2**15)
    values = bits / 2**24
    assert abs(values.mean() - 0.5) < 5 / np.sqrt(12 * values.size)
    for rate in (0.1, 0.5):
        dropped = (bits < rate * 2**24).astype(np.float64)
        assert abs(dropped.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / values.size)
        per_example = (dropped.mean(1) - rate) / np.sqrt(rate * (1 - rate) / dropped.shape[1])
        assert 0.6 < per_example.std() < 1.5
        centred = dropped - dropped.mean()
        assert np.abs(np.corrcoef(dropped) - np.eye(64)).max() < 5 / np.sqrt(centred.shape[1])
        assert abs((centred[:, 1:] * centred[:, :-1]).mean() / (centred**2).mean()) < 5 / np.sqrt(values.size)


def test_dropout_keeps_the_mean_and_the_rate(engine):
    layers = importlib.import_module(f"{engine.name}.layers")
    seeds = np.random.default_rng(0).integers(-(2**31), 2**31, (4, 2), np.int32)
    x, tensor = engine.raw(np.ones((4, 100, 100), np.float32)), engine.raw(seeds)
    found = engine.array(layers.dropout(x, tensor, 0.2))
    assert set(np.unique(found).tolist()) == {0.0, 1.25}
    assert abs(found.mean() - 1) < 0.02
    assert layers.dropout(x, None, 0.2) is x and layers.dropout(x, tensor, 0.0) is x


@pytest.mark.parametrize("family", CASES)
def test_training_with_noise_is_the_same_in_every_engine(family):
    config = FAMILIES[family]
    size = (config.image_size or (32, 32))[0]
    data = batches(config, 2, size, recipe_for(config))
    found = [
        Engine(name).train(config, parameters(config), data, recipe_of((0.05,) * 2), precision="float64")
        for name in INSTALLED
    ]
    for losses, arrays in found[1:]:
        np.testing.assert_allclose(losses, found[0][0], rtol=1e-9)
        for name, array in arrays.items():
            np.testing.assert_allclose(array, found[0][1][name], rtol=1e-7, atol=1e-9, err_msg=name)


def test_noise_does_not_depend_on_how_a_batch_is_split(engine):
    runs = [
        engine.train(VIT, parameters(VIT), batches(VIT), recipe_of((0.05,) * 3, batch_split=parts), precision="float64")
        for parts in (1, 4)
    ]
    np.testing.assert_allclose(runs[0][0], runs[1][0], rtol=1e-10)
    for name, array in runs[0][1].items():
        np.testing.assert_allclose(array, runs[1][1][name], rtol=1e-8, atol=1e-10, err_msg=name)


def test_noise_matters():
    """Without it, the losses are others: the tests above compare the engines in what acts."""
    engine = Engine(INSTALLED[0])
    config = dataclasses.replace(VIT, dropout=0.0)
    batch = batches(VIT)[0]
    plain = {name: batch[name] for name in ("images", "labels")}
    kept = {name: value for name, value in batch.items() if name != "dropout_seeds"}
    losses = [
        engine.train(config, parameters(VIT), [plain], recipe_of((0.05,)), precision="float64")[0],
        engine.train(config, parameters(VIT), [kept], recipe_of((0.05,)), precision="float64")[0],
        engine.train(VIT, parameters(VIT), [batch], recipe_of((0.05,)), precision="float64")[0],
    ]
    assert len({round(loss, 6) for (loss,) in losses}) == 3


@pytest.mark.parametrize("family", CASES)
def test_recomputed_activations_give_the_same_gradients(engine, family):
    config = FAMILIES[family]
    size = (config.image_size or (32, 32))[0]
    data = batches(config, 1, size, recipe_for(config))
    runs = [
        engine.train(
            config, parameters(config), data, recipe_of((0.05,), batch_split=2), precision="float64", remat=remat
        )
        for remat in (False, True)
    ]
    np.testing.assert_allclose(runs[0][0], runs[1][0], rtol=1e-12)
    for name, array in runs[0][1].items():
        np.testing.assert_allclose(array, runs[1][1][name], rtol=1e-9, atol=1e-12, err_msg=name)


DEEP = dataclasses.replace(VIT, depth=6, dropout=0.0, image_size=(64, 64))
IMAGES = np.random.default_rng(0).uniform(-1, 1, (4, 64, 64, 3)).astype(np.float32)


def kept_bytes_pytorch(engine, model) -> int:
    sizes, torch = [], importlib.import_module("torch")

    def pack(tensor):
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(engine.tensor(IMAGES))
    return sum(sizes)


def kept_bytes_jax(engine, model) -> int:
    jax, nnx = importlib.import_module("jax"), importlib.import_module("flax.nnx")
    graphdef, state = nnx.split(model)
    _, backward = jax.vjp(lambda images: nnx.merge(graphdef, state)(images), engine.tensor(IMAGES))
    return sum(leaf.nbytes for leaf in jax.tree.leaves(backward))


@pytest.mark.parametrize(("name", "kept_bytes"), [("bit_pytorch", kept_bytes_pytorch), ("bit_jax", kept_bytes_jax)])
def test_recomputed_activations_are_not_kept(name, kept_bytes):
    """Between the forward and the backward pass, six blocks keep less than a quarter: little but their inputs."""
    engine = Engine(name)
    plain, remat = (kept_bytes(engine, engine.build(DEEP, parameters(DEEP), remat=remat)) for remat in (False, True))
    assert remat < plain / 4


def test_the_graph_of_tensorflow_computes_activations_twice():
    engine = Engine("bit_tf2")
    tf, counts = importlib.import_module("tensorflow"), []
    for remat in (False, True):
        model = engine.build(DEEP, parameters(DEEP), remat=remat)

        def gradients(images, model=model):
            with tf.GradientTape() as tape:
                total = tf.reduce_sum(model(images))
            return tape.gradient(total, model.trainable_variables)

        graph = tf.function(gradients, autograph=False).get_concrete_function(engine.tensor(IMAGES)).graph
        counts.append(sum(operation.type == "Softmax" for operation in graph.get_operations()))
    assert counts == [6, 12]
