"""README, CONTRIBUTING and docs/: every command, every piece of Python, every flag and every link in them.

The rule for commands: each line of an `sh` block goes to the program that it names, which runs up to the end of its own
parsing of the words and no further, for what follows needs a network, GPUs or hours. Names of models and datasets must be
ones that we have. Python runs as it stands, but with the embedded model in the place of those that must be downloaded.
"""

import argparse
import ast
import concurrent.futures
import contextlib
import dataclasses
import importlib
import io
import multiprocessing
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from unittest import mock

import pytest
from conftest import ROOT
from engines import NAMES as ENGINES
from PIL import Image
from test_launch import SLURM, dry_run
from test_rooms import COMMANDS, ORDER

import common.runs.command
from common.config import EvaluateConfig, ExportConfig, ModelConfig, PredictConfig, TrainConfig
from common.data.catalogue import NAMED, listed
from common.models import DEFAULT_MODEL, find_model, published_models
from common.models.published import read_manifest

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "common/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOLDERS = ("bit_pytorch", "bit_jax", "bit_tf2", "common", "scripts", "tests", "weights")
PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", page.read_text())


def commands() -> list:
    """One parameter for each command, without its comment."""
    lines = [(page, line) for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    words = [(page, shlex.split(line, comments=True)) for page, line in lines]
    return [pytest.param(found, id=f"{page.name}: {shlex.join(found)}") for page, found in words if found]


class Parsed(Exception):
    """The end of parsing, with what it has found."""


def parse(program: str, words: list[str]) -> object:
    """What `python -m MODULE WORDS` or `python FILE.py WORDS` makes of the words. RuntimeError with what it says of wrong ones."""

    def ending(parser):
        def parse_and_end(*arguments, **options):
            raise Parsed(parser(*arguments, **options))

        return parse_and_end

    said = io.StringIO()
    run = runpy.run_path if program.endswith(".py") else runpy.run_module
    with (
        mock.patch.object(common.runs.command, "parse", ending(common.runs.command.parse)),
        mock.patch.object(argparse.ArgumentParser, "parse_args", ending(argparse.ArgumentParser.parse_args)),
        mock.patch.object(sys, "argv", [program, *words]),
        contextlib.redirect_stderr(said),
    ):
        try:
            run(program, run_name="__main__")
        except Parsed as end:
            return end.args[0]
        except SystemExit:
            raise RuntimeError(said.getvalue()) from None
    raise RuntimeError(f"{program} parses nothing")


@pytest.fixture(scope="module")
def parsed():
    """`parse` in a process of its own: a command may import its framework, and no two of them should meet here."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield lambda program, words: pool.submit(parse, program, words).result()


def check_python(words: list[str], parsed) -> None:
    """`-m MODULE ...` or `FILE.py ...`."""
    program, words = (words[1], words[2:]) if words[0] == "-m" else (words[0], words[1:])
    config = parsed(program, words)
    if isinstance(config, ModelConfig):
        assert find_model(config.model)
        known = (".npz", ".h5", ".safetensors")
        assert config.weights in ("pretrained", "none") or re.match(r"runs/\w+$", config.weights) or (
            Path(config.weights).suffix in known
        )  # fmt: skip
    if isinstance(config, TrainConfig | EvaluateConfig):
        for name in listed(config.dataset):
            assert name in NAMED or re.match(r"(tfds|torchvision|vtab|wds|parquet|coco):\w|path/to/", name), name


def check_download(words: list[str]) -> None:
    """The command ends where it asks a server, by a proxy that is not there, for names that the manifest has."""
    environment = {name: text for name, text in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"https_proxy": "http://127.0.0.1:1", "PYTHON": sys.executable}
    words = [sys.executable if word == "python" else word for word in words]
    done = subprocess.run(words, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)
    known = {*published_models(), *(row["name"] for row in read_manifest()["vocabularies"])}
    names = [word for word in words[1:] if word in known]
    assert done.stderr.count("could not be reached") == len(names) == done.stderr.count("\n"), done.stderr
    assert names or (done.returncode == 0 and "--list" in words), done.stderr


def check_launch(words: list[str], folder: Path, parsed) -> None:
    """The launcher's own dry run, and the flags of what it would run."""
    found = dry_run(folder, Path(words[0]).name, *(word for word in words[1:] if word != "--dry_run"), **SLURM)
    words = shlex.split(found)
    words = shlex.split(words[-1]) if words[0] == "gcloud" else words
    module = next(i for i, word in enumerate(words) if re.fullmatch(r"bit_\w+\.train", word))
    check_python(["-m", *words[module:]], parsed)


def check_pip(words: list[str]) -> None:
    """Nothing is installed: the extra, the file and the address are ours."""
    assert words[0] == "install"
    for word in words[1:]:
        extras = re.fullmatch(r"\.\[(.+)\]", word)
        assert word in ("-c", "-e") or (extras and {*extras[1].split(",")} <= {*PROJECT["optional-dependencies"]}) or (
            (ROOT / word).is_file()
        ), word  # fmt: skip


@pytest.mark.parametrize("words", commands())
def test_command(words, parsed, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    while words[0] == "sbatch" and not words[1].startswith("scripts/"):
        words = [words[0], *words[3:]]  # its own flags take a value each
    words = words[1:] if words[0] == "sbatch" else words
    program = words[0].removeprefix("./")
    if "common.download" in words or program == "scripts/download_weights.sh":
        check_download(words)
    elif program in ("python", ".venv/bin/python"):
        check_python(words[1:], parsed)
    elif program.startswith("scripts/launch/"):
        check_launch(words, tmp_path, parsed)
    elif program == "scripts/test":
        assert all(word in ("--slow", "--seconds") or (ROOT / word).is_file() for word in words[1:])
    elif program.startswith("scripts/"):  # a wrapper around Python
        subprocess.run(["bash", "-n", program], check=True)
        if program != "scripts/demo":  # which parses nothing: its words go on to the engines
            check_python([f"{program}.py", *words[1:]], parsed)
    elif program == "pip":
        check_pip(words[1:])
    elif program == ".venv/bin/ruff":
        subprocess.run([sys.executable, "-m", "ruff", *words[1:], "--help"], check=True, capture_output=True)
    else:
        pytest.fail(f"No rule says how to try {program}: add one")


def test_the_rule_would_notice(parsed, tmp_path):
    """Each kind of mistake fails; what these lines have in common with the documents does not."""
    for words in ("-m bit_jax.train --modle x", "-m common.convert --to tim a b", "-m common.report --ouput x y"):
        with pytest.raises(RuntimeError, match="error: "):
            check_python(shlex.split(words), parsed)
    for words in ("-m bit_jax.train --model BiT-M-R51x1", "-m bit_tf2.evaluate --dataset cifar11"):
        with pytest.raises(Exception, match="cifar11|BiT-M-R51x1"):
            check_python(shlex.split(words), parsed)
    with pytest.raises(AssertionError):
        check_download(shlex.split("python -m common.download BiT-M-R51x1"))
    with pytest.raises(RuntimeError, match="--nmae"):
        check_launch(["scripts/launch/local.sh", "bit_jax", "--nmae", "x"], tmp_path, parsed)
    with pytest.raises(AssertionError):
        check_pip(["install", ".[torch]"])


def slow_if_it_fits(code: str) -> tuple:
    """Its quick sibling: tests/test_keras_models.py::test_a_model_is_fitted_with_keras."""
    return (pytest.mark.slow,) if "model.fit(" in code else ()


PYTHON = [
    pytest.param(code, id=f"{page.name}-{n}", marks=slow_if_it_fits(code))
    for page in PAGES
    for n, code in enumerate(blocks(page, "python"))
]


@pytest.mark.parametrize("code", PYTHON)
def test_python(code, tmp_path):
    pytest.importorskip("torch")
    for name in (row.name for row in published_models().values() if row.url):
        code = code.replace(f'"{name}"', f'"{DEFAULT_MODEL}"')
    Image.new("RGB", (80, 60)).save(tmp_path / "photo.jpg")
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@PAGE
def test_code_blocks_are_fenced_and_of_a_known_kind(page):
    text = page.read_text()
    assert {*re.findall(r"(?m)^```(.+)$", text)} <= {"sh", "python", "text"}
    assert not re.search(r"(?m)^ {4}(python|scripts/|\./scripts/|pip) ?", text), "an indented block escapes the tests"


def known_flags() -> set[str]:
    """Every flag of ours, and those of other programs that the documents speak of."""
    fields = {
        item.name
        for kind in (TrainConfig, EvaluateConfig, ExportConfig, PredictConfig)
        for item in dataclasses.fields(kind)
    }
    sources = [path for folder in ("common", "scripts", "bit_pytorch") for path in (ROOT / folder).rglob("*")]
    text = "\n".join(path.read_text() for path in sources if path.suffix in (".py", ".sh"))
    return fields | {*re.findall(r'"--(\w+)"', text)} | {*re.findall(r"(?m)^#.*--(\w+)", text)} | {"slow", "help"}


@PAGE
def test_flags_in_the_prose_exist(page):
    prose = re.sub(r"(?ms)^```.*?^```$", "", page.read_text())
    found = {flag for span in re.findall(r"`([^`]+)`", prose) for flag in re.findall(r"(?<!\S)--(\w+)", span)}
    assert found <= known_flags(), found - known_flags()


def described(path: Path) -> dict[str, str | None]:
    """{public function or class, in common/ its methods, too: its docstring}; what raises UserError has to say so."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        docstring, name = ast.get_docstring(node), f"{path.relative_to(ROOT)}: {node.name}"
        found[name] = docstring
        if isinstance(node, ast.ClassDef):
            methods = [
                each for each in node.body if isinstance(each, ast.FunctionDef) and path.is_relative_to(ROOT / "common")
            ]
            found |= {f"{name}.{each.name}": ast.get_docstring(each) for each in methods if each.name[0] != "_"}
        elif any("UserError" in ast.unparse(each) for each in ast.walk(node) if isinstance(each, ast.Raise)):
            found[f"{name} raises UserError"] = re.search("UserError|raises", docstring or "")
    return found


def test_public_things_are_described():
    """What an API page would show."""
    paths = [path for folder in (*ENGINES, "common") for path in sorted((ROOT / folder).rglob("*.py"))]
    found = {name: told for path in paths for name, told in described(path).items()}
    assert len(found) > 600 and not [name for name, told in found.items() if not told]


@pytest.mark.parametrize("engine", ENGINES)
def test_help_would_show_the_public_functions(engine):
    """They are there for `dir`, and so for `help` and completion, before the framework is imported."""
    module = importlib.import_module(engine)
    assert {*module.__all__} <= {*dir(module)}


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links, by GitHub's rule."""
    titles = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?ms)^```.*?^```$", "", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@PAGE
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if re.match(r"https?:", path):
            continue
        file = (page.parent / path) if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@PAGE
def test_tables_and_headings_are_whole(page):
    """One title, no heading whose level skips one, and in each table as many cells in every row."""
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text())
    levels = [len(marks) for marks in re.findall(r"(?m)^(#+) ", text)]
    assert levels[0] == 1 == levels.count(1)
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    for table in re.findall(r"(?m)(?:^\|.*\n)+", text):
        rows = [re.sub(r"`[^`]*`|\\\|", "", row).count("|") for row in table.splitlines()]
        assert len(set(rows)) == 1, table


