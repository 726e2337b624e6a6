"""Image files below a folder; where it has subfolders, their names are the classes."""

import hashlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import chain
from multiprocessing import get_context, parent_process, resource_tracker
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline.data import Dataset, Images, Shape
from pipeline.datasets.image_files import SUFFIXES, decode_image, read_content
from pipeline.datasets.own import divided, find, is_test, listed, name_of, room, unread
from pipeline.errors import OUT_OF_MEMORY, IntegrityError, PipelineError, printable
from pipeline.startup import cores, die_with_parent

SPLIT = {"train", "test"}
TASK = 4  # files that a process reads at a time, which are finished when this one is stopped
ASKED = 10_000  # files that are waited for at a time; each has a place in memory until it is read
FEW = 500  # files that are read sooner than other processes start
Read = tuple[bytes, np.ndarray | str]
"""The sha256 of a file, and its image or the reason why it has none."""


def _note(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


def _files(root: Path) -> tuple[list[str], list[str]]:
    """Return the paths below a folder of all image files, and of all else; hidden files and folders are neither.

    A link to a file counts as that file, and a link to a folder is not followed: so does ``dvc add``.
    """

    def refuse(error: OSError) -> None:
        raise error

    images, others = list[str](), list[str]()
    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inner = Path(folder).relative_to(root)
        others += [f"{inner / name} (link to a folder)" for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in files:
            if not name.startswith("."):
                (images if name.lower().endswith(SUFFIXES) else others).append((inner / name).as_posix())
    return sorted(images), sorted(others)


def _split(root: Path, files: Sequence[str]) -> np.ndarray | None:
    """Return which files are in the folder ``test`` of a folder that is split, None for one that is not."""
    tops = {file.split("/")[0] for file in files if "/" in file}
    if not tops & SPLIT:
        return None
    if others := sorted(tops - SPLIT):
        cure = "move its images into train, of which data.val_size are held out"
        raise IntegrityError(f"{root}: beside train and test also {listed(others)}; {cure}")
    if tops != SPLIT:
        (only,) = tops
        raise IntegrityError(f"{root}: {only} alone; add the other of train and test, or set data.path to {root / only}")
    if beside := [file for file in files if "/" not in file]:
        raise IntegrityError(f"{root}: images beside train and test ({listed(beside)}); move each into one of them")
    return np.array([file.startswith("test/") for file in files])


def _classes(root: Path, files: Sequence[str], test: np.ndarray | None) -> tuple[list[str], np.ndarray | None]:
    """Return the sorted names of the classes, and the label of each file; no names and None where there are no classes."""
    folders = [file.split("/")[test is not None : -1] for file in files]
    owners = [names[0] if names else "" for names in folders]
    names = sorted({*owners})
    if len(names) < 2:
        return [], None
    if names[0] == "":
        beside = [file for file, owner in zip(files, owners, strict=True) if not owner]
        raise IntegrityError(f"{root}: images beside the folders of the classes ({listed(beside)}); move each into a class")
    if test is not None and (new := {*owners} - {owner for owner, tested in zip(owners, test, strict=True) if not tested}):
        raise IntegrityError(f"{root}: train lacks classes of test: {listed(sorted(new))}; add them, or move their images")
    if all(name.isdecimal() for name in names):
        names.sort(key=int)
    index = {name: number for number, name in enumerate(names)}
    return names, np.array([index[owner] for owner in owners], np.int64)


def _read(file: str, root: Path, shape: Shape, fit: str, background: str) -> Read:
    try:
        content = read_content(root / file)
        return hashlib.sha256(content).digest(), decode_image(content, shape, fit, background)
    except ValueError as error:
        return b"", str(error)


def _follow_parent() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if parent := parent_process():
        die_with_parent(parent.pid)


@contextmanager
def _reading(read: Callable[[str], Read], files: Sequence[str], workers: int) -> Iterator[Iterator[Read]]:
    """Give what ``workers`` processes read of each file, in the order of the files."""
    if workers < 2 or len(files) < FEW:
        yield map(read, files)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _follow_parent)
    try:
        resource_tracker.ensure_running()  # starting it later would let signals through again
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the processes, which inherit it, end with this one
        try:
            results = pool.map(read, files[:ASKED], chunksize=TASK)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        parts = (pool.map(read, files[start : start + ASKED], chunksize=TASK) for start in range(ASKED, len(files), ASKED))
        yield chain(results, chain.from_iterable(parts))
    except BrokenProcessPool:
        error = PipelineError("a process that read images was killed, as the system does without memory; end other programs")
        error.exit_code = OUT_OF_MEMORY
        raise error from None
    finally:
        pool.shutdown(cancel_futures=True)


def _read_all(
    root: Path, files: Sequence[str], shape: Shape, fit: str, background: str, workers: int
) -> tuple[np.ndarray, list[bytes], dict[str, str]]:
    """Return the images that can be read, the sha256 of their files, and of each other file why it cannot be read."""
    pixels, digests, broken = room((len(files), *shape)), list[bytes](), dict[str, str]()
    read = partial(_read, root=root, shape=shape, fit=fit, background=background)
    step = max(FEW, -(-len(files) // 10))
    with (
        tqdm(total=len(files), desc=str(root), unit="image", disable=None, file=sys.stderr) as bar,
        _reading(read, files, workers) as results,
    ):
        for count, (file, (digest, found)) in enumerate(zip(files, results, strict=True), 1):
            if isinstance(found, str):
                broken[file] = found
            else:
                pixels[len(digests)] = found
                digests.append(digest)
            bar.update()
            if bar.disable and count % step == 0:
                _note(f"{root}: {count:,} of {len(files):,} files read")
    return pixels[: len(digests)], digests, broken


def folder(
    path: str | Path,
    shape: Shape,
    *,
    fit: str = "crop",
    background: str = "white",
    test_size: float = 0.2,
    on_error: str = "stop",
    workers: int | None = None,
) -> Dataset:
    """Return the PNG, JPEG and WebP files below a folder as images of ``shape``, in the order of their paths.

    The first level of subfolders, at least two, are the classes. Two that are called ``train`` and ``test`` are the split, and
    the classes are below them; without them :func:`is_test` takes about ``test_size`` of the images for testing.
    :func:`read_image` says how a file is read. ``workers`` is the number of processes that read, by default one for each core;
    it changes no byte. Files that cannot be read are an error, or are named and left out where ``on_error`` is ``skip``.

    Raises ParamsError for a path that is no folder, IntegrityError for files that cannot be read and for a folder with fewer
    than three images or with images of which the class or the part is not clear.
    """
    root = find("folder", path)
    files, others = _files(root)
    if others:
        _note(f"{root}: not read, as no PNG, JPEG or WebP file: {listed(others)}")
    if not files:
        raise IntegrityError(f"{root}: no PNG, JPEG or WebP file; set data.path to the folder of your images")
    test = _split(root, files)
    classes, labels = _classes(root, files, test)
    pixels, digests, broken = _read_all(root, files, shape, fit, background, workers or len(cores()))
    if broken:
        text = f"{root}: {unread(broken, len(files))}"
        if on_error == "stop" or not digests:
            skip = ", or set data.on_error to skip" if on_error == "stop" else ""
            raise IntegrityError(f"{text}; mend or delete them{skip}")
        _note(f"{text}; they are left out")
    whole = np.array([file not in broken for file in files])
    images = Images(pixels, None if labels is None else labels[whole])
    try:
        return divided(name_of(root), images, is_test(digests, test_size) if test is None else test[whole], classes)
    except ValueError as error:
        raise IntegrityError(f"{root}: {error}") from None
