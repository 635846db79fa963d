"""Read the folder of a run, or a log of big_vision, for a report."""

import collections
import dataclasses
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.config import TrainConfig
from common.evaluation.captioning import FILE as CAPTIONS
from common.evaluation.captioning import Written, read_written
from common.evaluation.metrics import row
from common.evaluation.pairs import PAIRS, Pairs, read_pairs
from common.evaluation.predictions import MOST_CLASSES, PREDICTIONS, Predictions, read_predictions
from common.evaluation.shown import FILE as MAPS
from common.evaluation.shown import read_shown
from common.flags import scoped
from common.recipes.task import KINDS, TARGET_OF, Classification, Dense, Rewarded
from common.system.errors import UserError
from common.system.files import read_regular
from common.weights.containers import read_json

ENGINES = {"bit_pytorch": "PyTorch", "bit_jax": "JAX", "bit_tf2": "TensorFlow", "big_vision": "big_vision"}
BIG_VISION_LOG = "big_vision_metrics.txt"
BIG_VISION_NAMES = {  # of `utils.py` and `evaluators/classification.py` of google-research/big_vision
    "training_loss": "train/loss",
    "global_schedule": "train/lr",
    "img/sec": "images_per_second",
    "img/sec/core": "images_per_second_per_core",
    "prec@1": "top1",
}


JUDGES = {  # task, or with what sets its metric -> the metric that runs are compared by
    **{name: kind.best.rpartition("/")[2] for name, kind in KINDS.items()},
    **{f"{Dense.name}/{target}": metric for metric, target in TARGET_OF.items()},
    **{f"{Rewarded.name}/{metric}": metric for metric in TARGET_OF},
}
LARGEST = 1e30  # a metric beyond it means that the run went astray, and no axis can be drawn to it


@dataclasses.dataclass(frozen=True)
class Record:
    """One run: what it was asked to do, where it ran, and its metrics."""

    folder: Path
    engine: str  # the package, or `big_vision`
    config: dict[str, Any]
    recipe: dict[str, Any]
    card: dict[str, Any]
    environment: dict[str, Any]
    lines: list[dict[str, float]]
    notes: list[str]  # what is wrong with the folder, or not there yet
    predictions: Predictions | None = None  # on its held-out images
    pairs: Pairs | None = None  # that it took for right, of its held-out texts
    written: Written | None = None  # of its held-out images
    maps: np.ndarray | None = None  # pictures of some of them, uint8 [H, W, 3]
    name_parts: int = 1  # of the folder's path, which distinguish the run from others

    @property
    def name(self) -> str:
        """The name of the run: its folder."""
        return "/".join(Path(os.path.abspath(self.folder)).parts[-self.name_parts :])

    @property
    def framework(self) -> str:
        """The engine's name for a person."""
        return ENGINES.get(self.engine, self.engine)

    @property
    def has_ended(self) -> bool:
        """Whether the run has left its weights, the last of its files; unknown for logs of big_vision."""
        return self.engine == "big_vision" or (self.folder / "weights.npz").exists()

    @property
    def step(self) -> int:
        """The last step of which there is a metric."""
        return max((line["step"] for line in self.lines), default=0)

    def points(self, metric: str) -> list[tuple[int, float]]:
        """(step, value) of one metric, where it is finite and not beyond LARGEST."""
        points = [(line["step"], line[metric]) for line in self.lines if metric in line]
        return [point for point in points if abs(point[1]) <= LARGEST]

    @property
    def rates(self) -> list[tuple[int, float]]:
        """(step, learning rate) of every step so far, as the recipe states them; else of the logged ones."""
        rates = self.recipe.get("lrs")
        if isinstance(rates, list) and all(is_number(rate) and abs(rate) <= LARGEST for rate in rates):
            return [*enumerate(rates[: self.step], 1)]
        return self.points("train/lr")

    def last(self, metric: str) -> float | None:
        """The last value of one metric."""
        points = self.points(metric)
        return points[-1][1] if points else None

    def metrics(self, ending: str) -> list[str]:
        """The metrics whose name ends so and that have points, in the order of their first appearance."""
        names = dict.fromkeys(name for line in self.lines for name in line if name.endswith(ending))
        return [name for name in names if self.points(name)]


