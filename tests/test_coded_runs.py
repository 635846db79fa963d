"""Maps of every pixel as a user has them predicted: both stages trained, judged and drawn, alike in every engine."""

import json
from pathlib import Path

import numpy as np
import pytest
from engines import INSTALLED
from jobs import make_images, metrics
from PIL import Image
from test_image_text_runs import assert_killed_goes_on_elsewhere, assert_same

from common.config import EvaluateConfig, PredictConfig, TrainConfig
from common.convert import uses
from common.evaluation.shown import read_shown
from common.models import find_model
from common.models.cards import Card
from common.models.initial import initial_parameters
from common.runs.command import parse
from common.runs.jobs import evaluation, prediction
from common.runs.plan import Plan
from common.runs.run_folder import Folder
from common.system.errors import UserError
from common.system.files import write_json
from common.weights import write_weights

COMMON = (
    "--dataset", "images", "--weights", "none", "--batch", 6, "--steps", 3, "--warmup_steps", 1, "--precision", "float64",
    "--log_every", 1, "--workers", 2, "--checkpoint_every", 0, "--val_fraction", 0.25,
)  # fmt: skip
FIRST = (
    "--recipe", "uvim_color", "--model", "UViM-T/8-colorization", "--code_dropout", "none", "--base_lr", 0.01, *COMMON,
)  # fmt: skip
SECOND = ("--recipe", "uvim_codes", "--model", "VTT-T/8", "--maps_of", 3, "--eval_every", "val:2,maps:2", *COMMON)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with `images`, and the files of models that were not trained."""
    make_images(tmp_path)
    for file, name in (
        ("oracle.npz", "UViM-T/8-colorization"),
        ("depth.npz", "UViM-T/8-depth"),
        ("vtt.npz", "VTT-T/8"),
    ):
        config = find_model(name).config()
        write_weights(tmp_path / file, initial_parameters(0, config), config)
    write_weights(tmp_path / "coded.npz", initial_parameters(0, config), config, Card(oracle="SHA-256 of another file"))
    return tmp_path


def train_both(run, folder: Path, name: str) -> None:
    """Both stages of an engine, as runs that are called after it."""
    run(f"{name}.train", *FIRST, "--name", f"{name}_first")
    run(f"{name}.train", *SECOND, "--oracle", f"runs/{name}_first", "--name", name)


def asked(run, folder: Path, name: str, command: str, *flags) -> list[str]:
    """The lines that a command says with what was trained."""
    both = (
        "--model",
        "VTT-T/8",
        "--weights",
        f"runs/{name}",
        "--oracle",
        f"runs/{name}_first",
        "--precision",
        "float64",
    )
    return run(f"{name}.{command}", *both, *flags).stdout.splitlines()


def test_both_stages_are_trained_judged_and_drawn(run, folder, monkeypatch):
    """Pictures of the run, of `evaluate` and of `predict`; the numbers of `evaluate` are those of the run."""
    name = INSTALLED[0]
    train_both(run, folder, name)
    told = {key: value for line in metrics(folder, name) for key, value in line.items()}
    assert {"val/loss", "test/perplexity", "maps/psnr", "maps/mse"} <= told.keys()
    assert {"test/psnr", "test/mse"} <= {key for line in metrics(folder, f"{name}_first") for key in line}
    assert read_shown(folder / "runs" / name / "maps.png").shape == (3 * 96, 3 * 96 + 2, 3)
    first, _ = asked(run, folder, name, "evaluate", "--dataset", "images", "--output", "judged")
    assert first.startswith("images test, ") and "PSNR in dB" in first and (folder / "judged/test/maps.png").is_file()
    (said, *_) = asked(run, folder, name, "predict", "images/test", "--output", "drawn")
    drawn = np.load(folder / "drawn/maps.npz")
    assert (
        said.startswith("Wrote drawn/") and drawn["maps"].shape[1:] == (32, 32, 3) and np.abs(drawn["maps"]).max() <= 1
    )
    pictures = sorted((folder / "drawn").glob("*_colorization.png"))
    assert len(pictures) == len(drawn["files"]) and np.asarray(Image.open(pictures[0])).shape == (96, 3 * 96 + 2, 3)
    assert_refused_without_an_oracle(name, monkeypatch, folder)


def assert_refused_without_an_oracle(name: str, monkeypatch, folder: Path) -> None:
    """A model of codes has no vocabulary of texts, of which a sentence would lead astray."""
    monkeypatch.chdir(folder)
    files = {"model": "VTT-T/8", "weights": f"runs/{name}"}
    with pytest.raises(UserError, match="writes codes of maps; name with --oracle"):
        evaluation(EvaluateConfig(dataset="captions-sample", **files))
    with pytest.raises(UserError, match="writes codes of maps; name with --oracle"):
        prediction(PredictConfig(images=("images/test",), **files))
    with pytest.raises(UserError, match="--captions are texts, and --oracle makes maps of what is written"):
        prediction(PredictConfig(images=("images/test",), captions=True, oracle=f"runs/{name}_first", **files))


def test_a_longer_run_needs_no_classes(run, folder, monkeypatch):
    """Cards of maps name none, though the images have some."""
    name = INSTALLED[0]
    run(f"{name}.train", *FIRST, "--name", "first")
    monkeypatch.chdir(folder)
    plan = Plan(parse(TrainConfig, ("--extend_from", "runs/first", "--steps", "5", "--name", "more"), "train", ""))
    assert plan.finished.num_steps == 3 and plan.dataset.class_names and len(plan.recipe.lrs) == 5


def test_a_longer_run_goes_on_with_the_same_oracle_alone(folder, monkeypatch):
    """Also where no checkpoint is left to tell which one it was."""
    monkeypatch.chdir(folder)
    flags = (*SECOND, "--oracle", "oracle.npz", "--name", "short")
    plan = Plan(parse(TrainConfig, list(map(str, flags)), "train", ""))
    start, short = plan.models["model"], folder / "runs/short"
    short.mkdir(parents=True)
    Folder(plan.config, plan.files).write_facts(plan.recipe.record(), INSTALLED[0])
    write_weights(short / "weights.npz", start.arrays, start.config)
    write_json(short / "card.json", plan.card(INSTALLED[0]))
    longer = lambda: Plan(
        parse(TrainConfig, ("--extend_from", "runs/short", "--steps", "5", "--name", "more"), "train", "")
    )
    assert longer().finished.restore() is None and longer().files == plan.files
    config = find_model("UViM-T/8-colorization").config()
    write_weights("oracle.npz", initial_parameters(1, config), config)
    with pytest.raises(UserError, match="The --oracle oracle.npz is not the file whose codes"):
        longer()
    (short / "card.json").write_text("{}")
    with pytest.raises(UserError, match="runs/short was made with another file as oracle .*restore that file"):
        longer()


def test_a_model_of_codes_is_adapted_by_lora(folder, monkeypatch):
    monkeypatch.chdir(folder)
    flags = (*SECOND, "--oracle", "oracle.npz", "--lora_rank", 2)
    start = Plan(parse(TrainConfig, list(map(str, flags)), "train", "")).models["model"]
    assert start.config.lora.rank == 2 and any(name.endswith("/lora_a") for name in start.arrays)


def test_pictures_are_there_as_soon_as_they_are_predicted(folder, monkeypatch):
    """So that memory holds a part of the maps, and what interrupts `predict` leaves what was drawn."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("common.evaluation.dense.MOST_BYTES", 1)
    flags = ("--model", "UViM-T/8-colorization", "--weights", "oracle.npz", "--batch_eval", 4, "--output", "drawn")
    job = prediction(parse(PredictConfig, [*map(str, flags), "images/test"], "predict", ""))
    evaluator, maps = job.evaluator(), np.random.default_rng(0).random((14, 32, 32, 3), np.float32)
    for part, (output, _) in enumerate(evaluator.passes()):
        rows = {"map": np.resize(maps[4 * part :], (4, 32, 32, 3)), "mask": np.arange(4) < 14 - 4 * part}
        evaluator.add(output, rows)
        assert len([*(folder / "drawn").glob("*.png")]) == min(4 * (part + 1), 14)
    job.show(job.outputs())
    with np.load("drawn/maps.npz") as file:
        np.testing.assert_array_equal(file["maps"], maps)
        assert len(file["files"]) == 14
    assert len([*(folder / "drawn").iterdir()]) == 15


