"""The devices that a run computes on in PyTorch: one for each process that torchrun starts."""

import contextlib
import datetime
import os
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from common.data.batches import Static
from common.recipes.groups import STATE
from common.system import processes
from common.system.errors import UserError, reason

TIMEOUT = datetime.timedelta(hours=2)  # of one exchange: the process that writes may take long over its files
BACKENDS = {"cpu": "gloo", "cuda": "nccl", "tpu": "tpu_dist"}  # that exchange what lies on a device
BEAT_SECONDS, MISSED_BEATS = 5, 6  # after so many, a process counts as lost


class Devices(processes.Devices):
    """The first GPU, a TPU or the CPU; under torchrun, one for each process: they train copies of a model, or its shards.

    Raises UserError where the processes do not meet, and for `shard_parameters` in one process.
    """

    def __init__(self, shard_parameters: bool = False):
        self.shard_parameters, self.heartbeat = shard_parameters, None
        is_one_of_several = number_of("WORLD_SIZE", "1") > 1
        self.device = local_device(number_of("LOCAL_RANK") if is_one_of_several else 0)
        if is_one_of_several:
            self._join()
        elif shard_parameters:
            raise UserError(
                "--shard_parameters needs several processes and there is one; start them with torchrun, or leave it out."
            )
        elif torch.cuda.device_count() > 1:
            print(f"Using one of {torch.cuda.device_count()} GPUs; scripts/launch/local.sh uses all of them.")

    def _join(self) -> None:
        """Meet the other processes that torchrun's environment names."""
        if self.device.type == "cuda":
            if self.device.index >= torch.cuda.device_count():
                raise UserError(
                    f"There are more processes than GPUs ({torch.cuda.device_count()}); start one for each."
                )
            torch.cuda.set_device(self.device)
        rank, world_size = number_of("RANK"), number_of("WORLD_SIZE")
        if rank >= world_size:  # for which PyTorch would wait for as long as TIMEOUT
            raise UserError(f"RANK is {rank} of a WORLD_SIZE of {world_size}, expected less; start all with torchrun.")
        number_of("MASTER_PORT")  # which PyTorch does not name when it is no number
        try:
            distributed.init_process_group(BACKENDS[self.device.type], timeout=TIMEOUT)
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"The processes cannot meet ({reason(error)}); start the processes with torchrun, and see its flags."
            ) from error
        self.process, self.num_processes = distributed.get_rank(), distributed.get_world_size()
        self.num_devices = self.num_processes
        self.heartbeat = Heartbeat(self.process, self.num_processes)
        self.agree(0)  # from here on all hearts beat

    def __enter__(self) -> Self:
        self.users_choice = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        allow_tf32(False, False)  # float32 means float32
        if self.heartbeat:
            self.heartbeat.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        allow_tf32(*self.users_choice)
        if self.heartbeat:
            self.heartbeat.stop()
            if kind is None:  # otherwise others may be in the middle of an exchange
                distributed.destroy_process_group()

    def agree(self, value: int) -> int:
        if self.num_processes == 1:
            return value
        values = torch.tensor(value, device=self.device)
        distributed.all_reduce(values, distributed.ReduceOp.MAX)
        return int(values)

    def has_lost(self, error: BaseException) -> bool:
        words = ("gloo", "NCCL", "store")  # what the errors of exchanges name, which have no type of their own
        return self.num_processes > 1 and isinstance(error, RuntimeError) and any(word in str(error) for word in words)

    def sum(self, values: Tensor) -> Tensor:
        """`values`, which become their sum over all processes, without waiting for it."""
        if self.num_processes > 1:
            distributed.all_reduce(values)
        return values

    def gather(self, rows: Tensor) -> Tensor:
        """Of `rows` [steps, share, ...] of every process those of the global batches [steps, B, ...]."""
        if self.num_processes == 1:
            return rows
        shares = [torch.empty_like(rows) for _ in range(self.num_processes)]
        distributed.all_gather(shares, rows)
        return torch.cat(shares, 1)

    def all_rows(self, rows: Tensor) -> Tensor:
        """The `rows` [share, ...] of all processes, [B, ...]; gradients of each reach the process that they come from."""
        return AllRows.apply(rows) if self.num_processes > 1 else rows

    def shard(self, model: nn.Module) -> None:
        """Spread the parameters over the processes, if asked to: a block at a time is whole while it computes."""
        if self.shard_parameters:
            from torch.distributed import fsdp  # as slow to import as `cut_like`'s

            for blocks in [module for module in model.modules() if isinstance(module, nn.ModuleList)]:
                for block in blocks:
                    fsdp.fully_shard(block)
            named = model.named_parameters()
            whole = {value for name, value in named if re.fullmatch(STATE.pattern, name.replace(".", "/"))}
            # Outside of forward and backward all are shards, but for what no gradient moves and every process renews alike.
            fsdp.fully_shard(model, reshard_after_forward=True, ignored_params=whole)
            model.meet = lambda: None
            fsdp.register_fsdp_forward_method(model, "meet")

    @contextlib.contextmanager
    def whole(self, model: nn.Module) -> Iterator[None]:
        """Where parameters are shards, within it they are whole: for what is computed by other methods than `forward`."""
        units = [module for module in model.modules() if self.shard_parameters and hasattr(module, "unshard")]
        if units:
            model.meet()  # FSDP wants the whole model to be the first that computes
        for unit in units:
            unit.unshard()
        try:
            yield
        finally:
            for unit in units:
                unit.reshard()

    def replicate(self, model: nn.Module) -> nn.Module:
        """The model that is trained in all processes alike."""
        return Replica(model) if self.num_processes > 1 and not self.shard_parameters else model

    def average_gradients(self, model: nn.Module, when: bool) -> None:
        """Whether the next backward pass averages gradients over the processes; shards always do, to stay small."""
        if isinstance(model, Replica):
            model.require_backward_grad_sync = when