def read_record(folder: str | Path) -> Record:
    """The run in `folder`, finished or not; flags that its version did not know have their defaults.

    UserError where it holds none, or one of another version that did not say enough.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; name the folder of a run, such as runs/NAME.")
    if (folder / BIG_VISION_LOG).is_file():
        lines, notes = read_lines(folder / BIG_VISION_LOG)
        lines = [{big_vision_name(name): value for name, value in line.items()} for line in lines]
        return Record(folder, "big_vision", {}, {}, {}, {}, lines, notes)
    if not (folder / "config.json").exists():
        other = f"the runs in it, {folder}/*" if any(folder.glob("*/config.json")) else "another folder"
        raise UserError(f"{folder} holds no config.json, so it is no run that has begun; name {other}.")
    if not (folder / "metrics.jsonl").exists():
        raise UserError(f"{folder} holds no metrics.jsonl yet; wait for its first line, or name another folder.")
    config, recipe = plain(read_json(folder / "config.json")), optional(folder / "recipe.json")
    card, environment = optional(folder / "card.json"), plain(optional(folder / "environment.json"))
    engine = str(environment.get("engine") or str(card.get("source", "")).partition(",")[0])
    if not engine or not isinstance(config.get("model"), str):
        raise UserError(f"{folder} was written by another version, which did not say its engine; report it with that.")
    lines, notes = read_lines(folder / "metrics.jsonl")
    config = {field.name: field.default for field in dataclasses.fields(TrainConfig)} | config
    record = Record(folder, engine, config, recipe, card, environment, lines, notes)
    if not record.has_ended:
        lrs = recipe.get("lrs")
        of = f" of {len(lrs):,}" if isinstance(lrs, list) else ""
        notes.append(f"has not ended: it has come to step {record.step:,}{of}")
        return record
    kept = {
        "predictions": (PREDICTIONS, lambda path: read_predictions(path, num_classes(card))),
        "pairs": (PAIRS, read_pairs),
        "written": (CAPTIONS, read_written),
        "maps": (MAPS, read_shown),
    }
    found = {}
    for name, (file, read) in kept.items():
        if (folder / file).exists():
            try:
                found[name] = read(folder / file)
            except UserError as error:
                notes.append(f"has unreadable {name}: {error}".removesuffix("."))
    return dataclasses.replace(record, **found)


def told_apart(records: Sequence[Record]) -> list[Record]:
    """The same runs, each of them once; those of the same name are called by more of their folders' paths."""
    records = list({record.folder.resolve(): record for record in records}.values())
    while True:
        counts = collections.Counter(record.name for record in records)
        if len(counts) == len(records):
            return records
        more = {name: int(count > 1) for name, count in counts.items()}
        records = [dataclasses.replace(r, name_parts=r.name_parts + more[r.name]) for r in records]


def plain(facts: dict[str, Any]) -> dict[str, Any]:
    """Those that are text, a number, true, false or null, as all flags and facts of a machine are."""
    return {name: value for name, value in facts.items() if isinstance(value, str | int | float | None)}


def num_classes(card: dict[str, Any]) -> int:
    """The number of classes on a run's card, or the largest number that a report counts to where it is unknown."""
    names, config = card.get("class_names"), card.get("config")
    told = config.get("num_classes") if isinstance(config, dict) else None
    if not isinstance(told, int) or told < 1:
        told = len(names) if isinstance(names, list) and names else MOST_CLASSES
    return min(told, MOST_CLASSES)


def optional(path: Path) -> dict[str, Any]:
    """The object in a JSON file that a run writes late."""
    return read_json(path) if path.exists() else {}


def read_lines(path: Path) -> tuple[list[dict[str, float]], list[str]]:
    """(a log's numbers, one line for every step in order, notes on what is wrong with it).

    Where a step comes again, as after a restart, the later numbers count. Half a line at the end is being written.
    UserError where the log cannot be read, or holds no line with a step.
    """
    try:
        *whole, last = read_regular(path).decode(errors="replace").split("\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); name another run.") from error
    found = [read_line(text) for text in whole if text.strip()]
    good = [line for line in (*found, read_line(last)) if line]
    if not good:
        raise UserError(f"{path} holds no line with a step and numbers; name another run.")
    steps: dict[int, dict[str, float]] = {}
    for line in good:
        steps[line["step"]] = steps.get(line["step"], {}) | line
    broken, infinite = found.count(None), sum(not all(map(math.isfinite, line.values())) for line in good)
    huge = sum(any(LARGEST < abs(value) < math.inf for value in line.values()) for line in good)
    notes = [f"has {counted(broken, 'broken line')} in {path.name}, passed over"] if broken else []
    notes += [f"has numbers that are not finite in {counted(infinite, 'line')} of {path.name}"] if infinite else []
    notes += [f"has numbers beyond {LARGEST:g} in {counted(huge, 'line')} of {path.name}, left out"] if huge else []
    return [steps[step] for step in sorted(steps)], notes


