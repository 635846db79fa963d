"""Commands of the project as processes of their own that start quickly: server.py imports their engine once."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Server:
    """Starts processes of one engine, or of `common`, to which numpy_engine.py belongs here."""

    def __init__(self, package: str):
        self.package = package
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "server.py"), package], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def ask(self, **order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, module: str, arguments, folder: Path, variables: dict = {}, **disturbance) -> "Process":  # noqa: B006
        """`python -m MODULE ARGUMENTS...` in `folder`, with `variables` in its environment, and disturbances.py's `prepare`."""
        argv = [*map(str, arguments)]
        return Process(self, self.ask(module=module, argv=argv, folder=str(folder), variables=variables, **disturbance))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


class Process:
    """A process that a server has started, like subprocess.Popen; `stdout` and `stderr` are what it has said."""

    def __init__(self, server: Server, pid: int):
        self.server, self.pid, self.returncode = server, pid, None
        self.stdout = self.stderr = ""

    @property
    def output(self) -> str:
        """All that it has said, errors last."""
        return self.stdout + self.stderr

    def poll(self, seconds: float = 0) -> int | None:
        """The exit status, or None where it goes on for so long."""
        if self.returncode is None:
            self.returncode, (stdout, stderr) = self.server.ask(child=self.pid, seconds=seconds)
            self.stdout, self.stderr = self.stdout + stdout, self.stderr + stderr
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        """The exit status, or TimeoutExpired."""
        if self.poll(timeout) is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout, self.output)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


WITHOUT = """
import sys
from importlib.machinery import PathFinder
find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.partition(".")[0] in {packages!r} else find_spec(name, *rest)
"""


def run_without(
    packages: tuple[str, ...], code: str, *arguments: str, folder: Path = ROOT, place: Path = ROOT
) -> subprocess.CompletedProcess:
    """Run Python `code` in `folder`, by the project in `place`, as if some packages were not installed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(packages=packages) + code, *arguments], check=False, cwd=folder,
        env=environment | {"PYTHONPATH": str(place)}, capture_output=True, text=True,
    )  # fmt: skip
