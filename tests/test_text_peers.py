"""Running peers with towers for texts: random models of transformers and open_clip, saved as they save, are ours in three
engines, and they load our files strictly.

Bounds are of the largest value. In float64 the towers are compared before they are normalised: peers divide by the norm,
and we, as big_vision, by the norm + 1e-8. Versions of the peers: constraints.txt.
"""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest
from test_peers import assert_same, images, no_waiting_for_the_disk, randomise, relative  # noqa: F401

from common.convert import convert
from common.models import BertConfig, TextConfig, TwoTowersConfig, ViTConfig
from common.models.family import below
from common.system.errors import UserError
from common.weights.huggingface_config import read_config
from common.weights.source import read_model
from common.weights.starting import read_start

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
transformers = pytest.importorskip("transformers")
BOUNDS = {"float32": 5e-6, "float64": 1e-9}
VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "patch_size": 8}
TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}
TEXT |= {"vocab_size": 19, "max_position_embeddings": 7}
ENDS = {"bos_token_id": 17, "eos_token_id": 18, "pad_token_id": 0}
BERT = {**TEXT, "num_hidden_layers": 2, "pad_token_id": 0}


def siglip(patches: bool = False, **changes):
    """SiglipModel or Siglip2Model, whose sizes of images are named differently."""
    name, size = ("Siglip2", {"num_patches": 16}) if patches else ("Siglip", {"image_size": 32})
    config = getattr(transformers, f"{name}Config")(vision_config=VISION | size | changes, text_config=TEXT | changes)
    return getattr(transformers, f"{name}Model")(config)


def clip(**changes):
    vision, text = VISION | {"image_size": 32} | changes, TEXT | ENDS | changes
    return transformers.CLIPModel(transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=24))


def tower(name: str, **fields):
    return getattr(transformers, f"{name}")(getattr(transformers, f"{name.partition('Model')[0]}Config")(**fields))


MODELS = {
    "siglip": siglip,
    "siglip_erf": lambda: siglip(hidden_act="gelu", layer_norm_eps=1e-5),
    "siglip2": lambda: siglip(patches=True),
    "clip": clip,
    "clip_erf": lambda: clip(hidden_act="gelu"),
    "siglip_vision": lambda: tower("SiglipVisionModel", **VISION, image_size=32),
    "siglip_text": lambda: tower("SiglipTextModel", **TEXT),
    "clip_vision": lambda: tower("CLIPVisionModel", **VISION, image_size=32),
    "clip_vision_projected": lambda: tower("CLIPVisionModelWithProjection", **VISION, image_size=32, projection_dim=24),
    "clip_text": lambda: tower("CLIPTextModel", **TEXT | ENDS),
    "clip_text_projected": lambda: tower("CLIPTextModelWithProjection", **TEXT | ENDS, projection_dim=24),
    "bert": lambda: tower("BertModel", **BERT),
    "bert_tanh": lambda: tower("BertModel", **BERT, hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6),
}
FAMILIES = {"siglip": TwoTowersConfig, "clip": TwoTowersConfig, "bert": BertConfig}
OF_TOWERS = {"vision": ViTConfig, "text": TextConfig}
QUICK = {("siglip", "float32"), *((name, "float64") for name in ("siglip", "siglip2", "clip", "bert"))}


@functools.cache
def peer(name: str):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    randomise(model)
    return model


@functools.cache
def tokens() -> np.ndarray:
    """[3, 7], each with an end token (18) after which nothing counts, and padding (0)."""
    drawn = np.random.default_rng(3).integers(1, 17, (3, 7)).astype(np.int32)
    drawn[0, 4:], drawn[1, 5:], drawn[:, 6] = (18, 0, 0), (18, 0), (0, 0, 18)
    return drawn


def peer_outputs(model, precision: str) -> dict[str, np.ndarray]:
    """{what a tower makes: array} of a peer, and its similarities."""
    model, kind = model.to(getattr(torch, precision)), type(model).__name__
    texts, pixels = torch.from_numpy(tokens()).long(), torch.from_numpy(images()).permute(0, 3, 1, 2)
    see = {"pixel_values": pixels.to(getattr(torch, precision))}
    if kind.startswith("Siglip2"):
        rows = pixels.reshape(3, 3, 4, 8, 4, 8).permute(0, 2, 4, 3, 5, 1).reshape(3, 16, 192)
        see = {"pixel_values": rows.to(getattr(torch, precision)), "pixel_attention_mask": torch.ones(3, 16)}
        see["spatial_shapes"] = torch.tensor([[4, 4]] * 3)
    read = {"input_ids": texts} | ({"attention_mask": (texts != 0).long()} if kind == "BertModel" else {})
    with torch.no_grad():
        if "Vision" in kind or "Text" in kind or kind == "BertModel":
            out = model(**(see if "Vision" in kind else read))
            embeds = getattr(out, "image_embeds", getattr(out, "text_embeds", None))
            return {"tower": (out.pooler_output if embeds is None else embeds).numpy()}
        image, text = model.get_image_features(**see), model.get_text_features(**read)
        return {
            "image": image.pooler_output.numpy(),
            "text": text.pooler_output.numpy(),
            "similarity": model(**see, **read).logits_per_image.numpy(),
        }


