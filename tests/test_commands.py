"""The commands as a user runs them: real files, real images, processes of their own, in every engine."""

import json
import runpy
import shutil
import sys

import numpy as np
import pytest
from conftest import ROOT
from engines import FRAMEWORKS, INSTALLED, Engine

from common.datasets import open_dataset
from common.evaluation.predictions import read_predictions

QUICK = ("--steps", 6, "--batch", 8, "--warmup_steps", 1, "--base_lr", 0.02, "--log_every", 1, "--workers", 2)
QUICK += ("--resize", 36, "--crop", 32)
SMALLEST = ("--model", "ViT-mu/16")


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder) -> list[float]:
    return [line["train/loss"] for line in metrics(folder) if "train/loss" in line]


@pytest.fixture(scope="session")
def pets(tmp_path_factory):
    """A user's own folder of JPEG files: cats and dogs of the sample, 20 to train and 8 to test on."""
    root = tmp_path_factory.mktemp("data") / "pets"
    sample = open_dataset("cifar10-sample")
    for split, count in (("train", 20), ("test", 8)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            members = np.flatnonzero(sample.splits[split].labels == sample.class_names.index(name))[:count]
            for i in members:
                (root / split / name / f"{i}.jpg").write_bytes(sample.splits[split].read(int(i)))
    return root


@pytest.fixture(params=INSTALLED)
def name(request) -> str:
    return request.param


def test_a_run_leaves_what_the_readme_says_and_others_can_use_it(name, run, tmp_path, pets):
    """Train on a folder, evaluate and predict with the result, in this engine and another."""
    done = run(f"{name}.train", "--dataset", pets, "--name", "a", "--val_fraction", 0.25, "--eval_every", 3,
               "--resize_mode", "small_side", "--eval_resize", 40, "--randaugment_layers", 2,
               "--randaugment_magnitude", 5, *SMALLEST, "--weights", "none", *QUICK)  # fmt: skip
    folder = tmp_path / "runs" / "a"
    assert {p.name for p in folder.iterdir()} == {
        "config.json", "recipe.json", "environment.json", "train.log", "metrics.jsonl", "checkpoint.safetensors",
        "weights.npz", "card.json", "curves.png", "predictions.npz",
    }  # fmt: skip
    assert f"python -m {name}.train" in done.stdout and "--name a" in done.stdout
    lines = metrics(folder)
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, 7))
    assert [line["step"] for line in lines if "val/top1" in line] == [3, 6]
    test = lines[-1]
    assert 0 <= test["test/top1"] <= 1 and test["test/top5"] == 1  # two classes
    assert "test top-1 " in done.stdout and "top-5" not in done.stdout
    assert json.loads((folder / "card.json").read_text())["class_names"] == ["cat", "dog"]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    told = read_predictions(folder / "predictions.npz")
    assert told.split == "test" and told.num_right == test["test/top1"] * len(told.labels) == test["test/top1"] * 16

    weights = (*SMALLEST, "--weights", folder / "weights.npz")
    flags = ("--split", "test,train", "--output", tmp_path / "features")
    shown = run(f"{name}.evaluate", "--dataset", pets, *weights, *flags).stdout
    first, wrote, *_ = shown.splitlines()
    assert f"16 images: top-1 {test['test/top1']:.2%}" in first and wrote.startswith("Wrote")
    assert float(first.split()[-1]) == pytest.approx(test["test/loss"], abs=2e-6)  # six digits are shown
    outputs = []
    for other in (name, INSTALLED[(INSTALLED.index(name) + 1) % len(INSTALLED)]):
        target = tmp_path / f"{other}.npz"
        shown = run(
            f"{other}.predict", *weights, "--output", target, pets / "test" / "cat", pets / "test" / "dog"
        ).stdout
        assert shown.count("cat") >= 16 and shown.count("%") == 32 and "No card" not in shown
        outputs.append(np.load(target))
    assert outputs[0]["logits"].shape == (16, 2) and outputs[0]["features"].shape == (16, 32)
    for column in ("logits", "features"):
        np.testing.assert_allclose(outputs[0][column], outputs[1][column], atol=2e-5 * np.abs(outputs[0][column]).max())
    assert (outputs[0]["files"] == outputs[1]["files"]).all()
    with np.load(tmp_path / "features" / "test.npz") as evaluated:
        np.testing.assert_array_equal(evaluated["logits"], outputs[0]["logits"])
        assert (evaluated["logits"].argmax(1) == evaluated["labels"]).mean() == test["test/top1"]


