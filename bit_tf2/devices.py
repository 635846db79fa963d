"""The devices that a run computes on in TensorFlow: the replicas of a `tf.distribute` strategy, or one without it."""

import contextlib
import copy
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from common.data.batches import Static
from common.system import processes
from common.system.errors import UserError, reason


class Devices(processes.Devices):
    """All GPUs of this process and of the others; or TPUs; or the CPU.

    Each has its slice of every batch and all variables. Raises UserError for `shard_parameters`.
    """

    def __init__(self, shard_parameters: bool = False):
        if shard_parameters:
            raise UserError(
                "TensorFlow keeps all parameters on every device; leave --shard_parameters out, or train in PyTorch or JAX."
            )
        self.strategy = find_strategy()
        if self.strategy:
            numbers = []  # of this process's replicas among all
            self.strategy.experimental_distribute_values_from_function(
                lambda replica: numbers.append(int(replica.replica_id_in_sync_group)) or 0
            )
            self.num_devices, self.num_local = self.strategy.num_replicas_in_sync, len(numbers)
            self.process, self.num_processes = numbers[0] // len(numbers), self.num_devices // len(numbers)

    def __enter__(self) -> Self:
        self.users_choice = tf.config.experimental.tensor_float_32_execution_enabled()
        tf.config.experimental.enable_tensor_float_32_execution(False)  # float32 means float32
        return self

    def __exit__(self, *error: object) -> None:
        tf.config.experimental.enable_tensor_float_32_execution(self.users_choice)

    @property
    def device(self) -> str:
        """The first GPU or the CPU."""
        return "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"

    def scope(self) -> contextlib.AbstractContextManager:
        """Where variables are made that every device has."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    @contextlib.contextmanager
    def scope_of_equals(self) -> Iterator[None]:
        """`scope` of variables that every process makes alike: TensorFlow would send them around, and cannot send bfloat16."""
        extended = self.strategy.extended if self.num_processes > 1 else None
        workers = getattr(extended, "_num_workers", None)
        try:
            if workers:
                extended._num_workers = 1
            with self.scope():
                yield
        finally:
            if workers:
                extended._num_workers = workers

    def put(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """This process's slice of a batch as tensors, on each device a slice of it; what is static stays as it is."""
        static = {name: value for name, value in batch.items() if isinstance(value, Static)}
        batch = {name: value for name, value in batch.items() if name not in static}
        if not self.strategy:
            with tf.device(self.device):
                return {name: tf.convert_to_tensor(value) for name, value in batch.items()} | static
        slices = {name: np.split(value, self.num_local) for name, value in batch.items() if value.ndim}
        parts = iter([batch | {name: values[i] for name, values in slices.items()} for i in range(self.num_local)])
        distributed = self.strategy.experimental_distribute_values_from_function(
            lambda _: {name: tf.convert_to_tensor(value) for name, value in next(parts).items()}
        )
        return distributed | static

    def mean(self, function: Callable[[dict], tuple[Tensor, ...]], batch: dict[str, Any]) -> tuple[Tensor, ...]:
        """Within a graph: what `function` makes of each device's slice of a batch, averaged, on every device."""
        return self._reduced(tf.distribute.ReduceOp.MEAN, function, batch)

    def gather(self, function: Callable[[dict], dict[str, Tensor]], batch: dict[str, Any]) -> dict[str, Tensor]:
        """Within a graph: the columns that `function` makes of each device's slice of a batch, in the order of the batch."""
        if not self.strategy:
            return function(batch)

        def gathered(batch: dict[str, Any]) -> dict[str, Tensor]:
            context, rows = tf.distribute.get_replica_context(), function(batch)
            # Never bools or bytes, nor arrays of the batch as they came in, which have no device.
            small = (tf.bool, tf.uint8)
            sent = {name: tf.cast(r, tf.int32) if r.dtype in small else tf.identity(r) for name, r in rows.items()}
            return {name: tf.cast(context.all_gather(r, 0), rows[name].dtype) for name, r in sent.items()}

        return self.local(self.strategy.run(gathered, (batch,)))

    def all_rows(self, rows: Tensor) -> Tensor:
        """Within `mean`: the `rows` [share, ...] of all devices, [B, ...]; gradients of each reach where they come from."""
        if not self.strategy:
            return rows
        gathered = tf.distribute.get_replica_context().all_gather(rows, 0)
        return tf.ensure_shape(gathered, (rows.shape[0] * self.num_devices, *rows.shape[1:]))

    def sum(self, function: Callable[[dict], tuple[Tensor, ...]], batch: dict[str, Any]) -> tuple[Tensor, ...]:
        """Within a graph: what `function` makes of each device's slice of a batch, added up, on every device."""
        return self._reduced(tf.distribute.ReduceOp.SUM, function, batch)

    def _reduced(self, operation: tf.distribute.ReduceOp, function: Callable, batch: dict[str, Any]) -> tuple:
        if not self.strategy:
            return function(batch)
        return self.strategy.run(
            lambda batch: tf.distribute.get_replica_context().all_reduce(operation, list(function(batch))), (batch,)
        )

    def on_each(self, function: Callable[..., None], *arguments: Any) -> None:
        """Within a graph: call `function` for every device of this process, with that device's own copies."""
        if not self.strategy:
            function(*arguments)
        for i in range(self.num_local if self.strategy else 0):
            function(*(self.local(argument, i) for argument in arguments))

    def each(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Within a graph: what `function` makes of each device's own arguments, on that device."""
        return self.strategy.run(function, arguments) if self.strategy else function(*arguments)

    def local(self, value: Any, i: int = 0) -> Any:
        """What the `i`-th device of this process has of a value, of a dictionary's values or an object's attributes."""
        if isinstance(value, dict):
            return {name: self.local(item, i) for name, item in value.items()}
        if isinstance(value, (tf.Tensor, tf.Variable, tf.distribute.DistributedValues)):
            return self.strategy.experimental_local_results(value)[i] if self.strategy else value
        if hasattr(value, "__dict__"):
            value = copy.copy(value)
            vars(value).update(self.local(vars(value), i))
        return value

    def agree(self, value: int) -> int:
        if self.num_processes == 1:
            return value
        numbers = np.zeros((self.num_local, self.num_processes))  # float64: every device can add it
        numbers[:, self.process] = value
        return int(add_up(self, self.put({"numbers": numbers})).numpy().max()) // self.num_local

    def has_lost(self, error: BaseException) -> bool:
        gone = tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError
        return self.num_processes > 1 and isinstance(error, gone)


@tf.function(autograph=False)
def add_up(devices: Devices, batch: dict[str, Any]) -> Tensor:
    """The sum over all devices of the array `numbers`."""
    return devices.local(devices.sum(lambda batch: (tf.identity(batch["numbers"]),), batch)[0])


class FirstDevice(Devices):
    """The first device of this process, whatever others there are."""

    def __init__(self):
        self.strategy = None


def to_device(batches: Iterator[dict], devices: Devices) -> Iterator[dict[str, Any]]:
    """Batches as tensors on the devices, one ahead of the consumer."""
    ahead = None
    for batch in batches:
        tensors = devices.put(batch)
        if ahead:
            yield ahead
        ahead = tensors
    if ahead:
        yield ahead


def find_strategy() -> tf.distribute.Strategy | None:
    """The strategy for the processes that TF_CONFIG or SLURM names, for a TPU, or for several local devices."""
    if strategy := find_workers():
        return strategy
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return tf.distribute.MultiWorkerMirroredStrategy(tf.distribute.cluster_resolver.SlurmClusterResolver())
    if "TPU_NAME" in os.environ:
        return find_tpu()
    local = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in local]) if len(local) > 1 else None


