"""Data sets in MNIST's IDX format: four files, each a big-endian header and one byte per pixel or label."""

import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from pipeline.data import Dataset, Images
from pipeline.datasets.transfer import File, Patience, fetch
from pipeline.errors import redact


def idx_file(name: str, shape: Sequence[int], sha256: str | None = None, gz_md5: str | None = None) -> File:
    """Describe an IDX file of unsigned bytes: magic number ``0 0 8 ndim``, each size as a big-endian uint32, then the bytes.

    >>> idx_file("labels", (10,), sha256="...").header.hex()
    '000008010000000a'
    """
    header = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)
    return File(name, header, len(header) + prod(shape), sha256, gz_md5)


@dataclass(frozen=True)
class IdxDataset:
    """Four IDX files, in the order train images, train labels, test images, test labels, and the mirrors that publish them.

    ``raw`` is the folder in which torchvision keeps the files; ``classes`` are the names of the labels.
    """

    name: str
    mirrors: tuple[str, ...]
    files: tuple[File, File, File, File]
    raw: str = "raw"
    patience: Patience | None = None
    classes: tuple[str, ...] = ()

    def __call__(self, mirrors: Sequence[str] = ()) -> Dataset:
        """Return the data set from ``mirrors`` or, where none is given, the published ones; errors are those of :func:`fetch`."""
        order, arrays = list(mirrors or self.mirrors), []
        for file in self.files:
            # As Kaggle spells and nests them, and as torchvision stores them.
            places = (file.name.replace("-idx", ".idx"), *(f"{folder}/{file.name}" for folder in (file.name, "raw", self.raw)))
            content, mirror = fetch(replace(file, places=places), order, self.patience)
            order.sort(key=lambda other: other != mirror)  # the mirror that answered goes first: a dead one is tried once
            print(f"{file.name}: {len(content):,} bytes from {redact(mirror)}", file=sys.stderr, flush=True)
            shape = struct.unpack_from(f">{file.header[3]}I", content, 4)
            arrays.append(np.frombuffer(content, np.uint8, offset=len(file.header)).reshape(shape))
        train, test = (Images(arrays[i][:, None], arrays[i + 1].astype(np.int64)) for i in (0, 2))
        return Dataset(self.name, train, test, self.classes)
