"""Predictions of a run: what is kept of them, and what the report tells: confusion, accuracy of classes, mistakes."""

import base64
import dataclasses
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from numpy_engine import load_main

from common import config, models, report
from common.data import images
from common.datasets import open_dataset
from common.evaluation.classification import ClassificationEvaluator
from common.evaluation.pairs import PAIRS, Pair, Pairs, read_pairs, write_pairs
from common.evaluation.predictions import PREDICTIONS, Predictions, read_predictions, write_predictions
from common.models import ResNetConfig, find_model
from common.reports import curves, mistakes, record
from common.runs import run
from common.runs.command import parse
from common.system.errors import UserError

RUN = ("--weights", "none", "--batch", "4", "--resize", "36", "--crop", "32", "--steps", "2", "--warmup_steps", "1",
       "--batch_eval", "300", "--examples_per_class", "1", "--name", "run", "--workers", "1")  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A run of the numpy engine, which takes all 500 test images for class 1, in batches of 300, ever more surely."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(type(find_model(models.DEFAULT_MODEL)), "config", lambda *_: ResNetConfig((1,), 0.5, 10))
    monkeypatch.setattr(curves, "write_png", lambda records, path: path.write_bytes(b"curves"))
    load_main()(run.Run(parse(config.TrainConfig, RUN, "train", ""), "bit_jax"))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / "run"


def random(num_images: int, num_classes: int, right: float = 0.5) -> Predictions:
    rng = np.random.default_rng(0)
    labels, others = rng.integers(0, num_classes, (2, num_images), np.int32)
    predicted = np.where(rng.random(num_images) < right, labels, others)
    return Predictions("test", labels, predicted, rng.random(num_images, np.float32))


def record_of(told: Predictions, **card) -> record.Record:
    return record.Record(Path("runs/a"), "bit_jax", {"dataset": "nowhere"}, {}, card, {}, [], [], told)


# --- what is kept


def test_rows_of_examples_make_an_evaluation():
    rows = np.array([[1, 1, 0.5, 1, 7, 0.9], [0, 1, 1.5, 1, 2, 0.4], [0, 0, 0, 0, 3, 0.2]], np.float32)
    columns = dict(zip(("top1", "top5", "loss", "mask", "predicted", "probability"), rows.T, strict=True))
    evaluator = ClassificationEvaluator("test", (), labels=np.int32([7, 3]))
    evaluator.add("scores", columns | {"mask": columns["mask"] > 0})
    assert evaluator.result() == {"top1": 0.5, "top5": 1.0, "loss": 1.0}
    np.testing.assert_array_equal(evaluator.predictions.predicted, [7, 2])
    np.testing.assert_array_equal(evaluator.predictions.probability, np.float32([0.9, 0.4]))


def test_a_run_keeps_the_predictions_of_its_held_out_images(folder):
    told, split = read_predictions(folder / PREDICTIONS), open_dataset("cifar10-sample").splits["test"]
    assert told.split == "test" and len(told.labels) == 500  # the padding of the second batch is gone
    np.testing.assert_array_equal(told.labels, split.labels)
    assert set(told.predicted) == {1} and told.probability[-1] == np.linspace(0, 1, 600, dtype=np.float32)[499]
    assert (folder / PREDICTIONS).stat().st_size < 500 * 12 + 1000


