"""The devices that a run computes on in JAX."""

from collections.abc import Iterator

import jax
from jax import Array

from common import devices
from common.errors import UserError


class Devices(devices.Devices):
    """The first of JAX's devices."""

    def __init__(self, shard_parameters: bool = False):
        if shard_parameters:
            raise UserError("--shard_parameters needs several devices and there is one; leave it out.")
        self.device = jax.devices()[0]

    def __eq__(self, other: object) -> bool:  # a model holds its devices: what was compiled for one serves its equals
        return isinstance(other, Devices) and other.device == self.device

    def __hash__(self) -> int:
        return hash(self.device)


def to_device(batches: Iterator[dict], devices: Devices) -> Iterator[dict[str, Array]]:
    """Batches as arrays on the devices, one ahead of the consumer."""
    ahead = None
    for batch in batches:
        arrays = jax.device_put(batch, devices.device)
        if ahead:
            yield ahead
        ahead = arrays
    if ahead:
        yield ahead
