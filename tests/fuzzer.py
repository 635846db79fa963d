"""Damages valid files at random and reads them: `python fuzzer.py FOLDER SECONDS ITERATIONS SEED`.

FOLDER holds a.npz and a.h5 (weights of MINI), a.safetensors (a checkpoint) and a.index (of a TensorFlow checkpoint). Prints one line before every reading, so
that a crash tells which; ends with status 1 and a sentence at the first reading that raises anything but a UserError,
takes more than HANG_SECONDS, or memory beyond twice the file and CONSTANT_BYTES.
"""

import hashlib
import io
import json
import signal
import sys
import time
import zipfile
from pathlib import Path

import google_crc32c
import numpy as np

from common.models import ResNetConfig
from common.runs import checkpoint
from common.system.errors import UserError
from common.weights import read_weights
from common.weights.containers import sealed, tensor_bundle
from common.weights.source import read_model

MINI = ResNetConfig((2, 1), 0.5, 10)
HANG_SECONDS = 10
CONSTANT_BYTES = 16 * 2**20  # what libraries keep for themselves: buffers, caches, parsed headers
VALUES = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff" * 8, b"\x00" * 8, b"\xff" * 7 + b"\x7f", b"[" * 500, b"9" * 20)


def damaged(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """`data` with one to four accidents; most of them near the ends, where formats keep their structure."""
    result = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        if not result:
            break
        edge = int(min(len(result), rng.choice((64, 512, 4096, 2**30))))
        place = int(rng.integers(edge)) if rng.integers(2) else len(result) - 1 - int(rng.integers(edge))
        kind = rng.choice(("flip", "value", "splice", "insert", "cut", "truncate"), p=(0.4, 0.3, 0.1, 0.1, 0.05, 0.05))
        start, length = int(rng.integers(len(other))), int(rng.integers(1, 2000))
        if kind == "flip":
            result[place] ^= 1 << int(rng.integers(8))
        elif kind == "value":
            value = VALUES[rng.integers(len(VALUES))]
            result[place : place + len(value)] = value
        elif kind == "splice":
            result[place : place + length] = other[start : start + length]
        elif kind == "insert":
            result[place:place] = other[start : start + length]
        elif kind == "cut":
            del result[place : place + length]
        else:
            del result[place:]
    return bytes(result)


def damaged_member(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """A .npz whose checksums are right and one of whose members is not."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
        names = source.namelist()
        chosen = names[rng.integers(len(names))]
        for name in names:
            member = source.read(name)
            if name == chosen:
                member = damaged(member[:200], other, rng) + member[200:]
            target.writestr(name, member)
    return buffer.getvalue()


def damaged_header(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """A checkpoint whose digest is right and whose header is not."""
    length = int.from_bytes(data[:8], "little")
    header, stated = data[8 : 8 + length], sealed.DIGEST.search(data)[1]
    start = header.index(stated) + len(stated) + 1
    header = header[:start].replace(stated, sealed.NO_DIGEST.encode()) + damaged(header[start:], other, rng)
    result = len(header).to_bytes(8, "little") + header + data[8 + length :]
    return result.replace(sealed.NO_DIGEST.encode(), hashlib.sha256(result).hexdigest().encode(), 1)


def damaged_block(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """An index whose first block has the right checksum and the wrong content."""
    numbers = tensor_bundle.varints(data[-tensor_bundle.FOOTER_BYTES :])
    place = [next(numbers) for _ in range(4)][2:]
    handle = tensor_bundle.varints(next(tensor_bundle.block(data, *place))[1])
    start, size = next(handle), next(handle)
    block = damaged(data[start : start + size], other, rng)[:size].ljust(size, b"\0") + b"\0"
    checksum = tensor_bundle.masked(google_crc32c.value(block)).to_bytes(4, "little")
    return data[:start] + block + checksum + data[start + size + tensor_bundle.TRAILER_BYTES :]


WAYS = {
    "a.npz": (damaged, damaged_member),
    "a.h5": (damaged,),
    "a.safetensors": (damaged, damaged_header),
    "a.index": (damaged, damaged_block),
}


READERS = {
    ".npz": lambda path: read_weights(path, MINI),
    ".h5": lambda path: read_weights(path, MINI),
    ".safetensors": checkpoint.read,
    ".index": lambda path: read_model(path, given={"num_heads": 4}),
}


def read(path: Path) -> str:
    """What came of reading it: `read`, or the UserError's sentence."""
    try:
        READERS[path.suffix](path)
        return "read"
    except UserError as error:
        return str(error)


def peak_bytes() -> int:
    """The largest resident memory since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def forget_peak() -> int:
    """Start to measure anew; returns what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def main(folder: Path, seconds: float, iterations: int, seed: int) -> None:
    valid = {name: (folder / name).read_bytes() for name in WAYS}
    for name in WAYS:  # whatever is imported or cached at the first reading is there
        assert read(folder / name) == "read", name
    end, outcomes, largest = time.monotonic() + seconds, {name: {} for name in WAYS}, 0
    for number in range(iterations):
        if time.monotonic() > end:
            break
        rng = np.random.default_rng([seed, number])
        name = list(WAYS)[rng.integers(len(WAYS))]
        other = valid[list(WAYS)[rng.integers(len(WAYS))]]
        way = WAYS[name][rng.integers(len(WAYS[name]))]
        path = folder / f"damaged{Path(name).suffix}"
        path.write_bytes(way(valid[name], other, rng))
        print(number, way.__name__, name, flush=True)
        before = forget_peak()
        signal.alarm(HANG_SECONDS)  # ends the process
        outcome = read(path)
        signal.alarm(0)
        taken, allowed = peak_bytes() - before, 2 * path.stat().st_size + CONSTANT_BYTES
        largest = max(largest, taken - 2 * path.stat().st_size)
        if taken > allowed or "\n" in outcome or "MemoryError" in outcome:
            sys.exit(f"{taken:,} bytes taken, {allowed:,} allowed: {outcome}")
        if outcome == "read" and path.suffix == ".safetensors" and way is damaged and path.read_bytes() != valid[name]:
            sys.exit("A damaged checkpoint was read.")
        kind = "read" if outcome == "read" else "refused"
        outcomes[name][kind] = outcomes[name].get(kind, 0) + 1
    print(json.dumps({"iterations": number, "outcomes": outcomes, "beyond_twice_the_file": largest}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
