"""Models, their nets and their objective, over every registered model."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from pipeline.data import Shape
from pipeline.errors import ParamsError
from pipeline.models import MODELS, NETS, VAE, LatentModel, ModelConfig
from pipeline.models.conv import conv
from pipeline.models.likelihoods import bernoulli_nll
from pipeline.models.objectives import Posterior, gaussian_kl

SIZES = [((1, 28, 28), 2, (512, 256)), ((1, 8, 8), 1, ()), ((3, 2, 5), 7, (16,))]


def new(name: str, shape: Shape = (1, 8, 8), latent_dim: int = 2, hidden_dims: tuple[int, ...] = (16, 8)) -> LatentModel:
    return ModelConfig(name, "mlp", shape, latent_dim, hidden_dims).build()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("shape", "latent_dim", "hidden_dims"), SIZES)
def test_shapes(name: str, shape: Shape, latent_dim: int, hidden_dims: tuple[int, ...]) -> None:
    model = new(name, shape, latent_dim, hidden_dims)
    x = torch.rand(5, *shape)
    posterior = model.encode(x)
    assert posterior.mean.shape == posterior.std.shape == (5, latent_dim)
    assert (posterior.logvar is not None) == model.is_probabilistic
    assert model.decode(posterior.mean).shape == x.shape
    assert model.decode(torch.zeros(3, 4, latent_dim)).shape == (3, 4, *shape)
    terms = model.loss_terms(x, torch.randn(5, model.noise_dim))
    assert all(term.shape == () or term.shape == (latent_dim,) for term in terms.values())
    assert {"loss", "recon"} <= terms.keys()


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_receives_a_gradient(name: str) -> None:
    model = new(name, (1, 4, 5), 3, (8, 6))
    model.loss_terms(torch.rand(16, 1, 4, 5), torch.randn(16, model.noise_dim))["loss"].backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


def test_parameter_counts_of_the_tutorial_nets() -> None:
    nets = {"vae": (512, 256), "ae": (512, 256, 128)}
    counts = {name: sum(p.numel() for p in new(name, (1, 28, 28), 2, sizes).parameters()) for name, sizes in nets.items()}
    assert counts["vae"] == 1_068_820
    assert counts["ae"] == 2 * (784 * 512 + 512 * 256 + 256 * 128 + 128 * 2) + 2 * (512 + 256 + 128) + 2 + 784


@pytest.mark.parametrize(("key", "value"), [("model", "gan"), ("net", "transformer")])
def test_names_that_are_not_registered_are_refused(key: str, value: str) -> None:
    config, allowed = {"model": "vae", "net": "mlp"} | {key: value}, ", ".join(MODELS if key == "model" else NETS)
    with pytest.raises(ParamsError, match=f"{config['model']}.{key}: '{value}' is not allowed; allowed is {allowed}$"):
        ModelConfig(**config, image_shape=(1, 8, 8), latent_dim=2, hidden_dims=()).build()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("hidden_dims", "expected"),
    [((), []), ((9,), []), ((9, 8, 7), ["encoder.2.weight", "encoder.4.weight", "decoder.2.weight", "decoder.4.weight"])],
)
def test_shampoo_gets_the_matrices_between_hidden_layers(name: str, hidden_dims: tuple[int, ...], expected: list[str]) -> None:
    model = new(name, hidden_dims=hidden_dims)
    names = {parameter: key for key, parameter in model.named_parameters()}
    groups = model.param_groups("shampoo")
    assert [names[group["params"][0]] for group in groups if group["kind"] == "shampoo"] == expected
    assert [parameter for group in groups for parameter in group["params"]] == list(model.parameters())


def test_the_decoders_first_layer_gets_the_learning_rate_multiplier() -> None:
    model = new("vae")
    names = {parameter: key for key, parameter in model.named_parameters()}
    faster = [group for group in model.param_groups(decoder_input_lr_multiplier=16.0) if group["lr_scale"] != 1]
    assert [[names[parameter] for parameter in group["params"]] for group in faster] == [["decoder.0.weight", "decoder.0.bias"]]
    assert faster[0]["lr_scale"] == 16.0


def test_all_parameters_are_alike_unless_asked_otherwise() -> None:
    model = new("vae")
    assert model.param_groups() == [{"params": list(model.parameters()), "lr_scale": 1.0, "kind": "adam"}]


@pytest.mark.parametrize("name", MODELS)
def test_the_objective_compares_what_is_decoded_from_the_encoder_input_with_the_images(name: str) -> None:
    model, x, dropped = new(name), torch.rand(5, 1, 8, 8), torch.rand(5, 1, 8, 8)
    terms = model.loss_terms(x, torch.zeros(5, model.noise_dim), encoder_input=dropped)
    torch.testing.assert_close(terms["recon"], bernoulli_nll(model.decode(model.encode(dropped).mean), x).mean())
    torch.testing.assert_close(terms["loss"], terms["recon"] + terms.get("kl", 0.0))


def test_bernoulli_nll_equals_torch_distributions() -> None:
    logits, x = torch.randn(4, 1, 3, 3), torch.bernoulli(torch.rand(4, 1, 3, 3))
    expected = -Bernoulli(logits=logits).log_prob(x).flatten(1).sum(-1)
    torch.testing.assert_close(bernoulli_nll(logits, x), expected)
    assert bernoulli_nll(torch.zeros(1, 1, 28, 28), torch.rand(1, 1, 28, 28)).item() == pytest.approx(784 * math.log(2), rel=1e-6)


def test_bernoulli_nll_broadcasts_samples_over_images() -> None:
    logits, x = torch.randn(3, 4, 1, 3, 3), torch.rand(4, 1, 3, 3)
    assert bernoulli_nll(logits, x).shape == (3, 4)
    torch.testing.assert_close(bernoulli_nll(logits, x)[1], bernoulli_nll(logits[1], x))


def test_gaussian_kl_equals_torch_distributions() -> None:
    mean, logvar = torch.randn(4, 3), torch.randn(4, 3)
    expected = kl_divergence(Normal(mean, torch.exp(0.5 * logvar)), Normal(0.0, 1.0))
    torch.testing.assert_close(gaussian_kl(mean, logvar), expected)


def test_samples_have_the_moments_of_the_posterior() -> None:
    noise = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    z = Posterior(torch.tensor([[2.0]]), torch.tensor([[math.log(9.0)]])).sample(noise)
    assert z.mean().item() == pytest.approx(2, abs=0.03)
    assert z.std().item() == pytest.approx(3, abs=0.03)


def test_beta_weights_the_kl_term_of_the_loss_and_nothing_else() -> None:
    vae, x, noise = new("vae", (1, 4, 5), 3, (8,)), torch.rand(5, 1, 4, 5), torch.randn(5, 3)
    one, four = vae.loss_terms(x, noise, 1.0), vae.loss_terms(x, noise, 4.0)
    assert torch.equal(one["recon"], four["recon"])
    torch.testing.assert_close(four["loss"] - one["loss"], 3 * one["kl"])
    torch.testing.assert_close(one["kl_per_dim"].sum(), one["kl"])


def test_start_at_mean_makes_the_decoder_draw_the_mean_image() -> None:
    decoder = nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (1, 2, 2)))
    nn.init.zeros_(decoder[0].weight)
    mean = torch.tensor([0.0, 0.25, 0.5, 1.0]).view(1, 2, 2)
    VAE(nn.Identity(), decoder, 2).start_at_mean(mean, 1000)
    torch.testing.assert_close(torch.sigmoid(decoder(torch.zeros(1, 2)))[0], mean, atol=6e-4, rtol=0)
    assert decoder[0].bias.isfinite().all()


def test_start_at_mean_gives_a_convolution_the_mean_of_each_channel() -> None:
    decoder = nn.Sequential(nn.Unflatten(1, (2, 1, 1)), nn.ConvTranspose2d(2, 3, 4))
    nn.init.zeros_(decoder[1].weight)
    mean = torch.rand(3, 4, 4)
    VAE(nn.Identity(), decoder, 2).start_at_mean(mean, 10**6)
    drawn = torch.sigmoid(decoder(torch.zeros(1, 2)))[0]
    torch.testing.assert_close(drawn, mean.mean((1, 2), keepdim=True).expand(3, 4, 4), atol=1e-4, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_convolutions_read_and_write_images_channels_last(channels: int) -> None:
    encoder, decoder = conv((channels, 8, 8), 4, 2, (4, 6))
    x, seen = torch.rand(3, channels, 8, 8), []
    for layer in (*encoder, *decoder):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(lambda layer, inputs, output: seen.extend([inputs[0], output]))
    encoder(x), decoder(torch.randn(3, 2))
    assert [image.stride() for image in seen] == [image.clone(memory_format=torch.channels_last).stride() for image in seen]
    assert torch.equal(next(iter(encoder))(x), x)


def test_hidden_dims_that_a_net_does_not_accept_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def pair(image_shape: Shape, outputs: int, latent_dim: int, hidden_dims: Sequence[int]) -> tuple[nn.Module, nn.Module]:
        first, second = hidden_dims
        return nn.Linear(first, second), nn.Linear(second, first)

    monkeypatch.setitem(NETS, "pair", pair)
    with pytest.raises(ParamsError, match=r"ae\.hidden_dims: not for the net 'pair'"):
        ModelConfig("ae", "pair", (1, 8, 8), 2, (1, 2, 3)).build()
