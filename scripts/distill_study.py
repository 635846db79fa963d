"""The study of distillation: small students from scratch, with labels or with a teacher, in equal steps (docs/distillation.md).

    python scripts/distill_study.py TEACHER [--engines bit_pytorch,bit_jax,bit_tf2] [--logdir runs/distill] [--table]

TEACHER is the folder of a run on cifar10-sample. Every cell is a run of its own, with the numbers of the recipe `distill`; the
students with labels take them from `vit_s16_i1k`, which differs by flags alone. The table is made from the runs' folders.
"""

import argparse
import importlib
import itertools
import statistics
from pathlib import Path

from common.config import TrainConfig
from common.reports.record import read_lines
from common.runs.run import Run

ENGINES = {"bit_pytorch": "PyTorch", "bit_jax": "JAX", "bit_tf2": "TensorFlow"}
SEEDS = range(5)
STEPS, PATIENT = 60, 240
COMMON = {
    "dataset": "cifar10-sample", "weights": "none", "batch": 50, "crop": 32, "eval_resize": 40, "batch_eval": 250,
    "eval_every": "0", "checkpoint_every": 0,
}  # fmt: skip
LABELS = {
    "recipe": "vit_s16_i1k", "randaugment_layers": 0, "mixup": 1.0, "base_lr": 0.003, "weight_decay": 3e-4,
}  # fmt: skip
ARMS = {  # what a row of the table is called, and its flags
    "labels": (f"labels, {STEPS} steps", LABELS | {"steps": STEPS}),
    "same": (f"teacher, the same view, {STEPS} steps", {"recipe": "distill", "steps": STEPS}),
    "own": (f"teacher, a view of its own, {STEPS} steps", {"recipe": "distill", "steps": STEPS, "teacher_view": "own"}),
    "labels_patient": (f"labels, {PATIENT} steps", LABELS | {"steps": PATIENT}),
    "same_patient": (f"teacher, the same view, {PATIENT} steps", {"recipe": "distill", "steps": PATIENT}),
    "own_patient": (
        f"teacher, a view of its own, {PATIENT} steps",
        {"recipe": "distill", "steps": PATIENT, "teacher_view": "own"},
    ),
}


def config(arm: str, engine: str, seed: int, teacher: str, logdir: Path) -> TrainConfig:
    """The flags of one run."""
    flags = COMMON | ARMS[arm][1] | {"name": f"{engine}_{arm}_{seed}", "logdir": str(logdir), "seed": seed}
    flags |= {"teacher": teacher} if flags["recipe"] == "distill" else {}
    return TrainConfig(**flags, warmup_steps=flags["steps"] // 10)


def result(logdir: Path, engine: str, arm: str, seed: int) -> dict[str, float] | None:
    """The last line of metrics of a run that has ended."""
    folder = logdir / f"{engine}_{arm}_{seed}"
    return read_lines(folder / "metrics.jsonl")[0][-1] if (folder / "weights.npz").exists() else None


def table(logdir: Path, metric: str = "test/top1") -> str:
    """Markdown: min <- median -> max over the seeds that were run, and how many they are where not all."""
    lines = [f"| student | {' | '.join(ENGINES.values())} |", "|---|" + "---|" * len(ENGINES)]
    for arm, (title, _) in ARMS.items():
        cells = []
        for engine in ENGINES:
            found = [result(logdir, engine, arm, seed) for seed in SEEDS]
            values = [line[metric] for line in found if line and metric in line]
            spread = f"{min(values):.1%} <- **{statistics.median(values):.1%}** -> {max(values):.1%}" if values else ""
            cells.append(spread + (f" ({len(values)})" if 0 < len(values) < len(SEEDS) else ""))
        if any(cells):
            lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher", nargs="?", help="folder of a run on cifar10-sample")
    parser.add_argument("--logdir", type=Path, default=Path("runs/distill"))
    parser.add_argument("--engines", default=",".join(ENGINES), help="with commas between")
    parser.add_argument("--arms", default=",".join(ARMS), help="with commas between")
    parser.add_argument("--table", action="store_true", help="print the tables only")
    options = parser.parse_args()
    if not options.table:
        engines, arms = options.engines.split(","), options.arms.split(",")
        for engine, seed, arm in itertools.product(engines, SEEDS, arms):
            if not result(options.logdir, engine, arm, seed):
                flags = config(arm, engine, seed, options.teacher, options.logdir)
                importlib.import_module(f"{engine}.loop").main(Run(flags, engine))
    for metric in ("test/top1", "test/agreement"):
        print(metric, table(options.logdir, metric), sep="\n\n", end="\n\n")


if __name__ == "__main__":
    main()
