"""Training speed on free cores and beside a busy process, by how OpenMP's threads wait: ``python -m benchmarks.load``.

The ways to wait: ``chosen`` by :func:`pipeline.startup.choose_waiting`, ``spinning`` (a thread looks for work 5,000 times before
it sleeps), ``asleep`` (it sleeps at once), and ``one thread``, which waits for nobody. libgomp reads the choice when torch is
imported, so each measurement is a process of its own. A round measures all of them once, quiet and busy in turn.
"""

import json
import os
import statistics
import subprocess
import sys

import click

from benchmarks.tools import ROOT, machine, noise_images, table
from pipeline import startup
from pipeline.params import load_params

# name: environment, threads
WAYS: dict[str, tuple[dict[str, str], int]] = {
    "chosen": ({}, 2),
    "spinning": ({"GOMP_SPINCOUNT": "5000"}, 2),
    "asleep": ({"OMP_WAIT_POLICY": "PASSIVE"}, 2),
    "one thread": ({}, 1),
}
SPIN = "while True: pass"  # the program of the busy process


def measure(threads: int, images: int, epochs: int) -> None:
    """Train the VAE of params.yaml on noise; print the images/s of the median epoch after the first, and how threads waited."""
    waiting = startup.choose_waiting(threads)
    from dataclasses import replace

    from pipeline import runtime
    from pipeline.training.config import TrainConfig
    from pipeline.training.run import new_model
    from pipeline.training.trainer import fit

    params, train = load_params(ROOT / "params.yaml"), noise_images(images)
    config = replace(TrainConfig.from_params(params, params.vae), epochs=epochs, patience=0)
    with runtime.use("cpu", threads) as rt:
        model = new_model("vae", params, "noise", train).model
        speeds = [epoch.samples / epoch.seconds for epoch in fit(model, train, train.take(slice(100)), config, runtime=rt)]
    print(json.dumps({"speed": statistics.median(speeds[1:]), "waiting": waiting}))


def in_process(way: str, images: int, epochs: int) -> tuple[float, str]:
    """Return images/s and how threads waited, measured in a process of its own."""
    variables, threads = WAYS[way]
    code = f"from benchmarks.load import measure; measure({threads}, {images}, {epochs})"
    inherited = {name: value for name, value in os.environ.items() if name not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}}
    done = subprocess.run((sys.executable, "-c", code), cwd=ROOT, env=inherited | variables, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"{way}: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return found["speed"], found["waiting"]


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--images", default=12_800, show_default=True, type=click.IntRange(min=128), help="Training images.")
@click.option("--epochs", default=5, show_default=True, type=click.IntRange(min=2))
@click.option("--busy", default=1, show_default=True, type=click.IntRange(min=1), help="Busy processes.")
def main(rounds: int, images: int, epochs: int, busy: int) -> None:
    """Print images/s, medians of the rounds, and their ratio to spinning on free cores in the same round."""
    speeds: dict[tuple[str, bool], list[float]] = {(way, loaded): [] for way in WAYS for loaded in (False, True)}
    chosen: dict[bool, set[str]] = {False: set(), True: set()}
    for index in range(rounds):
        for way in WAYS:
            for loaded in (False, True):
                others = [subprocess.Popen((sys.executable, "-c", SPIN)) for _ in range(busy if loaded else 0)]
                try:
                    speed, waiting = in_process(way, images, epochs)
                finally:
                    for other in others:
                        other.kill()
                        other.wait()
                speeds[way, loaded].append(speed)
                if way == "chosen":
                    chosen[loaded].add(waiting)
                click.echo(f"round {index + 1}: {way}, {'busy' if loaded else 'quiet'}: {speed:,.0f} images/s", err=True)
    click.echo(f"{machine('torch')}; {images:,} images, {epochs} epochs, {rounds} rounds, busy processes: {busy}\n")
    quiet = speeds["spinning", False]
    rows = []
    for way in WAYS:
        cells = [way]
        for loaded in (False, True):
            ratios = [speed / base for speed, base in zip(speeds[way, loaded], quiet, strict=True)]
            cells += [f"{statistics.median(speeds[way, loaded]):,.0f}", f"{statistics.median(ratios):.2f}"]
        rows.append(cells)
    table(("threads wait", "quiet, images/s", "of quiet spinning", "beside a busy process, images/s", "of quiet spinning"), rows)
    click.echo(f"\nChosen: {', '.join(sorted(chosen[False]))} (quiet); {', '.join(sorted(chosen[True]))} (busy).")


if __name__ == "__main__":
    main()
