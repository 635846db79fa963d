"""`export`: a graph in every format gives the engine's logits of any number of images, and tells how they are made."""

import importlib
import json

import pytest
from engines import INSTALLED
from tiny_models import CONFIGS, MAP_MODELS, TEXTS, WRITERS, random_arrays

from common.config import ExportConfig
from common.runs.export import FORMATS, Export
from common.system.errors import UserError
from common.weights import write_weights

CARD = {"class_names": list("abcde"), "resolution": 32, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
HERE = [to for to in FORMATS if FORMATS[to][0] in INSTALLED]
KINDS = [(to, "vit_token") for to in HERE] + [pytest.param(to, "bit", marks=pytest.mark.slow) for to in HERE]


def written(folder, to: str, name: str, **flags):
    """The target of an export of a tiny model."""
    engine, suffix = FORMATS[to]
    write_weights(folder / "weights.npz", random_arrays(CONFIGS[name]), CONFIGS[name])
    card = json.loads((folder / "card.json").read_text()) if (folder / "card.json").exists() else {}
    (folder / "card.json").write_text(json.dumps(card | CARD))
    flags = {"weights": str(folder / "weights.npz"), "to": to, "output": str(folder / f"graph{suffix}")} | flags
    job = Export(ExportConfig(**flags), engine)
    importlib.import_module(f"{engine}.export").load_main()(job)
    return job


@pytest.mark.parametrize(("to", "name"), KINDS)
def test_a_graph_is_written_and_read_back(tmp_path, capsys, to, name):
    """The command itself compares logits of one, two and five images, in the program that runs the format."""
    job = written(tmp_path, to, name, preprocess=name == "bit")
    said = capsys.readouterr()
    assert said.out.startswith(f"Wrote {job.target}: {to}, ") and "Read back" in said.err
    suffix = FORMATS[to][1]
    card = job.target.with_suffix(".json") if suffix else job.target / "assets.extra" / "card.json"
    facts = json.loads(card.read_text())
    assert CARD.items() <= facts.items() and ("uint8" in facts["images"]) == (name == "bit")
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(UserError, match="exists; "):
        written(tmp_path, to, name)
    if to == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(job.target.read_bytes())
        assert session.get_modelmeta().custom_metadata_map["mean"] == json.dumps(CARD["mean"])
        assert session.get_inputs()[0].shape[1:] == [[3, 32, 32], [32, 32, 3]][name == "bit"]


@pytest.mark.skipif("bit_tf2" not in INSTALLED, reason="TensorFlow is not installed")
def test_litert_in_float64_is_refused_before_it_is_converted(tmp_path):
    with pytest.raises(UserError, match="--precision is float64 and LiteRT computes in float32"):
        written(tmp_path, "litert", "bit", precision="float64")
    assert {path.name for path in tmp_path.iterdir()} == {"weights.npz", "card.json"}


def test_a_wrong_graph_is_not_written(tmp_path, monkeypatch):
    to = next(to for to in ("stablehlo", "torch_export", "saved_model") if FORMATS[to][0] in INSTALLED)
    right = Export.check
    monkeypatch.setattr(Export, "check", lambda job, run: right(job, lambda images: run(images) + 0.01))
    with pytest.raises(UserError, match=f"^{to} gives other logits than the engine"):
        written(tmp_path, to, "vit_token")
    assert {path.name for path in tmp_path.iterdir()} == {"weights.npz", "card.json"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"to": None}, "--to is missing and bit_jax writes stablehlo"),
        ({"to": "onnx"}, "--to is onnx and bit_jax writes stablehlo; bit_pytorch writes that"),
        ({"output": "graph.onnx"}, "expected a name that ends in .stablehlo"),
        ({"output": None}, "expected a name that ends in .stablehlo"),
        ({"precision": "bfloat16"}, "--precision is bfloat16"),
    ],
)
def test_flags_that_do_not_go_together_are_one_sentence(flags, words):
    with pytest.raises(UserError, match=words):
        Export(ExportConfig(**{"to": "stablehlo", "output": "graph.stablehlo"} | flags), "bit_jax")


@pytest.mark.parametrize("name", TEXTS | WRITERS | MAP_MODELS)
def test_a_model_of_more_than_images_is_refused(tmp_path, name):
    config = (TEXTS | WRITERS | MAP_MODELS)[name]
    write_weights(tmp_path / "weights.npz", random_arrays(config), config)
    flags = {"weights": str(tmp_path / "weights.npz"), "to": "stablehlo", "output": str(tmp_path / "graph.stablehlo")}
    with pytest.raises(UserError, match="takes .*, and graphs here take images alone; export another"):
        Export(ExportConfig(**flags), "bit_jax")
