"""Write a model as a graph for other programs, for any number of images, in TensorFlow."""

import common.system.quiet  # noqa: F401, I001  first: Ctrl-C ends without a traceback from here on

import functools

from bit_tf2 import UNUSED, import_tensorflow
from common.config import ExportConfig
from common.runs.command import run_command
from common.runs.export import Export


def load_main():
    """The function that `export` calls with its checked flags; imports the framework."""
    import_tensorflow(without=UNUSED)
    from bit_tf2.exporters import export_main

    return export_main


if __name__ == "__main__":
    prepare = functools.partial(Export, engine="bit_tf2")
    run_command("bit_tf2", "export", ExportConfig, __doc__, prepare, load_main)
