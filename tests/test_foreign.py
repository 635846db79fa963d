"""Files that are no weights of the zoo are told by what they are; models in several files; small files that claim a lot."""

import gzip
import json
import os
import pickle
import re
import struct
import zipfile

import google_crc32c
import h5py
import numpy as np
import pytest
from format_cases import CASES, random_arrays

from common import weights
from common.models.families import dump_config
from common.system.errors import UserError
from common.weights import containers
from common.weights.containers import h5, tensor_bundle
from common.weights.containers.tensor_bundle import MAGIC, masked
from common.weights.express import choose_table
from common.weights.source import RECORD, find_weights, read_model

VIT = CASES["vit_token"][0]


def sentence(path) -> str:
    with pytest.raises(UserError) as caught:
        read_model(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


# --- told by contents or endings


def zipped(path, *names) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"data")
    return path.read_bytes()


CONTENTS = {  # what -> (its bytes, words of the sentence)
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3\n",
        "pointer of Git LFS.*git lfs pull",
    ),
    "html": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "web page.*download the file itself"),
    "gzip": (gzip.compress(b"weights"), "compressed with gzip.*gunzip"),
    "gguf": (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "GGUF"),
    "pickle": (pickle.dumps({"a": 1}), "a pickle of Python objects, which may run code"),
    "liteRT": (b"\x1c\0\0\0TFL3" + bytes(40), "LiteRT"),
}


@pytest.mark.parametrize("suffix", (".npz", ".safetensors", ".h5"))
@pytest.mark.parametrize("what", CONTENTS)
def test_a_file_under_a_wrong_name_is_told_by_its_contents(what, suffix, tmp_path):
    data, words = CONTENTS[what]
    (tmp_path / f"a{suffix}").write_bytes(data)
    found = sentence(tmp_path / f"a{suffix}")
    assert "is no readable" in found and re.search(words, found), found


def test_archives_and_files_that_bear_one_anothers_names(tmp_path):
    torch = zipped(tmp_path / "zip", "archive/data.pkl", "archive/data/0")
    keras = zipped(tmp_path / "zip", "config.json", "model.weights.h5")
    npz, other = zipped(tmp_path / "zip", "a.npy"), zipped(tmp_path / "zip", "README")
    containers.write(tmp_path / "a.safetensors", {"a": np.ones(3)}, {})
    containers.write(tmp_path / "a.h5", {"a": np.ones(3)}, {})
    safe, hdf = (tmp_path / "a.safetensors").read_bytes(), (tmp_path / "a.h5").read_bytes()
    for suffix, data, words in (
        (".safetensors", torch, "file of PyTorch, a pickle .*import_weights"),
        (".npz", torch, "file of PyTorch, a pickle .*import_weights"),
        (".h5", keras, "whole model of Keras.*save_weights"),
        (".safetensors", npz, "an .npz file.*ends in .npz"),
        (".npz", other, "archive of other files"),
        (".npz", safe, "a safetensors file.*ends in .safetensors"),
        (".safetensors", hdf, "HDF5.*ends in .h5"),
        (".safetensors", safe[:-4], "no readable .safetensors file .*download it again"),
        (".h5", hdf[:700], "no readable Keras .h5 weights file .*download it again"),
    ):
        path = tmp_path / f"x{suffix}"
        path.write_bytes(data)
        with pytest.raises(UserError, match=words):
            read_model(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [("a.onnx", "a graph of ONNX"), ("a.gguf", "GGUF"), ("a.keras", "save_weights"), ("a.npz.gz", "unpack it"),
     ("a.pkl", "may run code"), ("a.pt", "import_weights"), ("a.xyz", "ends in '.xyz', expected .npz or"),
     ("tokenizer.json", "a description, such as"), ("gemma.model", "belongs to --vocabulary"), ("vocab.txt", "a text, such as"),
     ("photo.jpg", "is an image"), ("empty.npz", "no readable"), ("empty.safetensors", "no readable")],
)  # fmt: skip
def test_endings_of_other_tools(name, words, tmp_path):
    (tmp_path / name).write_bytes(b"x")
    assert words in sentence(tmp_path / name)


