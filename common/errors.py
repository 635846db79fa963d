"""The one exception that a user caused and can mend."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator

# Where launchers tell a process its number:
PROCESS = ("RANK", "SLURM_PROCID", "JAX_PROCESS_ID", "OMPI_COMM_WORLD_RANK", "TPU_WORKER_ID")
SECONDS_FOR_THE_FIRST = 10


class UserError(Exception):
    """One sentence: what was found, what was expected, what to do. Commands print it and exit with status 2."""


@contextlib.contextmanager
def exit_with_sentence() -> Iterator[None]:
    """How every command ends on a UserError: its sentence on stderr, and exit status 2.

    Of several processes the first one speaks first, since the others mostly have the same to say: they wait a while,
    in which whoever started them ends them.
    """
    try:
        yield
    except UserError as error:
        if next((number for name in PROCESS if (number := os.environ.get(name))), "0") != "0":
            time.sleep(SECONDS_FOR_THE_FIRST)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def reason(error: BaseException) -> str:
    """What a library says is wrong, for a place within a sentence: its first line, or else the error's type."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def nearest(word: str, known, count: int = 3) -> str:
    """The end of a sentence on a misspelt `word`: `; did you mean a, b?`, or a full stop when nothing known is near."""
    import difflib

    names = {str(name).lower(): str(name) for name in known}
    close = difflib.get_close_matches(word.lower(), names, n=count, cutoff=0.5)
    return f"; did you mean {', '.join(names[name] for name in close)}?" if close else "."
