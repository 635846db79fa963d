"""`parquet:` files: the batches of a folder of the same images, by offset or by row group; what is broken is one sentence."""

import json
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from processes import run_without
from test_batches import assert_same, batch_of, recipe_of

from common.data.batches import TrainBatches
from common.data.sources import index, parquet, parquet_columns
from common.datasets import open_dataset
from common.system.errors import UserError

SAMPLE = open_dataset("cifar10-sample")
pyarrow = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
GOLDEN = ROOT / "tests/golden/datasets-5.2.0"  # images of both samples, written by Hugging Face `datasets` 5.2.0
IMAGE = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
METADATA = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": SAMPLE.class_names}}


def table(numbers: range, split: str = "train", metadata: dict | None = METADATA, **columns) -> "pyarrow.Table":
    """Images of the sample with their labels; `columns` replace them, or are left out where they are None."""
    own = SAMPLE.splits[split]
    images = [{"bytes": own.read(i), "path": "/etc/passwd"} for i in numbers]  # a path that nobody may open
    found = {"image": pyarrow.array(images, IMAGE), "label": pyarrow.array(own.labels[list(numbers)])}
    found = {name: column for name, column in (found | columns).items() if column is not None}
    facts = None if metadata is None else {"huggingface": json.dumps({"info": {"features": metadata}})}
    return pyarrow.table(found).replace_schema_metadata(facts)


def write(path: Path, rows: "pyarrow.Table", **options) -> Path:
    """As `datasets` does: labels compressed, images as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"compression": {"image.bytes": "NONE", "label": "SNAPPY"}, "use_dictionary": ["label"]} | options
    pq.write_table(rows, path, **options)
    return path


KINDS = {  # how a file is written, and whether its images then lie as they are
    "datasets": ({}, True),
    "pages of format 2": ({"data_page_version": "2.0", "data_page_size": 5000, "write_batch_size": 3}, True),
    "many row groups": ({"row_group_size": 9}, True),
    "snappy": ({"compression": "snappy"}, False),
    "snappy, pages of format 2": ({"compression": "snappy", "data_page_version": "2.0", "row_group_size": 9}, False),
    "a dictionary": ({"use_dictionary": True, "compression": "NONE", "row_group_size": 9}, False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_those_of_the_same_images(tmp_path, kind):
    options, as_they_are = KINDS[kind]
    write(tmp_path / "data/train-00000-of-00002.parquet", table(range(0, 500, 10)), **options)
    write(tmp_path / "data/train-00001-of-00002.parquet", table(range(500, 1000, 10)), **options)
    write(tmp_path / "data/validation-00000-of-00001.parquet", table(range(30), "test"), **options)
    dataset = open_dataset(f"parquet:{tmp_path}")
    assert dataset.class_names == SAMPLE.class_names and [*dataset.splits] == ["train", "val"]
    expected = {"train": SAMPLE.splits["train"].take(np.arange(0, 1000, 10)), "val": SAMPLE.splits["test"]}
    for name, split in dataset.splits.items():
        np.testing.assert_array_equal(split.labels, expected[name].labels[: len(split)])
        assert [split.read(i) for i in range(len(split))] == [expected[name].read(i) for i in range(len(split))]
    train = dataset.splits["train"]
    assert ((train.read.__self__.arrays["start"] >= 0) == as_they_are).all() and train.forks == as_they_are
    assert train.describe(53).startswith("in row 3 of ") and train.describe(53).endswith("train-00001-of-00002.parquet")
    recipe = recipe_of(batch=32)
    for step in (0, 3, 7):  # of three epochs
        batches = (TrainBatches(split, recipe, 5) for split in (train, expected["train"]))
        assert_same(*(batch_of(each, step) for each in batches))


def test_what_datasets_writes():
    dataset = open_dataset(f"parquet:{GOLDEN}/labels")
    split, own = dataset.splits["train"], SAMPLE.splits["train"]
    assert dataset.class_names == SAMPLE.class_names
    assert [split.read(i) for i in range(6)] == [own.read(i) for i in range(0, 1000, 170)]
    assert split.labels.tolist() == own.labels[::170].tolist() and (split.read.__self__.arrays["start"] >= 0).all()
    split = open_dataset(f"parquet:{GOLDEN}/captions").splits["test"]
    own = open_dataset("captions-sample").splits["test"].take(np.arange(4))
    assert [*split.captions] == [*own.captions] and [split.read(i) for i in range(4)] == [own.read(i) for i in range(4)]


def test_columns_and_classes_without_metadata(tmp_path):
    """Names of classes are sorted; the bytes may be a column of their own; other columns do not matter."""
    names = pyarrow.array([SAMPLE.class_names[label] for label in SAMPLE.splits["train"].labels[::50]])
    images = pyarrow.array([SAMPLE.splits["train"].read(i) for i in range(0, 1000, 50)])
    numbers = pyarrow.array(range(20))
    rows = table(range(0, 1000, 50), metadata=None, image=None, jpg=images, label=names, other=numbers)
    path = write(tmp_path / "a.parquet", rows, compression="zstd")
    dataset = open_dataset(f"parquet:{path}")
    assert dataset.class_names == SAMPLE.class_names
    assert dataset.splits["train"].labels.tolist() == SAMPLE.splits["train"].labels[::50].tolist()
    assert dataset.splits["train"].decode(7).shape == (32, 32, 3)


def test_a_split_whose_labels_are_hidden(tmp_path):
    """As ImageNet's test images on the hub."""
    write(tmp_path / "train.parquet", table(range(3)))
    write(tmp_path / "test.parquet", table(range(3), label=pyarrow.array([-1] * 3)))
    dataset = open_dataset(f"parquet:{tmp_path}")
    assert [*dataset.splits] == ["train"] and dataset.notes == ("The labels of test are all -1: it is left out.",)


