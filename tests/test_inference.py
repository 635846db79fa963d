"""What `evaluate` and `predict` make of a card: the images as the run that wrote it evaluated them."""

import json
import resource
import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config import EvaluateConfig, PredictConfig
from common.data import images
from common.data.sources.image_files import Files
from common.data.split import MultiLabels
from common.evaluation.features import PIECE_BYTES, unpadded, write_arrays, write_outputs
from common.models import DEFAULT_MODEL
from common.runs.command import parse
from common.runs.inference import Evaluation
from common.runs.prediction import Prediction
from common.system.errors import UserError

WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / f"{DEFAULT_MODEL}.npz"
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 80, 3), np.uint8)
CARD = {"resolution": 32, "resize_kind": "area", "eval_resize": 40}


@pytest.fixture
def weights(tmp_path) -> Path:
    """A copy of the embedded weights, and beside them a photograph and a folder dataset of it."""
    shutil.copy(WEIGHTS, tmp_path / "weights.npz")
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    for split in ("train", "test"):
        for number in range(200):  # as many classes as the weights know
            (tmp_path / "data" / split / f"{number:03d}").mkdir(parents=True)
            shutil.copy(tmp_path / "photo.png", tmp_path / "data" / split / f"{number:03d}")
    return tmp_path / "weights.npz"


def views(weights: Path, card: dict, **flags) -> list[np.ndarray]:
    """What `predict` and `evaluate` show the model of the photograph."""
    (weights.parent / "card.json").write_text(json.dumps(card))
    flags |= {"weights": str(weights), "workers": 1}
    prediction = Prediction(PredictConfig(images=(str(weights.parent / "photo.png"),), **flags))
    evaluation = Evaluation(EvaluateConfig(dataset=str(weights.parent / "data"), **flags))
    return [next(iter(batches))["images"][0] for batches in (prediction.batches(), evaluation.batches("test"))]


@pytest.mark.parametrize(
    ("card", "flags", "expected"),
    [
        (CARD, {}, PHOTO[4:36, 24:56]),  # 40 x 80 stays, and of its middle 32 x 32
        (CARD, {"resolution": 16}, images.resize(PHOTO, 20, 40, "area")[2:18, 12:28]),  # 40 x 16 / 32 = 20
        ({**CARD, "eval_resize": 0}, {}, images.resize(PHOTO, 32, 32, "area")),
        ({"resolution": 32, "resize_kind": "area"}, {}, images.resize(PHOTO, 32, 32, "area")),  # an older card
        ({**CARD, "resize_kind": "bilinear", "eval_resize": 36}, {}, images.resize(PHOTO, 36, 72)[2:34, 20:52]),
    ],
)
def test_images_are_prepared_as_the_card_says(weights, card, flags, expected):
    for view in views(weights, card, **flags):
        np.testing.assert_array_equal(view, expected)


@pytest.mark.parametrize(("name", "value"), [("resize_kind", "lanczos"), ("loss", "hinge"), ("loss", None)])
def test_a_card_with_an_unknown_choice_is_refused(weights, name, value):
    with pytest.raises(UserError, match=f"card.json names no {name} of (bilinear|softmax), "):
        views(weights, CARD | {name: value})


@pytest.mark.parametrize("value", (31, -1, 40.5, "40", None, True))
def test_a_card_with_an_impossible_size_is_refused(weights, value):
    with pytest.raises(
        UserError, match=f"card.json has {value!r} as eval_resize, expected 0 or at least its resolution"
    ):
        views(weights, {**CARD, "eval_resize": value})


