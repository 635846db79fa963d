"""ImageNet's evaluation suites (val, V2, ReaL) on small folders of the same layout, read, trained on and evaluated."""

import json
import shutil
from pathlib import Path

import numpy as np
import numpy_engine
import pytest
from engines import INSTALLED
from PIL import Image

from common.config import EvaluateConfig, TrainConfig, periods
from common.data.split import Dataset, MultiLabels
from common.datasets import open_dataset
from common.evaluation.evaluator import Means
from common.evaluation.metrics import in_words
from common.models import find_model
from common.models.cards import Card, Preprocessing
from common.reports.record import accuracy, read_record
from common.runs.command import parse
from common.runs.inference import Evaluation, Inference, is_imagenet
from common.runs.run import Run
from common.system.errors import UserError
from common.weights import Start

CLASSES = tuple(f"n{number:08d}" for number in range(1, 12))  # 11, so that the order of names is not that of numbers
# The classes of image 1, 2, ... by real.json: the original label of image n is (n - 1) % 11.
REAL = [[0], [1, 2], [5], [], [4, 0, 3], [9], [6, 7], [], [8], [9], [10], [3], [1, 2]]
RUN = ("--model", "ViT-mu/16", "--weights", "none", "--batch", 4, "--steps", 4, "--warmup_steps", 1, "--resize", 32,
       "--crop", 32, "--log_every", 2, "--checkpoint_every", 0, "--workers", 1)  # fmt: skip


def write_image(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(value).integers(0, 256, (32, 32, 3), np.uint8)).save(path)


def write_imagenet(root: Path) -> None:
    """One training image a class, 13 validation images with the official names, and V2 in its numbered folders."""
    for number, name in enumerate(CLASSES):
        write_image(root / "train" / name / f"{name}_1.png", number)
        write_image(root / "v2" / str(number) / f"{number:x}.png", 200 + number)
    for number in range(1, 14):
        name = CLASSES[(number - 1) % 11]
        write_image(root / "val" / name / f"ILSVRC2012_val_{number:08d}.png", 100 + number)
    (root / "real.json").write_text(json.dumps(REAL))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """The folder that holds `imagenet2012`."""
    write_imagenet(tmp_path_factory.mktemp("suites") / "imagenet2012")
    return next(tmp_path_factory.getbasetemp().glob("suites*"))


@pytest.fixture
def imagenet(prepared, tmp_path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(prepared / "imagenet2012", tmp_path / "data" / "imagenet2012")


# --- what is read


@pytest.mark.parametrize("by_name", (True, False))
def test_the_splits_of_imagenet(prepared, by_name, tmp_path):
    name = "imagenet2012" if by_name else str(prepared / "imagenet2012")
    dataset = open_dataset(name, prepared, tmp_path)
    assert dataset.class_names == CLASSES and dataset.held_out == "val"
    assert {split: len(images) for split, images in dataset.splits.items()} == {
        "train": 11, "val": 13, "v2": 11, "real": 13,
    }  # fmt: skip
    v2, val, real = (dataset.splits[split] for split in ("v2", "val", "real"))
    assert v2.labels.tolist() == list(range(11))  # folder 10 comes last, not after 1
    assert [Path(v2.describe(i)).parent.name for i in range(11)] == [str(number) for number in range(11)]
    assert real.num_labelled == 11 and val.num_labelled == 13
    for i in range(13):
        assert real.describe(i) == val.describe(i) and real.read(i) == val.read(i)
        number = int(Path(real.describe(i)).stem[-8:])
        assert val.labels[i] == (number - 1) % 11
        assert np.flatnonzero(real.labels[np.array([i])].multi_hot()[0]).tolist() == sorted(REAL[number - 1])


def test_v2_may_have_the_names_of_the_classes(imagenet):
    for number, name in enumerate(CLASSES):
        (imagenet / "v2" / str(number)).rename(imagenet / "v2" / name)
    assert open_dataset(str(imagenet)).splits["v2"].labels.tolist() == list(range(11))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: (root / "real.json").write_text("[[0]"), r"real.json cannot be read .*fetch it again"),
        (
            lambda root: (root / "real.json").write_text("{}"),
            "Entry 0 of .*real.json is no list of classes from 0 to 10",
        ),
        (lambda root: write_real(root, [*REAL[:3], 4, *REAL[4:]]), "Entry 3 of .* is no list of classes"),
        (lambda root: write_real(root, [*REAL[:-1], [11]]), "Entry 12 of .* from 0 to 10"),
        (lambda root: write_real(root, [*REAL[:-1], [-1]]), "Entry 12 of "),
        (lambda root: write_real(root, [*REAL[:-1], [True]]), "Entry 12 of "),
        (lambda root: write_real(root, REAL[:-1]), "of 12 images and there are 13 .* from number 13 on"),
        (lambda root: write_real(root, [*REAL, [0]]), "of 14 images and there are 13 .* from number 14 on"),
        (lambda root: rename(root, 5, "ILSVRC2012_val_00000014.png"), "of 13 images and there are 13 .* number 5 on"),
        (lambda root: rename(root, 5, "5.png"), "val/n00000005/5.png has none; restore the name"),
        (lambda root: (root / "v2" / "11").mkdir(), "v2 holds the class '11'"),
    ],
    ids=("json", "object", "number", "class", "negative", "bool", "short", "long", "another image", "name", "v2"),
)
def test_labels_that_do_not_match_the_images_are_one_sentence(imagenet, damage, words):
    damage(imagenet)
    with pytest.raises(UserError, match=words) as caught:
        open_dataset(str(imagenet))
    assert "\n" not in str(caught.value)


