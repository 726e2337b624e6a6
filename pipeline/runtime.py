"""Where and how to compute: device, threads, precision, determinism and seeds, decided once and announced."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.errors import ParamsError

# Adam's moments of a weight whose gradient is zero, at a pixel that is always black, decay into denormal numbers, with which
# some CPUs compute ten times slower. A thread inherits this mode from the one that starts it, so it is set before any other.
torch.set_flush_denormal(True)

_AMX = bool(torch.cpu.get_capabilities().get("amx_bf16"))


@dataclass(frozen=True)
class Runtime:
    """The environment of a computation; it decides speed and the last bits of a result, never what is computed."""

    device: torch.device
    threads: int = 2
    precision: str = "float32"
    reason: str = "asked for"

    @property
    def keeps_float32(self) -> bool:
        """Whether tensors stay float32 in :meth:`autocast`; on a CPU with AMX they do, as a product rounds only what it reads."""
        return self.precision == "float32" or (self.device.type == "cpu" and _AMX)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which matrix products run in bfloat16, or one that does nothing."""
        if self.precision == "float32":
            return nullcontext()
        if self.keeps_float32:
            return _rounded_products()
        # Each weight is used once a step, and a cached copy would be read for ever by a CUDA graph.
        return torch.autocast(self.device.type, dtype=torch.bfloat16, cache_enabled=False)

    @property
    def gpu(self) -> str:
        """The name of the CUDA device, or nothing."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else ""

    def __str__(self) -> str:
        name = self.gpu or f"{self.threads} threads"
        return f"{self.device} ({self.reason}), {name}, {self.precision}"


@contextmanager
def _rounded_products() -> Iterator[None]:
    """Let oneDNN multiply float32 matrices as bfloat16 and add up in float32, which without AMX it would not."""
    products: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, products.fp32_precision = products.fp32_precision, "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before


def _choose(device: str) -> tuple[torch.device, str]:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        chosen = next(name for name, there in available.items() if there)
        missing = [name for name in ("cuda", "mps") if not available[name]]
        return torch.device(chosen), "the only device here" if len(missing) == 2 else "auto: the fastest device here"
    if not available.get(device):
        there = ", ".join(name for name, is_there in available.items() if is_there)
        raise ParamsError(f"train.device: {device!r} is not available on this machine; available: auto, {there}")
    return torch.device(device), "asked for"


@contextmanager
def use(device: str = "auto", threads: int = 2, precision: str = "float32") -> Iterator[Runtime]:
    """Enter a runtime: deterministic algorithms, a fixed number of threads; everything is put back on leaving.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        threads: CPU threads; another number gives other last bits, so it is a parameter and not the number of cores.
        precision: ``float32``, or ``bfloat16`` for matrix products within :meth:`Runtime.autocast`.

    Raises ParamsError when this machine does not have the device.
    """
    # cuBLAS is only repeatable with a fixed workspace, and reads this when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    chosen, reason = _choose(device)
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode(), torch.backends.cudnn.allow_tf32
    deterministic: Any = torch.utils.deterministic
    filled = deterministic.fill_uninitialized_memory
    torch.set_num_threads(threads)
    # use_deterministic_algorithms would tell torch's compiler, too, and import it for that: a second and a half.
    torch.set_deterministic_debug_mode("error")
    deterministic.fill_uninitialized_memory = False  # nothing here reads what it has not written; 3% of a step
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    try:
        yield Runtime(chosen, threads, precision, reason)
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])
        deterministic.fill_uninitialized_memory = filled
        torch.backends.cudnn.allow_tf32 = before[2]


def generator(*key: int | str) -> torch.Generator:
    """Return a CPU generator seeded by its purpose, e.g. ``generator(seed, "order", epoch)``.

    Because no generator outlives its purpose, drawing more in one place never changes what is drawn in another, and a
    resumed run needs no generator's state.

    >>> torch.equal(torch.rand(3, generator=generator(1, "a")), torch.rand(3, generator=generator(1, "a")))
    True
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