def test_row_groups_are_read_once_by_many_threads(tmp_path, monkeypatch):
    """Those asked for last are kept, in bounded memory, and an epoch goes through few of them at a time."""
    write(tmp_path / "train.parquet", table(range(0, 1000, 10)), compression="snappy", row_group_size=5)
    monkeypatch.setattr(parquet, "KEPT_BYTES", 40_000)  # of twenty row groups of about 4,600 bytes
    split = open_dataset(f"parquet:{tmp_path}").splits["train"]
    rows, made = split.read.__self__, []
    read_group = rows.column.make
    rows.column.make = lambda group: made.append(group) or read_group(group)
    assert rows.column.most == 8 and split.blocks.mixed == 4
    order = split.blocks.permutation(np.random.default_rng(0))
    places = iter(order.tolist())
    found, lock = {}, threading.Lock()

    def work() -> None:
        while True:
            with lock:
                i = next(places, None)
            if i is None:
                return
            found[i] = split.read(i)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == list(range(20)) and len(rows.column.known) == 8
    assert all(found[i] == SAMPLE.splits["train"].read(10 * i) for i in range(100))


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """A file whose index is kept."""
    monkeypatch.setattr(index, "QUICK_SECONDS", -1)
    path = write(tmp_path / "train.parquet", table(range(0, 1000, 10)))
    os.utime(path, (1_600_000_000, 1_600_000_000))
    return path


def test_an_index_is_kept_until_a_file_changes(kept, monkeypatch):
    scans, scan = [], parquet.scan
    monkeypatch.setattr(parquet, "scan", lambda shards: scans.append(1) or scan(shards))
    first, again = (open_dataset(f"parquet:{kept}").splits["train"] for _ in range(2))
    assert len(scans) == 1 and [first.read(i) for i in range(100)] == [again.read(i) for i in range(100)]
    write(kept, table(range(0, 100, 10)))
    assert len(open_dataset(f"parquet:{kept}").splits["train"]) == 10 and len(scans) == 2


