"""Images that cannot be decoded: all are listed before a run, or left out as if they were not there; EXIF where asked."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from engines import INSTALLED
from PIL import Image

from common.config import EvaluateConfig, PredictConfig, TrainConfig
from common.data import checked, images
from common.data.checked import open_turned
from common.data.sources import index
from common.data.split import Dataset
from common.models import DEFAULT_MODEL, find_architecture
from common.models.cards import Card
from common.runs.inference import Evaluation
from common.runs.prediction import Prediction
from common.runs.run import Run
from common.system.errors import UserError
from common.zoo import preprocess

WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / f"{DEFAULT_MODEL}.npz"
BROKEN = ("train/a/1.png", "train/b/3.png", "train/b/4.png", "test/b/0.png")
FLAGS = {"model": "ViT-mu/16", "weights": "none", "resize": 36, "crop": 32, "batch": 4, "steps": 4, "warmup_steps": 0}


@pytest.fixture
def root(tmp_path) -> Path:
    """train: 6 images of a, 6 of b; test: 2 of each; four of them broken in four ways."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 2)):
        for class_name in "ab":
            for number in range(count):
                path = tmp_path / "data" / split / class_name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (36, 40, 3), np.uint8)).save(path)
    whole = (tmp_path / "data" / BROKEN[0]).read_bytes()
    for file, data in zip(BROKEN, (whole[:900], b"", b"no image", None)):
        (tmp_path / "data" / file).unlink()
        if data is not None:
            (tmp_path / "data" / file).write_bytes(data)
    Image.fromarray(rng.random((8, 8), np.float32) * 300).save(tmp_path / "data" / BROKEN[3], "TIFF")
    return tmp_path / "data"


def open_checked(flags: TrainConfig) -> Dataset:
    return checked.checked(open_turned(flags), flags, ("train", "val", "test"))


def config(root: Path, **flags) -> TrainConfig:
    return TrainConfig(dataset=str(root), **FLAGS | {"logdir": str(root.parent / "runs")} | flags)


def test_all_broken_images_are_listed_before_a_run(root, capsys):
    with pytest.raises(
        UserError, match=r"^4 of 16 images cannot be decoded \(3 of train, 1 of test\), all listed above: "
    ):
        Run(config(root), "bit_pytorch")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [str(root / file) for file in BROKEN]
    assert "mode F" in lines[-1] and all("cannot be decoded" in line for line in lines[:-1])


def test_a_single_one_is_one_sentence(root, capsys):
    for file in BROKEN[1:]:
        (root / file).unlink()
    with pytest.raises(UserError, match=r"^The image .*train/a/1.png cannot be decoded .*--on_broken_image skip.$"):
        Run(config(root), "bit_pytorch")
    assert capsys.readouterr().out == ""


def test_a_large_set_ends_where_it_meets_one(root, monkeypatch):
    monkeypatch.setattr(checked, "QUICK_PIXELS", 100)
    dataset = open_checked(config(root))
    with pytest.raises(UserError, match="train/a/1.png cannot be decoded"):
        dataset.splits["train"].decode(1)


@pytest.mark.parametrize("flags", [{}, {"val_fraction": 0.3}, {"examples_per_class": 3}])
def test_skipping_is_as_if_they_were_not_there(root, flags):
    """The same choices, sizes and labels, whatever is chosen by number."""
    skipping = Run(config(root, on_broken_image="skip", **flags), "bit_pytorch")
    for file in BROKEN:
        (root / file).unlink()
    without = Run(config(root, **flags), "bit_pytorch")
    for name, split in without.plan.splits.items():
        own = skipping.plan.splits[name]
        assert [own.describe(i) for i in range(len(own))] == [split.describe(i) for i in range(len(split))]
        np.testing.assert_array_equal(own.labels, split.labels)
    assert skipping.recipe == without.recipe and (skipping.plan.dataset.skipped, without.plan.dataset.skipped) == (4, 0)
    assert skipping.plan.notes[0] == "4 of 16 images cannot be decoded (3 of train, 1 of test)."


def test_a_class_without_any_image_left_is_named(root):
    for path in (root / "train/a").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="No training image of the class 'a' of .* can be decoded"):
        open_checked(config(root, on_broken_image="skip"))


def test_what_was_found_is_kept_until_a_file_changes(root, monkeypatch):
    monkeypatch.setattr(index, "QUICK_SECONDS", -1)
    for path in root.rglob("*.png"):
        os.utime(path, (1.6e9, 1.6e9))
    looked, find = [], checked.find_broken
    monkeypatch.setattr(checked, "find_broken", lambda *rest: looked.append(1) or find(*rest))
    counts = [open_checked(config(root, on_broken_image="skip")).skipped for _ in range(3)]
    assert counts == [4] * 3 and len(looked) == 2  # one for each split, once
    shutil.copyfile(root / "train/a/0.png", root / BROKEN[0])  # no folder changes
    assert open_checked(config(root, on_broken_image="skip")).skipped == 3 and len(looked) == 4
    (root / "train/a/2.png").write_bytes(b"")
    assert open_checked(config(root, on_broken_image="skip")).skipped == 4


