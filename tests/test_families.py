"""The families' configurations: parameter counts of every variant, fixed positions, and what they refuse."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from common.models import ResNetV1Config, ViTConfig, architectures, find_architecture, num_parameters
from common.models.positions import sincos2d
from common.system.errors import UserError

GOLDEN = Path(__file__).parent / "golden"
COUNTS = {  # name: count, of google-research/vision_transformer
    name: row["num_params_1000_classes_224"]
    for name, row in json.loads((GOLDEN / "vit_jax_vit/variants.json").read_text())["variants"].items()
    if "num_params_1000_classes_224" in row and not name.startswith("testing")
}
BIG_VISION = json.loads((GOLDEN / "bv_vit/variants.json").read_text())


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_equal_vision_transformer(name):
    published = name.replace("_", "/").removesuffix("-gap-norep")
    pooling = {"pooling": "gap"} if published + "-gap-norep" == name.replace("_", "/") else {}
    assert num_parameters(find_architecture(published, **pooling)) == COUNTS[name]


@pytest.mark.parametrize("variant", BIG_VISION["variants"])
def test_parameter_counts_equal_big_vision(variant):
    config = next(config for name, config in architectures().items() if name.startswith(f"ViT-{variant}/"))
    config = dataclasses.replace(config, pooling="gap", patch_size=(16, 16))
    row = BIG_VISION["variants"][variant]
    assert num_parameters(config) == row["num_params_patch16_224_gap_learn_1000cls"]


def test_resnet_v1_has_the_parameters_of_big_vision():
    assert num_parameters(ResNetV1Config((2, 1), 0.5, 10)) == 139690  # golden case bv_bit/bit_tiny2
    assert {int(name[1:]) for name, c in architectures().items() if type(c) is ResNetV1Config} == {
        int(layers) for layers in BIG_VISION["bit_depths"]
    }


def test_mixers_have_the_sizes_of_big_vision():
    for variant, row in BIG_VISION["mlp_mixer_variants"].items():
        patch = 14 if variant == "H" else 16
        config = find_architecture(f"Mixer-{variant}/{patch}")
        ours = (config.width, config.depth, config.channels_mlp_dim, config.tokens_mlp_dim)
        assert ours == tuple(row[name] for name in ("hidden_dim", "num_blocks", "channels_mlp_dim", "tokens_mlp_dim"))


@pytest.mark.parametrize("size", ("4x4x32", "3x6x16"))
def test_fixed_positions_equal_big_vision(size):
    expected = json.loads((GOLDEN / "bv_vit/sincos2d.json").read_text())["values"][size]["data"]
    np.testing.assert_allclose(sincos2d(*map(int, size.split("x"))), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_heads": 7}, "7 heads do not divide the width of 192"),
        ({"pooling": "mean"}, "pooling is 'mean', expected one of token, gap"),
        ({"positions": "sincos2d", "width": 6, "num_heads": 3}, "4 divides"),
        ({"image_size": (8, 224)}, "smaller than one patch"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_a_vit_that_cannot_be_is_refused(change, words):
    with pytest.raises(UserError, match=words):
        find_architecture("ViT-Ti/16", **change)


def test_a_mixer_has_whole_patches():
    with pytest.raises(UserError, match="do not divide"):
        find_architecture("Mixer-B/16", image_size=(224, 230))


def test_an_unknown_architecture_is_named_with_its_neighbours():
    with pytest.raises(UserError, match="ViT-B/16"):
        find_architecture("ViT-B16")


def test_grids_of_patches_may_be_rectangular():
    config = ViTConfig((8, 16), 32, 2, 4, 64, 10, image_size=(32, 48))
    assert (config.grid, config.num_positions) == ((4, 3), 13)
    assert config.parameter_shapes()["pos_embedding"] == (1, 13, 32)
