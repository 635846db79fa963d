"""What a person sees of a run: a bar in a terminal, plain lines elsewhere, and the same lines in a log file."""

import sys
import time
from collections.abc import Iterator
from typing import Self, TextIO

from tqdm import tqdm

from common.errors import UserError, silence

LINE_SECONDS = 10  # between plain lines


class Count:
    """How many of `total` units (0: unknown) are done: a bar in a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, what: str, total: int, unit: str, done: int = 0):
        scaled = unit == "B"
        self.number = (lambda n: tqdm.format_sizeof(n) + unit) if scaled else str
        hidden = not sys.stderr.isatty()
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
    """Loss, images per second and time left of a run of `num_steps`."""

    def __init__(self, num_steps: int, step: int, batch: int, log: TextIO):
        self.num_steps, self.step, self.batch, self.log = num_steps, step, batch, log
        self.bar = tqdm(total=num_steps, initial=step, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True)
        self.last_time, self.last_line = time.monotonic(), 0.0

    def advance(self, step: int, loss: float) -> float:
        """Show that `step` steps are done; returns images per second since the last call."""
        now = time.monotonic()
        speed = (step - self.step) * self.batch / max(now - self.last_time, 1e-9)
        self.bar.update(step - self.step)
        self.bar.set_postfix_str(f"loss {loss:.4f}, {speed:.0f} images/s")
        seconds_left = (self.num_steps - step) * self.batch / speed
        line = f"step {step:,}/{self.num_steps:,}: loss {loss:.4f}, {speed:.0f} images/s, {seconds_left:.0f} s left"
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
        with tqdm.external_write_mode():
            show(text)

    def exclude(self, seconds: float) -> None:
        """Do not count these seconds as training."""
        self.last_time += seconds

    def close(self) -> None:
        """Take the bar away."""
        self.bar.close()

    def _keep(self, text: str) -> None:
        try:
            print(text, file=self.log, flush=True)
        except OSError as error:
            raise UserError(f"Cannot write {self.log.name} ({error.strerror or error}); free its disk.") from error


def show(text: str, file: TextIO | None = None) -> None:
    """Print a line. Where nobody reads any more, or the disk behind it is full, work goes on in silence."""
    file = file or sys.stdout
    try:
        print(text, file=file, flush=True)
    except OSError:
        silence(file)


def note(text: str) -> None:
    """A line beside the results: on stderr, as bars are."""
    with tqdm.external_write_mode(sys.stderr):
        show(text, sys.stderr)
