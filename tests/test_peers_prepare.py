"""A folder alone: timm and Hugging Face prepare real photographs as the zoo does, and name the same classes.

Where both resize by Pillow, pixels are equal and logits within float32's rounding; bilinear pixels differ by 1/255 at most,
and logits are then compared to 2 % of the largest.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from engines import Engine
from format_cases import CLIP_IMAGE, SMALL, random_arrays
from PIL import Image

from common.convert import convert
from common.data.views import model_view
from common.models import ResNetConfig, TextConfig, TwoTowersConfig, ViTConfig
from common.models.cards import Preprocessing
from common.models.families import dump_config
from common.weights import containers
from common.weights.processors import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from common.weights.source import RECORD, find_weights, read_model

torch = pytest.importorskip("torch")
datasets = pytest.importorskip("sklearn.datasets")
NAMES = [f"class of number {number}" for number in range(7)]
VIT = ViTConfig(**SMALL | {"image_size": (64, 64), "num_classes": 7}, gelu="erf")
BIT = ResNetConfig((1, 1, 1, 1), 0.5, 7, standardization_epsilon=1e-8)
SQUASHED = Preprocessing(64, 0, "bicubic")
CROPPED = Preprocessing(64, 72, "bilinear", IMAGENET_MEAN, IMAGENET_STD)
CASES = {"vit": (VIT, SQUASHED), "vit_cropped": (VIT, CROPPED), "bit": (BIT, SQUASHED), "bit_cropped": (BIT, CROPPED)}
ROUNDING = {"timm": "torchvision", "huggingface": "huggingface"}
BOUND = 2e-5


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Whether files survive a power cut is tested elsewhere."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    """640 x 427 pixels, and pieces whose sides and corners have to be rounded."""
    china, flower = (datasets.load_sample_image(name) for name in ("china.jpg", "flower.jpg"))
    return [china, flower, china[:, :353], flower[:211, :499], china[7:, :181]]


def folder(path: Path, name: str, to: str) -> tuple[Path, list[str]]:
    """(a model of ours converted for a peer, what was said)."""
    (config, prepared), lines = CASES[name], []
    prepared = dataclasses.replace(prepared, rounding=ROUNDING[to]) if prepared.eval_resize else prepared
    record = {"config": dump_config(config), "class_names": NAMES} | dataclasses.asdict(prepared)
    arrays = random_arrays(config)
    containers.write(path / "ours.safetensors", arrays, {RECORD: json.dumps(record)})
    return convert(path / "ours.safetensors", path / "there", to, say=lines.append).parent, lines


def levels_of(name: str) -> int:
    """By how much of 255 Pillow's pixels differ from ours: we shrink bilinearly by matrices, and all else by Pillow."""
    return int(CASES[name][1].resize_kind == "bilinear")


def check(path: Path, photos: list, prepared: np.ndarray, logits: np.ndarray, levels: int) -> np.ndarray:
    """Our logits of photographs are those of a peer that prepared them as `prepared` [B, 3, H, W]; returns ours.

    Its pixels are ours, or differ by `levels` of 255 at most.
    """
    found, engine = read_model(path / "model.safetensors"), Engine("bit_pytorch")
    card = found.card.preprocessing
    pixels = np.stack([card.scale(model_view(photo, card)) for photo in photos])
    one_level = 1 / (255 * min(card.std))
    assert np.abs(pixels.transpose(0, 3, 1, 2) - prepared).max() < (levels + 0.01) * one_level
    model = engine.build(found.config, found.arrays)
    ours, on_theirs = (
        engine.logits(model, images) for images in (pixels, np.ascontiguousarray(prepared.transpose(0, 2, 3, 1)))
    )
    scale = np.abs(ours).max()
    assert np.abs(on_theirs - logits).max() < BOUND * scale
    assert np.abs(ours - logits).max() < (0.02 * levels if levels else BOUND) * scale
    if levels <= 1:
        assert (np.argsort(-ours)[:, :5] == np.argsort(-logits)[:, :5]).all()
    return ours


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("vit")])
def test_timm_prepares_photographs_as_we_do(name, photos, tmp_path):
    timm = pytest.importorskip("timm")
    path, lines = folder(tmp_path, name, "timm")
    model = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    prepared = torch.stack([prepare(Image.fromarray(photo)) for photo in photos])
    with torch.no_grad():
        check(path, photos, prepared.numpy(), model(prepared).numpy(), levels_of(name))
    assert not [line for line in lines if "Note" in line]


