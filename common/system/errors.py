"""The exception for mistakes that a user can mend, and the end of a command."""

import contextlib
import errno
import os
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

# The variables in which launchers state the number of a process:
PROCESS = ("RANK", "SLURM_PROCID", "JAX_PROCESS_ID", "OMPI_COMM_WORLD_RANK", "TPU_WORKER_ID")
SECONDS_FOR_THE_FIRST = 10
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Control characters, line ends, those that reverse the direction of text, and bytes that are not UTF-8:
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(Exception):
    """One sentence: what was found, what was expected, what to do. Commands print it and exit with status 2."""


@contextlib.contextmanager
def exit_with_sentence() -> Iterator[None]:
    """The end of every command: on a UserError its sentence on stderr and exit status 2, on Ctrl-C status 130.

    Where nobody reads its results any more, as in `| head`, it ends quietly, with the status of SIGPIPE.
    """
    status = None
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # after common/system/quiet.py
    try:
        try:
            yield
        except SystemExit as end:
            status = end.code or 0
        if sys.stdout:
            sys.stdout.flush()  # at its end, Python would complain in words of its own
    except UserError as error:
        status = 2
        say_last(str(error))
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except OSError as error:
        status = status or 128 + signal.SIGPIPE
        if error.errno in DISK_FULL:
            status = 2
            say_last(f"Cannot write ({error.strerror}); free the disk, or choose another place.")
        elif error.errno != errno.EPIPE or not is_unheard():
            raise
        silence(sys.stdout)
    if status is not None:
        sys.exit(status)


def is_unheard() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def silence(file: TextIO) -> None:
    """Let go what is still printed to `file`."""
    with contextlib.suppress(OSError, ValueError):  # no file at all, as in a notebook
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def say_last(sentence: str) -> None:
    """Print the sentence that a command ends with.

    Of several processes the first one speaks first, since the others mostly have the same to say: they wait a while,
    in which whoever started them ends them.
    """
    if next((number for name in PROCESS if (number := os.environ.get(name))), "0") != "0":
        time.sleep(SECONDS_FOR_THE_FIRST)
    with contextlib.suppress(OSError):
        print(f"error: {printable(sentence)}", file=sys.stderr, flush=True)


# What frameworks say, whose errors have types of their own, or none: PyTorch on a GPU and a CPU, XLA, TensorFlow, C++.
OUT_OF_MEMORY = re.compile(
    "out of memory|can't allocate memory|RESOURCE_EXHAUSTED|OOM when allocating|bad_alloc", re.IGNORECASE
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the machine's memory, or a device's, does not suffice."""
    return isinstance(error, MemoryError) or isinstance(error, Exception) and bool(OUT_OF_MEMORY.search(str(error)))


def of_memory(error: BaseException, flags: str) -> UserError:
    """The sentence for it; `flags` are what helps."""
    return UserError(f"Memory does not suffice ({reason(error)[:200].rstrip('.')}); give {flags}.")


def reason(error: BaseException) -> str:
    """The reason that a library gives, for a place within a sentence: its first line, or else the error's type."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def printable(name: object) -> str:
    """A name from the disk as a person may see it, and any file may hold it: `\\n` in place of a line end, `\\xff` of a byte."""

    def escaped(found: re.Match) -> str:
        byte = found[0].encode(errors="surrogateescape") if "\udc80" <= found[0] <= "\udcff" else b""
        return f"\\x{byte[0]:02x}" if byte else found[0].encode("unicode_escape").decode()

    return UNPRINTABLE.sub(escaped, str(name))


def shortened(word: str, length: int = 100) -> str:
    """The beginning of a word that is too long for a sentence."""
    return word if len(word) <= length else f"{word[:length]}..."


def nearest(word: str, known, count: int = 3) -> str:
    """The end of a sentence on a misspelt `word`: `; did you mean a, b?`, or a full stop when nothing known is near."""
    import difflib

    names = {str(name).lower(): str(name) for name in known}
    close = difflib.get_close_matches(word.lower(), names, n=count, cutoff=0.5)
    return f"; did you mean {', '.join(names[name] for name in close)}?" if close else "."