@pytest.mark.parametrize(
    "damage",
    (
        lambda path: path.write_bytes(b"PK"),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: np.savez(path, labels=np.zeros(3, np.int32)),
        lambda path: np.savez(path),
        lambda path: np.savez_compressed(
            path, **{f"test/{n}": np.zeros(10**6, np.int32) for n in ("labels", "predicted")}
        ),
        lambda path: write_predictions(path, dataclasses.replace(random(9, 3), labels=np.zeros(8, np.int32))),
        lambda path: write_predictions(path, dataclasses.replace(random(9, 3), labels=np.zeros(9))),
        lambda path: write_predictions(path, dataclasses.replace(random(9, 3), labels=np.full(9, -1, np.int32))),
        lambda path: write_predictions(path, dataclasses.replace(random(9, 3), probability=np.full(9, np.nan))),
    ),
    ids=("short", "cut", "missing", "empty", "deflated", "lengths", "type", "negative", "nan"),
)
def test_damaged_predictions_are_one_sentence_and_the_run_is_reported(damage, tmp_path):
    path = tmp_path / PREDICTIONS
    write_predictions(path, random(9, 3))
    damage(path)
    with pytest.raises(UserError, match="holds no predictions"):
        read_predictions(path)
    for name, value in {"config.json": {"model": "M"}, "environment.json": {"engine": "bit_jax"}}.items():
        (tmp_path / name).write_text(json.dumps(value))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2}\n')
    (tmp_path / "weights.npz").touch()
    found = record.read_record(tmp_path)
    assert not found.predictions and "unreadable predictions" in report.problems([found])[0]
    assert mistakes.mistakes(found) is None and report.tables([found])


# --- what is told


def test_confusion_pairs_and_classes_count_every_image():
    told = random(1000, 7)
    expected = np.zeros((7, 7), int)
    for label, predicted in zip(told.labels, told.predicted):
        expected[label, predicted] += 1
    np.testing.assert_array_equal(told.confusion(7), expected)
    pairs = told.confused_pairs(100)
    assert len(pairs) == 42 and [images for *_, images in pairs] == sorted((n for *_, n in pairs), reverse=True)
    assert all(expected[label, predicted] == images and label != predicted for label, predicted, images in pairs)
    right, shown = told.per_class(7)
    np.testing.assert_array_equal(right, expected.diagonal())
    np.testing.assert_array_equal(shown, expected.sum(1))
    first = told.mistakes(10)
    assert (told.predicted[first] != told.labels[first]).all() and (np.diff(told.probability[first]) <= 0).all()
    others = np.setdiff1d(np.flatnonzero(told.predicted != told.labels), first)
    assert told.probability[others].max() <= told.probability[first].min()


@pytest.mark.parametrize("num_classes", (2, 10, 20))
def test_few_classes_are_told_in_one_matrix(num_classes):
    names = [f"name {number}" for number in range(num_classes)]
    told = mistakes.mistakes(record_of(random(400, num_classes), class_names=names))
    (matrix,) = told.tables
    assert matrix.title == "Confusion matrix" and [*matrix.columns] == ["", *names, "accuracy"]
    counts = [[int(cell or 0) for cell in row[1:-1]] for row in matrix.rows]
    np.testing.assert_array_equal(counts, random(400, num_classes).confusion(num_classes))
    for number, row in enumerate(matrix.rows):
        share = counts[number][number] / sum(counts[number])
        assert row[-1] == f"{share:.1%}" and matrix.shades[number, number + 1] == pytest.approx(share)


@pytest.mark.parametrize("num_classes", (21, 1000, 21843))
def test_many_classes_are_told_by_their_extremes(num_classes):
    started = time.monotonic()
    told = mistakes.mistakes(record_of(random(50_000, num_classes)))
    assert time.monotonic() - started < 2
    pairs, classes = told.tables
    assert len(pairs.rows) == 15 and len(classes.rows) == 20
    accuracies = [float(row[1].rstrip("%")) for row in classes.rows]
    assert accuracies == sorted(accuracies)
    assert pairs.rows[0][0].startswith("class ") and pairs.rows[0][2] >= pairs.rows[1][2]


def test_classes_without_images_and_runs_without_mistakes_are_told(folder):
    told = read_predictions(folder / PREDICTIONS)
    perfect = dataclasses.replace(
        record.read_record(folder), predictions=dataclasses.replace(told, predicted=told.labels)
    )
    assert mistakes.mistakes(perfect).pictures == [] and "500 of 500" in mistakes.mistakes(perfect).title
    (matrix,) = mistakes.mistakes(
        record_of(Predictions("val", *np.int32([[0], [0]]), np.float32([1])), class_names="ab")
    ).tables
    assert [row[-1] for row in matrix.rows] == ["100.0%"]
    (matrix,) = mistakes.mistakes(record_of(Predictions("val", *np.int32([[0], [2]]), np.float32([1])))).tables
    assert [row[-1] for row in matrix.rows] == ["0.0%", "no image", "no image"]


