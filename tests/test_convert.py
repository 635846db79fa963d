"""`python -m common.convert` and its neighbours: what they say, refuse and leave alone; adaptation on loading."""

import argparse
import dataclasses
import json
import pickle
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from format_cases import CASES, SMALL, random_arrays

from common import convert as module
from common import weights, zoo
from common.convert import convert, describe, inspect, parse
from common.models import PublishedModel, ResNetConfig, ViTConfig, architecture_name, find_architecture
from common.models.cards import Card
from common.models.families import dump_config
from common.models.positions import resize_positions
from common.system.errors import UserError
from common.weights import containers
from common.weights.adapt import adapt, adapt_channels, check_same_model
from common.weights.containers import npz as npz_files
from common.weights.express import choose_table
from common.weights.source import RECORD, read_model

VIT = CASES["vit_token"][0]


def ours(path: Path, config=VIT, **changes) -> Path:
    """A file in our spelling, with its record."""
    arrays = random_arrays(config) | changes
    containers.write(path, arrays, {RECORD: json.dumps({"config": dump_config(config)})})
    return path


def npz(path: Path, config=VIT, spelling="vision_transformer", edit=lambda published: None) -> Path:
    """A foreign file after `edit`, without a card."""
    published = choose_table(spelling, config).to_published(random_arrays(config), config)
    edit(published)
    np.savez(path, **published)
    return path


@pytest.fixture
def command(run):
    """What `python -m common.convert` says."""
    return lambda *arguments, status=0: run("common.convert", *arguments, status=status).output


# --- the command


def test_the_command_says_what_it_found_and_did(command, tmp_path):
    npz(tmp_path / "a.npz")
    said = command("a.npz", "b", "--to", "huggingface")
    assert "a.npz: ViT in the spelling vision_transformer, 5 classes, 32 x 32 pixels" in said
    assert "no file states: gelu tanh, layer_norm_epsilon 1e-06" in said and "read back and equal" in said
    shown = command("--inspect", "b")
    for words in ("ViT", "huggingface", "32 x 32", "gelu tanh", r"parameters +24,069", "[0-9a-f]{64}"):
        assert re.search(words, shown), shown
    assert command("b", status=2).startswith("error: Nothing to do")


def test_the_command_needs_no_framework():
    """It reads, converts and writes every case of test_formats.py with `common/` alone; see test_common_is_numpy_only."""
    source = Path(module.__file__).read_text()
    assert not re.search(r"import (torch|jax|tensorflow|keras|timm|transformers)", source)


def test_inspect_names_the_architecture_and_the_digest(tmp_path):
    config = dataclasses.replace(find_architecture("ViT-Ti/16"), num_classes=3)
    path = npz(tmp_path / "a.npz", config)
    shown = inspect(path)
    assert re.search(r"architecture +ViT-Ti/16\n", shown) and re.search(r"resolution +224 x 224\n", shown)
    assert re.search(r"classes +3\n", shown) and re.search(r"spelling +vision_transformer\n", shown)
    assert module.digest(path) in shown
    assert "ViT-Ti/16" in describe(read_model(path, values=False))


def test_inspect_shows_both_towers(tmp_path):
    config = CASES["siglip"][0]
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, vocabulary=32_000, length=16))
    weights.write_weights(tmp_path / "a.safetensors", random_arrays(config), config)
    shown = inspect(convert(tmp_path / "a.safetensors", tmp_path / "b.npz"))
    assert re.search(r"serves for +evaluate and predict by texts", shown)
    assert re.search(r"converts to +ours, big_vision, big_vision_scan, huggingface, huggingface_siglip2, ", shown)
    assert re.search(r"image +ViT: patch_size \(8, 8\), width 32.*pooling map", shown)
    assert re.search(r"text +text transformer: vocabulary 32000, length 16.*pooling last", shown)
    assert re.search(r"texts +kind sentencepiece, vocabulary c4_en.model, length 16, padding 1, end sticky", shown)
    assert re.search(r"configuration +bias True, .*third None\n", shown) and re.search(
        r"family +image-text model\n", shown
    )


def test_one_tower_is_converted(tmp_path):
    """Of a SigLIP, for timm and for transformers; with its projection, where it has one."""
    config = CASES["siglip"][0]
    arrays = random_arrays(config)
    weights.write_weights(tmp_path / "a.npz", arrays, config)
    for tower, to in (("image", "timm"), ("image", "huggingface"), ("text", "huggingface"), ("text", "big_vision")):
        target = tmp_path / f"{tower}-{to}{'.npz' if to == 'big_vision' else ''}"
        found = read_model(convert(tmp_path / "a.npz", target, to, tower=tower, given={"gelu": "erf"}))
        assert found.config == dataclasses.replace(getattr(config, tower), gelu="erf")
        expected = {key.removeprefix(f"{tower}/"): array for key, array in arrays.items() if key.startswith(tower)}
        assert found.arrays.keys() == expected.keys()
        assert all(found.arrays[key].tobytes() == expected[key].tobytes() for key in expected)
    with pytest.raises(UserError, match="holds a ViT, which has no tower for images; name another"):
        convert(tmp_path / "image-timm", tmp_path / "b.npz", tower="image")
    clippo = CASES["clippo"][0]
    weights.write_weights(tmp_path / "c.npz", random_arrays(clippo), clippo)
    with pytest.raises(UserError, match="holds an image-text model, which has no tower for texts"):
        convert(tmp_path / "c.npz", tmp_path / "d.npz", tower="text")