@pytest.mark.slow
def test_a_run_predicts_alike_in_every_engine(run, folder):
    """Losses, metrics and pictures."""
    drawn = {}
    for name in INSTALLED:
        train_both(run, folder, name)
        asked(run, folder, name, "predict", "images/test", "--output", f"drawn_{name}")
        drawn[name] = np.load(folder / f"drawn_{name}/maps.npz")["maps"]
    for name in INSTALLED[1:]:
        for ending in ("_first", ""):
            assert_same(metrics(folder, f"{INSTALLED[0]}{ending}"), metrics(folder, f"{name}{ending}"))
        np.testing.assert_allclose(drawn[name], drawn[INSTALLED[0]], rtol=0, atol=1e-9)


def make_maps(folder: Path, target: str) -> None:
    """Images with the depth, or the category and instance, of their pixels, in `target`."""
    rng, values = (
        np.random.default_rng(0),
        {"depth": (np.uint16, (40, 40), 9000), "panoptic": (np.uint8, (40, 40, 3), 3)},
    )
    dtype, shape, most = values[target]
    for split, number in [*(("train", i) for i in range(8)), *(("test", i) for i in range(4))]:
        for kind, pixels in (
            ("images", rng.integers(0, 256, (40, 40, 3), np.uint8)),
            (target, rng.integers(0, most, shape).astype(dtype)),
        ):
            path = folder / target / split / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    categories = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "grass", "isthing": 0}]
    (folder / target / "categories.json").write_text(json.dumps(categories))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "told"), [("depth", ("rmse", "abs_rel", "log10", "delta1")), ("panoptic", ("pq", "sq", "rq"))]
)
def test_depth_and_segmentations_go_through_both_stages(run, folder, target, told):
    """A picture of a photograph alone is drawn by the second stage; the first one judges maps."""
    make_maps(folder, target)
    name, model = INSTALLED[0], f"UViM-T/8-{target}"
    run(
        f"{name}.train",
        "--recipe",
        f"uvim_{target}",
        "--model",
        model,
        *COMMON,
        "--dataset",
        f"maps:{target}",
        "--name",
        "first",
    )
    run(f"{name}.train", *SECOND, "--dataset", f"maps:{target}", "--oracle", "runs/first", "--name", "second")
    for run_name, where in (("first", "test"), ("second", "maps")):
        assert {f"{where}/{metric}" for metric in told} <= {key for line in metrics(folder, run_name) for key in line}
    both = ("--model", "VTT-T/8", "--weights", "runs/second", "--oracle", "runs/first")
    run(f"{name}.predict", *both, "--output", "drawn", f"{target}/test/images")
    assert np.asarray(Image.open(folder / f"drawn/0_{target}.png")).shape == (96, 2 * 96 + 1, 3)
    assert np.load(folder / "drawn/maps.npz")["maps"].shape[:3] == (4, 32, 32)
    judged = run(f"{name}.evaluate", "--model", model, "--weights", "runs/first", "--dataset", f"maps:{target}").stdout
    assert judged.startswith(f"maps:{target} test, 4 images: ")


