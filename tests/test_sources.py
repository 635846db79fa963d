"""Named datasets and `tfds:NAME`: tiny sets in the official layouts, read back as they were written."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from engines import Engine
from processes import run_without

from common.data.prepare import PREPARED
from common.data.sources.archives import FLOWERS
from common.data.sources.tfds import Features, open_parts
from common.data.sources.tfds_folder import Part
from common.datasets import open_dataset
from common.system.errors import UserError

RNG = np.random.default_rng(0)


def png(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(count: int, side_px: int = 32) -> np.ndarray:
    return RNG.integers(0, 256, (count, side_px, side_px, 3), np.uint8)


def same_twice(*arguments, **options) -> None:
    """Two opens give the same order, labels and pixels."""
    first, second = open_dataset(*arguments, **options), open_dataset(*arguments, **options)
    assert first.class_names == second.class_names and first.splits.keys() == second.splits.keys()
    for name, split in first.splits.items():
        assert split.labels.dtype == np.int32
        np.testing.assert_array_equal(split.labels, second.splits[name].labels)
        for i in range(len(split)):
            np.testing.assert_array_equal(split.decode(i), second.splits[name].decode(i))


# --- CIFAR


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(request, tmp_path):
    """(name, datadir, images [N, 32, 32, 3], labels [N]) of 3 records a file, in the official layout."""
    name, files = request.param, [f for f in PREPARED[request.param].expected if f.endswith(".bin")]
    images, labels = pixels(3 * len(files)), RNG.integers(0, int(name[5:]), 3 * len(files))
    for number, file in enumerate(files):
        rows = range(3 * number, 3 * number + 3)
        superclass = b"\x07" if name == "cifar100" else b""
        records = [superclass + bytes([labels[i]]) + images[i].transpose(2, 0, 1).tobytes() for i in rows]
        path = tmp_path / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(records))
    text = "\n".join(f"name{k}" for k in range(int(name[5:]))) + "\n\n"  # the official file ends in a blank line
    (tmp_path / name / PREPARED[name].expected[0]).write_text(text)
    return name, tmp_path, images, labels


def test_cifar(cifar):
    name, datadir, images, labels = cifar
    dataset = open_dataset(name, datadir)
    assert list(dataset.splits) == ["train", "test"] and dataset.num_classes == int(name[5:])
    assert dataset.class_names[:2] == ("name0", "name1")
    train, test = dataset.splits.values()
    assert len(test) == 3 and len(train) == len(images) - 3
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), labels)
    read = [split.read(i) for split in (train, test) for i in range(len(split))]
    np.testing.assert_array_equal(np.stack(read), images)
    assert read[0].dtype == np.uint8 and read[0].flags.c_contiguous
    same_twice(name, datadir)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-1], "whole number"),
        (lambda data: b"", "whole number"),
        (lambda data: b"\xff\xff" + data[2:], "label 255"),
    ],
)
def test_cifar_damaged(cifar, damage, words):
    name, datadir, *_ = cifar
    path = datadir / name / PREPARED[name].expected[-1]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"{path.name} holds.*{words}.*prepare the dataset again"):
        open_dataset(name, datadir)


def test_cifar_with_missing_names(cifar):
    name, datadir, *_ = cifar
    (datadir / name / PREPARED[name].expected[0]).write_text("one\ntwo\n")
    with pytest.raises(UserError, match="names 2 classes"):
        open_dataset(name, datadir)


# --- Oxford


@pytest.fixture
def pets(tmp_path):
    """3 images of 2 breeds in trainval, 1 in test."""
    root = tmp_path / "oxford_iiit_pet"
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    trainval = "Abyssinian_10 1 1 1\nAbyssinian_2 1 1 1\namerican_bulldog_7 2 2 1\n"
    (root / "annotations/trainval.txt").write_text(trainval)
    (root / "annotations/test.txt").write_text("american_bulldog_1 2 2 1\n")
    for name in ("Abyssinian_10", "Abyssinian_2", "american_bulldog_7", "american_bulldog_1"):
        (root / "images" / f"{name}.jpg").write_bytes(png(pixels(1)[0]))  # some official files are no JPEG either
    return tmp_path


def test_pets(pets):
    dataset = open_dataset("oxford_iiit_pet", pets)
    assert dataset.class_names == ("Abyssinian", "American Bulldog") and list(dataset.splits) == ["train", "test"]
    assert dataset.splits["train"].labels.tolist() == [0, 0, 1] and dataset.splits["test"].labels.tolist() == [1]
    assert dataset.splits["train"].describe(0).endswith("images/Abyssinian_10.jpg")
    same_twice("oxford_iiit_pet", pets)


@pytest.mark.parametrize("text", ["", "Abyssinian_10 one 1 1\n", "Abyssinian_10\n", "Abyssinian_10 3 1 1\n"])
def test_pets_damaged(pets, text):
    (pets / "oxford_iiit_pet/annotations/trainval.txt").write_text(text)
    with pytest.raises(UserError, match="prepare"):
        open_dataset("oxford_iiit_pet", pets)


@pytest.fixture
def flowers(tmp_path):
    """6 images; the lists are out of order, as the official ones are."""
    from scipy.io import savemat

    root = tmp_path / "oxford_flowers102"
    (root / "jpg").mkdir(parents=True)
    for i in range(1, 7):
        (root / f"jpg/image_{i:05d}.jpg").write_bytes(png(np.full((4, 4, 3), i, np.uint8)))
    savemat(root / "imagelabels.mat", {"labels": np.array([[1, 102, 3, 77, 5, 6]], np.uint8)})
    savemat(root / "setid.mat", {"trnid": [[4, 2]], "valid": [[1]], "tstid": [[6, 3, 5]]})
    return tmp_path


def test_flowers(flowers):
    dataset = open_dataset("oxford_flowers102", flowers)
    assert len(FLOWERS) == len(set(FLOWERS)) == 102 and dataset.class_names == FLOWERS
    labels = {split: dataset.splits[split].labels.tolist() for split in dataset.splits}
    assert labels == {"train": [76, 101], "val": [0], "test": [5, 2, 4]}
    assert [dataset.splits["test"].decode(i)[0, 0, 0] for i in range(3)] == [6, 3, 5]
    same_twice("oxford_flowers102", flowers)


def test_flowers_damaged(flowers):
    from scipy.io import savemat

    root = flowers / "oxford_flowers102"
    savemat(root / "setid.mat", {"trnid": [[7]], "valid": [[1]], "tstid": [[6]]})
    with pytest.raises(UserError, match="do not belong together"):
        open_dataset("oxford_flowers102", flowers)
    (root / "setid.mat").write_bytes(b"no matlab")
    with pytest.raises(UserError, match="setid.mat holds no row of numbers"):
        open_dataset("oxford_flowers102", flowers)


# --- TFDS


def varint(number: int) -> bytes:
    number, encoded = number % 2**64, b""
    while number > 127:
        number, encoded = number >> 7, encoded + bytes([number & 127 | 128])
    return encoded + bytes([number])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(**features: bytes | int | list[int] | np.ndarray) -> bytes:
    """A serialized tf.train.Example; an array is floats."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, np.ndarray):
            feature = field(2, field(1, value.astype("<f4").tobytes()))
        elif isinstance(value, list):
            feature = field(3, field(1, b"".join(map(varint, value))) if value else b"")
        else:
            feature = field(3, field(1, varint(value))) if isinstance(value, int) else field(1, field(1, value))
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def write_tfds(folder: Path, splits: dict[str, list[list[bytes]]], class_names: list[str], **info) -> None:
    """A prepared folder as TFDS writes it; `splits` holds the records of each shard."""
    module = pytest.importorskip("array_record.python.array_record_module", reason="array_record is not installed")
    folder.mkdir(parents=True)
    name = next(p.name for p in (folder.parent, *folder.parents) if p.parent.name == "tfds")
    rows = []
    for split, shards in splits.items():
        for index, records in enumerate(shards):
            path = folder / f"{name}-{split}.array_record-{index:05d}-of-{len(shards):05d}"
            writer = module.ArrayRecordWriter(str(path), "group_size:1")
            for record in records:
                writer.write(record)
            writer.close()
        rows.append({"name": split, "shardLengths": [str(len(records)) for records in shards]})
    info = {"name": name, "fileFormat": "array_record", "splits": rows} | info
    (folder / "dataset_info.json").write_text(json.dumps(info))
    features = {"image": {"image": {}}, "label": {"classLabel": {"numClasses": str(len(class_names))}}}
    (folder / "features.json").write_text(json.dumps({"featuresDict": {"features": features}}))
    (folder / "label.labels.txt").write_text("\n".join(class_names) + "\n")