# --- images


def test_the_surest_mistakes_are_shown_with_their_images(folder):
    found = record.read_record(folder)
    told, split = mistakes.mistakes(found), open_dataset("cifar10-sample").splits["test"]
    wrong = np.flatnonzero(split.labels != 1)[::-1][:12]  # the engine grows ever surer
    assert len(told.pictures) == 12 and not told.note
    for picture, number in zip(told.pictures, wrong):
        kind, data = picture.source.split(",")
        shown = images.decode(base64.b64decode(data)).astype(int)
        assert kind == "data:image/jpeg;base64" and np.abs(shown - split.decode(int(number))).mean() < 4
    name = found.card["class_names"][split.labels[wrong[0]]]
    sure, file = found.predictions.probability[wrong[0]], split.describe(int(wrong[0]))
    assert told.pictures[0].caption == f"{name}, taken for automobile ({sure:.1%}): {file}" and ".jpg" in file
    page, text = report.as_html([found]), report.as_markdown([found], "a.png")
    assert page.count("<img ") == page.count('src="data:image/jpeg') == 12 and page.count("src=") == 12
    assert "50 of 500 test images right" in page and f"- {told.pictures[0].caption}" in text
    assert "### Confusion matrix" in text and "| airplane |  | **50** |" in text


@pytest.mark.parametrize(
    "dataset, words",
    (
        ("nowhere", "No dataset or folder is called 'nowhere'"),
        ("other", "other holds other images"),
        (5, "cannot be opened"),
    ),
)
def test_images_that_are_not_at_hand_are_one_sentence(dataset, words, folder):
    for number in range(6):
        path = Path("other") / ("train", "test")[number % 2] / "ab"[number // 3] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(open_dataset("cifar10-sample").splits["test"].read(number))
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"dataset": dataset}))
    found = record.read_record(folder)
    told = mistakes.mistakes(found)
    assert told.pictures == [] and told.note.startswith("The images are not at hand: ") and words in told.note
    assert report.in_markdown(told.note) in report.as_markdown(
        [found], "a.png"
    ) and "Confusion matrix" in report.as_html([found])


def test_files_are_named_below_their_dataset(folder):
    split = open_dataset("cifar10-sample").splits["test"]
    for number in range(500):
        path = Path("images/test") / str(split.labels[number]) / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(split.read(number))
    shutil.copytree("images/test", "images/train")
    found = record.read_record(folder)
    order = np.argsort(split.labels, kind="stable")  # of the folder
    told = dataclasses.replace(found.predictions, labels=split.labels[order])
    found = dataclasses.replace(found, predictions=told, config=found.config | {"dataset": "images"})
    picture = mistakes.mistakes(found).pictures[0]
    assert picture.caption.endswith(f": test/9/{order[-1]:03d}.jpg")


@pytest.mark.parametrize("field", ("dataset", "datadir", "tfds_data_dir"))
def test_addresses_of_a_run_are_followed_only_when_asked(field, folder, monkeypatch):
    """Its config.json may come from anybody."""
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {field: "gs://nobody/images"}))
    opened, found = [], record.read_record(folder)
    monkeypatch.setattr(
        "common.data.checked.open_dataset", lambda *names: opened.append(names) or open_dataset("cifar10-sample")
    )
    told = mistakes.mistakes(found)
    assert told.note == "The images are not at hand: they lie at gs://nobody/images; give --remote to fetch them."
    assert not opened and not told.pictures and told.note in report.as_html([found])
    assert report.as_html([found], remote=True).count("<img ") == 12 and "gs://nobody/images" in opened[0]


