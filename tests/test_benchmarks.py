"""The benchmark's own arithmetic, and that its sections run."""

import argparse
import re
import subprocess
import sys

import numpy as np
import pytest
from processes import ROOT

from scripts.benchmarks import dearer, flops, gpu, memory, roofline
from scripts.benchmarks.index import write_folder
from scripts.benchmarks.measure import Repeat, show
from scripts.benchmarks.steps import PEERS, model_config

COUNTED = [  # but a FlexiViT, whose kernel is resized besides
    pytest.param(model, marks=() if model in ("BiT-S-R50x1", "ViT-Ti/16", "Mixer-S/32") else pytest.mark.slow)
    for model in PEERS
    if not model.startswith("Flexi")
]


def asked(model: str, **changes) -> argparse.Namespace:
    """The flags of the benchmark."""
    numbers = {"batch": 2, "resolution": PEERS[model][1], "precision": "float32", "steps": 1, "repeats": 1}
    return argparse.Namespace(**{"model": model, "compile": False, "engines": ("bit_pytorch",)} | numbers | changes)


@pytest.mark.parametrize("model", COUNTED)
def test_the_formulas_count_what_pytorch_counts(model):
    """Multiplications and additions of every product of a step, of a model without values."""
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from bit_pytorch.api import MODELS

    config, side = model_config(asked(model)), PEERS[model][1]
    with torch.device("meta"):
        network, images = MODELS[type(config)](config), torch.zeros(2, 3, side, side)
        with FlopCounterMode(display=False) as forward:
            logits = network(images)
        with FlopCounterMode(display=False) as backward:
            logits.sum().backward()
    counted = {"forward": forward.get_total_flops(), "backward": backward.get_total_flops()}
    step = flops.training_step(config, side, 2).flops
    found = {"forward": 2 * flops.forward_flops(config, side)}
    assert counted == found | {"backward": step - found["forward"]}


def test_a_table_shows_the_time_of_the_processor_beside_that_of_the_wall(capsys):
    show("Title", {"first": [Repeat(2.0, 1.0), Repeat(4.0, 3.0)], "second": [Repeat(6.0, 1.0)]}, "ms", 10)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[-2:] == [
        ["first", "30", "20", "..", "40", "1.00", "20", "1.00", "ms"],
        ["second", "60", "60", "..", "60", "2.00", "10", "0.50", "ms"],
    ]
    show("Title", {"first": [Repeat(2.0, 1.0)]}, "images/s")
    assert capsys.readouterr().out.splitlines()[-1].split() == ["first", "2", "2", "..", "2", "1.00", "images/s"]


def test_a_distilled_step_is_compared_with_its_two_parts(capsys, monkeypatch):
    figures = [[Repeat(4.0, 2.0)], [Repeat(1.0, 0.5)], [Repeat(6.0, 2.0)]]
    monkeypatch.setattr(dearer, "measure", lambda rows, repeats: dict(zip(rows, figures)))
    dearer.distillation_section(asked("BiT-S-R50x1"))
    assert capsys.readouterr().out.endswith("distilled / (plain + teacher's inference): 1.20, of CPU time 0.80\n")


def test_a_bound_is_the_longer_of_products_and_copies(capsys):
    given = asked("ViT-S/16", batch=8)
    step = flops.training_step(model_config(given), 224, 8)
    moved = 4 * (step.activations + step.parameters)
    roofline.show_bound(given, Repeat(2.0, 4.0), [step.flops, step.flops / 2], [2 * moved, moved / 3])
    wall, cpu = capsys.readouterr().out.splitlines()[1:]
    assert "0.50 of the product's; products 1.000 and copies 0.500, together 0.75 of it; bound by its products" in wall
    assert "products 2.000 and copies 3.000, together 1.25 of it; bound by what it moves, at least 0.75" in cpu


def test_the_peak_of_a_device_is_the_stated_one_or_that_of_a_product(monkeypatch):
    for accelerator, peak in (
        ("1 x NVIDIA H100 PCIe", 756e12),
        ("8 x NVIDIA H200", 989e12),
        ("1 x NVIDIA L40S", 362e12),
    ):
        monkeypatch.setattr(gpu, "accelerators", lambda found=accelerator: found)
        assert gpu.peak_flops(asked("ViT-S/16"), gpu.GPU)[1] == peak
    monkeypatch.setattr(gpu, "accelerators", lambda: "1 x NVIDIA X1")
    monkeypatch.setattr(gpu, "measure", lambda rows, repeats: {"product": [Repeat(2.0, 2.0)]})
    assert gpu.peak_flops(asked("ViT-S/16"), gpu.CPU) == ("a product of 512 x 512", 2 * 512**3 * 2 / 2.0)


def test_float64_on_the_device_equals_the_original(engine):
    """What the parity of the script computes, and that it sees an error."""
    name = "vit_jax_vit/tiny_token"
    outputs, trained = gpu.exactly(engine.name, (name,))
    assert outputs[name] < 1e-9 and gpu.verdict(outputs[name]) == "" and gpu.verdict(2e-9)
    assert all(value.dtype == np.float64 for value in trained[name].values())


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_on_a_cpu():
    command = [sys.executable, "-m", "scripts.benchmarks", "gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("left out") == done.stdout.count("without a figure") == done.stdout.count("MORE THAN") == 0
    assert len(re.findall(r"TFLOP/s of the model, \d+ % of the peak", done.stdout)) == 4 * len(gpu.CPU.steps), (
        done.stdout
    )
    assert len(re.findall(r"ms a step, [\d.]+ %; [\d.]+ images/s", done.stdout)) == 3, done.stdout


def test_predictions_are_measured_of_every_file(tmp_path):
    """The names of all are in the archive, and memory is counted from before they are known."""
    folder = write_folder(tmp_path / "set", 20) / "train"
    (known, written), seconds, count = memory.growth_of_predictions(folder, tmp_path / "out.npz")
    assert count == 20 and min(known, written) >= 0 and seconds > 0
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        assert file["files"].tolist() == sorted(map(str, folder.rglob("*.JPEG")))
        assert file["features"].shape == (20, 4) and len(file["logits"]) == 20
