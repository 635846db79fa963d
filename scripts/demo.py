"""Run the no-argument fine-tuning in every engine, one after the other, and print one table."""

import json
import subprocess
import sys
import time
from pathlib import Path

ENGINES = ("bit_pytorch", "bit_jax", "bit_tf2")


def run(engine: str, folder: Path, arguments: list[str]) -> dict:
    """Train in a process of its own; returns its metrics lines and wall-clock seconds."""
    print(f"\n== {engine}", flush=True)
    started = time.monotonic()
    command = [sys.executable, "-m", f"{engine}.train", "--logdir", str(folder), "--name", engine, *arguments]
    status = subprocess.run(command, check=False).returncode
    if status:
        sys.exit(status)
    lines = [json.loads(line) for line in (folder / engine / "metrics.jsonl").read_text().splitlines()]
    return {"lines": lines, "seconds": time.monotonic() - started}


def losses(result: dict) -> dict[int, float]:
    """{step: training loss}."""
    return {line["step"]: line["train/loss"] for line in result["lines"] if "train/loss" in line}


def main(arguments: list[str]) -> None:
    from common.reports import curves
    from common.reports.record import read_record

    folder = Path("runs") / time.strftime("demo_%Y%m%d-%H%M%S")
    results = {engine: run(engine, folder, arguments) for engine in ENGINES}
    reference = losses(results[ENGINES[0]])
    print(f"\n{'engine':<12} {'top-1':>7} {'top-5':>7} {'seconds':>8}  largest loss difference from {ENGINES[0]}")
    for engine, result in results.items():
        last = result["lines"][-1]
        gap = max(abs(loss - reference[step]) for step, loss in losses(result).items())
        scores = f"{last['test/top1']:>7.2%} {last['test/top5']:>7.2%}"
        print(f"{engine:<12} {scores} {result['seconds']:>8.1f}  {gap:.1e}")
    spread = [result["lines"][-1]["test/top1"] for result in results.values()]
    print(f"Largest difference in top-1 between engines: {max(spread) - min(spread):.2%}")
    curves.write_png([read_record(folder / engine) for engine in ENGINES], folder / "curves.png")
    print(f"The curves of the three runs, one over the other: {folder / 'curves.png'}")


if __name__ == "__main__":
    main(sys.argv[1:])