def test_an_architecture_is_named_for_its_size_of_images():
    for name in ("SigLIP-B/16-224", "SigLIP-B/16-512", "SigLIP2-g-opt/16-384", "ViT-B/16"):
        assert architecture_name(find_architecture(name)) == name
    assert architecture_name(find_architecture("ViT-B/16").at((384, 384))) == "ViT-B/16"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["a.npz"], "Nothing to do"),
        (["a.npz", "b", "--to", "tim"], "invalid choice: 'tim'"),
        (["a.npz", "b", "--image_size", "0x3"], "is no size such as 384"),
        (["a.npz", "b", "--num_heads", "0"], "at least 1"),
        (["a.npz", "b", "--layer_norm_epsilon", "-1"], "small positive"),
        (["a.npz", "b", "--so", "x"], "nrecognized arguments"),
    ],
)
def test_wrong_flags_are_refused(flags, words):
    with pytest.raises(UserError, match=words):
        parse(flags)


# --- what a file may hold, and what ends in one sentence


DAMAGE = {  # what was done to a published file -> words of the sentence
    "missing": (lambda a: a.pop("cls"), "17 positions, which form no square"),
    "missing in a block": (
        lambda a: a.pop("Transformer/encoderblock_1/LayerNorm_2/bias"),
        "missing: .*LayerNorm_2/bias",
    ),
    "unexpected": (lambda a: a.update(extra=np.zeros(3, np.float32)), "unexpected: extra"),
    "misshapen": (
        lambda a: a.update({"head/kernel": np.zeros((31, 5), np.float32)}),
        r"\(31, 5\) instead of \(32, 5\)",
    ),
    "gap between blocks": (
        lambda a: [a.update({n.replace("block_1", "block_7"): a.pop(n)}) for n in list(a) if "block_1" in n],
        "encoderblock_7",
    ),
    "integers": (lambda a: a.update({"head/bias": np.zeros(5, np.int32)}), "not floating-point .*head/bias"),
    "not finite": (lambda a: a["head/bias"].fill(np.nan), "not finite .*head/bias"),
    "no rectangle": (
        lambda a: a.update({"Transformer/posembed_input/pos_embedding": np.zeros((1, 16, 32), np.float32)}),
        "fit",
    ),
    "no square": (
        lambda a: a.update({"Transformer/posembed_input/pos_embedding": np.zeros((1, 14, 32), np.float32)}),
        "14 positions, which form no square; give --image_size",
    ),
    "heads that do not divide": (
        lambda a: [
            a.update({n: np.zeros((32, 3, 10) if n.endswith("kernel") else (3, 10), np.float32)})
            for n in list(a)
            if re.search("(query|key|value)/", n)
        ],
        "heads|misshapen",
    ),
    "another model's": (lambda a: a.clear(), "it is empty"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_file_that_does_not_fit_is_explained(name, tmp_path):
    edit, words = DAMAGE[name]
    path = npz(tmp_path / "a.npz", edit=edit)
    with pytest.raises(UserError, match=words) as caught:
        convert(path, tmp_path / "b", "timm")
    assert "\n" not in str(caught.value) and not (tmp_path / "b").exists()


def test_an_ambiguous_file_lists_what_it_may_be(tmp_path):
    """A gap ViT of HEIGHT x WIDTH has one reading only; the same arrays under two prefixes have none."""
    config = CASES["vit_gap"][0]
    path = npz(tmp_path / "a.npz", config, "big_vision", lambda a: a.update({"params/head/bias": a["head/bias"]}))
    with pytest.raises(UserError, match="both .*head/bias and .*head/bias"):
        read_model(path)


def test_numbers_that_names_and_shapes_do_not_tell(tmp_path):
    """timm's arrays do not show heads; positions of a rectangle do not show its sides."""
    config = dataclasses.replace(VIT, image_size=(32, 56))
    source = ours(tmp_path / "a.safetensors", config)
    path = convert(source, tmp_path / "b", "timm")
    with containers.open_container(path) as file:
        arrays = {name: file.get(name) for name in file.declared}
    bare = tmp_path / "bare.safetensors"
    containers.write(bare, arrays, {"format": "pt"})
    with pytest.raises(UserError, match="number of heads; give --num_heads"):
        read_model(bare)
    with pytest.raises(UserError, match="29 positions, which form no square"):
        read_model(bare, given={"num_heads": 4})
    with pytest.raises(UserError, match="4 x 4 patches"):
        read_model(bare, given={"num_heads": 4, "image_size": (32, 32)})
    with pytest.raises(UserError, match="5 heads do not divide the width of 32"):
        read_model(bare, given={"num_heads": 5, "image_size": (32, 56)})
    found = read_model(bare, given={"num_heads": 4, "image_size": (32, 56)})
    assert found.config == dataclasses.replace(config, gelu="erf")
    assert found.assumed == ["gelu", "layer_norm_epsilon"]


@pytest.mark.parametrize("cut", (4, 8, 100, -1))
def test_a_truncated_safetensors_is_one_sentence(cut, command, tmp_path):
    path = ours(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:cut])
    error = command("a.safetensors", "b.npz", status=2)
    assert "is no readable .safetensors" in error and not (tmp_path / "b.npz").exists()


@pytest.mark.parametrize("claimed", (2**20, 2**40))
def test_a_header_that_claims_more_than_the_file_holds(claimed, tmp_path):
    header = {"head/bias": {"dtype": "F32", "shape": [claimed // 4], "data_offsets": [0, claimed]}}
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
    (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", claimed) + text)
    for name in "ab":
        with pytest.raises(UserError, match="is no readable .safetensors"):
            read_model(tmp_path / f"{name}.safetensors")


def test_a_pickle_is_never_read_here(command, tmp_path):
    for suffix in (".pt", ".pth", ".bin"):
        (tmp_path / f"a{suffix}").write_bytes(pickle.dumps({"head/bias": 1}))
        assert "bit_pytorch.import_weights" in command(f"a{suffix}", "b.npz", status=2)


@pytest.mark.parametrize(
    "record",
    [
        "nonsense",
        "[1]",
        '{"config": 3}',
        '{"config": {"family": "ViTConfig"}}',
        '{"config": {"family": "os.system"}}',
        json.dumps({"config": dump_config(VIT) | {"depth": 10**12}}),
        json.dumps({"config": dump_config(VIT) | {"depth": 2_000_000}}),
        json.dumps({"config": dump_config(VIT) | {"width": -32}}),
        json.dumps({"config": dump_config(VIT) | {"image_size": [10**9, 10**9]}}),
        json.dumps({"config": dump_config(VIT) | {"image_size": "32"}}),
        json.dumps({"config": dump_config(CASES["bit"][0])}),
        "[" * 100_000,
    ],
)
def test_a_record_that_lies_is_refused(record, tmp_path):
    path = ours(tmp_path / "a.safetensors")
    containers.write(path, random_arrays(VIT), {RECORD: record})
    with pytest.raises(UserError):
        read_model(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"model_type": "swin"}', '{"model_type": "vit", "image_size": {}}', '{"act_layer": []}',
             '{"model_type": "vit", "hidden_act": "relu"}', '{"act_layer": "relu"}', '{"pretrained_cfg": 3}']
)  # fmt: skip
def test_a_config_json_that_is_none_is_refused(text, tmp_path):
    path = convert(ours(tmp_path / "a.safetensors"), tmp_path / "b", "huggingface")
    with containers.open_container(path) as file:
        arrays = {name: file.get(name) for name in file.declared}
    containers.write(path, arrays, {})
    (path.parent / "config.json").write_text(text)
    with pytest.raises(UserError, match="config.json|number of heads"):
        read_model(path)


# --- what a spelling cannot hold


def test_a_model_that_would_change_is_refused_or_said(tmp_path):
    source, lines = ours(tmp_path / "gap.safetensors", CASES["vit_gap"][0]), []
    with pytest.raises(UserError, match="pooling 'gap', only 'token'"):
        convert(source, tmp_path / "b", "huggingface")
    source = ours(tmp_path / "pre.safetensors", CASES["vit_pre_logits"][0])
    with pytest.raises(UserError, match="pre_logits 24, only None"):
        convert(source, tmp_path / "b", "timm")
    with pytest.raises(UserError, match="torchvision has no BiT; choose one of ours, big_transfer"):
        convert(ours(tmp_path / "bit.safetensors", CASES["bit"][0]), tmp_path / "b.safetensors", "torchvision")
    assert not (tmp_path / "b").exists()

    tanh = dataclasses.replace(CASES["mixer"][0], gelu="tanh")
    source = ours(tmp_path / "mixer.safetensors", tanh)
    with pytest.raises(UserError, match="gelu erf, its config.json cannot say otherwise, .* give --gelu erf"):
        convert(source, tmp_path / "b", "timm")
    path = convert(source, tmp_path / "b", "timm", given={"gelu": "erf"})
    assert read_model(path).config.gelu == "erf"

    erf = dataclasses.replace(VIT, gelu="erf", layer_norm_epsilon=1e-12)
    source = ours(tmp_path / "erf.safetensors", erf)
    with pytest.raises(UserError, match="layer_norm_epsilon 1e-06.* give --layer_norm_epsilon 1e-06"):
        convert(source, tmp_path / "c", "timm")
    path = convert(source, tmp_path / "c.npz", "vision_transformer", say=lines.append)
    assert any("computes with the gelu tanh, the model has erf; c.json states it" in line for line in lines)
    assert read_model(path).config == erf


def test_the_config_json_says_what_the_names_cannot(tmp_path):
    source = ours(tmp_path / "a.safetensors", CASES["vit_patches_only"][0])
    convert(source, tmp_path / "timm", "timm")
    facts = json.loads((tmp_path / "timm" / "config.json").read_text())
    assert facts["model_args"]["act_layer"] == "gelu_tanh" and facts["model_args"]["no_embed_class"] is True
    assert facts["pretrained_cfg"]["input_size"] == [3, 32, 32]
    convert(source, tmp_path / "huggingface", "huggingface")
    facts = json.loads((tmp_path / "huggingface" / "config.json").read_text())
    assert (facts["hidden_act"], facts["layer_norm_eps"], facts["image_size"]) == ("gelu_pytorch_tanh", 1e-6, 32)


def test_a_config_json_of_another_model_is_left_alone(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds a config.json of another model"):
        convert(ours(tmp_path / "a.safetensors"), tmp_path / "b", "timm")
    assert (tmp_path / "b" / "config.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("target", "to", "words"),
    [
        ("b.npz", "timm", "timm is kept in .safetensors files or a folder, and .*b.npz is none"),
        ("b.pt", "timm", "timm is kept in .safetensors files or a folder, and .*b.pt is none"),
        ("b.onnx", "huggingface", "huggingface is kept in .safetensors files or a folder"),
        ("b.safetensors", "vision_transformer", "kept in .npz files"),
        ("b", None, "ours is kept in"),
    ],
)
def test_a_target_of_the_wrong_kind_is_refused(target, to, words, tmp_path):
    with pytest.raises(UserError, match=words):
        convert(ours(tmp_path / "a.safetensors"), tmp_path / target, to)


def test_a_target_that_cannot_be_written_keeps_its_old_contents(tmp_path, monkeypatch):
    path = ours(tmp_path / "a.safetensors")
    target = tmp_path / "b.npz"
    target.write_bytes(b"old")
    monkeypatch.setattr(npz_files, "same_in_file", lambda path, start, array: False)
    with pytest.raises(UserError, match="differs from what was written"):
        convert(path, target, "vision_transformer", force=True)
    assert target.read_bytes() == b"old" and {p.name for p in tmp_path.iterdir()} == {"a.safetensors", "b.npz"}


def test_a_target_that_exists_is_replaced_by_force_alone(command, tmp_path):
    for target, file in (("b.npz", "b.npz"), ("b", "b/model.safetensors")):
        ours(tmp_path / "a.safetensors")
        flags = ("a.safetensors", target, "--to", "timm" if target == "b" else "vision_transformer")
        command(*flags)
        before = (tmp_path / file).read_bytes()
        assert f"{file} exists already; give --force to replace it" in command(*flags, status=2)
        ours(tmp_path / "a.safetensors", **{"head/bias": np.ones(5, np.float32)})
        assert (tmp_path / file).read_bytes() == before
        command(*flags, "--force")
        assert (tmp_path / file).read_bytes() != before
    (tmp_path / "v2.1").mkdir()
    assert "v2.1/model.safetensors: timm" in command("a.safetensors", "v2.1", "--to", "timm")


@pytest.mark.parametrize("prefix", ("module.", "_orig_mod.", "model.module._orig_mod."))
@pytest.mark.parametrize("spelling", ("timm", "huggingface", "torchvision"))
def test_names_that_a_trainer_wrapped(spelling, prefix, tmp_path):
    """In safetensors as in pickles; both names of one parameter are refused."""
    published = choose_table(spelling, VIT).to_published(random_arrays(VIT), VIT)
    arrays = {f"{prefix}{name}": array for name, array in published.items()}
    containers.write(tmp_path / "a.safetensors", arrays, {"format": "pt"})
    found = read_model(tmp_path / "a.safetensors", given={"num_heads": 4, "gelu": "tanh", "layer_norm_epsilon": 1e-6})
    assert found.spelling == spelling and found.config == VIT
    name, array = next(iter(published.items()))
    containers.write(tmp_path / "b.safetensors", arrays | {name: array}, {"format": "pt"})
    with pytest.raises(UserError, match="which are one parameter"):
        read_model(tmp_path / "b.safetensors")


def test_class_names_travel(tmp_path):
    record = {"config": dump_config(VIT), "class_names": ["a", "b", "c", "d", "e"]}
    containers.write(tmp_path / "a.safetensors", random_arrays(VIT), {RECORD: json.dumps(record)})
    for spelling in ("timm", "huggingface", "vision_transformer"):
        suffix = ".npz" if spelling == "vision_transformer" else ""
        path = convert(tmp_path / "a.safetensors", tmp_path / f"{spelling}{suffix}", spelling)
        assert read_model(path).card.class_names == ("a", "b", "c", "d", "e")
    labels = json.loads((tmp_path / "huggingface" / "config.json").read_text())["id2label"]
    assert labels == {str(i): name for i, name in enumerate("abcde")}


def test_how_a_run_saw_its_images_travels(tmp_path):
    """So that `predict` with a converted model sees them the same way."""
    prepared = {"resolution": 32, "resize_kind": "area", "eval_resize": 40, "loss": "sigmoid"}
    record = {"config": dump_config(VIT), "accuracy": {"test": 0.5}, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    np.savez(tmp_path / "weights.npz", **choose_table("vision_transformer", VIT).to_published(random_arrays(VIT), VIT))
    (tmp_path / "card.json").write_text(json.dumps(record | prepared))
    converted = convert(tmp_path / "weights.npz", tmp_path / "a.safetensors")
    for path in (converted, convert(converted, tmp_path / "b.npz", "vision_transformer")):
        card = read_model(path, values=False).card
        assert card == Card(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), **prepared)


# --- adaptation on loading


def published(config, **changes) -> PublishedModel:
    """A model of the zoo that has these sizes."""

    class Tiny(PublishedModel):
        def config(self, num_classes=None):
            return dataclasses.replace(config, num_classes=num_classes or self.num_classes)

    return Tiny("tiny", "tiny", 5, "test", **changes)


def test_a_new_head_and_another_grid_are_stated(tmp_path):
    path, lines = npz(tmp_path / "a.npz"), []
    config, arrays, _ = weights.starting_values(published(VIT), path, 7, image_size=(48, 32), say=lines.append)
    assert (config.num_classes, config.image_size, config.grid) == (7, (48, 32), (6, 4))
    assert {name: array.shape for name, array in arrays.items()} == config.parameter_shapes()
    assert not arrays["head/kernel"].any() and not arrays["head/bias"].any()
    before = random_arrays(VIT)
    expected = resize_positions(before["pos_embedding"], (4, 4), (6, 4))
    np.testing.assert_array_equal(arrays["pos_embedding"], expected)
    assert any("from 4 x 4 to 6 x 4" in line for line in lines) and any("5 classes" in line for line in lines)
    lines.clear()
    config, arrays, _ = weights.starting_values(published(VIT), path, say=lines.append)
    assert not lines and arrays.keys() == before.keys()


def headless(folder: Path, config: ViTConfig) -> Path:
    """A folder with what Hugging Face's ViTModel saves: no head, a pooler, and no `vit.` before names."""
    convert(ours(folder / "a.safetensors", config), folder / "a", "huggingface")
    with containers.open_container(folder / "a" / "model.safetensors") as file:
        arrays = {name.removeprefix("vit."): file.get(name) for name in file.declared if "classifier" not in name}
    pooler = {"pooler.dense.weight": np.eye(32, dtype="f4"), "pooler.dense.bias": np.ones(32, "f4")}
    containers.write(folder / "a" / "model.safetensors", arrays | pooler, {"format": "pt"})
    return folder / "a"


def test_a_headless_model_gets_a_new_head(run, tmp_path):
    config = dataclasses.replace(find_architecture("ViT-mu/16", num_classes=5, image_size=(32, 32)), gelu="erf")
    folder, lines = headless(tmp_path, config), []
    found, arrays, _ = weights.starting_values(published(config), folder, 7, head_bias=-2.0, say=lines.append)
    assert found == dataclasses.replace(config, num_classes=7)
    assert not arrays["head/kernel"].any() and (arrays["head/bias"] == -2).all()
    assert lines == [
        "The model has no such parameters, so they are not read: pooler.dense.bias, pooler.dense.weight.",
        "The weights have no head: the model gets one of zeros for 7 classes.",
    ]
    assert weights.starting_values(published(config), folder)[0] == dataclasses.replace(config, num_classes=None)
    assert (
        "Note: not written, since the model has no such parameters: pooler"
        in run("common.convert", "a", "b.npz", "--to", "vision_transformer").output
    )
    flags = ("--model", "ViT-mu/16", "--weights")
    (tmp_path / "x").touch()
    for path in ("a", "b.npz"):
        assert "has no head to tell classes with" in run("bit_jax.predict", "x", *flags, path, status=2).stderr


def test_positions_are_resized_as_scipy_does(tmp_path):
    scipy = pytest.importorskip("scipy.ndimage")
    arrays = random_arrays(VIT, np.float64)
    wanted = dataclasses.replace(VIT, image_size=(24, 56))
    found = adapt(arrays, VIT, wanted, lambda line: None)["pos_embedding"]
    grid = arrays["pos_embedding"][0, 1:].reshape(4, 4, -1)
    expected = scipy.zoom(grid, (3 / 4, 7 / 4, 1), order=1).reshape(21, -1)
    np.testing.assert_allclose(found[0, 1:], expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(found[0, 0], arrays["pos_embedding"][0, 0])


TOKENS = {  # from -> to, and what the log says
    ("token", "gap"): "class token is dropped",
    ("gap", "token"): "starts at zero",
    ("token", "patches"): "is added to it",
    ("patches", "token"): None,
    ("patches", "gap"): "class token is dropped",
    ("gap", "patches"): "starts at zero",
}
LAYOUTS = {
    "token": VIT,
    "gap": CASES["vit_gap"][0],
    "patches": CASES["vit_patches_only"][0],
}


@pytest.mark.parametrize("pair", TOKENS)
@pytest.mark.parametrize("size", ((32, 32), (16, 48)))
def test_positions_between_the_layouts_of_any_pooling(pair, size, tmp_path):
    config, wanted = LAYOUTS[pair[0]], dataclasses.replace(LAYOUTS[pair[1]], image_size=size)
    arrays, lines = random_arrays(config), []
    found = adapt(arrays, config, wanted, lines.append)
    assert {name: array.shape for name, array in found.items()} == wanted.parameter_shapes()
    patches = arrays["pos_embedding"][:, 1:] if pair[0] == "token" else arrays["pos_embedding"]
    has_row = pair[1] == "token"
    np.testing.assert_array_equal(
        found["pos_embedding"][:, int(has_row) :], resize_positions(patches, (4, 4), wanted.grid)
    )
    if pair == ("patches", "token"):
        assert not found["pos_embedding"][:, :1].any()
    if pair == ("token", "patches"):
        np.testing.assert_array_equal(found["cls"], arrays["cls"] + arrays["pos_embedding"][:, :1])
    assert TOKENS[pair] is None or any(TOKENS[pair] in line for line in lines)
    assert (size == (32, 32)) != any("resized" in line for line in lines)


def test_a_part_of_which_nothing_is_known_is_refused():
    with pytest.raises(UserError, match="lack pool/"):
        adapt(random_arrays(VIT), VIT, CASES["vit_map"][0], lambda line: None)


@pytest.mark.parametrize("case", ("vit_token", "hybrid", "bit", "resnet_v1", "mixer"))
@pytest.mark.parametrize("channels", (1, 4))
def test_a_stem_for_other_channels(case, channels, tmp_path):
    """One channel's weights on a picture of three equal channels give what they gave on one."""
    config, spelling = (
        CASES[case][0],
        {"bit": "big_transfer", "resnet_v1": "big_vision"}.get(case, "vision_transformer"),
    )

    def with_channels(arrays):
        name = next(
            n
            for n in ("conv_root/kernel", "embedding/kernel", "stem/kernel", *arrays)
            if n in arrays
            and (n != "embedding/kernel" or "conv_root/kernel" not in arrays)
            and arrays[n].ndim == 4
            and arrays[n].shape[2] == 3
        )
        arrays[name] = np.random.default_rng(1).standard_normal(
            (*arrays[name].shape[:2], channels, arrays[name].shape[3])
        )

    path, lines = npz(tmp_path / "a.npz", config, spelling, with_channels), []
    _, arrays, _ = weights.starting_values(published(config), path, say=lines.append)
    stem = next(name for name in ("backbone/stem/conv/kernel", "stem/conv/kernel", "stem/kernel") if name in arrays)
    assert arrays[stem].shape == config.parameter_shapes()[stem]
    assert any(f"for {channels} channels" in line for line in lines)
    with pytest.raises(UserError, match=f"{channels} channels, expected 3"):
        convert(path, tmp_path / "b.npz")


def test_a_grey_stem_sums_to_itself():
    kernel = np.random.default_rng(0).standard_normal((8, 8, 1, 4))
    (found,) = adapt_channels({"stem/kernel": kernel}, lambda line: None).values()
    np.testing.assert_allclose(found.sum(2), kernel[:, :, 0])


WRONG_MODELS = [
    (CASES["mixer"][0], VIT, "holds a MLP-Mixer and the model is a ViT"),
    (CASES["hybrid"][0], VIT, "holds a hybrid of ResNet and ViT and the model is a ViT"),
    (CASES["bit"][0], CASES["resnet_v1"][0], "holds a BiT and the model is a ResNet V1"),
    (VIT, ViTConfig(**SMALL | {"depth": 3}), "depth 2 instead of 3"),
    (VIT, ViTConfig(**SMALL | {"num_heads": 8}), "num_heads 4 instead of 8"),
    (CASES["bit"][0], ResNetConfig((2, 1), 1, 5), "width_factor 0.5 instead of 1"),
]


@pytest.mark.parametrize(("found", "wanted", "words"), WRONG_MODELS)
def test_weights_of_another_model_are_refused(found, wanted, words, tmp_path):
    with pytest.raises(UserError, match=words):
        check_same_model(found, wanted, "a.npz")
    path = ours(tmp_path / "a.safetensors", found)
    with pytest.raises(UserError, match=words):
        weights.starting_values(published(wanted), path)


def test_a_mixer_is_bound_to_its_size(tmp_path):
    path = ours(tmp_path / "a.safetensors", CASES["mixer"][0])
    with pytest.raises(UserError, match="The Mixer takes 32 x 32 pixels"):
        weights.starting_values(published(CASES["mixer"][0]), path, image_size=(64, 64))


def test_a_models_own_gelu_and_epsilon_come_with_its_weights(tmp_path):
    erf = dataclasses.replace(VIT, gelu="erf", layer_norm_epsilon=1e-12)
    path = convert(ours(tmp_path / "a.safetensors", erf), tmp_path / "b", "huggingface")
    config, _, _ = weights.starting_values(published(VIT), path)
    assert (config.gelu, config.layer_norm_epsilon) == ("erf", 1e-12)


@pytest.mark.parametrize("suffix", (".npz", ".safetensors", ".h5"))
@pytest.mark.parametrize("case", CASES)
def test_what_write_weights_writes_read_weights_reads(case, suffix, tmp_path):
    config = CASES[case][0]
    arrays = random_arrays(config)
    weights.write_weights(tmp_path / f"a{suffix}", arrays, config)
    assert read_model(tmp_path / f"a{suffix}").config == config
    found = weights.read_weights(tmp_path / f"a{suffix}", config)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_card_keeps_what_it_said(tmp_path):
    (tmp_path / "card.json").write_text(json.dumps({"class_names": ["x"] * 5, "resolution": 32}))
    weights.write_weights(tmp_path / "weights.npz", random_arrays(VIT), VIT)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["class_names"] == ["x"] * 5 and card["config"]["gelu"] == "tanh"


# --- the engines' public functions


def test_create_save_and_load_in_every_spelling(engine, tmp_path, monkeypatch):
    """create_model takes a folder of Hugging Face or timm; load_weights adapts to the model it is given."""
    path = npz(tmp_path / "a.npz")
    monkeypatch.setattr(zoo, "find_model", lambda name: published(VIT))
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    expected = engine.logits(engine.api.create_model("tiny", weights=path), images)
    for spelling in ("timm", "huggingface"):
        folder = convert(path, tmp_path / spelling, spelling).parent
        model = engine.api.create_model("tiny", weights=folder)
        np.testing.assert_array_equal(engine.logits(model, images), expected)
        engine.api.save_weights(model, tmp_path / f"{spelling}.npz")
        engine.api.load_weights(model, tmp_path / f"{spelling}.npz")
        np.testing.assert_array_equal(engine.logits(model, images), expected)


# --- pickles, in bit_pytorch only


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def timm_state(width: int = 0):
    """A timm ViT and what our names make of it."""
    timm = pytest.importorskip("timm")
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2.0}
    return timm.create_model("vit_base_patch16_224", **sizes, num_classes=5 + width)


def imported(tmp_path, *flags: str, monkeypatch, capsys) -> tuple[set[str], str]:
    """(names in the safetensors file that the command makes of a.pth, what it says)."""
    from bit_pytorch import import_weights

    monkeypatch.setattr("sys.argv", ["", str(tmp_path / "a.pth"), str(tmp_path / "a.safetensors"), *flags])
    import_weights.main()
    with containers.open_container(tmp_path / "a.safetensors") as file:
        return set(file.declared), capsys.readouterr().out


def by_timms_saver(model, tmp_path) -> None:
    """As timm's train.py saves with --model-ema, its flags and a metric included."""
    import torch
    from timm.utils import CheckpointSaver, ModelEmaV3

    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 3, 32, 32)).sum().backward()
    optimizer.step()
    average, flags = ModelEmaV3(model), argparse.Namespace(model="vit", lr=0.1)
    saver = CheckpointSaver(model, optimizer, args=flags, model_ema=average, checkpoint_dir=tmp_path)
    saver.save_checkpoint(0, metric=np.float64(0.5))
    (tmp_path / "last.pth.tar").rename(tmp_path / "a.pth")


def saved(wrap):
    import torch

    return lambda model, tmp_path: torch.save(wrap(model), tmp_path / "a.pth")


def lightning(model, prefix="model.", **more) -> dict:
    import torch

    names = {f"{prefix}{name}": value for name, value in model.state_dict().items()}
    state = {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3)}}
    best = {"ModelCheckpoint{'mode': 'max'}": {"best_model_score": torch.tensor(0.5), "best_k_models": {}}}
    return {
        "epoch": 3, "pytorch-lightning_version": "2.5", "state_dict": names | more, "callbacks": best,
        "optimizer_states": [{"state": state, "param_groups": [{"lr": 0.1}]}], "hparams_name": "kwargs",
    }  # fmt: skip


