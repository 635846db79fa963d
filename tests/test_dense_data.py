"""Maps of every pixel: cut and mirrored as their images are, in training and evaluation; the files and sets that hold them."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_batches import recipe_of
from test_sources import example, png, write_tfds

from common.config import TrainConfig
from common.data import checked, images, targets
from common.data.batches import EvalBatches, TrainBatches
from common.data.catalogue import open_dataset
from common.data.checked import open_turned
from common.data.label_maps import Category, Maps
from common.data.sources import index
from common.data.split import Dataset, MultiLabels, Split
from common.models import VqVaeConfig, find_model
from common.models.cards import Preprocessing
from common.runs.plan import Plan
from common.system.errors import UserError

CATEGORIES = [{"id": 3, "name": "cat", "isthing": 1}, {"id": 7, "name": "grass", "isthing": 0}]


def test_grey_is_tensorflows():
    """Values that `tf.image.rgb_to_grayscale` gave."""
    colours = [
        (255, 255, 255),
        (0, 0, 0),
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (10, 200, 90),
        (123, 45, 67),
        (1, 1, 1),
    ]
    found = images.grey(np.array([colours], np.uint8))[0]
    assert found.tolist() == [[light] * 3 for light in (255, 0, 76, 149, 29, 130, 70, 1)]


def test_nearest_takes_the_pixel_in_the_middle():
    """As `tf.image.resize` and `jax.image.resize` do; OpenCV takes the one at the corner."""
    row = np.arange(5, dtype=np.int32)[None, :, None]
    assert images.resize(row, 1, 2, "nearest").ravel().tolist() == [1, 3]
    assert images.resize(row, 1, 8, "nearest").ravel().tolist() == [0, 0, 1, 2, 2, 3, 4, 4]


@pytest.mark.slow
def test_grey_and_nearest_are_tensorflows_of_random_images():
    tf = pytest.importorskip("tensorflow")
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    expected = tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(noise)).numpy()
    off = np.abs(expected.astype(int) - images.grey(noise))
    assert off.max() <= 1 and (off > 0).mean() < 1e-4  # sums of three numbers in another order
    for size in ((100, 150), (25, 60), (400, 600), (8, 3)):  # whose steps float32 holds
        np.testing.assert_array_equal(images.resize(noise, *size, "nearest"), tf.image.resize(noise, size, "nearest"))


def place(height: int, width: int) -> np.ndarray:
    """An image whose red and green grow with the row and the column."""
    rows, columns = np.indices((height, width))
    return np.stack([rows * 255 / height, columns * 255 / width, rows * 0], -1).astype(np.uint8)


def split_of(target: str, count: int = 6, size: tuple[int, int] = (90, 70)) -> Split:
    """Images that tell places, with maps of the same places."""
    whole = place(*size)
    known = {
        "depth": whole[..., :1].astype(np.float32) + whole[..., 1:2] / np.float32(1000),
        "panoptic": np.stack([whole[..., 0] // 64 + 1, whole[..., 0] // 64 + 1, whole[..., 0] * 0], -1).astype(
            np.int32
        ),
    }
    maps = Maps(target, lambda i: known[target]) if target in known else None
    return Split(lambda i: whole, MultiLabels.none(count), str, maps=maps)


@pytest.mark.parametrize("box", (0.1, 1.0))
def test_a_depth_has_the_box_and_the_flip_of_its_image(box):
    recipe = recipe_of(batch=6, resize=48, crop=32, crop_min_area=box, flip=0.5, mixup=0.0)
    columns = targets.train_columns("depth", recipe)
    work, jobs = TrainBatches(split_of("depth"), recipe, 5, columns=columns).jobs(3)
    for job in jobs:
        job()
    assert work["maps"].shape == (6, 32, 32, 1) and work["maps"].dtype == np.float32
    rows, columns = np.floor(work["maps"][..., 0]), 1000 * (work["maps"][..., 0] % 1)
    mirrored = work["images"][:, 0, 0, 1] > work["images"][:, 0, -1, 1]
    assert 0 < mirrored.sum() < 6
    for found, expected in ((rows, work["images"][..., 0]), (columns, work["images"][..., 1])):
        assert (
            np.abs(found - expected)[:, 2:-2, 2:-2].max() <= 6
        )  # a pixel is 2.8 or 3.6, and its neighbours are blended


def test_colours_belong_to_a_grey_image():
    recipe = recipe_of(batch=6, resize=48, crop=32, crop_min_area=0.3, flip=0.5, mixup=0.0)
    work, jobs = TrainBatches(
        split_of("colorization"), recipe, 5, columns=targets.train_columns("colorization", recipe)
    ).jobs(0)
    for job in jobs:
        job()
    assert work["maps"].dtype == np.uint8 and len(np.unique(work["maps"][..., 1])) > 20
    np.testing.assert_array_equal(work["images"], np.stack([*map(images.grey, work["maps"])]))


def test_randaugment_is_refused():
    with pytest.raises(UserError, match="--randaugment_layers 2 moves pixels and not their maps"):
        targets.train_columns("depth", recipe_of(randaugment_layers=2))


def test_evaluation_shows_what_is_judged():
    seen = Preprocessing(32, 0)
    for target, form in targets.TARGETS.items():
        split = split_of(target, 3)
        columns = targets.eval_shown(target, seen), targets.eval_maps(target, seen)
        work, jobs = EvalBatches(split, None, 3, columns=columns).jobs(0)
        for job in jobs:
            job()
        truths = targets.Truths(split, target, seen)
        assert work["maps"].shape == (3, 32, 32, form.channels) and len(truths) == 3
        expected = {"colorization": lambda: truths[1], "depth": lambda: images.resize(truths[1], 32, 32, "nearest")}
        expected |= {"panoptic": lambda: targets.canonical(images.resize(truths[1], 32, 32, "nearest"))}
        np.testing.assert_array_equal(work["maps"][1], expected[target](), target)
        np.testing.assert_array_equal(work["images"][1], truths.image(1))
    middle = targets.Truths(split_of("depth", 1), "depth", Preprocessing(32, 64))
    np.testing.assert_array_equal(middle[0], split_of("depth").maps.read(0)[27:62, 18:53])


def test_instances_are_numbered_from_the_top_and_the_left():
    found = np.zeros((4, 6, 3), np.int32)
    found[0, 4:] = 1, 9, 0  # upper right
    found[0, :2] = 2, 5, 0  # upper left
    found[3, 1:3] = 1, 2, 1  # below
    numbers = targets.canonical(found)[..., 1]
    assert numbers[0, 0] == 1 and numbers[0, 5] == 2 and numbers[3, 1] == 3 and numbers[2].tolist() == [0] * 6
    np.testing.assert_array_equal(targets.canonical(found)[..., 0], found[..., 0])


def test_instances_are_numbered_as_in_the_originals_test():
    """`test_make_canonical` of `pp/proj/uvim/pp_ops_test.py` of big_vision, whose -1 is our 0: not known."""
    given = np.array([[1, 0, 3, 3, 0], [1, 0, 3, 3, 0], [1, 0, 2, 2, 2], [1, 0, 0, 0, 0]], np.int32)
    expected = [[2, 0, 1, 1, 0], [2, 0, 1, 1, 0], [2, 0, 3, 3, 3], [2, 0, 0, 0, 0]]
    found = targets.canonical(np.stack([given, given, 0 * given], -1))
    assert found[..., 1].tolist() == expected and (found[..., 0] == given).all()


# --- files


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values) if path.suffix == ".npy" else Image.fromarray(values).save(path)


@pytest.fixture
def depths(tmp_path):
    """maps:FOLDER with two training images, in millimetres and in metres, and one of val."""
    for split, name in (("train", "a"), ("train", "b/c"), ("val", "a")):
        write(tmp_path / split / "images" / f"{name}.png", place(8, 6))
    write(tmp_path / "train/depth/a.png", np.arange(48, dtype=np.uint16).reshape(8, 6) * 100)
    metres = np.full((8, 6), 2.5)
    metres[0, 0] = np.nan
    write(tmp_path / "train/depth/b/c.npy", metres)
    write(tmp_path / "val/depth/a.png", np.full((8, 6), 1500, np.uint16))
    return tmp_path


def model_of(target: str) -> VqVaeConfig:
    """A small one."""
    return find_model(f"UViM-T/8-{target}").config()


def test_a_folder_of_depths(depths):
    found = open_dataset(f"maps:{depths}")
    assert {name: len(split) for name, split in found.splits.items()} == {
        "train": 2,
        "val": 1,
    } and not found.class_names
    train = found.splits["train"]
    assert train.maps.kind == "depth" and train.maps.read(0).dtype == np.float32
    np.testing.assert_allclose(train.maps.read(0)[..., 0], np.arange(48).reshape(8, 6) / 10, rtol=1e-6)
    assert (
        train.maps.read(1)[0, 0, 0] == 0 and train.maps.read(1)[1, 1, 0] == 2.5
    )  # what is not a number was not measured
    np.testing.assert_array_equal(train.take(np.array([1])).maps.read(0), train.maps.read(1))
    targets.check_maps(train, model_of("depth"), "x")
    with pytest.raises(UserError, match="have maps of depth, and panoptic needs maps of panoptic"):
        targets.check_maps(train, model_of("panoptic"), "x")
    with pytest.raises(UserError, match="--exif apply turns images and not their maps"):
        targets.check_maps(dataclasses.replace(train, exif="apply"), model_of("depth"), "x")


def test_classification_of_images_with_maps_is_one_sentence(depths):
    with pytest.raises(
        UserError, match="have maps of depth and no labels, which classification needs; .* such as UViM-T/8-depth"
    ):
        open_dataset(f"maps:{depths}").check_labels()
    flags = {"recipe": "uvim_depth", "model": "UViM-T/8-depth", "weights": "none", "dataset": f"maps:{depths}"}
    assert "(maps; 2 train, 1 val images)" in Plan(TrainConfig(**flags, batch=2, steps=2, warmup_steps=1)).summary(
        "bit_jax"
    )


def test_a_broken_map_is_named(depths):
    broken = {
        "another size": (np.ones((8, 7), np.uint16), "a.png has 8 x 6 pixels and its map 8 x 7"),
        "below zero": (np.full((8, 6), -1.0), "from -1 to -1 metres"),
        "texts": (np.full((8, 6), "x"), "expected numbers"),
        "pickles": (np.full((8, 6), None), "cannot be read"),
        "three channels": (np.ones((8, 6, 3)), "of 3 channels, expected one"),
    }
    for values, words in broken.values():
        (depths / "val/depth/a.png").unlink(missing_ok=True)
        write(depths / f"val/depth/a.{'png' if values.dtype == np.uint16 else 'npy'}", values)
        split = open_dataset(f"maps:{depths}").splits["val"]
        with pytest.raises(UserError, match=words):
            split.view(0, lambda example: example.map)
    write(depths / "val/depth/a.png", np.ones((8, 6), np.uint16))
    with pytest.raises(UserError, match=r"holds a.png and a.npy of the image a.png, expected one"):
        open_dataset(f"maps:{depths}")
    (depths / "val/depth/a.png").unlink()
    (depths / "val/depth/a.npy").unlink()
    with pytest.raises(UserError, match=r"holds no map of the image a.png, expected one of a.png and a.npy"):
        open_dataset(f"maps:{depths}")
    with pytest.raises(UserError, match="has no maps; expected train/images/"):
        open_dataset(f"maps:{depths / 'train'}")


def test_a_folder_of_segmentations(tmp_path):
    write(tmp_path / "train/images/a.png", place(2, 3))
    two = np.zeros((2, 3, 3), np.uint8)
    two[0, :2, 0], two[0, :2, 1], two[1, :, 0] = 3, (1, 2), 7
    write(tmp_path / "train/panoptic/a.png", two)
    with pytest.raises(UserError, match="lists no categories"):
        open_dataset(f"maps:{tmp_path}")
    (tmp_path / "categories.json").write_text(json.dumps(CATEGORIES))
    split = open_dataset(f"maps:{tmp_path}").splits["train"]
    assert [(one.name, one.is_thing) for one in split.maps.categories] == [("cat", True), ("grass", False)]
    found = split.maps.read(0)
    assert found[..., 0].tolist() == [[1, 1, 0], [2, 2, 2]] and found[..., 1].tolist() == [[1, 2, 0], [3, 3, 3]]
    two[0, 0, 0] = 5
    write(tmp_path / "train/panoptic/a.png", two)
    with pytest.raises(UserError, match="has the category 5 in its map .*, which is not among the categories"):
        split.view(0, lambda example: example.map)


@pytest.fixture
def coco(tmp_path):
    """coco_panoptic:FOLDER with one image of training and one of val."""
    for split in ("train2017", "val2017"):
        write(tmp_path / split / "000000000001.png", place(2, 3))
        ids = np.zeros((2, 3, 3), np.uint8)
        ids[0] = (4, 1, 2)  # 4 + 256 + 2 * 65536
        ids[1, 1:] = (9, 0, 0)
        write(tmp_path / f"annotations/panoptic_{split}/000000000001.png", ids)
        segments = [{"id": 131332, "category_id": 7, "iscrowd": 0}, {"id": 9, "category_id": 3, "iscrowd": 1}]
        one = {"image_id": 1, "file_name": "000000000001.png", "segments_info": segments}
        record = {
            "images": [{"id": 1, "file_name": "000000000001.png"}],
            "annotations": [one],
            "categories": CATEGORIES,
        }
        (tmp_path / f"annotations/panoptic_{split}.json").write_text(json.dumps(record))
    return tmp_path


def test_coco(coco):
    found = open_dataset(f"coco_panoptic:{coco}")
    assert [*found.splits] == ["train", "val"]
    maps = found.splits["val"].maps.read(0)
    assert maps[..., 0].tolist() == [[2] * 3, [0, 1, 1]] and maps[..., 2].tolist() == [[0] * 3, [0, 1, 1]]
    assert maps[..., 1].tolist() == [[1] * 3, [0, 2, 2]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record["annotations"][0]["segments_info"][0].pop("id"), "holds no segments as COCO"),
        (lambda record: record["annotations"].append(record["annotations"][0]), "an image twice"),
        (lambda record: record["annotations"][0].update(file_name="../1.png"), "which is not in"),
        (lambda record: record["categories"].append(CATEGORIES[0]), "one twice"),
        (lambda record: record.pop("images"), "holds no segments as COCO"),
    ],
)
def test_a_broken_list_of_coco_is_refused(coco, change, words):
    path = coco / "annotations/panoptic_val2017.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=words):
        open_dataset(f"coco_panoptic:{coco}")


BESIDE = {  # source: (the image and the map of its only image of val)
    "depths": ("val/images/a.png", "val/depth/a.png"),
    "coco": ("val2017/000000000001.png", "annotations/panoptic_val2017/000000000001.png"),
}


def open_checked(form: str, folder: Path | str, **flags) -> Dataset:
    """What a run takes of the folder."""
    config = TrainConfig(dataset=f"{form}:{folder}", workers=1, **flags)
    return checked.checked(open_turned(config), config, ("train", "val"))


def add_one_more(folder: Path, source: str) -> None:
    """Another image of val like the first one."""
    for file in BESIDE[source]:
        shutil.copy(folder / file, (folder / file).with_stem("b"))
    if source == "coco":
        path = folder / "annotations/panoptic_val2017.json"
        record = json.loads(path.read_text())
        record["images"].append({"id": 2, "file_name": "b.png"})
        record["annotations"].append(record["annotations"][0] | {"image_id": 2, "file_name": "b.png"})
        path.write_text(json.dumps(record))


@pytest.mark.parametrize("source", BESIDE)
def test_a_broken_map_is_found_before_a_run(source, tmp_path, request, monkeypatch):
    """Beside an image that is whole: refused, or left out and counted as a broken image is, until its file changes."""
    monkeypatch.setattr(index, "QUICK_SECONDS", -1)
    request.getfixturevalue(source)
    form, (image, file) = {"depths": "maps", "coco": "coco_panoptic"}[source], BESIDE[source]
    add_one_more(tmp_path, source)
    path, whole = tmp_path / file, (tmp_path / file).read_bytes()
    for changed, broken in enumerate((whole[:40], b"", b"no map", whole)):
        path.write_bytes(broken)
        for one in tmp_path.rglob("*"):  # as if all had been there for long
            os.utime(one, (1.6e9 + changed, 1.6e9 + changed))
        if broken != whole:
            with pytest.raises(UserError, match=rf"^The image .*/{image} has a map that cannot be read, .*/{file} "):
                open_checked(form, tmp_path)
        for _ in range(2):
            found = open_checked(form, tmp_path, on_broken_image="skip")
            assert (found.skipped, len(found.splits["val"])) == ((0, 2) if broken == whole else (1, 1))
    assert open_checked(form, tmp_path).skipped == 0


def test_a_map_that_cannot_be_opened_is_named_itself(depths):
    split = open_dataset(f"maps:{depths}").splits["val"]
    (depths / "val/depth/a.png").unlink()
    with pytest.raises(UserError, match=r"has a map that cannot be read, .*depth/a.png \(.*No such file"):
        split.view(0, lambda example: example.map)


def test_maps_of_which_nothing_is_known_are_refused_before_a_run(depths):
    """Judging them would end the run once it is trained."""
    flags = {"recipe": "uvim_depth", "model": "UViM-T/8-depth", "weights": "none", "dataset": f"maps:{depths}"}
    for values in (np.zeros((8, 6), np.uint16), np.full((8, 6), 20_000, np.uint16)):  # not measured; 20 m
        write(depths / "val/depth/a.png", values)
        with pytest.raises(UserError, match="No map of the val images has a pixel by which depth is judged"):
            Plan(TrainConfig(**flags, batch=2, steps=2, warmup_steps=1))


def test_more_categories_than_the_model_tells_apart_are_refused(coco):
    split = open_dataset(f"coco_panoptic:{coco}").splits["val"]
    many = tuple(Category(number, "x", True) for number in range(1, 135))
    for count in (133, 134):
        own = dataclasses.replace(split, maps=dataclasses.replace(split.maps, categories=many[:count]))
        if count == 133:
            targets.check_maps(own, model_of("panoptic"), "x")
        else:
            with pytest.raises(UserError, match="x have 134 categories, and the model tells 133 apart"):
                targets.check_maps(own, model_of("panoptic"), "x")


def write_nyu(folder: Path, *val: bytes) -> None:
    """tfds:nyu_depth_v2 with one training image and these records of val."""
    write_tfds(folder / "tfds/nyu_depth_v2/0.0.1", {"train": [[nyu_record()]], "validation": [[*val]]}, [])
    shape = {"shape": {"dimensions": ["480", "640"]}, "dtype": "float16", "encoding": "none"}
    (folder / "tfds/nyu_depth_v2/0.0.1/features.json").write_text(
        json.dumps({"featuresDict": {"features": {"image": {"image": {}}, "depth": {"tensor": shape}}}})
    )


def nyu_record(**changed) -> bytes:
    """An image with the depth of its pixels."""
    return example(**{"image": png(place(480, 640)), "depth": NYU_DEPTH.ravel()} | changed)


NYU_DEPTH = np.arange(480 * 640, dtype=np.float32).reshape(480, 640) / 1e5


def test_nyu(tmp_path):
    """Its training images are whole, and of those of val the part that is evaluated."""
    write_nyu(tmp_path, nyu_record())
    splits = open_dataset("tfds:nyu_depth_v2", tfds_data_dir=tmp_path / "tfds").splits
    np.testing.assert_array_equal(splits["train"].maps.read(0)[..., 0], NYU_DEPTH)
    np.testing.assert_array_equal(splits["val"].maps.read(0)[..., 0], NYU_DEPTH[54:480, 41:601])
    np.testing.assert_array_equal(splits["val"].decode(0), place(480, 640)[54:480, 41:601])
    assert splits["train"].size(0) == (480, 640) and splits["val"].size(0) == (426, 560)


def test_broken_records_of_nyu_are_found(tmp_path):
    """Also the first one, and though images of val are cut when they are read."""
    write_nyu(tmp_path, nyu_record(image=b"no image"), nyu_record(), nyu_record(depth=NYU_DEPTH[0]))
    found = open_checked("tfds", "nyu_depth_v2", tfds_data_dir=str(tmp_path / "tfds"), on_broken_image="skip")
    assert found.skipped == 2 and len(found.splits["val"]) == 1
    assert "has 480 x 640 pixels and 640 depths" in found.notes[-1]
    with pytest.raises(UserError, match=r"^2 of 4 images cannot be decoded \(2 of val\)"):
        open_checked("tfds", "nyu_depth_v2", tfds_data_dir=str(tmp_path / "tfds"))
