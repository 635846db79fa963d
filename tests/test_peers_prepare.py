"""A folder alone: timm and Hugging Face prepare real photographs as the zoo does, and name the same classes.

Peers resize by Pillow or by torchvision, whose pixels differ from ours by 1/255 at most where the sides are the same;
logits are compared to 2 % of the largest for that reason, and to float32's bound on the peer's own pixels.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from engines import Engine
from format_cases import SMALL, random_arrays
from PIL import Image

from common.cards import Preprocessing
from common.convert import convert
from common.formats import containers
from common.formats.processors import IMAGENET_MEAN, IMAGENET_STD, TRUNCATES
from common.formats.source import RECORD, dump_config, read_model
from common.models import ResNetConfig, ViTConfig

torch = pytest.importorskip("torch")
datasets = pytest.importorskip("sklearn.datasets")
NAMES = [f"class of number {number}" for number in range(7)]
VIT = ViTConfig(**SMALL | {"image_size": (64, 64), "num_classes": 7}, gelu="erf")
BIT = ResNetConfig((1, 1, 1, 1), 0.5, 7, standardization_epsilon=1e-8)
SQUASHED = Preprocessing(64, 0, "bicubic")
CROPPED = Preprocessing(64, 72, "bilinear", IMAGENET_MEAN, IMAGENET_STD)
CASES = {"vit": (VIT, SQUASHED), "vit_cropped": (VIT, CROPPED), "bit": (BIT, SQUASHED), "bit_cropped": (BIT, CROPPED)}
BOUND = 2e-5


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Whether files survive a power cut is tested elsewhere."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    """Of sides that no resizing here has to round, which peers do otherwise."""
    return [datasets.load_sample_image(name)[:400, :600] for name in ("china.jpg", "flower.jpg")]


def folder(path: Path, name: str, to: str) -> tuple[Path, list[str]]:
    """(a model of ours converted for a peer, what was said)."""
    (config, prepared), lines = CASES[name], []
    record = {"config": dump_config(config), "class_names": NAMES} | dataclasses.asdict(prepared)
    arrays = random_arrays(config)
    containers.write(path / "ours.safetensors", arrays, {RECORD: json.dumps(record)})
    return convert(path / "ours.safetensors", path / "there", to, say=lines.append).parent, lines


def check(path: Path, photos: list, prepared: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Our logits of photographs are those of a peer that prepared them as `prepared` [B, 3, H, W]; returns ours."""
    found, engine = read_model(path / "model.safetensors"), Engine("bit_pytorch")
    card = found.card.preprocessing
    pixels = np.stack([card.scale(card.view(photo)) for photo in photos])
    step = 1 / (255 * min(card.std))
    assert np.abs(pixels.transpose(0, 3, 1, 2) - prepared).max() < 1.5 * step
    model = engine.build(found.config, found.arrays)
    ours = engine.logits(model, pixels)
    scale = np.abs(ours).max()
    assert (
        np.abs(engine.logits(model, np.ascontiguousarray(prepared.transpose(0, 2, 3, 1))) - logits).max()
        < BOUND * scale
    )
    assert np.abs(ours - logits).max() < 0.02 * scale
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
        check(path, photos, prepared.numpy(), model(prepared).numpy())
    assert [line for line in lines if "Note" in line] == [
        f"Note: timm {TRUNCATES}." for _ in range(bool(CASES[name][1].eval_resize))
    ]


@pytest.mark.parametrize("name", CASES)
def test_hugging_face_prepares_photographs_as_we_do(name, photos, tmp_path):
    transformers = pytest.importorskip("transformers")
    path, _ = folder(tmp_path, name, "huggingface")
    processor = transformers.AutoImageProcessor.from_pretrained(path)
    model = transformers.AutoModelForImageClassification.from_pretrained(path)
    files = [Image.fromarray(photo) for photo in photos]
    prepared = processor(files, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        ours = check(path, photos, prepared.numpy(), model(prepared).logits.numpy())
    classify = transformers.pipeline("image-classification", str(path))
    for answer, logits in zip(classify(files, top_k=5), ours):
        assert [row["label"] for row in answer] == [NAMES[number] for number in np.argsort(-logits)[:5]]


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
