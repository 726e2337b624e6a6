"""What each command costs when MLflow's store has many runs: ``python -m benchmarks.many_runs --runs 1000``.

A copy of this repository gets a store with one run, logged as a training and its evaluation log it, and copies of that run
for other values of beta, latent dimension and seed, with numbers that depend on them. ``--experiments`` adds commits as
``dvc exp run`` leaves them. Each command is a process of its own.
"""

import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click

from benchmarks.tools import copy_files, dvc_environment, machine, table, working_tree

BETAS, DIMS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0), (2, 3, 4, 6, 8, 10, 12, 16, 24, 32)
OF_A_RUN = {  # what a run has in MLflow's database
    "runs": "SELECT * FROM runs WHERE run_uuid = ?",
    "params": "SELECT * FROM params WHERE run_uuid = ?",
    "tags": "SELECT * FROM tags WHERE run_uuid = ?",
    "metrics": "SELECT * FROM metrics WHERE run_uuid = ?",
    "latest_metrics": "SELECT * FROM latest_metrics WHERE run_uuid = ?",
    "logged_models": "SELECT * FROM logged_models WHERE source_run_id = ?",
    "inputs": "SELECT * FROM inputs WHERE ? IN (source_id, destination_id)",
}
FILL = "from benchmarks.many_runs import fill; fill({runs}, {epochs})"
CHAMPION = """
from pathlib import Path
from pipeline.storage import md5
from pipeline.tracking import events, store
events.promote_champion(store.find(md5(Path("models/vae.safetensors"))), "mnist")
"""
LATENT = (sys.executable, "-m", "pipeline")
COMMANDS = {
    "`latent compare`": (*LATENT, "compare"),
    "`latent compare --top 10`": (*LATENT, "compare", "--top", "10"),
    "`latent compare --filter \"params.beta = '4'\"`": (*LATENT, "compare", "--filter", "params.beta = '4'"),
    "`latent sync`, nothing to add": (*LATENT, "sync"),
    "the champion, after an evaluation": (sys.executable, "-c", CHAMPION),
    "`latent report --against HEAD`": (*LATENT, "report", "--against", "HEAD"),
}
SHOW = ("dvc", "exp", "show", "--csv")
PAGE = "MLflow's table: its first 100 runs"
GIT = ("git", "-c", "user.name=many", "-c", "user.email=many@localhost")


def first_run(epochs: int) -> str:
    """Log a run of a VAE as a training and its evaluation do, with 9 points an epoch, and return its id."""
    import torch

    from pipeline.models import ModelConfig
    from pipeline.models.weights import Trained, save_weights
    from pipeline.params import load_params
    from pipeline.storage import load_json, md5
    from pipeline.tracking import dvc_lock, events, store
    from pipeline.tracking.pages import label
    from pipeline.training.run import logged_params

    settings, shape = logged_params(load_params(Path("params.yaml")), "vae"), (1, 28, 28)
    config, weights = ModelConfig("vae", "mlp", shape, 2, (512, 256)), Path("models/vae.safetensors")
    torch.manual_seed(1)
    save_weights(weights, Trained(config.build(), config, "mnist", 1.0))
    data = next(stage.data for stage in dvc_lock.read("dvc.lock") if stage.module == "train" and stage.data)
    tags = {"dataset": "mnist", "data.md5": data[1], "role": "sweep", "device": "cpu", "fingerprint": "0"}
    with store.start(label(settings), tags) as run:
        events.log_training_start(run, settings, "mnist", *data, (54_000, *shape))
        for epoch in range(1, epochs + 1):
            terms = {"recon": 127 + 30 / epoch, "kl": 7 - 1 / epoch, "loss": 134 + 29 / epoch}
            row = {f"{part}/{term}": value for part in ("train", "val") for term, value in terms.items()}
            speed = {f"{what}_per_second": 5e4 for what in ("samples", "steps")}
            run.log_epoch({"epoch": epoch, "learning_rate": 0.002, **speed, **row}, epoch)
        events.log_training_end(run, settings, load_json(Path("metrics/vae_train.json")), md5(weights), shape, None, weights)
        events.log_evaluation(run, load_json(Path("metrics/vae.json")), [])
    if run.id is None:
        raise click.ClickException("the first run could not be logged")
    return run.id


