"""Write common/imagenet-classes.zip: English names of the classes of ImageNet-1k and ImageNet-21k, in the heads' order.

Source: `timm/data/_info` of huggingface/pytorch-image-models (Apache-2.0): `imagenet_synsets.txt`, the 21,843 synsets in
Google's order (`imagenet21k_goog_synsets.txt`), and WordNet's lemmas (`imagenet_synset_to_lemma.txt`). For prompts, the 1,000
names of CLIP's authors (MIT; openai/CLIP, `notebooks/Prompt_Engineering_for_ImageNet.ipynb`) as `open_clip` has them.
"""

import importlib.util
import runpy
import zipfile
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "common" / "imagenet-classes.zip"
LISTS = {1000: "imagenet_synsets.txt", 21843: "imagenet21k_goog_synsets.txt"}


def package(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    return Path(importlib.util.find_spec(name).submodule_search_locations[0])


def main() -> None:
    folder = package("timm") / "data" / "_info"
    prompted = runpy.run_path(str(package("open_clip") / "zero_shot_metadata.py"))["IMAGENET_CLASSNAMES"]
    lines = (folder / "imagenet_synset_to_lemma.txt").read_text().splitlines()
    lemmas = dict(line.split("\t", 1) for line in lines)
    with zipfile.ZipFile(TARGET, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for count, file in LISTS.items():
            synsets = (folder / file).read_text().split()
            if len(synsets) != count:
                raise SystemExit(f"{file} lists {len(synsets)} classes, expected {count}.")
            write(archive, f"{count}.txt", [lemmas[synset] for synset in synsets])
        write(archive, "synsets.txt", (folder / LISTS[1000]).read_text().split())
        write(archive, "prompted.txt", prompted)


def write(archive: zipfile.ZipFile, name: str, lines: list[str]) -> None:
    archive.writestr(zipfile.ZipInfo(name), "\n".join(lines), zipfile.ZIP_DEFLATED, 9)


if __name__ == "__main__":
    main()
