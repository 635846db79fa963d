"""Batches that processes make: those of threads, and nothing that stays when a run ends, however it ends."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from engines import recipe_of

from common.data import makers
from common.data.batches import TrainBatches, prefetch
from common.data.catalogue import open_dataset
from common.data.columns import labels, train_images
from common.data.decoded import Room, kept, nameless_file
from common.data.makers import Makers, can_fork
from common.data.naflex import train_patch_columns
from common.runs import feed
from common.system.errors import UserError
from common.system.processes import own_cores

RECIPE = recipe_of((0.1,) * 8, batch=70, resize=24, crop=17, flip=0.5, mixup=0.2, randaugment_layers=1,
                   randaugment_magnitude=5.0)  # fmt: skip


@pytest.fixture(scope="module")
def sample():
    split = open_dataset("cifar10-sample").splits["train"]
    return split.take(np.arange(90))


@contextlib.contextmanager
def makers_of(split, columns, descriptor: int = -1, count: int = 2):
    """Processes that make rows of a split, decoded once in the room of this descriptor."""
    own = Makers(count, lambda given: (kept(split, Room.of(given)), columns))
    try:
        own.begin(descriptor)
        yield own
    finally:
        own.close()


def batches_of(split, columns, recipe, makers=None, steps=range(1, 4)) -> list:
    return [*prefetch(TrainBatches(split, recipe, 0, columns=columns, makers=makers), steps, 2)]


@pytest.mark.parametrize("seen", ("squares", "own aspect ratio"))
def test_batches_are_those_of_threads(sample, seen):
    """Also where a batch has several pieces, straddles epochs, and its steps draw the number of patches."""
    recipe, columns = RECIPE, (train_images(RECIPE), labels(sample))
    if seen != "squares":
        recipe = dataclasses.replace(RECIPE, token_lengths="9,16")
        columns = (*train_patch_columns((8, 8), recipe), labels(sample))
    descriptor = nameless_file(2**22)
    with makers_of(sample, columns, descriptor) as makers:
        for _ in range(2):  # the second time, from the pixels that are kept
            for ours, theirs in zip(*(batches_of(sample, columns, recipe, own) for own in (makers, None)), strict=True):
                assert list(ours) == list(theirs)
                for name in ours:
                    np.testing.assert_array_equal(ours[name], theirs[name])
    assert np.count_nonzero(Room.of(descriptor).table(len(sample))) == len(sample)


@pytest.mark.parametrize(("rows", "seen"), ((3, True), (1, True), (0, False)))
def test_large_images_come_by_fewer_or_by_threads(sample, monkeypatch, rows, seen):
    columns = (train_images(RECIPE), labels(sample))
    monkeypatch.setattr(makers, "SHARED_BYTES", rows * (3 * 17**2 + 4) + 50)
    asked, ask = [], makers.Maker.ask
    monkeypatch.setattr(
        makers.Maker, "ask", lambda maker, *request: (asked.append(len(request[0])), ask(maker, *request))
    )
    with makers_of(sample, columns) as own:
        for ours, theirs in zip(*(batches_of(sample, columns, RECIPE, each) for each in (own, None)), strict=True):
            np.testing.assert_array_equal(ours["images"], theirs["images"])
    assert set(asked) == ({rows, 70 % rows} - {0} if seen else set())


def test_a_broken_image_is_named(sample):
    broken = dataclasses.replace(sample, read=lambda i: b"no image" if i == 7 else sample.read(i))
    columns, errors = (train_images(RECIPE), labels(sample)), []
    with makers_of(broken, columns) as makers:
        for own in (makers, None):
            with pytest.raises(UserError) as error:
                batches_of(broken, columns, RECIPE, own)
            errors.append(str(error.value))
        assert errors[0] == errors[1] and "cannot be decoded" in errors[0]
        batches_of(sample.take(np.arange(6)), columns, dataclasses.replace(RECIPE, batch=6), makers, range(1))


def test_an_error_of_the_program_is_raised(sample, capfd):
    def make(example):
        raise ZeroDivisionError("in a column")

    columns = (labels(sample)._replace(make=make),)
    with makers_of(sample, columns) as makers, pytest.raises(ZeroDivisionError, match="in a column"):
        batches_of(sample, columns, RECIPE, makers)
    assert "in make" in capfd.readouterr().err  # where it was


def test_a_process_that_is_killed_ends_the_run(sample):
    columns = (train_images(RECIPE), labels(sample))
    with makers_of(sample, columns) as makers:
        os.kill(makers.all[1].process, signal.SIGKILL)
        with pytest.raises(UserError, match="A process that decodes images has ended"):
            batches_of(sample, columns, RECIPE, makers)
    assert not any(is_there(maker.process) for maker in makers.all)


def test_a_framework_forbids_to_fork(monkeypatch):
    for name in ("torch", "jax", "tensorflow"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert can_fork()
    monkeypatch.setitem(sys.modules, "jax", sys)
    assert not can_fork()


@pytest.mark.parametrize(
    ("steps", "forks", "loaded"), [(500, True, 0), (499, True, 0), (500, False, 0), (500, True, 1)]
)
def test_who_has_makers(monkeypatch, steps, forks, loaded):
    """A long run of images that forks can read, in a process that can be forked."""
    recipe, split = types.SimpleNamespace(num_steps=steps, batch=100), types.SimpleNamespace(forks=forks)
    plan = types.SimpleNamespace(config=types.SimpleNamespace(workers=3), recipe=recipe, splits={"train": split})
    monkeypatch.setattr(feed, "can_fork", lambda: not loaded)
    monkeypatch.setattr(feed, "Makers", lambda count, prepare: count)
    fed = feed.Feed(plan)
    fed.fork_makers()
    assert fed.makers == (3 if (steps, forks, loaded) == (500, True, 0) else None)


def test_processes_of_torchrun_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    for local, cores in (("", 9), ("2", 4), ("16", 1), ("0", 9), ("x", 9)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
        assert own_cores() == cores


# --- whole runs, of an engine in numpy

FLAGS = ("--dataset", "cifar10-sample", "--weights", "none", "--batch", "8", "--steps", "60", "--checkpoint_every", "1",
         "--workers", "2", "--log_every", "1")  # fmt: skip
START = """
import functools, pathlib, sys, disturbances, numpy_engine
from common.config import TrainConfig
from common.data import makers
from common.runs import feed
from common.runs.command import run_command
from common.runs.run import Run
feed.MANY = {many}
disturbances.make_it_small()
def prepare(config):
    run = Run.of_command(config, engine="numpy")
    pathlib.Path("pids").write_text(" ".join(str(maker.process) for maker in run.feed.makers.all) if run.feed.makers else "")
    return run
