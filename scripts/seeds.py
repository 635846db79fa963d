"""What studies over seeds and engines share: they train what is missing, and make their tables from the runs' folders."""

import argparse
import importlib
import itertools
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from common.config import TrainConfig
from common.reports.record import read_lines
from common.runs.run import Run

ENGINES = {"bit_pytorch": "PyTorch", "bit_jax": "JAX", "bit_tf2": "TensorFlow"}
SEEDS = range(5)
Arms = dict[str, tuple[str, dict[str, Any]]]  # what a row of the table is called, and its flags


def result(logdir: Path, engine: str, arm: str, seed: int) -> dict[str, float] | None:
    """The metrics of the last step of a run that has ended."""
    folder = logdir / f"{engine}_{arm}_{seed}"
    if not (folder / "weights.npz").exists():
        return None
    lines = read_lines(folder / "metrics.jsonl")[0]
    return {name: value for line in lines if line["step"] == lines[-1]["step"] for name, value in line.items()}


def parser(description: str, logdir: str, arms: Iterable[str]) -> argparse.ArgumentParser:
    """The flags of a study whose runs are in `logdir` unless --logdir names another folder."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--logdir", type=Path, default=Path(logdir))
    found.add_argument("--engines", default=",".join(ENGINES), help="with commas between")
    found.add_argument("--arms", default=",".join(arms), help="with commas between")
    found.add_argument("--table", action="store_true", help="print what has ended, and train nothing")
    return found


def train_missing(
    options: argparse.Namespace, config: Callable[..., TrainConfig], seeds: Iterable[int] = SEEDS
) -> None:
    """Run `config(engine, arm, seed)` of every seed whose run has not ended."""
    for engine, seed, arm in itertools.product(options.engines.split(","), seeds, options.arms.split(",")):
        if not result(options.logdir, engine, arm, seed):
            importlib.import_module(f"{engine}.loop").main(Run(config(engine, arm, seed), engine))


def table(logdir: Path, arms: Arms, metric: str, first: str) -> str:
    """Markdown: min <- median -> max over the seeds that were run, and how many they are where not all.

    Its rows are the titles of `arms`; `first` stands above them.
    """
    lines = [f"| {first} | {' | '.join(ENGINES.values())} |", "|---|" + "---|" * len(ENGINES)]
    for arm, (title, _) in arms.items():
        cells = []
        for engine in ENGINES:
            found = [result(logdir, engine, arm, seed) for seed in SEEDS]
            values = [line[metric] for line in found if line and metric in line]
            spread = f"{min(values):.1%} <- **{statistics.median(values):.1%}** -> {max(values):.1%}" if values else ""
            cells.append(spread + (f" ({len(values)})" if 0 < len(values) < len(SEEDS) else ""))
        if any(cells):
            lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)
