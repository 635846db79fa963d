"""The devices that a run computes on in JAX: one mesh, over which XLA divides what a compiled function does."""

import atexit
import glob
import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array, lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from common.data.batches import Static
from common.system import processes
from common.system.errors import UserError, reason

jax.tree_util.register_static(Static)
START_SECONDS = 120  # that the first process of a job waits for the last one
HEARTBEAT_SECONDS = 40  # of silence, after which a process counts as dead


class Devices(processes.Devices):
    """All devices of all processes.

    Each has its slice of every batch, and the parameters whole or, with `shard_parameters`, a slice of them.
    Raises UserError where the processes of the job do not find one another.
    """

    def __init__(self, shard_parameters: bool = False):
        join_processes()
        self.process, self.num_processes = jax.process_index(), jax.process_count()
        members = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
        self.mesh, self.num_devices = Mesh(np.array(members), ("devices",)), len(members)
        self.shard_parameters = shard_parameters
        if shard_parameters and self.num_devices == 1:
            raise UserError("--shard_parameters needs several devices and there is one; leave it out.")

    def __eq__(self, other: object) -> bool:  # a model holds its devices: what was compiled for one serves its equals
        return isinstance(other, Devices) and self._key == other._key

    def __reduce__(self) -> tuple[type, tuple[bool, ...]]:  # a copy elsewhere is on the devices there
        return type(self), () if type(self) is FirstDevice else (self.shard_parameters,)

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Mesh, bool]:
        return self.mesh, self.shard_parameters

    def place(self, *axes: str | None) -> Sharding:
        """Where an array lies whose axes are cut as `axes` say: whole on every device, or in slices on the `devices`."""
        if self.num_devices == 1:  # the same program as without a mesh
            return SingleDeviceSharding(self.mesh.devices.item())
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def place_of_parameter(self, shape: tuple[int, ...]) -> Sharding:
        """Where a parameter of `shape` lies: whole, or cut along its longest axis that the devices divide."""
        axes = [axis for axis in range(len(shape)) if shape[axis] % self.num_devices == 0]
        if not self.shard_parameters or not axes:
            return self.place()
        return self.place(*[None] * max(axes, key=lambda axis: shape[axis]), "devices")

    def gather(self, tree: Any) -> Any:
        """Within a compiled function: the same arrays, whole on every device."""
        return lax.with_sharding_constraint(tree, self.place()) if self.num_devices > 1 else tree

    def whole(self, model: nnx.Module) -> nnx.Module:
        """Within a compiled function: the same model, whose parameters are gathered once, and not by every token it writes."""
        if not self.shard_parameters:
            return model
        graph, state = nnx.split(model)
        return nnx.merge(graph, self.gather(state))

    def all_rows(self, rows: Array) -> Array:
        """Within a compiled function: `rows` [B, ...], of which each device has a share, whole on every one."""
        return self.gather(rows)

    def scatter(self, params: Any) -> Any:
        """Within a compiled function: the same parameters, or values for each of them, where parameters lie."""
        if self.num_devices == 1:
            return params
        return jax.tree.map(lambda v: lax.with_sharding_constraint(v, self.place_of_parameter(v.shape)), params)

    def cut(self, values: Array, num_parts: int, part: Array) -> Array:
        """Within a compiled function: of every device's slice of `values` [B, ...], one of `num_parts` parts."""
        cut = values.reshape(self.num_devices, num_parts, -1, *values.shape[1:])[:, part]
        return cut.reshape(-1, *values.shape[1:])

    def agree(self, value: int) -> int:
        return int(multihost_utils.process_allgather(np.int32(value)).max()) if self.num_processes > 1 else value

    def has_lost(self, error: BaseException) -> bool:
        return self.num_processes > 1 and any(word in str(error) for word in ("Gloo", "NCCL", "UNAVAILABLE"))

    def __exit__(self, _: object, error: BaseException | None, *trace: object) -> None:
        if self.num_processes > 1 and isinstance(error, Exception):
            atexit.register(leave, 2 if isinstance(error, UserError) else 1)


class FirstDevice(Devices):
    """The first device of this process, whatever others there are."""

    def __init__(self):
        self.mesh, self.shard_parameters = Mesh(np.array(jax.local_devices()[:1]), ("devices",)), False


def to_device(batches: Iterator[dict], devices: Devices) -> Iterator[dict[str, Array]]:
    """Batches as arrays on the devices, one ahead of the consumer."""
    ahead = None
    for batch in batches:
        arrays = {
            name: jax.make_array_from_process_local_data(devices.place(*["devices"] * bool(value.ndim)), value)
            for name, value in batch.items()
            if not isinstance(value, Static)
        }
        if ahead:
            yield ahead
        ahead = {name: arrays.get(name, value) for name, value in batch.items()}
    if ahead:
        yield ahead


def leave(status: int) -> None:
    """End this process now: at its exit, JAX would wait for the others, of which some may have ended."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def join_processes() -> None:
    """Join the other processes of the job where the environment names any.

    That is JAX_COORDINATOR_ADDRESS (host:port of the first process), JAX_NUM_PROCESSES and JAX_PROCESS_ID, or what SLURM's
    srun, Open MPI's mpirun and Cloud TPU virtual machines say. Not run on TPUs yet.
    UserError where they cannot be reached.
    """
    tasks = max(int(os.environ.get(name, "1")) for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    has_tpus = importlib.util.find_spec("libtpu") and (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))
    if jax.distributed.is_initialized() or not ("JAX_COORDINATOR_ADDRESS" in os.environ or tasks > 1 or has_tpus):
        return
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    given = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
    try:
        jax.distributed.initialize(
            **{argument: int(os.environ[name]) for argument, name in given.items() if name in os.environ},
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"JAX does not find the other processes of this job ({reason(error)}); start all of them, and give each "
            "JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID."
        ) from error
