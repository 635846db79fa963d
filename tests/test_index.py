"""Indices of large datasets: reused while nothing changed, and built again as soon as anything did."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from common.data.sources import folder as folder_source
from common.data.sources import index, listed
from common.datasets import open_dataset
from common.runs.checkpoint import write

PAST = 1_600_000_000  # seconds; long before any test


@pytest.fixture
def images(tmp_path, monkeypatch):
    """train: 3 cats, 2 dogs; val: 1 dog. All of it was scanned so slowly, and so long ago, that an index is kept."""
    monkeypatch.setattr(index, "QUICK_SECONDS", -1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "pets"
    for file in (
        "train/dog/b.png",
        "train/dog/a.png",
        "train/cat/2.png",
        "train/cat/10.png",
        "train/cat/1.png",
        "val/dog/x.png",
    ):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(file.encode())
    settle(root)
    return root


def settle(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        os.utime(path, (PAST, PAST))


@pytest.fixture
def scans(monkeypatch) -> list[str]:
    """What was scanned, once more for every scan."""
    seen, scan = [], folder_source._scan
    monkeypatch.setattr(folder_source, "_scan", lambda root, *rest: seen.append(root.name) or scan(root, *rest))
    return seen


def contents(root: Path) -> dict:
    dataset = open_dataset(str(root))
    found = {"class_names": dataset.class_names}
    for name, split in dataset.splits.items():
        files = [Path(split.describe(i)) for i in range(len(split))]
        assert [file.read_bytes() for file in files] == [split.read(i) for i in range(len(split))]
        found[name] = list(zip([str(file.relative_to(root / name)) for file in files], split.labels.tolist()))
    return found


EXPECTED = {
    "class_names": ("cat", "dog"),
    "train": [("cat/1.png", 0), ("cat/10.png", 0), ("cat/2.png", 0), ("dog/a.png", 1), ("dog/b.png", 1)],
    "val": [("dog/x.png", 1)],
}


def test_an_index_is_reused(images, scans):
    assert [contents(images) for _ in range(3)] == [EXPECTED] * 3 and len(scans) == 1
    assert [path.name for path in images.iterdir() if path.is_file()] == [".bit-zoo-index.safetensors"]
    labels = open_dataset(str(images)).splits["train"].labels
    assert labels.dtype == np.int32 and isinstance(labels.base, np.memmap)  # shared between processes


@pytest.mark.parametrize(
    "change",
    [
        lambda cat: (cat / "a/b/2.png").write_bytes(b"2"),
        lambda cat: (cat / "a/b/1.png").unlink(),
        lambda cat: (cat / "c").rename(cat / "d"),
        lambda cat: (cat / "c").rename(cat / "a/b/c"),
        lambda cat: (cat / "link").symlink_to("a"),
    ],
)
def test_an_index_follows_folders_within_class_folders(images, scans, monkeypatch, change):
    cat = images / "train/cat"
    for inner in ("a/b", "c"):
        (cat / inner).mkdir(parents=True)
        (cat / inner / "1.png").write_bytes(b"1")
    settle(images)
    before = contents(images)
    assert contents(images) == before and len(scans) == 1 and len(before["train"]) == 7
    change(cat)
    changed = contents(images)
    assert changed != before and len(scans) == 2
    monkeypatch.setattr(index, "read_first", lambda *_: None)
    assert contents(images) == changed


def test_what_is_not_used_is_noted_with_an_index_too(images, scans):
    (images / "train/cat/notes.txt").write_text("x")
    settle(images)
    notes = [open_dataset(str(images)).notes for _ in range(2)]
    assert notes[0] == notes[1] == (f"Not used in {images}: 1 .txt (such as train/cat/notes.txt).",) and len(scans) == 1


CHANGES = {
    "a file more": lambda root: (root / "train/cat/3.png").write_bytes(b"new"),
    "a file less": lambda root: (root / "train/dog/a.png").unlink(),
    "another name": lambda root: (root / "val/dog/x.png").rename(root / "val/dog/y.png"),
    "a class more": lambda root: (root / "train/ant").mkdir() or (root / "train/ant/1.png").write_bytes(b"ant"),
    "a split more": lambda root: (root / "test/dog").mkdir(parents=True) or (root / "test/dog/1.png").write_bytes(b"t"),
    "a split less": lambda root: (root / "val").rename(root / "other"),
    "folders swapped": lambda root: [
        (root / a).rename(root / b)
        for a, b in (("train/cat", "train/x"), ("train/dog", "train/cat"), ("train/x", "train/dog"))
    ],
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_index_follows_every_change(images, scans, monkeypatch, change):
    contents(images)
    CHANGES[change](images)
    if change == "folders swapped":
        settle(images)  # as if an archive had restored all times: the inodes tell
    changed = contents(images)
    assert len(scans) == 2 and changed != EXPECTED
    monkeypatch.setattr(index, "read_first", lambda *_: None)
    assert contents(images) == changed


def test_what_changed_just_now_is_not_kept(images, scans):
    """A second change within the same tick of the clock could leave the same time."""
    (images / "train/cat/3.png").write_bytes(b"new")
    assert contents(images) == contents(images) and len(scans) == 2
    os.utime(images / "train/cat", (PAST, PAST))
    assert contents(images) == contents(images) and len(scans) == 3


def test_what_is_scanned_in_no_time_is_not_kept(images, scans, monkeypatch):
    monkeypatch.setattr(index, "QUICK_SECONDS", 60)
    assert contents(images) == contents(images) == EXPECTED and len(scans) == 2
    assert not [path for path in images.iterdir() if path.is_file()]


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: b"",
        lambda d: b"text",
        lambda d: d[:-1],
        lambda d: d + b"x",
        *(lambda d, i=i: flip(d, i) for i in (0, 40, 90, -1, -60)),
    ],
)
def test_a_damaged_index_is_built_again(images, scans, damage):
    contents(images)
    path = images / ".bit-zoo-index.safetensors"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert contents(images) == EXPECTED and len(scans) == 2 and path.read_bytes() == whole


@pytest.mark.parametrize("facts", [{}, {"state": 5}])
def test_a_file_that_is_no_index_is_replaced(images, scans, facts):
    with open(images / ".bit-zoo-index.safetensors", "wb") as file:
        write(file, 0, {"a": np.zeros(3)}, facts)
    assert contents(images) == contents(images) == EXPECTED and len(scans) == 1


def test_an_index_of_a_read_only_folder_lies_in_the_cache(images, scans, monkeypatch, tmp_path):
    real = index.write_atomically

    def write_elsewhere(path, *rest):
        if path.is_relative_to(images):
            raise index.UserError("Cannot write there (Read-only file system).")
        real(path, *rest)

    monkeypatch.setattr(index, "write_atomically", write_elsewhere)
    assert contents(images) == contents(images) == EXPECTED and len(scans) == 1
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 1


def test_without_a_place_the_folder_is_scanned_every_time(images, scans, monkeypatch, capsys):
    def refuse(path, *_):
        raise index.UserError(f"Cannot write {path} (No space left on device).")

    monkeypatch.setattr(index, "write_atomically", refuse)
    assert contents(images) == contents(images) == EXPECTED and len(scans) == 2
    assert "the next start scans it again" in capsys.readouterr().err


def test_two_processes_do_not_scan_at_once(images, monkeypatch):
    """The second waits for the first, and reads what it wrote."""
    running, most, scan, count = [], [], folder_source._scan, []

    def slow_scan(*rest):
        running.append(1)
        count.append(1)
        most.append(len(running))
        time.sleep(0.2)
        found = scan(*rest)
        running.pop()
        return found

    monkeypatch.setattr(folder_source, "_scan", slow_scan)
    found = []
    threads = [threading.Thread(target=lambda: found.append(contents(images))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [EXPECTED] * 4 and len(count) == max(most) == 1


def test_lists_of_classes_are_indexed_too(images, monkeypatch):
    scanned, scan = [], listed._scan_lists
    monkeypatch.setattr(listed, "_scan_lists", lambda *rest: scanned.append(1) or scan(*rest))
    for split, text in (("train", "cat/1.png\tcat,old\ndog/a.png\t\n"), ("val", "dog/x.png\told\n")):
        (images / split / "labels.tsv").write_text(text)
    settle(images)
    for _ in range(2):
        dataset = open_dataset(str(images))
        assert dataset.class_names == ("cat", "old")
        assert dataset.splits["train"].labels.multi_hot().tolist() == [[1, 1], [0, 0]]
    assert len(scanned) == 1
    (images / "val/labels.tsv").write_text("dog/x.png\tcat\n")
    changed = open_dataset(str(images)).splits["val"]
    assert changed.labels.multi_hot().tolist() == [[1, 0]] and len(scanned) == 2
