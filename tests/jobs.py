"""Training runs of several processes on this machine, with a model of some thousand parameters."""

import contextlib
import itertools
import json
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from engines import float64
from PIL import Image
from processes import Server

from common.evaluation.predictions import read_predictions
from common.runs.checkpoint import CURRENT, read

FLAGS = ("--dataset", "images", "--weights", "none", "--precision", "float64", "--batch", 8, "--batch_split", 2,
         "--mixup", 0.1, "--resize", 36, "--crop", 32, "--steps", 20, "--warmup_steps", 1, "--base_lr", 0.01,
         "--val_fraction", 0.3, "--batch_eval", 3, "--eval_every", 6, "--log_every", 1, "--checkpoint_every", 2,
         "--keep_best", "--workers", 1)  # fmt: skip


def make_images(folder: Path) -> None:
    """Two classes, 14 images to train with and 14 to test."""
    for split, name, number in itertools.product(("train", "test"), ("cat", "dog"), range(7)):
        path = folder / "images" / split / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng([number, name == "dog"]).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(path)


def make_pairs(folder: Path) -> None:
    """Twelve pictures to train with and four to test on, of one to three captions each, in `pairs`."""
    for split, count in (("train", 12), ("test", 4)):
        (folder / "pairs" / split).mkdir(parents=True)
        lines = []
        for i in range(count):
            pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "pairs" / split / f"{i}.png")
            lines.append("\t".join([f"{i}.png", *(f"a picture of {i} {'cats ' * n}" for n in range(1 + i % 3))]))
        (folder / "pairs" / split / "captions.tsv").write_text("\n".join(lines) + "\n")


class Job:
    """Processes that train together in `folder`; entered, they have been started, and left, they have ended."""

    def __init__(self, server: Server, folder: Path, name: str, *flags, num_processes: int = 1, variables: dict = {}):  # noqa: B006
        self.server, self.folder, self.name, self.num_processes = server, folder, name, num_processes
        self.flags, self.variables = (*FLAGS, "--name", name, *flags), {"CUDA_VISIBLE_DEVICES": ""} | variables

    def __enter__(self) -> Self:
        places = places_of(self.num_processes) if self.num_processes > 1 else [{}]
        module = f"{self.server.package}.train"
        self.processes = [
            self.server.start(module, self.flags, self.folder, self.variables | place, small=True) for place in places
        ]
        return self

    def __exit__(self, *error) -> None:
        for process in self.processes:
            process.kill()  # only if the test has failed
            process.wait()

    def ends(self, seconds: float = 300) -> list[tuple[int, str]]:
        """(exit status, output) of every process, once all have ended by themselves."""
        until = time.monotonic() + seconds
        return [(process.wait(until - time.monotonic()), process.output) for process in self.processes]

    def finish(self) -> list[str]:
        """The outputs of the whole run, which nobody disturbs."""
        with self:
            ends = self.ends()
        assert all(status == 0 for status, _ in ends), ends
        return [output for _, output in ends]

    def wait_for_line(self, number: int) -> None:
        """Return once the run has written so many lines of metrics."""
        path, until = self.folder / "runs" / self.name / "metrics.jsonl", time.monotonic() + 300
        while not (path.exists() and path.read_bytes().count(b"\n") >= number):
            assert time.monotonic() < until and self.processes[0].poll() is None, self.processes[0].output
            time.sleep(0.02)


def stop_one_of_two(job: Callable[..., Job]) -> int:
    """SIGTERM to one process of the run "two" saves once and ends both with 143; the step that they came to."""
    with job("two", "--checkpoint_every", 0, num_processes=2) as two:
        two.wait_for_line(4)
        two.processes[1].send_signal(signal.SIGTERM)
        ends = two.ends()
    step = read(two.folder / "runs" / "two" / CURRENT).step
    assert [status for status, _ in ends] == [143, 143] and 3 <= step < 20, ends
    assert f"Stopped after step {step}; to resume: " in ends[0][1] and "Stopped after" not in ends[1][1]
    return step


def places_of(num_processes: int) -> list[dict[str, str]]:
    """What the environment of each process tells it: by torchrun's, JAX's and TensorFlow's rules."""
    ports = free_ports(num_processes)
    addresses = [f"127.0.0.1:{port}" for port in ports]
    return [
        {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(ports[0]),
            "WORLD_SIZE": str(num_processes),
            "RANK": str(number),
            "LOCAL_RANK": str(number),
            "JAX_COORDINATOR_ADDRESS": addresses[0],
            "JAX_NUM_PROCESSES": str(num_processes),
            "JAX_PROCESS_ID": str(number),
            "TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": number}}),
        }
        for number in range(num_processes)
    ]


def on_several_devices(engine, server, folder: Path, program, count: int, numbers: dict) -> tuple[Mapping, dict]:
    """What `program`, a module of tests/, has trained on `count` devices and on one, by these `numbers`."""
    if numbers.get("shards") and engine.name == "bit_tf2":
        pytest.skip("TensorFlow keeps all parameters on every device")
    places = places_of(count) if engine.name == "bit_pytorch" else [{}]
    arguments, hidden = (engine.name, count, folder / "found.npz", json.dumps(numbers)), {"CUDA_VISIBLE_DEVICES": ""}
    started = [server(engine.name).start(program.__name__, arguments, folder, hidden | place) for place in places]
    assert [process.wait() for process in started] == [0] * len(started), started[0].output
    with float64(engine):
        alone = {name: value for name, value in numbers.items() if name != "shards"}
        return np.load(folder / "found.npz"), program.train(engine, engine.devices.FirstDevice(), **alone)


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def metrics(folder: Path, name: str) -> list[dict]:
    """The lines of a run, apart from how fast they came."""
    lines = [json.loads(line) for line in (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def assert_close(folder: Path, name: str, reference: str, bound: float) -> None:
    """The same lines of metrics, predictions and weights, as far as rounding allows."""
    ours, theirs = metrics(folder, name), metrics(folder, reference)
    assert [list(line) for line in ours] == [list(line) for line in theirs]
    for line, expected in zip(ours, theirs):
        np.testing.assert_allclose(list(line.values()), list(expected.values()), rtol=bound)
    told, expected = (read_predictions(folder / "runs" / each / "predictions.npz") for each in (name, reference))
    np.testing.assert_array_equal(told.labels, expected.labels)
    np.testing.assert_array_equal(told.predicted, expected.predicted)
    np.testing.assert_allclose(told.probability, expected.probability, rtol=max(bound, 1e-6))  # kept in float32
    found, expected = (np.load(folder / "runs" / each / "weights.npz") for each in (name, reference))
    with found, expected:
        assert found.files == expected.files
        for key in found.files:
            assert np.abs(found[key] - expected[key]).max() <= bound * max(np.abs(expected[key]).max(), 1e-3), key
