"""Where results go, and how commands end when nobody takes them."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from processes import ROOT

from common.data.sources.folder import SAMPLE
from common.system.errors import exit_with_sentence

COMMANDS = {  # what prints something without a framework
    "help": ("common.vtab", "--help"),
    "inspect": ("common.convert", "--inspect", str(ROOT / "weights" / "BiT-T-R26x0.5.npz")),
}


def start(*argv, code: str = "", **options) -> subprocess.Popen:
    """`python -m ARGV...`, after `code`."""
    code += f"\nimport runpy, sys\nsys.argv = {list(argv)!r}\nrunpy.run_module({argv[0]!r}, run_name='__main__')"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize("buffered", ("", "1"))
@pytest.mark.parametrize("argv", COMMANDS.values(), ids=COMMANDS)
def test_a_closed_pipe_ends_a_command_quietly(argv, buffered, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", buffered)
    with start(*argv, code="import time; time.sleep(0.1)", stdout=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() in (141, 0)  # argparse takes no notice


@pytest.mark.parametrize("buffered", ("", "1"))
def test_results_that_a_full_disk_does_not_take_are_one_sentence(buffered, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", buffered)
    with open("/dev/full", "w") as full, start(*COMMANDS["inspect"], stdout=full) as process:
        assert process.stderr.read() == (
            "error: Cannot write (No space left on device); free the disk, or choose another place.\n"
        )
        assert process.wait() == 2


def test_a_command_without_standard_output_runs():
    with start(*COMMANDS["inspect"], code="import sys; sys.stdout = None") as process:
        assert process.stderr.read() == "" and process.wait() == 0


@pytest.fixture
def photos(tmp_path):
    """A folder of images."""
    import zipfile

    with zipfile.ZipFile(SAMPLE) as archive:
        names = [name for name in archive.namelist() if name.startswith("test/cat/") and not name.endswith("/")]
        archive.extractall(tmp_path, names[:24])
    return tmp_path / "test"


@pytest.mark.parametrize(
    ("output", "status"), [(("--output", "out.npz"), 0), pytest.param((), 141, marks=pytest.mark.slow)]
)
def test_predict_whose_reader_leaves_ends_quietly_and_its_output_is_complete(photos, tmp_path, output, status):
    """Results alone stand on stdout; what else there is to say, on stderr."""
    pytest.importorskip("torch")
    flags = ("--model", "ViT-mu/16", "--weights", "none", "--workers", "1", "--batch_eval", "4", str(photos), *output)
    code = "import bit_pytorch.inference"  # imports the framework: the reader has left long before the first result
    with start("bit_pytorch.predict", *flags, code=code, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait() == status, said
    assert said == "No card with class names lies beside the weights: classes are shown by number.\n"
    if output:
        with np.load(tmp_path / "out.npz") as found:
            assert found["logits"].shape[0] == len(found["files"]) == 24 and np.isfinite(found["features"]).all()


# --- Ctrl-C

INTERRUPT = """
import os, signal, sys
from importlib.abc import MetaPathFinder
class AtImport(MetaPathFinder):
    def find_spec(self, name, *rest):
        if name == {name!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, AtImport())
"""


@pytest.mark.parametrize(
    "module", ("bit_jax.train", "bit_tf2.predict", "common.report", "common.convert", "common.vtab")
)
def test_ctrl_c_while_modules_are_imported_shows_nothing(module, tmp_path):
    """In the first moment of a command, before it has looked at its flags."""
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT.format(name="numpy"))
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], check=False, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_ctrl_c_in_a_command_is_pythons_again(monkeypatch):
    """So that what it was writing is cleared away."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # as common/system/quiet.py leaves it
    try:
        with pytest.raises(SystemExit) as caught, exit_with_sentence():
            signal.raise_signal(signal.SIGINT)
        assert caught.value.code == 130
    finally:
        signal.signal(signal.SIGINT, before)


def test_only_our_commands_change_what_ctrl_c_does(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import signal, common.system.quiet; print(signal.getsignal(signal.SIGINT))"],
        check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert "default_int_handler" in done.stdout
