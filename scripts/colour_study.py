"""The study of colourization: UViM on cifar10-sample, and tuned by a reward, in three engines (docs/dense.md).

    python scripts/colour_study.py [--logdir runs/colours] [--engines bit_pytorch,bit_jax,bit_tf2] [--table] [--picture FILE]

A VQ-VAE learns codes of the colours of 1,000 images, and a model that writes learns to predict the codes of grey images, before it is
tuned by their PSNR. All are judged on 500 test images, beside two baselines: the grey images themselves, and these with the mean
difference of colours from grey in the training images. The table is made from the runs' folders, and the picture of their `maps.png`:
what is seen and known, and what each stage and the tuned one predict in the engines.
"""

import itertools
from pathlib import Path

import numpy as np
from PIL import Image
from seeds import ENGINES, parser, result, train_missing

from common.config import TrainConfig
from common.data.images import grey
from common.datasets import open_dataset
from common.evaluation.dense import Colours
from common.evaluation.shown import FILE, read_shown

COMMON = {"dataset": "cifar10-sample", "batch": 64, "eval_every": "0", "checkpoint_every": 0}
FIRST = {
    "weights": "none", "recipe": "uvim_color", "model": "UViM-T/4-colorization", "steps": 1200, "warmup_steps": 40, "base_lr": 2e-3,
    "code_dropout": "none",
}  # fmt: skip
SECOND = {
    "weights": "none", "recipe": "uvim_codes", "model": "VTT-T/8", "steps": 300, "warmup_steps": 40, "maps_of": 500,
}  # fmt: skip
TUNED = {
    "recipe": "task_rewards", "reward": "psnr", "model": "VTT-T/8", "samples": 4, "steps": 300, "warmup_steps": 20, "base_lr": 3e-4,
}  # fmt: skip
ARMS = {  # what a row of the table is called, its flags, and its evaluator
    "first": ("codes of the colours themselves", FIRST, "test"),
    "second": ("codes predicted of the grey image", SECOND, "maps"),
    "tuned": ("these, tuned by their PSNR", TUNED, "test"),
}


def baselines() -> dict[str, dict[str, float]]:
    """{name: metrics on the test images}."""
    splits = open_dataset("cifar10-sample").splits
    train, test = ([split.decode(i) for i in range(len(split))] for split in (splits["train"], splits["test"]))
    shift = np.mean([image.astype(float) - grey(image) for image in train], (0, 1, 2))
    found = {}
    for name, colour in (("grey image", 0), ("grey image in the mean colour", shift)):
        judge = Colours(None)
        for image in test:
            judge.add(np.clip(grey(image) + colour, 0, 255) / 127.5 - 1, image)
        found[name] = judge.result()
    return found


def cell(values: dict[str, float]) -> str:
    """PSNR and mean square error."""
    return f"{values['psnr']:.2f} dB, {values['mse']:.4f}"


def table(logdir: Path) -> str:
    """Markdown: a column for each engine."""
    lines = [f"| prediction | {' | '.join(ENGINES.values())} |", "|---|" + "---|" * len(ENGINES)]
    lines += [f"| {name} | {' | '.join([cell(values)] * len(ENGINES))} |" for name, values in baselines().items()]
    for arm, (title, _, judge) in ARMS.items():
        found = [result(logdir, engine, arm, 0) for engine in ENGINES]
        cells = [cell({name: one[f"{judge}/{name}"] for name in ("psnr", "mse")}) if one else "" for one in found]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(logdir: Path, picture: Path) -> None:
    """A column for what is seen, what is known, and what each engine predicts by each arm."""
    columns = []
    for arm, engine in itertools.product(ARMS, ENGINES):
        if (path := logdir / f"{engine}_{arm}_0" / FILE).exists():
            shown = np.array_split(read_shown(path), 3, 1)
            columns += shown[-1:] if columns else shown
    if columns:
        Image.fromarray(np.concatenate(columns, 1)).save(picture)


def main() -> None:
    flags = parser(__doc__.splitlines()[0], "runs/colours", ARMS)
    flags.add_argument("--picture", type=Path, help="file for the pictures of all engines, side by side")
    options = flags.parse_args()

    def config(engine: str, arm: str, seed: int) -> TrainConfig:
        """The flags of one run."""
        where = {"logdir": str(options.logdir), "name": f"{engine}_{arm}_{seed}"}
        earlier = lambda arm: str(options.logdir / f"{engine}_{arm}_{seed}")
        made = {"oracle": earlier("first")} if arm != "first" else {}
        made |= {"weights": earlier("second")} if arm == "tuned" else {}
        return TrainConfig(**COMMON, **ARMS[arm][1], **where, **made, seed=seed)

    if not options.table:
        train_missing(options, config, seeds=range(1))
    print(table(options.logdir))
    if options.picture:
        draw(options.logdir, options.picture)


if __name__ == "__main__":
    main()