@pytest.fixture
def tiny(tmp_path):
    """(data folder, images [6]) of tfds:tiny: 3 + 1 for training in two shards, 2 for validation, unlabelled test."""
    images = pixels(6, 5)
    records = [example(image=png(images[i]), label=label, id=b"x" * 200) for i, label in enumerate([1, 0, 1, 0, 1, 0])]
    unlabelled = [[example(image=b"", label=-1)]]
    splits = {"train": [records[:3], records[3:4]], "validation": [records[4:]], "test": unlabelled}
    write_tfds(tmp_path / "tfds/tiny/1.0.0", splits, ["cat", "dog"])
    return tmp_path / "tfds", images


def test_tfds(tiny):
    root, images = tiny
    dataset = open_dataset("tfds:tiny", tfds_data_dir=root)
    assert dataset.class_names == ("cat", "dog") and list(dataset.splits) == ["train", "val"]
    assert dataset.image_size == (5, 5) and isinstance(dataset.splits["train"].read(0), bytes)
    assert dataset.splits["train"].labels.tolist() == [1, 0, 1, 0] and dataset.splits["val"].labels.tolist() == [1, 0]
    read = [split.decode(i) for split in dataset.splits.values() for i in range(len(split))]
    np.testing.assert_array_equal(np.stack(read), images)
    same_twice("tfds:tiny", tfds_data_dir=root)


