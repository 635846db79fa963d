"""What the columns of parquet files hold, and where each image lies: the pass that an index keeps."""

import contextlib
import itertools
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from common.data.sources.image_files import Unused
from common.data.sources.index import Arrays
from common.data.sources.parquet_pages import DICTIONARY, BrokenColumn, Page, bytes_of_pages, pages
from common.data.sources.shards import Shards
from common.data.sources.told import Gathered, Told
from common.system.errors import UserError, printable, reason
from common.system.files import MAX_READ_BYTES, open_regular
from common.system.progress import Count

BATCH = 64  # rows that pyarrow reads at once
MAX_DICTIONARY_BYTES = 2**24  # of a column; its writers end one at 2**20
MAX_TEXT = 2**16  # letters of an image's captions
FOOTER_BYTES = 8  # the last: the footer's length, and PAR1
LABELS = ("label", "labels", "fine_label")
CAPTIONS = ("captions", "caption", "sentences", "sentence", "text", "txt")  # also with a number, such as caption_3
IMAGES = ("image", "img", "jpg", "png")
AGAIN = "write it again, as with `to_parquet` of Hugging Face `datasets`"


def import_pyarrow() -> Any:
    """pyarrow.parquet. UserError where it is missing."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("parquet: needs the package pyarrow; install it with `pip install pyarrow`.") from error
    return pyarrow.parquet


class Columns(NamedTuple):
    """Which columns of a file hold what; the names of classes where the file states them."""

    image: str
    label: str | None
    captions: tuple[str, ...]  # of texts, or of lists of texts
    class_names: tuple[str, ...] | None


def scan(shards: Shards) -> Arrays:
    """What `Rows` and `split_of_rows` need of every split; `class_names` and what is `unused` as JSON; the column `image`.

    UserError where files are broken, or do not belong together.
    """
    arrays, gathered, unused, columns = {}, Gathered(), Unused(), None
    with Count(f"indexing {shards.name}", sum(path.stat().st_size for path in shards.watched), "B") as count:
        for split, paths in shards.splits.items():
            found = []
            for number, path in enumerate(paths):
                with open_regular(path) as file, reading(path):
                    source = import_pyarrow().ParquetFile(file)
                    own = find_columns(source, path)
                    if columns and own != columns:
                        raise UserError(f"The file {path} has other columns or classes than those before it; {AGAIN}.")
                    columns = own
                    found.append(scan_file(source, file, own, path, number))
                    for row, told in enumerate(read_rows(source, file, own, path)):
                        if not gathered.add(split, told, f"Row {row} of {path}", "a column of labels or of captions"):
                            unused.add("with an empty caption", f"{path}, row {row}")
                count.advance(path.stat().st_size)
            joined = {key: np.concatenate([part[key] for part in found]) for key in found[0]}
            joined["first"] = np.concatenate([[0], np.cumsum(joined.pop("rows"), dtype=np.int64)])
            arrays |= {f"{split}/{key}": array for key, array in joined.items()}
    arrays |= gathered.dump(shards, columns.class_names)
    return arrays | {"unused": unused.dump(shards.folder), "image": np.frombuffer(columns.image.encode(), np.uint8)}


def find_columns(source: Any, path: Path) -> Columns:
    """By the metadata of `datasets`, or else by types and names. UserError where there are several, or none."""
    schema = source.schema_arrow
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        kinds = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"The metadata `huggingface` of {path} cannot be read; {AGAIN}.") from error
    types = {field.name: field.type for field in schema}
    holding = [name for name, kind in types.items() if is_bytes(kind) and name in IMAGES or holds_bytes(kind)]
    classes = [name for name, kind in kinds.items() if kind == "ClassLabel" and name in types]
    classes = classes or [name for name in types if name in LABELS]
    image = only(holding, IMAGES, "images", path)
    captions = next(filter(None, (numbered_columns(types, name) for name in CAPTIONS)), ())
    if not classes and not captions:
        raise UserError(
            f"The file {path} has 0 columns of labels, expected one, or one called {' or '.join(LABELS)}, or captions in one called "
            f"{' or '.join(CAPTIONS)}; rename columns, and {AGAIN}."
        )
    label = only(classes, LABELS, "labels", path) if classes or not captions else None
    names = features.get(label, {}).get("names")
    names = tuple(map(str, names)) if isinstance(names, list) else None
    return Columns(image if is_bytes(types[image]) else f"{image}.bytes", label, captions, names)


def numbered_columns(types: dict[str, Any], name: str) -> tuple[str, ...]:
    """The columns of texts with this name, also with a number."""
    import pyarrow

    def is_text(kind: Any) -> bool:
        return pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)

    def holds_texts(kind: Any) -> bool:
        return (
            is_text(kind)
            or (pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind))
            and is_text(kind.value_type)
        )

    return tuple(
        other for other, kind in types.items() if re.fullmatch(rf"{name}(_?\d+)?", other) and holds_texts(kind)
    )


def is_bytes(kind: Any) -> bool:
    """Whether a type of pyarrow is that of bytes."""
    import pyarrow

    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def holds_bytes(kind: Any) -> bool:
    """Whether a type of pyarrow is that of a structure with `bytes`."""
    import pyarrow

    return pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and is_bytes(kind.field("bytes").type)


def only(found: list[str], usual: tuple[str, ...], what: str, path: Path) -> str:
    """The one column, or the first that has a usual name. UserError where none is."""
    chosen = next((name for name in usual if name in found), found[0] if len(found) == 1 else None)
    if chosen is None:
        raise UserError(
            f"The file {path} has {len(found)} columns of {what}{': ' * bool(found)}{printable(', '.join(found))}, expected "
            f"one, or one called {' or '.join(usual)}; rename or remove columns, and {AGAIN}."
        )
    return chosen


def scan_file(source: Any, file: BinaryIO, columns: Columns, path: Path, number: int) -> Arrays:
    """The row groups of one file and the places of its images, as `Rows` takes them, with the `rows` of each group.

    Raises UserError for an image that is only a path; BrokenColumn.
    """
    facts, starts, sizes, unpacked = source.metadata, [], [], []
    (leaf,) = leaves_of(facts, columns.image)
    num_levels = int(facts.schema.column(leaf).max_definition_level > 0)
    rows = [facts.row_group(group).num_rows for group in range(facts.num_row_groups)]
    if sum(rows) > os.fstat(file.fileno()).st_size:
        raise BrokenColumn(f"{sum(rows):,} rows, more than the file has bytes")
    for group, count in enumerate(rows):
        found = pages_of(facts.row_group(group).column(leaf), file)
        plain = facts.row_group(group).column(leaf).compression == "UNCOMPRESSED"
        places = bytes_of_pages(file, found, num_levels) if plain else None
        if places is None or len(places[0]) < count:
            check_nulls(source, group, columns.image, path)
            places = np.full((2, count), -1, np.int64)
        if len(places[0]) > count:
            raise BrokenColumn(f"{len(places[0])} images in a group of {count} rows")
        unpacked.append(sum(page.unpacked for page in found))
        starts.append(places[0])
        sizes.append(places[1])
    end = footer(lambda place, count: file.seek(place) * 0 or file.read(count), os.fstat(file.fileno()).st_size)
    return {
        "footer": np.array([zlib.crc32(end)], np.uint32),
        "file": np.full(len(rows), number, np.int32),
        "group": np.arange(len(rows), dtype=np.int32),
        "rows": np.array(rows, np.int64),
        "unpacked": np.array(unpacked, np.int64),
        "start": np.concatenate([*starts, np.empty(0, np.int64)]),
        "size": np.concatenate([*sizes, np.empty(0, np.int64)]),
    }


def leaves_of(facts: Any, column: str) -> list[int]:
    """The numbers of a column among those that hold values; of lists and structures there may be several."""
    paths = (facts.schema.column(i).path for i in range(facts.num_columns))
    return [i for i, path in enumerate(paths) if f"{path}.".startswith(f"{column}.")]


def pages_of(column: Any, file: BinaryIO) -> list[Page]:
    """The pages of a column in a row group, which together need no more memory than a file may. Raises BrokenColumn."""
    if not column.num_values:
        return []
    start = min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset)
    size, end = os.fstat(file.fileno()).st_size, start + column.total_compressed_size
    if not 0 <= start <= end <= size:
        raise BrokenColumn(f"the column {column.path_in_schema} ends at byte {end:,} of {size:,}")
    found = [*pages(file, start, end)]
    unpacked = sum(page.unpacked for page in found)
    if any(page.kind == DICTIONARY and page.unpacked > MAX_DICTIONARY_BYTES for page in found):
        raise BrokenColumn(f"a dictionary of more than {MAX_DICTIONARY_BYTES:,} bytes")
    if unpacked > MAX_READ_BYTES:
        raise BrokenColumn(f"a row group of {unpacked:,} bytes, expected at most {MAX_READ_BYTES:,}")
    return found


def check_nulls(source: Any, group: int, image: str, path: Path) -> None:
    """Raise UserError for the first row that holds no bytes of its image."""
    (leaf,) = leaves_of(source.metadata, image)
    facts = source.metadata.row_group(group).column(leaf).statistics
    if facts is not None and facts.has_null_count and not facts.null_count:
        return
    row = next((row for row, value in enumerate(images_of(source, group, image)) if value is None), None)
    if row is not None:
        before = sum(source.metadata.row_group(i).num_rows for i in range(group))
        raise UserError(
            f"Row {before + row} of {path} holds no bytes of its image, at most a path, which is not "
            f"followed; {AGAIN} after reading the images with `embed_table_storage`."
        )


def read_rows(source: Any, file: BinaryIO, columns: Columns, path: Path) -> Iterator[Told]:
    """The label and the captions of every row. UserError for a label that is none; BrokenColumn."""
    import pyarrow

    wanted = [*filter(None, [columns.label]), *columns.captions]
    for name in wanted:
        for group, leaf in itertools.product(range(source.metadata.num_row_groups), leaves_of(source.metadata, name)):
            pages_of(source.metadata.row_group(group).column(leaf), file)  # before pyarrow takes memory for them
    where, types = f"The column {printable(columns.label)} of {path}", pyarrow.types
    if columns.label:
        kind = source.schema_arrow.field(columns.label).type
        if not (types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)):
            raise UserError(f"{where} holds {kind}, expected numbers or names of classes; {AGAIN}.")
    for row, values in enumerate(values_of(source, wanted, range(source.metadata.num_row_groups))):
        label, texts = (values[0], values[1:]) if columns.label else (None, values)
        if columns.label and (label is None or label == ""):
            raise UserError(f"{where} holds {label!r} in row {row}, expected a class; label the row or leave it out.")
        flat = [*itertools.chain(*([text] if isinstance(text, str) else text or [] for text in texts))]
        if sum(len(text or "") for text in flat) > MAX_TEXT:
            raise UserError(f"Row {row} of {path} holds captions of more than {MAX_TEXT:,} letters; shorten them.")
        yield Told(label, [text or "" for text in flat] if columns.captions else None)


# --- what pyarrow is asked


def values_of(source: Any, columns: Sequence[str], groups: Sequence[int]) -> Iterator[tuple]:
    """The values of some columns in every row of some row groups, few rows at a time: a dictionary may repeat a large one."""
    for batch in source.iter_batches(BATCH, row_groups=list(groups), columns=list(columns), use_threads=False):
        yield from zip(*(column.to_pylist() for column in batch.columns))


def images_of(source: Any, group: int, image: str) -> list[bytes | None]:
    """The image files in one row group of a file. Raises BrokenColumn where they need more memory than a file may."""
    found, total_bytes = [], 0
    for (value,) in values_of(source, [image], [group]):
        found.append(value["bytes"] if isinstance(value, dict) else value)
        total_bytes += len(found[-1] or b"")
        if total_bytes > MAX_READ_BYTES:
            raise BrokenColumn(f"a row group with more than {MAX_READ_BYTES:,} bytes of images")
    return found


def footer(read: Callable[[int, int], bytes], size: int) -> bytes:
    """The end of a file of `size` bytes, where parquet says what it holds; short where it is cut off."""
    end = read(max(0, size - FOOTER_BYTES), FOOTER_BYTES)
    length = min(int.from_bytes(end[:4], "little"), size, MAX_READ_BYTES)
    return read(max(0, size - FOOTER_BYTES - length), length + FOOTER_BYTES)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """What pyarrow raises for a broken file becomes a UserError."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(f"The file {path} holds texts that are not in UTF-8 ({reason(error)}); {AGAIN}.") from error
    except (*broken(), BrokenColumn) as error:
        raise UserError(
            f"The file {path} is no whole parquet file ({printable(reason(error))}); fetch it again, or {AGAIN}."
        ) from error


def broken() -> tuple[type[Exception], ...]:
    """What pyarrow raises for a broken file."""
    import pyarrow

    return pyarrow.ArrowException, EOFError, OSError
