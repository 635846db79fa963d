"""Runs with LoRA: stopped and continued, in another engine, too; the merged weights, and what is left for peft."""

import json
from pathlib import Path

import numpy as np
import pytest
from engines import INSTALLED
from jobs import places_of
from safetensors.numpy import load_file
from test_flexivit_runs import FLAGS as RUN
from test_flexivit_runs import ORDERS, train

from common.convert import convert
from common.models import find_model
from common.models.initial import initial_parameters
from common.models.low_rank import merged
from common.recipes.lora import TARGETS, Lora
from common.runs.checkpoint import CURRENT, read
from common.system.errors import UserError
from common.weights.source import read_model
from common.weights.writing import write_weights

FLAGS = {"patch_size": None, "patch_sizes": None, "lora_rank": 4, "lora_alpha": 8.0}
CONFIG = find_model("ViT-mu/16").config(10).at((32, 32))


def check_what_is_left(folder: Path) -> dict[str, np.ndarray]:
    """The merged weights are those at the start, the seed's, and alpha / rank * B @ A of what peft reads; returns it."""
    adapter, facts = load_file(folder / "adapter.safetensors"), json.loads((folder / "adapter_config.json").read_text())
    found, start = read_model(folder / "weights.npz"), initial_parameters(0, CONFIG)
    assert found.config == CONFIG
    assert (facts["peft_type"], facts["r"], facts["lora_alpha"]) == ("LORA", 4, 8.0)
    assert facts["modules_to_save"] == ["classifier"]
    for part, module in (("query", "q_proj"), ("value", "v_proj")):
        module = f"vit.layers.0.attention.{module}"
        a, b = (adapter.pop(f"base_model.model.{module}.lora_{matrix}.weight") for matrix in "AB")
        assert module in facts["target_modules"] and a.shape == (4, 32) and b.shape == (32, 4) and np.abs(b).min() > 0
        kernel = start.pop(f"blocks/0/attn/{part}/kernel") + 2 * (b @ a).T
        np.testing.assert_allclose(found.arrays[f"blocks/0/attn/{part}/kernel"], kernel, rtol=1e-12, atol=1e-14)
    for name, leaf in (("kernel", "weight"), ("bias", "bias")):
        head = adapter.pop(f"base_model.model.classifier.{leaf}")
        np.testing.assert_array_equal(found.arrays[f"head/{name}"], head.T)
        assert np.abs(start.pop(f"head/{name}") - head.T).max() > 0
    assert not adapter and len(facts["target_modules"]) == 2
    for name, array in start.items():
        np.testing.assert_array_equal(found.arrays[name], array, err_msg=name)
    return found.arrays


@pytest.mark.parametrize(("first", "second"), ORDERS)
def test_a_run_goes_on(first, second, monkeypatch, tmp_path):
    """After the checkpoint of step 3, in the same engine or in another one, and ends with the same weights."""
    whole = train(INSTALLED[0], tmp_path, name="whole", **FLAGS)
    train(first, tmp_path, monkeypatch, **FLAGS)
    held = read(tmp_path / "runs" / "a" / CURRENT).arrays
    names = {name.removeprefix("optimizer/first/") for name in held if name.startswith("optimizer/first/")}
    layers = ("query", "value")
    lora = {f"blocks/0/attn/{layer}/{matrix}" for layer in layers for matrix in ("lora_a", "lora_b")}
    assert names == lora | {"head/kernel", "head/bias"} and {f"model/{name}" for name in lora} < held.keys()
    with pytest.raises(UserError, match="lora_rank"):
        train(first, tmp_path, **FLAGS | {"lora_rank": 5})
    losses = train(second, tmp_path, **FLAGS)
    np.testing.assert_allclose(losses, whole, rtol=1e-9)
    expected, found = (check_what_is_left(tmp_path / "runs" / name) for name in ("whole", "a"))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("name", [INSTALLED[0], *(pytest.param(one, marks=pytest.mark.slow) for one in INSTALLED[1:])])
def test_the_best_weights_are_kept_with_their_matrices(name, monkeypatch, tmp_path):
    """Of the first evaluation, as if none that follows were better; merged at the end, and left for peft."""
    monkeypatch.setattr("common.runs.run.is_better", lambda metric, value, best: best is None)
    train(name, tmp_path, name="a", keep_best=True, eval_every="4", checkpoint_every=4, val_fraction=0.1, **FLAGS)
    folder, lora = tmp_path / "runs" / "a", Lora(4, 8.0, TARGETS)
    with np.load(folder / "best.npz") as file:
        best = {key: file[key] for key in file.files}
    check_what_is_left(folder)
    assert "blocks/0/attn/query/lora_b" in best
    found, at_the_end = read_model(folder / "weights.npz").arrays, read(folder / CURRENT).arrays
    for key, array in merged(best, lora).items():
        np.testing.assert_allclose(found[key], array, rtol=1e-12, atol=1e-14, err_msg=key)
    assert np.abs(best["head/kernel"] - at_the_end["model/head/kernel"]).max() > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of peft, for transformers
def test_peft_computes_what_the_merged_model_does(tmp_path):
    """The adapter on Hugging Face's model of the weights at the start, by peft itself; its logits are those of ours, merged."""
    peft, torch = (pytest.importorskip(name) for name in ("peft", "torch"))
    transformers = pytest.importorskip("transformers")
    train(INSTALLED[0], tmp_path, name="a", **FLAGS)
    write_weights(tmp_path / "start.npz", initial_parameters(0, CONFIG), CONFIG)
    models = []
    for name in ("start.npz", "runs/a/weights.npz"):
        path = convert(tmp_path / name, tmp_path / Path(name).parent.name / "hf", "huggingface")
        model = transformers.ViTForImageClassification.from_pretrained(path.parent, dtype=torch.float64)
        models.append(model.eval())
    folder = tmp_path / "runs" / "a"
    adapted = peft.get_peft_model(models[0], peft.LoraConfig.from_pretrained(folder))
    images = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (3, 3, 32, 32)))
    with torch.no_grad():
        before = adapted(images).logits
        adapter = {key: torch.from_numpy(value) for key, value in load_file(folder / "adapter.safetensors").items()}
        said = peft.set_peft_model_state_dict(adapted, adapter)
        assert not said.unexpected_keys
        found, expected = adapted.eval()(images).logits, models[1](images).logits
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert (found - before).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("flag", ((), ("--shard_parameters",)))
@pytest.mark.parametrize("name", INSTALLED)
def test_two_processes_train_as_one(name, server, run, tmp_path, flag):
    """Whole or in shards; the merged weights and what is left for peft are the first process's."""
    if flag and name == "bit_tf2":
        pytest.skip("TensorFlow keeps all parameters on every device")
    flags = {key: value for key, value in (RUN | FLAGS).items() if value is not None}
    flags = [word for key, value in flags.items() for word in (f"--{key}", value)]
    run(f"{name}.train", *flags, "--name", "one")
    started = [
        server(name).start(f"{name}.train", (*flags, "--name", "two", *flag), tmp_path, {"CUDA_VISIBLE_DEVICES": ""} | place)
        for place in places_of(2)
    ]  # fmt: skip
    assert [process.wait(300) for process in started] == [0, 0], started[0].output
    one, two = (check_what_is_left(tmp_path / "runs" / which) for which in ("one", "two"))
    for key, array in one.items():
        np.testing.assert_allclose(two[key], array, rtol=1e-6, atol=1e-7, err_msg=key)
