"""Images with captions: from every source, through columns, and where there are none."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from test_batches import assert_same, batch_of, recipe_of, split_of
from test_sources import example, png, write_tfds
from test_tar import write_tar

from common.config import TrainConfig
from common.data.batches import TrainBatches
from common.data.captions import Captions
from common.data.columns import CAPTION, captions, train_images
from common.data.sources import captioned, index
from common.data.split import carve
from common.datasets import open_dataset
from common.runs.plan import Plan
from common.system.errors import UserError

TEXTS = [("a red cat", "Katze, rot"), ("a dog",), ("naïve \U0001f600", "b", "c d")]
PNG = [png(np.full((4, 6, 3), 40 * i, np.uint8)) for i in range(len(TEXTS))]


# --- as sources have them: each writes TEXTS for training, and the last of them as test


def write_list(root: Path) -> str:
    for split, numbers in (("train", range(3)), ("test", (2,))):
        lines = []
        for i in numbers:
            (root / split / "deep").mkdir(parents=True, exist_ok=True)
            (root / split / f"deep/{i}.png").write_bytes(PNG[i])
            lines.append("\t".join([f"deep/{i}.png", *TEXTS[i]]))
        (root / split / "captions.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(root)


def write_coco(root: Path) -> str:
    (root / "annotations").mkdir()
    (root / "annotations/instances_train2017.json").write_text("{}")
    for split, numbers in (("train2017", range(3)), ("test2017", (2,))):
        (root / split).mkdir()
        images = [{"id": 70 - i, "file_name": f"{i:012d}.png", "license": 1} for i in numbers][::-1]
        texts = [(70 - i, text) for i in numbers for text in TEXTS[i]]
        annotations = [{"image_id": number, "id": k, "caption": f"{text} \n"} for k, (number, text) in enumerate(texts)]
        facts = {"images": images, "annotations": annotations, "info": {}}
        (root / f"annotations/captions_{split}.json").write_text(json.dumps(facts))
        for i in numbers:
            (root / split / f"{i:012d}.png").write_bytes(PNG[i])
    return f"coco:{root}"


def write_archives(root: Path) -> str:
    for split, numbers in (("train", range(3)), ("test", (2,))):
        members = []
        for i in numbers:
            facts = json.dumps({"captions": TEXTS[i], "url": "x"} if len(TEXTS[i]) > 1 else {"caption": TEXTS[i][0]})
            members += [(f"{i}.png", PNG[i]), (f"{i}.json", facts.encode())]
        write_tar(root / f"{split}-00.tar", members)
    return f"wds:{root}"


def write_parquet(root: Path) -> str:
    pyarrow, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for split, numbers in (("train", [0, 1, 2]), ("test", [2])):
        images = [{"bytes": PNG[i], "path": None} for i in numbers]
        kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
        columns = {"image": pyarrow.array(images, kind), "captions": pyarrow.array([TEXTS[i] for i in numbers])}
        pq.write_table(pyarrow.table(columns), root / f"{split}-00000-of-00001.parquet")
    return f"parquet:{root}"


def write_prepared(root: Path) -> str:
    """As TFDS lays COCO out: the texts of an image in a sequence of structures."""
    records = [[] for _ in range(3)]
    for i, texts in enumerate(TEXTS):
        records[i] = example_of_texts(PNG[i], [text.encode(errors="surrogateescape") for text in texts])
    folder = root / "tfds/pairs/1.0.0"
    write_tfds(folder, {"train": [records[:2], records[2:]], "test": [records[2:]]}, [])
    each = {"featuresDict": {"features": {"text": {"text": {}}, "id": {"tensor": {"dtype": "int64"}}}}}
    features = {"image": {"image": {}}, "captions": {"sequence": {"feature": each, "length": "-1"}}}
    (folder / "features.json").write_text(json.dumps({"featuresDict": {"features": features}}))
    return "tfds:pairs"


def example_of_texts(image: bytes, texts: list[bytes]) -> bytes:
    """A record whose feature `captions/text` has several values."""
    from test_sources import field

    values = b"".join(field(1, text) for text in texts)
    entry = field(1, field(1, b"captions/text") + field(2, field(1, values)))
    return field(1, entry + field(1, field(1, b"image") + field(2, field(1, field(1, image)))))


SOURCES = {
    "a list": write_list, "coco": write_coco, "tar": write_archives, "parquet": write_parquet, "tfds": write_prepared,
}  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_gives_images_with_their_captions(source, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "QUICK_SECONDS", -1)  # an index is kept, and then read
    name = SOURCES[source](tmp_path)
    for path in tmp_path.rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    for _ in range(2):
        dataset = open_dataset(name, tfds_data_dir=tmp_path / "tfds")
        assert dataset.class_names == () and [*dataset.splits] == ["train", "test"] and dataset.image_size == (4, 6)
        train, test = dataset.splits.values()
        assert [*train.captions] == TEXTS and [*test.captions] == TEXTS[2:]
        assert [train.read(i) for i in range(3)] == PNG and test.read(0) == PNG[2]
        assert train.is_multi_label and train.num_labelled == 0 and len(train) == 3
        np.testing.assert_array_equal(train.captions.images_of, [0, 0, 1, 2, 2, 2])
    assert len([*tmp_path.rglob(".bit-zoo-index*")]) == 1
    with pytest.raises(UserError, match="have captions and no labels, which classification needs; choose"):
        dataset.check_labels()


# --- through splits and columns


def test_captions_go_where_their_images_go(tmp_path):
    own = Captions.pack([(f"{i}", f"again {i}") if i % 3 else (f"only {i}",) for i in range(40)])
    split = open_dataset(write_list(tmp_path)).splits["train"]
    assert [*split.take(np.array([2, 0])).captions] == [TEXTS[2], TEXTS[0]]
    whole = split_of(40)
    whole = type(whole)(whole.read, whole.labels, whole.describe, captions=own)
    for part in carve(whole, 0.25):
        for i, label in enumerate(part.take(np.arange(len(part))[::-1]).labels):
            assert part.take(np.arange(len(part))[::-1]).captions[i] == own[int(label)]
    with pytest.raises(IndexError):
        own[40]


def encode(text: str) -> np.ndarray:
    """The first four letters."""
    return np.array([*map(ord, text[:4].ljust(4))], np.int32)


def test_one_caption_is_drawn_for_every_step():
    """Each about as often, from (seed, step) alone, and without a change of what other streams draw."""
    split = split_of(40)
    texts = [[f"{k:02d}{i:02d}" for k in range(1 + i % 5)] for i in range(40)]
    split = type(split)(split.read, split.labels, split.describe, captions=Captions.pack(texts))
    recipe = recipe_of(batch=32)
    column = captions(split, encode, (4,))
    assert column.shape == (4,) and column.dtype is np.int32 and CAPTION.number == 7
    batches = TrainBatches(split, recipe, 3, columns=(train_images(recipe), column))
    alone = TrainBatches(split, recipe, 3)
    drawn = {}
    for step in range(50):
        batch = batch_of(batches, step)
        np.testing.assert_array_equal(batch["images"], batch_of(alone, step)["images"])
        examples = batches.plan(step)["examples"]
        for row, i in zip(batch["tokens"], examples.tolist()):
            text = "".join(map(chr, row))
            assert text in texts[i]
            drawn.setdefault(i, []).append(text)
    assert all({*drawn[i]} == {*texts[i]} for i in range(40))
    first = sum(text.startswith("00") for i in range(4, 40, 5) for text in drawn[i]) / sum(
        len(drawn[i]) for i in range(4, 40, 5)
    )
    assert 0.13 < first < 0.27  # of five captions
    asked = TrainBatches(split, recipe, 3, columns=(train_images(recipe), column))
    for step in (9, 2):
        assert_same(batch_of(asked, step), batch_of(batches, step))
    parts = [batch_of(TrainBatches(split, recipe, 3, p, 2, columns=(column,)), 5)["tokens"] for p in range(2)]
    np.testing.assert_array_equal(np.concatenate(parts), batch_of(batches, 5)["tokens"])


def test_captions_as_pixels():
    split = split_of(4)
    split = type(split)(split.read, split.labels, split.describe, captions=Captions.pack([("x",)] * 4))
    column = captions(split, lambda text: np.full((2, 2, 3), ord(text), np.uint8), (2, 2, 3), np.uint8, "texts")
    batch = batch_of(TrainBatches(split, recipe_of(batch=4), 0, columns=(column,)), 0)
    assert batch["texts"].dtype == np.uint8 and (batch["texts"] == ord("x")).all()


def test_a_dataset_without_captions():
    with pytest.raises(UserError, match="have no captions, which the model is to be trained with; choose a dataset"):
        captions(split_of(4), encode, (4,))


# --- the embedded sample


def test_the_sample_holds_drawings_with_captions():
    """Under 3 MB, public domain as its README says, and no title of a test stands in training."""
    assert captioned.SAMPLE.stat().st_size < 3e6
    with zipfile.ZipFile(captioned.SAMPLE) as archive:
        assert b"public domain" in archive.read("README.txt")
    dataset = open_dataset("captions-sample")
    titles = {name: {texts[0].lower() for texts in split.captions} for name, split in dataset.splits.items()}
    assert not titles["train"] & titles["test"] and len(titles["test"]) == len(dataset.splits["test"]) == 190
    for split in dataset.splits.values():
        assert all(split.captions) and {split.decode(i).shape for i in range(0, len(split), 40)} == {(64, 64, 3)}
    test = dataset.splits["test"]
    assert test.captions[10] == ("Bangladesh", "asia, flag, sign")
    assert test.describe(10) == "test/0010.jpg of captions-sample.zip"
    red, green, blue = test.decode(10)[20:44, 20:44].mean((0, 1))  # the disc in the middle of its flag
    assert red > 150 and green < 50 and blue < 50


# --- labels and captions


def test_archives_may_have_both(tmp_path):
    members = [
        ("0.png", PNG[0]),
        ("0.cls", b"1"),
        ("0.txt", b" a cat\n"),
        ("1.txt", b"b"),
        ("1.png", PNG[1]),
        ("1.cls", b"0"),
    ]
    split = open_dataset(f"wds:{write_tar(tmp_path / 'a.tar', members)}").splits["train"]
    assert split.labels.tolist() == [1, 0] and [*split.captions] == [("a cat",), ("b",)]


def test_empty_captions_are_left_out_and_counted(tmp_path):
    members = [("0.png", PNG[0]), ("0.txt", b" \n"), ("1.png", PNG[1]), ("1.json", b'{"captions": ["", "b"]}')]
    members += [("2.png", PNG[2]), ("2.json", b'{"caption": null}')]
    dataset = open_dataset(f"wds:{write_tar(tmp_path / 'a.tar', members)}")
    split = dataset.splits["train"]
    assert [*split.captions] == [("b",)] and split.read(0) == PNG[1] and split.describe(0).startswith("1.png in ")
    assert "2 with an empty caption (such as a.tar/0.png)" in dataset.notes[0] and len(split.blocks.numbers) == 1
    with pytest.raises(UserError, match="The split train of .* has no image with a caption"):
        open_dataset(f"wds:{write_tar(tmp_path / 'b.tar', members[:2])}")


def test_columns_of_captions(tmp_path):
    """As sets on the hub have them: one column a caption, or null."""
    pyarrow, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"image": pyarrow.array([PNG[0], PNG[1], PNG[2]]), "other": pyarrow.array(["x"] * 3)}
    columns |= {"caption_0": pyarrow.array(["a", None, "c"]), "caption_1": pyarrow.array(["aa", None, ""])}
    pq.write_table(pyarrow.table(columns), tmp_path / "a.parquet", compression="snappy")
    dataset = open_dataset(f"parquet:{tmp_path}/a.parquet")
    assert [*dataset.splits["train"].captions] == [("a", "aa"), ("c",)]
    assert dataset.splits["train"].read(1) == PNG[2] and "1 with an empty caption" in dataset.notes[0]
    assert dataset.splits["train"].describe(1).startswith("in row 2 of ")


# --- what is broken


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "lists no image; expected"),
        ("deep/0.png\n", r"Line 1 of .* is 'deep/0\.png', expected `path<TAB>caption<TAB>caption...`"),
        ("deep/0.png\t \t\n", r"Line 1 of .* is 'deep/0\.png', expected"),
        ("\ta cat\n", "Line 1 of .* is 'a cat', expected"),
        ("deep/0.png\ta\ndeep/9.png\ta\n", r"Line 2 of .* lists deep/9\.png, which is not there"),
        (
            "deep/0.png\ta\ndeep/1.png\tcaf\udce9\n",
            r"Line 2 of .* holds captions that are not in UTF-8, such as caf.*xe9; save",
        ),
        ("deep/0.png\ta\ndeep/../deep/0.png\ta\n", r"Line 2 of .* lists deep/0\.png again"),
    ],
)
def test_lines_that_fit_nothing(tmp_path, text, words):
    name = write_list(tmp_path)
    (tmp_path / "train/captions.tsv").write_text(text, errors="surrogateescape")
    with pytest.raises(UserError, match=words):
        open_dataset(name)


@pytest.mark.parametrize(
    ("source", "where"), [("coco", "train2017.json"), ("tar", "train-00.tar"), ("tfds", "Record 1 of")]
)
def test_captions_that_are_no_unicode(source, where, tmp_path, monkeypatch):
    """Half of a pair of surrogates, which JSON can write, and bytes that are not UTF-8."""
    monkeypatch.setitem(globals(), "TEXTS", [TEXTS[0], ("caf\udce9",), TEXTS[2]])
    name = SOURCES[source](tmp_path)
    with pytest.raises(UserError, match=r"holds captions that are not in UTF-8, such as caf\\xe9; save") as refused:
        open_dataset(name, tfds_data_dir=tmp_path / "tfds")
    assert where in str(refused.value)


def test_captions_of_parquet_that_are_no_unicode(tmp_path):
    pyarrow, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = pyarrow.array([{"bytes": PNG[0], "path": None}])
    texts = pyarrow.array([b"caf\xe9"], pyarrow.binary()).view(pyarrow.string())
    pq.write_table(pyarrow.table({"image": images, "caption": texts}), tmp_path / "train-0.parquet")
    with pytest.raises(UserError, match="train-0.parquet"):
        open_dataset(f"parquet:{tmp_path}")


def test_lists_as_people_save_them(tmp_path):
    """A spreadsheet's quotes and empty cells, Windows' line ends, a byte-order mark; other quotes belong to a caption."""
    name = write_list(tmp_path)
    text = '\ufeffdeep/0.png\t"He said ""hi"""\t\t\r\ndeep/1.png\t"Stop" he said\ta, b\r\n'
    (tmp_path / "train/captions.tsv").write_text(text, encoding="utf-8", newline="")
    assert [*open_dataset(name).splits["train"].captions] == [('He said "hi"',), ('"Stop" he said', "a, b")]
    (tmp_path / "test/labels.tsv").write_text("deep/2.png\ta\n")
    with pytest.raises(UserError, match=r"holds labels\.tsv and captions\.tsv; keep one"):
        open_dataset(name)
    (tmp_path / "test/labels.tsv").unlink()
    (tmp_path / "test/captions.tsv").unlink()
    with pytest.raises(UserError, match=r"holds a captions\.tsv and .*test does not; give every split one"):
        open_dataset(name)


