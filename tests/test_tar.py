"""`wds:` tar archives: the batches of a folder of the same images, at random access; what is broken is one sentence."""

import concurrent.futures
import io
import json
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from engines import INSTALLED
from test_batches import assert_same, batch_of, recipe_of

from common.data import blocks, checked
from common.data.batches import TrainBatches, epoch_order
from common.data.blocks import Blocks
from common.data.sources import index, tar
from common.data.sources.tar_entries import BrokenArchive, entries
from common.datasets import open_dataset
from common.system.errors import UserError

SAMPLE = open_dataset("cifar10-sample")


def write_tar(path: Path, members: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def members_of(split: str, numbers: range, ending: str = "cls") -> list[tuple[str, bytes]]:
    """Images of the sample in its order, each with its label's number in `cls` or its name in `json`."""
    found, own = [], SAMPLE.splits[split]
    for i in numbers:
        label = SAMPLE.class_names[own.labels[i]]
        text = str(own.labels[i]) if ending == "cls" else json.dumps({"label": label, "width": 32})
        found += [(f"{split}/{i:04d}.jpg", own.read(i)), (f"{split}/{i:04d}.{ending}", text.encode())]
    return found


@pytest.fixture
def folder(tmp_path) -> Path:
    """84 images of the sample for training and 20 for tests, in class folders."""
    for split, own in SAMPLE.splits.items():
        step = len(own) // {"train": 80, "test": 20}[split]
        for i in range(0, len(own), step):
            path = tmp_path / "folder" / split / SAMPLE.class_names[own.labels[i]] / f"{i:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(own.read(i))
    return tmp_path / "folder"


@pytest.fixture
def archives(folder) -> Path:
    """The same images in the same order, 30 in an archive."""
    opened, place = open_dataset(str(folder)), folder.parent / "archives"
    for split, own in opened.splits.items():
        for first in range(0, len(own), 30):
            members = []
            for i in range(first, min(first + 30, len(own))):
                members += [(f"{i:04d}.jpg", own.read(i)), (f"{i:04d}.cls", str(own.labels[i]).encode())]
            write_tar(place / f"{split}-{first // 30:03d}.tar", members)
        (place / "classnames.txt").write_text("\n".join(opened.class_names))
    return place


def same_split(one, other) -> None:
    assert len(one) == len(other)
    np.testing.assert_array_equal(one.labels, other.labels)
    assert [one.read(i) for i in range(len(one))] == [other.read(i) for i in range(len(other))]


# --- the same examples


def test_batches_are_those_of_a_folder(folder, archives):
    one, other = open_dataset(str(folder)), open_dataset(f"wds:{archives}")
    assert one.class_names == other.class_names and [*one.splits] == [*other.splits] == ["train", "test"]
    assert one.image_size == other.image_size and other.splits["test"].labels.dtype == np.int32
    for split in one.splits:
        same_split(one.splits[split], other.splits[split])
    recipe = recipe_of(batch=32)
    for step in (0, 1, 2, 7):  # of four epochs, in any order
        batches = (TrainBatches(dataset.splits["train"], recipe, 5) for dataset in (one, other))
        assert_same(*(batch_of(each, step) for each in batches))


def metrics_of(run, logdir: Path, name: str, dataset: str | Path) -> list[dict]:
    """Of two steps of the embedded model, as a user starts them, without times."""
    flags = ("--steps", 2, "--batch", 16, "--resize", 36, "--crop", 32, "--warmup_steps", 0, "--log_every", 1)
    run(f"{name}.train", "--dataset", dataset, "--logdir", logdir, "--name", "run", *flags)
    lines = (logdir / "run/metrics.jsonl").read_text().splitlines()
    return [{key: x for key, x in json.loads(line).items() if "second" not in key} for line in lines]


def test_a_run_on_archives(archives, run, tmp_path):
    metrics = metrics_of(run, tmp_path / "runs", "bit_jax", f"wds:{archives}/{{train-{{000..002}},test-000}}.tar")
    assert [line["step"] for line in metrics if "train/loss" in line] == [1, 2] and "test/top1" in metrics[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTALLED)
def test_a_run_is_that_of_a_folder(folder, archives, run, tmp_path, name):
    """The same losses and results to the last digit."""
    first, second = (
        metrics_of(run, tmp_path / key, name, data) for key, data in (("a", f"wds:{archives}"), ("b", folder))
    )
    assert first == second


def test_an_epoch_takes_block_after_block_and_resumes_within(archives, monkeypatch):
    """Blocks in a random order, examples mixed among a few of them; a step later asks for nothing before it."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2**13)
    split = open_dataset(f"wds:{archives}").splits["train"]
    numbers = split.blocks.numbers
    assert numbers[0] == 1 and 10 < numbers[-1] < len(split) and (np.diff(numbers) >= 0).all()
    few = Blocks(numbers, mixed=4)
    orders = [epoch_order(1, epoch, len(split), few) for epoch in range(2)]
    for order in orders:
        assert sorted(order) == list(range(len(split))) and len({*numbers[order[:5]]}) > 1
        seen, place = [*dict.fromkeys(numbers[order])], 0
        for first in range(0, len(seen), 4):  # what is read within one window lies in four blocks
            count = np.isin(numbers, seen[first : first + 4]).sum()
            assert {*numbers[order[place : place + count]]} == {*seen[first : first + 4]}
            place += count
        assert seen != sorted(seen)
    assert (orders[0] != orders[1]).any()
    np.testing.assert_array_equal(few[np.arange(0, len(split), 2)].numbers, numbers[::2])
    recipe = recipe_of(batch=16)
    in_order = TrainBatches(split, recipe, 3)
    batches = [batch_of(in_order, step) for step in range(9)]  # with the middles of two epochs
    resumed = open_dataset(f"wds:{archives}").splits["train"]
    for step in (7, 3):
        assert_same(batch_of(TrainBatches(resumed, recipe, 3), step), batches[step])


@pytest.mark.slow  # importing it takes seconds
def test_webdataset_writes_what_is_read_and_reads_the_same(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    own = SAMPLE.splits["train"]
    with webdataset.ShardWriter(f"{tmp_path}/train-%02d.tar", maxcount=7, verbose=0) as writer:
        for i in range(20):
            writer.write({"__key__": f"{i:04d}", "jpg": own.read(i * 50), "cls": int(own.labels[i * 50])})
    split = open_dataset(f"wds:{tmp_path}/train-{{00..02}}.tar").splits["train"]
    peer = [*webdataset.WebDataset(f"{tmp_path}/train-{{00..02}}.tar", shardshuffle=False).to_tuple("jpg", "cls")]
    assert [(split.read(i), str(split.labels[i]).encode()) for i in range(20)] == peer


FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@pytest.mark.parametrize("kind", FORMATS)
def test_entries_are_those_of_tarfile(tmp_path, kind):
    names = ["a/1.jpg", "d" * 90 + "/" + "n" * 80 + ".jpg"]
    names += [] if kind == "ustar" else ["x" * 300 + "/é.jpg", "y" * 150 + ".jpg"]
    path = write_tar(tmp_path / "a.tar", [(name, b"z" * size) for size, name in enumerate(names, 511)], FORMATS[kind])
    with tarfile.open(path, "a", format=FORMATS[kind]) as archive:
        for type, link in ((tarfile.SYMTYPE, "q" * 90), (tarfile.DIRTYPE, ""), (tarfile.LNKTYPE, "a/1.jpg")):
            member = tarfile.TarInfo("other.jpg")
            member.type, member.linkname = type, link * (2 if kind != "ustar" else 1)
            archive.addfile(member)
        archive.addfile(tarfile.TarInfo("last.jpg"))
    with tarfile.open(path) as archive:
        expected = [(member.name, member.offset_data, member.size) for member in archive if member.isfile()]
    with open(path, "rb") as file:
        found = [(entry.name, entry.start, entry.size) for entry in entries(file, path.stat().st_size)]
    assert found == expected and len(found) == len(names) + 1


def test_a_size_in_base_256(tmp_path):
    """As GNU tar writes it from 8 GiB on; the archive is sparse on the disk."""
    member = tarfile.TarInfo("a.jpg")
    member.size = 2**33 + 1
    path = tmp_path / "a.tar"
    with open(path, "wb") as file:
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.truncate(512 + 2**33 + 512 + 1024)
        assert file.tell() == 512
    with open(path, "rb") as file:
        assert [(e.start, e.size) for e in entries(file, path.stat().st_size)] == [(512, 2**33 + 1)]
    with pytest.raises(UserError, match=r"a\.jpg of 8,589,934,593 bytes; expected at most"):
        open_dataset(f"wds:{path}")


def test_more_archives_than_are_kept_open(tmp_path):
    """Sixteen threads open and let go of them; none closes what another one reads, and few stay open."""
    for number in range(90):
        members = [(f"{i}.{ending}", f"{number}-{i}".encode()) for i in range(8) for ending in ("jpg", "txt")]
        write_tar(tmp_path / f"{number:02d}.tar", members)
    before = len(os.listdir("/proc/self/fd"))
    split = open_dataset(f"wds:{tmp_path}").splits["train"]
    order = np.tile(np.random.default_rng(0).permutation(len(split)), 4).tolist()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            found = [*pool.map(split.read, order)]
    finally:
        sys.setswitchinterval(interval)
    assert found == [f"{i // 8}-{i % 8}".encode() for i in order]
    assert len(os.listdir("/proc/self/fd")) <= before + 64


# --- names, splits and classes


def test_which_files_a_name_means(tmp_path):
    for name in ("train-000", "train-001", "x/validation-000", "test/0", ".hidden/0"):
        write_tar(tmp_path / f"{name}.tar", members_of("train", range(2)))

    def counts(pattern):
        return {split: len(own) for split, own in open_dataset(f"wds:{tmp_path}{pattern}").splits.items()}

    assert counts("") == {"train": 4, "val": 2, "test": 2}
    assert counts("/train-{000..001}.tar") == counts("/train-*.tar") == counts("/train-{000,001}.tar") == {"train": 4}
    assert counts("/{train-001,x/validation-000}.tar") == {"train": 2, "val": 2}
    assert counts("/test/0.tar") == {"test": 2}


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("/train-{000..002}.tar", r"names nothing: there is no file .*train-002\.tar; give"),
        ("/none", "names nothing: there is no file .*none; give a file, a pattern such as wds:PATH/{000..099}.tar"),
        ("/train-{002..000}.tar", "names nothing: its range ends before it begins; give"),
        ("/empty", r"names nothing: the folder holds no \*\.tar; give"),
        ("/{train-000,train-000}.tar", r"names .*train-000\.tar twice"),
        ("/{0..99999999}.tar", "more than 100,000 files"),
        ("/{0..9999}{0..9999}.tar", "more than 100,000 files"),
    ],
)
def test_names_that_mean_no_files(tmp_path, pattern, words):
    (tmp_path / "empty").mkdir()
    for number in range(2):
        write_tar(tmp_path / f"train-{number:03d}.tar", members_of("train", range(1)))
    with pytest.raises(UserError, match=words):
        open_dataset(f"wds:{tmp_path}{pattern}")


def test_labels_by_name(tmp_path):
    write_tar(tmp_path / "train.tar", members_of("train", range(0, 1000, 50), "json"))
    write_tar(tmp_path / "test.tar", [("a.png", b""), ("a.cls", b" cat\n")])
    dataset = open_dataset(f"wds:{tmp_path}")
    assert dataset.class_names == SAMPLE.class_names
    assert dataset.splits["train"].labels.tolist() == SAMPLE.splits["train"].labels[::50].tolist()
    assert dataset.splits["test"].labels.tolist() == [SAMPLE.class_names.index("cat")]


def test_entries_of_a_folder(tmp_path):
    """As `tar -cf a.tar .` calls them."""
    members = [("./a/0.jpg", b"x"), ("./a/0.cls", b"1"), ("./0.cls", b"0"), ("./0.JPG", b"y")]
    split = open_dataset(f"wds:{write_tar(tmp_path / 'a.tar', members)}").splits["train"]
    assert split.labels.tolist() == [1, 0] and [split.read(i) for i in range(2)] == [b"x", b"y"]


def test_entries_that_are_no_part_of_an_example(tmp_path):
    """What other programs would unpickle, import or run is counted, and never looked at."""
    extra = [
        ("0.pyd", b"import os"),
        ("0.pickle", b"x"),
        ("0.seg.png", b"x"),
        ("._0.jpg", b"x"),
        (".cache/0.cls", b"x"),
    ]
    write_tar(tmp_path / "train.tar", [*members_of("train", range(2)), *extra, ("README", b"x")])
    dataset = open_dataset(f"wds:{tmp_path}")
    assert len(dataset.splits["train"]) == 2
    (note,) = dataset.notes
    for words in ("1 .pyd", "1 .pickle", "1 .seg.png", "1 without an ending", "2 hidden"):
        assert words in note


# --- an index


@pytest.fixture
def kept(monkeypatch, archives):
    """How often the archives were scanned, as slowly and so long after they were written that an index is kept."""
    monkeypatch.setattr(index, "QUICK_SECONDS", -1)
    for path in archives.iterdir():
        os.utime(path, (1_600_000_000, 1_600_000_000))
    scans, scan = [], tar.scan
    monkeypatch.setattr(tar, "scan", lambda shards: scans.append(1) or scan(shards))
    return scans


def test_an_index_is_kept_until_an_archive_changes(archives, kept):
    first, again = (open_dataset(f"wds:{archives}") for _ in range(2))
    assert len(kept) == 1 and first.class_names == again.class_names
    for split in first.splits:
        same_split(first.splits[split], again.splits[split])
    assert isinstance(again.splits["train"].labels.base, np.memmap)
    other = open_dataset(f"wds:{archives}/train-*.tar")  # another name, another index: neither replaces the other
    assert [*other.splits] == ["train"] and len(kept) == 2 and open_dataset(f"wds:{archives}") and len(kept) == 2
    with open(archives / "train-000.tar", "ab") as file:
        file.write(bytes(512))
    assert open_dataset(f"wds:{archives}") and len(kept) == 3


@pytest.mark.parametrize("damage", ["cut off", "another entry", "gone"])
def test_an_archive_that_changes_behind_its_index(archives, kept, damage):
    """Its size and time as before: the header of each image is looked at whenever the image is read."""
    path = archives / "train-000.tar"
    split = open_dataset(f"wds:{archives}").splits["train"]
    if damage == "cut off":
        os.truncate(path, 3000)
    elif damage == "gone":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[data.index(b"0029.jpg") + 3] ^= 1
        path.write_bytes(data)
        os.utime(path, (1_600_000_000, 1_600_000_000))
        assert open_dataset(f"wds:{archives}") and len(kept) == 1
    with pytest.raises(UserError, match=r"The image 0029\.jpg in .*train-000\.tar cannot be read \(.*; restore"):
        split.decode(29)


def test_broken_images_are_found_once(archives, kept, monkeypatch):
    """As those of a folder: left out from the second start on without a look at the others."""
    members = [("0.jpg", b"no image"), ("0.cls", b"1"), ("1.jpg", SAMPLE.splits["train"].read(0)), ("1.cls", b"0")]
    os.utime(write_tar(archives / "train-003.tar", members), (1_600_000_000, 1_600_000_000))
    looked, find = [], checked.find_broken
    monkeypatch.setattr(checked, "find_broken", lambda *rest: looked.append(1) or find(*rest))
    for name in (archives, archives, f"{archives}/train-*.tar"):
        dataset = checked.without_broken(open_dataset(f"wds:{name}"), workers=2)
        train = dataset.splits["train"]
        assert dataset.skipped == 1 and len(train) == 85 and train.describe(84).startswith("1.jpg in ")
        assert len(train.blocks.numbers) == 85
    assert len(looked) == 3  # train and test, and train of the other name


# --- what is broken


def changed(place: int, byte: int, data: bytes) -> bytes:
    return data[:place] + bytes([byte]) + data[place + 1 :]


def attributes(text: bytes) -> bytes:
    """A pax header with this text, before the first entry."""
    member = tarfile.TarInfo("attributes")
    member.type, member.size = b"x", len(text)
    return member.tobuf() + text + bytes(-len(text) % 512)


BROKEN = {  # what becomes of the bytes of an archive with two examples of 512 + 1,024 + 512 + 512 bytes -> the sentence
    "empty": (lambda data: b"", "is cut off: it ends at byte 0"),
    "within a header": (lambda data: data[:300], "is cut off: it ends at byte 300"),
    "within an image": (lambda data: data[:1000], r"ends in the middle of 0\.jpg, at byte 1,000 of 1,512"),
    "between two entries": (lambda data: data[:2560], "is cut off: it ends at byte 2,560"),
    "a damaged header": (lambda data: changed(2565, 7, data), "has no tar header at byte 2,560"),
    "joined": (lambda data: data + data, "holds more behind its end mark at byte 5,120"),
    "compressed": (lambda data: b"\x1f\x8b" + data, "is compressed"),
    "no archive": (lambda data: b"text" * 2000, "has no tar header at byte 0"),
    "a long name": (lambda data: attributes(b"x" * 70_000) + data, "has a name of 70,000 bytes at byte 0"),
    "attributes": (lambda data: attributes(b"99 path=x\n") + data, "has attributes that cannot be read at byte 0"),
    "a size of text": (lambda data: attributes(b"11 size=-1\n") + data, "has attributes that cannot be read at byte 0"),
    "a huge size": (lambda data: attributes(b"29 size=99999999999999999999\n") + data, r"ends in the middle of 0\.jpg"),
    "a sparse file": (lambda data: attributes(b"22 GNU.sparse.major=1\n") + data, r"holds the sparse file 0\.jpg"),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_archive_is_one_sentence(tmp_path, damage):
    change, words = BROKEN[damage]
    members = [(f"{i}.{ending}", b"1" * size) for i in range(2) for ending, size in (("jpg", 1000), ("cls", 1))]
    path = write_tar(tmp_path / "a.tar", members, tarfile.USTAR_FORMAT)
    path.write_bytes(change(path.read_bytes()[:5120] + bytes(1024)))
    with pytest.raises(UserError, match=rf"The archive .*a\.tar {words}.*; fetch or write it again, as plain tar\."):
        open_dataset(f"wds:{path}")


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a.jpg", b"")], r"The image a\.jpg in .* has no label or caption; expected an entry \.cls, \.txt or \.json"),
        ([("a.jpg", b""), ("a.json", b"{}")], r"The image a\.jpg in .* has no label or caption; expected"),
        ([("a.jpg", b""), ("a.cls", b"")], r"label '' beside a\.jpg in .* is neither"),
        (
            [("a.jpg", b""), ("a.cls", b"-1")],
            r"label '-1' beside a\.jpg in .* is neither a number from 0 on nor a name",
        ),
        ([("a.jpg", b""), ("a.cls", b"123456789")], r"label '123456789' beside a\.jpg in .* is neither"),
        ([("a.jpg", b""), ("a.json", b'{"label": -1}')], r"label -1 beside a\.jpg in .* is neither"),
        ([("a.jpg", b""), ("a.json", b'{"label": [1]}')], r"label \[1\] beside a\.jpg in .* is neither"),
        ([("a.jpg", b""), ("a.json", b"[" * 99999)], r"json beside a\.jpg in .* cannot be read"),
        ([("a.jpg", b""), ("a.cls", b"\xff")], r"a\.cls in .* is no text in UTF-8"),
        ([("a.jpg", b""), ("a.cls", b"1" * 5000)], r"a\.cls of 5,000 bytes; expected at most 4,096"),
        ([("a.cls", b"1"), ("b.jpg", b"")], "holds no image of a and cls, expected one image; write it again"),
        ([("a.jpg", b""), ("a.png", b""), ("a.cls", b"1")], "holds 2 images of a and jpg, png, cls, expected one"),
        ([("a.jpg", b""), ("a.jpg", b""), ("a.cls", b"1")], r"holds a\.jpg twice"),
        (
            [("d/a.jpg", b""), ("d/a.cls", b"1"), ("b.jpg", b""), ("b.cls", b"1"), ("d/a.json", b"{}")],
            "holds d/a twice, apart from each other; write it again with .* `tar --sort=name`",
        ),
        ([("README.md", b"")], r"holds no image; expected entries such as 0001\.jpg and 0001\.cls"),
    ],
)
def test_examples_that_are_none(tmp_path, members, words):
    path = write_tar(tmp_path / "a.tar", members)
    with pytest.raises(UserError, match=words):
        open_dataset(f"wds:{path}")


def test_labels_that_are_no_class(tmp_path):
    write_tar(tmp_path / "train.tar", members_of("train", range(0, 300, 50)))  # of the classes 0, 1 and 2
    write_tar(tmp_path / "val.tar", members_of("train", range(300, 400, 50)))
    with pytest.raises(UserError, match="The split val of .* holds the label '3', and the training images have the 3"):
        open_dataset(f"wds:{tmp_path}")
    for text, words in (("a\nb\nc", "names the 3 classes a, b, c"), ("a\na", "names 'a' twice"), ("\n", "names no cl")):
        (tmp_path / "classnames.txt").write_text(text)
        with pytest.raises(UserError, match=rf"classnames\.txt {words}"):
            open_dataset(f"wds:{tmp_path}")


def test_a_hostile_archive_ends_a_run_with_one_sentence(run, tmp_path):
    """As a user meets it: status 2, one line, and nothing is left behind. No entry is written, whatever it is called."""
    path = write_tar(
        tmp_path / "a.tar", [("../../escape.jpg", b"x"), ("/abs.jpg", b"x"), ("a.jpg", b"x"), ("a.cls", b"1")]
    )
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 // 512 * 512])
    done = run("bit_jax.train", "--dataset", f"wds:{path}", "--val_fraction", 0.5, status=2)
    assert "a.tar" in done.stderr and [each.name for each in tmp_path.iterdir()] == ["a.tar"]


def test_names_are_text_and_no_paths(tmp_path):
    """An entry called like a file elsewhere is that entry, and is said with escapes."""
    name = "/etc/pass\nwd"
    path = write_tar(tmp_path / "a.tar", [(f"{name}.jpg", b"no image"), (f"{name}.cls", b"0")])
    split = open_dataset(f"wds:{path}").splits["train"]
    assert split.read(0) == b"no image"
    with pytest.raises(UserError, match=r"The image /etc/pass\\nwd\.jpg in .*a\.tar cannot be decoded"):
        split.decode(0)


def test_a_parser_meets_any_bytes(tmp_path):
    """Random changes of a header end in a sentence or in entries that lie within the archive."""
    path = write_tar(tmp_path / "a.tar", members_of("train", range(3)), tarfile.GNU_FORMAT)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        header = data[:512]
        for place in rng.integers(0, 512, rng.integers(1, 4)):
            header[place] = rng.integers(0, 256)
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)  # a checksum that fits
        data[:512] = header
        try:
            found = [*entries(io.BytesIO(data), len(data))]
        except BrokenArchive:
            continue
        assert all(0 <= entry.start <= entry.start + entry.size <= len(data) for entry in found)
