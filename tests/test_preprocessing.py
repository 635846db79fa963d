"""How images are prepared: what files of other projects ask for is what every engine computes, and what peers read."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from engines import recipe_of
from format_cases import SMALL, random_arrays
from PIL import Image

from common.config import PredictConfig, TrainConfig
from common.convert import convert
from common.models import PublishedModel, ViTConfig
from common.models.cards import Card, Preprocessing
from common.models.families import dump_config
from common.runs.prediction import Prediction
from common.runs.run import Run
from common.system.errors import UserError
from common.weights import containers, processors
from common.weights.express import choose_table
from common.weights.processors import IMAGENET_MEAN, IMAGENET_STD
from common.weights.source import RECORD, read_model

VIT = ViTConfig(**SMALL, gelu="erf")
FOREIGN = Preprocessing(32, 40, "bicubic", IMAGENET_MEAN, IMAGENET_STD)
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Whether files survive a power cut is tested elsewhere."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def written(path: Path, config=VIT, prepared: Preprocessing = FOREIGN, **facts) -> Path:
    """A file of ours that says how its images are prepared."""
    record = {"config": dump_config(config)} | dataclasses.asdict(prepared) | facts
    containers.write(path, random_arrays(config), {RECORD: json.dumps(record)})
    return path


def folded(arrays: dict, prepared: Preprocessing) -> dict:
    """The same model for images in [-1, 1]: the scaling of its pixels goes into the stem."""
    mean, std = np.array(prepared.mean), np.array(prepared.std)
    kernel = arrays["stem/kernel"].astype(np.float64)
    bias = arrays["stem/bias"] + np.einsum("hwco,c->o", kernel, (0.5 - mean) / std)
    return arrays | {"stem/kernel": kernel * (0.5 / std)[:, None], "stem/bias": bias}


# --- on the device


@pytest.mark.parametrize(
    "prepared", (FOREIGN, Preprocessing(), Preprocessing(32, mean=(0.0, 0.3, 1.0), std=(1.0, 2.0, 1 / 255)))
)
def test_engines_scale_alike(engine, prepared):
    """In float64 as numpy, but for the last bit: XLA multiplies by the divisor's inverse."""
    model = engine.build(VIT, random_arrays(VIT), "float64", preprocessing=prepared)
    scaled = engine.array(engine.losses.scale(engine.raw(PIXELS), model))
    scaled = scaled.transpose(0, 2, 3, 1) if engine.name == "bit_pytorch" else scaled
    reference = prepared.scale(PIXELS, np.float64)
    assert scaled.dtype == np.float64 and np.abs(scaled - reference).max() <= 2**-51 * np.abs(reference).max()
    assert engine.name == "bit_jax" or np.array_equal(scaled, reference)
    expected = (PIXELS / 255 - prepared.mean) / prepared.std
    np.testing.assert_allclose(scaled, expected, rtol=1e-12, atol=1e-12)
    if prepared == Preprocessing():
        assert np.array_equal(reference, PIXELS / 127.5 - 1)


def test_training_and_evaluation_scale_as_the_model_says(engine):
    """A model whose stem holds the scaling, given images in [-1, 1], has the same losses and scores."""
    config = dataclasses.replace(VIT, depth=1)
    arrays = {name: array.astype(np.float64) for name, array in random_arrays(config).items()}
    labels, mask = np.array([0, 1, 2, 3], np.int32), np.ones(4, bool)
    recipe = recipe_of([0.0], batch=4)
    found = []
    for values, prepared in ((arrays, FOREIGN), (folded(arrays, FOREIGN), Preprocessing())):
        model = engine.build(config, values, "float64", preprocessing=prepared)
        batch = {"images": PIXELS, "labels": labels, "mask": mask}
        result = engine.evaluate(model, [batch])
        _, logits = next(iter(engine.inference.predict(model, iter([batch]))))
        optimizer = engine.optim.create_optimizer(model, recipe)
        part = {name: engine.raw(batch[name]) for name in ("images", "labels")}
        if engine.name == "bit_pytorch":
            part["labels"] = part["labels"].long()
        loss = engine.loop.train_step({"model": model}, optimizer, part, recipe, step=0)["loss"]
        found.append(np.concatenate([np.ravel(logits), [result["loss"], float(loss)]]))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9, atol=1e-9)