def test_tfds_with_several_classes(tmp_path):
    """A sequence of classes is the label; a split without any is not labelled."""
    images = pixels(3, 5)
    records = [example(image=png(image), labels=own) for image, own in zip(images, ([2, 0], [], [1]))]
    folder = tmp_path / "tfds/tiny/1.0.0"
    splits = {"train": [records[:2], records[2:]], "validation": [records[:1]], "test": [[records[1]]]}
    write_tfds(folder, splits, ["ant", "cat", "dog"])
    class_label = {"classLabel": {"numClasses": "3"}}
    features = {"image": {"image": {}}, "labels": {"sequence": {"feature": class_label, "length": "-1"}}}
    (folder / "features.json").write_text(json.dumps({"featuresDict": {"features": features}}))
    (folder / "label.labels.txt").rename(folder / "labels.labels.txt")
    dataset = open_dataset("tfds:tiny", tfds_data_dir=tmp_path / "tfds")
    assert dataset.class_names == ("ant", "cat", "dog") and list(dataset.splits) == ["train", "val"]
    assert dataset.splits["train"].labels.multi_hot().tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    np.testing.assert_array_equal(dataset.splits["train"].decode(2), images[2])


def test_tfds_from_the_environment(tiny, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny[0]))
    assert len(open_dataset("tfds:tiny:1.0.0").splits["train"]) == 4


