"""What may surround a run or happen to it, for tests of what it leaves: a small model, disks that are slow or full, ends."""

import errno
import itertools
import os
import resource
import signal
import sys
import time
import types

from common.runs import log
from common.system import files


def prepare(
    small: bool = False, slow_disk: float = 0.0, file_limit: int | None = None, deed: str | None = None, at: int = 0,
    imported: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """Prepare this process: a `deed` of DEEDS at its `at`-th operation on files; no file growing beyond `file_limit` bytes.

    Modules of the names `imported`, empty ones, count as imported.
    Every sync takes `slow_disk` seconds: an ended process is no power cut, what it wrote is there wherever the disk is.
    """
    os.fsync = lambda descriptor: time.sleep(slow_disk)
    sys.modules.update({name: types.ModuleType(name) for name in imported})
    if small:
        make_it_small()
    if file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    if deed:
        Disturbance(DEEDS[deed], at)


def make_it_small() -> None:
    """A model of some thousand parameters, and no curves."""
    from common import models
    from common.reports import curves

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
        files.open = log.open = self.open

    def watch(self, operation):
        def watched(*arguments, **options):
            self.count()
            return operation(*arguments, **options)

        return watched

    def open(self, path, mode="r", *arguments, **options):
        if mode.strip("rbt"):  # a disk that nobody can write to is still read
            self.count()
        arguments = (path, mode, *arguments)
        return HalfWriter(open(*arguments, **options), self)

    def count(self, half=lambda: None) -> None:
        number = next(self.numbers)
        if number == self.at:
            half()
        if number == self.at or (self.for_ever and number > self.at):
            self.act()


class Proxy:
    """A file with some methods replaced."""

    def __init__(self, file, **methods):
        self.__dict__ |= {"file": file, **methods}

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


class HalfWriter(Proxy):
    """A file whose writes may end half-way."""

    def __init__(self, file, disturbance: Disturbance):
        super().__init__(file)
        self.disturbance = disturbance

    def write(self, data):
        begin = lambda: (self.file.write(data[: len(data) // 2]), self.file.flush())
        lasting = self.disturbance.act is not DEEDS["stop"][0]  # a stopped one goes on and writes the whole
        self.disturbance.count(begin if lasting else lambda: None)
        return self.file.write(data)

    def writelines(self, lines):
        for line in lines:
            self.write(line)
