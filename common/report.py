"""Pictures of runs, drawn from their `metrics.jsonl`."""

import json
from collections.abc import Sequence
from pathlib import Path

from common.files import write_atomically

PANELS = (("train/loss", "val/loss"), ("train/lr",), ("val/top1", "test/top1"))
TITLES = ("Loss", "Learning rate", "Top-1 accuracy")


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's `metrics.jsonl`."""
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def plot_curves(folders: Sequence[Path], path: Path) -> None:
    """Loss, learning rate and accuracy over the steps of one run or several, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, title, names in zip(figure.subplots(1, 3), TITLES, PANELS):
        for folder in folders:
            lines = read_metrics(folder)
            for name in names:
                points = [(line["step"], line[name]) for line in lines if name in line]
                label = f"{Path(folder).name} {name}" if len(folders) > 1 else name
                if points:
                    axes.plot(*zip(*points), label=label, marker="o" if len(points) < 20 else None, markersize=4)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    write_atomically(path, lambda file: FigureCanvasAgg(figure).print_png(file))
