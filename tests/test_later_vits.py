"""ViTs of later papers by name: the sizes that timm has, and files without a word beside their arrays."""

import dataclasses
import json

import numpy as np
import pytest
from format_cases import random_arrays

from common.convert import convert
from common.models import architecture_name, architectures, find_architecture, find_model, num_parameters
from common.models.later_vits import LATER
from common.system.errors import UserError
from common.weights import containers
from common.weights.express import choose_table, express, expressed
from common.weights.starting import starting_values

TIMM = {  # name here -> timm's, and what it makes otherwise than its default
    "DeiT-Ti/16": ("deit_tiny_patch16_224", {}),
    "DeiT-S/16": ("deit_small_patch16_224", {}),
    "DeiT-B/16-384": ("deit_base_patch16_384", {}),
    "DeiT-B/16-distilled": ("deit_base_distilled_patch16_224", {}),
    "DeiT-Ti/16-distilled": ("deit_tiny_distilled_patch16_224", {}),
    "DeiT3-S/16-384": ("deit3_small_patch16_384", {}),
    "DeiT3-M/16": ("deit3_medium_patch16_224", {}),
    "DeiT3-L/16": ("deit3_large_patch16_224", {}),
    "DeiT3-H/14": ("deit3_huge_patch14_224", {}),
    "MAE-B/16": ("vit_base_patch16_224", {"num_classes": 0}),
    "MAE-H/14": ("vit_huge_patch14_224", {"num_classes": 0}),
    "DINO-S/8": ("vit_small_patch8_224", {"num_classes": 0}),
    "DINO-B/8": ("vit_base_patch8_224", {"num_classes": 0}),
    "DINOv2-S/14": ("vit_small_patch14_dinov2", {}),
    "DINOv2-g/14": ("vit_giant_patch14_dinov2", {}),
    "DINOv3-S/16": ("vit_small_patch16_dinov3_qkvb", {}),
    "DINOv3-L/16": ("vit_large_patch16_dinov3_qkvb", {}),
}


@pytest.mark.parametrize("name", LATER)
def test_every_row_is_a_model_with_its_preparation(name):
    model = find_model(name)
    config, row, card = model.config(), LATER[name], model.card
    assert config == find_architecture(name) and config.image_size == (row.pixels,) * 2
    assert card.mean == (0.485, 0.456, 0.406) and card.std and card.preprocessing.resolution == row.pixels
    assert model.config(7).num_classes == 7 and "arxiv.org" in model.source
    again = architecture_name(config)
    same = find_architecture(again)
    assert again == name or num_parameters(same.at(config.image_size).with_classes(config.num_classes)) == (
        num_parameters(dataclasses.replace(config, cls_position=same.cls_position))
    )


LARGE = ("DeiT3-L/16", "DeiT3-H/14", "MAE-H/14", "DINOv2-g/14", "DINOv3-L/16")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in TIMM])
def test_names_and_shapes_are_those_of_timm(name):
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    architecture, changes = TIMM[name]
    with torch.device("meta"):
        model = timm.create_model(architecture, **changes)
    config = find_architecture(name)
    there = expressed(config, choose_table("timm", config))[0]
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert choose_table("timm", there).published_shapes(there) == expected
    heads = model.blocks[0].attn.num_heads
    assert heads == config.num_heads


SMALL = {"width": 128, "depth": 4, "num_heads": 4, "mlp_dim": 512, "patch_size": (8, 8), "image_size": (32, 32)}


def bare(path, name: str, spelling: str, monkeypatch, **changes):
    """A file with nothing but arrays, of a small model in the place of the one called `name`, which has its fields."""
    config = dataclasses.replace(find_architecture(name), **SMALL)
    monkeypatch.setitem(architectures(), name, config)
    config = dataclasses.replace(config, **changes)
    there = expressed(config, choose_table(spelling, config))[0]
    arrays = express(random_arrays(config), config, there)
    containers.write(path, choose_table(spelling, there).to_published(dict(arrays), there), {})
    return arrays