def write_real(root: Path, labels: list) -> None:
    (root / "real.json").write_text(json.dumps(labels))


def rename(root: Path, number: int, name: str) -> None:
    path = root / "val" / CLASSES[number - 1] / f"ILSVRC2012_val_{number:08d}.png"
    path.rename(path.with_name(name))


def test_a_folder_without_training_images_can_be_evaluated_and_not_trained_on(imagenet, tmp_path):
    shutil.rmtree(imagenet / "train")
    for name in ("imagenet2012", str(imagenet)):
        dataset = open_dataset(name, tmp_path / "data", tmp_path)
        assert dataset.class_names == CLASSES and list(dataset.splits) == ["val", "v2", "real"]
        with pytest.raises(UserError, match="no training images, only val, v2, real"):
            Run(config("--dataset", imagenet), "bit_jax")


# --- how often a run evaluates each


def config(*flags) -> TrainConfig:
    return parse(TrainConfig, [*map(str, (*RUN, *flags))], "train", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500", {"val": 500}), ("0", {"val": 0}), ("val:5,v2:20,real:0", {"val": 5, "v2": 20, "real": 0}),
     ("v2:3", {"v2": 3}), (7, {"val": 7})],
)  # fmt: skip
def test_periods(text, expected):
    assert periods(text) == expected


@pytest.mark.parametrize("text", ("", "val:", ":5", "v2", "val:-1", "5,6", "v2:1,v2:2", "val:1.5", "val:5,", "٣"))
def test_periods_that_are_none(text):
    with pytest.raises(UserError, match="--eval_every is .*expected a number of steps, or SPLIT:STEPS,SPLIT:STEPS"):
        config("--eval_every", text)


@pytest.mark.parametrize(
    ("split", "words"), [("test", "'test', expected some of val, v2, real"), ("v3", "'v3'"), ("train", "'train'")]
)
def test_splits_that_cannot_be_evaluated_during_training(prepared, split, words):
    with pytest.raises(UserError, match=f"--eval_every names the split {words}"):
        Run(config("--dataset", prepared / "imagenet2012", "--eval_every", f"{split}:2"), "bit_jax")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--eval_every", "val:2,v2:3,real:0"), {"val": [2, 4, 6], "v2": [3, 6], "real": [6]}),
        (("--eval_every", "v2:6", "--keep_best"), {"val": [1, 2, 3, 4, 5, 6, 6], "v2": [6]}),
        (("--eval_every", "5"), {"val": [5, 6]}),
    ],
)
def test_a_run_evaluates_every_split_in_its_own_time(prepared, tmp_path, monkeypatch, flags, expected):
    """The very loop of the engines, with a numpy engine in it."""
    monkeypatch.chdir(tmp_path)
    given = config("--dataset", prepared / "imagenet2012", "--name", "a", "--steps", 6, *flags)
    numpy_engine.load_main()(Run(given, "bit_jax"))
    lines = [json.loads(line) for line in Path("runs/a/metrics.jsonl").read_text().splitlines()]
    for split in ("val", "v2", "real"):
        assert [line["step"] for line in lines if f"{split}/top1" in line] == expected.get(split, [])
    assert json.loads(Path("runs/a/card.json").read_text())["accuracy"].keys() == expected.keys()
    record = read_record("runs/a")  # of which reports and curves are made
    assert sorted(record.metrics("/top1")) == sorted(f"{split}/top1" for split in expected)
    assert accuracy(record)[0] == "val/top1"


