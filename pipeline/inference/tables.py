"""Files of codes: a table with the columns z1, z2, ..., or an array z."""

import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pandas as pd
from safetensors.numpy import load, save

from pipeline.errors import ParamsError
from pipeline.storage import write

SUFFIXES = (".parquet", ".csv", ".npz", ".safetensors")


def save_codes(path: Path, mean: np.ndarray, std: np.ndarray | None, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write codes ``mean`` ``[N, d]``, their standard deviations where there are any, and further columns.

    A .parquet or .csv file has a row for each image, with z1, z2, ... and std1, std2, ...; .npz and .safetensors have the arrays
    z and std, and of the further columns .safetensors has those of numbers.
    """
    arrays = {"z": mean} | ({} if std is None else {"std": std})
    if path.suffix in (".npz", ".safetensors"):
        arrays |= {name: np.asarray(values) for name, values in columns.items()}
        if path.suffix == ".safetensors":
            write(path, save({name: array for name, array in arrays.items() if array.dtype.kind != "U"}))
        else:
            write(path, _npz(arrays))
        return
    named = {f"{name}{i + 1}": array[:, i] for name, array in arrays.items() for i in range(array.shape[1])}
    table = pd.DataFrame({**columns, **named})
    write(path, table.to_parquet(index=False) if path.suffix == ".parquet" else table.to_csv(index=False))


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the content of a .npz file; numpy.savez takes no array that is called ``file``."""
    with ZipFile(content := BytesIO(), "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return content.getvalue()


def load_codes(path: Path) -> np.ndarray:
    """Return the codes ``[N, d]`` of a file that :func:`save_codes` wrote, or another with its columns or arrays.

    Raises ParamsError for other files.
    """
    if not path.is_file():
        raise ParamsError(f"{path}: no such file")
    codes: np.ndarray
    try:
        match path.suffix:
            case ".npz":
                with np.load(path, allow_pickle=False) as file:
                    codes = file["z"]
            case ".safetensors":
                codes = load(path.read_bytes())["z"]
            case _:
                is_csv = path.suffix == ".csv"
                table = pd.read_csv(path) if is_csv else pd.read_parquet(path)
                if is_csv and not isinstance(table.index, pd.RangeIndex):  # pandas takes the first values for names of the rows
                    raise ValueError("rows with more values than the first line has names")
                number = sum(bool(re.fullmatch(r"z\d+", str(name))) for name in table)
                codes = table[[f"z{i + 1}" for i in range(number)]].to_numpy()
        if codes.dtype.kind in "cmM":
            raise ValueError(f"codes of {codes.dtype}")
        with np.errstate(over="ignore"):
            codes = np.asarray(codes, np.float32)
        if codes.ndim != 2 or not codes.size or not np.isfinite(codes).all():
            raise ValueError(f"codes {list(codes.shape)}, of which {(~np.isfinite(codes)).sum()} numbers are not finite")
        return codes
    except MemoryError:
        raise
    except Exception as error:  # whatever numpy, pandas and pyarrow raise for a file of another kind
        wanted = "a file of `latent encode`, or a table with the columns z1, z2, ..."
        raise ParamsError(f"{path}: not {wanted} ({' '.join(str(error).split()):.200})") from None


def parse_codes(words: Sequence[str]) -> np.ndarray:
    """Return the codes ``[N, d]`` that words give as numbers between commas. Raises ParamsError for other words.

    >>> parse_codes(["0.5,-1", "0,2"])
    array([[ 0.5, -1. ],
           [ 0. ,  2. ]], dtype=float32)
    """
    try:
        with np.errstate(over="ignore"):  # what is not finite is refused below
            codes = np.array([[float(number) for number in word.split(",")] for word in words], np.float32)
    except ValueError:
        codes = np.full((1, 1), np.nan)
    if not np.isfinite(codes).all():
        raise ParamsError(f"{' '.join(words)}: neither a file of codes ({', '.join(SUFFIXES)}) nor numbers such as 0.5,-1")
    return codes
