"""Runs of several processes in PyTorch, some started by scripts/launch/local.sh, against the same run on one device."""

import contextlib
import functools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

import pytest
from conftest import ROOT
from engines import INSTALLED
from jobs import Job, assert_close, make_images, metrics

from common.runs.checkpoint import CURRENT, read
from common.system.errors import UserError

pytestmark = pytest.mark.skipif("bit_pytorch" not in INSTALLED, reason="torch is not installed")


SHORT = ("--steps", 4, "--eval_every", 2)
LONG = ("--batch", 4, "--batch_split", 1, "--steps", 14, "--eval_every", 0, "--checkpoint_every", 1)


@pytest.fixture
def job(server, tmp_path):
    """job("name", *flags): a run of PyTorch on two classes of images."""
    make_images(tmp_path)
    return functools.partial(Job, server("bit_pytorch"), tmp_path)


class Launched(Job):
    """A job that torchrun starts: the only process that is known here."""

    def __enter__(self) -> Self:
        command = [ROOT / "scripts" / "launch" / "local.sh", "bit_pytorch", *map(str, self.flags)]
        variables = {"PYTHONPATH": str(ROOT), "PYTHON": sys.executable, "NUM_PROCESSES": str(self.num_processes)}
        self.processes = [Launcher(command, self.folder, self.variables | variables)]
        return self


class Launcher(subprocess.Popen):
    """scripts/launch/local.sh; `output` is what all of its processes have said."""

    def __init__(self, command: list, folder: Path, variables: dict[str, str]):
        self.log = folder / "log"
        with open(self.log, "w") as log:
            super().__init__(command, cwd=folder, env=os.environ | variables, stdout=log, stderr=subprocess.STDOUT)

    @property
    def output(self) -> str:
        return self.log.read_text()


def process_of(folder: Path, name: str, rank: int) -> int:
    """The id of one process of a run, as the operating system tells it."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
            wanted = {b"bit_pytorch.train", name.encode(), f"RANK={rank}".encode()}
            if wanted <= set(words.split(b"\0")) and (path / "cwd").resolve() == folder:
                return int(path.name)
    raise AssertionError(f"{name} has no process {rank}.")


def test_copies_in_float32(job, tmp_path):
    """Micro-batches, mixup, an evaluation set that the processes cannot share evenly, the best weights; one writes."""
    flags = ("--precision", "float32", *SHORT)
    job("alone", *flags).finish()
    output = "".join(job("two", *flags, num_processes=2).finish())
    assert_close(tmp_path, "two", "alone", 1e-5)
    assert output.count("Wrote runs/two/weights.npz") == output.count("step 4: test top-1") == 1


def test_shards_in_float64(job, tmp_path):
    """Parameters and optimizer, Adam clipped with a moving average, are gathered for what is written."""
    flags = ("--remat", "--recipe", "coyo_pretrain", "--ema", 0.5, "--clip", 0.5, *SHORT)
    job("alone", *flags).finish()
    job("two", *flags, "--shard_parameters", num_processes=2).finish()
    assert_close(tmp_path, "two", "alone", 1e-9)
    ours, theirs = (read(tmp_path / "runs" / name / CURRENT).arrays for name in ("two", "alone"))
    assert {key: array.shape for key, array in ours.items()} == {key: array.shape for key, array in theirs.items()}


@pytest.mark.slow  # its quick sibling kills JAX: tests/test_devices_jax.py
def test_stopped_killed_and_resumed_by_fewer(job, server, tmp_path):
    """SIGTERM to torchrun saves first; kill -9 of one process ends all; one process goes on where two ended."""
    flags = ("--model", "ViT-mu/16", *LONG, "--steps", 200, "--eval_every", 50)  # known to torchrun, and small
    job("alone", *flags, "--checkpoint_every", 0).finish()
    launched = functools.partial(Launched, server("bit_pytorch"), tmp_path, num_processes=2)
    with launched("two", *flags, "--checkpoint_every", 0) as two:
        two.wait_for_line(2)
        two.processes[0].send_signal(signal.SIGTERM)
        [(status, output)] = two.ends()
    step = read(tmp_path / "runs" / "two" / CURRENT).step
    assert status != 0 and f"Stopped after step {step}; to resume: " in output and 2 <= step < 200
    with launched("two", *flags) as two:
        two.wait_for_line(step + 3)
        os.kill(process_of(tmp_path, "two", rank=1), signal.SIGKILL)
        [(status, output)] = two.ends(60)
    assert status != 0 and "error: Another process of this run has ended" in output, output
    assert "is intact; the same command continues after it." in output and "Continuing after step" in output
    job("two", *flags, "--checkpoint_every", 0).finish()
    assert_close(tmp_path, "two", "alone", 1e-9)


def test_a_batch_that_processes_cannot_share(job, tmp_path):
    with job("odd", "--batch", 14, "--mixup", 0, "--shard_parameters", num_processes=2) as two:
        assert two.processes[0].wait() == 2
        assert two.processes[0].output == (
            "error: --batch_split 2 does not divide the batch of 7 on each device; choose a divisor.\n"
        )
    assert not (tmp_path / "runs").exists()


def test_shards_need_several_processes(run):
    done = run("bit_pytorch.train", "--weights", "none", "--shard_parameters", status=2)
    assert "--shard_parameters needs several processes" in done.stderr


@pytest.mark.parametrize(
    ("variables", "words"),
    (
        ("WORLD_SIZE=two", "WORLD_SIZE is 'two', expected a whole number"),
        ("WORLD_SIZE=2", "LOCAL_RANK is not set, expected a whole number"),
        ("WORLD_SIZE=2 LOCAL_RANK=-1", "LOCAL_RANK is '-1', expected a whole number"),
        ("WORLD_SIZE=2 LOCAL_RANK=0", "RANK is not set, expected a whole number"),
        ("WORLD_SIZE=2 LOCAL_RANK=0 RANK=0", "MASTER_PORT is not set, expected a whole number"),
        ("WORLD_SIZE=2 LOCAL_RANK=0 RANK=0 MASTER_PORT=1", "environment variable MASTER_ADDR expected, but not set);"),
    ),
)
def test_an_environment_that_torchrun_would_not_make(run, variables, words):
    done = run("bit_pytorch.train", "--steps", 1, variables=dict(v.split("=") for v in variables.split()), status=2)
    assert words in done.stderr and "start the processes with torchrun" in done.stderr


def test_a_rank_beyond_the_world_is_refused_at_once(monkeypatch):
    """PyTorch would wait for the others, for two hours."""
    devices = pytest.importorskip("bit_pytorch.devices")
    for name, value in {"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="RANK is 2 of a WORLD_SIZE of 2, expected less"):
        devices.Devices()


def test_a_tpu_that_does_not_answer(run):
    """As if torch_tpu were installed, on a machine without a TPU."""
    done = run("bit_pytorch.train", "--steps", 1, imported=["torch_tpu"], status=2)
    assert "torch_tpu is installed and no TPU answers (" in done.stderr and "device string: tpu)" in done.stderr


@pytest.mark.slow
def test_each_process_has_one_tpu_and_float32_in_full():
    """torch_tpu gives PyTorch's device for others' hardware its name, and each process its own TPU as number 0."""
    code = """
