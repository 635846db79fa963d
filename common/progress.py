"""What a person sees of a run: a bar in a terminal, plain lines elsewhere, and the same lines in a log file."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

LINE_SECONDS = 10  # between plain lines


def follow(batches: Iterator[dict], total: int, what: str) -> Iterator[dict]:
    """The same batches, while a bar (in a terminal, else plain lines) says how many of `total` have passed."""
    bar = tqdm(total=total, desc=what, unit="batch", disable=not sys.stderr.isatty(), dynamic_ncols=True, leave=False)
    last_line = time.monotonic()
    with bar:
        for number, batch in enumerate(batches, start=1):
            yield batch
            bar.update()
            if bar.disable and time.monotonic() - last_line > LINE_SECONDS:
                print(f"{what}: {number} of {total} batches", flush=True)
                last_line = time.monotonic()


class Progress:
    """Loss, images per second and time left of a run of `num_steps`."""

    def __init__(self, num_steps: int, step: int, batch: int, log: Path):
        self.num_steps, self.step, self.batch = num_steps, step, batch
        self.log = open(log, "a")
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
        print(line, file=self.log, flush=True)
        if self.bar.disable and (now - self.last_line > LINE_SECONDS or step == self.num_steps):
            print(line, flush=True)
            self.last_line = now
        self.step, self.last_time = step, now
        return speed

    def say(self, text: str) -> None:
        """A line above the bar, and in the log."""
        print(text, file=self.log, flush=True)
        with tqdm.external_write_mode():
            print(text, flush=True)

    def exclude(self, seconds: float) -> None:
        """Do not count these seconds as training."""
        self.last_time += seconds

    def close(self) -> None:
        self.bar.close()
        self.log.close()
