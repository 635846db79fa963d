"""An addition is complete: what a row of a table needs beside the row. `common/README.md` lists these tests."""

import re

import pytest
from conftest import ROOT
from test_recipes import PUBLISHED

from common.config import TrainConfig
from common.recipes.recipe import create_recipe
from common.recipes.rules import RULES
from common.runs.export import FORMATS

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
    assert re.search("Source: |google-research|`bit_pretrain`", docstring), "the docstring states no source"
    assert re.search(rf"(?m)^ +python -m bit_\w+\.train .*--recipe {name}\b", docstring) or name in BY_HAND


def test_an_export_is_complete():
    """Its page lists every format with its engine and the ending of its files."""
    found = {re.findall("`([^`]+)`", cells[0])[0]: cells[1:] for cells in rows("docs/export.md") if "`bit" in cells[1]}
    assert found == {
        to: [f"`{engine}`", f"`{suffix}`" if suffix else "a folder"] for to, (engine, suffix) in FORMATS.items()
    }
