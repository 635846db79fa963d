"""`evaluate --features`: what backbones with and without a head make of images, for probes, in every engine."""

import copy
import dataclasses
import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pillow
from test_evaluate_towers import birds  # noqa: F401  a fixture
from test_naflex import batch_of
from test_peers import images, no_waiting_for_the_disk, randomise, relative
from test_peers_vits import hugging
from tiny_models import CONFIGS, TEXTS, random_arrays

from common import probe
from common.config import EvaluateConfig
from common.models import ModelConfig, ViTConfig
from common.models.cards import Card
from common.models.published import PublishedModel
from common.runs.command import parse
from common.runs.jobs import evaluation
from common.system.errors import UserError
from common.weights import write_weights
from common.weights.source import read_model

__all__ = ["no_waiting_for_the_disk"]
HEADLESS = dataclasses.replace(CONFIGS["vit_parts"], num_classes=None, distilled=False)
NAFLEX = ViTConfig((4, 4), 16, 1, 2, 24, None, (12, 16), "gap", registers=1, naflex=True)


def token_features(engine, model, pixels: np.ndarray, **places: np.ndarray) -> np.ndarray:
    places = {name: engine.raw(values) for name, values in places.items()}
    function = importlib.import_module(f"{engine.name}.maps").token_features
    function = importlib.import_module("flax.nnx").jit(function) if engine.name == "bit_jax" else function
    return engine.array(function(model, engine.tensor(pixels), **places))


def test_both_are_what_dinov2s_linear_probe_is_given(engine, tmp_path):
    """The input of the classifier in transformers: class token and mean of patches, without the registers."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    peer, given = hugging("Dinov2WithRegistersForImageClassification", num_register_tokens=3, mlp_ratio=2), []
    randomise(peer)
    peer.eval().base_model.save_pretrained(tmp_path)
    peer = copy.deepcopy(peer).double()
    peer.classifier.register_forward_hook(lambda module, inputs, output: given.append(inputs[0]))
    with torch.no_grad():
        peer(torch.from_numpy(images()).double().permute(0, 3, 1, 2))
    source = read_model(tmp_path)
    found = token_features(engine, engine.build(source.config, source.arrays, "float64"), images().astype(np.float64))
    assert found.shape[1] == 64 and relative(found, given[0].numpy()) < 1e-9


def test_padding_is_in_no_mean(engine):
    model = engine.build(NAFLEX, random_arrays(NAFLEX), "float64")
    strips, (coordinates, mask) = np.random.default_rng(0).uniform(-1, 1, (1, 24, 4, 3)), batch_of([(2, 3)], 6)
    longer = np.concatenate([strips, np.ones((1, 8, 4, 3))], 1)
    found = token_features(engine, model, strips, coordinates=coordinates, patch_mask=mask)
    coordinates, mask = batch_of([(2, 3)], 8)
    again = token_features(engine, model, longer, coordinates=coordinates, patch_mask=mask)
    np.testing.assert_allclose(found, again, rtol=0, atol=1e-12)


def job(folder: Path, birds: Path, *flags: str):  # noqa: F811
    given = ("--model", "ViT-B/16", "--weights", folder / "tiny.npz", "--dataset", birds, "--workers", "2")
    return evaluation(parse(EvaluateConfig, [*map(str, given), *map(str, flags)], "evaluate", ""))


@pytest.fixture
def model_of(tmp_path, monkeypatch):
    """Write a tiny model, which every published name then stands for."""

    def write(config: ModelConfig) -> Path:
        monkeypatch.setattr(PublishedModel, "config", lambda self, num_classes=None: config)
        write_weights(tmp_path / "tiny.npz", random_arrays(config), config, Card(resolution=32))
        return tmp_path

    return write


def written(engine, folder: Path, birds: Path, kind: str) -> tuple[np.ndarray, np.ndarray]:  # noqa: F811
    out = folder / kind
    engine.inference.evaluate_main(job(folder, birds, "--features", kind, "--output", out, "--batch_eval", "24"))
    return probe.read_features(out / "test.npz")


def test_a_backbone_without_a_head_gives_features_for_a_probe(engine, model_of, birds, capsys):  # noqa: F811
    """Those of its class token are what a head would be given; a padded last batch is left out."""
    folder = model_of(HEADLESS)
    found = {kind: written(engine, folder, birds, kind) for kind in ("pooled", "class", "patches", "both")}
    assert f"{birds} test, 40 images: 32 both features" in capsys.readouterr().out
    for features, labels in found.values():
        assert len(features) == 40 and np.bincount(labels).tolist() == [20, 20]
    kinds = {kind: features for kind, (features, _) in found.items()}
    np.testing.assert_array_equal(kinds["both"], np.hstack([kinds["class"], kinds["patches"]]))
    np.testing.assert_allclose(kinds["pooled"], kinds["class"], rtol=0, atol=1e-5)
    first = np.asarray(pillow.open(min((birds / "test" / "bird").iterdir())))[None] / 127.5 - 1
    model = engine.build(HEADLESS, random_arrays(HEADLESS))
    expected = engine.features(model, first.astype(np.float32))
    np.testing.assert_allclose(kinds["pooled"][0], expected[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ("siglip", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bit", "mixer"))))
def test_every_family_has_pooled_features(engine, model_of, birds, name):  # noqa: F811
    folder = model_of((CONFIGS | TEXTS)[name])
    features, _ = written(engine, folder, birds, "pooled")
    assert len(features) == 40 and np.ptp(features, 0).max() > 0.1


@pytest.mark.parametrize(
    ("config", "flags", "words"),
    [
        (HEADLESS, ("--features", "both"), "--features both writes files; give --output, a folder for them"),
        (HEADLESS, ("--output", "out"), "has no head to tell classes with; .* or judge its features by `evaluate --features`"),
        (HEADLESS, ("--features", "both", "--output", "a", "--evaluator", "zero_shot"), "--evaluator judges a model, and --features"),
        (CONFIGS["bit"], ("--features", "class", "--output", "a"), "of the tokens of a ViT, and .* is of the family BiT; give --features pooled"),
        (CONFIGS["vit_map"], ("--features", "both", "--output", "a"), "of a class token, and .* has none; give --features patches"),
    ],
)  # fmt: skip
def test_what_a_backbone_has_not_is_refused(model_of, birds, config, flags, words):  # noqa: F811
    with pytest.raises(UserError, match=words):
        job(model_of(config), birds, *flags)
