"""Old PyTorch pickles as safetensors: `python -m bit_pytorch.import_weights OLD.pth NEW.safetensors`.

The only place that reads a pickle, and only with PyTorch's `weights_only` loader, which builds tensors and containers
and calls nothing else. What trainers put around a model is taken off: the dicts that it is nested in, and prefixes such as
`model.`, `module.` and `_orig_mod.`. Names then stay as they are: `python -m common.convert` reads them.
"""

import common.system.quiet  # noqa: F401, I001  first: Ctrl-C ends without a traceback from here on

import argparse
import pickle
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from common.flags import Parser
from common.system.errors import UserError, exit_with_sentence, reason
from common.system.files import check_replaced
from common.weights import containers
from common.weights.recognise import shorten

if TYPE_CHECKING:  # at run time where it is needed: --help and wrong flags do not wait for it
    import torch

# What trainers keep beside tensors, and what holds data alone: flags, and numbers of numpy.
PLAIN = [argparse.Namespace, np._core.multiarray.scalar, np.dtype, np.dtypes.Float64DType, np.dtypes.Int64DType]
WRAPPERS = {"model", "module", "_orig_mod", "net", "network", "student", "teacher", "ema", "model_ema", "ema_model"}
AVERAGED = re.compile(r"(^|[._])(ema|teacher|swa|averaged?)([._]|$)")  # the one to evaluate, of several
MAX_NESTING = 8


class Candidate(NamedTuple):
    """Tensors that may be a model's, and where they stand: the keys of dicts and prefixes of names, joined by points."""

    key: str
    tensors: "dict[str, torch.Tensor]"


def main() -> None:
    """The command; a UserError ends with exit status 2."""
    with exit_with_sentence():
        parser = Parser(prog="python -m bit_pytorch.import_weights", description=__doc__.splitlines()[0])
        parser.add_argument("source", help="a .pt, .pth, .bin or .ckpt file")
        parser.add_argument("target", help="a .safetensors file to write")
        parser.add_argument("--key", help="where the model stands in a file of several, such as state_dict_ema")
        parser.add_argument("--force", action="store_true", help="replace a target that exists")
        args = parser.parse_args(sys.argv[1:])
        check_replaced(Path(args.target), args.force)
        count = import_weights(Path(args.source), Path(args.target), args.key, say=print)
        print(f"{args.target}: {count} tensors, read back and equal; `python -m common.convert` goes on from here.")


def import_weights(source: Path, target: Path, key: str | None = None, *, say: Callable = lambda line: None) -> int:
    """Write the tensors of the model in a pickle under their own names; returns their number.

    `key` chooses one of several models; by default the moving average is taken, and `say` called with a line on it.
    Raises UserError.
    """
    if target.suffix != ".safetensors":
        raise UserError(f"{target} does not end in .safetensors; give such a name.")
    if not source.is_file():
        raise UserError(f"The file {source} does not exist; name an existing .pt, .pth, .bin or .ckpt file.")
    found = read_pickle(source)
    model = choose(list(candidates(found)), found, source, key, say)
    containers.write(target, {name: to_array(name, tensor) for name, tensor in model.tensors.items()}, {"format": "pt"})
    return len(model.tensors)


def read_pickle(source: Path) -> Any:
    """The contents of a pickle of tensors and containers. UserError for anything else."""
    import torch

    try:
        with torch.serialization.safe_globals(PLAIN):
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise UserError(
            f"{source} holds more than tensors{f', {asked[1]},' if asked else ''} and is not read, since that could run "
            "code; save its state_dict alone."
        ) from error
    except Exception as error:  # zipfile, tarfile and torch each have their own
        raise UserError(f"{source} is no readable PyTorch file ({type(error).__name__}); download it again.") from error


def candidates(found: Any, key: str = "", depth: int = 0) -> Iterator[Candidate]:
    """Every dict of tensors in what a pickle holds, unwrapped."""
    import torch

    if not isinstance(found, Mapping) or depth > MAX_NESTING:
        return
    named = {name: value for name, value in found.items() if isinstance(name, str)}  # optimizers number their tensors
    tensors = {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
    if tensors:
        yield from unwrapped(Candidate(key, tensors))
    for name, value in named.items():
        yield from candidates(value, f"{key}.{name}".strip("."), depth + 1)


def unwrapped(found: Candidate) -> Iterator[Candidate]:
    """A dict of tensors without the prefix that all names share, or the models below the known prefixes."""
    first = Counter(name.partition(".")[0] for name in found.tensors if "." in name)
    shared = [prefix for prefix, count in first.items() if count == len(found.tensors) > 1]
    prefixes = shared or [prefix for prefix in first if prefix in WRAPPERS]
    if not prefixes:
        yield found
    for prefix in prefixes:
        names = [name for name in found.tensors if name.startswith(f"{prefix}.")]
        below = {name.removeprefix(f"{prefix}."): found.tensors[name] for name in names}
        yield from unwrapped(Candidate(f"{found.key}.{prefix}".strip("."), below))


def choose(found: list[Candidate], whole: Any, source: Path, key: str | None, say: Callable) -> Candidate:
    """The model of a file: the one that `key` names, the only large one, or the moving average of several.

    Raises UserError where there is none, or that does not tell.
    """
    if not found:
        keys = f", but {shorten([repr(name) for name in whole])}" if isinstance(whole, Mapping) and whole else ""
        raise UserError(f"{source} holds no tensors under names{keys}; expected a state_dict, or one in a dict.")
    most = max(len(one.tensors) for one in found)
    large = [one for one in found if 2 * len(one.tensors) >= most]
    keys = shorten([one.key for one in large])
    if key is not None:
        chosen = [one for one in found if one.key == key or one.key.startswith(f"{key}.")]
        if len(chosen) != 1:
            raise UserError(f"{source} has {len(chosen)} models at the key {key}; choose one of {keys}.")
        return chosen[0]
    if len(large) == 1:
        return large[0]
    averaged = [one for one in large if AVERAGED.search(one.key)]
    if len(averaged) != 1:
        raise UserError(f"{source} holds {len(large)} models ({keys}); choose one with --key.")
    say(
        f"{source} holds {len(large)} models ({keys}): the moving average {averaged[0].key} is taken, unless --key names another."
    )
    return averaged[0]


def to_array(name: str, tensor: "torch.Tensor") -> np.ndarray:
    """A C-contiguous numpy array of its own; bfloat16 as float32. UserError for what numpy has no array of."""
    import torch

    try:
        tensor = tensor.detach().to(torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype)
        return tensor.contiguous().numpy().copy()
    except (TypeError, RuntimeError) as error:
        raise UserError(
            f"The tensor {name} is no plain array ({tensor.dtype}, {reason(error)}); save it as float32."
        ) from error


if __name__ == "__main__":
    main()
