"""`python -m common.report`: what it shows of runs, what it says of folders that are none, and the page in a browser."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from common import report
from common.datasets import open_dataset
from common.evaluation.predictions import PREDICTIONS, Predictions, write_predictions
from common.reports import curves, record
from common.system import environment
from common.system.errors import UserError, printable

CONFIG = {"model": "BiT-T-R26x0.5", "dataset": "cifar10-sample", "weights": "pretrained", "seed": 0, "base_lr": 0.02}


def make_run(folder: Path, engine: str = "bit_pytorch", shift: float = 0.0, ended: bool = True, **changes) -> Path:
    """A run's folder as `common/runs/run.py` leaves it, its losses and accuracy moved by `shift`."""
    folder.mkdir(parents=True)
    lines = [
        {"step": step, "train/loss": 2 / step + shift * step, "train/lr": 0.01, "images_per_second": 100.0}
        for step in (10, 20, 30)
    ]
    lines.append({"step": 30, "test/top1": 0.5 + shift, "test/loss": 1.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, value in {
        "config.json": CONFIG | changes,
        "recipe.json": {"lrs": [0.01] * 30},
        "environment.json": {"engine": engine, "python": "3.11", "processor": "<a & b>"},
    }.items():
        (folder / name).write_text(json.dumps(value))
    if ended:
        (folder / "weights.npz").write_bytes(b"")
    return folder


def rows(table: report.Table) -> list[dict[str, str]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_engines_seeds_and_settings_are_compared(tmp_path):
    runs = [make_run(tmp_path / f"torch{seed}", seed=seed, shift=seed / 100) for seed in range(3)]
    runs += [make_run(tmp_path / "jax0", "bit_jax", shift=1e-3), make_run(tmp_path / "tf", "bit_tf2", base_lr=0.1)]
    records = [record.read_record(folder) for folder in runs]
    (spread,) = rows(report.seeds(records))
    assert spread["PyTorch"] == "50.0% <- 51.0% -> 52.0% (3)" and spread["JAX"] == "50.1% (1)"
    assert "TensorFlow" not in spread  # another rate is another setting
    (gap,) = rows(report.differences(records))  # another rate is no comparison
    assert (gap["engine"], gap["against"], gap["losses compared"]) == ("JAX", "PyTorch", "3")
    assert gap["largest loss difference"] == "3.0e-02 (step 30)" and gap["difference of results"] == "0.10%"
    settings = report.different_flags(records)
    assert {row["flag"] for row in rows(settings)} == {"--seed", "--base_lr"}
    highlighted = {(settings.rows[i][0], settings.columns[j]) for i, j in settings.shades}
    assert highlighted == {("--seed", "torch1"), ("--seed", "torch2"), ("--base_lr", "tf")}
    assert "| --base_lr | 0.02 | 0.02 | 0.02 | 0.02 | **0.1** |" in report.as_markdown(records, "a.png")
    assert report.as_html(records).count("style=--shade:1.00") == 3
    assert rows(report.overview(records))[0]["result"] == "50.00% (test top-1)"


def test_seeds_are_those_of_runs_that_have_ended_each_counted_once(tmp_path):
    """Settings that would have one title tell in what they differ."""
    same = [make_run(tmp_path / f"same{seed}", seed=seed, examples_per_class=1) for seed in range(2)]
    fast = [make_run(tmp_path / f"fast{seed}", seed=seed, examples_per_class=1, base_lr=0.1) for seed in range(2)]
    going = make_run(tmp_path / "going", seed=2, examples_per_class=1, ended=False)
    records, _ = report.read_records([*same, *fast, going, f"{same[0]}/", tmp_path / "going" / ".." / "same1"])
    assert [found.name for found in records] == ["same0", "same1", "fast0", "fast1", "going"]
    told = rows(report.seeds(records))
    title = "BiT-T-R26x0.5 on cifar10-sample, fine-tuned, 1 image a class"
    assert [row["setting"] for row in told] == [f"{title}, --base_lr 0.02", f"{title}, --base_lr 0.1"]
    assert [row["PyTorch"] for row in told] == ["50.0% <- 50.0% -> 50.0% (2)"] * 2


def test_runs_of_one_name_are_told_apart(tmp_path, monkeypatch):
    for folder in ("a/x/run", "b/x/run", "other"):
        make_run(tmp_path / folder, seed=len(folder))
    records, _ = report.read_records([tmp_path / "a" / "x" / "run", tmp_path / "b" / "x" / "run", tmp_path / "other"])
    assert [found.name for found in records] == ["a/x/run", "b/x/run", "other"]
    assert all(f">{name}<" in curves.svgs(records)["Learning rate"] for name in ("a/x/run", "b/x/run", "other"))
    monkeypatch.chdir(tmp_path / "other")
    assert record.read_record(".").name == "other"


def test_flags_that_a_run_of_another_version_did_not_know_have_their_defaults(tmp_path):
    old, new = make_run(tmp_path / "old"), make_run(tmp_path / "new", "bit_jax", schedule=None, batch_split=1)
    records = [record.read_record(folder) for folder in (old, new)]
    assert len(record.gaps(records)) == 1 and not rows(report.different_flags(records))


def test_runs_without_a_common_step_say_so(run, tmp_path):
    make_run(tmp_path / "a"), make_run(tmp_path / "b", "bit_jax"), make_run(tmp_path / "c", "bit_tf2")
    (tmp_path / "b" / "metrics.jsonl").write_text('{"step": 7, "train/loss": 1.0}\n')
    done = run("common.report", "a", "b", "c", "--output", "report.md", status=2)
    assert done.stderr == "error: b has no step in common with a, so their losses were not compared.\n"
    text = (tmp_path / "report.md").read_text()
    assert "| b - a | JAX | PyTorch | no step with a loss in common | 0 |" in text
    assert "| c - a | TensorFlow | PyTorch | 0.0e+00 (step 10) | 3 |" in text


def test_machines_and_versions_of_runs_alike_share_a_row(tmp_path, monkeypatch):
    alike = [record.read_record(make_run(tmp_path / name)) for name in "ab"]
    gpus = tmp_path / "gpus"
    for number in range(2):
        (gpus / str(number)).mkdir(parents=True)
        (gpus / str(number) / "information").write_text("Model: \t\t NVIDIA H100\nIRQ:   \t 5\n")
    monkeypatch.setattr(environment, "GPU_INFO", gpus)
    other = record.read_record(make_run(tmp_path / "c", "bit_jax"))
    other = dataclasses.replace(other, environment=environment.environment("none") | {"engine": "bit_jax"})
    first, second = rows(report.environments([*alike, other]))
    assert (first["runs"], first["versions"], first["processor"]) == ("a, b", "python 3.11", "<a & b>")
    assert (second["runs"], second["accelerators"]) == ("c", "2 x NVIDIA H100")
    assert "accelerators" not in report.environments(alike).columns


def test_one_page_without_a_network(run, tmp_path):
    make_run(tmp_path / "a<b>"), make_run(tmp_path / "c", "bit_jax")
    done = run("common.report", "a<b>", "c")
    page = (tmp_path / "report.html").read_text()
    assert "Wrote report.html: 2 runs" in done.stdout
    assert page.count("<svg") == 4 and "a&lt;b&gt;" in page and "a<b>" not in page and "&lt;a &amp; b&gt;" in page
    for outside in ("src=", 'href="http', "url(http", "@import", "<script"):
        assert outside not in page
    assert "prefers-color-scheme: dark" in page


def test_a_run_that_is_being_written_is_reported_as_far_as_it_has_come(run, tmp_path):
    folder = make_run(tmp_path / "run", ended=False)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "train/lo')  # the rest comes in a moment
    done = run("common.report", "run", "--output", "report.md", status=2)
    assert done.stderr == "error: run has not ended: it has come to step 30 of 30.\n"
    assert "| run | has not ended: it has come to step 30 of 30 |" in (tmp_path / "report.md").read_text()


def test_markdown_with_its_picture_and_the_picture_alone(run, tmp_path):
    make_run(tmp_path / "a|b")
    run("common.report", "a|b", "--output", "out/my report.md")
    text = (tmp_path / "out" / "my report.md").read_text()
    assert "![Curves](my%20report.png)" in text and "| a\\|b | PyTorch |" in text
    assert (tmp_path / "out" / "my report.png").read_bytes().startswith(b"\x89PNG")
    run("common.report", "a|b", "--output", "curves.png")
    assert (tmp_path / "curves.png").is_file() and not (tmp_path / "curves.md").exists()


def test_logs_of_big_vision(run, tmp_path):
    (tmp_path / "bv").mkdir()
    lines = [
        {"step": 50, "training_loss": 6.9, "global_schedule": 0.1, "img/sec/core": 300.0, "minival/prec@1": 0.2},
        {"step": 100, "val/prec@1": 0.1, "v2/prec@1": 0.08, "real/prec@1": 0.12, "val/loss": 6.0, "note": None},
    ]
    (tmp_path / "bv" / record.BIG_VISION_LOG).write_text("\n".join(map(json.dumps, lines)))
    found = record.read_record(tmp_path / "bv")
    assert found.points("train/loss") == [(50, 6.9)] and found.points("train/lr") == [(50, 0.1)]
    assert found.metrics("/top1") == ["minival/top1", "val/top1", "v2/top1", "real/top1"]
    assert record.accuracy(found) == ("val/top1", 0.1)
    assert rows(report.overview([found]))[0]["images/s"] == "300 a core"
    drawn = curves.svgs([found])
    assert list(drawn) == ["Loss", "Learning rate", "Top-1 accuracy", "Images per second and core"]
    for text in (">validation top-1<", ">v2 top-1<", ">real top-1<", ">minival top-1<", ">10 %<"):
        assert text in drawn["Top-1 accuracy"]
    both = curves.svgs([found, record.read_record(make_run(tmp_path / "ours"))])
    assert ">PyTorch<" in both["Loss"] and ">PyTorch<" not in both["Images per second and core"]
    run("common.report", "bv")


def test_a_log_of_big_vision_that_was_started_again_counts_every_step_once(tmp_path):
    lines = [{"step": step, "training_loss": 10.0 - step, "val/prec@1": step / 10} for step in (1, 2, 3)]
    again = [{"step": step, "training_loss": 5.0 - step} for step in (3, 4, 2)]
    (tmp_path / record.BIG_VISION_LOG).write_text("\n".join(map(json.dumps, lines + again)) + "\n")
    found = record.read_record(tmp_path)
    assert found.points("train/loss") == [(1, 9), (2, 3), (3, 2), (4, 1)] and found.last("val/top1") == 0.3


def test_seven_metrics_have_seven_kinds_of_lines(tmp_path):
    splits = ("a", "b", "c", "d", "e", "f", "g")
    lines = [{"step": step} | {f"{split}/prec@1": 0.5 for split in splits} for step in (1, 2)]
    (tmp_path / record.BIG_VISION_LOG).write_text("\n".join(map(json.dumps, lines)))
    metrics = record.read_record(tmp_path).metrics("/top1")
    lines = [curves.line_of(metric, metrics, 2) for metric in metrics]
    assert len({line["linestyle"] for line in lines}) == len({line["marker"] for line in lines}) == 7
    assert curves.svgs([record.read_record(tmp_path)])


@pytest.mark.parametrize("name", ("$x$", "_hidden", "$\\frac$"), ids=("dollars", "underscore", "tex"))
def test_a_legend_shows_any_name_as_it_is(name, tmp_path):
    records = [record.read_record(make_run(tmp_path / folder)) for folder in (name, "other")]
    assert f">{name}<" in curves.svgs(records)["Learning rate"]
    curves.write_png(records, tmp_path / "curves.png")


@pytest.mark.parametrize(
    "damage, words",
    [
        (shutil.rmtree, "is no folder"),
        (lambda run: (run / "config.json").unlink(), "holds no config.json"),
        (lambda run: (run / "metrics.jsonl").unlink(), "holds no metrics.jsonl"),
        (lambda run: (run / "config.json").write_text("{"), "is no readable JSON"),
        (lambda run: (run / "config.json").write_text("{}"), "another version"),
        (lambda run: (run / "environment.json").unlink(), "another version"),
        (lambda run: (run / "config.json").write_text('{"model": ["B'), "is no readable JSON"),
        (lambda run: (run / "config.json").write_text("[]"), "is no readable JSON"),
        (lambda run: (run / "config.json").write_text('{"model": []}'), "another version"),
        (lambda run: (run / "recipe.json").write_text("{"), "is no readable JSON"),
        (lambda run: (run / "metrics.jsonl").write_text("nothing\n"), "no line with a step"),
        (lambda run: (run / "metrics.jsonl").write_text(""), "no line with a step"),
        (lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\x00\n" * 9), "no line with a step"),
        (lambda run: [path.unlink() for path in run.iterdir()], "holds no config.json"),
        (lambda run: [(run / "config.json").unlink(), make_run(run / "a")], r"name the runs in it, .*/bad/\*\."),
    ],
)
def test_a_folder_that_is_no_run_is_one_sentence(damage, words, tmp_path):
    good, bad = make_run(tmp_path / "good"), make_run(tmp_path / "bad")
    damage(bad)
    records, (error,) = report.read_records([bad, good])
    assert re.search(words, error) and "\n" not in error and [found.folder for found in records] == [good]


def test_the_other_runs_are_reported(run, tmp_path):
    make_run(tmp_path / "good")
    done = run("common.report", "good", "nothing", "--output", "report.md", status=2)
    sentence = "nothing is no folder; name the folder of a run, such as runs/NAME."
    assert done.stderr == f"error: {sentence}\n"
    text = (tmp_path / "report.md").read_text()
    assert "| good |" in text and f"## Left out\n\n| runs that cannot be read |\n|---|\n| {sentence} |" in text


BROKEN = (
    '{"step": 40, "train/lo',
    "[]",
    '{"no": 1}',
    '{"step": 1e999}',
    '{"step": "x"}',
    "[" * 10**5,
    '{"step": null}',
    f'{{"step": {"9" * 400}, "train/loss": 1}}',
)


def test_broken_lines_are_passed_over_and_counted(run, tmp_path):
    folder = make_run(tmp_path / "run")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write("".join(f"{line}\n" for line in BROKEN))
        file.write('\n{"step": 50, "train/loss": NaN, "train/lr": 1e999, "val/top1": true, "val/loss": "1"}\n')
        file.write(f'{{"step": 60, "train/loss": {"9" * 400}}}\n')
    found = record.read_record(folder)
    assert (found.step, found.points("train/loss")[-1]) == (50, (30, 2 / 30))
    assert found.notes == [
        "has 9 broken lines in metrics.jsonl, passed over",
        "has numbers that are not finite in 1 line of metrics.jsonl",
    ]
    make_run(tmp_path / "other", "bit_jax")
    done = run("common.report", "run", "other", "--output", "report.md", status=2)
    assert done.stderr == f"error: run {found.notes[0]}. run {found.notes[1]}.\n"
    assert "Wrote report.md: 2 runs" in done.stdout


@pytest.mark.parametrize("value", ([], {}, 5, "x", None), ids=repr)
def test_values_of_another_type_in_a_run_end_no_report(value, tmp_path):
    """What is not understood of a folder is left out; nothing ends in a traceback."""
    run = make_run(tmp_path / "run")
    (run / "recipe.json").write_text(json.dumps({"lrs": value}))
    (run / "card.json").write_text(json.dumps({"class_names": value, "source": value}))
    for name in ("dataset", "weights", "seed", "examples_per_class"):
        (run / "config.json").write_text(json.dumps(CONFIG | {name: value}))
        assert report.tables([record.read_record(run)])
    (run / "environment.json").write_text(json.dumps({"engine": value, "python": value, "cores": value}))
    records, errors = report.read_records([run])
    assert len(records) + len(errors) == 1
    assert report.as_markdown(records, "a.png") if records else "another version" in errors[0]


NAMES = (
    b"\xff\xfe",
    b"a\nb\x1b[31m",
    b"\xe2\x80\xae evil",
    b"a" * 250,
)  # no UTF-8, a terminal's colours, right to left


def test_a_name_that_nobody_can_print_ends_no_report(run, tmp_path):
    for name in map(os.fsdecode, NAMES):
        folder = make_run(tmp_path / name, dataset=name, model=name)
        (folder / "card.json").write_text(json.dumps({"class_names": [name, "b"]}))
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "train/loss": 2.0, f"{name}/top1": 0.5}))
        write_predictions(
            folder / PREDICTIONS, Predictions("test", *np.int32([[0, 1], [1, 1]]), np.float32([0.5, 0.5]))
        )
    records, _ = report.read_records([*map(tmp_path.joinpath, map(os.fsdecode, NAMES))])
    for form in ("html", "md"):
        report.write_report(records, tmp_path / f"report.{form}")
        text = (tmp_path / f"report.{form}").read_text().replace("\n", "")
        assert "aaaaaaa" in text and "\\xff\\xfe" in text.replace("\\\\", "\\") and printable(text) == text
    done = run("common.report", *map(os.fsdecode, NAMES), "nothing\r", "--output", "\x1b.png", status=2)
    assert done.stdout.startswith("Wrote \\x1b.png: ") and done.stderr.startswith("error: nothing\\r is no folder")


def test_names_are_text_and_no_markup(tmp_path):
    """In HTML and in Markdown, which lets HTML through, and pictures from anywhere."""
    name = "<img src=x onerror=alert(1)>![a](http:b)`c` *d* _e_ &lt; f_g 1 <- 2|"
    folder = make_run(tmp_path / "a", model=name, dataset=name)
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "train/loss": 2.0, f"{name}/top1": 0.5}))
    found = [record.read_record(folder)]
    text, page = report.as_markdown(found, "a.png"), report.as_html(found)
    assert "| \\<img src=x onerror=alert(1)>!\\[a\\](http:b)\\`c\\` \\*d\\* \\_e\\_ \\&lt; f_g 1 <- 2\\| |" in text
    assert not re.search(r"(?<!\\)<[a-z]", text) and "<img" not in page


