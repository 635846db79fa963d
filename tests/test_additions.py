"""An addition is complete: what a row of a table needs beside the row. `common/README.md` lists these tests."""

import ast
import importlib
import inspect
import pkgutil
import re
from typing import get_args

import numpy as np
import pytest
from conftest import ROOT
from engines import NAMES as ENGINES
from format_cases import CASES
from test_recipes import PUBLISHED
from tiny_models import CONFIGS, MAP_MODELS, TEXTS, WRITERS

from common import evaluation, tasks
from common.config import TrainConfig
from common.data import prepare
from common.data.captions import Captions
from common.data.catalogue import NAMED, SOURCES, open_dataset
from common.data.targets import TARGETS
from common.evaluation.dense import JUDGES
from common.evaluation.metrics import METRICS
from common.evaluation.shown import PICTURES
from common.models import FAMILIES
from common.models.initial import initial_parameters
from common.models.vqvae import MAPS
from common.recipes.choices import RewardName, Target
from common.recipes.create import create_recipe
from common.recipes.rules import RULES
from common.recipes.task import BEST, KINDS
from common.runs.export import FORMATS
from common.system.errors import UserError
from common.tasks import TASKS
from common.tasks.rewarded import REWARDS
from common.weights.spellings import TABLES

BY_HAND = ("bit_finetune", "bit_pretrain", "bit_pretrain_stepwise")  # whose numbers other tests of test_recipes.py list


def rows(page: str) -> list[list[str]]:
    """The cells of every row of a page's tables."""
    text = (ROOT / page).read_text() if (ROOT / page).exists() else ""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def names(page: str) -> set[str]:
    """What the first cells of a page's tables have in backticks."""
    return {name for cells in rows(page) for name in re.findall("`([^`]+)`", cells[0])}


def quoted(test: str) -> set[str]:
    """The words that a test's file has in quotes."""
    return set(re.findall(r'"(\w+)"', (ROOT / test).read_text())) if (ROOT / test).exists() else set()


@pytest.mark.parametrize("name", RULES)
def test_a_recipe_is_complete(name):
    """It makes numbers, they are held to the source's, and its page and its docstring describe it."""
    needed = {
        "distill": {"teacher": "runs/teacher"},
        "three_towers": {"third_tower": "runs/third"},
        "uvim_codes": {"oracle": "runs/oracle"},
    }  # others name their own
    pages = ("test_distill_recipes", "test_flexi_recipes", "test_image_text_recipes", "test_uvim_recipes")
    elsewhere = set().union(*(quoted(f"tests/{page}.py") for page in pages))
    assert (
        create_recipe(TrainConfig(recipe=name, steps=30_000, **needed.get(name, {})), 50_000, (32, 32), {}).name == name
    )
    assert name in {*PUBLISHED, *BY_HAND} | elsewhere, "no test holds its numbers to a source"
    assert name in names("docs/recipes.md") | names("docs/distillation.md")
    docstring = RULES[name].__doc__
    assert "Source: " in docstring
    assert re.search(rf"(?m)^ +python -m bit_\w+\.train .*--recipe {name}\b", docstring) or name in BY_HAND


def test_an_export_is_complete():
    """Its page lists every format with its engine and the ending of its files."""
    found = {re.findall("`([^`]+)`", cells[0])[0]: cells[1:] for cells in rows("docs/export.md") if "`bit" in cells[1]}
    assert found == {
        to: [f"`{engine}`", f"`{suffix}`" if suffix else "a folder"] for to, (engine, suffix) in FORMATS.items()
    }


def test_a_reward_is_complete():
    """A flag names it, a page tells of it, and its task is one of TASKS."""
    assert {*REWARDS} == {*get_args(RewardName)} == names("docs/captions.md") & {*REWARDS}
    assert all(row.task in TASKS.values() for row in REWARDS.values())


EMBEDDED = {"cifar10-sample": {"train": 1000, "test": 500}, "captions-sample": {"train": 1944, "test": 190}}


@pytest.mark.parametrize("name", NAMED)
def test_a_named_data_set_is_complete(name, tmp_path):
    """Its page lists it, and where its files are missing the error names the command or the address that gives them."""
    assert name in names("docs/datasets.md")
    assert [*inspect.signature(NAMED[name].open).parameters] == ["name", "places"]
    if name in EMBEDDED:
        assert {split: len(own) for split, own in open_dataset(name, tmp_path).splits.items()} == EMBEDDED[name]
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
                if key is not None
            }
    raise LookupError(f"{engine}/{file} has no table {name}")


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.__name__)
def test_a_family_is_complete(config):
    """Each engine has its model; every kind of file has its spellings; the tests have tiny ones, with initial values."""
    for engine in ENGINES:
        listed = table(engine, "api.py", "MODELS") | table(engine, "two_towers.py", "TOWERS")
        assert config.__name__ in listed, engine
    published = {spelling for names in FAMILIES[config].spellings.values() for spelling in names}
    assert published <= {one.spelling for one in TABLES if one.family is config}
    tiny = [one for one in (CONFIGS | TEXTS | WRITERS | MAP_MODELS).values() if type(one) is config]
    assert tiny and any(type(one) is config for one, _ in CASES.values())
    for one in tiny:
        assert {name: array.shape for name, array in initial_parameters(0, one).items()} == one.parameter_shapes()


TASK_FUNCTIONS = {  # of a module in common/tasks/ -> their arguments
    "models": ["plan"], "columns": ["plan", "split", "train"], "evaluators": ["plan"], "card": ["plan"]
}  # fmt: skip


