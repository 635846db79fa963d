"""The one exception that a user caused and can mend."""


class UserError(Exception):
    """One sentence: what was found, what was expected, what to do. Commands print it and exit with status 2."""


def nearest(word: str, known, count: int = 3) -> str:
    """The end of a sentence on a misspelt `word`: `; did you mean a, b?`, or a full stop when nothing known is near."""
    import difflib

    names = {str(name).lower(): str(name) for name in known}
    close = difflib.get_close_matches(word.lower(), names, n=count, cutoff=0.5)
    return f"; did you mean {', '.join(names[name] for name in close)}?" if close else "."
