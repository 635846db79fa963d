"""`common/` runs on a machine without any framework: importing all of it imports none."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "common").rglob("*.py")
    if "__" not in path.name
)
SCRIPT = """
import importlib, sys

FRAMEWORKS = {"torch", "torchvision", "jax", "jaxlib", "flax", "optax", "tensorflow", "keras", "tf_keras", "timm", "transformers"}


class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FRAMEWORKS:
            raise ImportError(f"{name} was imported")


sys.meta_path.insert(0, Block())
for module in sys.argv[1:]:
    importlib.import_module(module)
slow = {"matplotlib.pyplot", "scipy", "cv2", "tensorflow_datasets"} & set(sys.modules)
assert not slow, f"{slow} belongs into the functions that need it"
"""


def test_no_module_of_common_imports_a_framework():
    assert len(MODULES) > 15 and "common.formats.bit" in MODULES
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *MODULES], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
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