@pytest.mark.parametrize("name", CASES)
def test_hugging_face_prepares_photographs_as_we_do(name, photos, tmp_path):
    """By Pillow, and within four levels by torchvision, which it takes where nobody asks: findings/huggingface.sh."""
    transformers = pytest.importorskip("transformers")
    path, _ = folder(tmp_path, name, "huggingface")
    model = transformers.AutoModelForImageClassification.from_pretrained(path)
    files = [Image.fromarray(photo) for photo in photos]
    for backend, levels in (("torchvision", 4), ("pil", levels_of(name))):
        processor = transformers.AutoImageProcessor.from_pretrained(path, backend=backend)
        prepared = torch.from_numpy(np.stack(processor(files, return_tensors="np")["pixel_values"]))
        with torch.no_grad():
            ours = check(path, photos, prepared.numpy(), model(prepared).logits.numpy(), levels)
    for own in ({}, {"image_processor": processor}):
        classify = transformers.pipeline("image-classification", str(path), **own)
        for answer, logits in zip(classify(files[: None if own else 2], top_k=5), ours):
            assert [row["label"] for row in answer] == [NAMES[number] for number in np.argsort(-logits)[:5]]


def test_hugging_face_prepares_what_a_rectangular_model_takes(photos, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    wide = dataclasses.replace(VIT, image_size=(32, 64))
    monkeypatch.setitem(CASES, "wide", (wide, Preprocessing(64, resize_kind="bicubic")))
    classify = transformers.pipeline("image-classification", str(folder(tmp_path, "wide", "huggingface")[0]))
    assert len(classify(Image.fromarray(photos[0]), top_k=5)) == 5


@pytest.mark.parametrize("to", ROUNDING)
def test_another_rounding_is_said(to, tmp_path, monkeypatch):
    monkeypatch.setitem(CASES, "ours", (VIT, CROPPED))
    monkeypatch.setitem(ROUNDING, to, "big_vision")
    _, lines = folder(tmp_path, "ours", to)
    assert any("the model was made as big_vision does: a central crop may lie a pixel off" in line for line in lines)


@pytest.mark.parametrize("kind", ("area", "bilinear_aliased"))
@pytest.mark.parametrize("to", ("timm", "huggingface"))
def test_what_no_peer_resizes_alike_is_said(kind, to, tmp_path, monkeypatch):
    monkeypatch.setitem(CASES, "kind", (VIT, Preprocessing(64, 0, kind)))
    _, lines = folder(tmp_path, "kind", to)
    assert any(f"cannot resize images by {kind}, bilinear comes nearest" in line for line in lines)


@pytest.mark.parametrize("to", ("timm", "huggingface"))
def test_a_bit_of_unknown_resolution_is_said(to, tmp_path):
    containers.write(tmp_path / "a.safetensors", random_arrays(BIT), {RECORD: json.dumps({"config": dump_config(BIT)})})
    lines = []
    convert(tmp_path / "a.safetensors", tmp_path / "there", to, say=lines.append)
    assert any("so 224 px are written" in line for line in lines)


TEXT = TextConfig(11, 7, 16, 1, 2, 24, 32)
IMAGE_TEXT = {  # of image-text models
    "siglip": (
        TwoTowersConfig(ViTConfig(**SMALL | {"num_classes": None}, pooling="map"), TEXT),
        Preprocessing(32, 0, "bicubic"),
    ),
    "clip": (
        TwoTowersConfig(
            ViTConfig(**SMALL | {"num_classes": 32}, **CLIP_IMAGE),
            dataclasses.replace(
                TEXT, pooling="end", causal=True, head_bias=False, gelu="quick", layer_norm_epsilon=1e-5
            ),
            False,
        ),
        Preprocessing(32, 32, "bicubic", CLIP_MEAN, CLIP_STD),
    ),
}


@pytest.mark.parametrize(("name", "to"), [("siglip", "huggingface"), ("clip", "huggingface"), ("clip", "open_clip")])
def test_peers_with_texts_prepare_photographs_as_we_do(name, to, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(CASES, name, IMAGE_TEXT[name])
    monkeypatch.setitem(ROUNDING, "open_clip", "torchvision")
    path, lines = folder(tmp_path, name, to)
    files = [Image.fromarray(photo) for photo in photos]
    if to == "open_clip":
        _, _, prepare = pytest.importorskip("open_clip").create_model_and_transforms(f"local-dir:{path}")
        prepared = np.stack([prepare(file).numpy() for file in files])
    else:
        transformers = pytest.importorskip("transformers")
        processor = transformers.AutoImageProcessor.from_pretrained(path, backend="pil")
        prepared = np.stack(processor(files, return_tensors="np")["pixel_values"])
        moved = {"image_processor": json.loads((path / "preprocessor_config.json").read_text())}
        (path / "preprocessor_config.json").unlink()  # and as `SiglipProcessor.save_pretrained` keeps it
        (path / "processor_config.json").write_text(json.dumps(moved))
    file = find_weights(path)
    containers.write(file, contents(file), {"format": "pt"})  # as peers save: without our record
    card = read_model(path).card
    assert card.preprocessing == Preprocessing(
        **dataclasses.asdict(IMAGE_TEXT[name][1]) | {"rounding": card.rounding or "big_vision"}
    )
    ours = np.stack([card.preprocessing.scale(model_view(photo, card.preprocessing)) for photo in photos])
    assert np.abs(ours.transpose(0, 3, 1, 2) - prepared).max() < 0.01 / 255


def contents(file: Path) -> dict[str, np.ndarray]:
    with containers.open_container(file) as opened:
        return {key: opened.get(key) for key in opened.declared}