def test_tfds_versions_and_configurations(tiny):
    root, _ = tiny
    record = [[example(image=png(pixels(1)[0]), label=0)]]
    for folder, count in (("tiny/1.10.0", 1), ("tiny/1.9.0", 2), ("many/small/1.0.0", 3), ("many/big/1.0.0", 4)):
        write_tfds(root / folder, {"train": record * count, "test": record}, ["one"])
    for name, count in (("tiny", 1), ("tiny:1.9.0", 2), ("tiny:1.0.0", 4), ("many/small", 3), ("many/big:1.0.0", 4)):
        assert len(open_dataset(f"tfds:{name}", tfds_data_dir=root).splits["train"]) == count
    with pytest.raises(UserError, match="configurations big, small"):
        open_dataset("tfds:many", tfds_data_dir=root)
    with pytest.raises(UserError, match="1.0.0, 1.9.0, 1.10.0, not 2.0.0"):
        open_dataset("tfds:tiny:2.0.0", tfds_data_dir=root)


def test_tfds_missing(tiny):
    with pytest.raises(UserError, match="did you mean tiny.*tfds build tinny --file_format=array_record"):
        open_dataset("tfds:tinny", tfds_data_dir=tiny[0])
    with pytest.raises(UserError, match="--tfds_data_dir"):
        open_dataset("tfds:tiny", tfds_data_dir=tiny[0] / "nowhere")


def test_tfrecord_names_the_conversion(tiny):
    path = tiny[0] / "tiny/1.0.0/dataset_info.json"
    info = json.loads(path.read_text()) | {"fileFormat": "tfrecord"}
    path.write_text(json.dumps(info))
    with pytest.raises(UserError, match="tfds convert_format --dataset_version_dir=.*1.0.0 --out_file_format=array_"):
        open_dataset("tfds:tiny", tfds_data_dir=tiny[0])
    path.write_text(json.dumps(info | {"alternativeFileFormats": ["array_record"]}))  # as the conversion leaves it
    assert len(open_dataset("tfds:tiny", tfds_data_dir=tiny[0]).splits["train"]) == 4


def cut_shard(folder: Path, size_bytes: int) -> None:
    path = folder / "tiny-train.array_record-00000-of-00002"
    path.write_bytes(path.read_bytes()[:size_bytes])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: cut_shard(folder, 1000), "The split train of .* cannot be read"),
        (lambda folder: cut_shard(folder, 2**16), "prepare the dataset again"),  # the reader finds empty records
        (lambda folder: (folder / "tiny-train.array_record-00001-of-00002").unlink(), "lacks tiny-train"),
        (lambda folder: (folder / "features.json").unlink(), "features.json cannot be read"),
        (lambda folder: (folder / "features.json").write_text("{}"), "unknown way"),
        (lambda folder: (folder / "dataset_info.json").write_text("{"), "dataset_info.json cannot be read"),
        (lambda folder: (folder / "label.labels.txt").write_text("cat\n"), "names 1 classes, expected 2"),
        (
            lambda folder: (folder / "features.json").write_text(
                '{"featuresDict": {"features": {"a": {"image": {}}}}}'
            ),
            "0 features of the kind classLabel",
        ),
    ],
)
def test_tfds_damaged(tiny, damage, words):
    damage(tiny[0] / "tiny/1.0.0")
    with pytest.raises(UserError, match=words):
        open_dataset("tfds:tiny", tfds_data_dir=tiny[0])


@pytest.mark.parametrize(
    "record", [b"\xff", b"\x0a\x7f", b"", example(image=b"x", label=b"text")[:-1], example(image=b"x")]
)
def test_tfds_broken_record(tmp_path, record):
    write_tfds(tmp_path / "tfds/tiny/1.0.0", {"train": [[record]], "test": [[record]]}, ["cat"])
    with pytest.raises(UserError, match="Record 0 of train .* prepare the dataset again"):
        open_dataset("tfds:tiny", tfds_data_dir=tmp_path / "tfds")


