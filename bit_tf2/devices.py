"""The devices that a run computes on in TensorFlow."""

from collections.abc import Iterator

import tensorflow as tf
from tensorflow import Tensor

from common import devices
from common.errors import UserError


class Devices(devices.Devices):
    """The first GPU or the CPU."""

    def __init__(self, shard_parameters: bool = False):
        if shard_parameters:
            raise UserError("--shard_parameters needs several devices and there is one; leave it out.")
        self.device = "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"


def to_device(batches: Iterator[dict], devices: Devices) -> Iterator[dict[str, Tensor]]:
    """Batches as tensors on the devices, one ahead of the consumer."""
    ahead = None
    for batch in batches:
        with tf.device(devices.device):
            tensors = {name: tf.convert_to_tensor(value) for name, value in batch.items()}
        if ahead:
            yield ahead
        ahead = tensors
    if ahead:
        yield ahead
