"""Write common/cifar10-sample.zip: 100 training and 50 test images of each CIFAR-10 class, from folders of JPEG files.

    python scripts/make_sample.py CIFAR10_FOLDER      # holds {train,test}/<class>/*.jpg

The images are copied byte for byte. They are evenly spaced in each class, by the order of their names.
"""

import sys
import zipfile
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "common" / "cifar10-sample.zip"
COUNTS = {"train": 100, "test": 50}


def main(root: Path) -> None:
    with zipfile.ZipFile(TARGET, "w", zipfile.ZIP_STORED) as archive:
        for split, count in COUNTS.items():
            for folder in sorted((root / split).iterdir()):
                files = sorted(folder.iterdir())
                for file in files[:: len(files) // count][:count]:
                    entry = zipfile.ZipInfo(f"{split}/{folder.name}/{file.name}", (2026, 1, 1, 0, 0, 0))
                    archive.writestr(entry, file.read_bytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
