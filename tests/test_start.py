"""What a command imports before its first step: most of that time, and twice as much with what it never uses."""

import importlib
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from engines import INSTALLED
from tiny_models import CONFIGS

from common.models.initial import initial_parameters
from common.recipes.recipe import Recipe

NUMBERS = {
    "name": "", "batch": 2, "batch_split": 1, "batch_eval": 2, "lrs": (0.1,), "resize": 32, "crop": 32,
    "crop_min_area": 1.0, "mixup": 0.0, "weight_decay": 1e-4,
}  # fmt: skip
STEP = """
import sys
from tiny_models import CONFIGS
from bit_pytorch.train import load_main
from bit_pytorch import api, optim
from common.models.initial import initial_parameters
from common.recipes.recipe import Recipe
import torch
load_main()
from bit_pytorch import loop
recipe = Recipe(name="", batch=2, batch_split=1, batch_eval=2, lrs=(0.1,), resize=32, crop=32, crop_min_area=1.0,
                mixup=0.0, momentum=0.9, weight_decay=1e-4, clip=1.0)
config = next(iter(CONFIGS.values()))
model = api.build(config, initial_parameters(0, config))
batch = {"images": torch.zeros(2, 32, 32, 3, dtype=torch.uint8), "labels": torch.zeros(2, dtype=torch.int64)}
loop.train_step({"model": model}, optim.create_optimizer(model, recipe), batch, recipe, step=0)
assert not {"sympy", "torch.distributed.tensor", "torch._dynamo"} & set(sys.modules)
"""
IMPORT = """
import sys
from bit_tf2 import UNUSED
from bit_tf2.train import load_main
load_main()
assert "tensorflow" in sys.modules and not set(UNUSED) & set(sys.modules)
import scipy
"""


def run(program: str) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", program], check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif("bit_pytorch" not in INSTALLED, reason="PyTorch is not installed")
def test_a_step_of_pytorch_needs_no_symbols():
    run(STEP)


@pytest.mark.slow
@pytest.mark.skipif("bit_tf2" not in INSTALLED, reason="TensorFlow is not installed")
def test_a_command_of_tensorflow_imports_nothing_unused():
    run(IMPORT)


@pytest.mark.skipif("bit_jax" not in INSTALLED, reason="JAX is not installed")
def test_an_optimizer_of_jax_is_made_by_one_program_for_each_part():
    """Array by array, every shape would be one: of the embedded default that was half a second."""
    import jax.monitoring

    from bit_jax import api, optim

    model = api.build(CONFIGS["bit"], initial_parameters(0, CONFIGS["bit"]))
    jax.clear_caches()
    compiled = []
    note = lambda name, seconds, **_: compiled.append(name) if "backend_compile" in name else None
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        optimizer = optim.create_optimizer(model, Recipe(**NUMBERS, optimizer="adam", ema=0.5))
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert sorted(optimizer.state) == ["average", "first", "second"]
    assert len(compiled) == 3


def test_hidden_packages_are_found_again():
    from bit_tf2 import hidden

    for module in (None, sys):  # not imported before, and imported before
        with pytest.MonkeyPatch.context() as patch:
            patch.delitem(sys.modules, "wave", raising=False)
            if module:
                patch.setitem(sys.modules, "wave", module)
            with pytest.raises(RuntimeError), hidden(("wave",)):
                if module is None:
                    with pytest.raises(ModuleNotFoundError):
                        importlib.import_module("wave")
                assert sys.modules["wave"] is module
                raise RuntimeError
            assert sys.modules.get("wave") is module
            assert importlib.import_module("wave") is not None
