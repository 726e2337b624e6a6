"""The IDX format of MNIST and its drop-in replacements: four files with a big-endian header, one byte a pixel."""

import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from pipeline.data import Dataset, Split
from pipeline.datasets.transfer import File, Patience, fetch, redact


def idx_file(name: str, shape: Sequence[int], sha256: str | None = None, gz_md5: str | None = None) -> File:
    """Describe an IDX file of unsigned bytes: magic number ``0 0 8 ndim``, each size as a big-endian uint32, the bytes.

    >>> idx_file("labels", (10,), sha256="...").header.hex()
    '000008010000000a'
    """
    header = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)
    return File(name, header, len(header) + prod(shape), sha256, gz_md5)


@dataclass(frozen=True)
class IdxDataset:
    """Four IDX files, in the order train images, train labels, test images, test labels, and where they are published."""

    name: str
    mirrors: tuple[str, ...]
    files: tuple[File, File, File, File]
    patience: Patience | None = None

    def __call__(self, mirrors: Sequence[str] = ()) -> Dataset:
        """Return the data set from ``mirrors`` or, after those, the published ones.

        Raises Unavailable when no mirror has a file, IntegrityError when one serves something else in its place.
        """
        order, arrays = [*mirrors, *self.mirrors], []
        for file in self.files:
            content, mirror = fetch(file, order, self.patience)
            order.sort(key=lambda other: other != mirror)  # what answered goes first: a dead one is waited for once
            print(f"{file.name}: {len(content):,} bytes from {redact(mirror)}", file=sys.stderr, flush=True)
            shape = struct.unpack_from(f">{file.header[3]}I", content, 4)
            arrays.append(np.frombuffer(content, np.uint8, offset=len(file.header)).reshape(shape))
        images, labels, test_images, test_labels = arrays
        return Dataset(self.name, Split(images, labels.astype(np.int64)), Split(test_images, test_labels.astype(np.int64)))