# --- a run


def test_a_run_keeps_the_scaling_of_its_weights(tmp_path, monkeypatch):
    """Its card says it, its checkpoints do, and a run with other weights is not resumed from them."""
    config = ViTConfig((16, 16), 32, 1, 2, 128, 10, image_size=(32, 32))  # ViT-mu/16
    flags = {"model": "ViT-mu/16", "weights": str(written(tmp_path / "a.safetensors", config)), "workers": 1}
    run = Run(TrainConfig(dataset="cifar10-sample", crop=32, steps=10, logdir=str(tmp_path), **flags), "bit_jax")
    assert (run.plan.preprocessing.mean, run.plan.preprocessing.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert run.plan.constants["mean"] == list(IMAGENET_MEAN) and run.plan.constants["std"] == list(IMAGENET_STD)
    plain = Run(TrainConfig(dataset="cifar10-sample", model="ViT-mu/16", weights="none", crop=32, steps=10), "bit_jax")
    assert (plain.plan.preprocessing.mean, plain.plan.constants["std"]) == ((0.5, 0.5, 0.5), [0.5, 0.5, 0.5])


# --- files of other projects


TIMM = {"architecture": "vit_base_patch16_224", "model_args": {"img_size": 32, "num_heads": 4}}


def foreign(folder: Path, config: dict, processor: dict | None = None, spelling: str = "timm", model=VIT) -> Path:
    """A folder as timm or Hugging Face would leave it."""
    folder.mkdir(exist_ok=True)
    table = choose_table(spelling, model)
    containers.write(folder / "model.safetensors", table.to_published(random_arrays(model), model), {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.mark.parametrize(
    ("told", "expected", "note"),
    [
        ({"input_size": [3, 32, 32], "crop_pct": 0.9, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3},
         Preprocessing(32, 35, "bicubic"), ""),
        ({"input_size": [3, 32, 32]}, Preprocessing(32, 36, "bicubic", IMAGENET_MEAN, IMAGENET_STD), ""),
        ({"input_size": [3, 32, 32], "crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear"},
         Preprocessing(32, 0, "bilinear", IMAGENET_MEAN, IMAGENET_STD), ""),
        ({"input_size": [3, 32, 32], "crop_pct": 0.95, "crop_mode": "squash"},
         Preprocessing(32, 0, "bicubic", IMAGENET_MEAN, IMAGENET_STD), "not cropped to the middle 0.95"),
        ({"input_size": [3, 32, 32], "crop_mode": "border"},
         Preprocessing(32, 0, "bicubic", IMAGENET_MEAN, IMAGENET_STD), "crop_mode border"),
        ({"input_size": [3, 32, 32], "crop_pct": 1.2},
         Preprocessing(32, 32, "bicubic", IMAGENET_MEAN, IMAGENET_STD), "crop_pct 1.2"),
        ({"input_size": [3, 32, 32], "interpolation": "random"},
         Preprocessing(32, 36, "bicubic", IMAGENET_MEAN, IMAGENET_STD), "by bicubic, not by 'random'"),
        ({"input_size": [3, 32, 32], "mean": [0.2], "std": [0.3]},
         Preprocessing(32, 36, "bicubic", (0.2,) * 3, (0.3,) * 3), ""),
    ],
)  # fmt: skip
def test_what_timm_says(told, expected, note, tmp_path):
    found = read_model(foreign(tmp_path, TIMM | {"pretrained_cfg": told}))
    rounding = "torchvision" if expected.eval_resize else "big_vision"
    assert found.card.preprocessing == dataclasses.replace(expected, rounding=rounding)
    assert note in " ".join(found.notes) and bool(found.notes) == bool(note)


HUGGING_FACE = {"model_type": "vit", "num_attention_heads": 4, "image_size": 32}
SCALED = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
OWN = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("told", "expected", "note"),
    [
        ({}, Preprocessing(224), ""),  # ViTImageProcessor's own
        ({"size": 32} | SCALED, Preprocessing(32, 0, "bilinear", *OWN), ""),
        ({"size": {"height": 32, "width": 32}, "resample": 3} | SCALED, Preprocessing(32, 0, "bicubic", *OWN), ""),
        ({"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
         Preprocessing(32, 40), ""),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.875},
         Preprocessing(224, 256, "bicubic"), ""),
        ({"feature_extractor_type": "ConvNextFeatureExtractor", "size": 384}, Preprocessing(384, 0, "bicubic"), ""),
        ({"size": 32, "do_normalize": False}, Preprocessing(32, 0, "bilinear", ZERO, ONE), ""),
        ({"size": 32, "do_rescale": False} | SCALED,
         Preprocessing(32, 0, "bilinear", (0.1 / 255, 0.2 / 255, 0.3 / 255), (0.4 / 255, 0.5 / 255, 0.6 / 255)), ""),
        ({"size": 32, "rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]},
         Preprocessing(32), ""),
        ({"size": 32, "resample": 0}, Preprocessing(32, 0, "nearest"), ""),
        ({"size": 32, "resample": 1}, Preprocessing(32, 0, "bicubic"), "not by 'lanczos'"),
        ({"size": 32, "do_resize": False}, Preprocessing(32), "leaves to its user"),
        ({"size": {"height": 48, "width": 32}}, Preprocessing(32), "become squares, not 48 x 32 pixels"),
        ({"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": 24, "width": 32}},
         Preprocessing(32, 40), "become squares, not 24 x 32 pixels"),
        ({"size": {"shortest_edge": 32}}, Preprocessing(32), "keeps their sides' ratio"),
        ({"image_processor_type": "DeiTImageProcessor"}, Preprocessing(224, 0, "bicubic"), "not to 256 and cropped"),
        ({"image_processor_type": "OwnProcessor", "size": 32}, Preprocessing(32), "OwnProcessor"),
    ],
)  # fmt: skip
def test_what_hugging_face_says(told, expected, note, tmp_path):
    found = read_model(foreign(tmp_path, HUGGING_FACE, {"do_resize": True} | told, "huggingface"))
    prepared, rounding = found.card.preprocessing, "huggingface" if expected.eval_resize else "big_vision"
    expected = dataclasses.replace(expected, rounding=rounding)
    assert dataclasses.replace(prepared, mean=ZERO, std=ONE) == dataclasses.replace(expected, mean=ZERO, std=ONE)
    np.testing.assert_allclose([prepared.mean, prepared.std], [expected.mean, expected.std], rtol=1e-14)
    assert note in " ".join(found.notes) and bool(found.notes) == bool(note)


def test_torchvision_says_nothing_and_its_table_does(tmp_path):
    table = choose_table("torchvision", VIT)
    containers.write(tmp_path / "a.safetensors", table.to_published(random_arrays(VIT), VIT), {"format": "pt"})
    found = read_model(tmp_path / "a.safetensors", given={"num_heads": 4})
    expected = Preprocessing(32, 32, "bicubic", IMAGENET_MEAN, IMAGENET_STD, rounding="torchvision")
    assert found.card.preprocessing == expected
    assert "as torchvision's own weights want them" in found.notes[0]
    models = pytest.importorskip("torchvision.models")
    for name, row in (("B_16", (768, 16)), ("L_16", (1024, 16)), ("H_14", (1280, 14))):
        for entry in getattr(models, f"ViT_{name}_Weights"):
            if "LINEAR" in entry.name:
                continue  # of the same size as those from ImageNet alone: told by its own card only
            peer = entry.transforms()
            size = peer.crop_size[0]
            config = ViTConfig((row[1], row[1]), row[0], 1, 16, 8, 5, image_size=(size, size))
            prepared = table.prepares(config)[0].preprocessing
            assert (prepared.resolution, prepared.eval_resize) == (size, peer.resize_size[0])
            assert (prepared.resize_kind, list(prepared.mean)) == (peer.interpolation.value, peer.mean)


def test_a_foreign_file_that_says_nothing_is_told_of(tmp_path):
    folder = foreign(tmp_path, HUGGING_FACE, None, "huggingface")
    found = read_model(folder)
    assert found.card.preprocessing == Preprocessing()
    assert "no file states how images are prepared, so they are squashed and lie in [-1, 1]" in found.notes[0]
    assert read_model(convert(folder, tmp_path / "ours.npz")).notes == []


def test_predict_says_and_does_what_the_files_ask_for(tmp_path, monkeypatch, capsys):
    told = {"input_size": [3, 32, 32], "crop_pct": 0.8, "interpolation": "lanczos", "mean": [0.1] * 3, "std": [0.4] * 3}
    folder = foreign(tmp_path / "timm", TIMM | {"pretrained_cfg": told})
    Image.fromarray(np.tile(PIXELS[0], (2, 3, 1))).save(tmp_path / "a.png")
    row = PublishedModel("tiny", "ViT-mu/16", 5, "test")
    monkeypatch.setattr("common.runs.inference.find_model", lambda name: row)
    monkeypatch.setattr("common.weights.starting.check_same_model", lambda *_: None)
    job = Prediction(PredictConfig(images=(str(tmp_path / "a.png"),), weights=str(folder), workers=1))
    assert "by bicubic, not by 'lanczos'" in capsys.readouterr().err
    expected = Preprocessing(32, 40, "bicubic", (0.1,) * 3, (0.4,) * 3, rounding="torchvision")
    assert job.preprocessing_at(job.resolution) == expected


@pytest.mark.parametrize("to", ("timm", "huggingface", "vision_transformer", "ours"))
def test_conversions_keep_the_facts(to, tmp_path):
    suffix = {"vision_transformer": "there.npz", "ours": "there.safetensors"}.get(to, "there")
    path = convert(written(tmp_path / "a.safetensors"), tmp_path / suffix, to)
    assert read_model(path).card.preprocessing == FOREIGN
    back = convert(path, tmp_path / "back.safetensors")
    assert read_model(back).card.preprocessing == FOREIGN


@pytest.mark.parametrize("resolution", (7, 32, 160, 224, 384, 480))
def test_a_crop_pct_gives_the_same_size_again(resolution):
    for eval_resize in range(resolution, 2 * resolution):
        crop_pct = processors.fraction(resolution, eval_resize)
        told = {"pretrained_cfg": {"input_size": [3, resolution, resolution], "crop_pct": crop_pct}}
        assert processors.read_timm(told)[0]["eval_resize"] == eval_resize


@pytest.mark.parametrize(("name", "value"), [("mean", [0.5, 0.5]), ("mean", "0.5"), ("std", [0.5, 0.0, 0.5]), ("std", [1, 1, float("inf")]),
                                             ("mean", [True, 1, 1]), ("std", None),
                                             ("mean", [123.7, 116.3, 103.5]), ("std", [1, 1, 1e-320])])  # fmt: skip
def test_a_scaling_that_is_none_is_refused(name, value, tmp_path):
    path = written(tmp_path / "a.safetensors", **{name: value})
    with pytest.raises(UserError, match=f"as {name}, expected three"):
        read_model(path)


def test_a_card_is_completed_by_what_else_is_known():
    assert Card(mean=ZERO).over(Card(std=ONE, resolution=3)) == Card(mean=ZERO, std=ONE, resolution=3)
    assert FOREIGN.at(64) == dataclasses.replace(FOREIGN, resolution=64, eval_resize=80)
