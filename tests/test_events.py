"""`--tensorboard`: what TensorBoard's own reader finds of a run, interrupted or not."""

import io
import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from numpy_engine import load_main
from PIL import Image

from common import config, models
from common.data.batches import TrainBatches, prefetch
from common.models import ResNetConfig, find_model
from common.reports import curves
from common.runs import events, log, run
from common.runs.command import parse
from common.system.errors import UserError

pytest.importorskip("tensorboard")
RUN = ("--weights", "none", "--batch", "4", "--resize", "36", "--crop", "32", "--steps", "6", "--warmup_steps", "1",
       "--val_fraction", "0.01", "--eval_every", "2", "--log_every", "1", "--checkpoint_every", "3", "--mixup", "0.1",
       "--workers", "1", "--name", "run")  # fmt: skip


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train with the numpy engine in an empty folder; returns the run's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(type(find_model(models.DEFAULT_MODEL)), "config", lambda *_: ResNetConfig((1,), 0.5, 10))
    monkeypatch.setattr(curves, "write_png", lambda records, path: path.write_bytes(b"curves"))

    def run_command(*flags: str) -> Path:
        load_main()(run.Run(parse(config.TrainConfig, (*RUN, *flags), "train", ""), "numpy"))
        return tmp_path / "runs" / "run"

    return run_command


def interrupt(train, monkeypatch, *flags: str, at: int) -> None:
    """A run that ends without a word once it has logged step `at`, and half a record."""
    write = log.Metrics.write

    def write_and_die(self, step, values):
        write(self, step, values)
        if step == at and self.events:
            with open(self.events.path, "ab") as file:
                file.write(b"\x20\x00\x00")
        if step == at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(log.Metrics, "write", write_and_die)
        with pytest.raises(KeyboardInterrupt):
            train(*flags)


def read(folder: Path):
    """What TensorBoard makes of a folder, without TensorFlow, which it would import where it is installed."""
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


def scalars(found) -> dict[str, list[tuple[int, float]]]:
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def metrics(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The same of metrics.jsonl, in the precision of an event."""
    expected = {}
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        for name in line.keys() - {"step"}:
            expected.setdefault(name, []).append((line["step"], float(np.float32(line[name]))))
    return expected


def test_scalars_are_those_of_the_metrics(train):
    folder = train("--tensorboard")
    found = scalars(read(folder))
    assert found == metrics(folder)
    assert {"train/loss", "train/lr", "images_per_second", "val/top1", "test/top1", "test/loss"} <= found.keys()
    assert [step for step, _ in found["train/loss"]] == [1, 2, 3, 4, 5, 6]


def test_the_first_images_are_shown_as_the_model_sees_them(train):
    folder = train("--tensorboard")
    (event,) = read(folder).Images(events.IMAGES)
    shown = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    assert event.step == 1 and shown.shape == (32, 4 * 32, 3)
    again = run.Run(parse(config.TrainConfig, (*RUN, "--name", "again"), "train", ""), "numpy")
    (batch,) = prefetch(TrainBatches(again.plan.splits["train"], again.recipe, 0), range(1), 1)
    for row in range(4):
        own, partner = (batch["images"][i].astype(float) for i in (row, row ^ 1))
        blend = batch["mixup_weight"] * own + (1 - batch["mixup_weight"]) * partner
        assert np.abs(shown[:, 32 * row : 32 * (row + 1)] - blend).max() <= 0.5


def test_a_run_that_goes_on_writes_no_step_twice(train, monkeypatch):
    interrupt(train, monkeypatch, "--tensorboard", at=5)  # after the checkpoint of step 3
    before = read(Path("runs/run"))
    assert [step for step, _ in scalars(before)["train/loss"]] == [1, 2, 3, 4, 5]
    folder = train("--tensorboard")
    assert [path.name for path in folder.glob("*tfevents*")] == [events.FILE]
    written = [
        (event.step, value.tag) for event in events.read_events(folder / events.FILE) for value in event.summary.value
    ]
    assert len(written) == len(set(written)) > 20  # in the file itself, not only in what the reader makes of it
    after = read(folder)
    assert scalars(after) == metrics(folder) and len(after.Images(events.IMAGES)) == 1
    times = [[event.wall_time for event in found.Scalars("train/loss")] for found in (before, after)]
    assert times[0][:3] == times[1][:3] and times[0][3] < times[1][3] and times[1] == sorted(times[1])


def test_a_run_may_begin_to_write_events_when_it_goes_on(train, monkeypatch):
    interrupt(train, monkeypatch, at=5)
    assert not list(Path("runs/run").glob("*tfevents*"))
    folder = train("--tensorboard")
    found = read(folder)
    assert scalars(found) == metrics(folder) and found.Images(events.IMAGES)[0].step == 4


@pytest.mark.parametrize("count, height, width", ((1, 1, 1), (5, 1, 5), (8, 1, 8), (12, 2, 8), (100, 4, 8)))
def test_images_are_laid_out_in_rows_of_eight(count, height, width):
    batch = {"images": np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 2, 3), np.uint8)}
    grid = events.as_seen(batch)
    assert grid.shape == (3 * height, 2 * width, 3)
    expected = np.arange(height * 8) * (np.arange(height * 8) < min(count, 32))
    np.testing.assert_array_equal(grid[::3, ::2, 0], expected.reshape(height, 8)[:, :width])


def test_without_the_package_a_sentence_names_the_extra(train, monkeypatch):
    find_spec = events.importlib.util.find_spec
    monkeypatch.setattr(
        events.importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find_spec(name)
    )
    with pytest.raises(UserError, match=r"'\.\[tensorboard\]'"):
        train("--tensorboard")
    assert not Path("runs").exists()


def test_events_are_written_and_read_without_a_framework(tmp_path):
    """TensorBoard's own writer would import TensorFlow where it is installed."""
    code = (
        "import sys; from pathlib import Path; from common.runs import events; path = Path(sys.argv[1]); "
        "[events.EventFile(path, [{'step': 1, 'train/loss': 2.0}]).write(2, {'train/loss': 1.0}) for _ in range(2)]; "
        "print({'tensorflow', 'torch', 'jax'} & set(sys.modules), len(list(events.read_events(path))))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / events.FILE)]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set() 3\n"