def our_outputs(engine, path: Path, precision: str) -> dict[str, np.ndarray]:
    """The same of an engine with a file."""
    found = read_model(path)
    model = engine.build(found.config, found.arrays, precision)
    pixels, texts = engine.cast(engine.tensor(images()), precision), engine.raw(tokens())
    if not isinstance(found.config, TwoTowersConfig):
        return {"tower": engine.array(model(texts if found.config.image_kernel is None else pixels))}
    return {
        "image": engine.array(model.image(pixels)),
        "text": engine.array(model.text(texts)),
        "similarity": engine.array(model.similarity(model.encode_image(pixels), model.encode_text(texts))),
    }


def close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], bound: float) -> None:
    for name, array in expected.items():
        looser = (
            100 if name == "similarity" and bound < 1e-8 else 2 if name == "similarity" else 1
        )  # of the norms' 1e-8
        assert relative(found[name], array) < looser * bound, name


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param(name, precision, marks=() if (name, precision) in QUICK else pytest.mark.slow)
        for name in MODELS
        for precision in BOUNDS
    ],
)
def test_transformers_models_are_the_same(engine, name, precision, tmp_path):
    model = peer(name)
    model.float().save_pretrained(tmp_path)
    close(our_outputs(engine, tmp_path, precision), peer_outputs(model, precision), BOUNDS[precision])


@pytest.mark.parametrize("name", MODELS)
def test_transformers_load_our_files_strictly(name, tmp_path):
    """Converted to ours and back, it finds every parameter with the same bits, and its own configuration."""
    model = peer(name).float()
    model.save_pretrained(tmp_path / "theirs")
    ours = convert(tmp_path / "theirs", tmp_path / "ours.npz")
    found, kind = read_model(ours), name.split("_")
    assert type(found.config) is (
        OF_TOWERS.get(kind[1]) if kind[1:] and kind[1] in OF_TOWERS else FAMILIES[kind[0].strip("2")]
    )
    assert_same(ours, tmp_path / "theirs")
    spelling = "huggingface_siglip2" if name == "siglip2" else "huggingface"
    path = convert(ours, tmp_path / "back", spelling)
    again, info = type(model).from_pretrained(path.parent, output_loading_info=True)
    assert not any(info.values()), info
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    told = json.loads((tmp_path / "back/config.json").read_text())
    assert told["architectures"] == [type(model).__name__]
    close(peer_outputs(again.eval(), "float32"), peer_outputs(model, "float32"), 1e-12)


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ({"model_type": "clip_text_model", "eos_token_id": 5}, "eos_token_id 5, expected 49407"),
        ({"model_type": "siglip", "vision_config": {"vision_use_head": False}}, "vision_use_head False, expected True"),
        ({"model_type": "siglip", "text_config": {"hidden_act": "relu"}}, "hidden_act 'relu', expected one of"),
        ({"model_type": "bert", "pad_token_id": 1}, "pad_token_id 1, expected 0"),
        ({"model_type": "bert", "position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"model_type": "blip"}, "model_type 'blip', expected one of vit, bit, siglip"),
    ],
)
def test_a_config_of_another_model_is_refused(told, problem):
    with pytest.raises(UserError, match=problem):
        read_config(told)


def test_absent_keys_are_what_the_classes_of_transformers_say():
    """A published config.json says but what differs from them."""
    for name, kind in (("Siglip", "siglip"), ("Siglip2", "siglip2"), ("CLIP", "clip"), ("Bert", "bert")):
        whole = getattr(transformers, f"{name}Config")()
        assert read_config({"model_type": kind}) == read_config(json.loads(whole.to_json_string(use_diff=False)))


@pytest.mark.parametrize(("name", "model"), [("siglip", "image"), ("clip", "image"), ("siglip", "text")])
def test_a_tower_is_read_alone(name, model, tmp_path):
    """For classification, with a new head: `--weights siglip/ --model ViT-B/16`."""
    peer(name).float().save_pretrained(tmp_path)
    whole, lines = read_model(tmp_path), []
    wanted = dataclasses.replace(getattr(whole.config, model), num_classes=5, head_bias=True)
    found = read_start(tmp_path, wanted, lines.append)
    assert found.config.num_classes is None and any(f"its tower for {model}s is read" in line for line in lines)
    expected = {key: array for key, array in below(whole.arrays, model).items() if not key.startswith("head")}
    assert found.arrays.keys() == expected.keys()
    assert all(np.array_equal(found.arrays[key], expected[key]) for key in expected)
    with pytest.raises(UserError, match="width 32 instead of 64"):
        read_start(tmp_path, dataclasses.replace(wanted, width=64), lines.append)
