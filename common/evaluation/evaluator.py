"""The face of an evaluator: the outputs that an engine computes for it, and its metrics. Numpy only, so engines judge alike."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from common.system.errors import UserError

Rows = dict[str, np.ndarray]  # column -> [N, ...]


class Evaluator(Protocol):
    """One evaluation: `evaluate` of an engine goes through its passes once and adds the rows of each."""

    name: str  # the first part of its metrics' names: a split

    def passes(self) -> Iterator[tuple[str, Any]]:
        """(the name of one of an engine's OUTPUTS, the batches to compute it for), one after the other."""

    def add(self, output: str, rows: Rows) -> None:
        """Add rows of examples in their order, with padding, whose mask is False."""

    def result(self) -> dict[str, float]:
        """{metric: value} of all added rows; the metrics are rows of METRICS."""

    def write(self, folder: Path) -> None:
        """Leave files in the run's folder, once the last evaluation has ended."""


class Means:
    """The means of some columns of one output over the examples whose mask is True."""

    def __init__(self, name: str, output: str, batches: Any, metrics: tuple[str, ...]):
        self.name, self.output, self.batches = name, output, batches
        self.sums, self.count = dict.fromkeys(metrics, 0.0), 0

    def passes(self) -> Iterator[tuple[str, Any]]:
        """One, over all batches."""
        yield self.output, self.batches

    def add(self, output: str, rows: Rows) -> None:
        """Add up columns [N]."""
        mask = rows["mask"]
        self.count += int(mask.sum())
        for metric in self.sums:
            self.sums[metric] += float(rows[metric][mask].sum(dtype=np.float64))

    def result(self) -> dict[str, float]:
        """The means. Raises UserError where nothing was counted: images without labels are not."""
        if not self.count:
            raise UserError(
                "None of the images to evaluate has a label; give some of them labels or choose another split."
            )
        return {metric: total / self.count for metric, total in self.sums.items()}

    def write(self, folder: Path) -> None:
        """Nothing."""


class Kept:
    """The columns of some outputs as they are, for what is made of all of them together: {output: its batches}."""

    def __init__(self, name: str, batches: dict[str, Any]):
        self.name, self.batches = name, batches
        self.rows: dict[str, list[Rows]] = {output: [] for output in batches}

    def passes(self) -> Iterator[tuple[str, Any]]:
        """One for each output."""
        yield from self.batches.items()

    def add(self, output: str, rows: Rows) -> None:
        """Add columns [N, ...], of which `mask` [N] tells padding."""
        mask = rows["mask"]
        self.rows[output].append({name: values[mask] for name, values in rows.items() if name != "mask"})

    def result(self) -> dict[str, float]:
        """No metric of its own: the columns are what is wanted."""
        return {}

    def write(self, folder: Path) -> None:
        """Nothing."""

    def column(self, output: str, name: str) -> np.ndarray:
        """All rows that were added, without padding."""
        return np.concatenate([rows[name] for rows in self.rows[output]])


class Prepared:
    """An evaluator whose batches are `prepare(batches)`: shared by processes, made ahead by threads, shown as they pass."""

    def __init__(self, evaluator: Evaluator, prepare: Callable[[Any], Iterable[Rows]]):
        self.evaluator, self.prepare = evaluator, prepare
        self.name, self.add, self.result = evaluator.name, evaluator.add, evaluator.result
        self.write = evaluator.write

    def passes(self) -> Iterator[tuple[str, Iterable[Rows]]]:
        """The same, of batches that hold arrays."""
        for output, batches in self.evaluator.passes():
            yield output, self.prepare(batches)
