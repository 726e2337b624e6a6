"""Train the tutorial's VAE side by side with its peers: samples per second, seconds, memory, -ELBO after equal epochs.

Each contender runs in a process, each peer in an environment of its own (`.bench/`), the rounds interleaved so that a
machine whose speed drifts treats them alike; what is reported are medians of the ratios within a round.
"""

import json
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path

import click
import numpy as np
import torch

from pipeline import runtime
from pipeline.data import load_dataset
from pipeline.models import MODELS
from pipeline.step import ExplicitStep, FlatAdam

HERE = Path(__file__).parent
BENCH = Path(".bench")
UV = ".uv/bin/uv"
OURS = "pipeline"
TORCH = "torch==2.15.0"
# name: script, packages of its environment (none: ours), further arguments
CONTENDERS: dict[str, tuple[str, list[str], list[str]]] = {
    OURS: ("ours.py", [], []),
    "pipeline, autograd": ("ours.py", [], ["autograd"]),
    "tutorial idiom": ("tutorial.py", [], []),
    "pythae 0.1.2": ("pythae_vae.py", ["pythae==0.1.2", TORCH], []),
    "Lightning": ("lightning.py", ["lightning", TORCH], []),
    "JAX scan": ("jax_scan.py", ["jax", "optax"], []),
}


def python_of(name: str, packages: list[str]) -> Path:
    """Return the interpreter of a contender's environment, made on first use."""
    if not packages:
        return Path(".venv/bin/python").absolute()
    folder = BENCH / name.split()[0].lower()
    if not (folder / "ready").exists():
        subprocess.run((UV, "venv", "--quiet", "--clear", "--python", ".venv/bin/python", str(folder)), check=True)
        subprocess.run([UV, "pip", "install", "--quiet", "--python", f"{folder}/bin/python", "numpy", *packages], check=True)
        (folder / "ready").touch()
    return (folder / "bin/python").absolute()


def contend(name: str, epochs: int) -> dict[str, float]:
    """Run a contender once."""
    script, packages, options = CONTENDERS[name]
    environment = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONDONTWRITEBYTECODE": ""}
    command = [str(part) for part in (python_of(name, packages), HERE / "peers" / script, BENCH.absolute(), epochs, *options)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise click.ClickException(f"{name} failed: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    images = len(np.load(BENCH / "train.npy", mmap_mode="r"))
    steady = images / statistics.median(found["epochs"][1:])
    return {"steady": steady, "whole": seconds, "nelbo": found["nelbo"], "peak_mib": found["peak_mib"]}


def fraction_of_floor(rounds: int = 9, steps: int = 50, batch: int = 128) -> list[float]:
    """Return, for each round, the time of the step's own matrix products over the time of the step."""
    with runtime.use("cpu", 2) as rt:
        model = MODELS["vae"]()
        step = ExplicitStep(model, FlatAdam(model, 1e-3), batch, rt)
        pixels = torch.randint(0, 256, (20_000, 784), dtype=torch.uint8)
        noise = torch.randn(batch, 2)
        products = []
        for net, first in ((step.encoder, True), (step.decoder, False)):
            for index, layer in enumerate(net):
                w, x, d = layer.weight.detach(), torch.randn(batch, layer.in_features), torch.randn(batch, layer.out_features)
                products += [(x, w.t(), torch.empty_like(d)), (d.t(), x, torch.empty_like(w))]
                if index or not first:
                    products.append((d, w, torch.empty_like(x)))

        def seconds(take: object) -> float:
            start = time.perf_counter()
            for _ in range(steps):
                take()  # type: ignore[operator]
            return time.perf_counter() - start

        def floor() -> None:
            for a, b, out in products:
                torch.mm(a, b, out=out)

        def whole() -> None:
            step(pixels[torch.randint(len(pixels), (batch,))], noise, 1.0, 1e-3)

        seconds(floor), seconds(whole)
        return [seconds(floor) / seconds(whole) for _ in range(rounds)]


@click.command()
@click.option("--data", default="data/dataset.safetensors", show_default=True, type=Path)
@click.option("--epochs", default=3, show_default=True, type=click.IntRange(min=2))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--only", multiple=True, type=click.Choice(list(CONTENDERS)), help="Contenders beside ours; repeatable. Default: all."
)
def main(data: Path, epochs: int, rounds: int, only: tuple[str, ...]) -> None:
    """Print the table of benchmarks/README.md."""
    dataset = load_dataset(data)
    BENCH.mkdir(exist_ok=True)
    np.save(BENCH / "train.npy", dataset.train.images)
    np.save(BENCH / "test.npy", dataset.test.images)
    names = [OURS, *(name for name in CONTENDERS if name != OURS and (not only or name in only))]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for index in range(rounds):
        for name in names:
            found[name].append(contend(name, epochs))
            click.echo(f"round {index + 1}: {name}: {found[name][-1]['steady']:,.0f} samples/s", err=True)
    click.echo(f"{dataset.name}, {len(dataset.train):,} images, {epochs} epochs, {rounds} rounds, {time.strftime('%Y-%m-%d')}")
    click.echo(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {os.cpu_count()} cores\n")
    click.echo("| contender | samples/s, median | ours over it, median (rounds) | whole, s | peak MiB | test -ELBO |")
    click.echo("|---|---|---|---|---|---|")
    for name, rows in found.items():
        ratios = [ours["steady"] / row["steady"] for ours, row in zip(found[OURS], rows, strict=True)]
        medians = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        each = " ".join(f"{ratio:.2f}" for ratio in ratios)
        click.echo(
            f"| {name} | {medians['steady']:,.0f} | {statistics.median(ratios):.2f} ({each}) | {medians['whole']:.0f} "
            f"| {medians['peak_mib']:,.0f} | {medians['nelbo']:.1f} |"
        )
    fractions = sorted(fraction_of_floor())
    median = statistics.median(fractions)
    click.echo(
        f"\nThe step takes its own matrix products over {median:.2f} ({fractions[0]:.2f} to {fractions[-1]:.2f}) of its time."
    )


if __name__ == "__main__":
    main()