def test_what_a_run_only_looks_at_does_not_bind_it(prepared):
    """It may go on with other splits to evaluate."""
    data = ("--dataset", prepared / "imagenet2012")
    runs = [Run(config(*data, *flags), "bit_jax") for flags in ((), ("--eval_every", "v2:1,real:2"))]
    assert runs[0].plan.constants == runs[1].plan.constants and list(runs[0].plan.splits) != list(runs[1].plan.splits)


# --- what is shown


def test_what_was_not_counted_is_no_accuracy():
    means = Means("val", "scores", (), ("top1", "loss"))
    with pytest.raises(UserError, match="None of the images to evaluate has a label"):
        means.result()
    for mask in ([True, True, True, False], [True, False, False, False]):
        losses = np.array([2.0, 1.0, 1.0, np.nan], np.float32)
        means.add("scores", {"top1": np.array([False, True, False, True]), "loss": losses, "mask": np.array(mask)})
    assert means.result() == {"top1": 0.25, "loss": 1.5}


def suites_of(name: str, run, prepared: Path, tmp_path: Path) -> None:
    """Train and evaluate on all suites, and compare with what the logits say."""
    data = ("--dataset", prepared / "imagenet2012", "--workers", 1)
    done = run(f"{name}.train", *RUN, *data, "--name", "a", "--recipe", "mixer_i1k", "--stochastic_depth", 0,
               "--eval_every", "val:2,v2:4,real:3", "--eval_resize", 40)  # fmt: skip
    assert "step 3: real top-1" in done.stdout and "step 2: val top-1" in done.stdout
    card = json.loads((tmp_path / "runs/a/card.json").read_text())
    assert (card["loss"], card["resize_kind"], card["eval_resize"]) == ("sigmoid", "area", 40)
    lines = [json.loads(line) for line in (tmp_path / "runs/a/metrics.jsonl").read_text().splitlines()]
    last = {metric: value for line in lines if line["step"] == 4 for metric, value in line.items()}
    flags = ("--model", "ViT-mu/16", "--weights", tmp_path / "runs/a/weights.npz", *data, "--split", "val,v2,real")
    plain = run(f"{name}.evaluate", *flags).stdout
    shown = run(f"{name}.evaluate", *flags, "--output", tmp_path / "out").stdout
    shown = [line for line in shown.splitlines() if not line.startswith("Wrote")]
    for split, line, other, count in zip(("val", "v2", "real"), plain.splitlines(), shown, (13, 11, 11), strict=True):
        with np.load(tmp_path / "out" / f"{split}.npz") as file:
            logits, labels = file["logits"].astype(np.float64), file["labels"]
        hot = labels if split == "real" else np.eye(11)[labels]
        counted = hot.any(1)
        top1 = hot[np.arange(len(hot)), logits.argmax(1)][counted].mean()
        losses = (np.logaddexp(0, logits) - hot * logits).sum(1)[counted]
        assert last[f"{split}/top1"] == pytest.approx(top1) and last[f"{split}/loss"] == pytest.approx(losses.mean())
        assert f" {split}, {count} images: top-1 {top1:.2%}, " in line
        for each in (line, other):  # with --output, and without
            assert each.rpartition(" ")[0] == line.rpartition(" ")[0]
            assert float(each.split()[-1]) == pytest.approx(losses.mean(), rel=1e-6, abs=1e-6)  # six digits are shown


