"""VTAB-1k: its table, its labels on single examples, its splits, and the command from first to last."""

import collections
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from engines import INSTALLED
from test_sources import example, png, write_tfds

from common import vtab, weights
from common.config import VtabConfig
from common.data.sources.vtab import TASKS, find_task, nearest_object, nearest_vehicle, number_of_objects
from common.datasets import open_dataset
from common.models import PACKAGED_WEIGHTS, find_model
from common.runs.checkpoint import CURRENT
from common.runs.command import parse
from common.system.errors import UserError

# --- the table


def test_there_are_nineteen_tasks_in_three_groups():
    assert len(TASKS) == 19
    groups = collections.Counter(task.group for task in TASKS.values())
    assert groups == {"natural": 7, "specialized": 4, "structured": 8}
    assert all(task.val != task.test for task in TASKS.values())


@pytest.mark.parametrize("name", TASKS)
def test_the_published_models_have_as_many_classes(name):
    assert find_model(f"vtab/BiT-M-R50x1-run0-{name}").num_classes == TASKS[name].features.num_classes


def test_the_facts_of_the_source():
    """What google-research/task_adaptation states, here of the tasks that are unlike others."""
    where = {name: (task.tfds, task.val, task.test) for name, task in TASKS.items()}
    assert where["clevr-count"] == where["clevr-distance"] == ("clevr", ("train", 90), ("validation", 0))
    assert where["dsprites-xpos"] == ("dsprites", ("train", 80), ("train", 90))
    assert where["smallnorb-azimuth"] == ("smallnorb", ("test", 0), ("test", 50))
    assert where["resisc45"] == ("resisc45", ("train", 60), ("train", 80))
    assert where["sun397"] == ("sun397/tfds", ("validation", 0), ("test", 0))
    assert TASKS["smallnorb-elevation"].features.keys == ("label_elevation",)
    assert [name for name, task in TASKS.items() if not task.may_flip] == [
        "dsprites-orientation", "dsprites-xpos", "smallnorb-azimuth"
    ]  # fmt: skip


def test_labels_by_hand():
    assert [TASKS["dsprites-xpos"].features.label([x]) for x in (0, 1, 2, 31)] == [0, 0, 1, 15]
    # 40 angles in 16 classes, 2.5 each
    assert [TASKS["dsprites-orientation"].features.label([a]) for a in (0, 2, 3, 4, 5, 39)] == [0, 0, 1, 1, 2, 15]
    assert [number_of_objects([0] * n) for n in (3, 10)] == [0, 7]
    at = lambda *distances: [number for distance in distances for number in (1.0, -2.0, distance)]
    assert [nearest_object(at(20.0, d)) for d in (7.9, 8.0, 8.25, 8.75, 9.25, 9.75, 10.5)] == [0, 0, 1, 2, 3, 4, 5]
    vehicles = (([0, 2], at(30.0, 8.5)), ([1], at(7.0)), ([2], at(21.0)), ([3, 7], at(1.0, 2.0)), ([], []))
    assert [nearest_vehicle(*each) for each in vehicles] == [1, 0, 2, 3, 3]


def test_a_task_that_does_not_exist():
    with pytest.raises(UserError, match="no task 'clevr_count'; did you mean clevr-count"):
        find_task("clevr_count")


# --- from the files