def counted(number: int, noun: str) -> str:
    """`1 line`, `2 lines`."""
    return f"{number} {noun}{'s' * (number != 1)}"


def read_line(text: str) -> dict[str, float] | None:
    """The step and the numbers of one line, or None where it holds no step."""
    try:
        line = json.loads(text)
        step = int(line["step"])
        numbers = {name: float(value) for name, value in line.items() if is_number(value)}
        return numbers | {"step": step} if 0 <= step < 2**53 else None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def big_vision_name(name: str) -> str:
    """The name here of one of big_vision's metrics: `v2/prec@1` is `v2/top1`."""
    split, _, metric = name.rpartition("/")
    if name in BIG_VISION_NAMES:
        return BIG_VISION_NAMES[name]
    return f"{split}/{BIG_VISION_NAMES[metric]}" if metric in BIG_VISION_NAMES else name


SPLITS = {"train": "training", "val": "validation"}


def in_words(metric: str) -> str:
    """The name of a metric in words: `validation top-1` of `val/top1`, `learning rate` of `train/lr`."""
    split, _, name = metric.rpartition("/")
    words = row(name).title
    return words if name == "lr" else f"{SPLITS.get(split, split)} {words}".strip()


def accuracy(record: Record) -> tuple[str, float] | None:
    """(name, value) of the metric that a run is judged by: of `test`, else `val`, else any."""
    task = record.recipe.get("task")
    named = task if isinstance(task, dict) else {}
    names = (
        f"{named.get('name')}/{named.get('target') or named.get('reward')}",
        str(named.get("name")),
        Classification.name,
    )
    own = next(JUDGES[name] for name in names if name in JUDGES)
    for judge in dict.fromkeys((own, *JUDGES.values())):
        names = record.metrics(f"/{judge}")
        names = [name for name in (f"test/{judge}", f"val/{judge}") if name in names] or names
        if names:
            return names[0], record.last(names[0])
    return None


# --- several runs

SEEDS = ("seed", "examples_per_class_seed")


def settings(record: Record, *, seeds: bool) -> tuple:
    """The settings that two compared runs must share, with or without their seeds."""
    left_out = scoped(TrainConfig, "run", "machine").union(() if seeds else SEEDS)
    return tuple(sorted((name, repr(value)) for name, value in record.config.items() if name not in left_out))


def groups(records: Sequence[Record]) -> list[list[Record]]:
    """Runs of one engine that differ in their seeds alone, together."""
    found: dict[tuple, list[Record]] = {}
    for record in records:
        key = (settings(record, seeds=False), record.engine) if record.config else (record.folder,)
        found.setdefault(key, []).append(record)
    return list(found.values())


def differing_settings(records: Sequence[Record]) -> dict[str, list[Any]]:
    """{flag: its value in every run} of the flags in which runs differ."""
    names = dict.fromkeys(name for record in records for name in record.config if name not in ("name", "logdir"))
    values = {name: [record.config.get(name) for record in records] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


@dataclasses.dataclass(frozen=True)
class Gap:
    """The largest difference of the training losses of two runs with the same settings and seeds."""

    first: Record
    second: Record
    steps: int  # at which both have a loss
    loss: float
    at: int
    accuracy: float | None


def gaps(records: Sequence[Record]) -> list[Gap]:
    """Every run against the first of another engine with the same settings and seeds."""
    found, first = [], {}
    for record in records:
        if not record.config:
            continue
        reference = first.setdefault(settings(record, seeds=True), record)
        if reference.engine != record.engine:
            found.append(gap(reference, record))
    return found


def gap(first: Record, second: Record) -> Gap:
    """The distance of two runs."""
    there, here = dict(first.points("train/loss")), dict(second.points("train/loss"))
    differences = {step: abs(here[step] - there[step]) for step in here if step in there}
    at = max(differences, key=differences.get, default=0)
    ends = accuracy(first), accuracy(second)
    same = all(ends) and ends[0][0] == ends[1][0] and first.step == second.step
    return Gap(
        first, second, len(differences), differences.get(at, float("nan")), at,
        abs(ends[0][1] - ends[1][1]) if same else None,
    )  # fmt: skip
