"""Bad input through the command line of every engine: one sentence, exit status 2, nothing lost, in little time."""

import importlib
import importlib.util
import io
import json
import os
import pickle
import re
import runpy
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import ROOT
from engines import FRAMEWORKS, INSTALLED
from PIL import Image

from common.models import PACKAGED_WEIGHTS, find_architecture, find_model
from common.models.initial import initial_parameters
from common.runs.checkpoint import CURRENT, read
from common.weights import read_weights, write_weights

EMBEDDED = PACKAGED_WEIGHTS / "BiT-T-R26x0.5.npz"
HEAD, BIAS = "resnet/head/conv2d/kernel", "resnet/head/conv2d/bias"
SMALLEST = ("--model", "ViT-mu/16")  # where the model does not matter
RUN = (
    *SMALLEST,
    "--weights",
    "none",
    "--resize",
    36,
    "--crop",
    32,
    "--log_every",
    1,
    "--warmup_steps",
    0,
    "--workers",
    2,
)


@pytest.fixture(params=INSTALLED)
def name(request) -> str:
    return request.param


@pytest.fixture
def command(name, tmp_path, monkeypatch, capfd):
    """Run a command of one engine in this process, as `python -m` does: (exit status, what it printed, its error)."""
    if name == "bit_tf2" and importlib.util.find_spec("triton"):
        importlib.import_module("triton")  # see engines.py: before TensorFlow, or never

    def run(command: str, *arguments) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["", *map(str, arguments)])
        capfd.readouterr()
        status = 0
        try:
            runpy.run_module(f"{name}.{command}", run_name="__main__")
        except SystemExit as end:
            status = end.code
        output, error = capfd.readouterr()
        if status == 2:
            assert error.count("\n") == 1 and error.startswith("error: "), error
        return status, output, error

    return run


# --- weights


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def declared(shape: tuple[int, ...]) -> bytes:
    """The header of an array and none of its values."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_2_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def changed_npz(**members: bytes | None) -> bytes:
    """The embedded weights with other bytes, or none, as some members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(EMBEDDED) as source, zipfile.ZipFile(buffer, "w") as target:
        for entry in source.namelist():
            data = members.get(entry.removesuffix(".npy"), source.read(entry))
            if data is not None:
                target.writestr(entry, data)
    return buffer.getvalue()


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def changed_h5(path: Path, change) -> None:
    """The embedded weights as .h5, after `change(group of the head, name of its kernel)`."""
    config = find_model("BiT-T-R26x0.5").config()
    write_weights(path, read_weights(EMBEDDED, config), config)
    with h5py.File(path, "r+") as file:
        head = file["head/dense"]
        change(head, head.attrs["weight_names"][0])


def replace(make):
    def change(head, kernel):
        del head[kernel]
        make(head, kernel)

    return change