FILES = ("config.json", "recipe.json", "environment.json", "card.json", "metrics.jsonl", PREDICTIONS)


@pytest.mark.parametrize("kind", ("pipe", "device", "folder"))
def test_a_file_that_is_none_is_named_and_the_others_are_reported(kind, tmp_path):
    """Nothing waits for a pipe's writer, or reads a device without end."""
    bad = [make_run(tmp_path / name) for name in FILES]
    for folder in bad:
        path = folder / folder.name
        path.unlink(missing_ok=True)
        os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero") if kind == "device" else path.mkdir()
    records, errors = report.read_records([*bad, make_run(tmp_path / "good")])
    assert records[-1].name == "good" and len(report.tables(records)[0].rows) == len(records)
    said = [*errors, *report.problems(records)]
    assert len(said) == len(FILES) and all(f"{name}/{name}" in " ".join(said) for name in FILES), said


def test_numbers_beyond_any_axis_are_left_out_and_counted(tmp_path):
    names = ("train/loss", "train/lr", "images_per_second", "test/top1", "val/loss")
    for value in (1e308, -1e308, 1e31):
        folder = make_run(tmp_path / str(value))
        steps = ((1, value), (2, -value), (3, 1.0), (2**53 - 1, 2.0))
        lines = [{"step": step} | dict.fromkeys(names, number) for step, number in steps]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
        (folder / "recipe.json").write_text(json.dumps({"lrs": [value, -value, 1.0]}))
    records, _ = report.read_records([*tmp_path.iterdir(), make_run(tmp_path / "good", "bit_jax")])
    assert [r.notes for r in records[:-1]] == [["has numbers beyond 1e+30 in 2 lines of metrics.jsonl, left out"]] * 3
    for form in ("html", "md"):
        report.write_report(records, tmp_path / f"report.{form}")
    row = (tmp_path / "report.md").read_text().split("| 1e+308 |")[1].splitlines()[0]
    assert "2.0000" in row and len(row) < 200


