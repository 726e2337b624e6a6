"""Models of the tutorial and their loss."""

import pytest
import torch
from torch import nn

from pipeline.notebook import VAE, AnnealedBetaVAE, Autoencoder, BetaVAE, vae_loss

SMALL = {"hidden_dims": [32]}
VAES = [VAE, BetaVAE, AnnealedBetaVAE]


@pytest.fixture
def x():
    return torch.rand(20, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(5, 784), (5, 1, 28, 28)])
@pytest.mark.parametrize("dim", [1, 2, 7])
@pytest.mark.parametrize("kind", VAES)
def test_vae_returns_pixels_and_posterior(kind, dim, shape):
    vae = kind(input_dim=784, latent_dim=dim, hidden_dims=[16])
    x_recon, mu, logvar, z = vae(torch.rand(shape))
    assert x_recon.shape == (5, 784)
    assert x_recon.min() >= 0
    assert x_recon.max() <= 1
    assert mu.shape == logvar.shape == z.shape == (5, dim)
    assert torch.equal(vae.decode(z), x_recon)


def test_autoencoder_returns_pixels_and_codes(x):
    model = Autoencoder(784, 3, [16])
    x_recon, code = model(x)
    assert torch.equal(model.encode(x), code)
    assert torch.equal(model.decode(code), x_recon)
    assert code.shape == (len(x), 3)
    assert ((x_recon >= 0) & (x_recon <= 1)).all()


@pytest.mark.parametrize(("input_dim", "shape"), [(64, (1, 8, 8)), (60, (1, 1, 60)), (1, (1, 1, 1))])
def test_images_are_square_where_the_number_of_pixels_allows_it(input_dim, shape):
    model = Autoencoder(input_dim, 2, [16])
    assert model.image_shape == shape
    x_recon, _ = model(torch.rand(5, input_dim))
    assert x_recon.shape == (5, input_dim)
    assert model.core.decode(torch.zeros(5, 2)).shape == (5, *shape)


@pytest.mark.parametrize("kind", [*VAES, Autoencoder])
def test_printed_model_shows_its_size_and_layers(kind):
    model = kind()
    text = str(model)
    assert isinstance(model, nn.Module)
    assert text.startswith(f"{kind.__name__}(\n  latent_dim=2, 1,")
    assert len(text.splitlines()) < 30


def test_samples_are_decoded_from_the_prior():
    vae = VAE(latent_dim=3)
    torch.manual_seed(1)
    samples = vae.sample(num_samples=4, device="cpu")
    torch.manual_seed(1)
    assert torch.equal(samples, vae.decode(torch.randn(4, 3)))
    assert not samples.requires_grad


@pytest.mark.parametrize("model", [VAE(**SMALL), Autoencoder(**SMALL)], ids=["vae", "ae"])
def test_interpolation_starts_and_ends_at_the_two_codes(model, x):
    path = model.interpolate(x[0], x[1], num_steps=5)
    assert path.shape == (5, 784)
    torch.testing.assert_close(path[[0, 4]], model.decode(model.core.encode(x[:2]).mean))
    with pytest.raises(ValueError, match="two single images, not 2 and 1"):
        model.interpolate(x[:2], x[1])


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_loss_equals_the_objective_that_the_package_trains_with(x, beta):
    vae = VAE(**SMALL)
    torch.manual_seed(2)
    x_recon, mu, logvar, _ = vae(x)
    loss = vae_loss(x_recon, x, mu, logvar, beta=beta)
    torch.manual_seed(2)
    expected = vae.core.loss_terms(x, torch.randn(len(x), 2), beta)
    for name, term in {"total": "loss", "reconstruction": "recon", "kl": "kl"}.items():
        torch.testing.assert_close(loss[name], expected[term], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(loss["total"], loss["reconstruction"] + beta * loss["kl"])
    assert loss["kl"] > 0


def test_loss_is_finite_at_saturated_pixels():
    x_recon = torch.tensor([[0.0, 1.0]], requires_grad=True)
    loss = vae_loss(x_recon, torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2), torch.zeros(1, 2))
    loss["total"].backward()
    assert 20 < loss["total"] < 200
    assert x_recon.grad.isfinite().all()
