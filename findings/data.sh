#!/usr/bin/env bash
# Pillow turns a grey TIFF whose white is zero (PhotometricInterpretation 0) into one whose white is the highest number where it
# has 8 bits, and leaves it a negative where it has 16 bits or floating-point numbers. Of 12 bits it makes mode I;16 with numbers
# up to 4,095, so that scaling by the mode's 16 bits gives a nearly black image.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet pillow==13.0.0 numpy==2.4.0
cat > case.py <<'PYTHON'
import io
import struct

import numpy as np
import PIL
from PIL import Image


def tiff(data, bits, white_is_zero, sample_format=1):
    """A valid TIFF of one row of two grey pixels, without compression."""
    tags = {256: 2, 257: 1, 258: bits, 259: 1, 262: 0 if white_is_zero else 1, 273: 8, 277: 1, 278: 1, 279: len(data)}
    tags[339] = sample_format
    data += b"\0" * (len(data) % 2)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def read(*arguments):
    image = Image.open(io.BytesIO(tiff(*arguments)))
    return image.mode, np.asarray(image).ravel().tolist()


print(f"Pillow {PIL.__version__}; the first pixel is stored as 0 and the second as the highest number")
seen = {
    "8 bits, white is zero": read(b"\x00\xff", 8, True),
    "16 bits, white is zero": read(b"\x00\x00\xff\xff", 16, True),
    "floating point, white is zero": read(struct.pack("<2f", 0, 1), 32, True, 3),
    "12 bits, white is 4,095": read(b"\x00\x0f\xff", 12, False),
}
for what, (mode, pixels) in seen.items():
    print(f"{what}: mode {mode}, pixels {pixels}")
expected = [("L", [255, 0]), ("I;16", [0, 65535]), ("F", [0.0, 1.0]), ("I;16", [0, 4095])]
assert list(seen.values()) == expected, f"expected {expected}: the behaviour has changed"
PYTHON
venv/bin/python case.py