def write_dsprites(root: Path) -> None:
    """2,000 images of 8 x 8 in two shards; a white column tells the position, and so do the labels."""
    rng = np.random.default_rng(0)
    positions = rng.integers(0, 32, 2000)
    records = []
    for number, x in enumerate(positions):
        image = np.zeros((8, 8), np.uint8)
        image[:, x // 4] = 1
        image[0, 0] = number % 2
        records.append(example(image=png(image), label_x_position=int(x), label_orientation=int(number % 40)))
    write_tfds(root / "dsprites/2.0.0", {"train": [records[:1300], records[1300:]]}, ["unused"])


def write_kitti(root: Path) -> None:
    """The near ones are bright."""
    splits = {}
    for split, count in (("train", 820), ("validation", 210), ("test", 30)):
        records = []
        for number in range(count):
            z = (4.0, 14.0, 50.0)[number % 3]
            features = {"objects/type": [5, number % 3], "objects/location": np.array([0, 0, 1, 0, 0, z])}
            records.append(example(image=png(np.full((6, 9, 3), 200 - 3 * int(z), np.uint8)), **features))
        splits[split] = [records]
    write_tfds(root / "kitti/3.2.0", splits, ["unused"])


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("vtab") / "tfds"
    write_dsprites(root)
    write_kitti(root)
    return root


def test_a_thousand_training_images_and_the_test_images(data):
    dataset = open_dataset("vtab:dsprites-xpos", tfds_data_dir=data)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 1000, "test": 200}
    assert dataset.num_classes == 16 and dataset.image_size == (8, 8)
    assert dataset.recipe == {"resize_mode": "whole", "flip": 0.0}
    positions = np.random.default_rng(0).integers(0, 32, 2000)
    for split, numbers in (("train", [*range(800), *range(1600, 1800)]), ("test", range(1800, 2000))):
        np.testing.assert_array_equal(dataset.splits[split].labels, positions[numbers] // 2)
        for i in (0, 1, 150):
            image = dataset.splits[split].decode(i)
            assert set(np.unique(image)) <= {0, 255} and image.shape == (8, 8, 3)  # TFDS keeps 0 and 1
            assert image[1, positions[numbers[i]] // 4, 0] == 255 and image[0, 0, 0] >= 255 * (numbers[i] % 2)
    tuning = open_dataset("vtab:dsprites-xpos/train800", tfds_data_dir=data)
    assert {name: len(split) for name, split in tuning.splits.items()} == {"train": 800, "val": 200}
    labels = [tuning.splits[name].labels for name in ("train", "val")]
    np.testing.assert_array_equal(np.concatenate(labels), dataset.splits["train"].labels)


def test_labels_of_several_features(data):
    dataset = open_dataset("vtab:kitti-distance", tfds_data_dir=data)
    kinds = [number % 3 for number in (*range(800), *range(200))]  # car, van, truck at 4, 14 and 50 metres
    assert dataset.splits["train"].labels.tolist() == kinds and len(dataset.splits["test"]) == 30
    assert dataset.recipe == {"resize_mode": "whole"}


def test_another_version_is_told(data, tmp_path, capsys):
    folder = tmp_path / "kitti" / "4.0.0"
    folder.parent.mkdir()
    folder.symlink_to(data / "kitti/3.2.0")
    open_dataset("vtab:kitti-distance", tfds_data_dir=tmp_path)
    assert "4.0.0 is not of the version 3.*.* of VTAB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kitti-distance/train900", "no variant 'train900'"),
        ("dsprites", "no task 'dsprites'"),
        ("svhn", "No prepared TFDS dataset lies in .*svhn_cropped.*tfds build svhn_cropped"),
    ],
)
def test_mistakes(data, name, words):
    with pytest.raises(UserError, match=words):
        open_dataset(f"vtab:{name}", tfds_data_dir=data)


def test_sets_that_are_not_what_they_should_be(tmp_path):
    root = tmp_path / "tfds"
    record = example(**{"objects/type": [0], "objects/location": np.ones(3), "image": b""})
    write_tfds(root / "kitti/3.0.0", {"train": [[record] * 800], "test": [[record]]}, ["unused"])
    with pytest.raises(UserError, match="has the splits train, test, expected validation, too"):
        open_dataset("vtab:kitti-distance", tfds_data_dir=root)
    write_tfds(root / "kitti/3.1.0", {"train": [[record] * 799], "validation": [[record] * 200]}, ["unused"])
    with pytest.raises(UserError, match="holds 799 examples, expected at least 800"):
        open_dataset("vtab:kitti-distance", tfds_data_dir=root)
    few = example(**{"objects/size": [0, 1], "image": b""})
    write_tfds(root / "clevr/3.1.0", {"train": [[few] * 2000], "validation": [[few]]}, ["unused"])
    with pytest.raises(UserError, match="Record 0 of train .* holds the label -1, expected less than 8"):
        open_dataset("vtab:clevr-count", tfds_data_dir=root)
    with pytest.raises(UserError, match="lacks the feature 'objects/pixel_coords'"):
        open_dataset("vtab:clevr-distance", tfds_data_dir=root)


# --- the command

FLAGS = ("--batch", "8", "--crop", "32", "--steps", "6", "--warmup_steps", "1", "--base_lr", "0.01", "--mixup", "0",
         "--batch_eval", "50", "--log_every", "1", "--checkpoint_every", "5", "--workers", "1", "--name", "suite", "--train_only", "head",
         "--tasks", "caltech101,dsprites-xpos,kitti-distance")  # fmt: skip


def start(data: Path, folder: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "common.vtab", "--tfds_data_dir", str(data), *FLAGS, *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, start_new_session=True, **pipes)


def stop_in(process: subprocess.Popen, run: Path, number: int) -> str:
    """Stop the command by `number` once a run has a checkpoint; returns its output."""
    until = time.monotonic() + 300
    while not (run / CURRENT).exists():
        assert process.poll() is None and time.monotonic() < until, process.communicate()[0]
        time.sleep(0.02)
    if number == signal.SIGKILL:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)  # which the command passes on
    return process.communicate(timeout=120)[0]


