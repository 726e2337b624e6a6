"""Training is repeatable to the bit, and resumes after any epoch as if it had never stopped."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies
from torch import Tensor

from pipeline import runtime
from pipeline.data import Images
from pipeline.errors import DivergedError
from pipeline.models import MODELS, LatentModel, ModelConfig
from pipeline.params import load_params
from pipeline.runtime import Runtime
from pipeline.training import batches
from pipeline.training.batches import resident, validate
from pipeline.training.config import SHIPPED, TrainConfig
from pipeline.training.optimizer import Optimizer
from pipeline.training.trainer import Epoch, State, fit
from tests.conftest import ROOT, blobs

Splits = tuple[Images, Images]
CONFIG = TrainConfig(epochs=4, batch_size=16, learning_rate=3e-3, seed=5, beta=2.0, decoder_input_lr_multiplier=2.0)
SHAMPOO = {"hidden_optimizer": "shampoo", "batch_size": 4}  # 25 steps an epoch, so that the root is renewed


def new(name: str, hidden_dims: tuple[int, ...] = (16, 8), latent_dim: int = 2) -> LatentModel:
    torch.manual_seed(0)
    return ModelConfig(name, "mlp", (1, 8, 8), latent_dim, hidden_dims).build()


def copied(state: State) -> State:
    return State({name: array.copy() for name, array in state.arrays.items()}, dict(state.header))


def kept(epoch: Epoch) -> State:
    """Return a copy of the state, which the next epoch overwrites."""
    return copied(epoch.state)


def weights(model: torch.nn.Module) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())


@pytest.fixture
def splits() -> Splits:
    return blobs(100, seed=0), blobs(20, seed=1)


@pytest.mark.parametrize("name", MODELS)
def test_two_runs_are_bitwise_equal_and_another_seed_is_not(name: str, splits: Splits, rt: Runtime) -> None:
    first, second, other = new(name), new(name), new(name)
    histories = [
        [epoch.metrics for epoch in fit(model, *splits, replace(CONFIG, seed=seed), runtime=rt)]
        for model, seed in ((first, 5), (second, 5), (other, 6))
    ]
    assert histories[0] == histories[1]
    assert weights(first) == weights(second) != weights(other)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("change", [{"schedule": "constant"}, {"schedule": "cosine"}, SHAMPOO])
def test_resuming_after_any_epoch_gives_the_bits_of_an_uninterrupted_run(
    name: str, change: dict, splits: Splits, rt: Runtime
) -> None:
    config = replace(CONFIG, **{"patience": 2, "epochs": 6, "warmup_epochs": 2} | change)
    whole = new(name)
    epochs = [(kept(epoch), epoch.metrics) for epoch in fit(whole, *splits, config, runtime=rt)]
    for index, (state, _) in enumerate(epochs):
        model = new(name)
        rest = [epoch.metrics for epoch in fit(model, *splits, config, runtime=rt, resume=state)]
        assert rest == [metrics for _, metrics in epochs[index + 1 :]]
        assert weights(model) == weights(whole)


@pytest.mark.parametrize("change", [{}, SHAMPOO | {"shards": 2}])
def test_resuming_within_an_epoch_gives_the_bits_of_an_uninterrupted_run(
    change: dict, splits: Splits, rt: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "RESIDENT", 0)
    monkeypatch.setattr(batches, "WINDOW", 40 * 64)
    monkeypatch.setattr(batches, "BLOCK", 4 * 64)
    config = replace(CONFIG, **{"patience": 2, "epochs": 3, "warmup_epochs": 1, "input_dropout": 0.2} | change)
    whole, states = new("vae"), list[State]()
    epochs = [kept(epoch) for epoch in fit(whole, *splits, config, runtime=rt, keep=lambda state: states.append(copied(state)))]
    assert [state.header["epoch"] for state in states] == [0, 0, 1, 1, 2, 2]
    for state in states:
        model = new("vae")
        rest = [kept(epoch) for epoch in fit(model, *splits, config, runtime=rt, resume=state)]
        assert [epoch.header for epoch in rest] == [epoch.header for epoch in epochs[state.header["epoch"] :]]
        assert weights(model) == weights(whole)


def test_what_is_reported_of_an_epoch_in_parts_is_the_mean_over_all_its_steps(
    splits: Splits, rt: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, rates, assign = replace(CONFIG, epochs=1), list[float](), Optimizer.set_learning_rate

    def stay(optimizer: Optimizer, rate: float) -> None:
        rates.append(rate)
        assign(optimizer, 0.0)

    monkeypatch.setattr(Optimizer, "set_learning_rate", stay)
    (one,) = fit(new("ae"), *splits, config, runtime=rt)
    monkeypatch.setattr(batches, "RESIDENT", 0)
    monkeypatch.setattr(batches, "WINDOW", 40 * 64)
    (parts,) = fit(new("ae"), *splits, config, runtime=rt)
    assert parts.metrics["train/loss"] == pytest.approx(one.metrics["train/loss"], rel=0.02)
    assert parts.metrics["val/loss"] == one.metrics["val/loss"]
    assert (parts.samples, parts.metrics["learning_rate"]) == (one.samples, one.metrics["learning_rate"])
    assert rates[:6] == rates[6:], "each step has its own"


@pytest.mark.parametrize(
    "left_out",
    ["weights", "best_weights", "exp_avg", "exp_avg_sq", "covariance.1", "root.0", "step", "epoch", "best_loss", "epochs_waited"],
)
def test_every_item_of_the_state_is_needed_to_resume(left_out: str, splits: Splits, rt: Runtime) -> None:
    # The steps are so large that the best epoch comes early, and every item counts.
    config = replace(CONFIG, **SHAMPOO, epochs=20, patience=2, learning_rate=0.3, schedule="constant")
    whole, model = new("vae"), new("vae")
    states = [kept(epoch) for epoch in fit(whole, *splits, config, runtime=rt)]
    assert 3 < len(states) < 20, "the example must stop early"
    state = states[-2]
    arrays = {name: np.zeros_like(a) if name == left_out else a for name, a in state.arrays.items()}
    header = state.header | (
        {left_out: {"epoch": 0, "best_loss": math.inf, "epochs_waited": 0}[left_out]} if left_out in state.header else {}
    )
    try:
        rest = [kept(epoch) for epoch in fit(model, *splits, config, runtime=rt, resume=State(arrays, header))]
    except DivergedError:
        return  # nor is this what the uninterrupted run did
    same = len(rest) == 1 and rest[0].header == states[-1].header
    assert not same or any((rest[0].arrays[name] != array).any() for name, array in states[-1].arrays.items())


def test_the_best_weights_are_kept_when_training_stops_early(splits: Splits, rt: Runtime) -> None:
    model = new("ae")
    config = replace(CONFIG, epochs=50, patience=3, learning_rate=0.1, schedule="constant")
    losses = [epoch.metrics["val/loss"] for epoch in fit(model, *splits, config, runtime=rt)]
    assert len(losses) < 50
    assert len(losses) - 1 - int(np.argmin(losses)) == 3
    found = validate(model, resident(splits[1], rt.device), torch.zeros(20, 0))
    assert found["loss"] == min(losses)


def test_training_learns(splits: Splits, rt: Runtime) -> None:
    epochs = list(fit(new("vae"), *splits, TrainConfig(40, batch_size=16, learning_rate=3e-3), runtime=rt))
    assert epochs[-1].metrics["train/loss"] < epochs[0].metrics["train/loss"] - 10
    assert epochs[-1].metrics["val/kl"] > 0.5


def test_validation_is_at_beta_one_and_training_at_beta(splits: Splits, rt: Runtime) -> None:
    (epoch,) = fit(new("vae"), *splits, replace(CONFIG, epochs=1, beta=4.0), runtime=rt)
    m = epoch.metrics
    assert m["train/loss"] == pytest.approx(m["train/recon"] + 4 * m["train/kl"], rel=1e-5)
    assert m["val/loss"] == pytest.approx(m["val/recon"] + m["val/kl"], rel=1e-6)
    assert m["val/kl"] == pytest.approx(m["val/kl_per_dim/0"] + m["val/kl_per_dim/1"], rel=1e-6)


def test_warm_up_raises_the_kl_weight_linearly(splits: Splits, rt: Runtime) -> None:
    epochs = list(fit(new("vae"), *splits, replace(CONFIG, beta=4.0, warmup_epochs=2), runtime=rt))
    found = [(e.metrics["train/loss"] - e.metrics["train/recon"]) / e.metrics["train/kl"] for e in epochs]
    assert found == pytest.approx([2, 4, 4, 4], rel=1e-3)
    assert epochs[0].state.header["best_epoch"] == 0  # chosen after the warm-up only


def test_the_decoders_first_layer_has_its_own_learning_rate(splits: Splits, rt: Runtime) -> None:
    moved = {}
    for scale in (1.0, 8.0):
        model, start = new("vae"), new("vae").state_dict()
        # The whole set is one batch, so that an epoch is one step, and Adam's first step is the gradient's sign.
        config = TrainConfig(1, batch_size=100, learning_rate=1e-3, decoder_input_lr_multiplier=scale)
        list(fit(model, *splits, config, runtime=rt))
        moved[scale] = {name: after - start[name] for name, after in model.state_dict().items()}
    for name, by in moved[1.0].items():
        factor = 8 if name in ("decoder.0.weight", "decoder.0.bias") else 1
        torch.testing.assert_close(moved[8.0][name], factor * by, rtol=1e-3, atol=1e-6)
        assert by.abs().max() > 0.9e-3


@pytest.mark.parametrize("hidden_optimizer", ["adam", "shampoo"])
@pytest.mark.parametrize("step", [1, 7, 10])
def test_a_loss_that_is_not_finite_stops_before_its_step(step: int, hidden_optimizer: str, splits: Splits, rt: Runtime) -> None:
    model = new("vae")
    loss_terms, calls, before = model.loss_terms, 0, b""

    def poisoned(*args: Tensor) -> dict[str, Tensor]:
        nonlocal calls, before
        terms = loss_terms(*args)
        if torch.is_grad_enabled():
            calls += 1
            if calls == step:
                before = weights(model)
                terms["loss"] = terms["loss"] * math.nan
        return terms

    model.loss_terms = poisoned
    with pytest.raises(DivergedError, match=r"epoch \d+: .* not finite"):
        list(fit(model, *splits, replace(CONFIG, hidden_optimizer=hidden_optimizer, fused=False), runtime=rt))
    assert weights(model) == before


@settings(max_examples=15)
@given(
    name=strategies.sampled_from(sorted(MODELS)),
    stop=strategies.integers(1, 4),
    config=strategies.builds(
        TrainConfig,
        epochs=strategies.integers(1, 5),
        batch_size=strategies.sampled_from([3, 16, 1000]),
        schedule=strategies.sampled_from(["constant", "cosine"]),
        patience=strategies.integers(0, 2),
        seed=strategies.integers(0, 2**31 - 1),
        beta=strategies.floats(0, 8, allow_subnormal=False),
        warmup_epochs=strategies.integers(0, 3),
        input_dropout=strategies.floats(0, 0.9, allow_subnormal=False),
        hidden_optimizer=strategies.sampled_from(["adam", "shampoo"]),
        fused=strategies.booleans(),
    ),
)
def test_any_training_continues_from_any_epoch_with_the_same_bits(name: str, stop: int, config: TrainConfig) -> None:
    images = blobs(20, seed=0), blobs(6, seed=1)
    with runtime.use("cpu", threads=1) as one:
        whole, continued = new(name), new(name)
        epochs = [(kept(epoch), epoch.metrics) for epoch in fit(whole, *images, config, runtime=one)]
        stop = min(stop, len(epochs))
        rest = [epoch.metrics for epoch in fit(continued, *images, config, runtime=one, resume=epochs[stop - 1][0])]
    assert rest == [metrics for _, metrics in epochs[stop:]]
    assert weights(continued) == weights(whole)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"learning_rate": 1e9}, r"lower train\.learning_rate \(1000000000\.0; shipped: 0\.002\)$"),
        ({"input_dropout": 0.9999999}, r"lower input_dropout \(0\.9999999; shipped: 0\.2\)$"),
        ({"decoder_input_lr_multiplier": 1e9}, r"lower decoder_input_lr_multiplier \(1000000000\.0; shipped: 16\.0\)$"),
        ({"beta": 1e9, "learning_rate": 1e3}, r"lower beta \(.*\) or train\.learning_rate \("),
        ({}, r"lower train\.learning_rate \(.*\) or beta \("),
    ],
)
def test_a_training_that_diverges_names_what_is_extreme(change: dict, says: str, splits: Splits, rt: Runtime) -> None:
    model = new("vae")
    loss_terms = model.loss_terms
    model.loss_terms = lambda *args: {name: value * math.nan for name, value in loss_terms(*args).items()}
    with pytest.raises(DivergedError, match=says):
        list(fit(model, *splits, replace(CONFIG, **{"beta": 1.0} | change, fused=False), runtime=rt))


def test_the_values_that_advice_compares_with_are_the_shipped_ones() -> None:
    params = load_params(ROOT / "params.yaml")
    shipped = TrainConfig.from_params(params, params.vae)
    assert {name: getattr(shipped, name) for name in SHIPPED} == SHIPPED


def test_fewer_images_than_a_batch_are_one_batch(rt: Runtime) -> None:
    (epoch,) = fit(new("ae"), blobs(10, seed=0), blobs(3, seed=1), TrainConfig(1), runtime=rt)
    assert epoch.samples == 10


def test_an_epoch_uses_each_image_at_most_once(rt: Runtime) -> None:
    model = new("ae")
    loss_terms, inputs = model.loss_terms, []

    def watching(x: Tensor, *args: Tensor) -> dict[str, Tensor]:
        if torch.is_grad_enabled():
            inputs.append(x.clone())
        return loss_terms(x, *args)

    model.loss_terms = watching
    list(fit(model, blobs(100, seed=0), blobs(20, seed=1), TrainConfig(2, batch_size=16, fused=False), runtime=rt))
    first, second = torch.cat(inputs[:6]), torch.cat(inputs[6:])
    assert len(first) == len(second) == 96
    assert len(first.unique(dim=0)) == 96
    assert not torch.equal(first, second)


def test_input_dropout_draws_new_masks_and_keeps_mean_and_target(rt: Runtime) -> None:
    model = new("vae")
    loss_terms, hidden = model.loss_terms, []

    def watching(x: Tensor, noise: Tensor, beta: float = 1.0, encoder_input: Tensor | None = None) -> dict[str, Tensor]:
        if torch.is_grad_enabled():
            assert x.min() > 0, "the example has no black pixel, so a zero is a hidden one"
            hidden.append(encoder_input == 0)
            assert torch.allclose(encoder_input[encoder_input > 0] * 0.75, x[encoder_input > 0])
        else:
            assert encoder_input is None, "validation shows the encoder everything"
        return loss_terms(x, noise, beta, encoder_input)

    model.loss_terms = watching
    bright = Images(np.maximum(blobs(100, seed=0).pixels, 1), blobs(100, seed=0).labels)
    list(fit(model, bright, blobs(20, seed=1), TrainConfig(2, batch_size=16, input_dropout=0.25, fused=False), runtime=rt))
    masks = torch.cat(hidden)
    assert masks.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert len(masks.unique(dim=0)) > 0.85 * len(masks), "each image of each step has one of 1,024 masks, anew each epoch"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_resuming_on_cuda_gives_the_bits_of_an_uninterrupted_run(splits: Splits) -> None:
    with runtime.use("cuda") as rt:
        whole, model = new("vae"), new("vae")
        states = [kept(epoch) for epoch in fit(whole, *splits, replace(CONFIG, **SHAMPOO), runtime=rt)]
        list(fit(model, *splits, replace(CONFIG, **SHAMPOO), runtime=rt, resume=states[1]))
    assert torch.equal(torch.cat([p.flatten() for p in model.parameters()]), torch.cat([p.flatten() for p in whole.parameters()]))