def find_workers() -> tf.distribute.Strategy | None:
    """The strategy for the processes that TF_CONFIG names, if there are several.

    Raises UserError where it is not what TensorFlow expects.
    """
    try:
        config = json.loads(os.environ.get("TF_CONFIG") or "{}")
        if not isinstance(config, dict):
            raise TypeError("it is no JSON object")
        cluster = tf.train.ClusterSpec(config.get("cluster", {}))
        several = sum(map(cluster.num_tasks, cluster.jobs)) > 1
        return tf.distribute.MultiWorkerMirroredStrategy() if several else None
    except tf.errors.OpError as error:
        raise UserError(
            f"This process cannot listen at its place in TF_CONFIG ({reason(error)}); give it a port that is free."
        ) from error
    except (TypeError, ValueError) as error:
        raise UserError(
            f"TF_CONFIG does not tell of this process and the others ({reason(error)}), expected "
            '{"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, "task": {"type": "worker", "index": 0}}; '
            "correct it, or unset it for one process alone."
        ) from error


def find_tpu() -> tf.distribute.Strategy:
    """The strategy for the TPU that TPU_NAME names; `local` is this machine's. Not run on hardware yet.

    Raises UserError where it does not answer.
    """
    name = os.environ["TPU_NAME"]
    try:
        return tf.distribute.TPUStrategy(tf.distribute.cluster_resolver.TPUClusterResolver.connect(name))
    except (tf.errors.OpError, ValueError, OSError) as error:
        raise UserError(
            f"The TPU that TPU_NAME={name} names does not answer ({reason(error)}); `local` is this machine's, with tensorflow-tpu."
        ) from error