def test_pipes_devices_and_folders(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "a.npz")
    assert "is no file" in sentence(tmp_path / "a.npz")
    (tmp_path / "b.safetensors").symlink_to("/dev/zero")
    assert "is no file" in sentence(tmp_path / "b.safetensors")
    monkeypatch.chdir(tmp_path)
    for path in ("/", ".", "..", tmp_path):
        with pytest.raises(UserError, match="holds no model.safetensors or"):
            weights.read_weights(path, VIT)
    for name, words in (("pytorch_model.bin", "import_weights"), ("adapter_model.safetensors", "merge_and_unload")):
        (tmp_path / name[:3]).mkdir()
        (tmp_path / name[:3] / name).touch()
        with pytest.raises(UserError, match=words):
            find_weights(tmp_path / name[:3])


def test_empty_and_cut_files(tmp_path):
    containers.write(tmp_path / "a.safetensors", random_arrays(VIT), {})
    whole = (tmp_path / "a.safetensors").read_bytes()
    for name, data, words in (
        ("b", b"", "it is empty"),
        ("c", whole[:-7], "not fully covered"),
        ("d", whole[:50], "header"),
    ):
        (tmp_path / f"{name}.safetensors").write_bytes(data)
        assert words in sentence(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("kind", "words"),
    [("swin", "shifted windows"), ("beit", "relative positions"), ("convnextv2", "convolutions"), ("gpt2", "of language"),
     ("blip_vision_model", "images and texts"), ("ijepa", "without a class token"), ("other", "expected one of vit")],
)  # fmt: skip
def test_another_model_of_hugging_face_is_called_by_its_kind(kind, words, tmp_path):
    containers.write(tmp_path / "model.safetensors", random_arrays(VIT), {})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(UserError, match=words):
        read_model(tmp_path)


# --- told by names


NAMES = {  # a few names of a kind of model -> words
    "a part of a distilled DeiT": ("cls_token", "dist_token", "blocks.0.w", "head_dist.weight"),
    "distilled DeiT": ("deit.embeddings.distillation_token", "cls_classifier.weight", "distillation_classifier.weight"),
    "a Swin Transformer, whose attention is within shifted windows": (
        "layers.0.blocks.0.attn.relative_position_bias_table",
        "layers.1.downsample.norm.weight",
        "patch_embed.proj.weight",
    ),
    "a ConvNeXt or its like, whose depthwise": (
        "stages.0.blocks.0.conv_dw.weight",
        "stages.0.blocks.0.gamma",
        "head.fc.weight",
    ),
    "an image-text model of another kind": (
        "visual.layer1.0.conv1.weight",
        "visual.attnpool.q_proj.weight",
        "logit_scale",
    ),
    "EVA-02, whose rotary positions turn other pairs": (
        "cls_token",
        "blocks.0.mlp.fc1_g.weight",
        "blocks.0.mlp.fc1_x.weight",
    ),
    "an adapter (LoRA)": ("base_model.model.vit.encoder.layer.0.attention.query.lora_A.weight",),
    "state of an optimizer": ("state/exp_avg/blocks/0", "exp_avg.1"),
    "with batch norm, such as a ResNet": ("conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight"),
    "with batch norm, such": ("conv_stem.weight", "blocks.0.0.conv_dw.weight", "blocks.0.0.bn1.running_mean"),
    "relative positions (BEiT, SAM, ...)": ("blocks.0.attn.relative_position_bias_table", "blocks.0.gamma_1"),
    "relative positions": ("blocks.0.attn.rel_pos_h", "blocks.0.attn.rel_pos_w", "neck.0.weight"),
    "learned frequencies": ("rope.freqs", "blocks.0.gamma_1", "cls_token"),
    "several attentions beside one another": (
        "cls_token",
        "blocks.0.attns.0.attn.qkv.weight",
        "blocks.0.ffns.0.mlp.fc1.weight",
    ),
    "a CaiT, whose class token comes in after": ("blocks_token_only.0.gamma_1", "blocks.0.attn.proj_l.weight"),
    "a gMLP, whose gating over the tokens": ("blocks.0.mlp_channels.gate.proj.weight", "stem.proj.weight"),
    "a ResMLP, whose affine layers": ("blocks.0.linear_tokens.weight", "blocks.0.norm1.alpha"),
    "a transformer in stages (Hiera": ("blocks.1.proj.weight", "blocks.0.attn.qkv.weight", "head.fc.weight"),
    "a model of language": ("h.0.attn.c_attn.weight", "wte.weight"),
}


@pytest.mark.parametrize("words", NAMES)
def test_another_model_is_called_by_its_name(words, tmp_path):
    containers.write(tmp_path / "a.safetensors", {name: np.ones(3) for name in NAMES[words]}, {})
    found = sentence(tmp_path / "a.safetensors")
    assert words in found and "download" not in found


