"""Starts training runs quickly, again and again, and disturbs them: `python forker.py ENGINE`, driven line by line.

The engine is imported once; every run is a fork, which has not yet touched a device. A line of input is a JSON object
{argv} and what is to happen to the run: `signal` after `delay` seconds, or once the file `written` holds something; a
`deed` of DEEDS at its `at`-th operation on files; no file growing beyond `file_limit` bytes; a disk that takes `slow_disk`
seconds for every sync. The line of output is {status, seconds, output}; a status below zero is the signal that ended the
run.
"""

import errno
import importlib
import itertools
import json
import os
import resource
import select
import signal
import sys
import time
import traceback

import cv2  # noqa: F401  what every run would import anew
import simplejpeg  # noqa: F401
from PIL import Image

from common import config, files, run
from common.errors import UserError


def main(engine: str) -> None:
    Image.init()
    load = importlib.import_module("numpy_engine" if engine == "numpy" else f"{engine}.train").load_main()
    for line in sys.stdin:
        order, (output, end) = json.loads(line), os.pipe()
        started, child = time.monotonic(), os.fork()
        if not child:
            train(engine, load, order, end)
        os.close(end)
        text = b""
        if "signal" in order:
            text = read(output, started + order.get("delay", 0))
            while "written" in order and not holds_something(order["written"]) and not has_ended(child):
                text += read(output, time.monotonic() + 0.1)
            os.kill(child, order["signal"])
        text += read(output)
        os.close(output)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(
            json.dumps({"status": status, "seconds": time.monotonic() - started, "output": text.decode()}), flush=True
        )


def holds_something(path: str) -> bool:
    return os.path.exists(path) and os.path.getsize(path) > 0


def has_ended(child: int) -> bool:
    """Whether a process is over; it is still waited for afterwards."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def read(output: int, until: float | None = None) -> bytes:
    """What comes out of a pipe until then, or until its other end is closed."""
    text = b""
    while until is None or time.monotonic() < until:
        if select.select([output], [], [], None if until is None else max(0, until - time.monotonic()))[0]:
            part = os.read(output, 2**16)
            text += part
            if not part:
                if until is not None:
                    time.sleep(max(0, until - time.monotonic()))
                break
    return text


def train(engine: str, load, order: dict, output: int) -> None:
    """What `python -m ENGINE.train` does, in this process, which ends with it."""
    status = 1
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.fsync = lambda descriptor: None  # a kill is no power cut: what was written is there, wherever the disk is
        if engine == "numpy":
            make_it_small()
        if "slow_disk" in order:
            os.fsync = lambda descriptor: time.sleep(order["slow_disk"])
        if "file_limit" in order:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_limit"], hard))
        if "deed" in order:
            Disturbance(DEEDS[order["deed"]], order["at"])
        load(run.Run(config.parse(config.TrainConfig, order["argv"], "train", ""), engine))
        status = 0
    except UserError as error:
        print(f"error: {error}")
        status = 2
    except SystemExit as end:
        status = end.code
    except BaseException:  # noqa: BLE001
        print(traceback.format_exc())
    finally:
        sys.stdout.flush()
        os._exit(status)


def make_it_small() -> None:
    """A model of some thousand parameters, and no curves."""
    from common import curves, models

    row = models.find_model(models.DEFAULT_MODEL)
    tiny = models.ResNetConfig((1,), 0.5, 2)
    object.__setattr__(row, "config", lambda num_classes=None: tiny)
    curves.write_png = lambda *_: None


def fail() -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


DEEDS = {  # what happens, and whether to all later operations as well
    "kill": (lambda: os.kill(os.getpid(), signal.SIGKILL), False),
    "stop": (lambda: os.kill(os.getpid(), signal.SIGTERM), False),
    "fail": (fail, True),
}


class Disturbance:
    """Counts operations on files, and does its deed at one of them, half-way through where it writes."""

    def __init__(self, deed: tuple, at: int):
        (self.act, self.for_ever), self.at = deed, at
        self.numbers = itertools.count(1)  # one operation at a time, whichever thread asks
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

    def count(self, half=lambda: None) -> None:
        number = next(self.numbers)
        if number == self.at:
            half()
        if number == self.at or (self.for_ever and number > self.at):
            self.act()


class HalfWriter:
    """A file whose writes may end half-way."""

    def __init__(self, file, disturbance: Disturbance):
        self.file, self.disturbance = file, disturbance

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data):
        begin = lambda: (self.file.write(data[: len(data) // 2]), self.file.flush())
        lasting = self.disturbance.act is not DEEDS["stop"][0]  # a stopped one goes on and writes the whole
        self.disturbance.count(begin if lasting else lambda: None)
        return self.file.write(data)

    def writelines(self, lines):
        for line in lines:
            self.write(line)


if __name__ == "__main__":
    main(sys.argv[1])
