"""Lists that people write by hand or save from a spreadsheet: lines of fields, with names between commas."""

import codecs
import io
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.system.errors import UserError, printable
from common.system.files import open_regular

OTHER_QUOTES = ("''", "“”", "„“", "„”", "‘’", "‚‘", "«»", "»«")  # as people and writing programs put them around names
BYTE_ORDER_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # of Windows; else UTF-8


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text) of every line that is not empty, whatever ends it, without blanks at its ends.

    A byte-order mark is no part of the text, which is UTF-8, or UTF-16 with its mark; names that are neither
    keep their bytes. UserError where the file cannot be read.
    """
    try:
        with open_regular(path) as file:
            encoding = BYTE_ORDER_MARKS.get(file.peek(2)[:2], "utf-8-sig")
            errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
            with io.TextIOWrapper(file, encoding, errors) as lines:
                for number, line in enumerate(lines, 1):
                    if text := line.strip(" \r\n\v\f"):  # not tabs: an empty field may come last
                        yield number, text
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({why}); save it again, as plain text in UTF-8.") from error


def names(field: str, where: str) -> list[str]:
    """The names between the commas of `field`, without blanks at their ends and without the quotes of a spreadsheet.

    A spreadsheet puts quotes around a field with commas, and around a name. UserError, which begins with `where`, for
    quotes that do not pair, and for an empty name between commas.
    """
    text = field.strip()
    text = unquoted(text, where) if is_quoted(text) or has_other_quotes(text) else text
    found = [unquoted(name, where) for name in text.split(",")] if text else []
    if "" in found:
        raise UserError(f"{where} has an empty name between its commas; remove a comma, or write the name.")
    return found


def is_quoted(text: str) -> bool:
    """Whether `text` is one field in quotes."""
    return len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1].replace('""', "")


def has_other_quotes(text: str) -> bool:
    """Whether `text` lies in quotes that no spreadsheet writes, which may or may not be a part of it."""
    return len(text) > 1 and text[0] + text[-1] in OTHER_QUOTES


def unquoted(text: str, where: str) -> str:
    """One name or path without blanks at its ends and without quotes around it. UserError for half of a pair."""
    text = text.strip()
    if is_quoted(text):
        return text[1:-1].replace('""', '"').strip()
    if '"' in (text[:1], text[-1:]) or has_other_quotes(text):
        raise UserError(f"{where} has quotes that are no part of a name, in {text}; write names without quotes.")
    return text


def lookalikes(known: Sequence[str]) -> str:
    """A sentence on names that a person would take for one another, such as Sky and sky; empty without any."""
    alike = {}
    for name in known:
        seen = "".join(letter for letter in name if unicodedata.category(letter) != "Cf")  # no invisible letters
        plain = unicodedata.normalize("NFKC", seen).casefold().replace("_", " ").split()
        alike.setdefault(" ".join(plain), []).append(name)
    pairs = [" and ".join(map(repr, group)) for group in alike.values() if len(group) > 1]
    if not pairs:
        return ""
    more = f", and {len(pairs) - 3} more such groups" if len(pairs) > 3 else ""
    return f"Different classes have nearly the same name: {printable('; '.join(pairs[:3]))}{more}. Are they one?"
