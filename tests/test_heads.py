"""Heads that a user has replaced, models without a head, and models within others: saved, read and refused."""

import dataclasses

import numpy as np
import pytest
from engines import Engine
from format_cases import CASES, random_arrays
from test_peers import images

from common.convert import convert
from common.models import PACKAGED_WEIGHTS, find_model, num_parameters
from common.models.cards import Card
from common.system.errors import UserError
from common.weights import write_weights
from common.weights.source import read_model

FAMILIES = ("bit", "resnet_v1", "vit_token", "hybrid", "mixer")
SUFFIXES = (".npz", ".h5", ".safetensors")


def build(engine, name: str, **changes):
    config = dataclasses.replace(CASES[name][0], **changes)
    return engine.build(config, random_arrays(config))


def pixels(model) -> np.ndarray:
    return images(*(model.config.image_size or (32, 32)))


def foreign_head(engine, width: int, num_classes: int, bias: bool = True):
    """A dense layer of the framework's own."""
    if engine.name == "bit_pytorch":
        import torch

        return torch.nn.Linear(width, num_classes, bias)
    if engine.name == "bit_jax":
        from flax import nnx

        return nnx.Linear(width, num_classes, use_bias=bias, rngs=nnx.Rngs(0))
    import keras

    head = keras.layers.Dense(num_classes, use_bias=bias)
    head.build((None, width))
    return head


@pytest.mark.parametrize("name", FAMILIES)
def test_a_replaced_head_is_taken_over(engine, name, tmp_path):
    """Saved, recognised without the model, and read again by a model with such a head; names of the old classes are not."""
    model = build(engine, name)
    model.card = Card(tuple(map(str, range(model.config.num_classes))), resolution=48)
    model.head = foreign_head(engine, model.config.width, 3)
    path = tmp_path / f"model{SUFFIXES[FAMILIES.index(name) % 3]}"
    engine.api.save_weights(model, path)
    assert model.config.num_classes == read_model(path).config.num_classes == 3
    assert read_model(path).card == Card(resolution=48)
    again = build(engine, name)
    again.head = foreign_head(engine, model.config.width, 3)
    engine.api.load_weights(again, path)
    np.testing.assert_array_equal(engine.logits(again, pixels(model)), engine.logits(model, pixels(model)))
    with pytest.raises(UserError, match="misshapen: head/kernel"):
        engine.api.load_weights(build(engine, name), path)


@pytest.mark.parametrize("name", ("bit", "vit_token"))
def test_every_kind_of_file_holds_the_card(name, tmp_path):
    config = CASES[name][0]
    card = Card(tuple(f"class {number}" for number in range(config.num_classes)), resolution=48, mean=(0.1, 0.2, 0.3))
    for suffix in SUFFIXES:
        write_weights(tmp_path / f"a{suffix}", random_arrays(config), config, card)
        assert read_model(tmp_path / f"a{suffix}").card == card
        assert read_model(convert(tmp_path / f"a{suffix}", tmp_path / f"{suffix[1:]}.h5")).card == card


@pytest.mark.parametrize("name", ("bit_pytorch", "bit_tf2"))
def test_a_head_without_values_is_refused(name, tmp_path):
    engine = Engine(name)
    model = build(engine, "vit_token")
    if name == "bit_pytorch":
        import torch

        model.head = torch.nn.LazyLinear(3)
    else:
        import keras

        model.head = keras.layers.Dense(3)
    with pytest.raises(
        UserError, match="A (LazyLinear|Dense) of the model has no values yet; call the model on images"
    ):
        engine.api.save_weights(model, tmp_path / "a.npz")
    engine.logits(model, pixels(model))
    engine.api.save_weights(model, tmp_path / "a.npz")
    assert read_model(tmp_path / "a.npz").config.num_classes == 3


def test_keras_forgets_the_head_that_was_replaced():
    engine = Engine("bit_tf2")
    model = build(engine, "vit_token")
    before = len(model.weights)
    model.head = foreign_head(engine, 32, 3)
    assert len(model.weights) == before and sum(layer is model.head for layer in model.layers) == 1
    assert model.num_params == num_parameters(dataclasses.replace(model.config, num_classes=3))