@pytest.mark.skipif("bit_pytorch" not in INSTALLED, reason="torch is not installed")
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_the_command_from_first_to_last(data, tmp_path, number):
    """Stopped in the second of the two tasks that have data: it goes on there, and the first is not run again."""
    runs, longer = tmp_path / "runs" / "suite", ("--steps", "25")
    output = stop_in(start(data, tmp_path, *longer), runs / "kitti-distance", number)
    first = (runs / "dsprites-xpos" / "weights.npz").stat()
    assert not (runs / "kitti-distance" / "weights.npz").exists()
    if number == signal.SIGTERM:
        assert "Stopped after step" in output and "kitti-distance         waiting" in output, output
    with start(data, tmp_path, *longer) as process:
        output = process.communicate(timeout=300)[0]
    assert process.returncode == 0 and "Continuing after step" in output, output
    assert (runs / "dsprites-xpos" / "weights.npz").stat().st_mtime_ns == first.st_mtime_ns
    recipe = json.loads((runs / "dsprites-xpos" / "recipe.json").read_text())
    assert (recipe["flip"], recipe["resize"], recipe["crop"], len(recipe["lrs"])) == (0.0, 32, 32, 25)
    check_summary(output, runs)
    check_frozen(output, runs / "kitti-distance" / "weights.npz")
    again = vtab.Suite(config(data, tmp_path, *longer))
    assert {outcome.status for outcome in again.outcomes.values()} == {"done", "missing"}
    with pytest.raises(UserError, match="was made with --steps 25, not 26; choose another --name"):
        vtab.Suite(config(data, tmp_path, "--steps", "26"))


def check_summary(output: str, runs: Path) -> None:
    """Two tasks with the numbers of their cards, their mean, and one that lacks data."""
    summary = json.loads((runs / "vtab.json").read_text())
    done = {name: task["top1"] for name, task in summary["tasks"].items() if task["status"] == "done"}
    cards = {name: json.loads((runs / name / "card.json").read_text()) for name in done}
    assert done == {name: card["accuracy"]["test"] for name, card in cards.items()}
    assert set(done) == {"dsprites-xpos", "kitti-distance"} and summary["tasks"]["caltech101"]["status"] == "missing"
    mean = sum(done.values()) / 2
    assert summary["means"]["structured"] == {"top1": pytest.approx(mean), "tasks": 2, "of": 8}
    assert summary["means"]["all"] == {"top1": pytest.approx(mean), "tasks": 2, "of": 19}
    assert summary["means"]["natural"] == {"top1": None, "tasks": 0, "of": 7}
    for name, top1 in done.items():
        assert f"structured   {name:22} {top1:7.2%}" in output
    assert f"all          mean                   {mean:7.2%} of 2 of 19 tasks, not the benchmark's number yet" in output
    assert "caltech101             missing" in output and "tfds build caltech101 --file_format=array_record" in output


def check_frozen(output: str, file: Path) -> None:
    """All but the head are the embedded model's, bit for bit."""
    assert ", 2 of 81 parameter arrays trained" in output
    model = find_model("BiT-T-R26x0.5")
    before = weights.read_weights(PACKAGED_WEIGHTS / model.file, model.config())
    after = weights.read_weights(file, model.config(4))
    changed = {name for name in after if after[name].tobytes() != before[name].tobytes()}
    assert changed == {"head/kernel", "head/bias"}


def config(data: Path, folder: Path, *flags: str) -> VtabConfig:
    own = ("--tfds_data_dir", str(data), "--logdir", str(folder / "runs"))
    return parse(VtabConfig, (*own, *FLAGS, *flags), "python -m common.vtab", "")


def test_a_task_that_fails_does_not_stop_the_others(data, tmp_path, monkeypatch, capsys):
    suite = vtab.Suite(config(data, tmp_path, "--tasks", "dsprites-xpos,kitti-distance,svhn"))

    def train(name: str, _) -> int:
        run = tmp_path / "runs" / "suite" / name
        if name == "dsprites-xpos":
            return 2
        run.mkdir(parents=True)
        (run / "config.json").write_text("{}")
        (run / "card.json").write_text('{"accuracy": {"test": 0.25}}')
        (run / "weights.npz").touch()
        return 0

    monkeypatch.setattr(suite, "train", train)
    monkeypatch.setattr(vtab, "changes", lambda *_: [])
    with pytest.raises(UserError, match="Training failed on dsprites-xpos; mend what it says above"):
        suite.run()
    output = capsys.readouterr().out
    assert "dsprites-xpos          failed" in output and "kitti-distance          25.00%" in output
    assert "svhn                   missing" in output


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--tasks", "svhn,cifar10"), "no task 'cifar10'; did you mean cifar100"),
        (("--dataset", "cifar10"), "leave both flags out"),
        (("--recipe", "vit_finetune"), "leave both flags out"),
        (("--logdir", "gs://bucket/runs"), "--logdir gs://bucket/runs is not on this machine"),
        (("--model", "BiT-M-R50x2"), "No model is called"),
    ],
)
def test_flags_that_make_no_sense(data, tmp_path, flags, words):
    with pytest.raises(UserError, match=words):
        vtab.Suite(config(data, tmp_path, *flags))


def test_no_data_at_all(tmp_path, capsys):
    with pytest.raises(UserError, match="The data of none of these tasks are prepared"):
        vtab.Suite(config(tmp_path / "nowhere", tmp_path, "--tasks", ",".join(TASKS))).run()
    assert capsys.readouterr().out.count(" missing\n") == 19