def test_imagenet_has_one_order(tmp_path):
    """The folder and the TFDS files, which are shuffled, give the same examples."""
    members = [(wnid, label, f"{wnid}_{i}.JPEG") for label, wnid in enumerate(("n01", "n02")) for i in (1, 10, 9)]
    images = {file: png(pixels(1, 4)[0]) for *_, file in members}
    for split in ("train", "val"):
        for wnid, _, file in members:
            path = tmp_path / "data/imagenet2012" / split / wnid / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(images[file])
    records = [example(file_name=file.encode(), image=images[file], label=label) for _, label, file in members]
    records = [records[i] for i in (3, 5, 0, 2, 4, 1)]
    splits = {"train": [records[:2], records[2:]], "validation": [records]}
    write_tfds(tmp_path / "tfds/imagenet2012/5.1.0", splits, ["n01", "n02"])
    folder = open_dataset("imagenet2012", tmp_path / "data", tmp_path / "nowhere")
    tfds = open_dataset("imagenet2012", tmp_path / "none", tmp_path / "tfds")
    assert folder.class_names == tfds.class_names and list(folder.splits) == list(tfds.splits) == ["train", "val"]
    for split in ("train", "val"):
        np.testing.assert_array_equal(folder.splits[split].labels, tfds.splits[split].labels)
        assert [folder.splits[split].read(i) for i in range(6)] == [tfds.splits[split].read(i) for i in range(6)]
    with pytest.raises(UserError, match="licence"):
        open_dataset("imagenet2012", tmp_path / "none", tmp_path / "nowhere")


def write_features(folder: Path, **labels: bool) -> None:
    """`features.json` and names of two classes for these labels; True: a sequence of classes."""
    one = {"classLabel": {"numClasses": "2"}}
    features = {
        name: {"sequence": {"feature": one, "length": "-1"}} if several else one for name, several in labels.items()
    }
    features |= {"image": {"image": {}}, "file_name": {"text": {}}}
    (folder / "features.json").write_text(json.dumps({"featuresDict": {"features": features}}))
    for name in labels:
        (folder / f"{name}.labels.txt").write_text("n01\nn02\n")


@pytest.fixture
def suites(tmp_path):
    """ImageNet with V2 and ReaL as a folder in data/ and, shuffled, as TFDS files in tfds/."""
    real = {1: [0, 1], 2: [], 3: [1], 4: [0]}
    root = tmp_path / "data/imagenet2012"
    val, v2, records = [], [], {}
    for number, label in ((1, 1), (2, 0), (3, 0), (4, 1)):
        file, image = f"ILSVRC2012_val_{number:08d}.JPEG", png(pixels(1, 4)[0])
        val.append((root / "val" / f"n0{label + 1}" / file, image))
        v2.append((root / "v2" / str(label) / f"{9 - number}.jpeg", png(pixels(1, 4)[0])))
        for split, facts in (
            ("train", {"label": label}),
            ("real", {"original_label": label, "real_label": real[number]}),
        ):
            records.setdefault(split, []).append(example(file_name=file.encode(), image=image, **facts))
        name = f"/prepared/elsewhere/{label}/{v2[-1][0].name}".encode()
        records.setdefault("v2", []).append(example(file_name=name, image=v2[-1][1], label=label))
    for path, image in (*val, *[(root / "train" / path.parent.name / path.name, image) for path, image in val], *v2):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    (root / "real.json").write_text(json.dumps(list(real.values())))
    folder, names = tmp_path / "tfds", ["n01", "n02"]
    both = {"train": [records["train"]], "validation": [records["train"][:1], records["train"][1:]]}
    write_tfds(folder / "imagenet2012/5.1.0", both, names)
    write_tfds(folder / "imagenet_v2/matched-frequency/3.0.0", {"test": [records["v2"]]}, names)
    write_tfds(folder / "imagenet2012_real/1.0.0", {"validation": [records["real"]]}, names)
    write_features(folder / "imagenet2012_real/1.0.0", original_label=False, real_label=True)
    return tmp_path


