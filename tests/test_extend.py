"""--extend_from: a finished run goes on to more steps in a new folder."""

import json
import shutil

import pytest
from engines import INSTALLED
from test_commands import pets  # noqa: F401
from test_resume import STEPS, Runs, runs_of

from common.runs.checkpoint import CURRENT, PREVIOUS, read

STEADY = ("--schedule", "rsqrt")  # its rates are the same however long the run is


@pytest.fixture(scope="module")
def runs(server, tmp_path_factory) -> Runs:
    """Runs of the engine in numpy_engine.py; `short` has ended after six steps, `long` after nine."""
    runs = runs_of("common", server, tmp_path_factory)
    runs.train("short", *STEADY)
    runs.train("long", *STEADY, "--steps", 9)
    return runs


def extend(runs: Runs, name: str, *flags, source: str = "short", **order) -> dict:
    """A run with no other flags than these."""
    flags = ("--name", name, "--extend_from", f"runs/{source}", "--steps", 9, *flags)
    process = runs.server.start("numpy_engine", flags, runs.folder, small=True, **order)
    return {"status": process.wait(), "output": process.output}


def refused(runs: Runs, name: str, *flags, **options) -> str:
    answer = extend(runs, name, *flags, **options)
    assert answer["status"] == 2 and not (runs.folder / "runs" / name / CURRENT).exists(), answer["output"]
    sentence = answer["output"].splitlines()[-1]
    assert sentence.startswith("error: ") and "Traceback" not in answer["output"]
    return sentence


def assert_ends_as(runs: Runs, name: str, reference: str) -> None:
    """The same weights bit for bit, and the same numbers after the finished run's."""
    found, expected = (read(runs.folder / "runs" / each / CURRENT) for each in (name, reference))
    assert found.step == expected.step == 9
    assert all(found.arrays[key].tobytes() == expected.arrays[key].tobytes() for key in expected.arrays)
    assert runs.metrics(name) == [line for line in runs.metrics(reference) if line["step"] > STEPS]


def test_a_longer_run_is_the_one_that_had_been_so_long_where_the_rates_are_the_same(runs):
    """With every flag of the finished run, though none is given: images, crops and moments go on."""
    output = extend(runs, "more")["output"]
    assert "Extending runs/short from step 6 to 9, from its last checkpoint" in output
    assert "The schedule is that of 9 steps: its rate is 0.01 here, where short ended with 0.01." in output
    assert_ends_as(runs, "more", "long")
    config = json.loads((runs.folder / "runs" / "more" / "config.json").read_text())
    assert (config["extend_from"], config["schedule"], config["batch"], config["val_fraction"]) == (
        "runs/short", "rsqrt", 4, 0.3,
    )  # fmt: skip


def test_a_longer_run_resumes_itself(runs):
    for at in range(20, 1000, 35):
        if extend(runs, f"killed{at}", deed="kill", at=at)["status"] == 0:
            break
        if not runs.is_finished(f"killed{at}"):
            answer = extend(runs, f"killed{at}")
            assert answer["status"] == 0, answer["output"]
        assert_ends_as(runs, f"killed{at}", "long")
    assert at > 60


def test_the_schedule_is_that_of_all_steps(runs):
    runs.train("cosine", "--schedule", "cosine")
    output = extend(runs, "cosine9", source="cosine")["output"]
    rates = [line["train/lr"] for line in runs.metrics("cosine9") if "train/lr" in line]
    expected = json.loads((runs.folder / "runs" / "cosine9" / "recipe.json").read_text())["lrs"]
    assert len(expected) == 9 and rates == [expected[8]] and f"its rate is {expected[6]:.3g} here" in output
    assert "is another run" in output


def test_the_best_weights_of_both_are_kept(runs):
    runs.train("best", *STEADY, "--keep_best")
    best = max(line["val/top1"] for line in runs.metrics("best") if "val/top1" in line)
    extend(runs, "best9", source="best")
    both = [line["val/top1"] for name in ("best", "best9") for line in runs.metrics(name) if "val/top1" in line]
    # The last evaluation is of the weights that were chosen.
    assert runs.metrics("best9")[-2]["val/top1"] == max(both) >= best


def test_without_a_checkpoint_the_weights_are_what_is_left(runs):
    folder = runs.folder / "runs" / "bare"
    shutil.copytree(runs.folder / "runs" / "short", folder)
    for file in (CURRENT, PREVIOUS):
        (folder / file).unlink(missing_ok=True)
    output = extend(runs, "bare9", source="bare")["output"]
    assert (
        "from its weights.npz alone, since no checkpoint of its last step is left: the optimizer starts anew" in output
    )
    assert read(runs.folder / "runs" / "bare9" / CURRENT).step == 9


def test_what_cannot_be_extended_is_one_sentence(runs):
    assert "has ended after 6 steps and the longer run is to have 6" in refused(runs, "no", "--steps", 6)
    assert "was made with --batch 4, not 2; a longer run has the same" in refused(runs, "no", "--batch", 2)
    assert "was made with --model BiT-T-R26x0.5, not ViT-mu/16" in refused(runs, "no", "--model", "ViT-mu/16")
    assert "--steps 9 and --epochs 3 both say" in refused(runs, "no", "--epochs", 3)
    assert "holds no config.json; name one of a run" in refused(runs, "no", source="nowhere")
    assert "is not on this machine" in refused(runs, "no", "--extend_from", "gs://bucket/runs/a")
    for name in ("unfinished", "damaged"):
        shutil.copytree(runs.folder / "runs" / "short", runs.folder / "runs" / name)
    (runs.folder / "runs" / "unfinished" / "weights.npz").unlink()
    assert "has not ended" in refused(runs, "no", source="unfinished")
    (runs.folder / "runs" / "damaged" / "recipe.json").write_text('{"lrs": [1, "a"]}')
    assert "does not tell what it was" in refused(runs, "no", source="damaged")
    images = runs.folder / "images"
    for split in ("train", "test"):
        (images / split / "cat").rename(images / split / "zebra")
    try:
        assert "was trained on other classes than the dataset has now" in refused(runs, "no")
    finally:
        for split in ("train", "test"):
            (images / split / "zebra").rename(images / split / "cat")


@pytest.mark.slow
@pytest.mark.skipif(len(INSTALLED) < 2, reason="needs two engines")
def test_a_run_is_extended_in_another_engine(run, tmp_path, pets):
    first, second = INSTALLED[:2]
    flags = ("--dataset", pets, "--weights", "none", "--batch", 4, "--crop", 32, "--steps", 2, "--log_every", 1)
    run(f"{first}.train", "--name", "a", *flags, small=True)
    done = run(f"{second}.train", "--name", "b", "--extend_from", "runs/a", "--steps", 3, small=True)
    assert "Extending runs/a from step 2 to 3" in done.stdout and read(tmp_path / "runs" / "b" / CURRENT).step == 3