def without(key: str):
    return lambda facts: {name: value for name, value in facts.items() if name != key}


def with_file(name: str):
    return lambda facts: facts | {"images": [{"id": 70, "file_name": name}, *facts["images"][:2]]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("images"), "holds no captions as COCO lists them .'images'.; fetch it again"),
        (lambda facts: [facts], "holds no captions as COCO lists them"),
        (lambda facts: facts | {"images": []}, "holds no image|holds a caption of the image"),
        (
            lambda facts: facts | {"images": facts["images"][1:]},
            "holds a caption of the image 68, which it does not list",
        ),
        (lambda facts: facts | {"annotations": facts["annotations"][2:]}, r"holds no caption of 000000000000\.png"),
        (
            lambda facts: facts | {"annotations": [{"image_id": 70, "caption": 5}]},
            "holds no captions as COCO lists them",
        ),
        (with_file("../../x.png"), r"lists \.\./\.\./x\.png, which is not in"),
        (with_file("/etc/passwd"), "lists /etc/passwd, which is not in"),
        (with_file("000000000009.png"), r"lists 000000000009\.png, which is not in"),
    ],
)
def test_lists_of_coco_that_are_broken(tmp_path, change, words):
    name = write_coco(tmp_path)
    path = tmp_path / "annotations/captions_train2017.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=words):
        open_dataset(name)


