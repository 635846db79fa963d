"""Intermediate outputs of every family and engine, in float64: timm's, and those that a model's features are made of."""

import copy

import numpy as np
import pytest
from format_cases import CASES, random_arrays
from test_peers import TIMM, images, relative, save_timm, timm_model

from common.models.intermediates import chosen
from common.system.errors import UserError
from common.weights.source import read_model

FAMILIES = ("bit", "resnet_v1", "vit_token", "vit_gap", "vit_rectangle", "hybrid_stem", "mixer")
STRIDES = {  # pixels per row and column
    "bit": [(2, 2), (4, 4), (8, 8)], "resnet_v1": [(2, 2), (4, 4), (8, 8)], "hybrid_stem": [(16, 16)] * 2,
}  # fmt: skip


def in_nhwc(engine, tensor) -> np.ndarray:
    array = engine.array(tensor)
    return array.transpose(0, 2, 3, 1) if engine.name == "bit_pytorch" else array


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("token", False), ("gap", True), ("token_rectangle", True), ("bit", False), ("bit", True), ("mixer", False),
        pytest.param("hybrid", False, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_intermediates_are_those_of_timm(engine, name, norm, tmp_path):
    """`forward_intermediates` in float64, layout included."""
    torch = pytest.importorskip("torch")
    peer, size = copy.deepcopy(timm_model(name)[0]).double().eval(), TIMM[name][1]
    pixels = images(*size).astype(np.float64)
    options = {"return_prefix_tokens": True} if name.startswith("token") else {}
    with torch.no_grad():
        theirs = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        expected = peer.forward_intermediates(theirs, norm=norm, intermediates_only=True, **options)
    source = read_model(save_timm(name, tmp_path / "theirs"))
    model = engine.build(source.config, source.arrays, "float64")
    found = model.intermediates(engine.tensor(pixels), norm=norm)
    assert len(found) == len(expected) and "1" in found[1].name
    for ours, other in zip(found, expected):
        if options:
            other, prefix = other
            assert relative(engine.array(ours.tokens)[:, :1], prefix.numpy()) < 1e-13
        assert relative(in_nhwc(engine, ours.map), other.permute(0, 2, 3, 1).numpy()) < 1e-13
        assert (ours.tokens is None) == (name == "bit")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_intermediate_makes_the_features(engine, name):
    """Pooled, and their strides are those of their maps."""
    config = CASES[name][0]
    size = config.image_size or (32, 32)
    model = engine.build(config, random_arrays(config), "float64")
    pixels = engine.tensor(images(*size).astype(np.float64))
    found = model.intermediates(pixels, norm=True)
    assert [one.stride for one in found] == STRIDES.get(name, [(8, 8)] * 2)
    for one in found:
        assert in_nhwc(engine, one.map).shape[1:3] == tuple(np.array(size) // one.stride)
    is_token = getattr(config, "pooling", None) == "token"
    last = engine.array(found[-1].tokens)[:, 0] if is_token else in_nhwc(engine, found[-1].map).mean((1, 2))
    np.testing.assert_allclose(last, engine.array(model.features(pixels)), rtol=1e-12, atol=1e-13)


def test_intermediates_are_chosen_as_in_python(engine):
    config = CASES["bit"][0]
    model = engine.build(config, random_arrays(config))
    names = lambda indices: [one.name for one in model.intermediates(engine.tensor(images(32, 32)), indices=indices)]
    assert names(None) == ["stem", "stage1", "stage2"]
    assert names(1) == ["stage2"] and names(3) == names(None)
    assert names([-1, 0]) == names((0, 2, 2)) == ["stem", "stage2"] and names([]) == []


@pytest.mark.parametrize("indices", (4, -1, [3], [0, -4]))
def test_intermediates_that_are_not_there(indices):
    with pytest.raises(UserError, match="The model has 3 intermediates and was asked for "):
        chosen(3, indices)


def test_intermediates_compile():
    jax = pytest.importorskip("jax")
    from engines import Engine
    from flax import nnx

    engine, config = Engine("bit_jax"), CASES["vit_token"][0]
    model, pixels = engine.build(config, random_arrays(config)), images(32, 32)
    found = nnx.jit(lambda model, pixels: model.intermediates(pixels, indices=1))(model, pixels)
    assert found[0].name == "blocks/1" and isinstance(found[0].map, jax.Array)
