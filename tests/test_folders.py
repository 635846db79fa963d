"""What of a folder is an image and what is not, as torchvision and timm see it, and that nothing is passed over in silence."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.sources import Places
from common.data.sources.folder import open_folder
from common.datasets import open_dataset
from common.runs.prediction import find_images
from common.system.errors import UserError


def write(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(root / file, "PNG")


NESTED = (
    "dog/a.png", "dog/B.png", "dog/10.png", "dog/9.png", "cat/2021/x.png", "cat/2020-1/x.png", "cat/2020/b.png",
    "cat/2020/a.png", "cat/z.JPG", "cat/2020/deep/er/1.png", "cat/2020.d/1.png", "Ant/only/below.png",
)  # fmt: skip


@pytest.fixture
def root(tmp_path) -> Path:
    write(tmp_path / "data" / "train", *random.Random(0).sample(NESTED, len(NESTED)))
    write(tmp_path / "data" / "val", "cat/1.png")
    return tmp_path / "data"


def files_of(root: Path, split: str = "train") -> list[tuple[str, int]]:
    images = open_folder(str(root), Places()).splits[split]
    return [(os.path.relpath(images.describe(i), root / split), int(images.labels[i])) for i in range(len(images))]


def test_folders_within_class_folders_are_those_of_torchvision(root):
    from torchvision.datasets import ImageFolder

    (root / "train/dog/link").symlink_to(root / "train/Ant/only")
    theirs = ImageFolder(root / "train")
    expected = [(os.path.relpath(path, root / "train"), label) for path, label in theirs.samples]
    assert files_of(root) == expected and list(open_folder(str(root), Places()).class_names) == theirs.classes
    assert len(expected) == len(NESTED) + 1  # once more through the link


def test_folders_within_class_folders_are_those_of_timm(root):
    from timm.data.readers.reader_image_folder import ReaderImageFolder

    theirs = {os.path.relpath(path, root / "train") for path, _ in ReaderImageFolder(root / "train").samples}
    assert {
        path for path, _ in files_of(root)
    } == theirs  # timm makes a class of every folder that holds images: 2020, ...


@pytest.mark.slow  # it imports TensorFlow
def test_folders_within_class_folders_are_those_of_keras(root):
    from engines import Engine

    Engine("bit_tf2")
    import keras

    theirs = keras.utils.image_dataset_from_directory(root / "train", shuffle=False)
    assert theirs.class_names == list(open_folder(str(root), Places()).class_names)
    assert {os.path.relpath(path, root / "train") for path in theirs.file_paths} == {path for path, _ in files_of(root)}


def test_what_systems_leave_is_no_image(root, tmp_path, capsys):
    before = files_of(root)
    junk = (
        ".x.png",
        "._a.png",
        ".hidden/a.png",
        "__MACOSX/._a.png",
        "__MACOSX/a.png",
        "@eaDir/a.png",
        "2020/.thumbs/a.png",
    )
    write(root / "train/cat", *junk)
    write(root / "train", "__MACOSX/a.png", ".x/a.png")
    write(root, "__MACOSX/train/cat/a.png", ".trash/a.png")
    assert files_of(root) == before
    (note,) = open_folder(str(root), Places()).notes
    assert note.startswith(f"Not used in {root}: 10 hidden (such as ")
    found = find_images((str(root / "train"),))  # as `predict` does
    assert sorted(os.path.relpath(path, root / "train") for path in found) == sorted(path for path, _ in before)
    assert "Not used in" in capsys.readouterr().err


def test_predict_takes_images_in_the_order_of_their_names(tmp_path, monkeypatch):
    """A path's parts are compared one after the other: `a/z.png` comes before `a-b/1.png`, and `a.png` after both."""
    names = (
        "a/z.png",
        "a/b/1.png",
        "a/b-c/1.png",
        "a/b.png",
        "a-b/1.png",
        "a.png",
        "B.PNG",
        "a/\udcff.png",
        "x/y/\u2603.png",
    )
    write(tmp_path / "photos", *names)
    found = find_images((f"{tmp_path}/photos//", f"{tmp_path}/photos/./a.png"))
    expected = [*map(str, sorted(tmp_path / "photos" / name for name in names)), f"{tmp_path}/photos/a.png"]
    assert [*found] == expected and found[2:5] == expected[2:5] and found[-1:] == expected[-1:] and len(found) == 10
    monkeypatch.chdir(tmp_path / "photos")
    assert [*find_images((".", "./a/../a.png"))] == [*map(str, sorted(map(Path, names))), "a/../a.png"]