def test_evaluate_and_predict_leave_the_same_out(root, capsys):
    flags = {"model": DEFAULT_MODEL, "on_broken_image": "skip", "resolution": 32}
    names = tuple(str(root / "test" / file) for file in ("b/0.png", "a/0.png", "b/1.png"))
    prediction = Prediction(PredictConfig(images=names, **flags))
    assert [str(file) for file in prediction.files] == list(names[1:])
    assert sum(len(batch["mask"]) for batch in prediction.batches()) == 2
    assert "1 of 3 images cannot be decoded (1 of images)." in capsys.readouterr().err
    with pytest.raises(UserError, match="The image .*test/b/0.png holds floating-point numbers"):
        Prediction(PredictConfig(images=names, **flags | {"on_broken_image": "stop"}))
    with pytest.raises(UserError, match="No image of the images given"):
        Prediction(PredictConfig(images=names[:1], **flags))


def test_check_lists_all_and_says_so_where_none_is(run, root, tmp_path):
    lines = run("common.datasets", "check", root, status=2).stdout.splitlines()
    assert [line.split()[0] for line in lines] == [str(root / file) for file in BROKEN]
    for file in BROKEN:
        (root / file).unlink()
    assert run("common.datasets", "check", root).stdout == f"All 12 images of {root} can be decoded.\n"


def test_evaluate_looks_at_what_it_evaluates_alone(root, monkeypatch):
    looked, find = [], checked.find_broken
    monkeypatch.setattr(checked, "find_broken", lambda split, *rest: looked.append(len(split)) or find(split, *rest))
    monkeypatch.setattr(Evaluation, "matched", lambda self, dataset: dataset.splits)
    flags = {"dataset": str(root), "resolution": 32}
    kept = Evaluation(EvaluateConfig(on_broken_image="skip", **flags))
    assert looked == [4] and {name: len(split) for name, split in kept.splits.items()} == {"train": 12, "test": 3}
    with pytest.raises(UserError, match="The image .*test/b/0.png holds floating-point numbers"):
        Evaluation(EvaluateConfig(**flags))
    with pytest.raises(UserError, match=r"^3 of 12 images cannot be decoded \(3 of train\)"):
        Evaluation(EvaluateConfig(split="train", **flags))


def images_of(paths, **flags):
    return Prediction(PredictConfig(images=paths, resolution=32, **flags)).split.decode(0)


def test_exif_is_applied_where_the_flag_or_the_card_says_so(tmp_path, root):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8)
    for split in ("train", "test"):
        shutil.rmtree(root / split)
        (root / split / "a").mkdir(parents=True)
        Image.fromarray(pixels).save(root / split / "a" / "0.png", exif=exif)
    shutil.copy(WEIGHTS, tmp_path / "weights.npz")
    names, turned = (str(root / "train/a/0.png"),), np.rot90(pixels, -1)
    for card, flag, expected in (
        ({}, None, pixels),
        ({"exif": "ignore"}, "apply", turned),
        ({"exif": "apply"}, None, turned),
        ({"exif": "apply"}, "ignore", pixels),
    ):
        (tmp_path / "card.json").write_text(json.dumps(card))
        flags = {"weights": str(tmp_path / "weights.npz"), "exif": flag}
        np.testing.assert_array_equal(images_of(names, **flags), expected)
        evaluation = Evaluation.__new__(Evaluation)
        evaluation.matched = lambda dataset: dataset.splits
        evaluation.__init__(EvaluateConfig(dataset=str(root), resolution=32, **flags))
        np.testing.assert_array_equal(evaluation.splits["test"].decode(0), expected)
    run = Run(config(root, exif="apply"), "bit_pytorch")
    np.testing.assert_array_equal(run.plan.splits["train"].take(np.array([0, 0])).decode(1), turned)
    architecture = find_architecture("ViT-mu/16", num_classes=2, image_size=(32, 32))
    for exif, expected in (("apply", turned), (None, pixels)):  # in Python, too
        view = images.resize(expected, 32, 32).astype(np.float32) / np.float32(127.5) - np.float32(1)
        np.testing.assert_allclose(
            preprocess(architecture, Card(exif=exif).preprocessing, names[0])[0], view, atol=1e-6
        )
    (tmp_path / "card.json").write_text(json.dumps({"exif": "sometimes"}))
    with pytest.raises(UserError, match="exif"):
        images_of(names, weights=str(tmp_path / "weights.npz"))


@pytest.mark.parametrize(
    "name", [INSTALLED[0], *(pytest.param(name, marks=pytest.mark.slow) for name in INSTALLED[1:])]
)
def test_every_engine_trains_without_them_and_records_it(name, run, root, tmp_path):
    flags = [word for flag, value in FLAGS.items() for word in (f"--{flag}", value)]
    flags += ["--dataset", root, "--name", "r", "--on_broken_image", "skip", "--exif", "apply"]
    log = run(f"{name}.train", *flags).stdout
    assert "9 train, 3 test images" in log and "4 of 16 images cannot be decoded (3 of train, 1 of test)." in log
    card = json.loads((tmp_path / "runs/r/card.json").read_text())
    assert card["skipped_images"] == 4 and card["exif"] == "apply"
    assert "holds a finished run" in run(f"{name}.train", *flags, status=2).stderr