@PAGE
def test_files_and_tests_named_in_the_prose_exist(page):
    """`FOLDER/FILE.py`: below the repository or the page's folder. `FILE.py` alone: anywhere. `FILE.py::TEST`, `TEST`: a test."""
    prose = re.sub(r"(?ms)^```.*?^```$", "", page.read_text())
    for path in re.findall(r"`([\w/]+\.(?:py|sh|json))`", prose):
        if path.split("/")[0] in FOLDERS or page.parent == ROOT / "common" and "/" in path:
            assert (ROOT / path).exists() or (page.parent / path).exists(), path
        elif "/" not in path and path.endswith(".py") and path not in ("utils.py", "common.py"):
            assert any(next((ROOT / name).rglob(path), None) for name in FOLDERS), path
    for path, test in re.findall(r"`(?:(test_\w+\.py)::)?(test_\w+)`", prose):
        text = (ROOT / "tests" / (path or "test_additions.py")).read_text()
        assert re.search(rf"(?m)^def {test}\(", text), f"{path}::{test}"


def test_the_map_shows_the_rooms_in_their_order():
    """`common/README.md`: the rooms and modules of test_rooms.py, and the commands."""
    table = (ROOT / "common" / "README.md").read_text().partition("## The way of a run")[0]
    first = [cells.split(" | ") for cells in re.findall(r"(?m)^\| (.+) \|$", table)]
    assert tuple(name for cells in first for name in re.findall(r"^`(\w+)(?:/|\.py)`", cells[0])) == ORDER
    (commands,) = (cells[1] for cells in first if cells[0] == "commands")
    assert {*re.findall(r"`(\w+)`", commands)} == COMMANDS
