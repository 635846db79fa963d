"""Image folders, the embedded sample, few-shot choices and carved validation sets."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.sources.folder import SAMPLE
from common.data.sources.image_files import SMALL_BYTES
from common.data.split import Split, carve, few_shot, typical_size
from common.datasets import open_dataset
from common.system.errors import UserError


def write_image(path: Path, size: tuple[int, int] = (4, 6), value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """train: 3 cats and 2 dogs; val: 1 dog; test: 1 cat and 1 dog."""
    files = ("train/dog/b.png", "train/dog/a.png", "train/cat/2.png", "train/cat/10.bmp", "train/cat/1.PNG")
    files += ("val/dog/x.png", "test/cat/y.png", "test/dog/y.png")
    for value, file in enumerate(files):
        write_image(tmp_path / "pets" / file, value=value)
    return tmp_path / "pets"


def split_of(labels: list[int]) -> Split:
    return Split(lambda i: np.full((2, 2, 3), i, np.uint8), np.array(labels, np.int32), lambda i: f"number {i}")


def members(split: Split) -> list[int]:
    """The examples of `split_of` that a derived split holds."""
    return [int(split.read(i)[0, 0, 0]) for i in range(len(split))]


# --- folders


def test_classes_and_files_are_in_the_order_of_their_names(folder):
    dataset = open_dataset(str(folder))
    assert dataset.class_names == ("cat", "dog") and list(dataset.splits) == ["train", "val", "test"]
    train = dataset.splits["train"]
    assert [Path(train.describe(i)).name for i in range(5)] == ["1.PNG", "10.bmp", "2.png", "a.png", "b.png"]
    assert train.labels.tolist() == [0, 0, 0, 1, 1] and train.labels.dtype == np.int32
    assert [train.decode(i)[0, 0, 0] for i in range(5)] == [4, 3, 2, 1, 0]
    assert dataset.splits["val"].labels.tolist() == [1]  # a class may be absent from val; its number stays
    assert dataset.held_out == "test" and dataset.image_size == (4, 6)


def test_files_that_are_no_images_are_passed_over(folder):
    (folder / "train/cat/notes.txt").write_text("x")
    (folder / "train/cat/.DS_Store").write_bytes(b"x")
    (folder / "train/README").write_text("x")
    (folder / "train/.cache").mkdir()
    assert len(open_dataset(str(folder)).splits["train"]) == 5


@pytest.mark.parametrize("size", (0, 1, SMALL_BYTES - 1, SMALL_BYTES, SMALL_BYTES + 1, 3 * SMALL_BYTES))
def test_files_of_every_size_are_read_whole(folder, size):
    train, data = open_dataset(str(folder)).splits["train"], np.random.default_rng(size).bytes(size)
    (folder / "train/cat/1.PNG").write_bytes(data)
    assert train.read(0) == data


def test_a_symbolic_link_to_a_folder_is_a_folder(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert open_dataset(str(tmp_path / "link")).num_classes == 2


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: write_image(root / "val/bird/a.png"), r"val holds the class 'bird', which .*train lacks"),
        (lambda root: (root / "train/ant").mkdir(), r"class folder .*train/ant holds no image"),
        (
            lambda root: [(root / split).rename(root / f"my {split}") for split in ("train", "val", "test")],
            r"holds my \w+ and 2 other folders that hold no image but folders; expected train/",
        ),
        (
            lambda root: (root / "more").mkdir() or (root / "val/dog").rename(root / "more/dog"),
            r"val holds no class folders",
        ),
    ],
    ids=("unknown class in val", "empty class folder", "no split", "empty val folder"),
)
def test_a_folder_with_another_layout_is_explained(folder, damage, words):
    damage(folder)
    with pytest.raises(UserError, match=words):
        open_dataset(str(folder))


def test_a_broken_or_vanished_image_is_named(folder):
    train = open_dataset(str(folder)).splits["train"]
    (folder / "train/cat/2.png").write_bytes(b"no image")
    (folder / "train/dog/a.png").unlink()
    for i, words in ((2, "cat/2.png cannot be decoded .*; replace or remove it"), (3, "dog/a.png cannot be read")):
        with pytest.raises(UserError, match=words):
            train.decode(i)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar-10", "did you mean cifar10"),
        ("imagenet", "imagenet2012"),
        ("Oxford_Pets", "oxford_iiit_pet"),
        ("zzzzz", "Give one of"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(name, words):
    with pytest.raises(UserError, match=words) as caught:
        open_dataset(name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


# --- folders whose images have any number of classes


def write_list(folder: Path, split: str, *lines: str) -> Path:
    for line in lines:
        write_image(folder / split / line.partition("\t")[0])
    (folder / split / "labels.tsv").write_text("".join(f"{line}\n" for line in lines))
    return folder / split / "labels.tsv"


@pytest.fixture
def listed(tmp_path):
    """train: 4 images of dog, cat, ant; val: 1 image of cat."""
    write_list(tmp_path, "train", "b/2.png\tdog,cat", "1.png\tant", "b/1.png\t", "3.png\tcat,cat,ant,dog")
    write_list(tmp_path, "val", "1.png\tcat")
    return tmp_path


def test_images_with_several_classes_are_listed(listed):
    dataset = open_dataset(str(listed))
    train, val = dataset.splits["train"], dataset.splits["val"]
    assert dataset.class_names == ("ant", "cat", "dog") and train.is_multi_label and val.is_multi_label
    assert [train.describe(i) for i in range(4)] == [
        str(listed / "train" / f) for f in ("b/2.png", "1.png", "b/1.png", "3.png")
    ]
    expected = [[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]]
    assert (
        train.labels.multi_hot().tolist() == expected
        and train.labels[np.array([3, 0])].multi_hot().tolist() == expected[::-3]
    )
    assert val.labels.multi_hot().tolist() == [[0, 1, 0]] and train.labels[slice(0, 2)].multi_hot().dtype == np.float32
    assert train.take(np.array([3, 2, 3])).take(np.array([1, 2])).labels.multi_hot().tolist() == expected[2:]
    assert train.decode(2).shape == (4, 6, 3)


def test_carve_keeps_several_classes_and_few_shot_refuses_them(listed):
    train = open_dataset(str(listed)).splits["train"]
    rest, part = carve(train, 0.5)
    both = {
        split.describe(i): split.labels[slice(i, i + 1)].multi_hot()[0].tolist()
        for split in (rest, part)
        for i in range(2)
    }
    assert both == {train.describe(i): train.labels[slice(i, i + 1)].multi_hot()[0].tolist() for i in range(4)}
    with pytest.raises(UserError, match="--examples_per_class draws images of one class each"):
        few_shot(train, ["ant", "cat", "dog"], 1)


@pytest.mark.parametrize(
    ("split", "lines", "words"),
    [
        ("train", "1.png cat\n", r"Line 1 of .*train/labels.tsv is '1.png cat', expected `path<TAB>class,class`"),
        ("train", "1.png\tcat\n\tdog\n", "Line 2 of .* expected `path<TAB>class,class`"),
        ("train", "1.png\tcat,\n", "Line 1 of .* has an empty name between its commas"),
        ("train", '1.png\t"cat\n', 'Line 1 of .* has quotes that are no part of a name, in "cat'),
        ("train", "b\\\\2.png\tcat\n", r"Line 1 of .* lists b.*2.png, which is not there; write / between folders"),
        ("train", "1.png\tcat\tdog\n", "Line 1 of .* expected `path<TAB>class,class`"),
        ("train", "1.png\tcat\n1.png\tdog\n", "Line 2 of .* lists 1.png again; put all that it has on one line"),
        ("train", "9.png\tcat\n", "Line 1 of .* lists 9.png, which is not there; restore or remove it"),
        ("train", "", "labels.tsv lists no image; expected lines"),
        ("train", "1.png\t\n", "labels.tsv names no class"),
        (
            "val",
            "1.png\tcats\n",
            "val/labels.tsv names the class 'cats', which no training image has; did you mean cat",
        ),
    ],
)
def test_a_list_that_fits_nothing_is_explained(listed, split, lines, words):
    (listed / split / "labels.tsv").write_text(lines)
    with pytest.raises(UserError, match=words) as caught:
        open_dataset(str(listed))
    assert "\n" not in str(caught.value)


def test_every_split_is_listed_or_none(listed):
    (listed / "val/labels.tsv").unlink()
    with pytest.raises(UserError, match="train holds labels.tsv and .*val does not; give every split one, or none"):
        open_dataset(str(listed))


# --- typical size


def test_the_typical_size_is_of_the_median_area():
    sizes = [(10, 10), (20, 20), (30, 10), (100, 100), (12, 11)]  # areas 100, 400, 300, 10000, 132
    split = Split(lambda i: np.zeros((*sizes[i], 3), np.uint8), np.zeros(5, np.int32), str)
    assert typical_size(split) == (30, 10)


@pytest.mark.parametrize("count", (1, 2, 100, 101, 5000))
def test_the_typical_size_reads_few_headers_spread_over_the_split(count):
    read = []

    def image(i):
        read.append(i)
        return np.zeros((i % 7 + 1, 3, 3), np.uint8)

    typical_size(Split(image, np.zeros(count, np.int32), str))
    assert len(read) == min(count, 101) and read[0] == 0 and read[-1] == count - 1


# --- few-shot


@pytest.mark.parametrize("per_class", (1, 3))
def test_few_shot_takes_as_many_of_every_class_and_repeats(per_class):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 20)).tolist()
    split, names = split_of(labels), list("abcde")
    chosen = few_shot(split, names, per_class, seed=1)
    assert np.bincount(chosen.labels).tolist() == [per_class] * 5
    assert members(chosen) == sorted(set(members(chosen)))  # in the split's own order, none twice
    assert [labels[i] for i in members(chosen)] == chosen.labels.tolist()
    assert members(few_shot(split, names, per_class, seed=1)) == members(chosen)
    assert members(few_shot(split, names, per_class, seed=2)) != members(chosen)


def test_few_shot_names_the_class_that_has_too_few():
    with pytest.raises(UserError, match="Class 'dog' has 2 training examples, --examples_per_class wants 3"):
        few_shot(split_of([0, 1, 0, 1, 0]), ["cat", "dog"], 3)
    assert len(few_shot(split_of([0, 1, 0, 1, 0]), ["cat", "dog"], 2)) == 4


# --- carve


@pytest.mark.parametrize("fraction", (0.1, 0.5, 0.02))
def test_carve_is_disjoint_complete_and_repeats(fraction):
    split = split_of([i % 10 for i in range(100)])
    rest, part = carve(split, fraction)
    assert len(part) == round(100 * fraction)
    assert sorted(members(rest) + members(part)) == list(range(100))
    assert members(rest) == sorted(members(rest)) and members(part) == sorted(members(part))
    assert [i % 10 for i in members(part)] == part.labels.tolist()
    assert [members(s) for s in carve(split, fraction)] == [members(rest), members(part)]


def test_what_is_carved_is_pinned():
    """A run of an earlier version keeps its validation images: these numbers must never change."""
    assert members(carve(split_of([0] * 20), 0.25)[1]) == [3, 5, 7, 16, 19]


@pytest.mark.parametrize("fraction", (0.0001, 0.9999))
def test_carve_leaves_some_for_both(fraction):
    with pytest.raises(UserError, match="choose a fraction that leaves some for both"):
        carve(split_of([0] * 10), fraction)


def test_splits_of_splits_keep_images_labels_and_names_together():
    few = few_shot(carve(split_of([i % 3 for i in range(60)]), 0.5)[0], list("abc"), 2)
    for i in range(len(few)):
        example = few.read(i)[0, 0, 0]
        assert few.labels[i] == example % 3 and few.describe(i) == f"number {example}"


# --- the sample that ships with the project


@pytest.fixture(scope="module")
def sample():
    return open_dataset("cifar10-sample")


@pytest.mark.parametrize(("split", "count"), [("train", 1000), ("test", 500)])
def test_the_sample_is_balanced(sample, split, count):
    assert sample.num_classes == 10 and list(sample.splits) == ["train", "test"]
    assert np.bincount(sample.splits[split].labels).tolist() == [count // 10] * 10
    assert all(sample.splits[split].decode(i).shape == (32, 32, 3) for i in range(count))


def test_the_sample_is_small_and_has_the_classes_of_cifar10(sample):
    assert SAMPLE.stat().st_size < 2_000_000
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    assert sample.class_names == names and sample.image_size == (32, 32)


def test_no_image_of_the_samples_test_is_in_its_train(sample):
    digests = {
        name: [hashlib.sha256(split.decode(i).tobytes()).digest() for i in range(len(split))]
        for name, split in sample.splits.items()
    }
    assert not set(digests["train"]) & set(digests["test"])
    assert len(set(digests["train"])) == 1000 and len(set(digests["test"])) == 500


def test_the_typical_size_is_of_those_that_are_images(folder):
    for path in (folder / "train/cat").iterdir():
        path.write_bytes(b"no image")
    assert open_dataset(str(folder)).image_size == (4, 6)
    for path in (folder / "train/dog").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match="cat/1.PNG cannot be decoded"):
        print(open_dataset(str(folder)).image_size)
