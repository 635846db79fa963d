"""Reading protocol buffers, as far as the formats here use them.

Source: https://protobuf.dev/programming-guides/encoding
"""

from collections.abc import Iterator


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of a message's fields, in their order. ValueError or IndexError where it is none."""
    position = 0
    while position < len(message):
        tag, position = varint(message, position)
        kind, width = tag & 7, {1: 8, 5: 4}.get(tag & 7)
        if kind not in (0, 1, 2, 5):
            raise ValueError(f"wire type {kind}")
        value = None
        if kind in (0, 2):
            value, position = varint(message, position)
        if kind != 0:
            start, position = position, position + (value if kind == 2 else width)
            if position > len(message):
                raise ValueError(f"{position - start} bytes declared, {len(message) - start} left")
            value = message[start:position]
        yield tag >> 3, int.from_bytes(value, "little") if width else value


def varint(message: bytes, position: int) -> tuple[int, int]:
    """(number, next position): seven bits a byte, the lowest first, until a byte below 128."""
    number = shift = 0
    while True:
        byte = message[position]
        number |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return number, position
        if shift > 63:
            raise ValueError("a number has more than 64 bits")