def fill(runs: int, epochs: int) -> None:
    """Log a run into ``mlflow.db``, and copy it until there are so many."""
    first = first_run(epochs)
    with closing(sqlite3.connect("mlflow.db")) as database, database:
        database.row_factory = sqlite3.Row
        held = {name: database.execute(query, (first,)).fetchall() for name, query in OF_A_RUN.items()}
        model, folder = held["logged_models"][0]["model_id"], Path(held["runs"][0]["artifact_uri"].removeprefix("file://"))
        for number in range(1, runs):
            seed, dim, beta = number // 100 + 1, DIMS[number // 10 % 10], BETAS[number % 10]
            ids = {first: f"{number:032x}", model: f"m-{number:032x}"}
            rows = varied(held, seed, dim, beta, random.Random(number))  # noqa: S311 (no secret)
            for name, entries in rows.items():
                for row in entries:
                    for key, value in row.items():
                        if isinstance(value, str) and (key.startswith("artifact_") or value in ids):
                            row[key] = value.replace(first, ids[first]).replace(model, ids[model])
                marks = ", ".join(f":{column}" for column in entries[0])
                database.executemany(f"INSERT INTO {name} VALUES ({marks})", entries)  # noqa: S608 (names of this file)
            copy = folder.parents[1] / ids[first] / "artifacts"
            copy.mkdir(parents=True)
            for path in folder.glob("*.*"):
                os.link(path, copy / path.name)