def test_what_coco_names(tmp_path):
    name = write_coco(tmp_path)
    one = open_dataset(f"{name}/annotations/captions_test2017.json")
    assert [*one.splits] == ["test"] and [*one.splits["test"].captions] == TEXTS[2:]
    path = tmp_path / "annotations/captions_train2014.json"
    path.write_bytes((tmp_path / "annotations/captions_train2017.json").read_bytes())
    with pytest.raises(
        UserError, match=r"names captions_train2014\.json and captions_train2017\.json, which share images"
    ):
        open_dataset(name)
    path.rename(tmp_path / "annotations/captions_val2017.json")
    with pytest.raises(
        UserError, match=r"The images of .*captions_val2017\.json are missing; expected them in .*val2017"
    ):
        open_dataset(name)


def test_a_record_without_texts(tmp_path):
    name = write_prepared(tmp_path)
    write_tfds(tmp_path / "tfds/other/1.0.0", {"train": [[example(image=PNG[0], caption=3)]]}, [])
    features = {"image": {"image": {}}, "caption": {"text": {}}}
    path = tmp_path / "tfds/other/1.0.0/features.json"
    path.write_text(json.dumps({"featuresDict": {"features": features}}))
    with pytest.raises(UserError, match=r"Record 0 of train of .* holds no caption but \[3\]; prepare it again"):
        open_dataset("tfds:other", tfds_data_dir=tmp_path / "tfds")
    assert len(open_dataset(name, tfds_data_dir=tmp_path / "tfds").splits["train"]) == 3


def test_classification_on_captions_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="have captions and no labels, which classification needs"):
        Plan(TrainConfig(dataset=write_list(tmp_path)))
