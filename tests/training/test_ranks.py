"""A batch in shards, over one process or several: the same bits, also after a rank was killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from pipeline.errors import ParamsError
from pipeline.models import ModelConfig
from pipeline.params import Params
from pipeline.runtime import Ranks, Runtime, tree_sum
from pipeline.training.batches import draw_batches
from pipeline.training.config import TrainConfig
from pipeline.training.optimizer import Optimizer
from pipeline.training.step import ShardedStep, train_step
from pipeline.training.trainer import fit
from tests.conftest import ROOT, blobs

CONFIG = TrainConfig(2, batch_size=16, shards=4, input_dropout=0.2, seed=3, binarize=True)


def test_halves_of_a_tree_are_added_as_one() -> None:
    rows = torch.randn(8, 1000) * 10 ** torch.randn(8, 1)
    whole = tree_sum(rows)
    for size in (1, 2, 4, 8):
        assert torch.equal(tree_sum(torch.stack([tree_sum(part) for part in rows.chunk(size)])), whole)
    torch.testing.assert_close(whole, rows.sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [2, 4])
def test_the_draws_of_the_ranks_are_those_of_one_process(size: int) -> None:
    whole = draw_batches(CONFIG, 1, 100, (1, 8, 8), 3)
    parts = [draw_batches(CONFIG, 1, 100, (1, 8, 8), 3, Ranks(rank, size)) for rank in range(size)]
    for field in ("order", "mask_order", "noise", "threshold_order"):
        assert torch.equal(torch.cat([getattr(part, field) for part in parts], 1), getattr(whole, field)), field
    assert torch.equal(parts[-1].masks, whole.masks)
    assert torch.equal(parts[-1].thresholds, whole.thresholds)
    assert len(whole.noise.flatten().unique()) == whole.noise.numel(), "each shard has noise of its own"


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["ae", "vae"])
def test_the_gradient_of_the_shards_is_that_of_the_batch(name: str, fused: bool, rt: Runtime) -> None:
    model, x = ModelConfig(name, "mlp", (1, 8, 8), 2, (16,)).build(), torch.rand(16, 1, 8, 8)
    optimizer, noise = Optimizer(model.param_groups()), torch.randn(16, model.noise_dim)
    terms = train_step(model, 16, rt, fused)(x, x, noise, 2.0)
    expected = optimizer.gradient.clone()
    sharded = ShardedStep(train_step(model, 4, rt, fused), optimizer.gradient, 4, Ranks())(x, x, noise, 2.0)
    torch.testing.assert_close(optimizer.gradient, expected)
    assert sharded.keys() == terms.keys()
    for key, term in terms.items():
        torch.testing.assert_close(sharded[key], term)


def test_a_batch_that_cannot_be_cut_is_refused(params: Params, rt: Runtime) -> None:
    values = params.model_dump()
    with pytest.raises(ValueError, match="batch_size 18 is not a multiple of shards, 4"):
        Params.model_validate(values | {"train": values["train"] | {"batch_size": 18, "shards": 4}})
    with pytest.raises(ParamsError, match=r"train\.shards: 4 parts cannot be cut from batches of 14, all training images"):
        next(fit(ModelConfig("ae", "mlp", (1, 8, 8), 2, ()).build(), blobs(14, 0), blobs(4, 1), CONFIG, runtime=rt))


class Torchrun:
    """Runs the stage train in some processes, in a folder of its own below the workspace."""

    def __init__(self, workspace: Path, data: Path, params: Params) -> None:
        self.workspace, self.data = workspace, data
        with open(workspace / "params.yaml", "w") as file:
            YAML().dump(params.model_dump(), file)

    def __call__(self, out: str, processes: int, *options: str, kill: str = "-1 0") -> subprocess.CompletedProcess[str]:
        (self.workspace / out / ".dvc").mkdir(parents=True, exist_ok=True)  # a repository: checkpoints are kept in it
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *options]
        command = [sys.executable, *launch * (processes > 1), "-m", "tests.training.rank_of_torchrun", "vae"]
        command += ["--params", "../params.yaml", "--data", str(self.data), "--out", "out", "--metrics", "out"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "KILL": kill, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
        return subprocess.run(command, cwd=self.workspace / out, env=environment, capture_output=True, text=True, timeout=500)

    def files(self, out: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.workspace / out / "out").glob("*.*")}


@pytest.fixture
def torchrun(workspace: Path, data_file: Path, params: Params) -> Torchrun:
    values = params.model_dump()
    return Torchrun(workspace, data_file, Params.model_validate(values | {"train": values["train"] | {"shards": 4}}))


def test_a_rank_that_was_killed_and_another_number_of_processes_give_the_same_bytes(torchrun: Torchrun) -> None:
    alone = torchrun("alone", 1)
    assert alone.returncode == 0, alone.stderr
    expected = torchrun.files("alone")
    assert expected.keys() == {"vae.safetensors", "vae_history.csv", "vae_train.json"}
    restarted = torchrun("restarted", 2, "--max-restarts=1", kill="1 9")
    assert restarted.returncode == 0, restarted.stderr
    assert restarted.stdout.count("in 2 processes") == 2
    assert "continuing after epoch 1" in restarted.stdout
    assert torchrun.files("restarted") == expected
    killed = torchrun("resumed", 4, kill="0 15")
    assert killed.returncode != 0
    assert "vae.safetensors" not in torchrun.files("resumed")
    resumed = torchrun("resumed", 1)
    assert "continuing after epoch 2" in resumed.stdout
    assert torchrun.files("resumed") == expected


def test_processes_that_do_not_divide_the_shards_are_one_line_each(torchrun: Torchrun) -> None:
    done = torchrun("three", 3)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert set(lines) == {"error: train.shards: 4 is not a multiple of 3, the number of processes that torchrun started"}
    assert not torchrun.files("three")
