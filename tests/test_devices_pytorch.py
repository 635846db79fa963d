"""Runs of several processes in PyTorch, started by scripts/launch/local.sh, against the same run on one device."""

import contextlib
import itertools
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
from jobs import assert_close, metrics
from PIL import Image

from common.checkpoint import CURRENT, read

pytestmark = pytest.mark.skipif("bit_pytorch" not in INSTALLED, reason="torch is not installed")

FLAGS = ("--dataset", "images", "--batch", 8, "--batch_split", 2, "--mixup", 0.1, "--resize", 36, "--crop", 32, "--steps", 4,
         "--warmup_steps", 1, "--base_lr", 0.01, "--val_fraction", 0.3, "--batch_eval", 3, "--eval_every", 2, "--log_every", 1,
         "--workers", 1)  # fmt: skip
LONG = ("--precision", "float64", "--batch", 4, "--batch_split", 1, "--steps", 14, "--eval_every", 0,
        "--checkpoint_every", 1)  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    """Where runs take place, with images of two classes."""
    for split, name, number in itertools.product(("train", "test"), ("cat", "dog"), range(7)):
        path = tmp_path / "images" / split / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng([number, name == "dog"]).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path


@contextlib.contextmanager
def launched(folder: Path, *flags, num_processes: int = 2):
    """A run of several processes that has just been started."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1",
                                "NUM_PROCESSES": str(num_processes)}  # fmt: skip
    command = [ROOT / "scripts" / "launch" / "local.sh", "bit_pytorch", *map(str, (*FLAGS, *flags))]
    process = subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        process.kill()  # only if the test has failed
        process.communicate()


def end_of(process: subprocess.Popen, seconds: float = 300) -> tuple[int, str]:
    """(exit status, output) of a process that ends by itself."""
    output = process.communicate(timeout=seconds)[0]
    return process.returncode, output


def finish(folder: Path, *flags, **options) -> str:
    """The output of a run that is not disturbed."""
    with launched(folder, *flags, **options) as process:
        status, output = end_of(process)
    assert status == 0, output
    return output


def wait_for_line(folder: Path, name: str, number: int) -> None:
    """Return once a run has written so many lines of metrics."""
    path, until = folder / "runs" / name / "metrics.jsonl", time.monotonic() + 300
    while not (path.exists() and path.read_bytes().count(b"\n") >= number):
        assert time.monotonic() < until
        time.sleep(0.02)


def process_of(folder: Path, name: str, rank: int) -> int:
    """The id of one process of a run, as the operating system tells it."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
            wanted = {b"bit_pytorch.train", name.encode(), f"RANK={rank}".encode()}
            if wanted <= set(words.split(b"\0")) and (path / "cwd").resolve() == folder:
                return int(path.name)
    raise AssertionError(f"{name} has no process {rank}.")


def test_copies_in_float32(run, folder):
    """Micro-batches, mixup, an evaluation set that the processes cannot share evenly, the best weights."""
    flags = ("--keep_best",)
    run("bit_pytorch.train", *FLAGS, *flags, "--name", "alone")
    output = finish(folder, *flags, "--name", "two")
    assert_close(folder, "two", "alone", 1e-5)
    assert output.count("Wrote runs/two/weights.npz") == output.count("step 4: test top-1") == 1


def test_shards_in_float64(run, folder):
    """Parameters and optimizer, Adam clipped with a moving average, are gathered for what is written."""
    flags = ("--precision", "float64", "--remat", "--recipe", "coyo_pretrain", "--ema", 0.5, "--clip", 0.5)
    run("bit_pytorch.train", *FLAGS, *flags, "--name", "alone")
    finish(folder, *flags, "--shard_parameters", "--name", "two")
    assert_close(folder, "two", "alone", 1e-9)
    ours, theirs = (read(folder / "runs" / name / CURRENT).arrays for name in ("two", "alone"))
    assert {key: array.shape for key, array in ours.items()} == {key: array.shape for key, array in theirs.items()}


