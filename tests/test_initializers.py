"""Initial values against those that were measured on the original code, tensor by tensor."""

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from golden_cases import published_names

from common.models import MixerConfig, ResNetConfig, ResNetV1Config, ViTConfig, find_architecture
from common.models.initial import initial_parameters
from common.system.errors import UserError
from common.weights.spellings import bit

GOLDEN = Path(__file__).parent / "golden"
FACTS = json.loads((GOLDEN / "vit_facts.json").read_text())["initialisers"]
COYO = json.loads((GOLDEN / "coyo_vit/facts.json").read_text())["initializers"]

# One block, as the facts were measured; the images are 64 pixels of which each patch has 16.
TI = ViTConfig((16, 16), 192, 1, 3, 768, 10, image_size=(64, 64), pre_logits=192, cls_position=True)
MAP = dataclasses.replace(TI, pooling="map", cls_position=False)
HYBRID = ViTConfig((1, 1), 64, 0, 1, 64, 10, image_size=(64, 64), backbone=ResNetV1Config((2,), 1))
MIXER = MixerConfig((16, 16), 192, 1, 96, 384, 10, image_size=(64, 64))
V1, V2 = ResNetV1Config((2, 1), 1, 10), ResNetConfig((2, 1), 1, 10)
CASES = {  # facts -> (code base, config, {canonical name: the original's})
    "vit_jax_vit": ("vision_transformer", TI, published_names(TI, "vision_transformer_linen")),
    "vit_jax_hybrid": ("vision_transformer", HYBRID, published_names(HYBRID, "vision_transformer_linen")),
    "vit_jax_mixer": ("vision_transformer", MIXER, published_names(MIXER, "big_vision")),
    "bv_vit_map_rep": ("big_vision", MAP, published_names(MAP, "big_vision")),
    "bv_mixer": ("vision_transformer", MIXER, published_names(MIXER, "big_vision")),
    "bv_bit": ("big_vision", V1, published_names(V1, "big_vision")),
}


def expectation(description: str) -> tuple[float, float]:
    """(standard deviation, largest value) that the words of the facts mean."""
    numbers = [int(number) for number in re.findall(r"fan_\w+ (\d+)", description)]
    if description.startswith("lecun_normal"):
        deviation = math.sqrt(1 / numbers[0])
        return deviation, 2 * deviation / 0.8796256
    assert description.startswith("xavier_uniform"), description
    return math.sqrt(2 / sum(numbers)), math.sqrt(6 / sum(numbers))


def check(values: np.ndarray, fact: dict, name: str) -> None:
    """Constants exactly; else the spread, within five standard errors, and the sharp end of the distribution."""
    assert values.dtype == np.float32 and values.size == np.prod(fact["shape"]), name
    constant = re.fullmatch(r"constant (\d)", fact["init"])
    if constant:
        assert (values == int(constant[1])).all(), name
        return
    if fact["init"].startswith("normal-like"):
        scales = (0.02, 1e-6, 1 / math.sqrt(192))
        deviation, largest = min(scales, key=lambda scale: abs(math.log(fact["std"] / scale))), math.inf
    else:
        deviation, largest = expectation(fact["init"])
    error = 5 / math.sqrt(2 * values.size)
    assert abs(fact["std"] / deviation - 1) < error, name  # what was measured on the original is what its words say
    assert abs(np.sqrt(np.mean(values.astype(np.float64) ** 2)) / deviation - 1) < error, name
    assert abs(values.astype(np.float64).mean()) < 5 * deviation / math.sqrt(values.size), name
    assert np.abs(values).max() <= largest * 1.0001, name
    if math.isfinite(largest) and values.size > 10000:
        assert np.abs(values).max() > 0.98 * largest, name


@pytest.mark.parametrize("family", CASES)
def test_initial_values_are_distributed_as_the_originals(family):
    code_base, config, names = CASES[family]
    found = initial_parameters(1, config, code_base)
    held = {ours: theirs for ours, theirs in names.items() if theirs in FACTS[family]}
    assert len(held) == len(FACTS[family])
    for ours, theirs in held.items():
        check(found[ours], FACTS[family][theirs], ours)


def test_big_vision_draws_bit_like_its_own_code():
    """Names as in its `bit_paper.py`; norms are stored as [1, 1, 1, C]."""
    found, names = initial_parameters(1, V2, "big_vision"), bit.names(V2)
    mapping = json.loads((GOLDEN / "bv_bit/bit_paper_tiny2.json").read_text())["mapping_big_vision_to_published"]
    theirs = {published: original for original, published in mapping.items()}
    for ours, published in names.items():
        check(found[ours], FACTS["bv_bit_paper"][theirs[published]], ours)


def test_coyo_draws_with_the_initializers_of_keras():
    config = dataclasses.replace(TI, pre_logits=192)
    found = initial_parameters(1, config, "coyo")
    rules = {
        "qkv_kernel": ("blocks/0/attn/query/kernel", "blocks/0/attn/key/kernel", "blocks/0/attn/value/kernel"),
        "out_kernel": ("blocks/0/attn/out/kernel",),
        "mlp_dense0_kernel": ("blocks/0/mlp/fc1/kernel",),
        "mlp_dense1_kernel": ("blocks/0/mlp/fc2/kernel",),
        "mlp_dense0_bias": ("blocks/0/mlp/fc1/bias",),
        "mlp_dense1_bias": ("blocks/0/mlp/fc2/bias",),
        "qkv_bias": ("blocks/0/attn/query/bias",),
        "patch_embedding_kernel": ("stem/kernel",),
        "patch_embedding_bias": ("stem/bias",),
        "pre_logits_kernel": ("pre_logits/kernel",),
        "head_kernel": ("head/kernel",),
    }
    assert rules.keys() == COYO.keys()
    for rule, names in rules.items():
        for name in names:
            values, shape = found[name].astype(np.float64), found[name].shape
            kind, fans = COYO[rule]["class"], sum(shape[-2:]) * math.prod(shape[:-2])
            spread, largest = {
                "Zeros": (0, 0),
                "RandomNormal": (COYO[rule]["config"].get("stddev"), math.inf),
                "GlorotNormal": (math.sqrt(2 / fans), 2 * math.sqrt(2 / fans) / 0.8796256),
                "GlorotUniform": (math.sqrt(2 / fans), math.sqrt(6 / fans)),
            }[kind]
            assert abs(values.std() - spread) <= spread * 5 / math.sqrt(2 * values.size), name
            assert np.abs(values).max() <= largest * 1.0001, name


def test_values_depend_on_seed_and_name_alone():
    config = find_architecture("ViT-mu/16", num_classes=10)
    first, again, other = (initial_parameters(seed, config) for seed in (0, 0, 1))
    deeper = initial_parameters(0, dataclasses.replace(config, depth=2))
    assert all((first[name] == again[name]).all() and (first[name] == deeper[name]).all() for name in first)
    assert (first["stem/kernel"] != other["stem/kernel"]).all()
    assert (first["blocks/0/attn/query/kernel"] != first["blocks/0/attn/key/kernel"]).mean() > 0.99


def test_a_code_base_without_the_family_is_refused():
    with pytest.raises(UserError, match="coyo has no MixerConfig"):
        initial_parameters(0, MIXER, "coyo")
