"""Predictions of every pixel are judged as the originals do; their pictures are what they say."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from test_report import make_run

from common import report
from common.data.label_maps import Category
from common.data.split import evenly
from common.evaluation import shown
from common.evaluation.dense import MOST_BYTES, Depths, MapEvaluator, in_parts
from common.evaluation.panoptic import PanopticQuality
from common.reports import record
from common.system.errors import UserError

GOLDEN = json.loads((ROOT / "tests/golden/panoptic.json").read_text())
THINGS = [True, True, False, False, True]


def segmented(seed: int, size: tuple[int, int] = (24, 32)) -> tuple[np.ndarray, np.ndarray]:
    """(prediction [H, W, 2], truth [H, W, 3]): rectangles of random categories, moved a little and some of them renamed."""
    rng = np.random.default_rng(seed)
    truth, guess = np.zeros((*size, 3), np.int32), np.zeros((*size, 2), np.int32)
    for instance in range(1, 10):
        top, left, height, width = rng.integers((0, 0, 4, 4), (18, 26, 14, 16))
        category, crowd = rng.integers(1, 6), rng.integers(8) == 0
        truth[top : top + height, left : left + width] = category, instance, crowd
        moved, renamed = rng.integers(-1, 2, 2), rng.integers(5) == 0
        rows, columns = np.maximum(0, (top, left) + moved)
        guess[rows : rows + height, columns : columns + width] = category % 5 + 1 if renamed else category, instance % 7
    return guess, truth


class Truth(list):
    """Truths of three images."""

    target, categories = "panoptic", tuple(Category(i, f"c{i}", thing) for i, thing in enumerate(THINGS, 1))

    def image(self, i: int) -> np.ndarray:
        return np.full((8, 8, 3), 10 * i, np.uint8)


@pytest.mark.parametrize("name", GOLDEN["cases"])
def test_panoptic_quality_is_panopticapis(name):
    """Values that cocodataset/panopticapi printed of the same maps, of which some are crowds and some are not known."""
    case, quality = GOLDEN["cases"][name], PanopticQuality(THINGS)
    for seed in case["seeds"]:
        quality.add(*segmented(seed))
    found = quality.result()
    assert len(case["seeds"]) == 1 or all(map(sum, (quality.false, quality.missed, quality.found)))
    expected = {"pq": case["All"]["pq"], "sq": case["All"]["sq"], "rq": case["All"]["rq"]}
    expected |= {"pq_things": case["Things"]["pq"], "pq_stuff": case["Stuff"]["pq"]}
    assert found == pytest.approx(expected, rel=1e-12)


def test_panoptic_quality_by_hand():
    """One match of IoU 3/4, one segment missed, one found where there is none, one in the dark, which does not count."""
    truth, guess = np.zeros((4, 4, 3), int), np.zeros((4, 4, 2), int)
    truth[0] = 1, 1, 0
    guess[0, :3] = 1, 7
    truth[1] = 2, 2, 0
    guess[2, :2] = 1, 8
    truth[2] = 3, 3, 0
    guess[3] = 4, 1  # where nothing is known
    quality = PanopticQuality([True, True, False, False])
    quality.add(guess, truth)
    found = quality.result()
    assert quality.found.tolist() == [0, 1, 0, 0, 0] and quality.false.tolist() == [0, 1, 0, 0, 0]
    assert quality.missed.tolist() == [0, 0, 1, 1, 0]
    assert found["pq"] == pytest.approx((0.75 / 1.5 + 0 + 0) / 3) and found["pq_things"] == pytest.approx(0.25)
    assert found["pq_stuff"] == 0


def test_a_category_that_the_images_do_not_have_is_nothing():
    """A model of COCO's categories may predict any of them of a set that has a few."""
    (guess, truth), one = segmented(0), PanopticQuality(THINGS)
    kept = np.where(guess[..., :1] == 5, 0, guess)
    one.add(kept, truth)
    other = PanopticQuality(THINGS)
    other.add(np.where(guess[..., :1] == 5, (90, 1), guess), truth)
    assert other.result() == one.result() and (guess[..., 0] == 5).any()


def test_depths_are_judged_where_they_were_measured():
    truth = np.array([[1.0, 2.0, 0.0, 12.0]], np.float32)[..., None]  # the last two do not count
    judge = Depths(None)
    judge.add(np.array([[1.1, 4.0, 9.0, 9.0]], np.float32)[..., None], truth)
    judge.add(np.array([[2.0]], np.float32)[..., None], np.full((3, 5, 1), 2.0, np.float32))  # resized; perfect
    judge.add(np.ones((1, 1, 1), np.float32), np.zeros((2, 2, 1), np.float32))  # nothing was measured
    expected = {
        "rmse": np.sqrt((0.1**2 + 2.0**2) / 2) / 2,
        "abs_rel": (0.1 + 1.0) / 4,
        "log10": (np.log10(1.1) + np.log10(2)) / 4,
        "delta1": (0.5 + 1) / 2,
        "delta2": (0.5 + 1) / 2,
        "delta3": (0.5 + 1) / 2,
    }
    assert judge.result() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(UserError, match="No pixel of the images to evaluate has a depth"):
        Depths(None).result()