def test_imagenets_suites_have_one_order(suites):
    folder = open_dataset("imagenet2012", suites / "data", suites / "nowhere")
    tfds = open_dataset("imagenet2012", suites / "none", suites / "tfds")
    assert folder.class_names == tfds.class_names and sorted(folder.splits) == sorted(tfds.splits)
    assert sorted(tfds.splits) == ["real", "train", "v2", "val"]
    for split, images in folder.splits.items():
        ours, theirs = (
            own.labels.multi_hot() if own.is_multi_label else own.labels for own in (images, tfds.splits[split])
        )
        np.testing.assert_array_equal(ours, theirs, split)
        assert [images.read(i) for i in range(4)] == [tfds.splits[split].read(i) for i in range(4)], split
    assert folder.splits["real"].labels.multi_hot().tolist() == [[0, 0], [0, 1], [1, 1], [1, 0]]


def test_a_folder_of_imagenet_takes_the_suites_of_tfds(suites):
    (suites / "data/imagenet2012/real.json").unlink()
    dataset = open_dataset("imagenet2012", suites / "data", suites / "tfds")
    assert dataset.splits["real"].num_labelled == 3 and "tfds" in dataset.splits["real"].describe(0)
    assert "tfds" not in dataset.splits["v2"].describe(0)
    names = suites / "tfds/imagenet2012_real/1.0.0/real_label.labels.txt"
    names.write_text("n01\nn03\n")  # another data set's
    assert "real" not in open_dataset("imagenet2012", suites / "data", suites / "tfds").splits


def test_a_suite_alone_can_be_evaluated(suites):
    dataset = open_dataset("tfds:imagenet_v2/matched-frequency", tfds_data_dir=suites / "tfds")
    assert list(dataset.splits) == ["test"] and dataset.held_out == "test"


def test_tfds_without_any_framework(tiny):
    """Reading works where neither TensorFlow nor TFDS can be imported."""
    code = (
        "from common.datasets import open_dataset\n"
        f"split = open_dataset('tfds:tiny', tfds_data_dir={str(tiny[0])!r}).splits['train']\n"
        "assert split.decode(3).shape == (5, 5, 3) and split.labels.tolist() == [1, 0, 1, 0]\n"
    )
    done = run_without(("tensorflow", "tensorflow_datasets", "torch", "jax", "keras", "grain"), code)
    assert done.returncode == 0, done.stderr


