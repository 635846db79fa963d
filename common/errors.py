"""The one exception that a user caused and can mend."""

import contextlib
import sys
from collections.abc import Iterator


class UserError(Exception):
    """One sentence: what was found, what was expected, what to do. Commands print it and exit with status 2."""


@contextlib.contextmanager
def exit_with_sentence() -> Iterator[None]:
    """How every command ends on a UserError: its sentence on stderr, and exit status 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def nearest(word: str, known, count: int = 3) -> str:
    """The end of a sentence on a misspelt `word`: `; did you mean a, b?`, or a full stop when nothing known is near."""
    import difflib

    names = {str(name).lower(): str(name) for name in known}
    close = difflib.get_close_matches(word.lower(), names, n=count, cutoff=0.5)
    return f"; did you mean {', '.join(names[name] for name in close)}?" if close else "."
