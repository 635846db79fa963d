"""Old PyTorch pickles as safetensors: `python -m bit_pytorch.import_weights OLD.pth NEW.safetensors`.

The only place that reads a pickle, and only with PyTorch's `weights_only` loader, which builds tensors and containers
and calls nothing else. Names stay as they are: `python -m common.convert` knows them.
"""

import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common.config import Parser
from common.errors import UserError, exit_with_sentence
from common.formats import containers

NESTED = ("state_dict_ema", "model_ema", "state_dict", "model", "module")  # where training scripts keep the parameters


def main() -> None:
    """The command; a UserError ends with exit status 2."""
    with exit_with_sentence():
        parser = Parser(prog="python -m bit_pytorch.import_weights", description=__doc__.splitlines()[0])
        parser.add_argument("source", help="a .pt, .pth or .bin file")
        parser.add_argument("target", help="a .safetensors file to write")
        args = parser.parse_args(sys.argv[1:])
        count = import_weights(Path(args.source), Path(args.target))
        print(f"{args.target}: {count} tensors, read back and equal; `python -m common.convert` goes on from here.")


def import_weights(source: Path, target: Path) -> int:
    """Write the tensors of a pickle under their own names; returns their number. Raises UserError."""
    if target.suffix != ".safetensors":
        raise UserError(f"{target} does not end in .safetensors; give such a name.")
    if not source.is_file():
        raise UserError(f"The file {source} does not exist; name an existing .pt, .pth or .bin file.")
    tensors = find_tensors(read_pickle(source))
    if not tensors:
        raise UserError(
            f"{source} holds no tensors under names; expected a state_dict, or one that is nested in a dict."
        )
    arrays = {name: to_array(tensor) for name, tensor in tensors.items()}
    containers.write(target, arrays, {"format": "pt"})
    return len(arrays)


def read_pickle(source: Path) -> Any:
    """What a pickle holds, if that is tensors and containers. UserError for anything else."""
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{source} holds more than tensors and is not read, since that could run code; save its state_dict alone."
        ) from error
    except Exception as error:  # zipfile, tarfile and torch each have their own
        raise UserError(f"{source} is no readable PyTorch file ({type(error).__name__}); download it again.") from error


def find_tensors(found: Any) -> dict[str, torch.Tensor]:
    """{name: tensor} of a state_dict, or of the first nested one, without what DataParallel puts before names."""
    if not isinstance(found, Mapping):
        return {}
    tensors = {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}
    for name in NESTED:
        if not tensors and name in found:
            tensors = find_tensors(found[name])
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def to_array(tensor: torch.Tensor):
    """A C-contiguous numpy array of its own; bfloat16 as float32."""
    tensor = tensor.detach().to(torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype)
    return tensor.contiguous().numpy().copy()


if __name__ == "__main__":
    main()
