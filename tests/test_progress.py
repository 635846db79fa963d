"""What a person sees of a run: in a terminal, in one that has no columns, and in a file."""

import fcntl
import io
import os
import pty
import select
import struct
import sys
import termios

import pytest

from common.system import progress
from common.system.progress import Count, Progress, duration


@pytest.fixture
def terminal(monkeypatch):
    """terminal(columns): a new terminal in place of stderr; returns what reads all that was shown there."""
    ends = []

    def terminal_of(columns: int):
        reader, writer = pty.openpty()
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
        monkeypatch.setattr(sys, "stderr", os.fdopen(writer, "w"))
        ends.append(reader)

        def read() -> str:
            sys.stderr.flush()
            shown = b""
            while select.select([reader], [], [], 0.2)[0]:  # a terminal hands over what it has, in pieces
                shown += os.read(reader, 2**16)
            return shown.decode()

        return read

    yield terminal_of
    for reader in ends:
        os.close(reader)


def test_the_bar_moves_with_every_step_and_shows_one_speed(terminal, monkeypatch):
    read = terminal(100)
    shown = Progress(40, 0, 8, io.StringIO())
    shown.bar.mininterval = 0
    for step in range(1, 6):
        shown.count(step)
    shown.advance(5, 0.25)
    text = read()
    assert all(f"| {step}/40 steps [" in text for step in range(1, 6)), text
    assert "loss 0.2500, " in text and " images/s]" in text and "it/s" not in text and "step/s" not in text


def test_results_stand_above_the_bar(terminal, monkeypatch):
    read = terminal(60)
    monkeypatch.setattr(sys, "stdout", sys.stderr)  # one terminal shows both
    with Count("images", 3, "batches") as count:
        count.advance(1)
        progress.result("a.jpg: cat 98.1%")
        progress.show("b.jpg: dog 97.2%")
    lines = read().replace("\r\n", "\n").split("\n")
    assert any(line.endswith("\ra.jpg: cat 98.1%") for line in lines), lines  # the bar was wiped away before
    assert any(line.endswith("\rb.jpg: dog 97.2%") for line in lines), lines


def test_a_terminal_without_columns_gets_plain_lines(terminal, monkeypatch, capsys):
    """What `docker exec -t` and some continuous integration start."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    read = terminal(0)
    log = io.StringIO()
    shown = Progress(40, 0, 8, log)
    shown.count(1)
    shown.advance(2, 0.25)
    with Count("images", 3, "batches") as count:
        count.advance(1)
    assert capsys.readouterr().out.splitlines()[0] == "step 1/40"
    assert read().splitlines() == ["images: 1 of 3 batches"] and "step 2/40: loss 0.2500, " in log.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.9, "9.9 s"), (12, "12 s"), (240, "4 min"), (5999, "100 min"), (3 * 3600, "3.0 h"),
     (1e7, "2,777.8 h")],
)  # fmt: skip
def test_durations_for_a_person(seconds, words):
    assert duration(seconds) == words
