"""The processes of one training, one a device: how they meet, agree and end together.

All processes hold the same model and see their shares of the same batches
(`partbench.nn.shared_batch`), and DDP averages their gradients. So after every step they hold the
same again, and a run gives what it gives with one process, up to rounding. Process 0 alone writes.
It does what takes a process of its own, such as choosing a checkpoint, and tells the others.

A run with several devices starts as one process, which starts the others and watches them
(`partbench.launch`). Those of torchrun and of srun are taken as they are.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from partbench.errors import BadInput
from partbench.model import device_of, precision_of
from partbench.run import Runtime

MEETING = timedelta(seconds=45)
"""Time that the processes of a run have to start."""
SILENCE = timedelta(minutes=30)
"""Time after which a process is given up that says nothing but did not close its connections, as
when a machine loses power. The end of a process closes them, and shows at once."""


def connect(runtime: Runtime) -> Fabric:
    """Return Fabric, ready to train; with several processes, once all of them are there.

    Raises:
        BadInput: the device is not there, or other processes are missing.
    """
    device, mixed = device_of(runtime), precision_of(runtime) == "bf16-mixed"
    plugins: list[Any] = [_Mixed("bf16-mixed", device)] if mixed else []
    several = runtime.processes > 1
    if several:
        plugins.append(TorchElasticEnvironment())
    fabric = Fabric(
        accelerator=device,
        devices=runtime.devices,
        num_nodes=runtime.nodes,
        precision=None if mixed else "32-true",
        plugins=plugins,
        # A phase, or an epoch, may leave parameters without gradients. All buffers are equal.
        strategy=DDPStrategy(find_unused_parameters=True, forward_sync_buffers=False)
        if several
        else "auto",
    )
    if several:
        if not dist.is_initialized():
            _meet(runtime.processes, device)
        fabric.launch()
    return fabric


def _meet(world: int, device: str) -> None:
    """Wait for the other processes and form a group with them."""
    rank, address = int(os.environ["RANK"]), os.environ["MASTER_ADDR"]
    port = int(os.environ["MASTER_PORT"])
    try:
        store = TCPStore(address, port, world, rank == 0, MEETING)
    except RuntimeError as error:
        raise BadInput(
            f"process {rank} of the {world} of this run waited {MEETING.seconds} s for the others "
            f"at {address}:{port}, and not all came ({str(error).splitlines()[0]}). Look in the "
            "log for what ended them, and run the same command again"
        ) from None
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=SILENCE)


class _Mixed(MixedPrecision):
    """bfloat16 where autocast chooses it; Fabric's own would round images and landmarks first."""

    def convert_input(self, data: Any) -> Any:
        return data


@cache
def _group_on_cpu() -> Any:
    """Return a group of all processes that needs no GPU, which would have to finish its work."""
    if dist.get_backend() == "gloo":
        return dist.group.WORLD
    return dist.new_group(backend="gloo", timeout=SILENCE)


class Agreement:
    """What the processes of a run tell each other beside gradients; one process agrees with itself.

    All processes call the same methods in the same order.
    """

    def __init__(self, world: int) -> None:
        self.world = world
        self.group = _group_on_cpu() if world > 1 else None

    def any(self, *flags: bool) -> list[bool]:
        """Return, of each flag, whether it is set in any process."""
        if self.world == 1:
            return list(flags)
        values = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(values, dist.ReduceOp.MAX, self.group)
        return [bool(value) for value in values.tolist()]

    def mean(self, values: Sequence[float]) -> list[float]:
        """Return the mean of each value over the processes; one that is not finite shows in all."""
        if self.world == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums, group=self.group)
        return (sums / self.world).tolist()

    def told(self, value: Any) -> Any:
        """Return the value of process 0, plain data."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, 0, self.group)
        return values[0]

    def give(self, module: nn.Module) -> None:
        """Give the state of process 0's module to all."""
        if self.world > 1:
            for value in module.state_dict().values():
                whole = value.contiguous()
                dist.broadcast(whole, 0)
                value.copy_(whole)


class StopFlag:
    """Whether a signal has asked this process to stop."""

    is_set = False


@contextmanager
def stop_signals() -> Iterator[StopFlag]:
    """Turn SIGTERM and SIGUSR1 into a flag that the loop looks at between steps."""
    flag = StopFlag()

    def set_flag(*_: object) -> None:
        flag.is_set = True

    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, set_flag) for number in numbers}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
