"""Canonical arrays (common/models/) into and out of PyTorch models and optimizers, without knowing any name."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from bit_pytorch.devices import cut_like, is_shard
from bit_pytorch.optim import MEANS, Optimizer, canonical_name, parameters, turned
from common.weights import refuse_unbuilt


def to_array(value: Tensor, name: str) -> np.ndarray:
    """A C-contiguous array of its own: OIHW becomes HWIO, [out, in] becomes [in, out]."""
    return turned(value, name).contiguous().cpu().numpy().copy()


def to_tensor(array: np.ndarray, name: str) -> Tensor:
    """The inverse of `to_array`: a view to copy from, since weights may take a large part of the memory."""
    order = {4: (3, 2, 0, 1), 2: (1, 0)} if name.endswith("kernel") else {}
    order = order.get(array.ndim, tuple(range(array.ndim)))
    return torch.from_numpy(np.require(array, requirements="W")).permute(order)


def fill(tensor: Tensor, array: np.ndarray, name: str) -> None:
    """Give a tensor its array, or each process its shard of it."""
    whole = to_tensor(array, name)
    if is_shard(tensor):
        tensor.copy_(cut_like(whole.to(tensor.device, tensor.dtype), tensor, of_process=0))
    else:
        tensor.copy_(whole)


def to_arrays(model: nn.Module, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, np.ndarray]:
    """{canonical name: array} of (name, tensor) pairs. All processes gather their shards; who writes gets them."""
    arrays = {}
    for name, tensor in tensors:
        whole = tensor.full_tensor() if is_shard(tensor) else tensor
        if model.devices.process == 0:
            name = canonical_name(name, whole)
            arrays[name] = to_array(whole, name)
    return arrays


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """{canonical name: shape} of every parameter, as `dump` gives it. UserError for layers that have none yet."""
    for layer in model.modules():
        if any(map(nn.parameter.is_lazy, layer.parameters(recurse=False))):
            refuse_unbuilt(type(layer).__name__)
    named = {canonical_name(name, value): value for name, value in parameters(model).items()}
    return {name: tuple(turned(value, name).shape) for name, value in named.items()}


def dump(model: nn.Module) -> dict[str, np.ndarray]:
    """{canonical name: array} of every parameter: copies, C-contiguous, HWIO and [in, out]; bfloat16 as float32."""
    return to_arrays(model, ((name, widened(value)) for name, value in parameters(model).items()))


def load(model: nn.Module, arrays: dict[str, np.ndarray]) -> None:
    """Give every parameter its array; `arrays` must hold exactly the model's names and shapes."""
    with torch.no_grad():
        for name, value in parameters(model).items():
            name = canonical_name(name, value)
            fill(value, arrays[name], name)


def dump_optimizer(model: nn.Module, optimizer: Optimizer) -> dict[str, np.ndarray]:
    """{part of the state/canonical name of the parameter: array}; bfloat16 is written as float32."""
    names, found = dict(zip(optimizer.parameters, optimizer.names)), {}
    for part, values in optimizer.state.items():
        if part in MEANS:  # in canonical layout, and whole in every process
            arrays = {names[name]: value.cpu().numpy().copy() for name, value in values.items()}
        else:
            arrays = to_arrays(model, ((name, widened(value)) for name, value in values.items()))
        found |= {f"{part}/{name}": array for name, array in arrays.items()}
    return found


def widened(value: Tensor) -> Tensor:
    """bfloat16, which numpy lacks, as float32."""
    return value.float() if value.dtype == torch.bfloat16 else value


@torch.no_grad()
def load_optimizer(model: nn.Module, optimizer: Optimizer, arrays: dict[str, np.ndarray]) -> None:
    """The inverse of `dump_optimizer`."""
    names = dict(zip(optimizer.parameters, optimizer.names))
    for part, values in optimizer.state.items():
        for name, value in values.items():
            fill(value, arrays[f"{part}/{names[name]}"], "" if part in MEANS else names[name])
