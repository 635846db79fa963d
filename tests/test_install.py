"""What people install: the wheel and the constraints."""

import os
import re
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT
from engines import INSTALLED


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


@pytest.mark.parametrize("name", INSTALLED)
def test_the_wheel_trains_without_the_checkout(wheel, name, tmp_path):
    code = (
        f"import sys, common.models as m; assert m.__file__.startswith({str(wheel)!r}); "
        f"import runpy; sys.argv[1:] = '--steps 2 --batch 4 --resize 36 --crop 32'.split(); "
        f"runpy.run_module('{name}.train', run_name='__main__')"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment["PYTHONPATH"] = str(wheel)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/*/weights.npz"))) == 1


def test_the_wheel_is_complete_and_small(wheel):
    files = {str(path.relative_to(wheel)) for path in wheel.rglob("*") if path.is_file()}
    assert {"weights/manifest.json", "weights/BiT-T-R26x0.5.npz", "weights/BiT-T-R26x0.5.json"} <= files
    assert {"common/cifar10-sample.zip", "bit_tf2/resnet.py"} <= files
    assert not any(file.startswith(("tests/", "scripts/")) for file in files)
    assert sum((wheel / file).stat().st_size for file in files) < 20e6


def test_constraints_hold_names_and_versions_only():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line), line