WRITER = ("--model", "VTT-T/8", "--weights", "vtt.npz")
TRAINED = (
    "--recipe",
    "uvim_codes",
    "--dataset",
    "images",
    "--steps",
    3,
    "--warmup_steps",
    1,
    "--weights",
    "none",
    "--model",
)


@pytest.mark.parametrize(
    ("command", "flags", "said"),
    [
        ("train", (*TRAINED, "VTT-T/8"), "name a file or a run with --oracle"),
        ("train", (*TRAINED, "UViM-T/8-colorization", "--oracle", "oracle.npz"), "trains models that write"),
        ("train", (*TRAINED, "VTT-T/8", "--oracle", "vtt.npz"), "--oracle vtt.npz makes no codes of maps"),
        ("train", (*TRAINED, "VTT-T/8", "--oracle", "depth.npz"), "have no maps, and depth needs maps of depth"),
        ("train", (*TRAINED, "VTT-T/8", "--oracle", "oracle.npz", "--mixup", 0.1), "of no use to the task coded"),
        ("train", (*TRAINED, "VTT-T/8", "--oracle", "oracle.npz", "--randaugment_layers", 2), "moves pixels and not their maps"),
        ("train", (*TRAINED, "VTT-T/8", "--weights", "coded.npz", "--oracle", "oracle.npz"), "is not the file whose codes"),
        ("train", ("--oracle", "oracle.npz"), "--oracle belongs to the tasks coded and rewarded"),
        ("predict", (*WRITER, "--oracle", "oracle.npz", "images/test"), "draws pictures; give --output"),
        ("predict", (*WRITER, "--oracle", "oracle.npz", "--prompt", "a", "images/test"), "begins a text"),
        ("predict", (*WRITER, "--oracle", "oracle.npz", "--map", "pca", "images/test"), "leave one of them off"),
        ("predict", (*WRITER, "--oracle", "oracle.npz", "--top", 3, "--output", "x", "images/test"), "--top is for classes and texts"),
        ("predict", ("--model", "VTT-T/8", "--weights", "coded.npz", "images/test"), "name with --oracle what makes maps"),
        ("predict", ("--model", "VTT-T/8", "--weights", "coded.npz", "--oracle", "oracle.npz", "--output", "x", "images/test"),
         "is not the file whose codes"),
        ("predict", ("--oracle", "oracle.npz", "images/test"), "writes no codes of maps, which --oracle is for"),
        ("predict", ("--model", "UViM-T/8-depth", "--weights", "depth.npz", "--output", "x", "images/test"), "photographs do not have"),
        ("evaluate", (*WRITER, "--evaluator", "maps", "--dataset", "images"), "name with --oracle what makes maps"),
        ("evaluate", (*WRITER, "--oracle", "depth.npz", "--dataset", "images"), "have no maps"),
        ("evaluate", (*WRITER, "--oracle", "oracle.npz", "--evaluator", "likelihood", "--dataset", "images"), "not likelihood"),
        ("evaluate", ("--evaluator", "maps", "--dataset", "images"), "writes no codes of maps, which --evaluator maps is for"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(run, folder, command, flags, said):
    assert said in run(f"{INSTALLED[0]}.{command}", *flags, status=2).stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTALLED)
def test_a_killed_run_goes_on_in_another_engine(name, server, folder):
    """By the same codes of the same oracle, in parts of a batch."""
    flags = (*SECOND[:4], *COMMON, "--resize", 32)
    flags += ("--oracle", "oracle.npz", "--batch_split", 2, "--checkpoint_every", 2, "--eval_every", 0)
    assert_killed_goes_on_elsewhere(name, server, folder, *flags, steps=40)


def test_inspect_tells_what_such_models_serve_for():
    """Neither has features for a probe, or takes a new head."""
    told = [uses(find_model(name).config()) for name in ("VTT-T/8", "UViM-T/8-depth")]
    assert told[0].startswith("evaluate and predict texts, or codes") and "--oracle" in told[1]