def write_by_the_library(folder: Path) -> None:
    """`real`, `several` and `pairs` as TFDS prepares them."""
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.core.registered.skip_registration():

        class Real(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")
            name = "real"

            def _info(self):
                features = {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=["a", "b", "c"]),
                    "other": tfds.features.ClassLabel(num_classes=2),
                    "box": tfds.features.BBoxFeature(),
                    "numbers": tfds.features.Tensor(shape=(3,), dtype=np.int64),
                    "objects": tfds.features.Sequence(
                        {
                            "type": tfds.features.ClassLabel(num_classes=8),
                            "location": tfds.features.Tensor(shape=(3,), dtype=np.float32),
                        }
                    ),
                }
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples(20), "validation": self._generate_examples(5)}

            def _generate_examples(self, count):
                for i in range(count):
                    box = tfds.features.BBox(0.0, 0.0, 0.5, 1.0)
                    image = np.full((4, 6, 3), i, np.uint8)
                    objects = [{"type": k, "location": [0.5, -k, i + k / 4]} for k in range(i % 4)]
                    numbers = [i, 2**40, -i]
                    labels = {"label": i % 3, "other": i % 2}
                    yield i, {"id": str(i), "image": image, "box": box, "numbers": numbers, "objects": objects} | labels

        class Several(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")
            name = "several"

            def _info(self):
                image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
                labels = tfds.features.Sequence(tfds.features.ClassLabel(names=["a", "b", "c"]))
                features = tfds.features.FeaturesDict(
                    {"image": image, "labels": labels, "ids": tfds.features.Sequence(np.int64)}
                )
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples(), "test": self._generate_examples()}

            def _generate_examples(self):
                for i, labels in enumerate([[2, 0], [], [1], ["c", "b"]]):
                    yield i, {"image": np.full((4, 6, 3), i, np.uint8), "labels": labels, "ids": [i]}

        class Pairs(tfds.core.GeneratorBasedBuilder):
            """As coco_captions."""

            VERSION = tfds.core.Version("1.0.0")
            name = "pairs"

            def _info(self):
                texts = tfds.features.Sequence({"id": np.int64, "text": tfds.features.Text()})
                objects = tfds.features.Sequence({"label": tfds.features.ClassLabel(num_classes=80), "area": np.int64})
                image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
                features = {"image": image, "image/id": np.int64, "objects": objects, "captions": texts}
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples(6), "val": self._generate_examples(2)}

            def _generate_examples(self, count):
                for i in range(count):
                    texts = [{"id": k, "text": f"text {k} of {i} \n"} for k in range(i + 1)]
                    objects = [{"label": 3, "area": 1}] * (i % 2)
                    image = np.full((4, 6, 3), i, np.uint8)
                    yield i, {"image": image, "image/id": i, "objects": objects, "captions": texts}

    for builder in (Real, Several, Pairs):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()


def test_tfds_as_the_library_writes_it(tmp_path):
    """The library's own files: every example is there once, its label belonging to its pixels."""
    Engine("bit_tf2")  # TFDS writes by TensorFlow
    write_by_the_library(tmp_path)
    assert (tmp_path / "real/1.0.0/dataset_info.json").exists()
    dataset = open_dataset("tfds:real", tfds_data_dir=tmp_path)
    assert dataset.class_names == ("a", "b", "c")
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 20, "val": 5}
    for split in dataset.splits.values():
        values = [int(split.decode(i)[0, 0, 0]) for i in range(len(split))]
        assert sorted(values) == list(range(len(split)))
        assert split.labels.tolist() == [value % 3 for value in values]
    # Of sequences of matrices, too; parts of splits are taken in the order of the files.
    order = [int(dataset.splits["train"].decode(i)[0, 0, 0]) for i in range(20)]
    seen = []
    features = Features(("objects/type", "objects/location"), lambda *values: seen.append(values) or len(values[0]), 4)
    parts = {"some": [Part("train", 0, 3), Part("train", 50, 4)], "rest": [Part("train", 90)]}
    splits = open_parts(tmp_path / "real/1.0.0", parts, features, "test")
    for name, expected in (("some", order[:3] + order[10:14]), ("rest", order[18:])):
        assert [int(splits[name].decode(i)[0, 0, 0]) for i in range(len(splits[name]))] == expected
        assert splits[name].labels.tolist() == [value % 4 for value in expected]
    for value, (types, locations) in zip(order[:3], seen):
        assert types == list(range(value % 4))
        assert locations == [number for k in types for number in (0.5, -k, value + k / 4)]
    dataset = open_dataset("tfds:several", tfds_data_dir=tmp_path)
    train, expected = dataset.splits["train"], [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert dataset.class_names == ("a", "b", "c") and list(dataset.splits) == ["train", "test"]
    assert train.labels.multi_hot().tolist() == [expected[train.decode(i)[0, 0, 0]] for i in range(4)]
    dataset = open_dataset("tfds:pairs", tfds_data_dir=tmp_path)
    assert dataset.class_names == () and {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 6,
        "val": 2,
    }
    for split in dataset.splits.values():
        numbers = [int(split.decode(i)[0, 0, 0]) for i in range(len(split))]
        assert [*split.captions] == [tuple(f"text {k} of {i}" for k in range(i + 1)) for i in numbers]