def test_the_learning_rate_is_drawn_as_the_recipe_states_it(tmp_path):
    """Between logged steps, too: a warm-up and each step down; as far as the run has come."""
    folder = make_run(tmp_path / "run", ended=False)
    rates = [0.1 * step for step in range(10)] + [1.0] * 10 + [0.1] * 10 + [0.01] * 10
    (folder / "recipe.json").write_text(json.dumps({"lrs": rates}))
    found = record.read_record(folder)
    assert curves.points_of(found, "train/lr") == [*enumerate(rates[:30], 1)]
    (folder / "recipe.json").write_text(json.dumps({"lrs": [0.5] * 10**6}))
    points = curves.points_of(dataclasses.replace(record.read_record(folder), lines=[{"step": 10**6}]), "train/lr")
    assert len(points) == curves.MOST_POINTS and (points[0], points[-1]) == ((1, 0.5), (10**6, 0.5))
    for other in ({}, {"lrs": "x"}, {"lrs": [0.1, None]}, {"lrs": [1e300]}, {"lrs": []}):  # of a version without them
        (folder / "recipe.json").write_text(json.dumps(other))
        assert len(curves.points_of(record.read_record(folder), "train/lr")) in (0, 3)


def test_legends_are_words(tmp_path):
    folder = make_run(tmp_path / "run")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 30, "val/top1": 0.4, "val/loss": 1.5}\n')
    drawn = curves.svgs([record.read_record(folder)])
    for words in (">training loss<", ">validation loss<", ">test loss<"):
        assert words in drawn["Loss"]
    for words in (">validation top-1<", ">test top-1<"):
        assert words in drawn["Top-1 accuracy"]
    assert drawn["Learning rate"].count(">Learning rate<") == 1 and ">learning rate<" not in drawn["Learning rate"]