run_command("numpy", "train", TrainConfig, "", prepare, numpy_engine.load_main)
"""


def start(folder: Path, name: str, many: int = 0) -> subprocess.Popen:
    tests = Path(__file__).resolve().parent
    environment = os.environ | {"PYTHONPATH": f"{tests}:{tests.parent}"}
    command = (sys.executable, "-c", START.format(many=many), *FLAGS, "--name", name)
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def is_there(process: int) -> bool:
    """Whether a process is alive; one that has ended and whom nobody waits for is not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until(true) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("number", (signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
def test_a_run_that_is_ended_leaves_no_process(tmp_path, number):
    """A signal to all processes, as a terminal and a scheduler send it: the run saves; it goes on as by threads."""
    metrics = tmp_path / "runs/ended/metrics.jsonl"
    run = start(tmp_path, "ended")
    wait_until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= 3)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2 and all(map(is_there, pids))
    for pid in (*pids, run.pid) if number != signal.SIGKILL else (run.pid,):
        os.kill(pid, number)
    said = run.communicate(timeout=60)[0].decode()  # whose end needs that of every process that could write
    assert run.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number], said
    wait_until(lambda: not any(map(is_there, pids)))
    assert number == signal.SIGKILL or "Stopped after step" in said
    others = []
    if number == signal.SIGTERM:
        others = [start(tmp_path, "ended"), start(tmp_path, "threads", many=10**9)]
    for other in others:
        assert other.communicate(timeout=60) and not other.returncode
    if others:
        assert losses(tmp_path / "runs/ended") == losses(tmp_path / "runs/threads")


def losses(folder: Path) -> list:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [[value for name, value in line.items() if "second" not in name] for line in lines]
