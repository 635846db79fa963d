"""Lists that people write: names are the same name however a spreadsheet or an editor saved them."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config import TrainConfig
from common.data.lists import lines, lookalikes, names
from common.data.split import choose_splits
from common.datasets import open_dataset
from common.system.errors import UserError


def write_images(root: Path, *files: str) -> None:
    for number, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 6, 3), number, np.uint8)).save(root / file)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a\nb\n", [(1, "a"), (2, "b")]),
        (b"\xef\xbb\xbfa\r\n\r\n  b \r\n", [(1, "a"), (3, "b")]),
        ("a\tb\r\nü\t".encode("utf-16"), [(1, "a\tb"), (2, "ü\t")]),
        ("a\nü".encode("utf-16-be").join([b"\xfe\xff", b""]), [(1, "a"), (2, "ü")]),
        (b"a\rb\r", [(1, "a"), (2, "b")]),  # of an old Macintosh
        (b"\xff.png\tx", [(1, "\udcff.png\tx")]),  # a name on Linux may hold any byte
        (b"", []),
        (b"\n \n", []),
    ],
)
def test_lines_are_the_same_however_they_were_saved(tmp_path, data, expected):
    (tmp_path / "list").write_bytes(data)
    assert list(lines(tmp_path / "list")) == expected


@pytest.mark.parametrize(
    "make", (os.mkdir, os.mkfifo, lambda path: None, lambda path: Path(path).write_bytes(b"\xff\xfea"))
)
def test_what_is_no_list_is_one_sentence(tmp_path, make):
    make(str(tmp_path / "list"))
    with pytest.raises(UserError, match="list cannot be read .*; save it again, as plain text in UTF-8."):
        list(lines(tmp_path / "list"))


SAME = ("sky,sea", "sky, sea", " sky ,\u00a0sea ", '"sky,sea"', '"sky, sea"', '"sky","sea"', '"sky" , sea')


@pytest.mark.parametrize("field", SAME)
def test_names_are_the_same_however_they_are_written(field):
    assert names(field, "Line 1") == ["sky", "sea"]


def test_names_keep_what_is_theirs():
    assert names('colt\'s foot,5" disk drive,a "b" c,"say ""a"" b"', "Line 1") == [
        "colt's foot", '5" disk drive', 'a "b" c', 'say "a" b',
    ]  # fmt: skip
    assert names("", "Line 1") == names(" ", "Line 1") == names('""', "Line 1") == []


AMBIGUOUS = (
    '"sky',
    'sky"',
    "'sky'",
    "'sky, sea'",
    "“sky”",
    "„sky, sea“",
    "«sky»,sea",
    '"sky, blue",sea',
    "sky,,sea",
    "sky,",
    ",",
)


@pytest.mark.parametrize("field", AMBIGUOUS)
def test_names_that_could_be_two_things_are_refused(field):
    with pytest.raises(UserError, match="^Line 1 has (quotes|an empty name)"):
        names(field, "Line 1")


def test_names_that_look_alike_are_told_once():
    assert lookalikes(["sky", "sea"]) == ""
    assert lookalikes(["sky", "Sky", "sea_side", "Sea side"]) == (
        "Different classes have nearly the same name: 'sky' and 'Sky'; 'sea_side' and 'Sea side'. Are they one?"
    )
    assert "'café' and 'cafe\u0301'" in lookalikes(["café", "cafe\u0301"])  # as Linux and macOS write it
    assert "'sky' and 'sky\\u200b'" in lookalikes(["sky", "sky\u200b"])  # a blank without width
    many = lookalikes([name for letter in "abcdef" for name in (letter, letter.upper())])
    assert many.endswith("'c' and 'C', and 3 more such groups. Are they one?")


@pytest.mark.parametrize("encoding", ("utf-8", "utf-8-sig", "utf-16"))
@pytest.mark.parametrize("end", ("\n", "\r\n"))
def test_a_list_of_labels_from_a_spreadsheet(tmp_path, encoding, end):
    write_images(tmp_path / "train", "1.png", "b/2.png", "3.png", "4 x.png", "5.png")
    write_images(tmp_path / "far", "6.png")
    rows = ["1.png\tsky, sea", 'b/2.png\t"sky,sea"', "./3.png \tsea ,sky ", "4 x.png\t\u00a0sky", '"5.png"\t', ""]
    rows += [f"{tmp_path}/far/6.png\tSea"]
    (tmp_path / "train/labels.tsv").write_bytes(end.join(rows).encode(encoding))
    (tmp_path / "val").mkdir()
    (tmp_path / "val/labels.tsv").write_text(f"{tmp_path}/train/1.png\tsky\n../train/b/2.png\tsea\n")
    dataset = open_dataset(str(tmp_path))
    train = dataset.splits["train"]
    assert dataset.class_names == ("Sea", "sea", "sky")
    assert dataset.notes == ("Different classes have nearly the same name: 'Sea' and 'sea'. Are they one?",)
    expected = [[0, 1, 1], [0, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert train.labels.multi_hot().tolist() == expected
    assert [int(train.decode(i)[0, 0, 0]) for i in range(6)] == [0, 1, 2, 3, 4, 0]
    assert [int(dataset.splits["val"].decode(i)[0, 0, 0]) for i in range(2)] == [0, 1]


@pytest.mark.parametrize("again", ("1.png", "./1.png", "b/../1.png", '"1.png"', "{folder}/1.png"))
def test_an_image_is_listed_once_however_it_is_written(tmp_path, again):
    write_images(tmp_path / "train", "1.png", "b/2.png")
    (tmp_path / "train/labels.tsv").write_text(f"1.png\ta\n{again.format(folder=tmp_path / 'train')}\tb\n")
    with pytest.raises(UserError, match="Line 2 of .* lists 1.png again"):
        open_dataset(str(tmp_path))


# --- VTAB-1k as folders


@pytest.fixture
def task(tmp_path):
    """A function of a task's name: its folder, with 8 + 2 training images and 4 test images of 3 classes."""

    def write(name: str) -> Path:
        root = tmp_path / "vtab-1k" / name
        files = [f"images/train/a {i}.png" for i in range(8)], [f"images/val/{i}.png" for i in range(2)]
        test = [f"images/test/{i}.png" for i in range(4)]
        write_images(root, *files[0], *files[1], *test)
        rows = [[f"{file} {(7 * i) % 3}" for i, file in enumerate(part)] for part in (*files, test)]
        for list_name, own in zip(
            ("train800", "val200", "train800val200", "test"), (rows[0], rows[1], [*rows[0], *rows[1]], rows[2])
        ):
            (root / f"{list_name}.txt").write_text("\n".join(own) + "\n")
        return root

    return write