def test_both_ways_of_retrieval_share_a_panel_and_zero_shot_is_among_the_accuracies(tmp_path):
    """Each engine has its colour there, as in the other panels."""
    runs = [make_run(tmp_path / engine, engine) for engine in ("bit_pytorch", "bit_jax")]
    for number, folder in enumerate(runs):
        with open(folder / "metrics.jsonl", "a") as file:
            for step in (10, 20):
                value = 0.1 * number + 0.01 * step
                line = {"val/img2txt_recall@1": value, "val/txt2img_recall@1": value / 2, "cifar10/top1": value}
                file.write(json.dumps({"step": step, "val/img2txt_recall@5": value} | line) + "\n")
    drawn = curves.svgs([*map(record.read_record, runs)])
    for words in (">validation image to text recall@1<", ">validation text to image recall@1<", ">PyTorch<", ">JAX<"):
        assert words in drawn["Recall@1"]
    assert "recall@5" not in "".join(drawn.values()) and ">cifar10 top-1<" in drawn["Top-1 accuracy"]
    assert drawn["Recall@1"].index("%") > 0 and all(colour in drawn["Recall@1"] for colour in ("#d95926", "#2a78d6"))


@pytest.mark.parametrize(
    "task", ({"name": "contrastive"}, {"name": "classification"}, None, ["contrastive"], {"name": []})
)
def test_runs_are_judged_by_the_metric_of_their_task(task, tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "recipe.json").write_text(json.dumps({"lrs": [], "task": task}))
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 30, "val/img2txt_recall@1": 0.25}\n')
    judged = record.accuracy(record.read_record(folder))
    assert judged == (("val/img2txt_recall@1", 0.25) if task == {"name": "contrastive"} else ("test/top1", 0.5))


