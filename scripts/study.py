"""The transfer study: every cell is a training run of its own, and the table is made from their folders alone."""

import argparse
import collections
import itertools
import re
import statistics
import subprocess
import sys
from pathlib import Path

from common.reports.record import read_lines

REFERENCE = "PyTorch, float64"  # shows the effect of float32's rounding
CONTENDERS = {  # engine and precision
    "PyTorch": ("bit_pytorch", "float32"),
    "JAX": ("bit_jax", "float32"),
    "TensorFlow": ("bit_tf2", "float32"),
    REFERENCE: ("bit_pytorch", "float64"),
}
STARTS = {"pretrained": "embedded model", "none": "from scratch"}
SHOTS = (1, 5, 10, None)  # images a class; None: all of them
SEEDS = range(5)  # of the choice of images, their order and the initial values; all images are trained on once
NUM_CLASSES = 10
MARKS = "<!-- made by scripts/study --write -->", "<!-- end of the study -->"


def flags(shots: int | None) -> list[str]:
    """Flags of the sample's row, at the resolution of pre-training, with few steps, for every engine and start."""
    batch, steps, warmup = (64, 300, 50) if shots is None else (min(50, NUM_CLASSES * shots), 50, 10)
    return (
        f"--batch {batch} --steps {steps} --warmup_steps {warmup} --base_lr 0.02 --mixup 0 --resize 54 --crop 48 "
        "--batch_eval 250 --eval_every 0 --checkpoint_every 0"
    ).split()


def cells():
    """(name of the run, contender, start, shots, seed) of every run."""
    for shots, seed in itertools.product(SHOTS, SEEDS):
        for contender, start in itertools.product(CONTENDERS, STARTS):
            if shots is None and (seed or contender == REFERENCE):
                continue
            name = f"{contender}_{start}_{shots or 'all'}_{seed}".replace(", ", "_")
            yield name, contender, start, shots, seed


def train(folder: Path, logdir: Path, name: str, contender: str, start: str, shots: int | None, seed: int) -> None:
    """One run, unless it has ended already; an interrupted one goes on."""
    if (logdir / name / "weights.npz").exists():
        return
    engine, precision = CONTENDERS[contender]
    few = [] if shots is None else ["--examples_per_class", str(shots), "--examples_per_class_seed", str(seed)]
    command = [
        sys.executable, "-m", f"{engine}.train", "--dataset", str(folder), "--logdir", str(logdir), "--name", name,
        "--weights", start, "--precision", precision, "--seed", str(seed), *flags(shots), *few,
    ]  # fmt: skip
    status = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
    if status:
        sys.exit(status)


def top1(logdir: Path) -> dict[tuple, dict[int, float]]:
    """{(contender, start, shots): {seed: test accuracy}} of the runs that have ended."""
    found = collections.defaultdict(dict)
    for name, contender, start, shots, seed in cells():
        if (logdir / name / "weights.npz").exists():
            lines, _ = read_lines(logdir / name / "metrics.jsonl")
            found[contender, start, shots][seed] = lines[-1]["test/top1"]
    return found


def table(found: dict[tuple, dict[int, float]]) -> str:
    """Markdown: one row per number of images and start, one column per engine, and what rounding explains."""
    engines = [name for name in CONTENDERS if name != REFERENCE]
    lines = [f"| images a class | start | {' | '.join(engines)} |", "|---|---|" + "---|" * len(engines)]
    for shots, start in itertools.product(SHOTS, STARTS):
        results = [summary(list(found[engine, start, shots].values())) for engine in engines]
        lines.append(f"| {shots or 'all'} | {STARTS[start]} | {' | '.join(results)} |")
    return "\n".join([*lines, "", rounding(found, engines)])


def summary(values: list[float]) -> str:
    """min <- median -> max in per cent; a single run is one number."""
    if len(values) < 2:
        return " ".join(f"{value:.2%}" for value in values)
    return f"{min(values):.1%} <- **{statistics.median(values):.1%}** -> {max(values):.1%}"


def rounding(found: dict[tuple, dict[int, float]], engines: list[str]) -> str:
    """Markdown: how far few-shot runs of one seed lie from PyTorch's in float32; float64 shows what rounding does."""
    lines = [
        "| difference from PyTorch, same seed | " + " | ".join(STARTS.values()) + " |",
        "|---|" + "---|" * len(STARTS),
    ]
    for other in (*engines[1:], REFERENCE):
        lines.append(f"| {other} | {' | '.join(gaps(found, other, start) for start in STARTS)} |")
    return "\n".join(lines)


def gaps(found: dict[tuple, dict[int, float]], other: str, start: str) -> str:
    """Median and largest difference of test accuracy over the seeds and numbers of images, in points."""
    values = [
        100 * abs(found["PyTorch", start, shots][seed] - accuracy)
        for shots in SHOTS
        if shots
        for seed, accuracy in found[other, start, shots].items()
        if seed in found["PyTorch", start, shots]
    ]
    return f"{statistics.median(values):.2f}, at most {max(values):.2f}" if values else ""


def write_page(text: str, path: Path = Path("docs/results.md")) -> None:
    """Put the table between its marks."""
    pattern = re.compile(f"(?<={re.escape(MARKS[0])}\n).*?(?={re.escape(MARKS[1])})", re.DOTALL)
    path.write_text(pattern.sub(lambda _: text + "\n", path.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, help="CIFAR-10 as {train,test}/<class>/*.jpg; trains what is missing"
    )
    parser.add_argument(
        "--logdir", type=Path, default=Path("runs/study"), help="folder of the runs (default: runs/study)"
    )
    parser.add_argument("--table", action="store_true", help="print the table only")
    parser.add_argument("--write", action="store_true", help="also write it into docs/results.md")
    options = parser.parse_args()
    if options.folder:
        everything = list(cells())
        for number, cell in enumerate(everything, start=1):
            print(f"{number}/{len(everything)} {cell[0]}", flush=True)
            train(options.folder, options.logdir, *cell)
    elif not (options.table or options.write):
        parser.error("give the folder of CIFAR-10, or --table")
    text = table(top1(options.logdir))
    print(text)
    if options.write:
        write_page(text)


if __name__ == "__main__":
    main()
