"""KerasHub's presets: its ViT, SigLIP and CLIP with random weights are ours in three engines, and it loads our files.

`golden/keras_hub/` holds presets and what KerasHub 0.32.0 made of them in float64 (`golden/make_keras_hub.py` writes them); where
keras-hub is installed, it runs here.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from engines import Engine

from common.convert import convert
from common.models.family import below
from common.system.errors import UserError
from common.weights import containers
from common.weights.source import read_model

GOLDEN = Path(__file__).parent / "golden" / "keras_hub"
PRESETS = ("vit_token", "vit_gap", "siglip", "clip")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_compute_what_keras_hub_does(engine: Engine, name):
    """Logits of a classifier, embeddings of towers: 1e-9 of the largest in float64."""
    found, expected = read_model(GOLDEN / name), np.load(GOLDEN / f"{name}.npz")
    assert found.spelling == "keras_hub" and not any("optimizer" not in n and "vars" not in n for n in found.unused)
    if name.startswith("vit"):
        model = engine.build(found.config, found.arrays, "float64")
        outputs = {"logits": engine.logits(model, expected["images"])}
    else:
        outputs = towers(engine, found, expected)
    for key, value in outputs.items():
        assert np.abs(value - expected[key]).max() / np.abs(expected[key]).max() < 1e-9, key


def towers(engine: Engine, found, expected) -> dict[str, np.ndarray]:
    """The outputs of both towers before they are normalised, and the scale."""
    image = engine.build(found.config.image, below(found.arrays, "image"), "float64")
    text = engine.build(found.config.text, below(found.arrays, "text"), "float64")
    outputs = {
        "image": engine.logits(image, expected["images"]),
        "text": engine.array(text(engine.raw(expected["tokens"]))),
    }
    return outputs | {name: found.arrays[name] for name in ("t", "b") if name in expected}


@pytest.mark.parametrize("name", ("backbone", "siglip", "clip"))
def test_what_is_written_is_what_keras_hub_wrote(name, tmp_path):
    """The same data sets with the same bits, numbers of positions included, and the same sizes in config.json."""
    import h5py

    source = GOLDEN / name
    ours = convert(source, tmp_path / "ours.safetensors")
    path = convert(ours, tmp_path / "back", "keras_hub")
    listed = {}
    for file in (source / path.name, path):
        with h5py.File(file) as opened:
            listed[file] = {}
            opened.visititems(
                lambda key, it, found=listed[file]: found.update({key: it[()]}) if hasattr(it, "shape") else None
            )
    theirs, back = listed.values()
    assert theirs.keys() == back.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(back[key], value)
    told, written = (json.loads((file.parent / "config.json").read_text()) for file in listed)
    assert flat(written).items() <= flat(told).items()


def flat(value, name: str = "") -> dict:
    """{path: value} of the leaves of a JSON object."""
    if not isinstance(value, dict):
        return {name: json.dumps(value)}
    return {key: leaf for part, child in value.items() for key, leaf in flat(child, f"{name}/{part}").items()}


def test_images_are_prepared_as_a_preset_says():
    card = read_model(GOLDEN / "vit_token").card
    assert card.mean == pytest.approx((0.485, 0.456, 0.406)) and card.std == pytest.approx((0.229, 0.224, 0.225))
    assert (card.resolution, card.eval_resize, card.resize_kind) == (16, 16, "bilinear")


@pytest.mark.parametrize(
    ("name", "file", "change", "words"),
    [
        ("vit_token", "task.json", {"pooling": "gap"}, "pooling 'gap' of a ViT with a class token, expected 'token'"),
        ("vit_token", "task.json", {"activation": "sigmoid"}, "activation 'sigmoid'"),
        ("siglip", "config.json", None, "KerasHub's BertBackbone, expected ViTBackbone"),
    ],
)
def test_presets_that_compute_something_else_are_refused(name, file, change, words, tmp_path):
    for one in (GOLDEN / name).iterdir():
        (tmp_path / one.name).write_bytes(one.read_bytes())
    told = json.loads((tmp_path / file).read_text())
    told = told | {"class_name": "BertBackbone"} if change is None else told | {"config": told["config"] | change}
    (tmp_path / file).write_text(json.dumps(told))
    with pytest.raises(UserError, match=words):
        read_model(tmp_path)


def test_a_classifier_of_keras_hub_is_read_only(tmp_path):
    with pytest.raises(UserError, match="keras_hub cannot hold this ViT .num_classes 5, only None"):
        convert(GOLDEN / "vit_token", tmp_path / "a", "keras_hub")
    path = convert(GOLDEN / "vit_token", tmp_path / "b.npz", "vision_transformer")
    with containers.open_container(path) as file:
        assert file.declared["head/kernel"].shape == (8, 5)


@pytest.mark.parametrize("name", ("backbone", "siglip", "clip"))
def test_keras_hub_loads_our_files(name, tmp_path):
    """Where it is installed: the very same outputs."""
    models = pytest.importorskip("keras_hub").models
    from golden import make_keras_hub as golden

    path = convert(convert(GOLDEN / name, tmp_path / "ours.npz", "ours"), tmp_path / "back", "keras_hub")
    kind = {"backbone": "ViTBackbone", "siglip": "SigLIPBackbone", "clip": "CLIPBackbone"}[name]
    again, theirs = (getattr(models, kind).from_preset(str(one)) for one in (path.parent, GOLDEN / name))
    for key, value in golden.outputs(theirs).items():
        np.testing.assert_array_equal(golden.outputs(again)[key], value)
