"""Memory and time of each stage on images that do not fit into memory: ``python -m benchmarks.large --images 6000000``.

The images are those of MNIST (PIPELINE_MIRROR, or the published mirrors), shifted by up to four pixels, with their labels, in a
file of arrays (``data.name: arrays``). Each stage is a process of its own. Its anonymous memory, which the system cannot drop as
it can drop the pages of a file, is read from /proc every 50 ms. The files, twice the size of the images, are deleted.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import click
import numpy as np
import psutil

from benchmarks.tools import ROOT, dvc_environment, machine, table
from pipeline.data import Images
from pipeline.datasets import load
from pipeline.params import load_params, with_values
from pipeline.storage import load_json, save_arrays

STAGES = ("download", "train vae", "train_classifier", "evaluate vae")
SHIFT = 4


class Shifted:
    """Images ``[N, 28, 28]`` that are made where they are asked for: those given again, each slice with another shift."""

    dtype = np.dtype(np.uint8)

    def __init__(self, digits: np.ndarray, count: int) -> None:
        self.digits = digits
        self.shape: tuple[int, ...] = (count, *digits.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> np.ndarray:
        rows = np.arange(len(self))[part]
        shift = np.random.default_rng(rows[:1]).integers(-SHIFT, SHIFT + 1, 2)
        return np.roll(self.digits[rows % len(self.digits)], shift, (1, 2))


def write_images(path: Path, digits: Images, images: int) -> None:
    """Write a file of arrays with so many images and their labels."""
    labels = np.resize(np.asarray(digits.labels), images)
    save_arrays(path, {"images": Shifted(digits.pixels[:, 0], images), "labels": labels}, {})


def anonymous(pid: int) -> int:
    """Return the bytes of anonymous memory of a process and of those that it has started."""
    total = 0
    with suppress(psutil.Error):
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            with suppress(OSError):
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
    return total


def measure(stage: str, folder: Path) -> tuple[float, float, int]:
    """Run a stage; return its seconds on the clock and of CPU, and its largest anonymous memory in bytes."""
    began, most = time.perf_counter(), 0
    environment = dvc_environment() | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen((sys.executable, "-m", *f"stages.{stage}".split()), cwd=folder, env=environment)
    while True:
        most = max(most, anonymous(process.pid))
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        time.sleep(0.05)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"stages.{stage} has ended with {process.returncode}")
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, most


def mixing(images: int, batch_size: int) -> float:
    """Return how much more the share of a class in a batch varies than after a full permutation, for images sorted by class.

    It is the ratio of the standard deviations, over the batches of an epoch, for ten equal classes.
    """
    from pipeline.training.batches import windows
    from pipeline.training.config import TrainConfig

    pixels, rng, shares = np.broadcast_to(np.zeros(1, np.uint8), (images, 1, 28, 28)), np.random.default_rng(0), []
    for rows in windows(TrainConfig(1, batch_size=batch_size), 1, Images(pixels)):
        labels = rng.permutation(rows)[: len(rows) // batch_size * batch_size].reshape(-1, batch_size) * 10 // images
        shares.append([(labels == label).mean(1) for label in range(10)])
    return float(np.concatenate(shares, 1).std(1).mean() / (0.1 * 0.9 / batch_size) ** 0.5)


@click.command(help=__doc__)
@click.option("--images", default=6_000_000, show_default=True, help="Training and test images together.")
@click.option("--place", default=".", show_default=True, type=Path, help="Folder on a disk with room for the files.")
def main(images: int, place: Path) -> None:
    digits = load("mnist", [mirror] if (mirror := os.environ.get("PIPELINE_MIRROR")) else []).train
    size = images * digits.pixels[0].nbytes
    if (free := shutil.disk_usage(place).free) < 2.1 * size:
        raise click.ClickException(f"{place}: {free / 1e9:.1f} GB are free, {2.1 * size / 1e9:.1f} GB are needed")
    with tempfile.TemporaryDirectory(dir=place) as name:
        folder = Path(name)
        (folder / ".dvc").mkdir()  # so that MLflow's store lies here
        write_images(folder / "shifted.safetensors", digits, images)
        values = {"data.name": "arrays", "data.path": "shifted.safetensors", "vae.epochs": 1, "vae.warmup_epochs": 0}
        values |= {"evaluate.profile": "fast"}
        params = with_values(load_params(ROOT / "params.yaml"), values)
        (folder / "params.yaml").write_text(json.dumps(params.model_dump()))
        rows = [(stage, *measure(stage, folder)) for stage in STAGES]
        data, metrics = load_json(folder / "metrics" / "data.json"), load_json(folder / "metrics" / "vae.json")
    about = f"{data['train/images']:,} training and {data['test/images']:,} test images, {size / 1e9:.2f} GB"
    click.echo(f"\n{about}; {machine('torch')}; test ELBO {metrics['test/elbo']}\n")
    cells = [(f"`stages.{stage}`", f"{wall:.0f}", f"{cpu:.0f}", f"{most / 2**20:,.0f}") for stage, wall, cpu, most in rows]
    table(("stage", "seconds", "CPU seconds", "anonymous memory, MiB"), cells)
    ratios = ", ".join(f"{size}: {mixing(data['train/images'], size):.2f}" for size in (128, 1024))
    click.echo(f"\nVariation of a class's share in a batch, over that of a full permutation, by batch size: {ratios}")


if __name__ == "__main__":
    main()
