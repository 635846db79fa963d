"""Runs that are killed, stopped and continued: the same weights and the same metrics as without."""

import fcntl
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from engines import INSTALLED
from processes import ROOT, Server

from common.datasets import open_dataset
from common.runs.checkpoint import CURRENT, PREVIOUS, Checkpoints, read, write
from common.system.interruption import Interruption
from common.system.progress import show

STEPS = 6
RUN = ("--batch", 4, "--resize", 36, "--crop", 32, "--steps", STEPS, "--warmup_steps", 1, "--base_lr", 0.01,
       "--val_fraction", 0.3, "--eval_every", 2, "--log_every", 3, "--checkpoint_every", 1, "--workers", 2)  # fmt: skip


class Runs:
    """Runs of one engine in one folder, with the same images, and with a model of some thousand parameters if `small`."""

    def __init__(self, server: Server, folder: Path, small: bool):
        self.server, self.engine, self.folder, self.small = server, server.package, folder, small
        self.moments = {}  # (flags, steps) -> at which operation on files to stop a run

    def train(self, name: str, *flags, sends: int = 0, delay: float = 0, once: str = "", **disturbance) -> dict:
        """{status, seconds, output} of one run, with RUN and `flags`, and with what disturbances.py's `prepare` takes.

        It is sent the signal `sends` after `delay` seconds, or once the file `once` holds something.
        """
        module = "numpy_engine" if self.engine == "common" else f"{self.engine}.train"
        weights = ("--weights", "none") if self.small else ()
        started, flags = time.monotonic(), ("--dataset", "images", "--name", name, *weights, *RUN, *flags)
        process = self.server.start(module, flags, self.folder, small=self.small, **disturbance)
        if sends:
            process.poll(delay)
            while once and not holds_something(self.folder / once) and process.poll(0.05) is None:
                pass
            process.send_signal(sends)
        status = process.wait()
        if not sends and not disturbance:
            assert status == 0, process.output
        return {"status": status, "seconds": time.monotonic() - started, "output": process.output}

    def finish(self, name: str, *flags) -> None:
        """Start a disturbed run again, unless the disturbance came after its last file had its name."""
        if not self.is_finished(name):
            self.train(name, *flags)

    def is_finished(self, name: str) -> bool:
        """Whether a run has left what only the end of a run leaves."""
        return (self.folder / "runs" / name / "weights.npz").exists()

    def refused(self, name: str, *flags, **order) -> str:
        """What a run that ends in one sentence says."""
        answer = self.train(name, *flags, **({"deed": "kill", "at": 10**9} | order))
        assert answer["status"] == 2, answer["output"]
        sentence = answer["output"].splitlines()[-1]
        assert sentence.startswith("error: ") and "Traceback" not in answer["output"]
        return sentence

    def stopped(self, name: str, *flags, after: int = 3) -> Path:
        """The folder of a run that was killed with a checkpoint of `after` steps or of one more."""
        for at in range(self.moments.get((flags, after), 40), 1000, 7):
            shutil.rmtree(self.folder / "runs" / name, ignore_errors=True)
            self.train(name, *flags, deed="kill", at=at)
            if self.step(name, PREVIOUS) and self.step(name) >= after and not self.is_finished(name):
                self.moments[flags, after] = at
                return self.folder / "runs" / name
        raise AssertionError("It ended before.")

    def step(self, name: str, file: str = CURRENT) -> int:
        """The step of a run's checkpoint; 0 where there is none."""
        path = self.folder / "runs" / name / file
        return read(path).step if path.exists() else 0

    def metrics(self, name: str) -> list[dict]:
        """The lines of a run, apart from how fast they came."""
        lines = [json.loads(line) for line in (self.folder / "runs" / name / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            line.pop("images_per_second", None)
        return lines

    def assert_same(self, name: str, reference: str) -> None:
        """Weights bit for bit, metrics line for line, and nothing left over. Removes the run: it has served."""
        ours, theirs = (self.folder / "runs" / each for each in (name, reference))
        assert self.metrics(name) == self.metrics(reference)
        assert {p.name for p in ours.iterdir()} - {PREVIOUS} == {p.name for p in theirs.iterdir()} - {PREVIOUS}
        for file in ("weights.npz", "best.npz"):
            if (theirs / file).exists():
                with np.load(ours / file) as a, np.load(theirs / file) as b:
                    assert a.files == b.files and all(a[key].tobytes() == b[key].tobytes() for key in a.files), file
        found, expected = read(ours / CURRENT), read(theirs / CURRENT)
        assert found.arrays.keys() == expected.arrays.keys()
        assert all(found.arrays[key].tobytes() == expected.arrays[key].tobytes() for key in found.arrays)
        shutil.rmtree(ours)


def holds_something(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def runs_of(package: str, server, tmp_path_factory, small: bool = True) -> Runs:
    folder = tmp_path_factory.mktemp(package)
    sample = open_dataset("cifar10-sample")
    for split, count in (("train", 6), ("test", 2)):
        for name in ("cat", "dog"):
            (folder / "images" / split / name).mkdir(parents=True)
            members = np.flatnonzero(sample.splits[split].labels == sample.class_names.index(name))[:count]
            for i in members:
                (folder / "images" / split / name / f"{i}.jpg").write_bytes(sample.splits[split].read(int(i)))
    runs = Runs(server(package), folder, small)
    runs.seconds = runs.train("whole")["seconds"]
    return runs


@pytest.fixture(scope="module")
def numpy_runs(server, tmp_path_factory) -> Runs:
    """Runs of the engine in numpy_engine.py; `whole` has ended undisturbed."""
    return runs_of("common", server, tmp_path_factory)


@pytest.fixture(scope="module", params=INSTALLED)
def runs(request, server, tmp_path_factory) -> Runs:
    """Runs of each engine; `whole` has ended undisturbed."""
    return runs_of(request.param, server, tmp_path_factory)


# --- kill -9


def test_archives_go_on_in_the_middle_of_an_epoch(numpy_runs):
    """A run on tar archives of the same images in the same order is that of the folder, killed within an epoch or not."""
    for split, own in open_dataset(str(numpy_runs.folder / "images")).splits.items():
        with tarfile.open(numpy_runs.folder / f"{split}.tar", "w") as archive:
            for i in range(len(own)):
                for ending, data in (("jpg", own.read(i)), ("cls", str(own.labels[i]).encode())):
                    member = tarfile.TarInfo(f"{i}.{ending}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    nine = ("--val_fraction", 0.25)  # images in an epoch, four in a batch
    numpy_runs.train("folder", *nine)
    flags = ("--dataset", "wds:{train,test}.tar", *nine)
    numpy_runs.stopped("archives", *flags, after=3)
    assert 4 * numpy_runs.step("archives") % 9  # in the middle of an epoch, at whichever step it was killed
    numpy_runs.finish("archives", *flags)
    numpy_runs.assert_same("archives", "folder")


def kill_everywhere(runs: Runs, reference: str, *flags, first: int = 1, every: int = 1) -> int:
    """Kill a run at its `first` operation on files and at every so manieth after it; returns the number of kills."""
    runs.train(reference, *flags)
    for count, kill_at in enumerate(range(first, 10_000, every)):
        name = f"{reference}_{kill_at}"
        if runs.train(name, *flags, deed="kill", at=kill_at)["status"] == 0:
            return count
        runs.finish(name, *flags)
        runs.assert_same(name, reference)


def test_a_kill_at_every_fortieth_operation_on_files(numpy_runs):
    """Also in the middle of a write. Best weights, their accuracy and the losses of an unfinished line survive."""
    first = int.from_bytes(os.urandom(1)) % 40 + 1
    assert kill_everywhere(numpy_runs, "fortieth", "--keep_best", first=first, every=40) > 10


@pytest.mark.slow
@pytest.mark.parametrize("flags", ((), ("--keep_best", "--checkpoint_every", "2")), ids=("last", "best"))
def test_a_kill_at_every_operation_on_files(flags, numpy_runs):
    assert kill_everywhere(numpy_runs, f"every{len(flags)}", *flags) > 200


def kill_often(runs: Runs, count: int, seed: int) -> int:
    """Kill runs at random moments of their life and start them again, until each has ended; returns how many ended."""
    rng, number = np.random.default_rng(seed), 0
    for _ in range(count):
        moment = float(rng.uniform(0, runs.seconds))
        answer = runs.train(f"killed{seed}_{number}", delay=moment, sends=signal.SIGKILL)
        assert answer["status"] in (-signal.SIGKILL, 0), answer["output"]
        if runs.is_finished(f"killed{seed}_{number}"):
            number += 1
    runs.train(f"killed{seed}_{number}")
    print(f"{count} kills or too late, {number + 1} runs")
    for each in range(number + 1):
        runs.assert_same(f"killed{seed}_{each}", "whole")
    return number + 1


def test_kills_at_random_moments(runs):
    """Three in the first engine, and one in the others."""
    kill_often(runs, 3 if runs.engine == INSTALLED[0] else 1, seed=int.from_bytes(os.urandom(4)))


@pytest.mark.slow
@pytest.mark.parametrize("engine", INSTALLED)
def test_a_hundred_kills_at_random_moments(engine, server, tmp_path_factory):
    """Of runs of the embedded model."""
    runs = runs_of(engine, server, tmp_path_factory, small=False)
    assert kill_often(runs, -(-100 // len(INSTALLED)), seed=1) >= 1


BEYOND = ("--model", "ViT-mu/16", "--weights", "none", "--recipe", "vit_s16_i1k", "--ema", 0.5, "--eval_resize", 0)
OPTIMIZERS = {  # flags, and what is kept
    "adam": ((), {"first", "second", "average"}),
    "adafactor": (("--optimizer", "adafactor"), {"first", "second", "rows", "columns", "average"}),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "runs",
    [pytest.param(name, marks=() if name == INSTALLED[0] else pytest.mark.slow) for name in INSTALLED],
    indirect=True,
)
def test_moments_and_a_moving_average_go_on_bit_for_bit(runs, optimizer):
    """Killed after the first checkpoint, with a first moment in bfloat16; ends as if nothing had happened."""
    flags, kept = OPTIMIZERS[optimizer]
    runs.train(optimizer, *BEYOND, *flags)
    runs.stopped(f"{optimizer}_killed", *BEYOND, *flags, after=2)
    runs.train(f"{optimizer}_killed", *BEYOND, *flags)
    names = read(runs.folder / "runs" / optimizer / CURRENT).arrays
    assert {name.split("/")[1] for name in names if "optimizer/" in name} == kept
    runs.assert_same(f"{optimizer}_killed", optimizer)


# --- SIGTERM and Ctrl-C

LONG = ("--steps", 300, "--checkpoint_every", 0, "--log_every", 7, "--eval_every", 11)


@pytest.mark.parametrize("number, status", ((signal.SIGTERM, 143), (signal.SIGINT, 130)))
def test_a_signal_saves_first(number, status, numpy_runs):
    """In the middle of a window of losses, too."""
    whole = numpy_runs.train(f"whole{status}", *LONG)
    moments = np.random.default_rng(status).uniform(0.3, 0.9, 3) * whole["seconds"]
    for run, moment in enumerate(moments):
        for _ in range(10):
            answer = numpy_runs.train(f"{status}_{run}", *LONG, delay=moment, sends=number)
            if "Stopped after step" in answer["output"]:
                break
            shutil.rmtree(numpy_runs.folder / "runs" / f"{status}_{run}", ignore_errors=True)
            moment *= 0.8 if answer["status"] == 0 else 1.25  # it had ended, or had not begun to listen
        assert answer["status"] == status, answer["output"]
        step = numpy_runs.step(f"{status}_{run}")
        assert step > 0 and f"Stopped after step {step}; to resume: python -m numpy.train " in answer["output"]
        numpy_runs.train(f"{status}_{run}", *LONG)
        numpy_runs.assert_same(f"{status}_{run}", f"whole{status}")


@pytest.mark.parametrize("every", (25, pytest.param(10, marks=pytest.mark.slow)))
def test_a_signal_at_every_few_operations_on_files(every, numpy_runs):
    """While a checkpoint is written, in the last evaluation, when all is done but the end."""
    ends = set()
    for at in range(int.from_bytes(os.urandom(1)) % 10 + 1, 10_000, every):
        name = f"stop{every}_{at}"
        answer = numpy_runs.train(name, deed="stop", at=at)
        ends.add(answer["status"])
        if answer["status"]:
            numpy_runs.train(name)
        elif at > 300:
            break
        numpy_runs.assert_same(name, "whole")
    assert ends == {-signal.SIGTERM, 143, 0}  # before the run has begun; while it runs; too late


def test_a_signal_saves_first_in_every_engine(runs):
    answer = runs.train("long", "--steps", 10_000, "--checkpoint_every", 0, "--eval_every", 0,
                        once="runs/long/metrics.jsonl", sends=signal.SIGTERM)  # fmt: skip
    assert answer["status"] == 143, answer["output"]
    assert f"Stopped after step {runs.step('long'):,}; to resume: python -m {runs.engine}.train" in answer["output"]


TWICE = """
import os, signal, time
from common.system.interruption import Interruption
with Interruption() as interruption:
    os.kill(os.getpid(), signal.{first})
    os.kill(os.getpid(), signal.{second})
    print(128 + interruption.signal, flush=True)
    time.sleep(2.1)
    os.kill(os.getpid(), signal.{second})
    print("still here")
"""


@pytest.mark.parametrize("first, second", (("SIGINT", "SIGINT"), ("SIGTERM", "SIGTERM"), ("SIGTERM", "SIGINT")))
def test_a_signal_two_seconds_later_ends_at_once(first, second):
    """One that follows at once is torchrun handing on what the terminal or SLURM has told every process."""
    code = TWICE.format(first=first, second=second)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -getattr(signal, second) and done.stdout == f"{128 + getattr(signal, first)}\n"
    assert done.stderr.count("two seconds later, ends at once") == 1


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interruption():
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# --- disks


@pytest.mark.parametrize("every", (50, pytest.param(20, marks=pytest.mark.slow)))
def test_a_disk_that_turns_read_only_at_every_few_operations(every, numpy_runs):
    """One sentence that says what is left; once the disk is well, the same command goes on."""
    for at in range(int.from_bytes(os.urandom(1)) % every + 1, 10_000, every):
        name = f"fail{every}_{at}"
        answer = numpy_runs.train(name, deed="fail", at=at)
        if not answer["status"]:
            break
        assert answer["status"] == 2 and "Traceback" not in answer["output"], answer["output"]
        sentence = answer["output"].splitlines()[-1]
        assert sentence.startswith("error: Cannot write ") and "Read-only file system" in sentence
        step = max(numpy_runs.step(name, file) for file in (CURRENT, PREVIOUS))
        if "Folder runs" in answer["output"]:
            assert (f"checkpoint of step {step} is intact" if step else "No checkpoint has been written") in sentence
        numpy_runs.finish(name)
        numpy_runs.assert_same(name, "whole")
    assert at > 200


@pytest.mark.parametrize("limit", (100, 500, 1000, 10_000, 100_000))
def test_a_full_disk(limit, numpy_runs):
    """The log, the configuration, the metrics, and checkpoints: the kernel itself refuses to write on."""
    assert "Cannot write " in numpy_runs.refused(f"full{limit}", file_limit=limit)
    numpy_runs.train(f"full{limit}")
    numpy_runs.assert_same(f"full{limit}", "whole")


def test_a_slow_disk_does_not_hold_the_run_up(numpy_runs):
    """A checkpoint that is due while the last one is still being written waits; the last step's is always written."""
    answer = numpy_runs.train("slow", "--steps", 200, "--eval_every", 0, slow_disk=0.1)
    assert answer["status"] == 0 and numpy_runs.step("slow") == 200
    assert answer["seconds"] < 200 * 0.3 / 4  # a save syncs three times


# --- what a folder holds


def test_a_finished_run_is_not_started_over(numpy_runs):
    for flags in ((), ("--seed", 1)):
        sentence = numpy_runs.refused("whole", *flags)
        assert "holds a finished run; choose another --name, or remove the folder" in sentence


def test_another_run_of_the_same_name_is_refused(numpy_runs):
    folder = numpy_runs.stopped("other")
    before = (folder / CURRENT).read_bytes()
    sentence = numpy_runs.refused("other", "--seed", 1)
    assert "holds a run with --seed 0, not 1" in sentence and "choose another --name" in sentence
    (folder / "config.json").unlink()  # the checkpoint knows as well
    assert "holds a run with --seed 0, not 1" in numpy_runs.refused("other", "--seed", 1)
    assert (folder / CURRENT).read_bytes() == before
    numpy_runs.train("other", "--checkpoint_every", 2, "--workers", 1)  # what does not shape the run may change
    numpy_runs.assert_same("other", "whole")


def test_a_run_whose_folder_was_renamed_goes_on(numpy_runs):
    numpy_runs.stopped("before").rename(numpy_runs.folder / "runs" / "after")
    numpy_runs.train("after")
    numpy_runs.assert_same("after", "whole")


def test_a_run_whose_images_changed_is_refused(numpy_runs):
    numpy_runs.stopped("images")
    image = next((numpy_runs.folder / "images" / "train" / "cat").iterdir())
    another = image.with_name("another.jpg")
    shutil.copy(image, another)
    try:
        assert "made with 8 as number of train images, not 9" in numpy_runs.refused("images")
    finally:
        another.unlink()


def test_a_run_whose_classes_were_renamed_is_refused(numpy_runs):
    """Their order is that of their names: the head would name cats dogs."""
    numpy_runs.stopped("classes")
    images = numpy_runs.folder / "images"
    for split in ("train", "test"):
        (images / split / "cat").rename(images / split / "zebra")
    try:
        assert "as classes of train images, not SHA-256" in numpy_runs.refused("classes")
    finally:
        for split in ("train", "test"):
            (images / split / "zebra").rename(images / split / "cat")


def test_a_run_without_its_best_weights_is_refused_at_once(numpy_runs):
    folder = numpy_runs.stopped("best", "--keep_best")
    (folder / "best.npz").unlink()
    assert "best.npz, the weights of the best evaluation so far, is missing" in numpy_runs.refused(
        "best", "--keep_best"
    )


@pytest.mark.parametrize("name", ("..", ".", "a/../../b", "/tmp/x", "a\nb", "a\udcff"), ids=ascii)
def test_a_name_that_is_no_folder_below_logdir(name, numpy_runs):
    assert "is no folder below --logdir" in numpy_runs.refused(name)


def test_output_that_nobody_takes_stops_nothing(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        show("step 1")
        show("step 2")


@pytest.mark.parametrize("text", ("", "{", "[]", "[1]", "null", "\x00" * 40), ids=repr)
def test_a_broken_config_is_one_sentence(text, numpy_runs):
    folder = numpy_runs.stopped("broken")
    (folder / "config.json").write_text(text)
    sentence = numpy_runs.refused("broken")
    assert "config.json cannot be read" in sentence and "choose another --name" in sentence


def test_a_damaged_checkpoint_is_named_and_the_previous_one_used(numpy_runs):
    folder = numpy_runs.stopped("damaged")
    damage(folder / CURRENT)
    step = numpy_runs.step("damaged", PREVIOUS)
    output = numpy_runs.train("damaged")["output"]
    for text in (output, (folder / "train.log").read_text()):
        assert f"{folder.name}/{CURRENT} is damaged: its digest does not match" in text
        assert f"Continuing after step {step}, which numpy saved" in text
    numpy_runs.assert_same("damaged", "whole")


def test_without_an_intact_checkpoint_the_choice_is_clear(numpy_runs):
    folder = numpy_runs.stopped("both")
    for file in (CURRENT, PREVIOUS):
        damage(folder / file)
    sentence = numpy_runs.refused("both")
    assert f"{CURRENT} is damaged" in sentence and f"{PREVIOUS} is damaged" in sentence
    assert "choose another --name, or remove" in sentence


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)


def test_a_half_written_line_of_metrics_is_dropped(numpy_runs):
    folder = numpy_runs.stopped("half")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "train/lo')
    numpy_runs.train("half")
    numpy_runs.assert_same("half", "whole")


def test_a_damaged_line_of_metrics_is_dropped_with_words(numpy_runs):
    path = numpy_runs.stopped("lines", after=4) / "metrics.jsonl"
    first, second, rest = path.read_bytes().split(b"\n", 2)
    path.write_bytes(first + b"\n" + b"\0" * len(second) + b"\n" + rest)
    assert "metrics.jsonl had 1 damaged lines, which were dropped" in numpy_runs.train("lines")["output"]
    expected = numpy_runs.metrics("whole")
    assert numpy_runs.metrics("lines") == expected[:1] + expected[2:]


def test_missing_lines_of_metrics_are_told(numpy_runs):
    path = numpy_runs.stopped("missing", after=4) / "metrics.jsonl"
    path.write_bytes(path.read_bytes().partition(b"\n")[0] + b"\n3\n")
    output = numpy_runs.train("missing")["output"]
    assert "metrics.jsonl had 1 damaged lines" in output and re.search(
        r"metrics.jsonl lacks \d+ of its \d+ lines", output
    )


def test_metrics_that_cannot_be_read_are_one_sentence(numpy_runs):
    path = numpy_runs.stopped("unreadable") / "metrics.jsonl"
    path.unlink()
    path.mkdir()
    assert "metrics.jsonl cannot be read (it is a folder, expected a file)" in numpy_runs.refused("unreadable")


def test_leftovers_of_a_killed_run_are_removed(numpy_runs):
    folder = numpy_runs.stopped("leftovers")
    (folder / f".{CURRENT}.0123abcd.tmp").write_bytes(b"half")
    numpy_runs.train("leftovers")
    numpy_runs.assert_same("leftovers", "whole")


def test_two_runs_on_one_folder(numpy_runs):
    folder = numpy_runs.stopped("two")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with open(folder / "train.log", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "Another process is at work in runs/two" in numpy_runs.refused("two")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    numpy_runs.train("two")
    numpy_runs.assert_same("two", "whole")


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(numpy_runs):
    """Whether the loss is noticed first, at a checkpoint between two lines of metrics, or the weights."""
    sentence = numpy_runs.refused("infinite", "--base_lr", 1e6)
    assert "not finite; start again under another --name with a lower --base_lr" in sentence
    step = numpy_runs.step("infinite")
    assert 0 < step < STEPS and f"The checkpoint of step {step} is intact" in sentence
    arrays = read(numpy_runs.folder / "runs" / "infinite" / CURRENT).arrays
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_how_long_a_run_takes_is_told_after_its_first_steps(numpy_runs):
    output = numpy_runs.train("pace")["output"]
    assert re.search(r"(?m)^The first step took [\d.]+ s, with what is made once\.$", output)
    assert "The second took" not in output  # it is over at once


def test_batches_of_evaluation_and_parts_of_a_step_may_change(numpy_runs):
    """Neither changes what a run is but for rounding, and both are what a run that lacks memory needs to change."""
    numpy_runs.stopped("split")
    numpy_runs.train("split", "--batch_eval", 2, "--batch_split", 2)
    assert numpy_runs.step("split") == STEPS and numpy_runs.is_finished("split")


ODD = {
    "losses": [["a"], "1", [None], {"a": 1}, [float("nan")]],
    "metrics_lines": [-1, "3", 2.5, True, None],
    "best": ["high", [1], float("inf")],
    "seconds": ["12", None, -1, float("nan")],
    "engine": [None, 3],
    "config": [[], "x", None],
    "constants": [[], 4],
}


def rewrite(path: Path, step=None, arrays=None, **facts) -> None:
    """Change a checkpoint, and give it the digest of what it then holds."""
    before = read(path)
    with open(path, "wb") as file:
        write(file, before.step if step is None else step, arrays or before.arrays, before.facts | facts)


def test_what_no_run_has_written_is_one_sentence(numpy_runs):
    """In a checkpoint whose digest is right."""
    path = numpy_runs.stopped("odd") / CURRENT
    (path.parent / PREVIOUS).unlink()
    intact = path.read_bytes()
    for name, values in ODD.items():
        for value in values:
            rewrite(path, **{name: value})
            sentence = numpy_runs.refused("odd")
            assert f"holds {value!r} as {name}, which no run has written; restore or remove it." in sentence
            path.write_bytes(intact)
    rewrite(path, step=7)
    assert "is of step 7 of a run of 6; restore or remove it." in numpy_runs.refused("odd")
    for step in (-1, "x", 1.5, " 3", "٣"):
        rewrite(path, step=step)
        assert "is damaged: its header makes no sense" in numpy_runs.refused("odd")
        path.write_bytes(intact)
    arrays = read(path).arrays
    name = next(name for name in arrays if name.startswith("model/"))
    rewrite(path, arrays=arrays | {name: arrays[name].astype(np.int64)})
    assert f"holds {name} as int64, expected floats" in numpy_runs.refused("odd")
    rewrite(path, arrays={key: array for key, array in arrays.items() if key != f"optimizer/first/{name[6:]}"})
    assert "does not fit the model" in numpy_runs.refused("odd")
    path.write_bytes(intact)
    numpy_runs.train("odd")
    numpy_runs.assert_same("odd", "whole")


def test_a_run_whose_folder_was_removed_says_so(numpy_runs):
    checkpoints = Checkpoints(numpy_runs.folder / "gone")
    (numpy_runs.folder / "gone").mkdir()
    checkpoints.save(3, {"model/a": np.ones(2)}, {})
    checkpoints.close()
    assert "checkpoint of step 3 is intact" in checkpoints.what_is_left()
    shutil.rmtree(numpy_runs.folder / "gone")
    assert "gone and its checkpoints have been removed meanwhile" in checkpoints.what_is_left()