TRAINERS = {  # what wrote the file -> how, and what is said of several models
    "state_dict": (saved(lambda model: model.state_dict()), None),
    "facebook": (saved(lambda model: {"model": model.state_dict(), "epoch": 3}), None),
    "any key": (saved(lambda model: {"run": {"net_a": model.state_dict()}, "lr": 0.1}), None),
    "timm": (by_timms_saver, "state_dict_ema is taken"),
    "lightning": (saved(lightning), None),
    "lightning with a loss": (saved(lambda model: lightning(model, **{"loss.weight": model.cls_token})), None),
    "DataParallel": (saved(lambda model: torch_module().nn.DataParallel(model).state_dict()), None),
    "compiled": (saved(lambda model: {"model": torch_module().compile(model).state_dict()}), None),
    "compiled and parallel": (
        saved(lambda model: torch_module().nn.DataParallel(torch_module().compile(model)).state_dict()),
        None,
    ),
    "AveragedModel": (saved(lambda model: torch_module().optim.swa_utils.AveragedModel(model).state_dict()), None),
    "DINO": (
        saved(
            lambda model: {who: lightning(model, "module.backbone.")["state_dict"] for who in ("student", "teacher")}
        ),
        "teacher.module.backbone is taken",
    ),
}


def torch_module():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("trainer", TRAINERS)
def test_what_trainers_write_becomes_safetensors(trainer, tmp_path, monkeypatch, capsys):
    torch_module()
    save, words = TRAINERS[trainer]
    model = timm_state()
    save(model, tmp_path)
    names, said = imported(tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    assert names == model.state_dict().keys() and f"{len(names)} tensors" in said
    assert said.count("\n") == 1 if words is None else words in said
    found = read_model(tmp_path / "a.safetensors", given={"num_heads": 4})
    assert (found.spelling, found.config) == ("timm", dataclasses.replace(VIT, gelu="erf"))
    np.testing.assert_array_equal(found.arrays["head/kernel"], model.head.weight.detach().numpy().T)


def test_one_of_several_models_is_chosen(tmp_path, monkeypatch, capsys):
    torch = torch_module()
    from bit_pytorch.import_weights import import_weights

    first, second = timm_state(), timm_state(1)
    torch.save({"first": first.state_dict(), "second": {"model": second.state_dict()}}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"holds 2 models \(first, second.model\); choose one with --key"):
        import_weights(tmp_path / "a.pth", tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="has 0 models at the key third; choose one of first, second.model"):
        import_weights(tmp_path / "a.pth", tmp_path / "a.safetensors", "third")
    for key, classes in (("first", 5), ("second", 6), ("second.model", 6)):
        imported(tmp_path, "--key", key, "--force", monkeypatch=monkeypatch, capsys=capsys)
        assert read_model(tmp_path / "a.safetensors", given={"num_heads": 4}).config.num_classes == classes


def test_a_hostile_pickle_runs_nothing(tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    from bit_pytorch import import_weights

    torch.save({"a": Trap(tmp_path / "trapped")}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(b"nothing")
    torch.save([1, 2], tmp_path / "c.pth")
    torch.save({"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}, tmp_path / "d.pth")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "e.pth")
    torch.save({"a": torch.zeros(3).to(torch.float8_e5m2)}, tmp_path / "f.pth")
    sentences = {
        "a": "could run code", "b": "no readable PyTorch file|could run code", "c": "holds no tensors",
        "d": "holds no tensors under names, but 'state', 'param_groups'", "e": "torch.nn.modules.linear.Linear, and is not",
        "f": "The tensor a is no plain array",
    }  # fmt: skip
    for name, words in {**sentences, "none": "does not exist"}.items():
        flags = ["import_weights", str(tmp_path / f"{name}.pth"), str(tmp_path / "x.safetensors")]
        monkeypatch.setattr("sys.argv", flags)
        with pytest.raises(SystemExit) as caught:
            import_weights.main()
        error = capsys.readouterr().err
        assert caught.value.code == 2 and re.search(words, error) and error.count("\n") == 1
    assert not (tmp_path / "trapped").exists() and not (tmp_path / "x.safetensors").exists()