def test_suites_from_training_to_evaluation(run, prepared, tmp_path, imagenet):
    suites_of(INSTALLED[0], run, prepared, tmp_path)
    write_real(imagenet, REAL[1:])
    for command in ("train", "evaluate"):
        assert (
            "real.json lists the classes of 12"
            in run(f"{INSTALLED[0]}.{command}", "--dataset", imagenet, status=2).stderr
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTALLED[1:])
def test_suites_in_the_other_engines(name, run, prepared, tmp_path):
    suites_of(name, run, prepared, tmp_path)


# --- published models


def inference(monkeypatch, model: str, dataset: str = "imagenet2012", classes: tuple = (), **flags) -> Evaluation:
    """An evaluation of published weights that are not there, on images that are not there either."""
    monkeypatch.setattr("common.weights.choose_file", lambda *_: None)
    monkeypatch.setattr("common.weights.starting_values", lambda model, *_, **__: Start(model.config(), {}, model.card))
    job = Evaluation.__new__(Evaluation)
    Inference.__init__(job, EvaluateConfig(model=model, dataset=dataset, **flags))
    labels = np.zeros(50_000, np.int32)
    job.splits = {"val": open_dataset("cifar10-sample").splits["test"].take(labels), "v2": None}
    job.is_imagenet = is_imagenet(Dataset(dataset, classes, job.splits, (224, 224)))
    return job


@pytest.mark.parametrize(
    ("model", "view", "loss"),
    [
        ("BiT-M-R50x1-ILSVRC2012", (480, "bilinear_aliased", 0), "softmax"),
        ("R50x1_224", (224, "area", 256), "softmax"),
        ("ViT-B/16-ILSVRC2012", (384, "bilinear_aliased", 0), "softmax"),
        ("ViT-S/16-i1k-90ep", (224, "area", 256), "softmax"),
        ("imagenet1k/Mixer-B/16", (224, "area", 256), "sigmoid"),
        ("BiT-M-R50x1", (None, "bilinear", 0), "sigmoid"),
        ("augreg/B_16-i1k-300ep-lr_0.001-aug_strong2-wd_0.1-do_0.1-sd_0.1", (224, "area", 256), "sigmoid"),
    ],
)
def test_published_models_are_evaluated_as_their_sources_do(monkeypatch, model, view, loss):
    job = inference(monkeypatch, model)
    resolution, kind, eval_resize = view
    prepared = Preprocessing(resolution or 480, eval_resize, kind)
    assert job.resolution == resolution and job.task.loss == loss
    assert job.preprocessing_at(prepared.resolution) == prepared


@pytest.mark.parametrize(("num_classes", "told"), [(6, "top-1 25.00% (x), top-5 50.00%"), (5, "top-1 25.00% (x)")])
def test_the_top5_of_five_classes_is_not_told(num_classes, told):
    result = {"top1": 0.25, "top5": 0.5, "loss": 1.5}
    assert in_words(result, num_classes, published=" (x)") == f"{told}, loss 1.5000"


def test_flags_win_over_the_card(monkeypatch):
    job = inference(monkeypatch, "ViT-S/16-i1k-90ep", eval_resize_kind="bicubic", eval_resize=300)
    assert job.preprocessing_at(224) == Preprocessing(224, 300, "bicubic")
    assert inference(monkeypatch, "ViT-S/16-i1k-90ep", eval_resize=0).preprocessing_at(224).eval_resize == 0
    with pytest.raises(UserError, match="--eval_resize 200 is smaller than the 224 px"):
        inference(monkeypatch, "ViT-S/16-i1k-90ep", eval_resize=200).preprocessing_at(224)