def test_what_is_not_used_is_counted_with_an_example(root):
    write(
        root,
        "train/cat/a.heic",
        "train/cat/2020/b.HEIC",
        "train/cat/2020/readme",
        "train/beside.png",
        "other/cat/1.png",
    )
    (root / "train/dog/notes.txt").write_text("x")
    os.mkfifo(root / "train/dog/pipe.png")
    (root / "train/dog/nowhere").symlink_to("missing")
    (root / "train/dog/round").symlink_to(root / "train")
    (root / "train/cat/2020/again").symlink_to("..")
    (note,) = open_folder(str(root), Places()).notes
    assert note == (
        f"Not used in {root}: 2 .heic, 2 linked to a folder that it lies in, 2 no file, 1 .txt, 1 file beside the classes, "
        "1 folder beside the classes, 1 without an ending (such as train/cat/2020/b.HEIC)."
    )
    assert len(files_of(root)) == len(NESTED)


def test_nothing_is_noted_where_all_is_used(root):
    assert open_dataset(str(root)).notes == ()


def test_links_that_lead_round_in_two_steps_end(root):
    write(root / "train", "dog/x/1.png", "dog/y/2.png")
    (root / "train/dog/x/to_y").symlink_to("../y")
    (root / "train/dog/y/to_x").symlink_to("../x")
    names = [path for path, _ in files_of(root) if path.startswith("dog/")]
    assert names[-4:] == ["dog/x/1.png", "dog/x/to_y/2.png", "dog/y/2.png", "dog/y/to_x/1.png"]


def test_links_to_themselves_are_no_files(root):
    for place in (root, root / "train", root / "train/dog"):
        (place / "me").symlink_to("me")
    assert "1 no file" in open_folder(str(root), Places()).notes[0] and len(files_of(root)) == len(NESTED)
    assert len(find_images((f"{root}/train/",))) == len(NESTED)


def test_a_folder_that_cannot_be_read_is_one_sentence(root, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "there")

    monkeypatch.setattr("common.data.sources.image_files._listing", refuse)
    with pytest.raises(UserError, match="The class folder .*Ant cannot be read .*Permission denied"):
        open_folder(str(root), Places())
    with pytest.raises(UserError, match="The folder .*train cannot be read .*Permission denied"):
        find_images((str(root / "train"),))


@pytest.mark.parametrize("target", ("/dev/zero", "/dev/null", "pipe", "folder"))
def test_what_is_no_file_is_not_waited_for(root, target):
    """As an image's name a link is taken at its word; reading it ends at once."""
    os.mkfifo(root / "pipe")
    (root / "folder").mkdir()
    (root / "train/dog/0.png").symlink_to(target if target.startswith("/") else root / target)
    with pytest.raises(
        UserError, match="The image .*dog/0.png (cannot be read .it is a|cannot be read .Is a|cannot be decoded)"
    ):
        images = open_folder(str(root), Places()).splits["train"]
        images.decode(next(i for i in range(len(images)) if images.describe(i).endswith("dog/0.png")))


@pytest.mark.parametrize("name", ("validation", "valid", "Val", "VAL", "dev"))
def test_a_split_by_another_name_is_named(root, name):
    (root / "val").rename(root / name)
    with pytest.raises(UserError, match=f"holds the folder {name}, expected val; rename it"):
        open_folder(str(root), Places())
    write(root, "val/cat/1.png")
    if name.lower() != "val":
        assert "1 folder beside the classes" in open_folder(str(root), Places()).notes[0]


def test_class_folders_without_splits_are_training_images(root):
    found = open_folder(str(root / "train"), Places())
    assert list(found.splits) == ["train"] and found.class_names == ("Ant", "cat", "dog")
    assert [found.splits["train"].describe(i) for i in range(len(NESTED))] == [
        str(root / "train" / path) for path, _ in files_of(root)
    ]


def test_a_class_folder_with_other_files_says_which(root):
    (root / "train/fox/more").mkdir(parents=True)
    (root / "train/fox/more/a.heic").write_text("x")
    with pytest.raises(UserError, match="train/fox holds no image but 1 .heic .such as .*; add some"):
        open_folder(str(root), Places())


@pytest.mark.parametrize("name", ("", "x" * 5000, "x/" * 5000, "a\0b"))
def test_no_folder_is_called_so(name):
    with pytest.raises(UserError, match="No dataset or folder is called") as caught:
        open_dataset(name)
    assert len(str(caught.value)) < 500
    with pytest.raises(UserError, match="There is no image or folder"):
        find_images((name,))


def test_names_are_printable(root):
    os.rename(root / "train/dog", os.fsencode(root) + b"/train/\xff\x1b[2Jdog\n")
    write(root / "train", "Cat/1.png")
    dataset = open_dataset(str(root))
    assert dataset.class_names == ("Ant", "Cat", "cat", r"\xff\x1b[2Jdog\n")
    assert dataset.notes == ("Different classes have nearly the same name: 'Cat' and 'cat'. Are they one?",)
    (root / "val" / "bad\nname").mkdir()
    images = dataset.splits["train"]
    for path in os.scandir(os.fsencode(root) + b"/train/\xff\x1b[2Jdog\n"):
        Path(os.fsdecode(path.path)).write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be decoded") as caught:
        images.decode(len(images) - 1)
    assert str(caught.value).isprintable()
