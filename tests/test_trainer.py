"""Training is repeatable to the bit, and goes on from any epoch as if it had never stopped."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from conftest import blobs
from torch import Tensor

from pipeline import runtime
from pipeline.data import Split
from pipeline.epoch import GraphedEpoch, draw_batches, resident, run_epoch, validate
from pipeline.errors import DivergedError
from pipeline.models import MODELS
from pipeline.optimizer import Optimizer, hidden_weights
from pipeline.runtime import Runtime
from pipeline.step import AutogradStep, ExplicitStep
from pipeline.trainer import Epoch, State, fit

OPTIONS = {"epochs": 4, "batch_size": 16, "learning_rate": 3e-3, "seed": 5, "beta": 2.0, "latent_lr_scale": 2.0}
SHAMPOO = {"preconditioner": "shampoo", "batch_size": 4}  # 25 steps an epoch, so that the root is renewed


def new(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return MODELS[name](64, 2, [16, 8])


def kept(epoch: Epoch) -> State:
    """Return a copy of the state, which the next epoch overwrites."""
    return State({name: array.copy() for name, array in epoch.state.arrays.items()}, dict(epoch.state.header))


def weights(model: torch.nn.Module) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())


@pytest.fixture
def splits() -> tuple[Split, Split]:
    return blobs(100, seed=0), blobs(20, seed=1)


@pytest.mark.parametrize("name", MODELS)
def test_two_runs_are_bitwise_equal_and_another_seed_is_not(name: str, splits: tuple[Split, Split], rt: Runtime) -> None:
    first, second, other = new(name), new(name), new(name)
    histories = [
        [epoch.metrics for epoch in fit(model, *splits, **OPTIONS | {"seed": seed}, runtime=rt)]
        for model, seed in ((first, 5), (second, 5), (other, 6))
    ]
    assert histories[0] == histories[1]
    assert weights(first) == weights(second) != weights(other)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("change", [{"schedule": "constant"}, {"schedule": "cosine"}, SHAMPOO])
def test_resuming_after_any_epoch_gives_the_bits_of_an_uninterrupted_run(
    name: str, change: dict, splits: tuple[Split, Split], rt: Runtime
) -> None:
    options = OPTIONS | {"patience": 2, "epochs": 6, "warmup_epochs": 2} | change
    whole = new(name)
    epochs = [(kept(epoch), epoch.metrics) for epoch in fit(whole, *splits, **options, runtime=rt)]
    for index, (state, _) in enumerate(epochs):
        model = new(name)
        rest = [epoch.metrics for epoch in fit(model, *splits, **options, runtime=rt, resume=state)]
        assert rest == [metrics for _, metrics in epochs[index + 1 :]]
        assert weights(model) == weights(whole)


@pytest.mark.parametrize(
    "left_out", ["weights", "best_weights", "exp_avg", "exp_avg_sq", "covariance.1", "root.0", "epoch", "best_loss", "waited"]
)
def test_a_state_holds_nothing_that_could_be_left_out(left_out: str, splits: tuple[Split, Split], rt: Runtime) -> None:
    # The steps are so large that the best epoch comes early, and every item counts.
    options = OPTIONS | SHAMPOO | {"epochs": 20, "patience": 2, "learning_rate": 0.3, "schedule": "constant"}
    whole, model = new("vae"), new("vae")
    states = [kept(epoch) for epoch in fit(whole, *splits, **options, runtime=rt)]
    assert 3 < len(states) < 20, "the example must stop early"
    state = states[-2]
    arrays = {name: np.zeros_like(a) if name == left_out else a for name, a in state.arrays.items()}
    header = state.header | (
        {left_out: {"epoch": 0, "best_loss": math.inf, "waited": 0}[left_out]} if left_out in state.header else {}
    )
    try:
        rest = [kept(epoch) for epoch in fit(model, *splits, **options, runtime=rt, resume=State(arrays, header))]
    except DivergedError:
        return  # nor is this what the uninterrupted run did
    same = len(rest) == 1 and rest[0].header == states[-1].header
    assert not same or any((rest[0].arrays[name] != array).any() for name, array in states[-1].arrays.items())


def test_the_best_weights_are_kept_when_training_stops_early(splits: tuple[Split, Split], rt: Runtime) -> None:
    model = new("ae")
    options = OPTIONS | {"epochs": 50, "patience": 3, "learning_rate": 0.1, "schedule": "constant"}
    losses = [epoch.metrics["val/loss"] for epoch in fit(model, *splits, **options, runtime=rt)]
    assert len(losses) < 50
    assert len(losses) - 1 - int(np.argmin(losses)) == 3
    found = validate(model, resident(splits[1], rt.device), torch.zeros(20, 0))
    assert found["loss"] == min(losses)


def test_training_learns(splits: tuple[Split, Split], rt: Runtime) -> None:
    epochs = list(fit(new("vae"), *splits, epochs=40, batch_size=16, learning_rate=3e-3, runtime=rt))
    assert epochs[-1].metrics["train/loss"] < epochs[0].metrics["train/loss"] - 10
    assert epochs[-1].metrics["val/kl"] > 0.5


def test_validation_is_at_beta_one_and_training_at_beta(splits: tuple[Split, Split], rt: Runtime) -> None:
    (epoch,) = fit(new("vae"), *splits, **OPTIONS | {"epochs": 1, "beta": 4.0}, runtime=rt)
    m = epoch.metrics
    assert m["train/loss"] == pytest.approx(m["train/recon"] + 4 * m["train/kl"], rel=1e-5)
    assert m["val/loss"] == pytest.approx(m["val/recon"] + m["val/kl"], rel=1e-6)
    assert m["val/kl"] == pytest.approx(m["val/kl_per_dim/0"] + m["val/kl_per_dim/1"], rel=1e-6)


def test_warm_up_raises_the_weight_of_the_kl_term_linearly(splits: tuple[Split, Split], rt: Runtime) -> None:
    epochs = list(fit(new("vae"), *splits, **OPTIONS | {"beta": 4.0, "warmup_epochs": 2}, runtime=rt))
    found = [(e.metrics["train/loss"] - e.metrics["train/recon"]) / e.metrics["train/kl"] for e in epochs]
    assert found == pytest.approx([2, 4, 4, 4], rel=1e-3)
    assert epochs[0].state.header["best_epoch"] == 0  # chosen after the warm-up only


def test_the_layer_that_reads_the_code_steps_by_its_own_scale(splits: tuple[Split, Split], rt: Runtime) -> None:
    moved = {}
    for scale in (1.0, 8.0):
        model, start = new("vae"), new("vae").state_dict()
        # The whole set is one batch, so that an epoch is one step, and Adam's first step is the gradient's sign.
        options = {"epochs": 1, "batch_size": 100, "learning_rate": 1e-3, "latent_lr_scale": scale}
        list(fit(model, *splits, **options, runtime=rt))
        moved[scale] = {name: after - start[name] for name, after in model.state_dict().items()}
    for name, by in moved[1.0].items():
        factor = 8 if name in ("decoder.0.weight", "decoder.0.bias") else 1
        torch.testing.assert_close(moved[8.0][name], factor * by, rtol=1e-3, atol=1e-6)
        assert by.abs().max() > 0.9e-3


@pytest.mark.parametrize("preconditioner", ["none", "shampoo"])
@pytest.mark.parametrize("step", [1, 7, 10])
def test_a_number_that_is_not_finite_stops_before_its_step(
    step: int, preconditioner: str, splits: tuple[Split, Split], rt: Runtime
) -> None:
    model = new("vae")
    objective, calls, before = model.objective, 0, b""

    def poisoned(*args: Tensor) -> dict[str, Tensor]:
        nonlocal calls, before
        terms = objective(*args)
        if torch.is_grad_enabled():
            calls += 1
            if calls == step:
                before = weights(model)
                terms["loss"] = terms["loss"] * math.nan
        return terms

    model.objective = poisoned
    with pytest.raises(DivergedError, match=r"epoch \d+: .* not finite"):
        list(fit(model, *splits, **OPTIONS, preconditioner=preconditioner, runtime=rt, explicit=False))
    assert weights(model) == before


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("hidden_dims", [[16, 8], [12], []])
@pytest.mark.parametrize("change", [{}, {"input_dropout": 0.3}, {"preconditioner": "shampoo"}])
def test_the_explicit_step_is_the_autograd_step(
    name: str, hidden_dims: list[int], change: dict, splits: tuple[Split, Split], rt: Runtime
) -> None:
    histories = []
    for explicit in (True, False):
        torch.manual_seed(0)
        model = MODELS[name](64, 3, hidden_dims)
        options = OPTIONS | {"epochs": 17, "learning_rate": 1e-3} | change  # 102 steps
        histories.append([epoch.metrics for epoch in fit(model, *splits, **options, runtime=rt, explicit=explicit)])
    for one, other in zip(*histories, strict=True):
        assert one.keys() == other.keys()
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6)


def test_the_explicit_step_stops_at_numbers_that_are_not_finite(splits: tuple[Split, Split], rt: Runtime) -> None:
    model = new("vae")
    with pytest.raises(DivergedError, match="not finite"):
        list(fit(model, *splits, **OPTIONS | {"learning_rate": 1e25}, runtime=rt))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def a_gradient(name: str, step_of: type, where: Runtime) -> tuple[float, dict[str, Tensor]]:
    """Return the loss of a step and the gradient of each parameter."""
    torch.manual_seed(0)
    model = MODELS[name](64, 32, [48])  # oneDNN rounds no product of fewer than 16^3 operations
    step, random = step_of(model, Optimizer(model), 32, where), torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (32, 64), dtype=torch.uint8, generator=random)
    step(pixels, torch.ones(32, 64), torch.randn(32, model.noise_dim, generator=random), 1.0, 1e-3)
    return step.totals["loss"].item(), {parameter: each.grad for parameter, each in model.named_parameters()}


@pytest.mark.skipif(not torch.cpu.get_capabilities().get("amx_bf16"), reason="needs a CPU with AMX")
@pytest.mark.parametrize("name", MODELS)
def test_with_amx_bfloat16_rounds_what_every_product_reads_and_no_sum(name: str, rt: Runtime) -> None:
    rounding = Runtime(rt.device, 1, "bfloat16")
    assert ExplicitStep.applies_to(MODELS[name](), rounding)
    loss, exact = a_gradient(name, ExplicitStep, rt)
    rounded_loss, rounded = a_gradient(name, ExplicitStep, rounding)
    reference_loss, reference = a_gradient(name, AutogradStep, rounding)
    assert rounded_loss == pytest.approx(loss, rel=1e-4)
    assert rounded_loss == pytest.approx(reference_loss, rel=1e-6)
    for parameter, gradient in exact.items():
        assert (rounded[parameter] - gradient).norm() < 0.01 * gradient.norm()
        assert (rounded[parameter] - reference[parameter]).norm() < 1e-4 * gradient.norm()
        assert not torch.equal(rounded[parameter], gradient)
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16"


@pytest.mark.parametrize("name", MODELS)
def test_without_amx_bfloat16_is_autocast(name: str, rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.runtime._AMX", False)
    rounding = Runtime(rt.device, 1, "bfloat16")
    assert not ExplicitStep.applies_to(MODELS[name](), rounding)
    loss, exact = a_gradient(name, AutogradStep, rt)
    rounded_loss, rounded = a_gradient(name, AutogradStep, rounding)
    assert rounded_loss == pytest.approx(loss, rel=1e-2)
    for parameter, gradient in exact.items():
        assert 0 < (rounded[parameter] - gradient).norm() < 0.1 * gradient.norm()


def test_fewer_images_than_a_batch_are_one_batch(rt: Runtime) -> None:
    (epoch,) = fit(new("ae"), blobs(10, seed=0), blobs(3, seed=1), epochs=1, batch_size=128, runtime=rt)
    assert epoch.samples == 10


def test_an_epoch_sees_each_image_at_most_once(rt: Runtime) -> None:
    model = new("ae")
    objective, seen = model.objective, []

    def watching(x: Tensor, *args: Tensor) -> dict[str, Tensor]:
        if torch.is_grad_enabled():
            seen.append(x.clone())
        return objective(x, *args)

    model.objective = watching
    list(fit(model, blobs(100, seed=0), blobs(20, seed=1), epochs=2, batch_size=16, runtime=rt, explicit=False))
    first, second = torch.cat(seen[:6]), torch.cat(seen[6:])
    assert len(first) == len(second) == 96
    assert len(first.unique(dim=0)) == 96
    assert not torch.equal(first, second)


def test_dropout_hides_other_pixels_of_each_image_in_each_step_and_keeps_sums_and_target(rt: Runtime) -> None:
    model = new("vae")
    objective, hidden = model.objective, []

    def watching(x: Tensor, noise: Tensor, beta: float = 1.0, seen: Tensor | None = None) -> dict[str, Tensor]:
        if torch.is_grad_enabled():
            assert x.min() > 0, "the example has no black pixel, so a zero is a hidden one"
            hidden.append(seen == 0)
            assert torch.allclose(seen[seen > 0] * 0.75, x[seen > 0])
        else:
            assert seen is None, "validation shows the encoder everything"
        return objective(x, noise, beta, seen)

    model.objective = watching
    bright = Split(np.maximum(blobs(100, seed=0).images, 1), blobs(100, seed=0).labels)
    list(fit(model, bright, blobs(20, seed=1), epochs=2, batch_size=16, input_dropout=0.25, runtime=rt, explicit=False))
    masks = torch.cat(hidden)
    assert masks.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert len(masks.unique(dim=0)) > 0.85 * len(masks), "each image of each step has one of 1,024 masks, anew each epoch"


def test_a_runtime_insists_on_repeatable_algorithms_and_puts_everything_back() -> None:
    with runtime.use("cpu", threads=3):
        assert torch.get_deterministic_debug_mode() == 2, "an operation that is not raises an error"
        assert torch.are_deterministic_algorithms_enabled()
        with runtime.use("cpu", threads=1):
            torch.set_deterministic_debug_mode("default")
        assert torch.get_deterministic_debug_mode() == 2
        assert torch.get_num_threads() == 3


def test_numbers_too_small_for_float32_are_zero_on_every_thread() -> None:
    with runtime.use("cpu", threads=2):
        product = torch.full((1_000_000,), 1e-30) * 1e-10
    assert not product.any(), "a product of denormal numbers takes ten times as long on some CPUs"


def an_epoch(step_of: type, graphed: bool, device: str) -> tuple[np.ndarray, dict[str, float]]:
    """Return the weights and the sums of the objective's terms after two epochs of six steps."""
    where = Runtime(torch.device(device), 1)
    model = new("vae").to(device)
    images = resident(blobs(100, seed=0), where.device)
    step = step_of(model, Optimizer(model, {"decoder.0.weight": 4.0}, hidden_weights(model)), 16, where)
    step.optimizer.taken = 40  # so that the fourth step of the second epoch is the 50th
    epoch = GraphedEpoch(step, images) if graphed else partial(run_epoch, step, images)
    for number, beta in ((1, 0.5), (2, 2.0)):
        batches = draw_batches(7, number, 100, 16, 64, 2, input_dropout=0.1).to(where.device)
        epoch(batches, beta, [3e-3 / (i + number) for i in range(6)])
    return step.optimizer.weights.numpy(force=True), {name: total.item() for name, total in step.totals.items()}


