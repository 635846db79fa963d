"""Where the values of a parquet column lie in the file: the headers of its pages, read without the values.

Source: https://parquet.apache.org/docs/file-format (PageHeader in parquet.thrift; PLAIN encoding) and the compact protocol of
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md. pyarrow reads whole row groups only, of up
to 100 MB as Hugging Face `datasets` writes them; but it writes images as they are, so that each lies in one piece.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from common.system.protobuf import varint

DATA, DICTIONARY, DATA_2 = 0, 2, 3  # kinds of pages
PLAIN = 0  # an encoding: for bytes, 4 bytes with the length of each before it
HEADER_BYTES = (2**12, 2**16, 2**22)  # tried one after the other: statistics may make a header long
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 12  # types of the compact protocol


class BrokenColumn(ValueError):
    """What is wrong, for a place within a sentence; the caller adds the file's name."""


class Page(NamedTuple):
    """A page of a column."""

    kind: int
    start: int  # of what follows its header
    size: int  # in the file
    unpacked: int  # in memory
    encoding: int
    levels: int | None  # bytes of levels before the values; None: each kind of level states its own


def pages(file: BinaryIO, start: int, end: int) -> Iterator[Page]:
    """The pages of the column that lies between two bytes of a file. Raises BrokenColumn, and OSError."""
    while start < end:
        header, start = page_header(file, start, end)
        kind, unpacked, size = (header.get(field, -1) for field in (1, 2, 3))
        facts = header.get({DATA: 5, DICTIONARY: 7, DATA_2: 8}.get(kind), {})
        levels = (facts.get(5, 0) + facts.get(6, 0)) if kind == DATA_2 else None
        if not (0 <= size <= end - start and 0 <= unpacked and 0 <= (levels or 0) <= size):
            raise BrokenColumn(f"a page that does not fit at byte {start:,}")
        yield Page(kind, start, size, unpacked, facts.get(4 if kind == DATA_2 else 2, -1), levels)
        start += size


def page_header(file: BinaryIO, start: int, end: int) -> tuple[dict[int, Any], int]:
    """({number of a field: value}, the byte behind it)."""
    for most in HEADER_BYTES:
        file.seek(start)
        data = file.read(min(most, end - start))
        try:
            header, length = structure(data, 0)
            return header, start + length
        except IndexError:
            if len(data) < most:
                break
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise BrokenColumn(f"no header of a page at byte {start:,} ({error})") from error
    raise BrokenColumn(f"no header of a page at byte {start:,}")


def structure(data: bytes, place: int) -> tuple[dict[int, Any], int]:
    """({number of a field: value}, the place behind it); IndexError where the data end before, ValueError for other types."""
    fields, number = {}, 0
    while first := data[place]:
        step, kind, place = first >> 4, first & 15, place + 1
        if step:
            number += step
        else:
            number, place = zigzag(data, place)
        if kind in (TRUE, FALSE):
            fields[number] = kind == TRUE
        elif kind in (I16, I32, I64):
            fields[number], place = zigzag(data, place)
        elif kind in (BYTE, DOUBLE, BINARY):
            length, place = varint(data, place) if kind == BINARY else ({BYTE: 1, DOUBLE: 8}[kind], place)
            place += length  # of statistics, which nobody asks for
        elif kind == STRUCT:
            fields[number], place = structure(data, place)
        else:
            raise ValueError(f"a value of type {kind}")
    return fields, place + 1


def zigzag(data: bytes, place: int) -> tuple[int, int]:
    """(a number with a sign, the place behind it)."""
    number, place = varint(data, place)
    return (number >> 1) ^ -(number & 1), place


def bytes_of_pages(file: BinaryIO, found: list[Page], num_levels: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(starts, sizes) int64 [N] of the values of an uncompressed column of bytes, or None where they do not lie as they are.

    `num_levels` counts the kinds of levels that precede the values of a page. Without one byte of the values themselves. Null
    values have no place, so there may be fewer than the pages state. Raises BrokenColumn, and OSError.
    """
    starts, sizes = [], []
    for page in found:
        if page.kind not in (DATA, DATA_2) or page.encoding != PLAIN or page.size != page.unpacked:
            return None
        place, end = page.start + (page.levels or 0), page.start + page.size
        for _ in range(num_levels if page.levels is None else 0):
            place += 4 + number_at(file, place, end)
        while place < end:
            size = number_at(file, place, end)
            starts.append(place + 4)
            sizes.append(size)
            place += 4 + size
    return np.array(starts, np.int64), np.array(sizes, np.int64)


def number_at(file: BinaryIO, place: int, end: int) -> int:
    """The length that stands at a place, of what ends within the page."""
    file.seek(place)
    number = int.from_bytes(file.read(4), "little")
    if place + 4 + number > end:
        raise BrokenColumn(f"a value of {number:,} bytes at byte {place:,} of a page that ends at {end:,}")
    return number
