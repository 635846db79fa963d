"""The picture of docs/captions.md: test drawings, what people and what a model of a run writes of them, in every engine.

    python scripts/caption_pictures.py RUN [docs/captions.jpg]

The drawings are every fifteenth of captions-sample, whatever is written of them.
"""

import argparse
import importlib
import tempfile
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from common.config import PredictConfig
from common.data.catalogue import open_dataset
from common.data.split import Split
from common.reports.record import ENGINES as NAMES
from common.runs.jobs import prediction
from common.system.files import write_atomically

ENGINES = ("bit_pytorch", "bit_jax", "bit_tf2")
ROWS, COLUMNS, EVERY, LINE = 3, 4, 15, 38  # LINE: letters of a line


def written(engine: str, run: Path, files: list[Path]) -> list[str]:
    """What the run's model writes of image files."""
    job = prediction(PredictConfig(captions=True, model="CapPa-T/8", weights=str(run), images=tuple(map(str, files))))
    importlib.import_module(f"{engine}.inference").predict_main(job)
    return job.judge.texts


def sheet(split: Split, texts: dict[str, list[str]]) -> Figure:
    """Drawings with texts below, those of people first."""
    figure = Figure((11, 9), layout="constrained")
    for number, ax in enumerate(figure.subplots(ROWS, COLUMNS).flat):
        ax.imshow(split.decode(number))
        ax.axis("off")
        lines = {"people": split.captions[number][0]} | {who: own[number] for who, own in texts.items()}
        said = "\n".join(textwrap.fill(f"{who}: {text}", LINE) for who, text in lines.items())
        ax.set_title(said, y=-0.02, va="top", fontsize=8, loc="left")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("path", nargs="?", type=Path, default=Path("docs/captions.jpg"))
    args = parser.parse_args()
    split = open_dataset("captions-sample").splits["test"]
    split = split.take(np.arange(ROWS * COLUMNS) * EVERY)
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place) / f"{number:02d}.png" for number in range(ROWS * COLUMNS)]
        for number, file in enumerate(files):
            Image.fromarray(split.decode(number)).save(file)
        texts = {NAMES[engine]: written(engine, args.run, files) for engine in ENGINES}
    write_atomically(args.path, lambda file: sheet(split, texts).savefig(file, format="jpeg", dpi=100))


if __name__ == "__main__":
    main()
