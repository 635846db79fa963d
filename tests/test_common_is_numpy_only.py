"""`common/` runs on a machine without any framework: importing all of it imports none."""

from conftest import ROOT
from processes import run_without

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "common").rglob("*.py")
    if "__" not in path.name
)
FRAMEWORKS = (
    "torch", "torchvision", "jax", "jaxlib", "flax", "optax", "tensorflow", "keras", "tf_keras", "timm", "transformers",
)  # fmt: skip
SCRIPT = """
import importlib
for module in sys.argv[1:]:
    importlib.import_module(module)
slow = {"matplotlib.pyplot", "scipy", "cv2", "tensorflow_datasets"} & set(sys.modules)
assert not slow, f"{slow} belongs into the functions that need it"
"""


def test_no_module_of_common_imports_a_framework():
    assert len(MODULES) > 15 and "common.weights.spellings.bit" in MODULES
    done = run_without(FRAMEWORKS, SCRIPT, *MODULES)
    assert done.returncode == 0, done.stderr


def test_no_module_of_common_names_a_framework_in_an_import():
    """Also not within functions; TFDS is read without TensorFlow."""
    import ast

    frameworks = {
        "torch",
        "torchvision",
        "jax",
        "flax",
        "optax",
        "tensorflow",
        "keras",
        "bit_pytorch",
        "bit_jax",
        "bit_tf2",
    }
    for module in MODULES:
        tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text())
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & frameworks, f"{module}:{node.lineno}"
