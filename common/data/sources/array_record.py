"""ArrayRecord files of `tf.train.Example` records, three small protocol-buffer messages, read without TensorFlow.

Source: https://www.tensorflow.org/datasets/external_tfrecord and https://protobuf.dev/programming-guides/encoding
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from common.system.errors import UserError, reason
from common.system.protobuf import fields, varint

CHUNK = 256  # records read at once while labels are collected


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of records, as `ArrayRecordDataSource` asks for it; it opens the file when the first record is read."""

    filename: str
    take: int
    skip: int = 0

    @property
    def examples_in_shard(self) -> int:
        """The methods of a shard that array_record calls."""
        return self.take


def open_records(shards: list[Shard]) -> Sequence[bytes]:
    """The records of all shards, one after the other. UserError where the package array_record is missing."""
    try:
        from array_record.python.array_record_data_source import ArrayRecordDataSource
    except ImportError as error:
        raise UserError(
            "TFDS datasets need the package array_record; install it with `pip install array_record`."
        ) from error
    return ArrayRecordDataSource(shards)


def read_record(records: Sequence[bytes], i: int, where: str) -> bytes:
    """Record `i`, a serialized `tf.train.Example`. UserError for a damaged file; `where` names the split."""
    try:
        return records[i]
    except (RuntimeError, ValueError, IndexError) as error:  # what the C++ reader raises for a damaged file
        raise UserError(
            f"Record {i} of {where} cannot be read ({reason(error)}); prepare the dataset again."
        ) from error


def collect(records: Any, keys: tuple[str, ...], where: str) -> Iterator[tuple[list[int | bytes], ...]]:
    """The values of `keys` for every record, in order. UserError for a damaged file; `where` names the split."""
    for start in range(0, len(records), CHUNK):
        try:
            chunk = records.__getitems__(range(start, min(start + CHUNK, len(records))))
        except (RuntimeError, ValueError, IndexError) as error:
            raise UserError(
                f"The split {where} cannot be read ({reason(error)}); prepare the dataset again."
            ) from error
        for i, record in enumerate(chunk, start):
            yield tuple(feature_values(record, key, f"Record {i} of {where}") for key in keys)


def feature_values(record: bytes, key: str, where: str) -> list[int | float | bytes]:
    """The values of feature `key` of a serialized `tf.train.Example`: numbers or bytes, those of a matrix row by row.

    Raises UserError for another message, and for a missing feature; `where` names the record.
    """
    try:
        for _, features in fields(record):
            for _, entry in fields(features):
                name, feature = (value for _, value in fields(entry))
                if name == key.encode():
                    return _numbers_or_bytes(feature)
    except (IndexError, TypeError, ValueError) as error:
        raise UserError(f"{where} is no tf.train.Example ({error}); prepare the dataset again.") from error
    raise UserError(f"{where} lacks the feature {key!r}; prepare the dataset again.")


def _numbers_or_bytes(feature: bytes) -> list[int | float | bytes]:
    """A Feature's values: field 1 is a BytesList, 2 a FloatList, 3 an Int64List; numbers are packed or not."""
    values = []
    for kind, items in fields(feature):
        for _, item in fields(items):
            if kind == 3:
                values += _packed(item) if isinstance(item, bytes) else [_signed(item)]
            elif kind == 2:
                values += np.frombuffer(item if isinstance(item, bytes) else item.to_bytes(4, "little"), "<f4").tolist()
            elif kind == 1 and isinstance(item, bytes):
                values.append(item)
            else:
                raise ValueError(f"a value of kind {kind} where bytes or a number belongs")
    return values


def _packed(data: bytes) -> list[int]:
    numbers, position = [], 0
    while position < len(data):
        number, position = varint(data, position)
        numbers.append(_signed(number))
    return numbers


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number
