"""Fixtures that several test files share."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

# The suite starts JAX in dozens of processes: compile what is the same in them once.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"bit-zoo-jax-cache-{os.getuid()}")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(Path(__file__).parent))

from engines import NAMES, Engine  # noqa: E402


@pytest.fixture(params=NAMES)
def engine(request) -> Engine:
    """Each engine whose framework is installed."""
    return Engine(request.param)


@pytest.fixture
def run(tmp_path):
    """Run a command of the project as a user does: run("bit_jax.train", "--steps", 2) in an empty folder."""

    def run_command(module: str, *arguments, status: int = 0, **options) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", module, *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | options.pop("env", {})
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, **options
        )
        assert done.returncode == status, done.stdout + done.stderr
        if status == 2:
            assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: "), done.stderr
        return done

    return run_command
