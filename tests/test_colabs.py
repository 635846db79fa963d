"""The notebooks of colabs/: what each of them must be, and that it runs from top to bottom."""

import ast
import re
import sys
import types

import pytest
from conftest import ROOT
from engines import INSTALLED
from engines import NAMES as ENGINES
from test_docs import PROJECT

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
sys.path.insert(0, str(ROOT / "scripts"))

from make_colabs import COLABS, NAMES, WORDS, execute, read

ADDRESS = PROJECT["urls"]["Repository"]
NAME = pytest.mark.parametrize("name", NAMES)
MODEL_CODE = r"\bnn\.|\bnnx\.|\blayers\.|\.backward\(|GradientTape|value_and_grad|optim\.(SGD|Adam)|optax|optimizers"


def stored(name: str):
    return nbformat.read(COLABS / f"{name}.ipynb", as_version=4)


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell) -> set[str]:
    """The kinds of a cell's outputs: text, pictures. Warnings, which differ from machine to machine, aside."""
    kinds = {output.get("name") or "/".join(sorted(output.data)) for output in cell.outputs}
    return kinds - {"stderr"}


def python(cell) -> str:
    """The source without IPython's own lines."""
    return re.sub(r"(?m)^(\s*)[!%].*$", r"\1pass", cell.source)


def test_no_other_notebook_lies_there():
    assert {path.stem for path in COLABS.glob("*.ipynb")} == {*NAMES}


@NAME
def test_structure(name):
    notebook = stored(name)
    nbformat.validate(notebook)
    head, setup = notebook.cells[:2]
    colab = f"https://colab.research.google.com/github/{ADDRESS.removeprefix('https://github.com/')}/blob/main/colabs/{name}.ipynb"
    assert re.match(
        r"# \w[^\n]+\n\n\[!\[Open in Colab\]\(https://[^)]+\.svg\)\]" + re.escape(f"({colab})"), head.source
    )
    assert setup.source.startswith("# In Colab:") and ADDRESS in setup.source
    for cell in code(notebook):
        lines = cell.source.splitlines()
        assert len(lines) <= 25 and max(map(len, lines)) <= 120, cell.source
    assert len(code(notebook)) / len(notebook.cells) < 0.75, "more prose"


@NAME
def test_outputs_are_those_of_one_run(name):
    notebook, path = stored(name), COLABS / f"{name}.ipynb"
    assert [cell.execution_count for cell in code(notebook)] == [*range(1, len(code(notebook)) + 1)]
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert path.stat().st_size < 400_000
    printed = "".join(output.get("text", "") for output in outputs)
    assert not re.search(r"/(work|tmp|root|home|usr)/|Traceback|Warning", printed)
    assert not re.search(r"OTHER|CHANGED", printed), "what a notebook promises does not hold"


@NAME
def test_every_plot_has_a_title(name):
    for cell in code(stored(name)):
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            assert re.search(r"title|show\(|curves\.draw", cell.source), cell.source


@NAME
def test_no_model_code(name):
    for cell in code(stored(name)):
        tree = ast.parse(python(cell))
        assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(tree)), cell.source
        assert not re.search(MODEL_CODE, cell.source), cell.source


def test_the_engines_notebooks_are_the_same_text():
    for name, words in WORDS.items():
        translated, found = read("bit_pytorch", words), read(name)
        assert [cell.source for cell in found.cells] == [cell.source for cell in translated.cells]
        source = "".join(cell.source for cell in read("bit_pytorch").cells)
        assert all(word in source for word in words), "a word that no longer occurs"
        assert "torch" not in "".join(cell.source for cell in found.cells).lower()


@NAME
def test_setup_in_colab(name, monkeypatch):
    """There it clones the project, goes there, and installs extras that exist."""
    from IPython.core.inputtransformer2 import TransformerManager

    said = []
    shell = types.SimpleNamespace(system=said.append, run_line_magic=lambda magic, line: said.append(f"{magic} {line}"))
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    source = TransformerManager().transform_cell(code(stored(name))[0].source)
    exec(compile(source, name, "exec"), {"get_ipython": lambda: shell})
    clone, cd, install = said
    folder = clone.split()[-1]
    assert clone == f"git clone --quiet --depth 1 {ADDRESS} {folder}" and cd == f"cd -q {folder}"
    extras = re.fullmatch(r"pip install --quiet '\.(?:\[([\w,]+)\])?'(?: timm)?", install)[1]
    assert extras is None or {*extras.split(",")} <= {*PROJECT["optional-dependencies"]}


CHEAP = ("analyze_metrics",)
NEEDS = {
    "compare_frameworks": ENGINES,
    "vit_and_mixer": ("bit_pytorch",),
    "image_text": ("bit_pytorch",),
    "captions_and_pictures": ("bit_pytorch",),
    "analyze_metrics": (),
}  # the others: their own


@pytest.mark.parametrize(
    "name", [name if name in CHEAP else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_runs_from_top_to_bottom(name, monkeypatch):
    """Without a network, and showing the kinds of things that are stored."""
    if not {*NEEDS.get(name, (name,))} <= {*INSTALLED}:
        pytest.skip("an engine that it shows is not installed")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # tests run side by side: threads of PyTorch would wait for one another
    run = execute(read(name))
    for cell, before in zip(code(run), code(stored(name)), strict=True):
        assert shown(cell) == shown(before), cell.source
    printed = "".join(output.get("text", "") for cell in code(run) for output in cell.outputs)
    assert not re.search(r"OTHER|CHANGED", printed), printed
