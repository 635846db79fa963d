"""Write weights/manifest.json: one row per published file, from the naming patterns of the originals.

Sources: README.md of google-research/big_transfer (models, VTAB-1k pattern, distilled models) and
big_vision/configs/proj/distill/README.md (teachers). Rows that ship with the project are kept as they are.
"""

import json
from pathlib import Path

MANIFEST = Path(__file__).resolve().parent.parent / "weights" / "manifest.json"
BUCKET = "https://storage.googleapis.com/bit_models"
ARCHITECTURES = ("R50x1", "R101x1", "R50x3", "R101x3", "R152x2", "R152x4")
VTAB_ARCHITECTURES = ("R50x1", "R101x1", "R50x3", "R101x3", "R152x4")
VTAB_TASKS = {  # task -> classes; VTAB, appendix A (https://arxiv.org/abs/1910.04867)
    "caltech101": 102, "diabetic_retinopathy": 5, "dtd": 47, "oxford_flowers102": 102, "oxford_iiit_pet": 37,
    "resisc45": 45, "sun397": 397, "cifar100": 100, "eurosat": 10, "patch_camelyon": 2, "smallnorb-elevation": 9,
    "svhn": 10, "dsprites-orientation": 16, "smallnorb-azimuth": 18, "clevr-distance": 6, "clevr-count": 8,
    "dmlab": 6, "kitti-distance": 4, "dsprites-xpos": 16,
}  # fmt: skip


def row(name, architecture, num_classes, source, path=None, resolution=None):
    entry = {"name": name, "architecture": architecture, "num_classes": num_classes, "source": source}
    if resolution:
        entry["resolution"] = resolution
    return entry | {"url": f"{BUCKET}/{path or name}.npz"}


def published_rows():
    for arch in ARCHITECTURES:
        yield row(f"BiT-S-{arch}", arch, 1000, "ILSVRC-2012")
        yield row(f"BiT-M-{arch}", arch, 21843, "ImageNet-21k")
        yield row(f"BiT-M-{arch}-ILSVRC2012", arch, 1000, "ImageNet-21k, fine-tuned on ILSVRC-2012", resolution=480)
    distilled = "distilled on ILSVRC-2012 from BiT-M-R152x2"
    yield row("R50x1_224", "R50x1", 1000, distilled, "distill/R50x1_224", 224)
    yield row("R50x1_160", "R50x1", 1000, distilled, "distill/R50x1_160", 160)
    teacher = "ImageNet-21k, fine-tuned on ILSVRC-2012 as a teacher"
    yield row("R152x2_T_224", "R152x2", 1000, teacher, "distill/R152x2_T_224", 224)
    yield row("R152x2_T_384", "R152x2", 1000, teacher, "distill/R152x2_T_384", 384)
    for arch in VTAB_ARCHITECTURES:
        for run in range(3):
            for task, classes in VTAB_TASKS.items():
                yield row(
                    f"vtab/BiT-M-{arch}-run{run}-{task}", arch, classes, f"ImageNet-21k, fine-tuned on VTAB-1k {task}"
                )


def main():
    old = json.loads(MANIFEST.read_text())["models"] if MANIFEST.exists() else []
    rows = [entry for entry in old if "url" not in entry] + list(published_rows())
    lines = ",\n    ".join(json.dumps(entry) for entry in rows)
    MANIFEST.write_text('{\n  "models": [\n    ' + lines + "\n  ]\n}\n")


if __name__ == "__main__":
    main()