@pytest.mark.parametrize("compression", ["NONE", "SNAPPY"])
def test_a_file_that_changes_behind_its_index(kept, compression):
    """Its time and size as before: the footer is looked at whenever the file is opened, and an image's length."""
    write(kept, table(range(0, 1000, 10)), compression=compression)
    os.utime(kept, (1_600_000_000, 1_600_000_000))
    split = open_dataset(f"parquet:{kept}").splits["train"]
    data = kept.read_bytes()
    kept.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
    os.utime(kept, (1_600_000_000, 1_600_000_000))
    assert len(open_dataset(f"parquet:{kept}").splits["train"]) == 100
    with pytest.raises(
        UserError,
        match=r"image in row 9 of .*train\.parquet cannot be read \(its file is damaged, or has changed since",
    ):
        split.decode(9)
    kept.write_bytes(data[:1000])
    with pytest.raises(UserError, match=r"row 9 of .* cannot be read"):
        split.decode(9)


# --- what is broken


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: b"PAR1",
        lambda data: b"text" * 500,
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data[-3000:],
        lambda data: flipped(data, 5),  # the header of the first page
        lambda data: data[:-8] + b"\xff\xff\xff\x7f" + data[-4:],  # the footer's length
        lambda data: data[:-8] + b"\x00\x00\x00\x00" + data[-4:],
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path, change):
    path = write(tmp_path / "a.parquet", table(range(9)))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=r"The file .*a\.parquet is no whole parquet file \(.*\); fetch it again"):
        open_dataset(f"parquet:{path}")


def test_any_bytes_of_headers_are_met(tmp_path):
    """Random changes end in a sentence, or in images that lie within the file."""
    path = write(tmp_path / "a.parquet", table(range(0, 90, 10)), row_group_size=4)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    places = [*range(4, 60), *range(len(whole) - 2500, len(whole))]
    for _ in range(100):
        data = bytearray(whole)
        for place in rng.choice(places, rng.integers(1, 4)):
            data[place] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            split = open_dataset(f"parquet:{path}").splits["train"]
            assert all(len(split.read(i)) <= len(whole) for i in range(len(split)))
        except (UserError, OSError) as error:  # which a split names, see below
            assert isinstance(error, UserError) or re.search("broken|damaged", str(error))


MANY = pyarrow.array([{"bytes": b"x", "path": ""}] * 3, IMAGE)
ONLY_PATHS = pyarrow.array([{"bytes": b"x", "path": ""}, {"bytes": None, "path": "/etc/passwd"}, None], IMAGE)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image": None}, "has 0 columns of images, expected one, or one called image or img"),
        ({"image": None, "a": MANY, "b": MANY}, "has 2 columns of images: a, b, expected one"),
        (
            {"label": None},
            "has 0 columns of labels, expected one, or one called label or labels or fine_label, or captions in one",
        ),
        ({"image": ONLY_PATHS}, "Row 1 of .* holds no bytes of its image, at most a path, which is not followed"),
        ({"label": pyarrow.array([1, None, 2])}, r"column label of .* holds None in row 1, expected a class"),
        ({"label": pyarrow.array([1, 2, -1])}, r"holds the label '-1', and .* the 10 classes"),
        ({"label": pyarrow.array([-1, -1, -1])}, r"The labels of parquet:.* are all -1, which is no class"),
        ({"label": pyarrow.array([1, 2, 99])}, r"holds the label '99', and .* the 10 classes"),
        ({"label": pyarrow.array([1.0, 2.0, 3.0])}, r"column label of .* holds double, expected numbers or names"),
    ],
)
@pytest.mark.parametrize("compression", ["NONE", "SNAPPY"])
def test_columns_that_are_none(tmp_path, columns, words, compression):
    rows = table(range(3), **columns)
    path = write(tmp_path / "a.parquet", rows, compression=compression, use_dictionary=False)
    with pytest.raises(UserError, match=words):
        open_dataset(f"parquet:{path}")


