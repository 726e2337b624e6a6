"""The checkpoints from which a stopped training continues: two generations, one writer."""

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field

from pipeline.errors import DAMAGED, BusyError, IntegrityError, PrunedError
from pipeline.storage import Arrays, Header, check_arrays, load_arrays, refusing, save_arrays, write

_HERE = Path(__file__).resolve().parents[1]


def source_sha256() -> str:
    """Return a hash over the files of pipeline/ and stages/ that this process has imported: what its results depend on."""
    digest = hashlib.sha256()
    files = {Path(file).resolve() for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    for file in sorted(files):
        if file.parts[: len(_HERE.parts)] == _HERE.parts or file.parent == _HERE.parent / "stages":
            digest.update(f"{file.relative_to(_HERE.parent)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


class _Done(Header):
    windows: int = Field(ge=1)
    steps: int = Field(ge=1)
    totals: dict[str, float]
    seconds: float = Field(ge=0)


class _Header(Header):
    epoch: int = Field(ge=0)
    best_epoch: int = Field(ge=0)
    best_loss: float = Field(allow_inf_nan=True)  # infinite during the KL warm-up
    epochs_waited: int = Field(ge=0)
    rows: list[dict[str, float]]
    elapsed: list[float]
    done: _Done = Field(default_factory=_Done.model_construct)  # of the epoch that follows, where it has begun


def _age(header: Mapping[str, Any]) -> tuple[int, int]:
    """Return how far a training had come when it wrote a checkpoint with this header: its epochs, and steps of the next one."""
    return header["epoch"], header.get("done", {}).get("steps", 0)


class Checkpoints:
    """The folder of one training's checkpoints: two generations, one writer.

    The folder's name is a fingerprint of all that decides the training's bits, so that nothing continues from another
    training's state. It lies outside DVC's outs, which DVC deletes before a stage runs. Use it as a context manager:
    entering takes the lock and raises BusyError, naming the holder, when another process has it.
    """

    def __init__(self, root: Path, stage: str, **decides: Any) -> None:
        versions = {"torch": torch.__version__, "numpy": np.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
        key = json.dumps(decides | versions, sort_keys=True, default=str)
        self.fingerprint = hashlib.sha256(key.encode()).hexdigest()[:32]
        self.folder = root / stage / self.fingerprint
        self._generations = [self.folder / "0.safetensors", self.folder / "1.safetensors"]  # the next to be written first

    def __enter__(self) -> Self:
        while not self._take_lock():
            pass  # another process cleared the folder at the same time
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        return self

    def _take_lock(self) -> bool:
        """Return whether this process holds the lock of the folder that is there now. Raises BusyError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            self._lock = open(self.folder / "lock", "a+")  # noqa: SIM115 (held until __exit__)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(self._lock.fileno()), os.stat(self._lock.name)):
                    return True
                self._lock.close()
            except BlockingIOError:
                self._lock.seek(0)
                holder = self._lock.read() or "?"
                self._lock.close()
                raise BusyError(f"the same training already runs as process {holder}; wait for it or stop it") from None
            except FileNotFoundError:
                self._lock.close()
        return False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.close()
        del self._lock  # so that the others can be pickled
        if isinstance(error, PrunedError):
            self.clear()

    def save(self, arrays: Arrays, header: dict[str, Any]) -> None:
        """Write a checkpoint over the older of the two."""
        save_arrays(self._generations[0], arrays, header)
        self._generations.reverse()

    def load(self, epochs: int, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Arrays, dict[str, Any]] | None:
        """Return the newest checkpoint that is whole and of this training, saying which was skipped, or None when there is none.

        Takes the training's number of epochs and the shapes of its arrays.
        """
        newest = None
        for path in sorted(self._generations):
            if path.exists():
                try:
                    found = arrays, header = load_arrays(path)
                    with refusing(path, "a checkpoint"):
                        _Header.check(header)
                        epoch, lengths = header["epoch"], {len(header["rows"]), len(header["elapsed"])}
                        is_of_this = lengths == {epoch} and header["best_epoch"] <= epoch <= epochs
                        if arrays.keys() != shapes.keys() or not is_of_this:
                            raise ValueError("of another training")
                        check_arrays(arrays, {name: " ".join(["f4", *map(str, shape)]) for name, shape in shapes.items()})
                except IntegrityError as error:
                    print(f"skipping a damaged checkpoint: {str(error).removesuffix(f'; {DAMAGED}')}", file=sys.stderr)
                    continue
                if newest is None or _age(header) > _age(newest[1]):
                    newest = found
                    self._generations.sort(key=path.__eq__)
        return newest

    def run_id(self, new: str | None = None) -> str | None:
        """Return the MLflow run of this training, which a resumed training continues, after noting a ``new`` one."""
        if new:
            write(self.folder / "run_id", new)
        path = self.folder / "run_id"
        return path.read_text() if path.exists() else None

    def clear(self) -> None:
        """Delete the checkpoints, once the training's outputs are written, unless another process now trains from them."""
        with suppress(BusyError, OSError), self:
            for path in sorted(self.folder.iterdir(), key=lambda path: path.name == "lock"):  # which ends the hold, last
                path.unlink()
            self.folder.rmdir()
