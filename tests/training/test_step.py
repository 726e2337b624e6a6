"""The fused step computes autograd's gradient and applies to no other model; other nets train through autograd."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from pipeline import runtime
from pipeline.errors import DivergedError
from pipeline.models import MODELS, VAE, LatentModel, ModelConfig
from pipeline.models.mlp import MLPEncoder
from pipeline.runtime import Runtime
from pipeline.training.config import TrainConfig
from pipeline.training.fused_mlp import FusedMLPStep
from pipeline.training.optimizer import Optimizer
from pipeline.training.step import AutogradStep, train_step
from pipeline.training.trainer import fit
from tests.conftest import blobs

CONFIG = TrainConfig(epochs=17, batch_size=16, learning_rate=1e-3, seed=5, beta=2.0, decoder_input_lr_multiplier=2.0)


def new(name: str, latent_dim: int = 3, hidden_dims: tuple[int, ...] = (16, 8)) -> LatentModel:
    torch.manual_seed(0)
    return ModelConfig(name, "mlp", (1, 8, 8), latent_dim, hidden_dims).build()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("hidden_dims", [(16, 8), (12,), ()])
@pytest.mark.parametrize("change", [{}, {"input_dropout": 0.3}, {"hidden_optimizer": "shampoo"}])
def test_fused_step_equals_autograd_over_a_hundred_steps(
    name: str, hidden_dims: tuple[int, ...], change: dict, rt: Runtime
) -> None:
    histories = []
    for fused in (True, False):
        model = new(name, hidden_dims=hidden_dims)
        epochs = fit(model, blobs(100, seed=0), blobs(20, seed=1), replace(CONFIG, **change, fused=fused), runtime=rt)
        histories.append([epoch.metrics for epoch in epochs])
    for one, other in zip(*histories, strict=True):
        assert one.keys() == other.keys()
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6)


def test_fused_step_stops_at_a_loss_that_is_not_finite(rt: Runtime) -> None:
    model = new("vae")
    with pytest.raises(DivergedError, match="not finite"):
        list(fit(model, blobs(100, seed=0), blobs(20, seed=1), replace(CONFIG, learning_rate=1e25), runtime=rt))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_the_fused_step_is_chosen_for_registered_classes_alone(name: str, rt: Runtime) -> None:
    class OtherObjective(VAE):
        pass

    class OtherEncoder(MLPEncoder):
        pass

    def chosen(model: LatentModel, fused: bool = True) -> type:
        Optimizer(model.param_groups())
        return type(train_step(model, 16, rt, fused))

    plain, patched = new(name), new(name)
    patched.loss_terms = partial(plain.loss_terms)  # type: ignore[method-assign]
    other_net = VAE(OtherEncoder([64, 4]), plain.decoder, 2)
    assert chosen(plain) is FusedMLPStep
    others = [patched, other_net, OtherObjective(new("vae").encoder, new("vae").decoder, 3)]
    assert {chosen(model) for model in others} == {AutogradStep}
    assert chosen(new(name), fused=False) is AutogradStep


def gradient(name: str, kind: type, where: Runtime) -> tuple[float, dict[str, Tensor]]:
    """Return the loss of a step and the gradient of each parameter."""
    model = new(name, 32, (48,))  # oneDNN rounds no matmul of fewer than 16^3 operations
    Optimizer(model.param_groups())
    step, random = train_step(model, 32, where, fused=kind is FusedMLPStep), torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8, generator=random) / 255
    terms = step(x, x, torch.randn(32, model.noise_dim, generator=random), 1.0)
    return terms["loss"].item(), {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.skipif(not torch.cpu.get_capabilities().get("amx_bf16"), reason="needs a CPU with AMX")
@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_with_amx_rounds_the_inputs_of_every_matmul_and_no_sum(name: str, rt: Runtime) -> None:
    rounding = Runtime(rt.device, 1, "bfloat16")
    assert FusedMLPStep.applies_to(new(name), rounding)
    loss, exact = gradient(name, FusedMLPStep, rt)
    rounded_loss, rounded = gradient(name, FusedMLPStep, rounding)
    reference_loss, reference = gradient(name, AutogradStep, rounding)
    assert rounded_loss == pytest.approx(loss, rel=1e-4)
    assert rounded_loss == pytest.approx(reference_loss, rel=1e-6)
    for parameter, values in exact.items():
        assert (rounded[parameter] - values).norm() < 0.01 * values.norm()
        assert (rounded[parameter] - reference[parameter]).norm() < 1e-4 * values.norm()
        assert not torch.equal(rounded[parameter], values)
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16"


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_without_amx_is_autocast(name: str, rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_has_amx", lambda: False)
    rounding = Runtime(rt.device, 1, "bfloat16")
    assert not FusedMLPStep.applies_to(new(name), rounding)
    loss, exact = gradient(name, AutogradStep, rt)
    rounded_loss, rounded = gradient(name, AutogradStep, rounding)
    assert rounded_loss == pytest.approx(loss, rel=1e-2)
    for parameter, values in exact.items():
        assert 0 < (rounded[parameter] - values).norm() < 0.1 * values.norm()


def test_a_net_without_hidden_linear_layers_trains_through_autograd(rt: Runtime) -> None:
    torch.manual_seed(0)  # whatever ran before
    encoder = nn.Sequential(nn.Conv2d(1, 4, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4))
    decoder = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Unflatten(1, (4, 2, 2)), nn.ConvTranspose2d(4, 1, 4, stride=4))
    model = VAE(encoder, decoder, 2)
    model.start_at_mean(torch.from_numpy(blobs(100, seed=0).mean_image()), 100)
    config = TrainConfig(40, batch_size=16, learning_rate=1e-2, hidden_optimizer="shampoo")
    epochs = list(fit(model, blobs(100, seed=0), blobs(20, seed=1), config, runtime=rt))
    assert epochs[-1].metrics["val/loss"] < epochs[0].metrics["val/loss"] - 1
