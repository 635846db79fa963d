"""An addition is complete: what a row of a table needs beside the row. `common/README.md` lists these tests."""

import ast
import inspect
import re

import pytest
from conftest import ROOT
from engines import NAMES as ENGINES
from format_cases import CASES
from test_recipes import PUBLISHED
from tiny_models import CONFIGS

from common.config import TrainConfig
from common.data import prepare
from common.data.catalogue import NAMED, SOURCES, open_dataset
from common.models import FAMILIES
from common.models.initial import initial_parameters
from common.recipes.create import create_recipe
from common.recipes.rules import RULES
from common.recipes.task import KINDS
from common.runs.export import FORMATS
from common.system.errors import UserError
from common.weights.spellings import TABLES

BY_HAND = ("bit_finetune", "bit_pretrain", "bit_pretrain_stepwise")  # whose numbers other tests of test_recipes.py list


def rows(page: str, heading: str = "") -> list[list[str]]:
    """The cells of every row of a page's tables, from `heading` on."""
    text = (ROOT / page).read_text()
    text = text[text.index(heading) :]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def names(page: str, heading: str = "") -> set[str]:
    """What the first cells of a page's tables have in backticks."""
    return {name for cells in rows(page, heading) for name in re.findall("`([^`]+)`", cells[0])}


@pytest.mark.parametrize("name", RULES)
def test_a_recipe_is_complete(name):
    """It makes numbers, they are held to the source's, and its page and its docstring describe it."""
    assert create_recipe(TrainConfig(recipe=name, steps=20_000), 50_000, (32, 32), {}).name == name
    assert name in {*PUBLISHED, *BY_HAND}, "tests/test_recipes.py compares its numbers with those of no source"
    assert name in names("docs/recipes.md")
    docstring = RULES[name].__doc__
    assert "Source: " in docstring
    assert re.search(rf"(?m)^ +python -m bit_\w+\.train .*--recipe {name}\b", docstring) or name in BY_HAND


def test_an_export_is_complete():
    """Its page lists every format with its engine and the ending of its files."""
    found = {re.findall("`([^`]+)`", cells[0])[0]: cells[1:] for cells in rows("docs/export.md") if "`bit" in cells[1]}
    assert found == {
        to: [f"`{engine}`", f"`{suffix}`" if suffix else "a folder"] for to, (engine, suffix) in FORMATS.items()
    }


@pytest.mark.parametrize("name", NAMED)
def test_a_named_data_set_is_complete(name, tmp_path):
    """Its page lists it, and where its files are missing the error names the command or the address that gives them."""
    assert name in names("docs/datasets.md")
    assert [*inspect.signature(NAMED[name].open).parameters] == ["name", "places"]
    if name == "cifar10-sample":  # comes with the project
        assert len(open_dataset(name, tmp_path).splits["train"]) == 1000
        return
    with pytest.raises(UserError, match=rf"{name}.*`python -m common.datasets prepare {name} |https?://"):
        open_dataset(name, tmp_path)
    with pytest.raises(UserError, match="127.0.0.1:1/" if name in prepare.PREPARED else f"{name} .*https?://"):
        prepare.prepare(name, tmp_path, url_base="http://127.0.0.1:1")


@pytest.mark.parametrize("prefix", SOURCES)
def test_a_source_is_complete(prefix, tmp_path):
    """Its page lists it, and a set that it does not have is an error that names the set."""
    listed = {re.match(r"\w+:|", name)[0] for name in names("docs/datasets.md") if "/" in name or ":" in name}
    assert prefix in listed
    assert [*inspect.signature(SOURCES[prefix]).parameters][:2] == ["name", "places"]
    with pytest.raises(UserError, match="none_such"):
        open_dataset(f"{prefix}none_such", tmp_path, tmp_path)


def table(engine: str, file: str, name: str) -> dict[str, str]:
    """The table `name` of an engine's file, as source text: keys without quotes, and values."""
    for node in ast.parse((ROOT / engine / file).read_text()).body:
        target = node.target if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [None])[0]
        if isinstance(target, ast.Name) and target.id == name:
            return {
                ast.unparse(key).strip("'"): ast.unparse(value)
                for key, value in zip(node.value.keys, node.value.values, strict=True)
            }
    raise LookupError(f"{engine}/{file} has no table {name}")


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.__name__)
def test_a_family_is_complete(config):
    """Each engine has its model; every kind of file has its spellings; the tests have tiny ones, with initial values."""
    for engine in ENGINES:
        assert config.__name__ in table(engine, "api.py", "MODELS"), engine
    published = {spelling for names in FAMILIES[config].spellings.values() for spelling in names}
    assert published <= {one.spelling for one in TABLES if one.family is config}
    tiny = [one for one in CONFIGS.values() if type(one) is config]
    assert tiny and any(type(one) is config for one, _ in CASES.values())
    for one in tiny:
        assert {name: array.shape for name, array in initial_parameters(0, one).items()} == one.parameter_shapes()


@pytest.mark.parametrize("name", KINDS)
def test_a_task_is_complete(name):
    """Each engine has its loss, a function of its name with the arguments of the others."""
    for engine in ENGINES:
        assert table(engine, "losses.py", "LOSSES").get(name) == name, engine
        functions = {
            f.name: f
            for f in ast.parse((ROOT / engine / "losses.py").read_text()).body
            if isinstance(f, ast.FunctionDef)
        }
        assert [argument.arg for argument in functions[name].args.args] == ["models", "batch", "recipe"]
