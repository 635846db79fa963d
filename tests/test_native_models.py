"""The models of PyTorch and JAX do what tools ask of those that come with a framework (Keras's: test_keras_models.py)."""

import copy
import importlib
import pickle

import numpy as np
import pytest
from engines import INSTALLED
from tiny_models import CONFIGS, IMAGES, random_arrays

NOISE = {  # what training may give to three images
    "kept_branches": np.array([[True, True, False, True], [False, True, True, True], [True, False, True, False]]),
    "dropout_seeds": np.arange(3 * 7 * 2, dtype=np.int32).reshape(3, 7, 2),
    "kept_patches": np.array([[0], [2], [3]], np.int32),
}
FIVE = np.concatenate([IMAGES, IMAGES[:2]])


@pytest.fixture(scope="module")
def models():
    """models(engine, "bit"): a tiny model of random parameters on the CPU, one for all tests."""
    built = {}

    def model_of(engine, name: str):
        if (engine.name, name) not in built:
            built[engine.name, name] = engine.build(CONFIGS[name], random_arrays(CONFIGS[name]))
        return built[engine.name, name]

    return model_of


def exported(engine, model):
    """The function of a graph that was made with a free number of images."""
    images = engine.tensor(IMAGES)
    if engine.name == "bit_pytorch":
        import torch

        return torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    if engine.name == "bit_jax":
        from flax import nnx
        from jax import export, jit

        graphdef, state = nnx.split(model)
        shape = export.symbolic_args_specs(images, "b, ...")
        found = export.export(jit(lambda images: nnx.merge(graphdef, state)(images)))(shape)
        return export.deserialize(found.serialize()).call
    import tensorflow as tf

    shape = tf.TensorSpec((None, *IMAGES.shape[1:]), tf.float32)
    return tf.function(model).get_concrete_function(shape)


def logits(engine, model, images: np.ndarray) -> np.ndarray:
    """Logits of images; in JAX compiled, which is sooner than one operation at a time."""
    if engine.name != "bit_jax":
        return engine.logits(model, images)
    from flax import nnx

    return np.asarray(nnx.jit(type(model).__call__)(model, images))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_graph_takes_any_number_of_images(engine, models, name):
    model = models(engine, name)
    found = engine.array(exported(engine, model)(engine.tensor(FIVE)))
    np.testing.assert_allclose(found, logits(engine, model, FIVE), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ("bit", "vit_gap"))
def test_a_model_is_copied_and_pickled(engine, models, name):
    if engine.name == "bit_tf2":
        return  # Keras's way is test_keras_models.py's
    model = models(engine, name)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(logits(engine, other, FIVE), logits(engine, model, FIVE))
        assert other.config == model.config


# --- PyTorch

needs_pytorch = pytest.mark.skipif("bit_pytorch" not in INSTALLED, reason="torch is not installed")
needs_jax = pytest.mark.skipif("bit_jax" not in INSTALLED, reason="jax is not installed")


def pytorch(models, name: str):
    from engines import Engine

    engine = Engine("bit_pytorch")
    model = copy.deepcopy(models(engine, name))
    return model, engine.tensor(IMAGES)


@needs_pytorch
@pytest.mark.parametrize("name", CONFIGS)
def test_torch_fx_traces_the_model_with_its_noise(models, name):
    import torch

    model, images = pytorch(models, name)
    traced = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(traced(images), model(images), rtol=0, atol=0)
    torch.testing.assert_close(traced(images[:1]), model(images[:1]), rtol=0, atol=0)
    if name.startswith("vit"):
        noise = {name: torch.from_numpy(value) for name, value in NOISE.items()}
        found, expected = traced(images, **noise), model(images, **noise)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert not torch.equal(found, model(images))


@needs_pytorch
@pytest.mark.parametrize("name", CONFIGS)
def test_torchvision_extracts_features(models, name):
    import torch
    from torchvision.models.feature_extraction import create_feature_extractor

    model, images = pytorch(models, name)
    seen, last = {}, f"blocks.{len(model.blocks) - 1}"
    hook = model.get_submodule(last).register_forward_hook(lambda *call: seen.update(block=call[2]))
    model(images)
    hook.remove()
    found = create_feature_extractor(model, {last: "block"})(images)
    assert found.keys() == {"block"}
    torch.testing.assert_close(found["block"], seen["block"], rtol=0, atol=0)