def test_results_have_the_unit_of_their_metric(tmp_path):
    """Decibels and losses are no percentages."""
    runs = [make_run(tmp_path / f"run{seed}", seed=seed) for seed in range(2)] + [make_run(tmp_path / "jax", "bit_jax")]
    for number, folder in enumerate(runs):
        (folder / "recipe.json").write_text(
            json.dumps({"lrs": [], "task": {"name": "dense", "target": "colorization"}})
        )
        with open(folder / "metrics.jsonl", "a") as file:
            file.write(f'{{"step": 30, "test/psnr": {14 + number / 4}}}\n')
    records = [record.read_record(folder) for folder in runs]
    assert rows(report.overview(records))[0]["result"] == "14.0000 (test PSNR in dB)"
    (spread,) = rows(report.seeds(records))
    assert spread["PyTorch"] == "14.000 <- 14.125 -> 14.250 (2)" and spread["JAX"] == "14.500 (1)"
    assert rows(report.differences(records))[0]["difference of results"] == "0.5000"


def test_a_metric_of_one_point_is_explained_by_its_mark(tmp_path):
    """A dashed line that is nowhere in the picture would mislead."""
    found = record.read_record(make_run(tmp_path / "run"))
    look = curves.line_of("test/loss", ["train/loss", "test/loss"], len(found.points("test/loss")))
    assert look == {"linestyle": "none", "marker": "s"}
    assert curves.line_of("train/loss", ["train/loss", "test/loss"], 100) == {"linestyle": "-"}