@pytest.mark.parametrize("spelling", ("huggingface", "open_clip", "big_vision"))
def test_an_image_text_model_that_lacks_an_array_is_told_which(spelling, tmp_path):
    config = CASES["siglip"][0]
    table = choose_table(spelling, config)
    row = next(row for row in table.rows(config) if row.ours == ("text/norm/bias",))
    arrays = table.to_published(random_arrays(config), config)
    del arrays[row.theirs]
    containers.write(tmp_path / "a.safetensors", arrays, {RECORD: json.dumps({"config": dump_config(config)})})
    found = sentence(tmp_path / "a.safetensors")
    assert f"nearly image-text model in the spelling {spelling}" in found and row.theirs in found


@pytest.mark.slow
def test_models_of_timm_are_called_by_their_names(tmp_path):
    """Whole ones, tiny."""
    timm = pytest.importorskip("timm")
    safetensors_torch = pytest.importorskip("safetensors.torch")
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 5}
    for name, more, words in (
        ("eva02_base_patch14_224", {}, "EVA-02, whose rotary positions"),
        ("vit_small_patch16_rope_mixed_224", {}, "learned frequencies"),
        ("vit_small_patch16_18x2_224", {}, "several attentions beside one another"),
        ("vit_relpos_small_patch16_224", {}, "relative positions"),
        ("cait_xxs24_224", {}, "a CaiT"),
        ("gmlp_s16_224", {}, "a gMLP"),
        ("resmlp_12_224", {}, "a ResMLP"),
        ("hiera_tiny_224", {}, "a transformer in stages"),
        ("efficientnet_b0", {}, "batch norm"),
        ("regnetx_002", {}, "batch norm"),
        ("davit_tiny", {}, "a transformer in stages"),
        ("beit_base_patch16_224", {}, "BEiT"),
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 2, "depths": (1,), "num_heads": (2,), "embed_dim": 32}, "Swin"),
        ("convnext_atto", {}, "ConvNeXt"),
        ("resnet18", {}, "batch norm"),
    ):  # fmt: skip
        sizes = small if name.startswith(("vit", "eva", "beit")) else {}
        model = timm.create_model(name, **sizes | more)
        safetensors_torch.save_file(model.state_dict(), tmp_path / "a.safetensors")
        with pytest.raises(UserError, match=words) as caught:
            read_model(tmp_path / "a.safetensors")
        assert "download" not in str(caught.value), name


# --- several files


def sharded(folder, count: int = 3) -> dict[str, str]:
    """A model of timm's in several files; returns what its index lists."""
    published = choose_table("timm", VIT).to_published(random_arrays(VIT), VIT)
    folder.mkdir()
    listed = {name: f"model-{i % count + 1:05}-of-{count:05}.safetensors" for i, name in enumerate(published)}
    for file in set(listed.values()):
        containers.write(folder / file, {n: a for n, a in published.items() if listed[n] == file}, {"format": "pt"})
    write_index(folder, listed)
    (folder / "config.json").write_text(json.dumps({"model_args": {"num_heads": 4, "act_layer": "gelu_tanh"}}))
    return listed


def write_index(folder, listed) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))


def test_a_model_in_several_files(tmp_path):
    sharded(tmp_path / "a")
    expected = random_arrays(VIT)
    for path in (tmp_path / "a", tmp_path / "a" / "model.safetensors.index.json"):
        found = read_model(path)
        assert found.config == VIT and found.arrays.keys() == expected.keys()
        assert all(np.array_equal(found.arrays[name], expected[name]) for name in expected)


def test_what_transformers_saves_in_several_files(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=32, patch_size=8))
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    found = read_model(tmp_path)
    assert found.config.num_classes is None and found.config.depth == 2
    np.testing.assert_array_equal(found.arrays["norm/scale"], model.layernorm.weight.detach().numpy())