class FirstDevice(Devices):
    """The first GPU, a TPU or the CPU, of this process alone."""

    def __init__(self):
        self.shard_parameters, self.heartbeat, self.device = False, None, local_device(0)


def is_shard(value: Tensor) -> bool:
    """Whether a tensor is one process's shard of a parameter: a DTensor, whose type is not imported to ask (`cut_like`)."""
    return hasattr(value, "full_tensor")


def cut_like(whole: Tensor, shard: Tensor, of_process: int | None = None) -> Tensor:
    """The part of `whole` that lies where `shard` does: of one process's, or of this one's where all have the same."""
    # Imports sympy: only where there are shards, for it takes almost as long as PyTorch itself.
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, shard.device_mesh, shard.placements, src_data_rank=of_process)


class AllRows(torch.autograd.Function):
    """See `Devices.all_rows`."""

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        rows = rows.contiguous()
        shares = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(shares, rows)
        return torch.cat(shares)

    @staticmethod
    def backward(context: Any, slopes: Tensor) -> Tensor:
        total = slopes.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total.chunk(distributed.get_world_size())[distributed.get_rank()]


def allow_tf32(products: bool, convolutions: bool) -> None:
    """Whether GPUs may round float32 to TF32, for the whole process."""
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions


def number_of(name: str, absent: str = "") -> int:
    """The whole number that torchrun gives to this process in a variable. Raises UserError where it is none."""
    text = os.environ.get(name) or absent
    if not (text.isascii() and text.isdecimal()):
        raise UserError(
            f"{name} is {repr(text) if text else 'not set'}, expected a whole number; start the processes with torchrun, "
            "or unset WORLD_SIZE for one alone."
        )
    return int(text)


def local_device(index: int) -> torch.device:
    """The TPU of this process where torch_tpu is installed, else a GPU of this machine, or the CPU."""
    if "torch_tpu" in sys.modules:  # PyTorch loads it by itself
        return find_tpu()
    return torch.device("cuda", index) if torch.cuda.is_available() else torch.device("cpu")


def find_tpu() -> torch.device:
    """The TPU that torch_tpu gives to this process: whichever it is, its name is tpu:0. Not run on hardware yet.

    Raises UserError where none answers.
    """
    # float32 means float32: by default products round it to bfloat16, as the kernel of flash attention always may.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.enable_flash_sdp(False)
    try:
        device = torch.device("tpu", 0)  # an error where the machine has none
        if number_of("WORLD_SIZE", "1") == 1:  # several processes must meet before they use theirs
            torch.zeros((), device=device)
    except RuntimeError as error:
        raise UserError(
            f"torch_tpu is installed and no TPU answers ({reason(error)}); run on a machine with a TPU that "
            "nothing else uses, or set TORCH_DEVICE_BACKEND_AUTOLOAD=0 for GPUs and the CPU."
        ) from error
    return device


class Replica(DistributedDataParallel):
    """One of several copies of a model, in all but its backward pass that model: it averages their gradients."""

    def __init__(self, model: nn.Module):
        super().__init__(model, gradient_as_bucket_view=True, broadcast_buffers=False)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

    def named_parameters(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        return self.module.named_parameters(*arguments, **options)


class Heartbeat(threading.Thread):
    """Tells the other processes that this one lives, and ends it when one of them no longer does.

    A process that is gone without a word, with its machine or in a driver, would leave the others waiting for ever.
    """

    def __init__(self, process: int, num_processes: int):
        super().__init__(name="heartbeat", daemon=True)
        self.process, self.others = process, [n for n in range(num_processes) if n != process]
        self.store = distributed.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        self.stopped = threading.Event()
        self.store.add(f"beats of {process}", 1)

    def run(self) -> None:
        last, missed = {}, dict.fromkeys(self.others, 0)
        while not self.stopped.wait(BEAT_SECONDS):
            try:
                self.store.add(f"beats of {self.process}", 1)
                beats = {n: self.store.add(f"beats of {n}", 0) for n in self.others}
            except RuntimeError:
                self.end("The process that started this run has gone.")
            for n in self.others:
                missed[n] = missed[n] + 1 if beats[n] == last.get(n) else 0
                if missed[n] == MISSED_BEATS:
                    self.end(f"Process {n} has given no sign of life for {BEAT_SECONDS * MISSED_BEATS} seconds.")
            last = beats

    def end(self, why: str) -> None:
        """End this process, whatever it waits for."""
        if not self.stopped.is_set():
            print(f"error: {why} The same command continues after the last checkpoint.", file=sys.stderr, flush=True)
            os._exit(2)

    def stop(self) -> None:
        """Beat no more."""
        self.stopped.set()


def to_device(batches: Iterator[dict], devices: Devices) -> Iterator[dict[str, Tensor]]:
    """Batches as tensors on the device, one ahead of the consumer."""
    ahead = None
    for batch in batches:
        static = {name: value for name, value in batch.items() if isinstance(value, Static)}
        tensors = {name: torch.as_tensor(value) for name, value in batch.items() if name not in static}
        if "labels" in tensors and not tensors["labels"].is_floating_point():
            tensors["labels"] = tensors["labels"].long()  # what PyTorch's losses index with
        if devices.device.type == "cuda":
            tensors = {
                name: value.pin_memory().to(devices.device, non_blocking=True) for name, value in tensors.items()
            }
        else:
            tensors = {name: value.to(devices.device) for name, value in tensors.items()}
        if ahead:
            yield ahead
        ahead = tensors | static
    if ahead:
        yield ahead
