"""Runs of image-text models, as a user starts them: their evaluations are the same in every engine, on one device or two."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from engines import INSTALLED
from jobs import make_pairs, metrics, places_of
from test_resume import STEPS, Runs

from common.evaluation.pairs import read_pairs
from common.runs.checkpoint import PREVIOUS

FLAGS = ("--recipe", "siglip", "--model", "SigLIP-T/8", "--weights", "none", "--dataset", "captions-sample", "--batch", 16,
         "--steps", 4, "--warmup_steps", 1, "--resize", 32, "--crop", 32, "--val_fraction", 0.05, "--batch_eval", 64,
         "--eval_every", "val:2,cifar10-sample:4", "--zero_shot", "cifar10-sample", "--precision", "float64",
         "--log_every", 1, "--checkpoint_every", 0, "--workers", 2)  # fmt: skip
JUDGED = (
    "img2txt_recall@1",
    "img2txt_recall@5",
    "img2txt_recall@10",
    "txt2img_recall@1",
    "txt2img_recall@5",
    "txt2img_recall@10",
)


@pytest.mark.slow
def test_a_run_judges_by_retrieval_and_zero_shot_alike_in_every_engine(run, tmp_path):
    for name in INSTALLED:
        said = run(f"{name}.train", *FLAGS, "--name", name).stdout
        assert "step 2: val image to text recall@1 " in said and "step 4: cifar10-sample top-1 " in said
        folder = tmp_path / "runs" / name
        assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
        found = read_pairs(folder / "pairs.json")
        assert (found.split, found.num_images, found.num_texts) == ("test", 190, 380) and len(found.pairs) == 100
    lines = metrics(tmp_path, INSTALLED[0])
    judged = [[key.rpartition("/")[2] for key in line if key.startswith("val/")] for line in lines]
    assert [names for names in judged if names] == [[*JUDGED, "loss"]] * 2
    assert {"cifar10-sample/top1", "cifar10-sample/top5", "test/loss"} <= {key for line in lines for key in line}
    for name in INSTALLED[1:]:
        assert_same(lines, metrics(tmp_path, name))
        assert pairs(tmp_path, name) == pairs(tmp_path, INSTALLED[0])


def assert_same(lines: list[dict], others: list[dict]) -> None:
    assert [[*line] for line in lines] == [[*line] for line in others]
    for line, other in zip(lines, others):
        np.testing.assert_allclose([*line.values()], [*other.values()], rtol=1e-9, err_msg=str([*line]))


def assert_killed_goes_on_elsewhere(name: str, server, folder: Path, *flags, steps: int) -> None:
    """A run of `steps` that is killed in its midst and goes on in another engine is one that was never killed."""
    other = INSTALLED[(INSTALLED.index(name) + 1) % len(INSTALLED)]
    begun, ended = (Runs(server(each), folder, small=False) for each in (name, other))
    flags = (*flags, "--steps", steps)
    begun.train("whole", *flags)
    begun.train("begun", *flags, once=f"runs/begun/{PREVIOUS}", sends=signal.SIGKILL, slow_disk=0.1)
    assert 0 < begun.step("begun") < steps and not begun.is_finished("begun")
    ended.train("begun", *flags)
    assert_same(metrics(folder, "whole"), metrics(folder, "begun"))


def pairs(folder: Path, name: str) -> list[tuple]:
    """Texts and images, without the last digits of their similarities."""
    return [
        (pair.text, pair.own, pair.found, pair.place, round(pair.similarity, 5))
        for pair in read_pairs(folder / "runs" / name / "pairs.json").pairs
    ]


@pytest.mark.slow
@pytest.mark.parametrize("flag", ((), ("--shard_parameters",)))
def test_two_processes_judge_as_one(name, server, run, tmp_path, flag):
    """The last batches of texts and images have padding, in one process or both."""
    if flag and name == "bit_tf2":
        pytest.skip("TensorFlow keeps all parameters on every device")
    run(f"{name}.train", *FLAGS, "--name", "one")
    variables = {"CUDA_VISIBLE_DEVICES": ""}
    started = [
        server(name).start(f"{name}.train", (*FLAGS, "--name", "two", *flag), tmp_path, variables | place)
        for place in places_of(2)
    ]
    assert [process.wait(300) for process in started] == [0, 0], started[0].output
    assert_same(metrics(tmp_path, "one"), metrics(tmp_path, "two"))
    assert pairs(tmp_path, "one") == pairs(tmp_path, "two")


@pytest.fixture(params=INSTALLED)
def name(request) -> str:
    return request.param


@pytest.mark.slow
def test_a_run_is_evaluated_and_reported(run, tmp_path):
    """`evaluate` gives what the run said of its held-out images; the report draws its recalls and shows its wrong pairs."""
    name = INSTALLED[0]
    run(f"{name}.train", *FLAGS, "--name", "a", "--steps", 2, "--zero_shot", "", "--eval_every", 1)
    told = metrics(tmp_path, "a")[-1]
    weights = ("--weights", tmp_path / "runs" / "a", "--dataset", "captions-sample", "--evaluator", "retrieval")
    said = run(f"{name}.evaluate", *weights, "--precision", "float64").stdout
    assert f"190 images, 380 texts: image to text recall@1 {told['test/img2txt_recall@1']:.2%}, " in said
    assert f"text to image recall@1 {told['test/txt2img_recall@1']:.2%}, " in said
    run("common.report", tmp_path / "runs" / "a")
    page = (tmp_path / "report.html").read_text()
    found = read_pairs(tmp_path / "runs" / "a" / "pairs.json")
    assert f"{380 - found.num_wrong} of 380 test texts find their image" in page and "found this (" in page
    assert ">Recall@1<" in page and page.count("data:image/jpeg") > 0
    assert json.loads((tmp_path / "runs" / "a" / "card.json").read_text())["text"]["kind"] == "sentencepiece"


# --- runs that are stopped


PAIRS = ("--recipe", "siglip", "--model", "SigLIP-T/8", "--weights", "none", "--dataset", "pairs", "--batch_split", 2,
         "--resize", 32, "--log_every", 1, "--checkpoint_every", 2, "--eval_every", 3)  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with `pairs`."""
    make_pairs(tmp_path)
    return tmp_path


@pytest.mark.slow  # test_evaluate_towers.py has a quick one
def test_a_killed_run_goes_on_bit_for_bit(name, server, folder):
    """The same captions, in parts of a batch as before."""
    runs = Runs(server(name), folder, small=False)
    runs.train("whole", *PAIRS)
    previous = f"runs/killed/{PREVIOUS}"
    killed = runs.train("killed", *PAIRS, once=previous, sends=signal.SIGKILL, slow_disk=0.1)
    assert killed["status"] == -signal.SIGKILL and not runs.is_finished("killed") and 0 < runs.step("killed") < STEPS
    runs.train("killed", *PAIRS)
    runs.assert_same("killed", "whole")


@pytest.mark.slow
@pytest.mark.parametrize("flags", ((), ("--optimizer", "adafactor", "--ema", 0.5, "--locked", "image/.*")), ids=str)
def test_a_run_begun_in_one_engine_ends_in_another(name, server, folder, flags):
    assert_killed_goes_on_elsewhere(name, server, folder, *PAIRS, "--precision", "float64", *flags, steps=STEPS)