def test_no_engine_covers_another(tmp_path):
    """Whatever the order of the runs: the thinner lie above."""
    from matplotlib.figure import Figure

    engines = ("bit_pytorch", "bit_tf2", "bit_pytorch", "bit_jax", "bit_tf2")
    records = [record.read_record(make_run(tmp_path / str(i), name)) for i, name in enumerate(engines)]
    axes = Figure().subplots()
    curves.draw(axes, "Learning rate", records)
    order = sorted((line.get_zorder(), -line.get_linewidth()) for line in axes.get_lines())
    assert len(axes.get_lines()) == 5 and order == sorted(order, key=lambda pair: pair[1])
    assert len({pair[0] for pair in order}) == 3


def test_ctrl_c_ends_quietly(monkeypatch):
    monkeypatch.setattr(report, "read_records", lambda _: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr("sys.argv", ["report", "run"])
    with pytest.raises(SystemExit, match="130"):
        report.main()


def test_runs_of_the_first_version_are_reported(monkeypatch):
    """With the pictures of their mistakes, called as files of their dataset."""
    monkeypatch.chdir(ROOT / "tests" / "golden" / "run_of_0.1.0")
    records, errors = report.read_records(["whole", "stopped"])
    assert not errors and report.problems(records) == ["stopped has not ended: it has come to step 4 of 6."]
    assert [row["result"] for row in rows(report.overview(records))] == [
        "50.00% (test top-1)", "25.00% (validation top-1)"
    ]  # fmt: skip
    text = report.as_markdown(records, "a.png")
    assert "- dog, taken for cat (56.9%): test/dog/250.jpg\n" in text and "## Engines" not in text
    assert len(curves.points_of(records[0], "train/lr")) == 6


def test_an_unknown_form_is_refused(run, tmp_path):
    make_run(tmp_path / "run")
    done = run("common.report", "run", "--output", "report.pdf", status=2)
    assert "report.pdf" in done.stderr and not (tmp_path / "report.pdf").exists()


def test_a_report_that_cannot_be_written_keeps_the_old_one(tmp_path):
    run = record.read_record(make_run(tmp_path / "run"))
    (tmp_path / "file").write_text("old")
    with pytest.raises(UserError, match="Cannot write"):
        report.write_report([run], tmp_path / "file" / "report.html")


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(not CHROMIUM, reason="no chromium is installed (Debian: apt-get install chromium)")
@pytest.mark.parametrize("width, dark", ((390, True), (1280, False)))
def test_a_browser_shows_the_page_without_scrolling_sideways(width, dark, tmp_path):
    """Its pictures, too, in the colours that the reader prefers."""
    runs = [make_run(tmp_path / f"run{i}", "bit_jax" if i % 2 else "bit_pytorch", seed=i // 2) for i in range(12)]
    labels, probability = open_dataset("cifar10-sample").splits["test"].labels, np.linspace(0, 1, 500, dtype=np.float32)
    told = Predictions("test", labels, (labels + np.arange(500, dtype=np.int32) % 2) % 10, probability)
    write_predictions(runs[0] / PREDICTIONS, told)
    page = tmp_path / "report.html"
    report.write_report([record.read_record(run) for run in runs], page)
    probe = """<script>document.title = [
        document.documentElement.scrollWidth <= innerWidth,
        [...document.images].filter(image => image.naturalWidth == 32 && image.getBoundingClientRect().width > 60).length,
        getComputedStyle(document.body).backgroundColor]</script>"""
    page.write_text(page.read_text() + probe)
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", scheme, f"--window-size={width},900", "--dump-dom",
         page.as_uri()],
        check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    colour = "rgb(22, 22, 24)" if dark else "rgb(255, 255, 255)"
    assert f"<title>true,12,{colour}</title>" in done.stdout and done.stdout.count("<svg") == 4
