"""Checkpoints of orbax as safetensors: `python -m bit_jax.import_weights FOLDER NEW.safetensors`, with orbax-checkpoint.

Arrays are read as numpy's, without the code or the devices of who saved them. Names are the keys of the tree, joined by
slashes, without what trainers put around a model; those of an NNX state are without `value` at their end, too. Then they
stay as they are: `python -m common.convert` reads the names of vision_transformer and big_vision, which are linen's, and
those of this engine's own models, which are NNX.
"""

import common.system.quiet  # noqa: F401, I001  first: Ctrl-C ends without a traceback from here on

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.flags import Parser
from common.system.errors import UserError, exit_with_sentence, reason
from common.system.files import check_replaced
from common.weights import containers
from common.weights.recognise import shorten

WRAPPERS = re.compile(r"^((params|model|state|default|opt/target|graphdef_state)/)+")
OTHERS = re.compile(r"(^|/)(opt_state|opt|optimizer|step|rngs?)(/|$)")


def main() -> None:
    """The command; a UserError ends with exit status 2."""
    with exit_with_sentence():
        parser = Parser(prog="python -m bit_jax.import_weights", description=__doc__.splitlines()[0])
        parser.add_argument("source", help="a folder of orbax: a checkpoint, a step, or a manager's")
        parser.add_argument("target", help="a .safetensors file to write")
        parser.add_argument("--force", action="store_true", help="replace a target that exists")
        args = parser.parse_args(sys.argv[1:])
        check_replaced(Path(args.target), args.force)
        count = import_weights(Path(args.source), Path(args.target), say=print)
        print(f"{args.target}: {count} arrays, read back and equal; `python -m common.convert` goes on from here.")


def import_weights(source: Path, target: Path, *, say: Callable = lambda line: None) -> int:
    """Write the arrays of a checkpoint under their own names; returns their number. `say` is called with a line on the rest.

    Raises UserError.
    """
    if target.suffix != ".safetensors":
        raise UserError(f"{target} does not end in .safetensors; give such a name.")
    found = dict(flat(restored(checkpoint(source))))
    left = [name for name, array in found.items() if OTHERS.search(name) or not is_float(array)]
    arrays = {own_name(name): array for name, array in found.items() if name not in left}
    if not arrays:
        raise UserError(f"{source} holds no arrays of a model, but {shorten(left)}; name another folder.")
    if len(arrays) + len(left) != len(found):
        raise UserError(f"{source} holds several models ({shorten(list(found))}); save the parameters of one.")
    if left:
        say(f"Not written, since they are no parameters: {shorten(left)}.")
    containers.write(target, {name: plain(array) for name, array in arrays.items()}, {})
    return len(arrays)


def checkpoint(source: Path) -> Path:
    """The folder of a checkpoint: itself, the last step of a manager's, or the only item of a step. UserError for none."""
    if not source.is_dir():
        raise UserError(f"{source} is no folder; name a checkpoint of orbax, which is one.")
    steps = sorted((one for one in source.iterdir() if one.name.isdecimal()), key=lambda one: int(one.name))
    items = [one for one in sorted(source.iterdir()) if (one / "_METADATA").is_file()]
    if (source / "_METADATA").is_file():
        return source.absolute()
    if steps:
        return checkpoint(steps[-1])
    if len(items) != 1:
        names = f", but {shorten([one.name for one in items])}" if items else ""
        raise UserError(f"{source} holds no checkpoint of orbax (a file _METADATA){names}; name the folder of one.")
    return items[0].absolute()


def restored(source: Path) -> Any:
    """The tree of a checkpoint, its arrays numpy's. UserError for one that cannot be read, or without orbax."""
    try:
        import jax
        import orbax.checkpoint as orbax
    except ImportError as error:
        raise UserError(
            f"Checkpoints of orbax need orbax-checkpoint ({error}); install it, it comes with flax."
        ) from error
    try:
        reader = orbax.PyTreeCheckpointer()
        told = reader.metadata(source).item_metadata.tree
        args = jax.tree.map(lambda _: orbax.RestoreArgs(restore_type=np.ndarray), told)
        return reader.restore(source, restore_args=args)
    except Exception as error:  # orbax, tensorstore and json each have their own
        raise UserError(f"{source} is no readable checkpoint of orbax ({reason(error)}); save it again.") from error


def flat(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, np.ndarray]]:
    """(keys joined by slashes, array) of the leaves of a tree."""
    if isinstance(tree, Mapping | list | tuple):
        items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        for key, value in items:
            yield from flat(value, (*path, str(key)))
    elif isinstance(tree, np.ndarray):
        yield "/".join(path), tree


def own_name(name: str) -> str:
    """A name without what is around a model, and without the `value` of an NNX variable."""
    return WRAPPERS.sub("", name).removesuffix("/value")


def is_float(array: np.ndarray) -> bool:
    """Whether an array is floating-point, bfloat16 included."""
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def plain(array: np.ndarray) -> np.ndarray:
    """A C-contiguous array; bfloat16, which numpy lacks, as float32."""
    return np.ascontiguousarray(array, np.float32 if array.dtype.name == "bfloat16" else array.dtype)


if __name__ == "__main__":
    main()
