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
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from pipeline import runtime  # before torch is loaded: it sets how long OpenMP's threads spin

# isort: split
import torch

from pipeline.data import load_dataset
from pipeline.epoch import draw_batches, run_epoch
from pipeline.models import MODELS
from pipeline.optimizer import Optimizer, hidden_weights
from pipeline.step import ExplicitStep

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
    "Lightning": ("lightning_module.py", ["lightning", TORCH], []),
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
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"OMP_NUM_THREADS": "2", "BENCH_START": str(time.time())}
    command = [str(part) for part in (python_of(name, packages), HERE / "peers" / script, BENCH.absolute(), epochs, *options)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise click.ClickException(f"{name} failed: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    images = len(np.load(BENCH / "train.npy", mmap_mode="r"))
    steady = images / statistics.median(found["epochs"][1:])
    return {"steady": steady, "whole": seconds} | {name: found[name] for name in ("first", "nelbo", "peak_mib")}


def floors(rounds: int = 9, steps: int = 50, batch: int = 128) -> dict[str, list[float]]:
    """Return, for each round, microseconds of a step, of one with Shampoo, of its products and of as many at full speed.

    Full speed is what products of 2048 x 2048 matrices reach here, the practical peak of fused multiply-adds.
    """
    with runtime.use("cpu", 2) as rt:
        model = MODELS["vae"]()
        step = ExplicitStep(model, Optimizer(model), batch, rt)
        other = MODELS["vae"]()
        preconditioned = ExplicitStep(other, Optimizer(other, preconditioned=hidden_weights(other)), batch, rt)
        images = torch.randint(0, 256, (20_000, 784), dtype=torch.uint8)
        batches = draw_batches(0, 1, len(images), batch, 784, 2, input_dropout=0.2)
        products: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        for layer in (*step.encoder, *step.decoder):
            products += [(layer.x, layer.weight_t, layer.out), (layer.delta_t, layer.x, layer.weight_grad)]
            if layer.x_delta is not None:
                products.append((layer.delta, layer.weight, layer.x_delta))
        operations = sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b, _ in products)
        square = torch.randn(2048, 2048)

        def microseconds(take: Callable[[], object], times: int) -> float:
            start = time.perf_counter()
            for _ in range(times):
                take()
            return (time.perf_counter() - start) / times * 1e6

        def multiply() -> None:
            for a, b, out in products:
                torch.mm(a, b, out=out)

        def epoch(step: ExplicitStep) -> float:
            rates = [1e-3] * len(batches.order)
            return microseconds(lambda: run_epoch(step, images, batches, 1.0, rates), 1) / len(rates)

        found: dict[str, list[float]] = {"step": [], "preconditioned": [], "products": [], "peak": []}
        for _ in range(rounds + 1):
            found["products"].append(microseconds(multiply, steps))
            found["step"].append(epoch(step))
            found["preconditioned"].append(epoch(preconditioned))
            found["peak"].append(microseconds(lambda: square @ square, 2) * operations / (2 * 2048**3))
        return {name: times[1:] for name, times in found.items()}  # the first round warms up


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
    machine = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores"
    click.echo(f"{machine}, torch {torch.__version__}\n")
    click.echo(
        "| contender | samples/s, median | ours over it (rounds) | first epoch after, s | whole, s | peak MiB | test -ELBO |"
    )
    click.echo("|---|---|---|---|---|---|---|")
    for name, rows in found.items():
        ratios = [ours["steady"] / row["steady"] for ours, row in zip(found[OURS], rows, strict=True)]
        medians = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        each = " ".join(f"{ratio:.2f}" for ratio in ratios)
        click.echo(
            f"| {name} | {medians['steady']:,.0f} | {statistics.median(ratios):.2f} ({each}) | {medians['first']:.1f} "
            f"| {medians['whole']:.0f} | {medians['peak_mib']:,.0f} | {medians['nelbo']:.1f} |"
        )
    found_floors = floors()
    step = statistics.median(found_floors["step"])
    click.echo(f"\nA step takes {step:,.0f} microseconds.")
    for name, what in (
        ("preconditioned", "Shampoo between hidden layers as well"),
        ("products", "its own matrix products"),
        ("peak", "as many operations at full speed"),
    ):
        fractions = sorted(floor / step for floor, step in zip(found_floors[name], found_floors["step"], strict=True))
        low, median, high = fractions[0], statistics.median(fractions), fractions[-1]
        click.echo(f"For {what} it would take {median:.2f} ({low:.2f} to {high:.2f}) of that.")


if __name__ == "__main__":
    main()
