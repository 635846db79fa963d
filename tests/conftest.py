"""Fixtures that several test files share, and `--seconds`."""

import gc
import importlib.util
import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from engines import NAMES, Engine
from processes import ROOT, Process, Server  # noqa: F401  the tests take ROOT from here

# The suite starts JAX in dozens of processes: compile what is the same in them once.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"bit-zoo-jax-cache-{os.getuid()}")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Workers share the cores: threads of OpenMP that wait for one another's turn are up to ten times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# PyTorch brings triton, which aborts the process when its copy of LLVM is loaded after TensorFlow's.
if importlib.util.find_spec("triton"):
    importlib.import_module("triton")


@pytest.fixture(params=NAMES)
def engine(request) -> Engine:
    """Each engine whose framework is installed."""
    return Engine(request.param)


@pytest.fixture(scope="session")
def server():
    """server("bit_jax"): what starts processes of a package; its own process begins when first asked for."""
    servers = {}

    def server_of(package: str) -> Server:
        if package not in servers:
            servers[package] = Server(package)
        return servers[package]

    yield server_of
    for each in servers.values():
        each.close()


@pytest.fixture
def run(tmp_path, server):
    """Run a command of the project in an empty folder: run("bit_jax.train", "--steps", 2)."""

    def run_command(module: str, *arguments, status: int = 0, **disturbance) -> Process:
        done = server(module.partition(".")[0]).start(module, arguments, tmp_path, **disturbance)
        assert done.wait() == status, done.output
        if status == 2:
            assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: "), done.stderr
        return done

    return run_command


def pytest_collection_finish():
    """Imported modules stay: without this, walking through them is a tenth of the time of tests that make many objects."""
    gc.freeze()
    gc.set_threshold(5_000)


def pytest_sessionfinish():
    gc.unfreeze()  # JAX reports what is left when the process ends


def pytest_addoption(parser):
    parser.addoption(
        "--seconds", action="store_true", help="print the seconds that each test file takes in its workers"
    )


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("seconds"):
        reports = [each for some in terminalreporter.stats.values() for each in some if hasattr(each, "duration")]
        seconds, tests = Counter(), Counter(each.nodeid.partition("::")[0] for each in reports if each.when == "call")
        for each in reports:
            seconds[each.nodeid.partition("::")[0]] += each.duration
        for file, took in seconds.most_common():
            terminalreporter.write_line(f"{took:7.1f} s {tests[file]:5} tests  {file}")
        terminalreporter.write_line(f"{seconds.total():7.1f} s {tests.total():5} tests  in all")