@pytest.mark.parametrize("step_of", [ExplicitStep, AutogradStep])
def test_an_epoch_that_counts_its_steps_on_the_device_takes_the_same_steps(step_of: type, rt: Runtime) -> None:
    weights, totals = an_epoch(step_of, graphed=False, device="cpu")
    same_weights, same_totals = an_epoch(step_of, graphed=True, device="cpu")
    assert same_weights == pytest.approx(weights, abs=1e-6)  # there the step size is a float32
    assert same_totals == pytest.approx(totals, rel=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("step_of", [ExplicitStep, AutogradStep])
def test_a_cuda_graph_takes_the_steps_of_the_cpu(step_of: type) -> None:
    weights, totals = an_epoch(step_of, graphed=False, device="cpu")
    with runtime.use("cuda"):
        same_weights, same_totals = an_epoch(step_of, graphed=True, device="cuda")
        again, _ = an_epoch(step_of, graphed=True, device="cuda")
    assert same_weights == pytest.approx(weights, abs=1e-4)
    assert same_totals == pytest.approx(totals, rel=1e-4)
    assert (same_weights == again).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_resuming_on_cuda_gives_the_bits_of_an_uninterrupted_run(splits: tuple[Split, Split]) -> None:
    with runtime.use("cuda") as rt:
        whole, model = new("vae"), new("vae")
        states = [kept(epoch) for epoch in fit(whole, *splits, **OPTIONS | SHAMPOO, runtime=rt)]
        list(fit(model, *splits, **OPTIONS | SHAMPOO, runtime=rt, resume=states[1]))
    assert torch.equal(torch.cat([p.flatten() for p in model.parameters()]), torch.cat([p.flatten() for p in whole.parameters()]))
