"""What people install: the wheel and the constraints."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from engines import FRAMEWORKS, INSTALLED
from processes import run_without

from common.datasets import open_dataset
from common.system.environment import version


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The folder into which the built wheel was unpacked, far from the checkout."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


COMMANDS = """
import runpy
import common
assert common.__path__[0].startswith({place!r})
for module, *sys.argv[1:] in {commands!r}:
    runpy.run_module(module, run_name="__main__")
"""
PACKAGES = {
    "bit_pytorch": ("torch", "torchvision", "timm"),
    "bit_jax": ("jax", "jaxlib", "flax", "optax"),
    "bit_tf2": ("tensorflow", "keras", "tensorflow_datasets"),
}


def commands_without(packages: tuple[str, ...], place: Path, folder: Path, *commands) -> subprocess.CompletedProcess:
    """Commands of the packages in `place`, given in `folder` one after the other, with some packages missing."""
    commands = [[*map(str, command)] for command in commands]
    code = COMMANDS.format(place=str(place), commands=commands)
    return run_without(packages, code, folder=folder, place=place)


@pytest.mark.parametrize("name", INSTALLED)
def test_an_engine_of_the_wheel_runs_alone(wheel, name, tmp_path):
    """Far from the checkout, with the packages of the two other engines missing."""
    absent = tuple(package for other in FRAMEWORKS if other != name for package in PACKAGES[other])
    image = tmp_path / "cat.jpg"
    image.write_bytes(open_dataset("cifar10-sample").splits["test"].read(150))
    flags = ("--steps", 2, "--batch", 4, "--resize", 36, "--crop", 32, "--model", "ViT-mu/16", "--weights", "none")
    train, predict = (f"{name}.train", "--name", "a", *flags), (f"{name}.predict", image)
    done = commands_without(absent, wheel, tmp_path, train, predict)
    assert done.returncode == 0 and "cat.jpg: " in done.stdout, done.stderr
    assert (tmp_path / "runs" / "a" / "weights.npz").is_file()


@pytest.mark.parametrize("name", INSTALLED)
def test_a_missing_framework_is_one_sentence(name, tmp_path):
    done = commands_without(PACKAGES[name], ROOT, tmp_path, (f"{name}.train", "--steps", 1))
    extra = name.removeprefix("bit_")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and f"[{extra}]" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (("common.py",), "common.py"),
        (("common/__init__.py",), "common"),
        (("common/config.py",), "common/config.py"),
        (("common/mine.py",), None),  # a plain folder is joined with ours
    ],
    ids=("module", "package", "folder", "joined"),
)
@pytest.mark.parametrize("name", PACKAGES)
def test_something_else_called_common_is_one_sentence(name, files, named, tmp_path):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    variables = {name: text for name, text in os.environ.items() if name != "PYTHONSAFEPATH"} | {
        "PYTHONPATH": str(ROOT)
    }
    said = {}
    for way in (["-m", f"{name}.train", "--steps", "0"], ["-c", f"import {name}"]):
        done = subprocess.run(
            [sys.executable, *way], check=False, cwd=tmp_path, env=variables, capture_output=True, text=True
        )
        said[way[0]] = done.returncode, done.stderr.splitlines()
    if named:
        status, (sentence,) = said["-m"]
        assert status == 2 and sentence.startswith(f"error: {tmp_path / named} is found"), sentence
        assert said["-c"][1][-1] == sentence.replace("error", "ImportError")
    else:
        assert said["-m"] == (2, ["error: --steps is 0, expected at least 1; correct the flag."]) and not said["-c"][0]


def test_the_engines_look_for_common_alike():
    assert len({(ROOT / name / "conflict.py").read_text() for name in PACKAGES}) == 1


def test_the_version_of_a_package_installed_under_another_name():
    """As tensorflow by tensorflow-tpu."""
    assert version("cv2") == importlib.metadata.version("opencv-python-headless")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        version("no_such_package")


def test_the_wheel_is_complete_and_small(wheel):
    with zipfile.ZipFile(next(wheel.parent.glob("*.whl"))) as archive:  # the folder also has what commands compiled
        sizes = {entry.filename: entry.file_size for entry in archive.infolist() if not entry.is_dir()}
    files = sizes.keys()
    assert {"weights/manifest.json", "weights/BiT-T-R26x0.5.npz", "weights/BiT-T-R26x0.5.json"} <= files
    assert {f"weights/SigLIP-T_8.{ending}" for ending in ("model", "npz", "json")} <= files
    assert {"common/cifar10-sample.zip", "common/download.py", "bit_tf2/resnet.py"} <= files
    assert not any(file.startswith(("tests/", "scripts/")) for file in files)
    most = {"weights/BiT-T-R26x0.5.npz": 16e6, "weights/SigLIP-T_8.npz": 7e6, "common/cifar10-sample.zip": 2e6}
    most |= {"common/captions-sample.zip": 3e6}
    assert all(sizes.pop(file) < size for file, size in most.items())
    assert sum(sizes.values()) < 3e6


@pytest.mark.parametrize("path", sorted(ROOT.glob("constraints*.txt")), ids=lambda path: path.name)
def test_constraints_hold_names_and_versions_only(path):
    for line in path.read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line), line


def constraints(name: str) -> dict[str, str]:
    """{package: version} of a file."""
    return dict(line.split("==") for line in (ROOT / name).read_text().splitlines())


@pytest.mark.parametrize(
    ("extra", "device", "engine", "others"),
    [
        ("pytorch-tpu", "torch-tpu", "torch", {}),
        ("tf2-tpu", "tensorflow-tpu", "tensorflow-tpu", {"tensorboard": "2.20.0"}),
    ],
)
def test_tpus_have_constraints_of_their_own(extra, device, engine, others):
    """They pin what the extra names, `others` apart in the versions that were tested; two TensorFlows cannot be one."""
    ours, tested = constraints(f"constraints-{extra}.txt"), constraints("constraints.txt")
    assert {device, engine, "libtpu", "gcsfs", "array-record"} <= ours.keys()
    assert {name: version for name, version in ours.items() if tested.get(name, version) != version} == others
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(re.match(rf"{device}\b", requirement) for requirement in extras[extra])
    assert "tensorflow" not in ours and "bit-zoo[tf2]" not in extras["tf2-tpu"]
