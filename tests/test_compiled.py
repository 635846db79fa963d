"""Programs that XLA compiled are kept between commands of the JAX engine, whatever interrupted the one before."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from engines import INSTALLED

pytestmark = pytest.mark.skipif("bit_jax" not in INSTALLED, reason="JAX is not installed")
PROGRAM = """
from bit_jax.compiled import keep_compiled
keep_compiled()
import jax, jax.monitoring
found = []
jax.monitoring.register_event_listener(lambda name, **_: found.append(name.split("/")[-1]))
print(float(jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((8, 8)))))
print(found.count("cache_hits"), found.count("cache_misses"))
"""


def compute(cache: Path) -> tuple[int, int]:
    """(programs found, programs compiled and kept) of a process that compiles some."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    number, counts = done.stdout.splitlines()
    assert number == "512.0"
    return tuple(map(int, counts.split()))


def test_programs_are_found_again_and_written_again_after_an_interruption(tmp_path):
    found, kept = compute(tmp_path)
    assert not found and kept
    assert compute(tmp_path) == (kept, 0)
    programs = list(tmp_path.glob("bit-zoo/jax/*/*-cache"))
    assert len(programs) == kept
    torn = programs[0]
    torn.write_bytes(torn.read_bytes()[:10])
    torn.with_name(torn.name.removesuffix("-cache") + "-atime").unlink()  # is written last
    assert compute(tmp_path) == (kept - 1, 1)
    assert compute(tmp_path) == (kept, 0)


def test_a_folder_that_cannot_be_written_only_costs_time(tmp_path):
    (tmp_path / "bit-zoo").write_text("a file in the folder's place")
    assert compute(tmp_path) == (0, 0)
