"""Train the same VAE side by side with its peers: images per second, seconds, memory, -ELBO after equal epochs.

``python -m benchmarks.training`` trains the tutorial's, with ``--net conv`` a convolutional one of 50 latent dimensions. Each
contender runs in a process, each peer in an environment of its own (`.bench/`). The rounds are interleaved, so that a machine
whose speed drifts treats all alike; reported are medians of the ratios in a round.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np

from benchmarks.tools import machine, table
from pipeline import startup
from pipeline.data import load_dataset
from pipeline.errors import one_line

HERE = Path(__file__).parent
BENCH = Path(".bench")
UV = ".uv/bin/uv"
OURS = "pipeline"
TORCH = "torch==2.15.0"
# name: script, packages of its environment (none: ours), further arguments
CONTENDERS: dict[str, tuple[str, list[str], list[str]]] = {
    OURS: ("ours.py", [], []),
    "pipeline, autograd": ("ours.py", [], ["autograd"]),
    "plain loop": ("plain.py", [], []),
    "tutorial idiom": ("tutorial.py", [], []),
    "pythae 0.1.2": ("pythae_vae.py", ["pythae==0.1.2", TORCH], []),
    "Lightning": ("lightning_module.py", ["lightning", TORCH], []),
    "JAX scan": ("jax_scan.py", ["jax", "optax"], []),
}


def python_of(name: str, packages: list[str]) -> Path:
    """Return the interpreter of a contender's environment, made on first use."""
    if not packages:
        return Path(sys.executable)
    folder = BENCH / name.split()[0].lower()
    if not (folder / "ready").exists():
        subprocess.run((UV, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)), check=True)
        subprocess.run([UV, "pip", "install", "--quiet", "--python", f"{folder}/bin/python", "numpy", *packages], check=True)
        (folder / "ready").touch()
    return (folder / "bin/python").absolute()


def contend(name: str, epochs: int, net: str) -> dict[str, float]:
    """Run a contender once."""
    script, packages, options = CONTENDERS[name]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"OMP_NUM_THREADS": "2", "BENCH_START": str(time.time())}
    command = [
        str(part) for part in (python_of(name, packages), HERE / "peers" / script, BENCH.absolute(), epochs, net, *options)
    ]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise click.ClickException(f"{name} failed: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    images = len(np.load(BENCH / "train.npy", mmap_mode="r"))
    steady = images / statistics.median(found["epochs"][1:])
    return {"steady": steady, "whole": seconds} | {name: found[name] for name in ("first", "nelbo", "peak_mib")}


@click.command()
@click.option("--data", default="data/dataset.safetensors", show_default=True, type=Path)
@click.option("--net", default="mlp", show_default=True, type=click.Choice(["mlp", "conv"]))
@click.option("--epochs", default=3, show_default=True, type=click.IntRange(min=2))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--only", multiple=True, type=click.Choice(list(CONTENDERS)), help="Contenders beside ours; repeatable. Default: all."
)
def main(data: Path, net: str, epochs: int, rounds: int, only: tuple[str, ...]) -> None:
    """Print the table of docs/performance.md, and how a step compares with its matmuls."""
    dataset = load_dataset(data)
    BENCH.mkdir(exist_ok=True)
    np.save(BENCH / "train.npy", dataset.train.pixels[:, 0])
    np.save(BENCH / "test.npy", dataset.test.pixels[:, 0])
    wanted = only or [name for name in CONTENDERS if net == "mlp" or name not in ("pipeline, autograd", "JAX scan")]
    names = [OURS, *(name for name in wanted if name != OURS)]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for index in range(rounds):
        for name in names:
            found[name].append(contend(name, epochs, net))
            click.echo(f"round {index + 1}: {name}: {found[name][-1]['steady']:,.0f} images/s", err=True)
    click.echo(f"{dataset.name}, {len(dataset.train):,} images, {epochs} epochs, {rounds} rounds; {machine('torch')}\n")
    rows = []
    for name, runs in found.items():
        ratios = [ours["steady"] / run["steady"] for ours, run in zip(found[OURS], runs, strict=True)]
        medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        each = " ".join(f"{ratio:.2f}" for ratio in ratios)
        cells = [name, f"{medians['steady']:,.0f}", f"{statistics.median(ratios):.2f} ({each})", f"{medians['first']:.1f}"]
        rows.append([*cells, f"{medians['whole']:.0f}", f"{medians['peak_mib']:,.0f}", f"{medians['nelbo']:.1f}"])
    head = (
        "contender",
        "images/s, median",
        "ours over it (rounds)",
        "first epoch after, s",
        "whole, s",
        "peak MiB",
        "test -ELBO",
    )
    table(head, rows)
    if net != "mlp":
        return
    click.echo(f"\nThreads of the steps below: {startup.choose_waiting(2)}.")
    from benchmarks.floors import floors

    floor = floors()
    click.echo(f"A step takes {statistics.median(floor['step']):,.0f} microseconds. As shares of it:")
    for name, what in (
        ("shampoo", "with Shampoo"),
        ("matmuls", "its matmuls alone"),
        ("peak", "as many operations at full speed"),
    ):
        shares = sorted(times / step for times, step in zip(floor[name], floor["step"], strict=True))
        click.echo(f"{what}: {statistics.median(shares):.2f} ({shares[0]:.2f} to {shares[-1]:.2f})")


if __name__ == "__main__":
    with one_line():
        main()