FIRST, SECOND = "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"
INDEXES = {  # how an index lies -> words
    "upwards": (
        lambda listed: listed | {"cls_token": "../a/" + FIRST},
        "expected a .safetensors file in its own folder",
    ),
    "absolute": (
        lambda listed: listed | {"cls_token": "/etc/passwd"},
        "expected a .safetensors file in its own folder",
    ),
    "dots": (lambda listed: listed | {"cls_token": ".."}, "expected a .safetensors file in its own folder"),
    "pickle": (lambda listed: listed | {"cls_token": "a.bin"}, "expected a .safetensors file in its own folder"),
    "missing": (
        lambda listed: listed | {"cls_token": "model-4.safetensors"},
        "model-4.safetensors, which is not beside",
    ),
    "other file": (lambda listed: listed | {"cls_token": SECOND}, "expects cls_token in .*00002.* but .*00001.* holds"),
    "not listed": (lambda listed: {n: f for n, f in listed.items() if n != "cls_token"}, "cls_token in no file"),
    "not held": (lambda listed: listed | {"extra": FIRST}, "expects extra in .*00001.*, which lacks it"),
    "numbers": (lambda listed: {"cls_token": 3}, "lists no arrays"),
    "nothing": (lambda listed: {}, "lists no arrays"),
    "list": (lambda listed: [1], "lists no arrays"),
    "many": (lambda listed: {str(i): f"{i}.safetensors" for i in range(2000)}, "more than 1,000 files"),
}


@pytest.mark.parametrize("how", INDEXES)
def test_an_index_that_lies_is_refused(how, tmp_path):
    listed = sharded(tmp_path / "a")
    lie, words = INDEXES[how]
    write_index(tmp_path / "a", lie(listed))
    with pytest.raises(UserError, match=words):
        read_model(tmp_path / "a")


def test_a_tensor_in_two_files_and_an_index_that_is_none(tmp_path):
    listed = sharded(tmp_path / "a")
    other = next(name for name, file in listed.items() if file == SECOND)
    containers.write(
        tmp_path / "a" / FIRST, {n: np.ones(3) for n, f in listed.items() if f == FIRST} | {other: np.ones(3)}, {}
    )
    with pytest.raises(UserError, match=f"expects {other} in .*holds it"):
        read_model(tmp_path / "a")
    for text in ("", "[]", "<html>", "[" * 100_000):
        (tmp_path / "a" / "model.safetensors.index.json").write_text(text)
        assert "index" in sentence(tmp_path / "a" / "model.safetensors.index.json")


# --- few bytes that claim many names


def test_groups_that_link_to_one_another_are_counted(tmp_path):
    """12 groups, each with eight links to the one before: 8^12 names of one data set, in less than 100 kB."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("leaf")
        group["data"] = np.ones(3)
        for number in range(12):
            above = file.create_group(f"g{number}")
            for link in range(8):
                above[f"l{link}"] = group
            group = above
    assert (tmp_path / "a.h5").stat().st_size < 100_000
    assert f"more than {h5.MAX_NAMES:,} names" in sentence(tmp_path / "a.h5")


def test_a_list_that_names_one_group_again_and_again_is_counted(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["g/x"] = np.ones(3)
        file.attrs["layer_names"] = [b"g"] * 500
        file["g"].attrs["weight_names"] = [b"x"] * 500
    assert f"more than {h5.MAX_NAMES:,} names" in sentence(tmp_path / "a.h5")


def varint(number: int) -> bytes:
    return bytes([number & 127 | 128]) + varint(number >> 7) if number > 127 else bytes([number])


def block(entries: list[tuple[int, bytes, bytes]]) -> bytes:
    """A block of LevelDB: (bytes shared with the key before, what follows, value)."""
    rows = b"".join(varint(s) + varint(len(k)) + varint(len(v)) + k + v for s, k, v in entries)
    content = rows + struct.pack("<II", 0, 1)
    return content + b"\0" + struct.pack("<I", masked(google_crc32c.value(content + b"\0")))


def index_file(path, entries, repeat: int = 1) -> None:
    data = block(entries)
    handle = varint(0) + varint(len(data) - 5)
    outer = block([(0, f"{i:08}".encode(), handle) for i in range(repeat)])
    place = varint(0) + varint(0) + varint(len(data)) + varint(len(outer) - 5)
    path.write_bytes(data + outer + place.ljust(40, b"\0") + struct.pack("<Q", MAGIC))


BOMBS = {
    "long name": ([(0, b"k" * 5000, b"v")], 1, "one of its names has 5,000 bytes"),
    "shared": (
        [(0, b"k" * 4000, b"")] + [(3990, f"{i:06}".encode(), b"") for i in range(20_000)],
        1,
        "are longer than",
    ),
    "again": ([(0, b"k", b"v" * 10_000)], 50, "names the same block again"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_names_that_share_what_they_begin_with_are_counted(bomb, tmp_path):
    entries, repeat, words = BOMBS[bomb]
    index_file(tmp_path / "a.index", entries, repeat)
    assert (tmp_path / "a.index").stat().st_size < tensor_bundle.MAX_NAMES_BYTES / 20
    assert words in sentence(tmp_path / "a.index")