@pytest.mark.parametrize("name", {**KINDS, **TASKS})
def test_a_task_is_complete(name):
    """Its numbers and facts, its module with the functions of the others, its loss in each engine; it is judged by a known metric."""
    assert KINDS[name].name == name and KINDS[name].best.partition("/")[2] in METRICS
    of_kind = {
        fact for fact, kind in inspect.get_annotations(KINDS["classification"]).items() if "ClassVar" in str(kind)
    }
    assert len(of_kind) > 4 and all(hasattr(KINDS[name], fact) for fact in of_kind)
    for function, arguments in TASK_FUNCTIONS.items():
        found = inspect.signature(getattr(TASKS[name], function)).parameters.values()
        assert [one.name for one in found if one.default is one.empty] == arguments, function
    for engine in ENGINES:
        assert table(engine, "losses.py", "LOSSES").get(name) == name, engine
        body = ast.parse((ROOT / engine / "losses.py").read_text()).body
        (loss,) = (node for node in body if isinstance(node, ast.FunctionDef) and node.name == name)
        assert [argument.arg for argument in loss.args.args] == ["models", "batch", "recipe"]


ONES = np.ones(3, np.float32)
SCORES = dict.fromkeys(("top1", "top5", "loss", "predicted", "probability"), ONES) | {"mask": ONES > 0}
TOWERS = {
    output: {"embedding": np.eye(3, dtype=np.float32), "scale": ONES, "bias": ONES, "mask": ONES > 0}
    for output in ("text_embeddings", "image_embeddings")
}
TOKENS = np.array([[3, 1], [4, 1], [1, 0]], np.int32)
EXAMPLES = {  # evaluator -> the rows of each of its outputs
    "ClassificationEvaluator": {"scores": SCORES},
    "DistillationEvaluator": {"matches": SCORES | dict.fromkeys(("agreement", "kl", "teacher_top1"), ONES)},
    "ZeroShotEvaluator": TOWERS,
    "RetrievalEvaluator": TOWERS,
    "LikelihoodEvaluator": {"likelihoods": dict.fromkeys(("loss", "nll", "num_tokens"), ONES) | {"mask": ONES > 0}},
    "ScoringEvaluator": {"text_scores": {"scores": np.eye(3, dtype=np.float32), "mask": ONES > 0}},
    "CaptionEvaluator": {"captions": {"tokens": TOKENS, "score": ONES, "mask": ONES > 0}},
    "RewardEvaluator": {"captions": {"tokens": TOKENS, "score": ONES, "mask": ONES > 0}},
    "MapEvaluator": {"maps": {"map": np.ones((3, 4, 4, 1), np.float32), "mask": ONES > 0}},
}


class Truths(list):
    """Depths."""

    target = "depth"


WRITTEN = lambda tokens: ["a dog"] * len(tokens), Captions.pack([["a dog"], ["a cat"], ["two birds"]])
OTHERS = {  # evaluator -> all of its arguments after name and batches, where the third is nothing that belongs to rows
    "LikelihoodEvaluator": (),
    "CaptionEvaluator": WRITTEN,
    "RewardEvaluator": (*WRITTEN, lambda rows: np.ones(rows["samples"].shape[:2])),
    "MapEvaluator": (Truths(np.full((3, 4, 4, 1), 2, np.float32)),),
}
FURTHER = {  # evaluator -> its arguments after name, batches, and labels or whatever belongs to the rows
    "ZeroShotEvaluator": ((), np.arange(3, dtype=np.int32)),
    "RetrievalEvaluator": ((),),
}


def evaluators() -> dict[str, type]:
    """The classes of `common/evaluation/` and `common/tasks/` that have all of an evaluator's methods, but the base classes."""
    found, bases = {}, ("common.evaluation.evaluator", "common.evaluation.embeddings")
    for room in (evaluation, tasks):
        for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
            for name, one in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
                own = one.__module__ == module.name and module.name not in bases
                if own and all(hasattr(one, method) for method in ("passes", "add", "result", "write")):
                    found[name] = one
    return found


@pytest.mark.parametrize("name", evaluators())
def test_an_evaluator_is_complete(name, tmp_path):
    """It has an example here; each engine computes its outputs; its results are rows of METRICS."""
    arguments = OTHERS.get(name, (np.ones(3, np.int32), *FURTHER.get(name, ())))
    evaluator = evaluators()[name]("val", (), *arguments)
    assert [output for output, _ in evaluator.passes()] == [*EXAMPLES[name]]
    for output, columns in EXAMPLES[name].items():
        for engine in ENGINES:
            assert output in table(engine, "outputs.py", "OUTPUTS"), engine
        evaluator.add(output, columns)
    assert evaluator.result() and evaluator.result().keys() <= METRICS.keys()
    evaluator.write(tmp_path)


@pytest.mark.parametrize("name", get_args(Target))
def test_a_target_is_complete(name):
    """What its maps are, how a model reads and predicts them, how they are judged, by which metric, and drawn; its page."""
    tables = (TARGETS, MAPS, JUDGES, PICTURES, BEST)
    assert all(one.keys() == {*get_args(Target)} for one in tables)
    assert BEST[name].partition("/")[2] in METRICS and name in names("docs/dense.md")
    for engine in ENGINES:
        for listed in ("READ", "PREDICTED"):
            assert name in table(engine, "dense.py", listed), engine
