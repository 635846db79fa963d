"""Starts training runs quickly, again and again, and kills them: `python forker.py ENGINE`, driven line by line.

The engine is imported once; every run is a fork, which has not yet touched a device. A line of input is a JSON object
{argv, log, [delay, signal], [kill_at]}: `signal` is sent after `delay` seconds, or the run kills itself before its
`kill_at`-th operation on files, in the middle of it where it writes. The line of output is {status, seconds}; a status
below zero is the signal that ended the run.
"""

import importlib
import json
import os
import signal
import sys
import time

from common import config, files, run
from common.errors import UserError


def main(engine: str) -> None:
    load = importlib.import_module("numpy_engine" if engine == "numpy" else f"{engine}.train").load_main()
    for line in sys.stdin:
        order = json.loads(line)
        started, child = time.monotonic(), os.fork()
        if not child:
            train(engine, load, order)
        if "signal" in order:
            time.sleep(order["delay"])
            os.kill(child, order["signal"])
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"status": status, "seconds": time.monotonic() - started}), flush=True)


def train(engine: str, load, order: dict) -> None:
    """What `python -m ENGINE.train` does, in this process, which ends with it."""
    status = 1
    try:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if engine == "numpy":
            make_it_small()
        if "kill_at" in order:
            Killer(order["kill_at"])
        load(run.Run(config.parse(config.TrainConfig, order["argv"], "train", ""), engine))
        status = 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except SystemExit as end:
        status = end.code
    except BaseException:  # noqa: BLE001
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def make_it_small() -> None:
    """A model of some thousand parameters, and no curves."""
    from common import models, report

    row = models.find_model(models.DEFAULT_MODEL)
    tiny = models.ResNetConfig((1,), 0.5, 2)
    object.__setattr__(row, "config", lambda num_classes=None: tiny)
    report.plot_curves = lambda *_: None


class Killer:
    """Counts operations on files, and kills this process in the middle of one of them."""

    def __init__(self, kill_at: int):
        self.left = kill_at
        for name in ("replace", "fsync", "unlink", "mkdir"):
            setattr(os, name, self.watch(getattr(os, name)))
        files.open = run.open = self.open

    def watch(self, operation):
        def watched(*arguments, **options):
            self.count()
            return operation(*arguments, **options)

        return watched

    def open(self, *arguments):
        self.count()
        return HalfWriter(open(*arguments), self)

    def count(self, last_deed=lambda: None) -> None:
        self.left -= 1
        if self.left == 0:
            last_deed()
            os.kill(os.getpid(), signal.SIGKILL)


class HalfWriter:
    """A file whose writes may end half-way, together with the process."""

    def __init__(self, file, killer: Killer):
        self.file, self.killer = file, killer

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data):
        self.killer.count(lambda: (self.file.write(data[: len(data) // 2]), self.file.flush()))
        return self.file.write(data)

    def writelines(self, lines):
        for line in lines:
            self.write(line)


if __name__ == "__main__":
    main(sys.argv[1])