ADAM = (*SMALLEST, "--recipe", "mixer_i1k", "--warmup_steps", 1, "--ema", 0.9)


ADAFACTOR = (*ADAM, "--optimizer", "adafactor")


@pytest.mark.parametrize(
    "flags", ((), ADAM, pytest.param(ADAFACTOR, marks=pytest.mark.slow)), ids=("sgd", "adam", "adafactor")
)
def test_a_run_begun_in_one_engine_resumes_in_another(name, run, tmp_path, pets, flags):
    other = INSTALLED[(INSTALLED.index(name) + 1) % len(INSTALLED)]
    common = ("--dataset", pets, "--weights", "none", "--checkpoint_every", 4, "--batch_split", 2, "--mixup", 0.2)
    common += (*QUICK, *flags)
    run(f"{name}.train", "--name", "a", *common, small=True)
    shutil.copytree(tmp_path / "runs" / "a", tmp_path / "runs" / "b")
    second = tmp_path / "runs" / "b"
    (second / "weights.npz").unlink()
    (second / "checkpoint.previous.safetensors").replace(second / "checkpoint.safetensors")  # of step 4
    config = json.loads((second / "config.json").read_text()) | {"name": "b"}
    (second / "config.json").write_text(json.dumps(config))
    run(f"{other}.train", "--name", "b", *common, small=True)
    np.testing.assert_allclose(losses(tmp_path / "runs" / "a"), losses(second), atol=1e-4)


@pytest.mark.parametrize("small", (True, pytest.param(False, marks=pytest.mark.slow)))
def test_bfloat16_trains(run, tmp_path, pets, small):
    """It has 8 bits of mantissa: losses of about 0.7 stay within 0.05 of float32's, which are the same in every engine."""
    flags = ("--dataset", pets, "--steps", 3, "--batch", 4, "--log_every", 1, "--resize", 32, "--crop", 32)
    flags += ("--weights", "none") if small else ()
    run(f"{FIRST}.train", "--name", "float32", *flags, small=small)
    expected = losses(tmp_path / "runs" / "float32")
    for name in INSTALLED:
        run(f"{name}.train", "--name", name, "--precision", "bfloat16", *flags, small=small)
        np.testing.assert_allclose(losses(tmp_path / "runs" / name), expected, atol=0.05, err_msg=name)


# --- What is wrong ends in one sentence and status 2. Flags and data are checked by the same code in every engine, so
# most cases run in the first installed engine, and one of each kind in all.

FIRST = INSTALLED[0]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--model", "BiT-M-R50x11"), "did you mean BiT-M-R50x1"),
        (("--dataset", "cifar11"), "did you mean cifar10"),
        (("--dataset", "cifar10"), "python -m common.datasets prepare cifar10"),
        (("--model", "BiT-M-R50x1"), "python -m common.download BiT-M-R50x1"),
        (("--weights", "nowhere.npz"), "nowhere.npz does not exist"),
        (("--weights", "{root}/tests/golden/mini.h5"), "choose the --model"),
        (("--weights", "{root}/README.md"), "expected .npz or .h5"),
        (("--bach", "4"), "did you mean --batch"),
        (("--batch", "0"), "at least 1"),
        (("--batch", "4x"), "--batch"),
        (("--precision", "float16"), "float32"),
        (("--batch", "10", "--batch_split", "3"), "does not divide"),
        (("--batch", "6", "--batch_split", "2", "--mixup", "0.1"), "even"),
        (("--resize", "32", "--crop", "64"), "smaller than --crop"),
        (("--examples_per_class", "101"), "'airplane' has 100 training examples"),
        (("--keep_best",), "--val_fraction"),
        (("--val_fraction", "1e-9"), "--val_fraction"),
        (("--logdir", "/proc/nowhere"), "Cannot write"),
        (("--dataset", "tfds:nowhere", "--tfds_data_dir", "."), "tfds build nowhere"),
    ],
)
def test_a_wrong_flag_is_one_sentence(run, arguments, words):
    arguments = [argument.format(root=ROOT) for argument in arguments]
    assert words in run(f"{FIRST}.train", *arguments, status=2).stderr


