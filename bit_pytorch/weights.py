"""Canonical arrays (common/models/) into and out of PyTorch models and optimizers, without knowing any name."""

import numpy as np
import torch
from torch import Tensor, nn


def canonical_name(name: str, tensor: Tensor) -> str:
    """`blocks.0.conv1.weight` -> `blocks/0/conv1/kernel`; PyTorch calls both kernels and scales `weight`."""
    leaf = "scale" if tensor.ndim == 1 else "kernel"
    return name.removesuffix("weight").replace(".", "/") + (leaf if name.endswith("weight") else "")


def to_array(tensor: Tensor) -> np.ndarray:
    """A C-contiguous array of its own: OIHW becomes HWIO, [out, in] becomes [in, out]."""
    order = {4: (2, 3, 1, 0), 2: (1, 0)}.get(tensor.ndim, tuple(range(tensor.ndim)))
    return tensor.detach().permute(order).contiguous().cpu().numpy().copy()


def to_tensor(array: np.ndarray) -> Tensor:
    """The inverse of `to_array`: a view to copy from, since weights may take a large part of the memory."""
    order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, tuple(range(array.ndim)))
    return torch.from_numpy(np.require(array, requirements="W")).permute(order)


def dump(model: nn.Module) -> dict[str, np.ndarray]:
    """{canonical name: array} of every parameter."""
    return {canonical_name(name, value): to_array(value) for name, value in model.named_parameters()}


def load(model: nn.Module, arrays: dict[str, np.ndarray]) -> None:
    """Give every parameter its array; `arrays` must hold exactly the model's names and shapes."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(to_tensor(arrays[canonical_name(name, value)]))


def dump_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, np.ndarray]:
    """{canonical name of the parameter: momentum}; empty before the first update."""
    momenta = {name: optimizer.state[value].get("momentum_buffer") for name, value in model.named_parameters()}
    return {canonical_name(name, m): to_array(m) for name, m in momenta.items() if m is not None}


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, arrays: dict[str, np.ndarray]) -> None:
    """The inverse of `dump_optimizer`."""
    for name, value in model.named_parameters():
        if canonical_name(name, value) in arrays:
            momentum = torch.empty_like(value).copy_(to_tensor(arrays[canonical_name(name, value)]))
            optimizer.state[value]["momentum_buffer"] = momentum