@needs_pytorch
@pytest.mark.parametrize("name", CONFIGS)
def test_layers_are_made_again_as_those_of_torch_are(models, name):
    """What pruning, LoRA and the like do: look at a layer's attributes, and make another of its type."""
    import torch
    from torch import nn

    model, _ = pytorch(models, name)
    again = {
        nn.Conv2d: lambda m: ((m.in_channels, m.out_channels, m.kernel_size, m.stride, m.padding, m.dilation, m.groups),
                              {"bias": m.bias is not None, "padding_mode": m.padding_mode}),
        nn.Linear: lambda m: ((m.in_features, m.out_features), {"bias": m.bias is not None}),
        nn.LayerNorm: lambda m: ((m.normalized_shape, m.eps), {"elementwise_affine": m.elementwise_affine}),
        nn.GroupNorm: lambda m: ((m.num_groups, m.num_channels, m.eps), {"affine": m.affine}),
    }  # fmt: skip
    layers = [(kind, module) for module in model.modules() for kind in again if isinstance(module, kind)]
    assert len(layers) > 5
    for kind, module in layers:
        arguments, options = again[kind](module)
        made = type(module)(*arguments, **options, device="meta", dtype=torch.float64)
        shapes = {key: value.shape for key, value in module.state_dict().items()}
        assert {key: value.shape for key, value in made.state_dict().items()} == shapes
        assert kind.extra_repr(made) == kind.extra_repr(module)


@needs_pytorch
def test_standardised_convolutions_take_what_conv2d_takes():
    import torch

    from bit_pytorch.layers import StdConv

    torch.manual_seed(0)
    x = torch.randn(2, 4, 9, 9)
    for options in ({"bias": True}, {"groups": 2, "dilation": 2}, {"padding": 1, "padding_mode": "reflect"}):
        conv, plain = StdConv(4, 6, 3, **options), torch.nn.Conv2d(4, 6, 3, **options)
        plain.load_state_dict(conv.state_dict() | {"weight": conv.standardized_kernel()})
        torch.testing.assert_close(conv(x), plain(x))


@needs_pytorch
def test_layers_may_be_replaced_and_wrapped(models):
    """As LoRA does: a module in the place of a dense layer that calls it, and adds to what it gives."""
    import torch

    class Wrapped(torch.nn.Module):
        def __init__(self, base_layer: torch.nn.Linear):
            super().__init__()
            self.base_layer = base_layer
            self.down = torch.nn.Linear(base_layer.in_features, 2, bias=False)
            self.up = torch.nn.Linear(2, base_layer.out_features, bias=False)
            torch.nn.init.zeros_(self.up.weight)

        def forward(self, x):
            return self.base_layer(x) + self.up(self.down(x))

    model, images = pytorch(models, "vit_token")
    before = model(images).detach()
    for block in model.blocks:
        block.attn.query = Wrapped(block.attn.query)
    torch.testing.assert_close(model(images), before, rtol=0, atol=0)
    model(images).sum().backward()
    assert model.blocks[0].attn.query.up.weight.grad.abs().sum() > 0
    model.head = torch.nn.Identity()
    assert model(images).shape == (3, 16)


@pytest.mark.parametrize("name", [name for name in ("bit_pytorch", "bit_tf2") if name in INSTALLED])
def test_tf32_is_the_users_choice_but_in_commands(name):
    api, devices = (importlib.import_module(f"{name}.{part}") for part in ("api", "devices"))
    if name == "bit_pytorch":
        import torch

        read = lambda: torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
        choose = lambda chosen: devices.allow_tf32(chosen, chosen)
    else:
        from tensorflow.config import experimental

        read, choose = experimental.tensor_float_32_execution_enabled, experimental.enable_tensor_float_32_execution
    before = read()
    try:
        for chosen in (True, False):
            choose(chosen)
            api.build(CONFIGS["bit"], random_arrays(CONFIGS["bit"]))
            assert read() is chosen
            for kind in (devices.Devices, devices.FirstDevice):
                with kind():
                    assert read() is False
                assert read() is chosen
    finally:
        choose(before)


# --- JAX


@needs_jax
@pytest.mark.parametrize("name", ("bit", "vit_token"))
def test_nnx_tabulates_splits_and_merges(models, name):
    import jax
    from engines import Engine
    from flax import nnx

    engine = Engine("bit_jax")
    model = models(engine, name)
    table = nnx.tabulate(nnx.clone(model), engine.tensor(IMAGES), console_kwargs={"width": 240})
    assert "blocks/0/" in table and "head" in table
    total = sum(value.size for value in jax.tree.leaves(nnx.state(model)))
    assert f"{total:,}" in table
    graphdef, state = nnx.split(model)
    assert graphdef == nnx.graphdef(nnx.clone(model)) and hash(graphdef) == hash(nnx.graphdef(nnx.clone(model)))
    assert pickle.loads(pickle.dumps(graphdef)) == graphdef
    doubled = nnx.merge(graphdef, jax.tree.map(lambda value: 2 * value, state))
    np.testing.assert_array_equal(doubled.head.kernel[...], 2 * model.head.kernel[...])


@needs_jax
def test_devices_are_found_anew_where_a_model_is_unpickled():
    devices = importlib.import_module("bit_jax.devices")
    for found in (devices.FirstDevice(), devices.Devices()):
        again = pickle.loads(pickle.dumps(found))
        assert type(again) is type(found) and again == found