def test_stopped_killed_and_resumed_by_fewer(run, folder):
    """SIGTERM to the launcher saves first; kill -9 of one process ends all; one process goes on where two ended."""
    run("bit_pytorch.train", *FLAGS, *LONG, "--name", "alone")
    with launched(folder, *LONG, "--name", "two", "--checkpoint_every", 0) as process:
        wait_for_line(folder, "two", 2)
        process.send_signal(signal.SIGTERM)
        status, output = end_of(process)
    step = read(folder / "runs" / "two" / CURRENT).step
    assert status != 0 and f"Stopped after step {step}; to resume: " in output and 2 <= step < 10
    with launched(folder, *LONG, "--name", "two") as process:
        wait_for_line(folder, "two", step + 3)
        os.kill(process_of(folder, "two", rank=1), signal.SIGKILL)
        status, output = end_of(process, seconds=60)
    assert status != 0 and "error: Another process of this run has ended" in output, output
    assert "is intact; the same command continues after it." in output and "Continuing after step" in output
    run("bit_pytorch.train", *FLAGS, *LONG, "--name", "two")
    assert_close(folder, "two", "alone", 1e-9)


def test_a_batch_that_processes_cannot_share(folder):
    with launched(folder, "--name", "odd", "--batch", 14, "--mixup", 0, "--shard_parameters") as process:
        status, output = end_of(process)
    sentences = [line for line in output.splitlines() if line.startswith("error: ")]
    assert status != 0 and sentences == [
        "error: --batch_split 2 does not divide the batch of 7 on each device; choose a divisor."
    ]
    assert "exitcode  : 2 " in output and not (folder / "runs").exists()


def test_shards_need_several_processes(run, folder):
    done = run("bit_pytorch.train", *FLAGS, "--name", "one", "--shard_parameters", status=2)
    assert "--shard_parameters needs several processes" in done.stderr


@pytest.mark.slow
def test_as_many_processes_give_the_same_bits(folder):
    """Killed and resumed, shards or copies."""
    for flags in ((), ("--shard_parameters",)):
        whole, killed = f"whole{len(flags)}", f"killed{len(flags)}"
        finish(folder, *LONG, *flags, "--name", whole)
        with launched(folder, *LONG, *flags, "--name", killed) as process:
            wait_for_line(folder, killed, 5)
            os.kill(process_of(folder, killed, rank=0), signal.SIGKILL)
            assert end_of(process, seconds=60)[0] != 0
        finish(folder, *LONG, *flags, "--name", killed)
        assert metrics(folder, whole) == metrics(folder, killed)
        ours, theirs = (read(folder / "runs" / name / CURRENT).arrays for name in (killed, whole))
        assert ours.keys() == theirs.keys() and all(ours[key].tobytes() == theirs[key].tobytes() for key in ours)


@pytest.mark.slow
def test_from_one_process_to_three_with_shards_and_back(run, folder):
    """Three do not divide what they share: 9 images, 2 classes."""
    flags = ("--precision", "float64", "--steps", 12, "--batch", 12, "--eval_every", 6)
    run("bit_pytorch.train", *FLAGS, *flags, "--name", "alone")
    for number, (num_processes, options) in enumerate(((1, ()), (3, ("--shard_parameters",)))):
        with launched(folder, *flags, *options, "--name", "many", num_processes=num_processes) as process:
            wait_for_line(folder, "many", 3 * number + 2)
            process.send_signal(signal.SIGTERM)
            assert "Stopped after step" in end_of(process)[1]
    run("bit_pytorch.train", *FLAGS, *flags, "--name", "many")
    assert_close(folder, "many", "alone", 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ((), ("--shard_parameters",)))
def test_copies_and_shards_of_which_only_some_parameters_are_trained(run, folder, flag):
    """Clipped by the norm of what is trained, over all processes."""
    flags = ("--precision", "float64", "--train_only", "norm", "--clip", 0.1, "--weight_decay", 0.1, "--ema", 0.5)
    run("bit_pytorch.train", *FLAGS, *flags, "--name", "alone")
    finish(folder, *flags, *flag, "--name", "two")
    assert_close(folder, "two", "alone", 1e-9)


@pytest.mark.slow
def test_a_process_that_no_longer_answers_ends_the_job(folder):
    """It is stopped, as if its machine were gone: nobody's connection breaks, and nobody waits for ever."""
    with launched(folder, *LONG, "--steps", 10**6, "--name", "silent") as process:
        wait_for_line(folder, "silent", 2)
        silent = process_of(folder, "silent", rank=1)
        os.kill(silent, signal.SIGSTOP)
        try:
            status, output = end_of(process, seconds=90)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(silent, signal.SIGKILL)
    assert status != 0 and "Process 1 has given no sign of life for 30 seconds" in output, output