def test_files_that_do_not_belong_together(tmp_path):
    write(tmp_path / "train-0.parquet", table(range(3)))
    write(tmp_path / "train-1.parquet", table(range(3), metadata=None))
    with pytest.raises(UserError, match=r"train-1\.parquet has other columns or classes than those before it"):
        open_dataset(f"parquet:{tmp_path}")
    write(tmp_path / "train-1.parquet", table(range(3))).rename(tmp_path / "val.parquet")
    write(tmp_path / "val.parquet", table(range(0)))
    with pytest.raises(UserError, match="The split val of .* has no image at all; add some"):
        open_dataset(f"parquet:{tmp_path}")
    rows = table(range(3)).replace_schema_metadata({"huggingface": "{"})
    with pytest.raises(UserError, match=r"The metadata `huggingface` of .* cannot be read"):
        open_dataset(f"parquet:{write(tmp_path / 'a.parquet', rows)}")


def test_a_row_group_that_declares_more_than_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_columns, "MAX_READ_BYTES", 5000)
    path = write(tmp_path / "a.parquet", table(range(9)), compression="SNAPPY")
    with pytest.raises(
        UserError, match=r"no whole parquet file \(a row group of [89],\d\d\d bytes, expected at most 5,000"
    ):
        open_dataset(f"parquet:{path}")


def test_a_dictionary_that_repeats_much(tmp_path, monkeypatch):
    """A thousand rows of one large image take its place once in the file, and more memory than a file may when read."""
    images = pyarrow.array([{"bytes": b"x" * 50_000, "path": ""}] * 1000, IMAGE)
    rows = pyarrow.table({"image": images, "label": pyarrow.array([0] * 1000)})
    path = write(tmp_path / "a.parquet", rows, compression="snappy", use_dictionary=True)
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(parquet_columns, "MAX_READ_BYTES", 2**20)
    split = open_dataset(f"parquet:{path}").splits["train"]
    with pytest.raises(
        UserError, match=r"row 0 of .* cannot be read \(its row group is broken: a row group with more than"
    ):
        split.decode(0)
    monkeypatch.setattr(parquet_columns, "MAX_DICTIONARY_BYTES", 10_000)
    with pytest.raises(UserError, match="no whole parquet file .a dictionary of more than 10,000 bytes"):
        open_dataset(f"parquet:{path}")


def test_more_rows_than_bytes(tmp_path):
    """As no file with images has, and a small one with lengths of runs may."""
    rows = pyarrow.table({"image": pyarrow.array([None] * 10**5, IMAGE), "label": pyarrow.array([0] * 10**5)})
    path = write(tmp_path / "a.parquet", rows)
    with pytest.raises(UserError, match="no whole parquet file .100,000 rows, more than the file has bytes"):
        open_dataset(f"parquet:{path}")


def test_captions_that_are_too_long(tmp_path):
    captions = pyarrow.array(["a", "b" * 70_000, "c"])
    path = write(tmp_path / "a.parquet", table(range(3), caption=captions), use_dictionary=True)
    with pytest.raises(UserError, match=r"Row 1 of .*a\.parquet holds captions of more than 65,536 letters"):
        open_dataset(f"parquet:{path}")


def test_without_pyarrow():
    code = (
        "from common.datasets import open_dataset\nfrom common.system.errors import UserError\n"
        "try:\n    open_dataset('parquet:none')\nexcept UserError as error:\n    print(error)\n"
    )
    done = run_without(("pyarrow",), code)
    assert done.stdout.strip() == "parquet: needs the package pyarrow; install it with `pip install pyarrow`.", (
        done.stderr
    )


@pytest.mark.slow  # test_tar.py has a quick one
def test_a_run_on_files(run, tmp_path):
    """As a user starts it, with the embedded model."""
    write(tmp_path / "train.parquet", table(range(0, 1000, 20)))
    write(tmp_path / "test.parquet", table(range(20), "test"))
    flags = ("--steps", 2, "--batch", 16, "--resize", 36, "--crop", 32, "--warmup_steps", 0)
    assert "Wrote runs" in run("bit_jax.train", "--dataset", f"parquet:{tmp_path}/*.parquet", *flags).output