def test_a_task_of_vtab_as_a_folder(task):
    dataset = open_dataset(str(task("mine")))
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert list(dataset.splits) == ["train", "test"] and dataset.class_names == ("0", "1", "2") and dataset.recipe == {}
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 0, 1] and test.labels.tolist() == [0, 1, 2, 0]
    assert [int(train.decode(i)[0, 0, 0]) for i in range(10)] == list(range(10))  # in the order of the list


def test_a_task_with_images_to_choose_by(task):
    dataset = open_dataset(str(task("mine") / "train800"))
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 8, "val": 2}


@pytest.mark.parametrize(
    ("name", "num_classes", "recipe"),
    [
        ("caltech101", 102, {}),
        ("cifar", 100, {}),
        ("dsprites_ori", 16, {"resize_mode": "whole", "flip": 0.0}),
        ("clevr_count", 8, {"resize_mode": "whole"}),
    ],
)
def test_a_folder_with_the_name_of_a_task_has_its_classes_and_recipe(task, name, num_classes, recipe):
    dataset = open_dataset(str(task(name)))
    assert dataset.num_classes == num_classes and dataset.recipe == recipe


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("images/test/0.png\n", "Line 1 of .*test.txt is 'images/test/0.png', expected `path class`"),
        ("images/test/0.png cat\n", "expected `path class` with the number of a class"),
        ("images/test/9.png 0\n", "lists images/test/9.png, which is not there"),
        ("images/test/0.png 102\n", "has the class 102, and the task of this name 102 classes"),
        ("", "test.txt lists no image"),
    ],
)
def test_a_list_of_vtab_that_fits_nothing_is_explained(task, text, words):
    root = task("caltech101")
    (root / "test.txt").write_text(text)
    with pytest.raises(UserError, match=words):
        open_dataset(str(root))


# --- class folders without splits


def test_class_folders_without_splits_want_a_val_fraction(tmp_path):
    write_images(tmp_path, *(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(10)))
    dataset = open_dataset(str(tmp_path))
    with pytest.raises(UserError, match="has no held-out part; add val/ or test/, or give --val_fraction"):
        choose_splits(dataset, TrainConfig())
    splits = choose_splits(dataset, TrainConfig(val_fraction=0.2))
    assert {name: len(split) for name, split in splits.items()} == {"train": 16, "val": 4}
