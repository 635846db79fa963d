"""The three engines have the same files, public names and signatures."""

import ast
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ("bit_pytorch", "bit_jax", "bit_tf2")
ALONE = {
    "bit_pytorch": {"datasets.py", "import_weights.py"},  # torchvision:NAME and pickles exist in one engine only
    "bit_jax": {"compiled.py", "import_weights.py"},  # XLA's programs are kept between commands; orbax is JAX's
    "bit_tf2": {"keras_model.py"},  # what Keras's own models offer
}
# Files in which an engine has means of its own; a name that two of them have is the same in all, also there.
MEANS = ("devices.py", "exporters.py", "layers.py")
OTHERWISE = {  # what else is not the same in all three, and why
    "The first TensorFlow of a process decides on Keras's backend, and imports what it finds.": {
        "__init__.py:import_tensorflow", "__init__.py:UNUSED", "__init__.py:hidden",
    },
    "PyTorch runs as it reads; the others compile functions of their own around the same calls.": {
        "loop.py:Found", "loop.py:zeros", "loop.py:dense", "loop.py:add_gradients", "loop.py:compiled_step", "optim.py:compiled_update",
        "optim.py:compiled_ascent", "optim.py:update_alike", "optim.py:update_on_one", "optim.py:Params",
        "optim.py:Path", "optim.py:without_across", "optim.py:exchange", "loop.py:add", "loop.py:add_sharp", "loop.py:compiled_update",
        "loop.py:cut", "loop.py:unpacked", "optim.py:at_once", "optim.py:FUSED", "optim.py:fused_adam", "optim.py:stepped",
    },
    "A compiled function of JAX takes a model in parts.": {
        "optim.py:Split", "optim.py:Split.parameters", "optim.py:SPLITS", "optim.py:split", "optim.py:values",
        "optim.py:Optimizer.params",
    },
    "PyTorch turns kernels and has its own names for parameters, which shards and wrappers change.": {
        "optim.py:WRAPPERS", "optim.py:canonical_name", "optim.py:turned", "optim.py:normalized", "weights.py:fill", "weights.py:to_tensor",
        "weights.py:to_array", "weights.py:to_arrays", "weights.py:to_value",
    },
    "Eager PyTorch keeps these numbers on the device; a compiled graph holds them.": {"losses.py:constants", "vqvae.py:matrices"},
    "Keras's own, or inherited from PyTorch's layers, or kept by them as a buffer.": {
        "model.py:Model.compute_dtype", "model.py:Model.call", "layers.py:fixed_positions", "layers.py:fixed_rotation",
        *(f"layers.py:{layer}.__init__" for layer in ("Dense", "GroupNorm", "LayerNorm", "PatchEmbedding", "StdConv")),
        "mixer.py:Mixer.call", "vit.py:ViT.call", "two_towers.py:TwoTowers.call",
    },
    "Each framework exchanges between devices at another moment.": {
        "devices.py:Devices.gather", "devices.py:Devices.sum", "devices.py:Devices.whole", "devices.py:find_tpu",
    },
    "Each framework has a way of its own to state a gradient.": {
        "similarity.py:Chunks", "similarity.py:Chunks.call", "similarity.py:Chunks.backward", "similarity.py:chunks",
        "similarity.py:chunks_forward", "similarity.py:chunks_backward", "similarity.py:product", "similarity.py:WIDTH",
        "similarity.py:HEIGHT", "similarity.py:by_chunks", "similarity.py:logits_of_pairs", "similarity.py:slopes_of_products",
        "layers.py:group_norm", "layers.py:group_mean",
    },
    "Exported programs are modules of the framework.": {
        "exporters.py:Exported", "exporters.py:Exported.__init__", "exporters.py:Exported.call",
    },
}  # fmt: skip


def signature(function: ast.FunctionDef) -> str:
    """Argument names in order, `*` before those by name; without what Keras's constructors pass on."""
    spec = function.args
    names = [argument.arg for argument in (*spec.posonlyargs, *spec.args)]
    names += [f"*{spec.vararg.arg}"] if spec.vararg else ["*"] * bool(spec.kwonlyargs)
    names += [argument.arg for argument in spec.kwonlyargs]
    return ", ".join(names + [f"**{arg.arg}" for arg in (spec.kwarg,) if arg and arg.arg != "kwargs"])


def faces(node: ast.stmt) -> dict[str, str]:
    """{public name: what it is} of one statement of a module: a value, a function's arguments, a class and its methods.

    `forward`, `call` and `__call__` are one name.
    """
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {target.id: "value" for target in targets if isinstance(target, ast.Name)}
    if isinstance(node, ast.FunctionDef):
        return {node.name: signature(node)}
    if not isinstance(node, ast.ClassDef):
        return {}
    methods = [member for member in node.body if isinstance(member, ast.FunctionDef)]
    called = {"forward": "call", "__call__": "call"}
    return {node.name: "class"} | {f"{node.name}.{called.get(m.name, m.name)}": signature(m) for m in methods}


def names(engine: str) -> dict[str, str]:
    """{file:public name: what it is} of an engine, read without importing it."""
    found = {}
    for path in sorted((ROOT / engine).glob("*.py")):
        if path.name not in ALONE.get(engine, ()):
            for node in ast.parse(path.read_text()).body:
                found |= {f"{path.name}:{name}": face for name, face in faces(node).items()}
    return {name: face for name, face in found.items() if not is_private(name)}


def is_private(name: str) -> bool:
    """Whether a name begins with an underscore, or is one of Python's own but for constructors."""
    last = name.split(":")[1].split(".")[-1]
    return last.startswith("_") and last != "__init__"


def different() -> set[str]:
    """The names that are not the same in the three engines, but for one engine's own means."""
    engines = [names(engine) for engine in ENGINES]
    found = {name for name in set().union(*engines) if len({engine.get(name) for engine in engines}) > 1}
    own = {name for name in found if name.startswith(MEANS) and sum(name in engine for engine in engines) == 1}
    return found - own


def test_same_files():
    files = {e: {p.name for p in (ROOT / e).glob("*.py")} - ALONE.get(e, set()) for e in ENGINES}
    assert files["bit_pytorch"] == files["bit_jax"] == files["bit_tf2"]


def test_same_names_and_signatures():
    """Every public name, whether value, class or function, and every argument; and no exception that is none any more."""
    assert sorted(different()) == sorted(set().union(*OTHERWISE.values()))


@pytest.mark.parametrize(
    "change",
    [
        ("loop.py", "def train_step(\n    models: ", "def train_step(\n    model: "),
        (
            "optim.py",
            "def update(optimizer: Optimizer, recipe: Recipe, ",
            "def update(recipe: Recipe, optimizer: Optimizer, ",
        ),
        ("losses.py", "LOSSES: ", "COSTS: "),
        ("outputs.py", "def score(logits: Tensor, batch: ", "def score(logits: Tensor, rows: "),
    ],
    ids=lambda change: change[0],
)
def test_a_difference_of_one_engine_is_seen(change, tmp_path, monkeypatch):
    file, before, after = change
    for engine in ENGINES:
        shutil.copytree(ROOT / engine, tmp_path / engine, ignore=shutil.ignore_patterns("__pycache__"))
    text = (tmp_path / "bit_tf2" / file).read_text()
    assert before in text
    (tmp_path / "bit_tf2" / file).write_text(text.replace(before, after))
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert any(name.startswith(f"{file}:") for name in different() - set().union(*OTHERWISE.values()))


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