@pytest.mark.parametrize("change", ("no bias", "another block", "another width"))
def test_what_no_file_can_hold_is_refused_before_anything_is_written(engine, change, tmp_path):
    model = build(engine, "vit_token")
    if change == "another block":
        model.blocks[1] = foreign_head(engine, 32, 32)
    else:
        model.head = foreign_head(engine, 33 if change == "another width" else 32, 3, change != "no bias")
    for suffix in SUFFIXES:
        with pytest.raises(
            UserError, match="The model's parameters are not those of its configuration .*(missing|misshapen)"
        ):
            engine.api.save_weights(model, tmp_path / f"a{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FAMILIES)
def test_models_without_a_head(engine, name, tmp_path):
    """Their outputs are their features, and files bring them back without one."""
    model, other = build(engine, name, num_classes=None), build(engine, name, num_classes=None)
    for suffix in SUFFIXES:
        engine.weights.load(other, random_arrays(other.config, seed=1))
        engine.api.save_weights(model, tmp_path / f"a{suffix}")
        assert read_model(tmp_path / f"a{suffix}").config.num_classes is None
        engine.api.load_weights(other, tmp_path / f"a{suffix}")
        assert all(
            np.array_equal(a, b)
            for a, b in zip(engine.weights.dump(other).values(), engine.weights.dump(model).values())
        )
    np.testing.assert_array_equal(engine.logits(other, pixels(model)), engine.features(model, pixels(model)))


def test_no_classes_make_no_head(engine, tmp_path):
    name, file = "BiT-T-R26x0.5", PACKAGED_WEIGHTS / "BiT-T-R26x0.5.npz"
    whole, bare = (engine.api.create_model(name, num_classes=classes, weights=file) for classes in (None, 0))
    assert (whole.config.num_classes, bare.config.num_classes, bare.head) == (200, None, None)
    np.testing.assert_array_equal(engine.logits(bare, images(32, 32)), engine.features(whole, images(32, 32)))
    engine.api.save_weights(bare, tmp_path / "bare.npz")
    assert engine.api.create_model(name, weights=tmp_path / "bare.npz").head is None
    assert engine.api.create_model(name, num_classes=7, weights=tmp_path / "bare.npz").config.num_classes == 7


@pytest.mark.parametrize("name", ("BiT-M-R50x1", "ViT-B/16", "R50+ViT-B/16", "Mixer-B/16", "R50"))
def test_classes_that_are_wanted(name):
    model = find_model(name)
    assert model.config().num_classes == model.config(None).num_classes == model.num_classes
    assert model.config(0).num_classes is None and "head/kernel" not in model.config(0).parameter_shapes()
    for wrong in (-1, 2.5, "10"):
        with pytest.raises(UserError, match=f"num_classes is {wrong!r}, expected a number of classes, or 0"):
            model.config(wrong)


def within(engine, model) -> dict:
    """{kind: a model of the framework's around `model`}."""
    if engine.name == "bit_pytorch":
        import torch

        data_parallel, averaged = torch.nn.DataParallel(model), torch.optim.swa_utils.AveragedModel(model)
        averaged.module = model
        checkpointed = torch.nn.Sequential(torch.compile(model), torch.nn.Softmax(1))
        return {
            "compiled": torch.compile(model),
            "parallel": data_parallel,
            "averaged": averaged,
            "sequence": checkpointed,
        }
    if engine.name == "bit_jax":
        from flax import nnx

        return {"split": nnx.split(model), "sequence": nnx.Sequential(model, nnx.relu)}
    import keras

    inputs = keras.Input((32, 32, 3))
    functional = keras.Model(inputs, keras.layers.Softmax()(model(inputs)))
    return {"functional": functional, "sequential": keras.Sequential([keras.Input((32, 32, 3)), model])}


def test_wrapped_models_are_unwrapped(engine, tmp_path):
    model, other = build(engine, "vit_token"), build(engine, "vit_token")
    engine.weights.load(other, random_arrays(model.config, seed=1))
    engine.api.save_weights(model, tmp_path / "bare.npz")
    for kind, wrapped in within(engine, model).items():
        engine.api.save_weights(wrapped, tmp_path / f"{kind}.npz")
        assert (tmp_path / f"{kind}.npz").read_bytes() == (tmp_path / "bare.npz").read_bytes()
    for kind, wrapped in within(engine, other).items():
        if kind == "split":
            with pytest.raises(UserError, match="A tuple is no model of this project; .*nnx.merge"):
                engine.api.load_weights(wrapped, tmp_path / "bare.npz")
        else:
            engine.api.load_weights(wrapped, tmp_path / "bare.npz")
            np.testing.assert_array_equal(engine.logits(other, images()), engine.logits(model, images()))
            engine.weights.load(other, random_arrays(model.config, seed=1))


def test_wrappers_with_parameters_of_their_own_are_refused(engine, tmp_path):
    model = build(engine, "vit_token")
    head = foreign_head(engine, 5, 2)
    if engine.name == "bit_pytorch":
        import torch

        wrapper = torch.nn.Sequential(model, head)
    elif engine.name == "bit_jax":
        from flax import nnx

        wrapper = nnx.Sequential(model, head)
    else:
        import keras

        wrapper = keras.Sequential([keras.Input((32, 32, 3)), model, head])
    with pytest.raises(UserError, match="A Sequential holds more parameters than the ViT within it; give what"):
        engine.api.save_weights(wrapper, tmp_path / "a.npz")
    with pytest.raises(UserError, match="A dict is no model of this project"):
        engine.api.save_weights({}, tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())


def test_adapters_are_refused_by_their_names_and_compiled_blocks_are_not(tmp_path):
    torch, engine = pytest.importorskip("torch"), Engine("bit_pytorch")

    class Adapted(torch.nn.Module):  # as peft replaces a layer
        def __init__(self, layer):
            super().__init__()
            self.base_layer, self.lora_A = layer, torch.nn.Linear(32, 2, bias=False)

    model = build(engine, "vit_token")
    engine.api.save_weights(model, tmp_path / "a.npz")
    model.blocks[0] = torch.compile(model.blocks[0])
    engine.api.save_weights(model, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    model.blocks[1].attn.query = Adapted(model.blocks[1].attn.query)
    with pytest.raises(UserError, match="unexpected: blocks/1/attn/query/base_layer/kernel.* merge what was added"):
        engine.api.save_weights(model, tmp_path / "c.npz")


@pytest.mark.parametrize("name", ("bit_pytorch", "bit_jax"))  # a Keras variable keeps its type
def test_parameters_in_bfloat16_are_written_as_float32(name, tmp_path):
    engine = Engine(name)
    model = build(engine, "vit_token")
    if name == "bit_pytorch":
        model = model.bfloat16()
    else:
        for value in engine.weights.parameters(model).values():
            value.set_value(value.get_value().astype("bfloat16"))
    engine.api.save_weights(model, tmp_path / "a.npz")
    arrays = read_model(tmp_path / "a.npz").arrays
    expected = engine.cast(engine.cast(engine.raw(random_arrays(model.config)["stem/kernel"]), "bfloat16"), "float32")
    assert arrays["stem/kernel"].dtype == np.float32
    np.testing.assert_array_equal(arrays["stem/kernel"], engine.array(expected))
