"""Write common/imagenet-classes.zip: English names of the classes of ImageNet-1k and ImageNet-21k, in the heads' order.

Source: `timm/data/_info` of huggingface/pytorch-image-models (Apache-2.0): `imagenet_synsets.txt`, the 21,843 synsets in
Google's order (`imagenet21k_goog_synsets.txt`), and WordNet's lemmas (`imagenet_synset_to_lemma.txt`).
"""

import importlib.util
import zipfile
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "common" / "imagenet-classes.zip"
LISTS = {1000: "imagenet_synsets.txt", 21843: "imagenet21k_goog_synsets.txt"}


def main() -> None:
    folder = Path(importlib.util.find_spec("timm").submodule_search_locations[0]) / "data" / "_info"
    lines = (folder / "imagenet_synset_to_lemma.txt").read_text().splitlines()
    lemmas = dict(line.split("\t", 1) for line in lines)
    with zipfile.ZipFile(TARGET, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for count, file in LISTS.items():
            names = [lemmas[synset] for synset in (folder / file).read_text().split()]
            if len(names) != count:
                raise SystemExit(f"{file} lists {len(names)} classes, expected {count}.")
            archive.writestr(zipfile.ZipInfo(f"{count}.txt"), "\n".join(names), zipfile.ZIP_DEFLATED, 9)


if __name__ == "__main__":
    main()
