"""The study of image-text training: five seeds in three engines, with a locked image tower or from scratch (docs/image_text.md).

    python scripts/image_text_study.py [--logdir runs/image_text] [--engines bit_pytorch,bit_jax,bit_tf2] [--table]

The 1,000 training images of cifar10-sample get three captions each, names of classes in CLIP's prompts. The models are judged by
zero-shot classification of its 500 test images, with the eight prompts `clip_best`. The table is made from the runs' folders.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from seeds import parser, table, train_missing

from common.config import TrainConfig
from common.data.text.prompts import PROMPTS
from common.datasets import open_dataset

COMMON = {
    "model": "SigLIP-T/8", "weights": "none", "batch": 100, "steps": 200, "warmup_steps": 20, "crop": 32,
    "crop_min_area": 0.5, "flip": 0.5, "zero_shot": "cifar10-sample", "eval_every": "0", "checkpoint_every": 0,
}  # fmt: skip
TOWER = str(Path(__file__).resolve().parents[1] / "weights" / "SigLIP-T_8.npz")
ARMS = {  # what a row of the table is called, and its flags
    "lit": ("`siglip_lit`: the image tower of SigLIP-T/8, locked", {"recipe": "siglip_lit", "image_weights": TOWER}),
    "scratch": ("`siglip`: both towers from scratch", {"recipe": "siglip"}),
}


def write_captions(folder: Path) -> None:
    """Images of cifar10-sample as PNG files, with three captions each that a fixed seed draws."""
    dataset, rng = open_dataset("cifar10-sample"), np.random.default_rng(0)
    for name in ("train", "test"):
        split, rows = dataset.splits[name], []
        (folder / name).mkdir(parents=True)
        for i in range(len(split)):
            Image.fromarray(split.decode(i)).save(folder / name / f"{i}.png")
            word = dataset.class_names[int(split.labels[i])]
            drawn = rng.choice(PROMPTS["clip_paper"], 3, replace=False)
            rows.append("\t".join([f"{i}.png", *(prompt.format(word) for prompt in drawn)]))
        (folder / name / "captions.tsv").write_text("\n".join(rows) + "\n")


def main() -> None:
    flags_of_study = parser(__doc__.splitlines()[0], "runs/image_text", ARMS)
    options = flags_of_study.parse_args()
    images = options.logdir / "cifar10-captions"

    def config(engine: str, arm: str, seed: int) -> TrainConfig:
        """The flags of one run."""
        where = {"dataset": str(images), "logdir": str(options.logdir), "name": f"{engine}_{arm}_{seed}"}
        return TrainConfig(**COMMON, **ARMS[arm][1], **where, seed=seed)

    if not options.table:
        if not images.exists():
            write_captions(images)
        train_missing(options, config)
    print(table(options.logdir, ARMS, "cifar10-sample/top1", "towers"))


if __name__ == "__main__":
    main()