import sys, types, torch
from bit_pytorch import devices
torch.utils.rename_privateuse1_backend("tpu")
sys.modules["torch_tpu"] = types.ModuleType("torch_tpu")
torch.set_float32_matmul_precision("medium")
device = devices.local_device(3)
print(device, devices.BACKENDS[device.type], torch.get_float32_matmul_precision(), torch.backends.cuda.flash_sdp_enabled())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"WORLD_SIZE": "4"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "tpu:0 tpu_dist highest False\n"


@pytest.mark.slow
def test_as_many_processes_give_the_same_bits(job, tmp_path):
    """Killed and resumed, shards or copies."""
    for flags in ((), ("--shard_parameters",)):
        whole, killed = f"whole{len(flags)}", f"killed{len(flags)}"
        job(whole, *LONG, *flags, num_processes=2).finish()
        with job(killed, *LONG, *flags, num_processes=2) as two:
            two.wait_for_line(5)
            two.processes[0].kill()
            assert all(status != 0 for status, _ in two.ends(60))
        job(killed, *LONG, *flags, num_processes=2).finish()
        assert metrics(tmp_path, whole) == metrics(tmp_path, killed)
        ours, theirs = (read(tmp_path / "runs" / name / CURRENT).arrays for name in (killed, whole))
        assert ours.keys() == theirs.keys() and all(ours[key].tobytes() == theirs[key].tobytes() for key in ours)


@pytest.mark.slow
def test_from_one_process_to_three_with_shards_and_back(job, tmp_path):
    """Three do not divide what they share: 9 images, 2 classes."""
    flags = ("--steps", 12, "--batch", 12, "--eval_every", 6)
    job("alone", *flags).finish()
    for number, (num_processes, options) in enumerate(((1, ()), (3, ("--shard_parameters",)))):
        with job("many", *flags, *options, num_processes=num_processes) as many:
            many.wait_for_line(3 * number + 2)
            many.processes[0].send_signal(signal.SIGTERM)
            assert "Stopped after step" in many.ends()[0][1]
    job("many", *flags).finish()
    assert_close(tmp_path, "many", "alone", 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ((), ("--shard_parameters",)))
def test_copies_and_shards_of_which_only_some_parameters_are_trained(job, tmp_path, flag):
    """Clipped by the norm of what is trained, over all processes."""
    flags = (*SHORT, "--train_only", "norm", "--clip", 0.1, "--weight_decay", 0.1, "--ema", 0.5)
    job("alone", *flags).finish()
    job("two", *flags, *flag, num_processes=2).finish()
    assert_close(tmp_path, "two", "alone", 1e-9)


@pytest.mark.slow
def test_a_process_that_no_longer_answers_ends_the_job(job):
    """It is stopped, as if its machine were gone: nobody's connection breaks, and nobody waits for ever."""
    with job("silent", *LONG, "--steps", 10_000, num_processes=2) as two:
        two.wait_for_line(2)
        two.processes[1].send_signal(signal.SIGSTOP)
        status = two.processes[0].wait(90)
    output = two.processes[0].output
    assert status != 0 and "Process 1 has given no sign of life for 30 seconds" in output, output