def test_a_name_tells_how_images_are_prepared_and_positions_resized(tmp_path, monkeypatch):
    """A file of facebook's DINOv2 has neither; at another size it is what DINOv2 makes of its positions."""
    arrays = bare(tmp_path / "a.safetensors", "DINOv2-S/14", "timm", monkeypatch)
    lines = []
    start = starting_values(
        find_model("DINOv2-S/14"), tmp_path / "a.safetensors", image_size=(48, 48), say=lines.append
    )
    assert start.config.position_resize == "dinov2" and any("bicubic, as DINOv2 does" in line for line in lines)
    assert start.card.mean == LATER["DINOv2-S/14"].prepared["mean"] and start.card.resize_kind == "bicubic"
    assert start.card.preprocessing.at(224).eval_resize == 256
    assert not any("no file states how images" in line for line in lines)
    np.testing.assert_array_equal(start.arrays["cls"], arrays["cls"])
    monkeypatch.setitem(
        architectures(), "ViT-T/8", dataclasses.replace(architectures()["DINOv2-S/14"], layer_scale=False)
    )
    with pytest.raises(UserError, match="layer_scale True instead of False"):
        starting_values(find_model("ViT-T/8"), tmp_path / "a.safetensors")


def test_a_conversion_writes_what_the_name_tells(tmp_path, monkeypatch):
    bare(tmp_path / "a.safetensors", "DINOv2-S/14", "timm", monkeypatch)
    lines = []
    path = convert(tmp_path / "a.safetensors", tmp_path / "b", "huggingface", model="DINOv2-S/14", say=lines.append)
    told = json.loads(path.with_name("preprocessor_config.json").read_text())
    assert told["image_mean"] == [0.485, 0.456, 0.406] and told["resample"] == 3
    assert not any("no file states how images" in line for line in lines)
    convert(tmp_path / "a.safetensors", tmp_path / "c", "huggingface", say=lines.append)
    assert any("no file states how images" in line for line in lines)


def test_what_a_file_states_goes_before_what_a_name_tells(tmp_path, monkeypatch):
    bare(tmp_path / "a.safetensors", "DINOv2-S/14", "timm", monkeypatch)
    path = convert(tmp_path / "a.safetensors", tmp_path / "mine.npz")
    (tmp_path / "mine.json").write_text('{"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "gelu": "erf"}')
    card = starting_values(find_model("DINOv2-S/14"), path).card
    assert card.mean == (0.1, 0.2, 0.3) and card.resize_kind == "bicubic"


def test_a_dinov3_of_timm_lacks_the_biases_that_are_zero(tmp_path, monkeypatch):
    bare(tmp_path / "a.safetensors", "DINOv3-S/16", "timm", monkeypatch, attn_biases=("out",))
    start = starting_values(find_model("DINOv3-S/16"), tmp_path / "a.safetensors", num_classes=3)
    assert start.config.attn_biases == ("out",) and start.config.rotary and start.config.registers == 4
    from bit_pytorch import create_model, load_weights

    model = create_model("DINOv3-S/16", weights=None)
    load_weights(model, tmp_path / "a.safetensors")
    assert not model.blocks[3].attn.query.bias.any() and model.config.attn_biases == ("query", "value", "out")


def test_a_bare_deit3_of_facebook_is_read_where_its_name_or_spelling_is_stated(tmp_path, monkeypatch):
    """timm's vit_*_rope_ape_* have the same names and shapes, and turn queries and keys besides."""
    path = tmp_path / "a.safetensors"
    arrays = bare(path, "DeiT3-S/16", "facebook", monkeypatch)
    with pytest.raises(UserError, match="of a ViT in the spelling facebook and of timm's vit_.*--from facebook"):
        convert(path, tmp_path / "b.npz")
    start = starting_values(find_model("DeiT3-S/16"), path)
    np.testing.assert_array_equal(start.arrays["blocks/1/layer_scale1/scale"], arrays["blocks/1/layer_scale1/scale"])
    again = convert(path, tmp_path / "c.safetensors", "facebook", spelling="facebook")
    convert(again, tmp_path / "b.npz")  # which states what it is


@pytest.mark.parametrize(
    ("kind", "words"), [("rope_ape", "nothing tells them apart"), ("rope", "a ViT without positions")]
)
def test_a_bare_rotary_vit_of_timm_is_not_read_as_another(kind, words, tmp_path):
    timm, safetensors = pytest.importorskip("timm"), pytest.importorskip("safetensors.torch")
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4, "num_classes": 5}
    model = timm.create_model(f"vit_small_patch16_{kind}_224", **sizes)
    safetensors.save_file(model.state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=words):
        convert(tmp_path / "a.safetensors", tmp_path / "b.npz")
