"""The draws and the steps of an epoch, what an epoch reports, and what a training starts from."""

import fcntl
import math
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import runtime
from pipeline.data import Images
from pipeline.errors import BusyError
from pipeline.models import MODELS, ModelConfig
from pipeline.params import Params
from pipeline.runtime import Runtime
from pipeline.storage import load_arrays
from pipeline.training import batches, trainer
from pipeline.training.batches import Batches, binarize, draw_batches, fits, resident, run_epoch, validate, windows
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.config import TrainConfig
from pipeline.training.optimizer import Optimizer
from pipeline.training.run import logged_params, new_model
from pipeline.training.trainer import fit
from tests.conftest import blobs

CONFIG = TrainConfig(epochs=3, batch_size=16, learning_rate=1e-2, seed=5, input_dropout=0.25)
SHAPE = (1, 8, 8)


def test_an_epoch_is_a_permutation_cut_into_full_batches() -> None:
    first, second = (draw_batches(CONFIG, epoch, 100, SHAPE, 3) for epoch in (1, 2))
    assert first.order.shape == first.mask_order.shape == (6, 16)
    assert first.noise.shape == (6, 16, 3)
    assert len(first.order.unique()) == 96
    assert (first.order.min() >= 0, first.order.max() < 100) == (True, True)
    assert draw_batches(CONFIG, 1, 10, SHAPE, 3).order.sort().values.tolist() == [list(range(10))]
    assert not any(torch.equal(one, other) for one, other in zip(first, second, strict=True) if one.any())
    assert abs(first.noise.mean()) < 4 / first.noise.numel() ** 0.5
    assert first.noise.std() == pytest.approx(1, abs=0.15)


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for 40 images of 8 x 8, which are read in blocks of 4."""
    monkeypatch.setattr(batches, "RESIDENT", 40 * 64)
    monkeypatch.setattr(batches, "WINDOW", 40 * 64)
    monkeypatch.setattr(batches, "BLOCK", 4 * 64)


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("count", [41, 96, 97, 101, 127, 130])
def test_windows_of_full_batches_hold_every_image_once_but_fewer_than_a_batch(count: int) -> None:
    images = Images(np.zeros((count, *SHAPE), np.uint8))
    assert not fits(images)
    found = [list(windows(CONFIG, epoch, images)) for epoch in (1, 1, 2)]
    assert [rows.tolist() for rows in found[0]] == [rows.tolist() for rows in found[1]] != [rows.tolist() for rows in found[2]]
    for parts in found:
        assert {len(rows) for rows in parts[:-1]} <= {32}, "two batches, of the 40 images that have room"
        assert 16 <= len(parts[-1]) <= 32
        rows = np.concatenate(parts)
        assert len(np.unique(rows)) == len(rows) > count - 16
        assert (rows.min() >= 0, rows.max() < count) == (True, True)
        assert sum(len(part) // 16 for part in parts) == count // 16
        assert all(len(np.unique(part // 4)) <= len(part) // 4 + 2 for part in parts), "whole blocks, but for two"


@pytest.mark.usefixtures("small_memory")
def test_images_that_fit_are_one_window() -> None:
    assert [rows.tolist() for rows in windows(CONFIG, 1, blobs(40, seed=0))] == [list(range(40))]


@pytest.mark.usefixtures("small_memory")
def test_in_parts_every_image_is_trained_on_once_an_epoch_with_draws_of_its_own(
    monkeypatch: pytest.MonkeyPatch, rt: Runtime
) -> None:
    images, seen, drawn = blobs(100, seed=0), [], []
    index, draw = Tensor.index_select, batches.draw_batches

    def watched(tensor: Tensor, dim: int, rows: Tensor) -> Tensor:
        if tensor.dtype == torch.uint8:
            seen.append(index(tensor, dim, rows))
        return index(tensor, dim, rows)

    def drawing(*args: Any) -> Batches:
        drawn.append(draw(*args))
        return drawn[-1]

    monkeypatch.setattr(Tensor, "index_select", watched)
    monkeypatch.setattr(trainer, "draw_batches", drawing)
    list(fit(ModelConfig("vae", "mlp", SHAPE, 2, (4,)).build(), images, images, replace(CONFIG, epochs=2), runtime=rt))
    held = {image.tobytes() for image in images.pixels}
    for epoch in (seen[:6], seen[6:]):
        found = [image.numpy().tobytes() for image in torch.cat(epoch)]
        assert len({*found}) == len(found) == 96
        assert {*found} <= held
    noise = torch.cat([part.noise.flatten() for part in drawn])
    assert len(noise.unique()) == len(noise) == 2 * 96 * 2


def test_a_mask_hides_pixels_and_keeps_the_mean_of_the_others() -> None:
    drawn = draw_batches(CONFIG, 1, 5000, SHAPE, 0)
    assert drawn.masks.unique().tolist() == pytest.approx([0, 4 / 3])
    assert drawn.masks.mean().item() == pytest.approx(1, abs=0.01)
    assert drawn.masks.shape == (1024, *SHAPE)
    assert (drawn.mask_order.min() <= 5, drawn.mask_order.max() >= 1018) == (True, True)
    without = draw_batches(replace(CONFIG, input_dropout=0.0), 1, 100, SHAPE, 0)
    assert without.masks.eq(1).all()
    assert without.masks.shape == (1, *SHAPE)
    assert not without.mask_order.any()


def test_binarized_pixels_are_white_with_their_intensity_as_probability() -> None:
    drawn = draw_batches(replace(CONFIG, binarize=True), 1, 5000, SHAPE, 0)
    assert (drawn.threshold_order.min() <= 5, drawn.threshold_order.max() >= 1018) == (True, True)
    for level in (0, 51, 204, 255):
        drawn_pixels = binarize(torch.full(drawn.thresholds.shape, level, dtype=torch.uint8), drawn.thresholds)
        assert set(drawn_pixels.unique().tolist()) <= {0, 255}
        assert drawn_pixels.float().mean().item() / 255 == pytest.approx(level / 255, abs=0.01 if 0 < level < 255 else 0)
    assert not draw_batches(CONFIG, 1, 100, SHAPE, 0).thresholds.numel()


def test_binarized_training_shows_other_pixels_in_each_epoch_and_validates_on_the_same(rt: Runtime) -> None:
    model, gray = ModelConfig("vae", "mlp", SHAPE, 2, (4,)).build(), Images(np.full((32, *SHAPE), 128, np.uint8))
    loss_terms, trained, validated = model.loss_terms, [], []

    def watching(x: Tensor, noise: Tensor, beta: float = 1.0, encoder_input: Tensor | None = None) -> dict[str, Tensor]:
        (trained if torch.is_grad_enabled() else validated).append(x.clone())
        assert encoder_input is None or torch.equal(encoder_input, x), "the encoder reads the image that is reconstructed"
        return loss_terms(x, noise, beta, encoder_input)

    model.loss_terms = watching
    config = TrainConfig(2, batch_size=32, binarize=True, fused=False)
    list(fit(model, gray, gray, config, runtime=rt))
    first, second = trained
    assert first.unique().tolist() == validated[0].unique().tolist() == [0, 1]
    assert not torch.equal(first, second)
    assert torch.equal(*validated)
    assert len(first.unique(dim=0)) > 25


def test_every_draw_of_a_training_has_a_purpose_of_its_own_that_stays(monkeypatch: pytest.MonkeyPatch, rt: Runtime) -> None:
    seen: list[tuple[Any, ...]] = []

    def recorded(*key: Any) -> torch.Generator:
        seen.append(key)
        return runtime.generator(*key)

    for module in (batches, trainer):
        monkeypatch.setattr(module, "generator", recorded)
    list(fit(ModelConfig("vae", "mlp", SHAPE, 2, (4,)).build(), blobs(40, seed=0), blobs(9, seed=1), CONFIG, runtime=rt))
    assert sorted(map(str, seen)) == sorted(
        map(str, [(5, "validation"), *((5, name, epoch) for name in ("order", "noise", "masks") for epoch in (1, 2, 3))])
    )


@pytest.mark.parametrize("binarized", [False, True])
def test_each_step_gets_its_images_masks_noise_and_learning_rate(binarized: bool) -> None:
    images = torch.randint(0, 256, (9, *SHAPE), dtype=torch.uint8)
    order, mask_order = torch.tensor([[3, 1], [0, 8]]), torch.tensor([[0, 1], [1, 1]])
    thresholds, threshold_order = torch.randint(255, (2, *SHAPE), dtype=torch.uint8), torch.tensor([[1, 0], [1, 1]])
    drawn = Batches(order, torch.rand(2, *SHAPE), mask_order, torch.randn(2, 2, 3), thresholds[: 2 * binarized], threshold_order)
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer, seen = Optimizer([{"params": [weight]}]), []

    def step(*given: Any) -> dict[str, Tensor]:
        seen.append((*given, optimizer.num_steps))
        return {"loss": torch.tensor(10.0 ** len(seen)), "kl": torch.tensor(1.0 * len(seen))}

    applied = []
    take = optimizer.step
    optimizer.step = lambda closure=None, loss=None: applied.append((optimizer.param_groups[0]["lr"], loss)) or take(loss=loss)
    totals = run_epoch(step, optimizer, images, drawn, 4.0, [0.5, 0.25])
    assert {name: total.item() for name, total in totals.items()} == {"loss": 110, "kl": 3}
    assert [(rate, loss.item()) for rate, loss in applied] == [(0.5, 10), (0.25, 100)]
    for index, (x, encoder_input, noise, beta, done) in enumerate(seen):
        pixels = images[order[index]]
        torch.testing.assert_close(x, (pixels > thresholds[threshold_order[index]]).float() if binarized else pixels / 255)
        torch.testing.assert_close(encoder_input, x * drawn.masks[mask_order[index]])
        assert torch.equal(noise, drawn.noise[index])
        assert (beta, done) == (4.0, index)


@pytest.mark.parametrize("name", MODELS)
def test_validation_is_the_mean_over_all_images_whatever_the_batches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = ModelConfig(name, "mlp", SHAPE, 2, (4,)).build(), blobs(21, seed=0)
    noise = torch.randn(21, model.noise_dim)
    with torch.no_grad():
        expected = model.loss_terms(torch.from_numpy(images.intensities), noise)
    for size in (2048, 8):
        monkeypatch.setattr(batches, "_VALIDATION_BATCH", size)
        found = validate(model, resident(images, torch.device("cpu")), noise)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert found[key] == pytest.approx(value.tolist(), rel=1e-5)


def test_an_epoch_reports_means_over_its_steps_and_its_last_learning_rate(rt: Runtime) -> None:
    config = replace(CONFIG, learning_rate=0.0, input_dropout=0.0, beta=3.0, schedule="constant", patience=2)
    model, train, val = ModelConfig("vae", "mlp", SHAPE, 2, (4,)).build(), blobs(48, seed=0), blobs(9, seed=1)
    epochs = list(fit(model, train, val, config, runtime=rt))
    with torch.no_grad():
        kl = model.loss_terms(torch.from_numpy(train.intensities), torch.zeros(48, 2))["kl"].item()
    assert [(epoch.number, epoch.samples, epoch.is_last) for epoch in epochs] == [(1, 48, False), (2, 48, False), (3, 48, True)]
    for epoch in epochs:
        assert epoch.metrics["train/kl"] == pytest.approx(kl, rel=1e-5)
        assert epoch.seconds > 0
        assert epoch.state.header == {"epoch": epoch.number, "best_epoch": 1, "best_loss": epoch.metrics["val/loss"]} | {
            "epochs_waited": epoch.number - 1
        }
    falling = [epoch.metrics["learning_rate"] for epoch in fit(model, train, val, replace(CONFIG, patience=0), runtime=rt)]
    assert falling == pytest.approx([0.5e-2 * (1 + math.cos(math.pi * step / 9)) for step in (2, 5, 8)])
    assert not model.training


def test_the_config_of_a_training_is_that_of_the_params(params: Params) -> None:
    config = TrainConfig.from_params(params, params.vae)
    assert (config.seed, config.beta) == (params.seed, params.beta)
    for section in (params.train, params.vae):
        values = section.model_dump()
        assert {name: value for name, value in vars(config).items() if name in values}.items() <= values.items()
    assert config.batch_size == 16
    assert config.decoder_input_lr_multiplier == 2.0


@pytest.mark.parametrize("name", MODELS)
def test_the_params_of_a_training_are_all_that_decide_it(name: str, params: Params) -> None:
    expected = {"seed": params.seed, "data.val_size": 0.2, "model.name": name, "likelihood": "auto"}
    expected |= {f"train.{key}": value for key, value in params.train.model_dump().items()}
    expected |= {f"model.{key}": value for key, value in getattr(params, name).model_dump().items()}
    assert logged_params(params, name) == expected | ({"beta": params.beta} if name == "vae" else {})


@pytest.mark.parametrize("name", MODELS)
def test_the_first_weights_depend_on_the_seed_and_the_output_on_the_mean_image(name: str, params: Params) -> None:
    images, before = blobs(40, seed=0), torch.random.get_rng_state()
    trained = new_model(name, params, "blobs", images)
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        expected = ModelConfig(name, "mlp", SHAPE, 2, (16, 8)).build()
    expected.start_at_mean(torch.from_numpy(images.mean_image()), 40)
    for key, value in expected.state_dict().items():
        assert torch.equal(trained.model.state_dict()[key], value), key
    assert (trained.config, trained.dataset) == (ModelConfig(name, "mlp", SHAPE, 2, (16, 8)), "blobs")
    assert trained.beta == (params.beta if name == "vae" else None)


def test_checkpoints_take_turns_and_their_holder_is_named(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, "vae", seed=1) as saved:
        assert saved.folder == tmp_path / "vae" / saved.fingerprint
        assert len(saved.fingerprint) == 32
        assert (saved.folder / "lock").read_text() == str(os.getpid())
        for epoch in (1, 2, 3):
            saved.save({"x": np.zeros(1)}, {"epoch": epoch})
            assert len(list(saved.folder.glob("*.safetensors"))) == min(epoch, 2)
        assert [load_arrays(saved.folder / f"{index}.safetensors")[1]["epoch"] for index in (0, 1)] == [3, 2]
        with pytest.raises(BusyError, match=f"^the same training already runs as process {os.getpid()}; wait for it or stop it$"):
            Checkpoints(tmp_path, "vae", seed=1).__enter__()
        assert saved.run_id() is None
        assert saved.run_id("abc") == saved.run_id() == saved.run_id("") == "abc"
    assert pickle.loads(pickle.dumps(saved)).folder == saved.folder  # noqa: S301 (its own)
    with open(saved.folder / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
