"""The three engines have the same files, public names and signatures."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ("bit_pytorch", "bit_jax", "bit_tf2")
ALONE = {"bit_pytorch": {"datasets.py", "import_weights.py"}}  # torchvision:NAME and pickles exist in one engine only
SHARED = ("create_model", "load_weights", "save_weights", "preprocess", "decode_predictions", "known", "unwrapped", "build", "shapes", "dump", "load", "dump_optimizer", "load_optimizer",
          "create_optimizer", "ascended", "sharpness_aware", "scale", "swap_pairs", "mixed", "noise", "cross_entropy", "softmax_cross_entropy", "sigmoid_cross_entropy", "classification", "gradients", "update", "train_step", "score", "scores", "eval_step", "evaluate", "to_device", "Devices.__init__", "main",
          "predict", "predict_and_score", "evaluate_main", "predict_main", "load_main", "max_pool",
          "Bottleneck.__init__", "ResNet.__init__", "ResNet.features", "ResNet.intermediates", "Backbone.intermediates", "ViT.intermediates", "Mixer.intermediates", "on_grid",
          "Model.class_names", "Model.num_params", "Model.reset_head", "ResNetV1.features", "Backbone.__init__",
          "Backbone.features", "Stem.__init__", "conv", "norm", "ViT.__init__", "ViT.features", "ViT.embed", "ViT.pooled",
          "AttentionPool.__init__", "Block.__init__", "Mixer.__init__", "Mixer.features", "Model.__init__", "Model.dtype",
          "Model.device", "Mlp.__init__",
          "Attention.__init__", "gelu", "dropout", "random_bits", "drop_branch")  # fmt: skip


def signatures(engine: str) -> dict[str, list[str]]:
    """{file:function: argument names} of an engine, read without importing it."""
    found = {}
    for path in sorted((ROOT / engine).glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            members = node.body if isinstance(node, ast.ClassDef) else [node]
            prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
            for member in members:
                if isinstance(member, ast.FunctionDef):
                    arguments = [a.arg for a in (*member.args.posonlyargs, *member.args.args, *member.args.kwonlyargs)]
                    found[f"{path.name}:{prefix}{member.name}"] = arguments
    return found


def test_same_files():
    files = {e: {p.name for p in (ROOT / e).glob("*.py")} - ALONE.get(e, set()) for e in ENGINES}
    assert files["bit_pytorch"] == files["bit_jax"] == files["bit_tf2"]


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_same_signatures(engine):
    reference, found = signatures("bit_pytorch"), signatures(engine)
    alone = tuple(f"{file}:" for file in ALONE["bit_pytorch"])
    shared = [name for name in reference if name.partition(":")[2] in SHARED and not name.startswith(alone)]
    assert {name.partition(":")[2] for name in shared} == set(SHARED)
    assert {name: found.get(name) for name in shared} == {name: reference[name] for name in shared}


def test_main_is_the_same_text():
    """Only the framework's name and the opener of torchvision's datasets may differ."""
    texts = []
    for engine in ENGINES:
        source = (ROOT / engine / "loop.py").read_text()
        text = source[source.index("def main(") :].replace(engine, "ENGINE").replace(", open_torchvision", "")
        for framework in ("getattr(torch,", "getattr(jnp,", "getattr(tf,"):
            text = text.replace(framework, "getattr(FRAMEWORK,")
        texts.append(text)
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize("engine", ENGINES)
def test_no_engine_imports_another(engine):
    for path in (ROOT / engine).glob("*.py"):
        for other in set(ENGINES) - {engine}:
            assert other not in path.read_text(), path
