#!/usr/bin/env bash
# Python's tarfile, and with it webdataset 1.0.2, takes an archive that was cut off between two entries, one with a damaged header in the
# middle, and one that was joined from two for a shorter archive, without a warning: half of the examples are never seen. Only a cut
# within an entry is an error. `datasets` 5.2.0 writes parquet without the bytes of images that it holds by path, also without a
# warning; elsewhere, the file has no images. Exits with 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet webdataset==1.0.2 datasets==5.2.0 pillow==13.0.0
cat > case.py <<'PYTHON'
import io
import tarfile
from importlib.metadata import version

import datasets
import pyarrow.parquet
import webdataset
from PIL import Image

EXAMPLE = 512 + 1024 + 512 + 512  # bytes of an image of 600 bytes and a label, each with its header


def write(data: bytes) -> tuple[object, object]:
    """(entries that tarfile sees, examples that webdataset sees), or what they raise."""
    with open("a.tar", "wb") as file:
        file.write(data)
    seen = []
    for count in (
        lambda: len(tarfile.open("a.tar").getmembers()),
        lambda: sum(1 for _ in webdataset.WebDataset("a.tar", shardshuffle=False)),
    ):
        try:
            seen.append(count())
        except tarfile.ReadError as error:
            seen.append(type(error).__name__)
    return tuple(seen)


with tarfile.open("a.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
    for i in range(4):
        for ending, data in (("jpg", bytes(600)), ("cls", b"%d" % i)):
            member = tarfile.TarInfo(f"{i}.{ending}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
with open("a.tar", "rb") as file:
    whole = file.read()
damaged = whole[: 2 * EXAMPLE] + bytes([whole[2 * EXAMPLE] ^ 7]) + whole[2 * EXAMPLE + 1 :]
seen = {
    "whole": write(whole),
    "cut off between two entries": write(whole[: 2 * EXAMPLE]),
    "with a damaged header": write(damaged),
    "joined from two": write(whole + whole),
    "cut off within an entry": write(whole[: 2 * EXAMPLE + 900]),
}
print(f"webdataset {version('webdataset')}: of an archive of 8 entries, 4 examples,")
for what, (members, examples) in seen.items():
    print(f"  {what}: tarfile sees {members}, webdataset sees {examples}")
expected = [(8, 4), (4, 2), (4, 2), (8, 4), ("ReadError", "ReadError")]
assert list(seen.values()) == expected, f"expected {expected}: the behaviour has changed"

Image.new("RGB", (4, 4)).save("a.png")
rows = datasets.Dataset.from_dict({"image": ["a.png"]}, features=datasets.Features({"image": datasets.Image()}))
rows.to_parquet("a.parquet")
row = pyarrow.parquet.read_table("a.parquet")["image"].to_pylist()[0]
print(f"datasets {version('datasets')}: an image held by path is written as {row}")
assert row["bytes"] is None and row["path"], "the behaviour has changed"
PYTHON
venv/bin/python -W ignore case.py
