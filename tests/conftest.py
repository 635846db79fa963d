"""Fixtures that several test files share."""

import json
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
# Workers share the cores: threads of OpenMP that wait for one another's turn are up to ten times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(Path(__file__).parent))

from engines import NAMES, Engine  # noqa: E402


@pytest.fixture(params=NAMES)
def engine(request) -> Engine:
    """Each engine whose framework is installed."""
    return Engine(request.param)


class CommandServer:
    """Commands of one engine, which is imported once; see command_server.py."""

    def __init__(self, engine: str):
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "command_server.py"), engine], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def run(self, module: str, argv: list[str], folder: Path) -> subprocess.CompletedProcess:
        order = {"module": module, "argv": argv, "folder": str(folder)}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return subprocess.CompletedProcess([module, *argv], answer["status"], answer["stdout"], answer["stderr"])

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


@pytest.fixture(scope="session")
def command_servers():
    """{engine: its server}, started when first asked for."""
    servers = {}
    yield servers
    for server in servers.values():
        server.close()


@pytest.fixture
def run(tmp_path, command_servers):
    """Run a command of the project in an empty folder: run("bit_jax.train", "--steps", 2)."""

    def run_command(module: str, *arguments, status: int = 0) -> subprocess.CompletedProcess:
        engine = module.partition(".")[0]
        if engine not in command_servers:
            command_servers[engine] = CommandServer(engine)
        done = command_servers[engine].run(module, [*map(str, arguments)], tmp_path)
        assert done.returncode == status, done.stdout + done.stderr
        if status == 2:
            assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: "), done.stderr
        return done

    return run_command
