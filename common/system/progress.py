"""The progress of a run: a bar in a terminal, plain lines elsewhere, and the same lines in a log file."""

import os
import sys
import time
from collections.abc import Iterator
from typing import Self, TextIO

from tqdm import tqdm

from common.system.errors import UserError, silence

LINE_SECONDS = 10  # between plain lines


class Count:
    """Progress in units, of `total` or 0 (unknown): a bar in a terminal, a line every few seconds elsewhere."""

    def __init__(self, what: str, total: int, unit: str, done: int = 0):
        scaled = unit == "B"
        self.number = (lambda n: tqdm.format_sizeof(n) + unit) if scaled else str
        hidden = not has_terminal()
        options = {"unit_scale": scaled, "disable": hidden, "dynamic_ncols": True, "leave": False}
        self.bar = tqdm(desc=what, total=total, initial=done, unit=unit, **options)
        self.what, self.total, self.unit, self.done = what, total, "" if scaled else f" {unit}", done
        self.last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error) -> None:
        self.bar.close()

    def advance(self, count: int) -> None:
        """Show that `count` more are done."""
        self.done += count
        self.bar.update(count)
        if self.bar.disable and time.monotonic() - self.last_line > LINE_SECONDS:
            of = f" of {self.number(self.total)}" if self.total else ""
            note(f"{self.what}: {self.number(self.done)}{of}{self.unit}")
            self.last_line = time.monotonic()


def follow(batches: Iterator[dict], total: int, what: str) -> Iterator[dict]:
    """The same batches, while a person sees how many of `total` have passed."""
    with Count(what, total, "batches") as count:
        for batch in batches:
            yield batch
            count.advance(1)


class Progress:
    """Loss, images per second and time left of a run of `num_steps`, of which `step` are done."""

    def __init__(self, num_steps: int, step: int, batch: int, log: TextIO):
        self.num_steps, self.first, self.step, self.batch, self.log = num_steps, step, step, batch, log
        words = (
            "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps [{elapsed}<{remaining}{postfix}]"  # one speed: ours
        )
        hidden = not has_terminal()
        options = {"disable": hidden, "dynamic_ncols": True, "miniters": 1, "bar_format": words}
        self.bar = tqdm(total=num_steps, initial=step, **options)
        self.last_line = 0.0
        self.begin()

    def begin(self) -> None:
        """Count the time from here on as training."""
        self.begun = self.last_time = self.last_step_time = time.monotonic()

    def count(self, step: int) -> float:
        """Move the bar to `step`, which has been given to the devices; returns the seconds since the call before."""
        now = time.monotonic()
        seconds, self.last_step_time = now - self.last_step_time, now
        if not self.bar.disable:
            self.bar.update(step - self.bar.n)
        elif now - max(self.begun, self.last_line) > LINE_SECONDS:
            show(f"step {step:,}/{self.num_steps:,}")
            self.last_line = now
        return seconds

    def advance(self, step: int, loss: float) -> float:
        """Show the loss after `step` steps, which are done; returns images per second since the last call."""
        now = time.monotonic()
        speed = (step - self.step) * self.batch / max(now - self.last_time, 1e-9)
        self.bar.set_postfix_str(f"loss {loss:.4f}, {speed:.0f} images/s")
        left = duration((self.num_steps - step) * self.batch / speed)
        line = f"step {step:,}/{self.num_steps:,}: loss {loss:.4f}, {speed:.0f} images/s, {left} left"
        self._keep(line)
        if self.bar.disable and (now - self.last_line > LINE_SECONDS or step == self.num_steps):
            show(line)
            self.last_line = now
        self.step, self.last_time = step, now
        return speed

    def say(self, text: str) -> None:
        """A line above the bar, and in the log."""
        text = text.encode(errors="backslashreplace").decode()  # names of files may hold anything
        self._keep(text)
        show(text)

    def exclude(self, seconds: float) -> None:
        """Do not count these seconds as training."""
        self.last_time += seconds
        self.last_step_time += seconds

    def close(self) -> None:
        """Take the bar away."""
        self.bar.close()

    def _keep(self, text: str) -> None:
        try:
            print(text, file=self.log, flush=True)
        except OSError as error:
            raise UserError(f"Cannot write {self.log.name} ({error.strerror or error}); free its disk.") from error


def has_terminal() -> bool:
    """Whether stderr is a terminal that a bar fits into; some, as of containers, say that they have no columns."""
    try:
        return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except OSError:
        return False


def duration(seconds: float) -> str:
    """`12 s`, `4 min`, `3.1 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


def result(text: str, file: TextIO | None = None) -> None:
    """Print a line above the bars; OSError where nobody reads any more, or the disk behind it is full."""
    file = file or sys.stdout
    with tqdm.external_write_mode(file):
        print(text, file=file, flush=True)


def show(text: str, file: TextIO | None = None) -> None:
    """The same; where nobody takes the line, work goes on in silence."""
    try:
        result(text, file)
    except OSError:
        silence(file or sys.stdout)


def note(text: str) -> None:
    """A line beside the results: on stderr, as bars are."""
    show(text, sys.stderr)
