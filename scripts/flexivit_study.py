"""The study of FlexiViT: one model at every size of patches, against ViTs of one size, in equal steps (docs/flexivit.md).

    python scripts/flexivit_study.py [--engines bit_pytorch,bit_jax,bit_tf2] [--logdir runs/flexivit] [--page docs/flexivit.md]

All start from the image tower of the embedded SigLIP-T/8 and are fine-tuned on cifar10-sample at 48 pixels. Each is then evaluated at
every size: a ViT of one size with its kernel and positions resized for the others, as `evaluate --patch_size` does.
"""

import argparse
import importlib
import json
import re
from pathlib import Path

from seeds import ENGINES

from common.config import EvaluateConfig, TrainConfig
from common.reports.curves import COLOURS, MARKS, STYLES
from common.runs.inference import Evaluation
from common.runs.run import Run
from common.system.files import write_atomically, write_json

SIDES, STEPS = (4, 6, 8, 12, 16), 120
COMMON = {
    "dataset": "cifar10-sample", "model": "ViT-T/8", "weights": "weights/SigLIP-T_8.npz", "recipe": "vit_s16_i1k",
    "randaugment_layers": 0, "mixup": 0.0, "base_lr": 1e-3, "warmup_steps": 12, "steps": STEPS, "batch": 50, "crop": 48,
    "crop_min_area": 0.3, "eval_resize": 0, "batch_eval": 250, "eval_every": "0", "checkpoint_every": 0,
}  # fmt: skip
ARMS = {  # what a line is called, and its flags
    "flexible": ("FlexiViT", {"patch_sizes": ",".join(map(str, SIDES)), "patch_size": 8}),
    "8": ("ViT-T/8", {"patch_size": 8}),
    "16": ("ViT-T/16", {"patch_size": 16}),
}
PICTURE = "![Accuracy over the size of patches](flexivit.png)"
MARKS_OF_PAGE = ("<!-- study -->", "<!-- end of the study -->")


def accuracies(folder: Path, engine: str, arm: str) -> dict[str, float]:
    """{side: top-1 of the test images at it} of a run, which is made where it has not ended; kept in its folder."""
    name, kept = f"{engine}_{arm}", folder / f"{engine}_{arm}" / "accuracies.json"
    if not kept.exists():
        loop, inference = (importlib.import_module(f"{engine}.{part}") for part in ("loop", "inference"))
        if not (folder / name / "weights.npz").exists():
            loop.main(Run(TrainConfig(**COMMON | ARMS[arm][1], name=name, logdir=str(folder)), engine))
        found = {}
        for side in SIDES:
            weights = {"model": "ViT-T/8", "weights": str(folder / name), "patch_size": side}
            job = Evaluation(EvaluateConfig(**weights, dataset="cifar10-sample", batch_eval=250))
            with importlib.import_module(f"{engine}.devices").FirstDevice() as devices:
                model = inference.build_once(job, devices)
                found[str(side)] = loop.evaluate({"model": model}, job.evaluator("test"), job.task)["top1"]
        write_json(kept, found)
    return json.loads(kept.read_text())


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: a line for each model and engine, a column for each side."""
    lines = [f"| | | {' | '.join(f'{side} px' for side in SIDES)} |", "|---|---|" + "---|" * len(SIDES)]
    for arm, (title, _) in ARMS.items():
        for engine, rows in found.items():
            cells = [f"{rows[arm][str(side)]:.1%}" for side in SIDES]
            own = [f"**{cell}**" if arm == str(side) else cell for cell, side in zip(cells, SIDES)]
            lines.append(f"| {title} | {ENGINES[engine]} | {' | '.join(own)} |")
    return "\n".join(lines)


def draw(found: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """A curve for each model and engine over the sides: colours are engines, dashes are models."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for number, (engine, rows) in enumerate(found.items()):
        for arm, style, mark in zip(ARMS, STYLES, MARKS):
            label = ARMS[arm][0] if number == 0 else None
            values = [100 * rows[arm][str(side)] for side in SIDES]
            axes.plot(
                SIDES, values, linestyle=style, marker=mark, color=COLOURS[engine], linewidth=3 - number, label=label
            )
    for engine in found:
        axes.plot([], [], color=COLOURS[engine], linewidth=3, label=ENGINES[engine])
    axes.set(xlabel="side of the patches in pixels", ylabel="top-1 of cifar10-sample in %", xticks=SIDES)
    axes.legend(fontsize="small", ncols=2)
    write_atomically(path, lambda file: FigureCanvasAgg(figure).print_png(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logdir", type=Path, default=Path("runs/flexivit"))
    parser.add_argument("--engines", default=",".join(ENGINES), help="with commas between")
    parser.add_argument("--page", type=Path, help="a page that gets the table, and beside it flexivit.png")
    options = parser.parse_args()
    found = {
        engine: {arm: accuracies(options.logdir, engine, arm) for arm in ARMS} for engine in options.engines.split(",")
    }
    print(table(found))
    if options.page:
        draw(found, options.page.with_suffix(".png"))
        first, last = MARKS_OF_PAGE
        page = options.page.read_text()
        page = re.sub(
            f"{first}.*{last}", lambda _: f"{first}\n{table(found)}\n\n{PICTURE}\n{last}", page, flags=re.DOTALL
        )
        write_atomically(options.page, lambda file: file.write(page.encode()))


if __name__ == "__main__":
    main()
