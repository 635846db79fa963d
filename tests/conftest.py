"""Fixtures that several test files share."""

import importlib.util
import os
import tempfile
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