def test_the_folder_of_a_run_is_its_weights_with_their_card(weights, tmp_path):
    """And the model that the card states, where no --model is given."""
    folder = weights.parent
    (folder / "recipe.json").write_text("{}")
    (folder / "card.json").write_text(json.dumps(CARD | {"model": DEFAULT_MODEL, "class_names": ["a"] * 200}))
    job = Prediction(parse(PredictConfig, ["--weights", str(folder), str(folder / "photo.png")], "predict", ""))
    assert job.resolution == 32 and list(job.class_names) == ["a"] * 200
    (folder / "card.json").write_text(json.dumps({"model": "ViT-mu/16"}))
    for flags, model in (((), "ViT-mu/16"), (("--model", DEFAULT_MODEL), DEFAULT_MODEL)):
        assert parse(PredictConfig, ["--weights", str(folder), "a.png", *flags], "predict", "").model == model
    weights.unlink()
    with pytest.raises(UserError, match="The run .* has not ended and has no weights.npz yet; continue it"):
        Prediction(PredictConfig(weights=str(folder), images=(str(folder / "photo.png"),)))


def batches_of(count: int, width: int = 3) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Features and logits of so many batches of four."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield rng.standard_normal((4, width)).astype("f4"), rng.standard_normal((4, 2)).astype("f4")


def test_outputs_of_any_length_are_what_numpy_would_write(tmp_path):
    labels, files = np.arange(20).reshape(10, 2), ["a", "b/\N{SNOWMAN}", *"cdefghij"]
    path = tmp_path / "out" / "a.npz"
    write_outputs(path, unpadded(batches_of(3), 10), 10, labels=labels, files=files)
    with np.load(path, allow_pickle=False) as file:
        assert file.files == ["features", "logits", "labels", "files"] and file["files"].tolist() == files
        np.testing.assert_array_equal(file["labels"], labels)
        for column, name in enumerate(("features", "logits")):
            np.testing.assert_array_equal(file[name], np.concatenate([row[column] for row in batches_of(3)])[:10])
    assert [each.name for each in path.parent.iterdir()] == ["a.npz"]


def test_outputs_are_on_disk_batch_by_batch(tmp_path):
    """Memory holds one batch, and the disk has really taken what was given: no page of it can be refused later."""
    seen = []

    def outputs():
        for batch in batches_of(16, width=100_000):
            seen.extend(file.stat().st_blocks * 512 for file in tmp_path.iterdir())
            yield batch

    tracemalloc.start()
    write_outputs(tmp_path / "a.npz", outputs(), 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    whole = 64 * 100_000 * 4
    assert seen[-1] > whole * 0.8 and peak < whole / 2


def test_memory_holds_the_names_of_files_and_no_more(tmp_path):
    """Of 40,000 files, some bytes more than their names take, while the archive has four bytes for each letter."""
    peaks, count, path, files = [], 40_000, tmp_path / "a.npz", None
    names = lambda: (f"photos/2026/folder_{number // 1000:04}/image_{number:08}.jpg" for number in range(count))
    tracemalloc.start()
    for work in (lambda: Files.of(names()), lambda: write_arrays(path, {"files": files})):
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        files = work() or files
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    assert peaks[0] < count * (len(files.path(0)) + 8) * 1.3 and peaks[1] < 3 * PIECE_BYTES
    with np.load(path, allow_pickle=False) as file:
        assert file["files"].tolist() == [*names()] and peaks[1] < file["files"].nbytes / 2


def test_labels_of_several_classes_are_written_row_by_row(tmp_path):
    first = np.concatenate([[0], np.cumsum(np.arange(1000) % 3)])
    labels = MultiLabels(np.arange(first[-1], dtype=np.int32) % 5000, first, 5000)
    tracemalloc.start()
    write_arrays(tmp_path / "a.npz", {"labels": labels})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert peak < file["labels"].nbytes / 2
        np.testing.assert_array_equal(file["labels"], labels.multi_hot())
        assert file["labels"].dtype == np.float32


@pytest.mark.parametrize("limit", (0, 1000, 70_000))
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, limit):
    (tmp_path / "a.npz").write_bytes(b"older")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(UserError, match="Cannot write .*a.npz .File too large"):
            write_outputs(tmp_path / "a.npz", batches_of(3, width=3000), 12)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"] and (tmp_path / "a.npz").read_bytes() == b"older"


def test_outputs_that_cannot_be_written_are_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        write_outputs(tmp_path / "file" / "a.npz", iter([]), 0)