def virtual(head, kernel):
    layout = h5py.VirtualLayout((1024, 200), "f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "data", (1024, 200))
    head.create_virtual_dataset(kernel, layout)


def terabytes(head, kernel):
    """Chunks that nobody ever wrote: HDF5 would fill them with zeros."""
    bias = head.attrs["weight_names"][1]
    del head[bias]
    for name, shape in ((kernel, (1024, 10**9)), (bias, (10**9,))):
        head.create_dataset(name, shape, "f4", chunks=True, compression="gzip")


def hostile_weights(folder: Path) -> dict[str, str]:
    """{file: what the error must say}."""
    whole, trap = EMBEDDED.read_bytes(), Trap(folder / "sprung")
    npz = {
        "empty": (b"", "no readable .npz"),
        "text": (b"I am no archive\n", "no readable .npz"),
        "truncated": (whole[: len(whole) // 2], "no readable .npz"),
        "one bit flipped": (flipped(whole, len(whole) // 2), "no readable .npz"),
        "pickled object": (changed_npz(**{BIAS: npy(np.full(200, trap, object))}), "holds pickled Python objects"),
        "a pickle": (pickle.dumps(trap), "no readable .npz"),
        "terabytes": (
            changed_npz(**{HEAD: declared((1, 1, 1024, 10**10)), BIAS: declared((10**10,))}),
            "fits no model .*num_classes is 10000000000",
        ),
        "missing": (changed_npz(**{BIAS: None}), "missing: .*head"),
        "misshapen": (changed_npz(**{BIAS: npy(np.zeros(7, "f4"))}), "misshapen"),
        "not finite": (changed_npz(**{BIAS: npy(np.full(200, np.nan, "f4"))}), "not finite"),
    }
    words = {}
    for case, (data, expected) in npz.items():
        (folder / f"{case}.npz").write_bytes(data)
        words[f"{case}.npz"] = expected
    for case in ("empty", "text", "a pickle"):
        (folder / f"{case}.h5").write_bytes(npz[case][0])
        words[f"{case}.h5"] = "no readable Keras .h5"
    h5 = {
        "soft link": (lambda head, kernel: head.__setitem__(kernel, h5py.SoftLink("/block1")), "link instead of data"),
        "external link": (
            lambda head, kernel: head.__setitem__(kernel, h5py.ExternalLink("/etc/passwd", "/x")),
            "link instead of data",
        ),
        "virtual": (virtual, "outside of itself"),
        "external": (
            lambda head, kernel: head.create_dataset(kernel, (1024, 200), "f4", external=[("/etc/passwd", 0, 819200)]),
            "outside of itself",
        ),
        "terabytes": (terabytes, "more bytes .* than it can hold"),
        "not finite": (
            lambda head, kernel: head.create_dataset(kernel, data=np.full((1024, 200), np.inf, "f4")),
            "not finite",
        ),
    }
    for case, (make, expected) in h5.items():
        changed_h5(folder / f"{case}.h5", replace(make))
        words[f"{case}.h5"] = expected
    return words


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """(folder, {file: what the error must say})."""
    folder = tmp_path_factory.mktemp("weights")
    return folder, hostile_weights(folder)


def test_hostile_weights_are_one_sentence(command, weights):
    folder, files = weights
    Image.new("RGB", (8, 8)).save(folder / "image.png")
    for number, (file, words) in enumerate(files.items()):
        arguments = [("predict", folder / "image.png"), ("evaluate",), ("train", "--name", "a")][number % 3]
        status, _, error = command(*arguments, "--weights", folder / file)
        assert status == 2 and file in error and re.search(words, error), (file, error)
    assert len(files) == 19 and not (folder / "sprung").exists() and not Path("runs").exists()


def test_weights_of_another_model_or_for_other_classes(command):
    status, _, error = command("train", "--model", "BiT-M-R50x1", "--weights", EMBEDDED)
    assert status == 2 and "does not fit the model" in error and "choose the --model" in error
    status, _, error = command("evaluate", "--weights", EMBEDDED)
    assert status == 2 and "200 classes and cifar10-sample has 10" in error


def test_bad_weights_are_found_before_the_framework_is_imported(name, weights, tmp_path):
    """In a process of its own."""
    code = f"""
import runpy, sys
sys.argv[1:] = ["image.png", "--weights", "empty.npz"]
try:
    runpy.run_module("{name}.predict", run_name="__main__")
finally:
    print("{FRAMEWORKS[name]}" in sys.modules)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=weights[0], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert done.stderr.startswith("error: ") and "empty.npz" in done.stderr and done.stderr.count("\n") == 1


# --- images


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(mode: str = "RGB", side: int = 40) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def bomb(side: int) -> bytes:
    """A .png of a few hundred bytes that declares side x side pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(1000)))]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (*chunks, (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


ODD = {  # what is unusual and still an image
    "grey.png": encoded(photo("L"), "PNG"),
    "grey.jpg": encoded(photo("L"), "JPEG"),
    "alpha.png": encoded(photo("RGBA"), "PNG"),
    "palette.png": encoded(photo("P"), "PNG"),
    "cmyk.jpg": encoded(photo("CMYK"), "JPEG"),
    "sixteen.png": encoded(Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40), "PNG"),
    "animated.gif": encoded(photo(), "GIF", save_all=True, append_images=[photo().rotate(90)]),
    "pixel.png": encoded(photo(side=1), "PNG"),
    "line.png": encoded(photo().resize((3000, 1)), "PNG"),
    "jpeg.png": encoded(photo(), "JPEG"),
    "png.jpg": encoded(photo(), "PNG"),
    "webp.jpg": encoded(photo(), "WEBP"),
}
BAD = {
    "empty.jpg": b"",
    "text.png": b"I am no image",
    "cut.jpg": encoded(photo(), "JPEG")[:600],
    "cut.png": encoded(photo(), "PNG")[:900],
    "bomb.png": bomb(50_000),
    "big.png": bomb(12_000),
    "pickle.jpg": pickle.dumps(Trap(Path("sprung"))),
    "weights.jpg": EMBEDDED.read_bytes()[:5000],
}


def test_odd_images_are_images_and_bad_ones_are_named(command, tmp_path):
    for folder, images in (("odd", ODD), ("bad", BAD)):
        (tmp_path / folder).mkdir()
        for file, data in images.items():
            (tmp_path / folder / file).write_bytes(data)
    status, output, error = command("predict", "odd", "--resolution", 32, "--batch_eval", 4, "--output", "out.npz")
    assert status == 0, error
    assert all(f"odd/{file}: " in output for file in ODD)
    with np.load("out.npz") as found:
        assert found["logits"].shape == (len(ODD), 200) and np.isfinite(found["logits"]).all()
    config = find_architecture(SMALLEST[1], num_classes=2, image_size=(32, 32))
    write_weights(tmp_path / "small.npz", initial_parameters(0, config), config)
    for file in BAD:
        flags = ("--weights", "small.npz", "--resolution", 32, "--batch_eval", 4)
        status, _, error = command("predict", f"bad/{file}", *SMALLEST, *flags)
        assert status == 2 and f"The image bad/{file} " in error and "replace or remove it" in error, (file, error)
    assert not Path("sprung").exists()


def make_images(folder: Path, count: int, **extra: bytes) -> None:
    for split in ("train", "test"):
        for label, colour in (("dark", 40), ("light", 200)):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = np.random.default_rng([number, colour]).integers(
                    colour - 30, colour + 30, (36, 36, 3), np.uint8
                )
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")
    for file, data in extra.items():
        (folder / "train" / "dark" / file).write_bytes(data)


def test_a_bad_image_among_the_training_images_is_named(command, tmp_path):
    for file, data in BAD.items():
        make_images(tmp_path / f"with {file}", 3, **{file: data})
        status, _, error = command(
            "train", "--dataset", f"with {file}", "--name", file, "--batch", 8, "--steps", 2, *RUN
        )
        assert status == 2 and f"{file} " in error and "replace or remove it" in error, (file, error)
        assert not (tmp_path / "runs" / file / "weights.npz").exists()


def test_a_batch_larger_than_the_data_set_and_a_loss_that_is_not_finite(command, tmp_path):
    """Batches straddle epochs, so that the first is no error; the second keeps what was good."""
    make_images(tmp_path / "six", 3)
    common = ("--dataset", "six", "--batch", 16, "--batch_eval", 16, "--checkpoint_every", 1, *RUN)
    status, _, error = command("train", "--name", "large", "--steps", 1, *common)
    assert status == 0, error
    lines = [json.loads(line) for line in Path("runs/large/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 1] and lines[1]["test/top1"] * 6 % 1 == 0
    status, _, error = command(
        "train", "--name", "infinite", "--steps", 8, "--base_lr", 1e6, "--weight_decay", 1e6, *common
    )
    assert status == 2 and "not finite" in error and "--base_lr" in error
    checkpoint = read(Path("runs/infinite") / CURRENT)
    assert f"The checkpoint of step {checkpoint.step} is intact" in error
    assert all(np.isfinite(array).all() for array in checkpoint.arrays.values())
    window = re.search(r"loss between steps (\d+) and (\d+)|state after step (\d+)", error)
    assert window and checkpoint.step <= int(window[1] or window[3])