def test_published_accuracies_stand_beside_measured_ones(monkeypatch, capsys):
    result = {"top1": 0.7651, "top5": 0.93, "loss": 1.0}
    inference(monkeypatch, "ViT-S/16-i1k-90ep").show("val", result)
    assert "50,000 images: top-1 76.51% (published: 76.50% at 224 px), top-5" in capsys.readouterr().out
    wordnet_ids = tuple(f"n{number:08d}" for number in range(1000))
    for dataset, classes, shown in (
        ("path", wordnet_ids, True),
        ("path", wordnet_ids[:999], False),
        ("path", ("cat",) * 1000, False),
    ):
        job = inference(monkeypatch, "ViT-S/16-i1k-90ep", dataset, classes)
        assert bool(job.expected("val")) == shown  # a folder, too, where it is ImageNet
        job.splits["val"] = job.splits["val"].take(np.arange(9))
        assert not is_imagenet(Dataset(dataset, classes, job.splits, (224, 224)))
    for model, dataset, split, weights in (
        ("ViT-S/16-i1k-150ep", "imagenet2012", "val", "pretrained"),  # its source states none
        ("ViT-S/16-i1k-90ep", "cifar10", "val", "pretrained"),
        ("ViT-S/16-i1k-90ep", "imagenet2012", "v2", "pretrained"),
        ("ViT-S/16-i1k-90ep", "imagenet2012", "val", "mine.npz"),
    ):
        assert inference(monkeypatch, model, dataset, weights=weights).expected(split) == ""


def test_a_published_accuracy_has_a_resolution_and_imagenets_classes():
    from common.models import published_models

    found = {name: model.accuracy for name, model in published_models().items() if model.accuracy}
    assert found["R50x1_224"] == 0.828 and found["R152x2_T_384"] == 0.843 and len(found) > 14
    for name in found:
        model = find_model(name)
        assert 0.7 < model.accuracy < 0.9 and model.num_classes == 1000 and model.resolution, name


# --- data sets with some of the model's classes, such as the out-of-context one of BiT


@pytest.fixture
def objects(tmp_path) -> Path:
    """Class folders in the way in which people name them."""
    for name in ("golden_retriever", "Tench", "soccer ball"):
        write_image(tmp_path / "objects" / "test" / name / "1.png", len(name))
    return tmp_path / "objects"


def test_classes_are_matched_by_name(monkeypatch, objects, capsys):
    job = inference(monkeypatch, "ViT-B/16-ILSVRC2012")
    splits = job.matched(open_dataset(str(objects)))
    assert splits["test"].labels.tolist() == [0, 207, 805] and splits["test"].labels.dtype == np.int32
    assert "3 of the 1,000 classes" in capsys.readouterr().err


def test_classes_in_another_order_are_matched_by_name(monkeypatch, objects, capsys):
    """What was trained on a set that numbers its classes otherwise is evaluated on folders, which are in alphabetical order."""
    job = inference(monkeypatch, "ViT-B/16-ILSVRC2012")
    monkeypatch.setattr(job, "model_config", find_model("ViT-B/16").config(3))
    for known, labels in (
        (["soccer ball", "golden_retriever", "Tench"], [2, 1, 0]),
        (["Tench", "golden_retriever", "soccer ball"], [0, 1, 2]),
        (["soccer ball", "golden retriever, a dog", "tench, Tinca tinca"], [2, 1, 0]),  # named by some of its names
        (["n1", "n2", "n3"], [0, 1, 2]),  # other names: by number
        (["tench", "Tinca", "n3"], [0, 1, 2]),
    ):
        job.card = Card(class_names=tuple(known))
        assert job.matched(open_dataset(str(objects)))["test"].labels.tolist() == labels
        assert ("otherwise than the weights" in capsys.readouterr().err) == ("n3" in known)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "golden retreiver",
            "has 4, among them 'golden retreiver', which they do not know; did you mean golden retriever",
        ),
        ("crane", "several classes called 'crane'.*: crane; crane; give"),
        ("maillot", "several classes called 'maillot'"),
    ],
)
def test_classes_without_a_match_are_named(monkeypatch, objects, name, words):
    write_image(objects / "test" / name / "1.png", 0)
    with pytest.raises(UserError, match=words):
        inference(monkeypatch, "ViT-B/16-ILSVRC2012").matched(open_dataset(str(objects)))


def test_classes_are_renumbered_where_images_have_several():
    split = open_dataset("cifar10-sample").splits["test"].take(np.arange(2))
    several = type(split)(
        split.read, MultiLabels(np.array([1, 0, 1], np.int32), np.array([0, 2, 3]), 2), split.describe
    )
    renumbered = several.renumber(np.array([4, 2], np.int32), 6)
    assert renumbered.labels.multi_hot().tolist() == [[0, 0, 1, 0, 1, 0], [0, 0, 1, 0, 0, 0]]
