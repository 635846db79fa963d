"""Run the notebooks of colabs/ from top to bottom, and store them with their outputs.

    python scripts/make_colabs.py [NAME...]      # all by default

`bit_pytorch.ipynb` is the source of `bit_jax.ipynb` and `bit_tf2.ipynb`, which differ from it in `WORDS` only: edit that
one. The kernel sees a copy of the checkout without a network, as in the tests, and leaves nothing behind.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
COLABS = ROOT / "colabs"
NAMES = (
    "bit_pytorch",
    "bit_jax",
    "bit_tf2",
    "compare_frameworks",
    "vit_and_mixer",
    "image_text",
    "captions_and_pictures",
    "analyze_metrics",
)
NOWHERE = "http://127.0.0.1:9"  # a proxy that refuses at once
CALL = """    with torch.inference_mode():
        return model(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1).numpy()  # NCHW in [-1, 1]"""
WORDS = {  # notebook -> {words of bit_pytorch.ipynb: its own}
    "bit_jax": {
        "bit_pytorch": "bit_jax",
        ".[pytorch]": ".[jax]",
        "PyTorch": "JAX",
        "`torch.nn.Module`": "`flax.nnx.Module`",
        "import torch\n": "from jax import numpy as jnp\n",
        CALL: "    return np.asarray(model(jnp.asarray(images) / 127.5 - 1))  # NHWC in [-1, 1]",
    },
    "bit_tf2": {
        "bit_pytorch": "bit_tf2",
        ".[pytorch]": ".[tf2]",
        "PyTorch": "TensorFlow 2",
        "`torch.nn.Module`": "`keras.Model`",
        "import torch\n": "import tensorflow as tf\n",
        CALL: "    return model(tf.cast(images, tf.float32) / 127.5 - 1).numpy()  # NHWC in [-1, 1]",
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all by default")
    names = parser.parse_args().names or NAMES
    if unknown := sorted({*names} - {*NAMES}):
        parser.error(f"there is no notebook {unknown[0]}; choose of {', '.join(NAMES)}")
    for name in names:
        started = time.monotonic()
        notebook = execute(read("bit_pytorch" if name in WORDS else name, WORDS.get(name, {})))
        path = COLABS / f"{name}.ipynb"
        nbformat.write(notebook, path)
        print(
            f"{path.relative_to(ROOT)}: {time.monotonic() - started:.0f} s, {path.stat().st_size:,} bytes", flush=True
        )


def read(name: str, words: dict[str, str] | None = None) -> NotebookNode:
    """A notebook without its outputs, in other words."""
    notebook = nbformat.read(COLABS / f"{name}.ipynb", as_version=4)
    for number, cell in enumerate(notebook.cells):
        for old, new in (words or {}).items():
            cell.source = cell.source.replace(old, new)
        cell.id, cell.metadata = f"cell-{number}", {}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}, "colab": {"provenance": []}}
    return notebook


def execute(notebook: NotebookNode) -> NotebookNode:
    """The notebook with its outputs; nbclient.exceptions.CellExecutionError where a cell fails."""
    environment = os.environ | {
        "http_proxy": NOWHERE,
        "https_proxy": NOWHERE,
        "MPLBACKEND": "",
        "PYTHONWARNINGS": "ignore",
    }
    with tempfile.TemporaryDirectory() as folder:
        for path in ROOT.iterdir():
            if path.name not in ("runs", "data"):
                (Path(folder) / path.name).symlink_to(path)
        options = {
            "timeout": 600,
            "kernel_name": "python3",
            "record_timing": False,
            "resources": {"metadata": {"path": folder}},
        }
        NotebookClient(notebook, **options).execute(env=environment)
    notebook.metadata.language_info = {"name": "python"}
    return notebook


if __name__ == "__main__":
    main()
