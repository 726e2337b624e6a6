"""Where and how to compute: device, threads, precision, determinism and seeded generators."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ParamsError, PipelineError

TIMEOUT = timedelta(minutes=10)  # for another process; rank 0 logs and saves between two epochs


@dataclass(frozen=True)
class Runtime:
    """The environment of a computation; it decides speed and the last bits of a result, never what is computed."""

    device: torch.device
    threads: int = 2
    precision: str = "float32"
    reason: str = "requested"

    @property
    def keeps_float32(self) -> bool:
        """Whether tensors stay float32 in :meth:`autocast`, as on a CPU with AMX, where a matmul rounds only its factors."""
        return self.precision == "float32" or (self.device.type == "cpu" and _has_amx())

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which matmuls run in bfloat16, or one that does nothing."""
        if self.precision == "float32":
            return nullcontext()
        if self.keeps_float32:
            # oneDNN multiplies float32 matrices as bfloat16 and sums in float32, which it does only with AMX.
            return _assigned(torch.backends.mkldnn.matmul, "fp32_precision", "bf16")  # type: ignore[attr-defined]
        # Each weight is used once a step, so cached copies would gain nothing.
        return torch.autocast(self.device.type, dtype=torch.bfloat16, cache_enabled=False)

    @property
    def gpu(self) -> str:
        """The name of the CUDA device, empty without one."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else ""

    def __str__(self) -> str:
        return f"{self.device} ({self.reason}), {self.gpu or f'{self.threads} threads'}, {self.precision}"


def _has_amx() -> bool:
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


@contextmanager
def _assigned(owner: Any, name: str, value: object) -> Iterator[None]:
    """Assign an attribute, and its former value on leaving."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def choose_device(device: str) -> tuple[torch.device, str]:
    """Return the device of this name, or the fastest for ``auto``, and why. Raises ParamsError when it is not available."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    available = [name for name, is_available in found.items() if is_available]
    if device == "auto":
        return torch.device(available[0]), "auto: the fastest device here" if len(available) > 1 else "the only device here"
    if device not in available:
        raise ParamsError(f"train.device: {device!r} is not available on this machine; available: auto, {', '.join(available)}")
    return torch.device(device), "requested"


@contextmanager
def use(device: str = "auto", threads: int = 2, precision: str = "float32") -> Iterator[Runtime]:
    """Enter a runtime with deterministic algorithms and a fixed number of threads; the former settings return on leaving.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``. Raises ParamsError when this machine does not have it.
        threads: CPU threads; another number gives other last bits, so it is a parameter and not the number of cores.
        precision: ``float32``, or ``bfloat16`` for matmuls within :meth:`Runtime.autocast`.
    """
    # cuBLAS is only deterministic with a fixed workspace, and reads this when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    chosen, reason = choose_device(device)
    if chosen.type == "cuda" and "LOCAL_RANK" in os.environ:  # torchrun starts a process for each GPU
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_num_threads(threads)
    # Adam's moments of a weight whose gradient is zero, at a pixel that is always black, decay into denormal numbers, with which
    # some CPUs compute ten times slower. A thread inherits this mode from the one that starts it; it stays on.
    torch.set_flush_denormal(True)
    # use_deterministic_algorithms would also import torch's compiler, which takes a second and a half.
    torch.set_deterministic_debug_mode("error")
    # Nothing here reads memory that it has not written: filling it takes 3% of a step. TF32 would round float32 factors.
    fill = _assigned(torch.utils.deterministic, "fill_uninitialized_memory", False)
    try:
        with fill, _assigned(torch.backends.cudnn, "allow_tf32", False):
            yield Runtime(chosen, threads, precision, reason)
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])


def tree_sum(rows: Tensor) -> Tensor:
    """Return the sum ``[n]`` of rows ``[S, n]``, S a power of two, by halves: those of any process can be added first.

    >>> tree_sum(torch.arange(8.0).view(4, 2))
    tensor([12., 16.])
    """
    while len(rows) > 1:
        rows = rows[0::2] + rows[1::2]
    return rows[0]


@contextmanager
def _others() -> Iterator[None]:
    """Raise PipelineError where another process has ended, or does not answer in time."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).splitlines()[0].strip()[:200]
        raise PipelineError(f"another process of this training has ended or does not answer ({reason})") from None


@dataclass(frozen=True)
class Ranks:
    """The processes that train one model together, one of ``size``; rank 0 writes the outputs. Alone it is 0 of 1."""

    rank: int = 0
    size: int = 1

    def tree_sum(self, row: Tensor) -> Tensor:
        """Return :func:`tree_sum` of the rows ``[n]`` of all processes, the same on each."""
        if self.size == 1:
            return row
        rows = row.new_empty(self.size, *row.shape)
        with _others():
            torch.distributed.all_gather_into_tensor(rows, row[None])
        return tree_sum(rows)

    def broadcast(self, value: Any = None) -> Any:
        """Return the value that rank 0 gives; it is pickled, among the processes of one training."""
        if self.size == 1:
            return value
        held = [value]
        with _others():
            torch.distributed.broadcast_object_list(held, src=0)
        return held[0]

    def check_equal(self, tensor: Tensor) -> None:
        """Raise PipelineError unless all processes hold the same bits of a float32 tensor ``[n]``."""
        if self.size == 1:
            return
        checksum = tensor.view(torch.int32).sum()
        if (self.tree_sum(checksum[None]) != self.size * checksum).any():
            raise PipelineError("the processes have different weights; use machines with the same processor and versions")


@contextmanager
def ranks(device: torch.device, shards: int) -> Iterator[Ranks]:
    """Join the processes that torchrun has started, by gloo on CPUs and nccl on GPUs; without torchrun this one is alone.

    Raises ParamsError when there are more processes than ``shards`` of a batch, or ``shards`` is not a multiple of them.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if shards % size:
        raise ParamsError(f"train.shards: {shards} is not a multiple of {size}, the number of processes that torchrun started")
    if size == 1:
        yield Ranks()
        return
    store, rank, size = next(torch.distributed.rendezvous("env://", timeout=TIMEOUT))  # type: ignore[attr-defined]
    # torchrun's store outlives a restart. Without a prefix a process may wait for the address of one that was killed.
    store = torch.distributed.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)  # type: ignore[attr-defined]
    backend = "nccl" if device.type == "cuda" else "gloo"
    with _others():
        torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield Ranks(rank, size)
    finally:
        torch.distributed.destroy_process_group()


def generator(*key: int | str) -> torch.Generator:
    """Return a CPU generator seeded by its purpose, e.g. ``generator(seed, "order", epoch)``: purposes do not affect each other.

    >>> torch.equal(torch.rand(3, generator=generator(1, "a")), torch.rand(3, generator=generator(1, "a")))
    True
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