def test_a_broken_image_is_named_in_every_engine(name, run, tmp_path, pets):
    shutil.copytree(pets, tmp_path / "pets")
    broken = tmp_path / "pets" / "train" / "cat" / "broken.jpg"
    broken.write_bytes(next((pets / "train" / "cat").iterdir()).read_bytes()[:300])
    done = run(f"{name}.train", "--dataset", "pets", "--weights", "none", *QUICK, status=2, small=True)
    assert "broken.jpg" in done.stderr


def test_an_empty_class_folder_is_named(run, tmp_path, pets):
    shutil.copytree(pets, tmp_path / "pets")
    (tmp_path / "pets" / "train" / "bird").mkdir()
    assert "bird" in run(f"{FIRST}.train", "--dataset", "pets", status=2).stderr


def test_torchvision_datasets_are_for_pytorch_only(run, tmp_path):
    for other in INSTALLED:
        if other != "bit_pytorch":
            assert "needs PyTorch" in run(f"{other}.train", "--dataset", "torchvision:FakeData", status=2).stderr
    if "bit_pytorch" in INSTALLED:
        pytest.importorskip("torchvision")
        assert "did you mean MNIST" in run("bit_pytorch.train", "--dataset", "torchvision:MNITS", status=2).stderr
        write_mnist(tmp_path / "data" / "MNIST" / "raw")
        flags = (*SMALLEST, "--weights", "none", "--steps", 2, "--batch", 4, "--resize", 36, "--crop", 32)
        run("bit_pytorch.train", "--dataset", "torchvision:MNIST", *flags)


def write_mnist(folder) -> None:
    """Forty training and ten test digits in the official idx files, which torchvision takes as already downloaded."""
    folder.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 10)):
        pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for kind, values, magic in (("images-idx3", pixels, 2051), ("labels-idx1", labels, 2049)):
            header = np.array([magic, *values.shape], ">i4").tobytes()
            (folder / f"{part}-{kind}-ubyte").write_bytes(header + values.tobytes())


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("nowhere.jpg",), "no image or folder 'nowhere.jpg'"),
        (("--output", "out.txt", "{image}"), ".npz"),
        ((".",), "holds no image"),
        ((), "required"),
    ],
)
def test_predict_says_what_is_wrong(run, pets, arguments, words):
    image = next((pets / "test" / "cat").iterdir())
    arguments = [argument.format(image=image) for argument in arguments]
    assert words in run(f"{FIRST}.predict", *arguments, status=2).stderr


def test_evaluate_refuses_other_classes(run, pets):
    assert "200 classes" in run(f"{FIRST}.evaluate", "--dataset", pets, status=2).stderr


def test_parity_prints_every_engine_in_one_process(monkeypatch, capsys):
    for name in INSTALLED:
        Engine(name)
    monkeypatch.setattr(sys, "argv", ["parity.py", "--steps", "0", "--resolution", "32"])
    runpy.run_path(str(ROOT / "scripts" / "parity.py"), run_name="__main__")
    output = capsys.readouterr().out
    rows = [line.split() for line in output.splitlines()[2:]]
    assert [row[0] for row in rows] == 2 * list(FRAMEWORKS)
    assert all(float(row[2]) < (1e-9 if row[1] == "float64" else 2e-5) for row in rows), output
