"""Runs that are killed, stopped and continued: the same weights and the same metrics as without."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from engines import INSTALLED

from common.checkpoint import CURRENT, read
from common.datasets import open_dataset

STEPS = 6
RUN = ("--batch", 4, "--resize", 36, "--crop", 32, "--steps", STEPS, "--warmup_steps", 1, "--base_lr", 0.01,
       "--val_fraction", 0.3, "--eval_every", 2, "--log_every", 3, "--checkpoint_every", 1, "--workers", 2)  # fmt: skip


class Forker:
    """Runs of one engine, each a process of its own; see forker.py."""

    def __init__(self, engine: str, folder: Path):
        self.engine, self.folder, self.log = engine, folder, folder / "output.txt"
        environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "forker.py"), engine], cwd=folder, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def train(self, name: str, *flags, **order) -> dict:
        """{status, seconds} of one run, with RUN and `flags`; `order` may hold delay and signal, or kill_at."""
        weights = ("--weights", "none") if self.engine == "numpy" else ()
        argv = [*map(str, ("--dataset", "images", "--name", name, *weights, *RUN, *flags))]
        self.log.write_text("")
        self.process.stdin.write(json.dumps({"argv": argv, "log": str(self.log)} | order) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if not order:
            assert answer["status"] == 0, self.log.read_text()
        return answer

    def refused(self, name: str, *flags) -> str:
        """What a run that ends in one sentence says."""
        assert self.train(name, *flags, kill_at=10**9)["status"] == 2, self.log.read_text()
        sentence = self.log.read_text().splitlines()[-1]
        assert sentence.startswith("error: ")
        return sentence

    def metrics(self, name: str) -> list[dict]:
        """The lines of a run, apart from how fast they came."""
        lines = [json.loads(line) for line in (self.folder / "runs" / name / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            line.pop("images_per_second", None)
        return lines

    def assert_same(self, name: str, reference: str) -> None:
        """Weights bit for bit, metrics line for line, and nothing left over."""
        ours, theirs = (self.folder / "runs" / each for each in (name, reference))
        assert self.metrics(name) == self.metrics(reference)
        assert {p.name for p in ours.iterdir()} == {p.name for p in theirs.iterdir()}
        for file in ("weights.npz", "best.npz"):
            if (theirs / file).exists():
                with np.load(ours / file) as a, np.load(theirs / file) as b:
                    assert a.files == b.files and all(a[key].tobytes() == b[key].tobytes() for key in a.files), file
        found, expected = read(ours / CURRENT), read(theirs / CURRENT)
        assert found.arrays.keys() == expected.arrays.keys()
        assert all(found.arrays[key].tobytes() == expected.arrays[key].tobytes() for key in found.arrays)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def forker_of(engine: str, tmp_path_factory):
    folder = tmp_path_factory.mktemp(engine)
    sample = open_dataset("cifar10-sample")
    for split, count in (("train", 6), ("test", 2)):
        for name in ("cat", "dog"):
            (folder / "images" / split / name).mkdir(parents=True)
            members = np.flatnonzero(sample.splits[split].labels == sample.class_names.index(name))[:count]
            for i in members:
                (folder / "images" / split / name / f"{i}.jpg").write_bytes(sample.splits[split].read(int(i)))
    forker = Forker(engine, folder)
    forker.seconds = forker.train("whole")["seconds"]
    yield forker
    forker.close()


@pytest.fixture(scope="module")
def numpy_runs(tmp_path_factory):
    """Runs of the engine in numpy_engine.py; `whole` has ended undisturbed."""
    yield from forker_of("numpy", tmp_path_factory)


@pytest.fixture(scope="module", params=INSTALLED)
def runs(request, tmp_path_factory):
    """Runs of each engine; `whole` has ended undisturbed."""
    yield from forker_of(request.param, tmp_path_factory)


# --- kill -9


@pytest.mark.parametrize("flags", ((), ("--keep_best", "--checkpoint_every", "2")), ids=("last", "best"))
def test_a_kill_at_every_operation_on_files(flags, numpy_runs):
    """Also in the middle of every write. Best weights, their accuracy and the losses of an unfinished line survive."""
    reference = f"whole{len(flags)}"
    numpy_runs.train(reference, *flags)
    for kill_at in range(1, 1000):
        name = f"{reference}_{kill_at}"
        if numpy_runs.train(name, *flags, kill_at=kill_at)["status"] == 0:
            break
        numpy_runs.train(name, *flags)
        numpy_runs.assert_same(name, reference)
    print(kill_at)
    assert kill_at > 100


def kill_often(runs: Forker, count: int, seed: int) -> int:
    """Kill runs at random moments of their life and start them again, until each has ended; returns how many ended."""
    rng, number = np.random.default_rng(seed), 0
    for _ in range(count):
        moment = float(rng.uniform(0, runs.seconds))
        status = runs.train(f"killed{seed}_{number}", delay=moment, signal=signal.SIGKILL)["status"]
        assert status in (-signal.SIGKILL, 0), runs.log.read_text()
        if (runs.folder / "runs" / f"killed{seed}_{number}" / "weights.npz").exists():
            number += 1
    runs.train(f"killed{seed}_{number}")
    for each in range(number + 1):
        runs.assert_same(f"killed{seed}_{each}", "whole")
    return number + 1


def test_three_kills_at_random_moments(runs):
    kill_often(runs, 3, seed=int.from_bytes(os.urandom(4)))


@pytest.mark.slow
def test_a_hundred_kills_at_random_moments(runs):
    share = -(-100 // len(INSTALLED))
    assert kill_often(runs, share, seed=1) >= 1
