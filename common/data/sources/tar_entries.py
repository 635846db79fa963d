"""The entries of a tar archive and where their bytes lie, read without taking anything on trust.

Source: POSIX.1-2001, `pax` (ustar and pax headers), and GNU tar's manual (long names, sizes in base 256). Python's `tarfile`
ends silently at a damaged header and at an archive cut off between two entries, and reads headers of any declared size.
"""

import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

BLOCK = 512  # bytes of a header; what follows one fills whole blocks
EMPTY = bytes(BLOCK)
MAX_NAME_BYTES = 2**16  # of the blocks that hold a long name, or attributes
REGULAR, LONG_NAME, LONG_LINK, ATTRIBUTES, OF_ALL = b"0\0" + b"7", b"L", b"K", b"x", b"g"
WITHOUT_BYTES = b"123456"  # links, devices, folders and pipes
GZIP, ZSTD, XZ, BZIP2 = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh"


class BrokenArchive(ValueError):
    """What is wrong, for a place within a sentence; the caller adds the archive's name."""


class Entry(NamedTuple):
    """A regular file within an archive."""

    name: str
    start: int  # of its bytes; its header is the block before
    size: int
    check: int  # CRC-32 of that block


def entries(file: BinaryIO, archive_bytes: int) -> Iterator[Entry]:
    """The regular files of an uncompressed archive, in its order; nothing of links, devices and folders is told.

    No bytes of a file are read, and no size is believed beyond the archive's end. Raises BrokenArchive, also for an archive
    without its end mark, and OSError.
    """
    place, attributes = 0, {}
    while (header := read(file, place, BLOCK)) != EMPTY:
        kind, name, size = parsed(header, place)
        start, size = place + BLOCK, int(attributes.get("size", size))
        size = 0 if kind in WITHOUT_BYTES else size
        if size < 0 or start + size > archive_bytes:
            raise BrokenArchive(f"ends in the middle of {name}, at byte {archive_bytes:,} of {start + size:,}")
        if kind in LONG_NAME + LONG_LINK + ATTRIBUTES + OF_ALL:
            if size > MAX_NAME_BYTES:
                raise BrokenArchive(f"has a name of {size:,} bytes at byte {place:,}")
            text = read(file, start, size)
            if kind == LONG_NAME:
                attributes["path"] = text.rstrip(b"\0").decode(errors="surrogateescape")
            elif kind == ATTRIBUTES:
                attributes |= records(text, place)
        else:
            if any(key.startswith("GNU.sparse") for key in attributes) or kind == b"S":
                raise BrokenArchive(f"holds the sparse file {name}, whose bytes do not lie in one piece")
            if kind in REGULAR:
                yield Entry(attributes.get("path", name), start, size, zlib.crc32(header))
            attributes = {}
        place = start + -(-size // BLOCK) * BLOCK
    check_end(file, place)


def read(file: BinaryIO, place: int, size: int) -> bytes:
    """Exactly `size` bytes."""
    file.seek(place)
    data = file.read(size)
    if len(data) < size:
        raise BrokenArchive(f"is cut off: it ends at byte {place + len(data):,} without the mark of an archive's end")
    return data


def parsed(header: bytes, place: int) -> tuple[bytes, str, int]:
    """(kind, name, size) of a header whose checksum is right."""
    if place == 0 and header.startswith((GZIP, ZSTD, XZ, BZIP2)):
        raise BrokenArchive("is compressed, which leaves no way to a single image")
    try:
        stated = int(header[148:156].strip(b" \0"), 8)
        size = from_256(header[124:136]) if header[124] & 128 else int(header[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        stated = size = -1
    if stated != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        raise BrokenArchive(f"has no tar header at byte {place:,}, where one belongs")
    name = header[:100].partition(b"\0")[0]
    if header[257:263] == b"ustar\0" and header[345] and header[156:157] not in (LONG_NAME, ATTRIBUTES):
        name = header[345:500].partition(b"\0")[0] + b"/" + name
    return header[156:157], name.decode(errors="surrogateescape"), size


def from_256(field: bytes) -> int:
    """A number of GNU tar that octal digits cannot hold: its bytes, but for the highest bit."""
    return int.from_bytes(bytes([field[0] & 127]) + field[1:])


def records(text: bytes, place: int) -> dict[str, str]:
    """The attributes of a pax header: `LENGTH KEY=VALUE`, LENGTH bytes each with its line end."""
    found = {}
    while text := text.lstrip(b"\0"):
        digits, _, _ = text[:20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = text[len(digits) + 1 : length - 1].partition(b"=")
        if not equals or text[length - 1 : length] != b"\n" or key == b"size" and not value.isdigit():
            raise BrokenArchive(f"has attributes that cannot be read at byte {place:,}")
        found[key.decode(errors="replace")] = value.decode(errors="surrogateescape")
        text = text[length:]
    return found


def check_end(file: BinaryIO, place: int) -> None:
    """Raise BrokenArchive where anything but zeros follows the end mark: other tools would read over it in silence."""
    file.seek(place)
    while chunk := file.read(2**20):
        if chunk.strip(b"\0"):
            raise BrokenArchive(f"holds more behind its end mark at byte {place:,}, as archives do that were joined")
