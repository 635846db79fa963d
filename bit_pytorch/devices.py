"""The devices that a run computes on in PyTorch."""

from collections.abc import Iterator

import torch
from torch import Tensor

from common import devices
from common.errors import UserError


class Devices(devices.Devices):
    """The first GPU or the CPU."""

    def __init__(self, shard_parameters: bool = False):
        if shard_parameters:
            raise UserError("--shard_parameters needs several devices and there is one; leave it out.")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_device(batches: Iterator[dict], devices: Devices) -> Iterator[dict[str, Tensor]]:
    """Batches as tensors on the devices, one ahead of the consumer."""
    ahead = None
    for batch in batches:
        tensors = {name: torch.as_tensor(value) for name, value in batch.items()}
        tensors["labels"] = tensors["labels"].long()  # what PyTorch's losses index with
        if devices.device.type == "cuda":
            tensors = {
                name: value.pin_memory().to(devices.device, non_blocking=True) for name, value in tensors.items()
            }
        if ahead:
            yield ahead
        ahead = tensors
    if ahead:
        yield ahead