def varied(
    held: dict[str, list[sqlite3.Row]], seed: int, dim: int, beta: float, noise: random.Random
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a run as those of a training with another seed, latent dimension and beta."""
    rows = {name: [dict(row) for row in found] for name, found in held.items()}
    name = f"β={beta:g} vae seed={seed} 512-256-{dim}"
    texts = {"beta": f"{beta:g}", "seed": f"{seed}", "model.latent_dim": f"{dim}", "mlflow.runName": name}
    texts |= {key: f"{noise.getrandbits(128):032x}" for key in ("model.md5", "fingerprint")}
    factors = {"recon": 0.75 + 0.5 / dim + 0.02 * beta, "kl": 1.1 * dim**0.4 / (0.3 + beta) ** 0.5}
    factors = {term: factor * noise.gauss(1, 0.005) for term, factor in factors.items()}
    factors |= dict.fromkeys(("loss", "elbo"), 0.95 * factors["recon"] + 0.05 * factors["kl"])
    for row in rows["params"] + rows["tags"]:
        row["value"] = texts.get(row["key"], row["value"])
    for row in rows["metrics"] + rows["latest_metrics"]:
        row["value"] *= factors.get(re.split("[/_]", row["key"])[-1], 1.0)
    for row in rows["runs"]:
        row |= {"name": name, "start_time": row["start_time"] - 1}
    for row in rows["inputs"]:
        row["input_uuid"] = uuid.UUID(int=noise.getrandbits(128)).hex
    return rows


def add_experiments(folder: Path, number: int) -> None:
    """Add commits as ``dvc exp run`` leaves them, each with another beta, and so other weights of the VAE."""
    head = subprocess.check_output((*GIT, "rev-parse", "HEAD"), cwd=folder, text=True).strip()
    lock, params = (folder / "dvc.lock").read_text(), (folder / "params.yaml").read_text()
    (weights,) = set(re.findall(r"path: models/vae.safetensors\s+hash: md5\s+md5: (\w+)", lock))
    commits = []
    for index in range(number):
        beta, name = f"beta: {1 + (index + 1) / 1000}", f"refs/exps/{head[:2]}/{head[2:]}/many-{index}"
        commits.append(f"commit {name}\ncommitter many <many@localhost> {1_700_000_000 + index} +0000\ndata 0\nfrom {head}\n")
        changed = re.sub(r"\bbeta: [\d.]+", beta, lock.replace(weights, f"f{index:031x}"))
        for path, content in {"dvc.lock": changed, "params.yaml": re.sub(r"(?m)^beta: [\d.]+", beta, params)}.items():
            commits.append(f"M 100644 inline {path}\ndata {len(content.encode())}\n{content}\n")
    subprocess.run((*GIT, "fast-import", "--quiet", "--force"), cwd=folder, input="".join(commits), text=True, check=True)


def make(folder: Path, runs: int, epochs: int, variables: dict[str, str]) -> None:
    """Make a repository of the files that git would commit here, with a store of runs."""
    copy_files(working_tree(), folder)
    for command in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "--message", "as it stands")):
        subprocess.run((*GIT, *command), cwd=folder, check=True)
    cost((sys.executable, "-c", FILL.format(runs=runs, epochs=epochs)), folder, variables)
    cost((*LATENT, "sync"), folder, variables)  # so that the next one has nothing to add


def cost(command: tuple[str, ...], folder: Path, variables: dict[str, str]) -> tuple[float, float]:
    """Run a command; return its seconds of CPU and its largest memory in MiB, children included."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        if process.returncode:
            raise click.ClickException(f"{' '.join(command)[:80]}: {said.read()[-2000:]}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


@contextmanager
def server(folder: Path, variables: dict[str, str], port: int) -> Iterator[None]:
    """Serve MLflow's pages until the block ends."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", "sqlite:///mlflow.db", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, env=variables | own, stdout=log, stderr=log)
        try:
            while process.poll() is None:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                    break
                except OSError:
                    time.sleep(0.2)
            yield
        finally:
            process.terminate()
            process.wait()


def first_page(port: int) -> float:
    """Ask what MLflow's table asks for its first 100 runs; return the seconds."""
    asked = {"experiment_ids": ["1"], "max_results": 100, "order_by": ["attributes.start_time DESC"]}
    place, kind = f"http://127.0.0.1:{port}/ajax-api/2.0/mlflow/runs/search", {"Content-Type": "application/json"}
    begun = time.perf_counter()
    with urllib.request.urlopen(urllib.request.Request(place, json.dumps(asked).encode(), kind)) as answer:
        json.load(answer)
    return time.perf_counter() - begun


@click.command()
@click.option("--runs", default=1000, show_default=True, type=click.IntRange(min=1))
@click.option("--epochs", default=31, show_default=True, type=click.IntRange(min=1), help="Epochs of a run, 9 points each.")
@click.option("--experiments", default=200, show_default=True, type=click.IntRange(min=0), help="DVC's, for `dvc exp show`.")
@click.option("--port", default=5057, show_default=True, help="For MLflow's server.")
@click.option("--keep", type=click.Path(path_type=Path), help="A folder to keep the repository in; it is used if it is there.")
@click.option("--only", default="", help="Only what has this text in its name.")
def main(runs: int, epochs: int, experiments: int, port: int, keep: Path | None, only: str) -> None:
    """Print the CPU seconds and the largest memory of each command on a store with many runs."""
    with tempfile.TemporaryDirectory() as name:
        folder, variables = keep.absolute() if keep else Path(name) / "repository", dvc_environment()
        if not folder.exists():
            make(folder, runs, epochs, variables)
        with closing(sqlite3.connect(folder / "mlflow.db")) as database:
            ((held,), (points,)) = database.execute("SELECT count(*) FROM runs UNION ALL SELECT count(*) FROM metrics")
        click.echo(f"{held:,} runs, {points:,} rows of metrics; {machine('mlflow', 'dvc')}\n")
        rows = []

        def measure(verb: str, words: tuple[str, ...]) -> None:
            if only in verb:
                cpu, memory = cost(words, folder, variables)
                rows.append((verb, f"{cpu:.1f}", f"{memory:.0f}"))
                click.echo(f"{verb}: {cpu:.1f} s, {memory:.0f} MiB", err=True)

        for verb, words in COMMANDS.items():
            measure(verb, words)
        if only in PAGE:
            with server(folder, variables, port):
                first_page(port)  # which imports
                rows.append((PAGE, f"{min(first_page(port) for _ in range(5)):.2f} (wall)", ""))
        if experiments:
            add_experiments(folder, experiments)
            measure(f"`{' '.join(SHOW)}` of {experiments} experiments", SHOW)
        table(("command", "CPU, s", "memory, MiB"), rows)


if __name__ == "__main__":
    main()