@pytest.mark.parametrize(
    "card", ({"class_names": ["a", "b"]}, {"config": {"num_classes": 2}}, {}, {"class_names": 1, "config": {"num_classes": 10**30}})
)  # fmt: skip
def test_a_class_beyond_the_models_is_one_sentence(card, tmp_path):
    """No list of two billion names is made of it."""
    path = tmp_path / PREDICTIONS
    for labels, predicted in (([2**31 - 1, 0], [0, 0]), ([0, 0], [2**31 - 1, 0])):
        write_predictions(path, Predictions("test", *np.int32([labels, predicted]), np.float32([1, 1])))
        with pytest.raises(UserError, match="holds no predictions .class 2147483647, where the model tells"):
            read_predictions(path, record.num_classes(card))
    write_predictions(path, Predictions("test", *np.int32([[1, 0], [1, 1]]), np.float32([1, 1])))
    assert read_predictions(path, record.num_classes(card)).num_right == 1


def test_large_images_are_shown_small():
    image = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8)
    data = base64.b64decode(mistakes.thumbnail(image).split(",")[1])
    assert images.decode(data).shape == (120, 160, 3) and len(data) < 40_000


def test_many_classes_and_a_strange_folder_name(folder):
    shutil.move(folder, folder.with_name("<b>&"))
    page = report.as_html([record.read_record(folder.with_name("<b>&"))])
    assert "&lt;b&gt;&amp;" in page and "<b>" not in page


# --- pairs of texts and images


def pairs_of(**changes) -> Pairs:
    pairs = (
        Pair("a red <b>bus</b>", 3, 7, 0.75, 0.5, 2),
        Pair("a bus", 2, 7, 0.7, 0.2, 3),
        Pair("two cats", 4, 8, 0.5, 0.25, 1),
    )
    return dataclasses.replace(Pairs("test", 500, 900, 2, pairs), **changes)


def test_pairs_are_read_as_they_were_written(tmp_path):
    write_pairs(tmp_path / PAIRS, pairs_of())
    assert read_pairs(tmp_path / PAIRS) == pairs_of()


@pytest.mark.parametrize(
    "damage",
    (
        {"pairs": 3}, {"pairs": [{}]}, {"split": 3}, {"num_images": -1}, {"num_images": 7}, {"num_texts": True},
        {"pairs": [dataclasses.asdict(pairs_of().pairs[0]) | {"similarity": float("nan")}]},
        {"pairs": [dataclasses.asdict(pairs_of().pairs[0]) | {"text": None}]},
        {"pairs": [dataclasses.asdict(pairs_of().pairs[0])] * 101},
    ),
    ids=lambda damage: str(damage)[:40],
)  # fmt: skip
def test_a_file_that_holds_no_pairs_is_one_sentence(damage, tmp_path):
    (tmp_path / PAIRS).write_text(json.dumps(dataclasses.asdict(pairs_of()) | damage))
    with pytest.raises(UserError, match="holds no pairs of texts and images .*; remove it"):
        read_pairs(tmp_path / PAIRS)


def test_the_report_shows_each_image_that_texts_found_once(folder):
    write_pairs(folder / PAIRS, pairs_of())
    found = record.read_record(folder)
    (told,) = [one for one in mistakes.all_mistakes([found]) if "texts" in one.title]
    assert told.title == "run (JAX): 898 of 900 test texts find their image" and not told.note
    split = open_dataset("cifar10-sample").splits["test"]
    assert [picture.source for picture in told.pictures] == [mistakes.thumbnail(split.decode(i)) for i in (7, 8)]
    assert told.pictures[0].caption == (
        f"“a red <b>bus</b>” found this (0.750), 2 images before its own (0.500): {split.describe(7)}"
    )
    page = report.as_html([found])
    assert "898 of 900 test texts" in page and "a red &lt;b&gt;bus" in page and "<b>bus" not in page
    markdown = report.as_markdown([found], "curves.png")
    assert "“two cats” found this (0.500), 1 image before its own (0.250)" in markdown


def test_pairs_of_other_images_and_damaged_ones_are_told(folder):
    write_pairs(folder / PAIRS, pairs_of(num_images=499))
    (told,) = [one for one in mistakes.all_mistakes([record.read_record(folder)]) if "texts" in one.title]
    assert not told.pictures and "holds other images than those" in told.note
    (folder / PAIRS).write_text("{")
    found = record.read_record(folder)
    assert found.pairs is None and found.predictions and "has unreadable pairs" in found.notes[0]
