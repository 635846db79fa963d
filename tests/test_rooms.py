"""The rooms of common/ stand in one order, and an import runs from a later room to an earlier one only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# One line a storey; what stands higher may import what stands lower. `common.NAME` is a room, or a module beside them.
ORDER = (
    "system", "flags", "recipes", "models", "config", "weights", "data", "evaluation", "reports", "tasks", "runs", "zoo",
)  # fmt: skip
COMMANDS = {"convert", "datasets", "download", "probe", "report", "vtab"}


def modules() -> dict[str, Path]:
    """{dotted name: file} of every module of common/."""
    files = sorted((ROOT / "common").rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imports(source: str, known: dict[str, Path]) -> set[str]:
    """The modules of common/ that a module imports, wherever in it: also within a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "common":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in known else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "common"}
    return found & known.keys()


def edges() -> list[tuple[str, str]]:
    """(importer, imported) of all modules of common/."""
    known = modules()
    return [
        (name, other) for name, path in known.items() for other in imports(path.read_text(), known) if other != name
    ]


def storey(module: str) -> int:
    """How high a module stands; the commands are on the roof."""
    room = module.split(".")[1]
    return len(ORDER) if room in COMMANDS or module.endswith("__main__") else ORDER.index(room)


def test_every_module_has_its_room():
    rooms = {name.split(".")[1] for name in modules()}
    assert rooms == {*ORDER, *COMMANDS}


def test_no_import_runs_from_a_lower_room_to_a_higher_one():
    upwards = [f"{name} imports {other}" for name, other in edges() if storey(name) < storey(other)]
    assert not upwards


def test_no_command_is_imported():
    assert not [
        f"{name} imports {other}" for name, other in edges() if other.split(".")[1] in COMMANDS and name != other
    ]


def test_no_modules_import_one_another():
    graph = {}
    for name, other in edges():
        graph.setdefault(name, set()).add(other)
    done = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize(
    "source", ("from common.runs import run", "def f():\n    from common.runs.run import Run", "import common.runs.run")
)
def test_imports_are_seen_wherever_they_stand(source):
    assert {"common.runs.run"} == imports(source, modules())


def test_no_name_means_two_things():
    """A module's own name is used once, except for the doors and where rooms hold the same thing of different families."""
    names = [name.rpartition(".")[2] for name in modules() if not name.endswith("__main__")]
    twice = {name for name in names if names.count(name) > 1}
    assert twice <= SAME, twice


# The same thing in several rooms: a family (its model, its spelling), a project (its recipes, its spelling), a benchmark
# (its command, its data), a task (its face, its evaluator, its recipes), text (its tower, its tokenizers).
SAME = {
    "resnet",
    "resnet_v1",
    "vit",
    "captioning",
    "mixer",
    "bit",
    "coyo",
    "vtab",
    "classification",
    "contrastive",
    "dense",
    "distillation",
    "distill",
    "sam",
    "text",
}


def classes() -> list[tuple[str, int]]:
    """(module and name, lines) of every class of the project."""
    found = []
    for folder in ("common", "bit_jax", "bit_pytorch", "bit_tf2"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    found.append((f"{path.relative_to(ROOT)}:{node.name}", node.end_lineno - node.lineno + 1))
    return found


def test_no_class_is_long():
    assert not {name: lines for name, lines in classes() if lines > 150}