def evaluated(target: str, truths: list, predictions: list[np.ndarray]) -> MapEvaluator:
    known = Truth(truths)
    known.target = target
    judge = MapEvaluator("val", (), known, shows=shown.MOST_SHOWN)
    for start in (0, 2):
        rows = np.stack([*predictions[start : start + 2], *[predictions[0]] * (start + 2 - len(predictions))])
        judge.add("maps", {"map": rows, "mask": np.arange(2) < len(predictions) - start})
    return judge


def test_psnr(tmp_path):
    """Errors of 0.1 and 0.2 in [-1, 1] have 26.0 and 20.0 dB; padding does not count."""
    truth = np.full((4, 4, 3), 255, np.uint8)
    predictions = [np.full((4, 4, 3), 1 - error, np.float32) for error in (0.1, 0.2, 0.0)]
    found = evaluated("colorization", [truth] * 3, predictions)
    first, second = (-10 * np.log10(error**2 / 4) for error in (0.1, 0.2))
    largest = 20 * np.log10(2) + 120  # of no error at all
    assert found.result() == pytest.approx({"psnr": (first + second + largest) / 3, "mse": 0.05 / 3}, rel=1e-6)
    found.write(tmp_path)
    strip = np.asarray(Image.open(tmp_path / shown.FILE))
    assert strip.shape == (3 * 96, 3 * 96 + 2, 3)
    assert (
        strip[96 + 5, 5].tolist() == [10] * 3
        and strip[5, 100].tolist() == [255] * 3
        and strip[5, 200].tolist() == [242] * 3
    )


def test_pictures_are_of_all_classes():
    """Of images in the order of their classes, some of each are shown, and all are judged."""
    truths = [np.full((4, 4, 3), number, np.uint8) for number in range(20)]
    known = Truth(truths)
    known.target = "colorization"
    judge = MapEvaluator("val", (), known, shows=3)
    judge.add("maps", {"map": np.zeros((20, 4, 4, 3), np.float32), "mask": np.ones(20, bool)})
    assert [one.number for one in judge.shown] == [0, 9, 19]
    assert [one.truth[0, 0, 0] for one in judge.shown] == [0, 9, 19]
    assert judge.count == 20
    assert evenly(3, 8).tolist() == [0, 1, 2] and evenly(0, 8).tolist() == evenly(8, 0).tolist() == []


def test_what_is_no_picture_of_maps_is_refused(tmp_path):
    path = tmp_path / shown.FILE
    path.write_bytes(b"no picture")
    with pytest.raises(UserError, match="holds no pictures of maps .cannot be decoded"):
        shown.read_shown(path)
    Image.new("L", (9, 5000)).save(path)
    with pytest.raises(UserError, match=r"of 5000 x 9 pixels, expected at most"):
        shown.read_shown(path)


def test_segmentations_are_resized_to_their_truth(tmp_path):
    truth = segmented(0)[1]
    judge = evaluated("panoptic", [np.repeat(np.repeat(truth, 2, 0), 3, 1)] * 3, [truth[..., :2]] * 3)
    assert judge.result()["pq"] == 1.0
    judge.write(tmp_path)
    assert Path(tmp_path / shown.FILE).stat().st_size > 500


def test_pictures():
    depths = shown.picture("depth", np.array([[0.0, 5.0, 10.0, 99.0]])[..., None])
    assert depths[0].tolist() == [[0, 0, 4], [188, 55, 84], [252, 255, 164], [252, 255, 164]]
    pairs = np.array([[[0, 0], [1, 1], [1, 2], [2, 1], [2, 1]]])
    colours = [tuple(pixel) for pixel in shown.picture("panoptic", pairs)[0].tolist()]
    assert colours[0] == (0, 0, 0) and len(set(colours)) == 4 and colours[3] == colours[4]


def test_predictions_come_in_parts_that_fit_into_memory():
    class Batches:
        batch_bytes = MOST_BYTES // 16

        def __len__(self):
            return 10

        def parts(self, count):
            return count

    assert in_parts(Batches()) == 4 and in_parts(()) == [()]
    Batches.batch_bytes = 100
    assert isinstance(in_parts(batches := Batches()), list) and in_parts(batches) == [batches]


def test_a_report_shows_maps(tmp_path):
    """The pictures that a run has left, as they are."""
    run = tmp_path / "run"
    make_run(run)
    judge = evaluated("panoptic", [segmented(0)[1]] * 3, [segmented(0)[0]] * 3)
    judge.write(run)
    found = record.read_record(run)
    np.testing.assert_array_equal(found.maps, shown.read_shown(run / shown.FILE))
    page = report.as_html([found])
    assert "<h3>Maps</h3>" in page and "<figure class=whole>" in page and "what the model sees, what is known" in page
    (run / shown.FILE).write_bytes(b"")
    assert "has unreadable maps" in report.problems([record.read_record(run)])[0]
