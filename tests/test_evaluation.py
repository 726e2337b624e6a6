"""What the metrics must satisfy, on models whose answers are known."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import MNIST, ROOT, blobs
from ruamel.yaml import YAML
from scipy.linalg import sqrtm

from pipeline import tracking
from pipeline.data import Dataset, Split, save_dataset
from pipeline.datasets import load
from pipeline.errors import IntegrityError
from pipeline.evaluation import METRICS, PROFILES, SAMPLERS, Budget, Subject, pictures
from pipeline.evaluation.bounds import NUM_WEIGHTS, aggregate_kl, binarise, bounds, exact, importance
from pipeline.evaluation.distances import kid, nearest, prdc
from pipeline.evaluation.geometry import geometry, log_volume
from pipeline.evaluation.holes import holes, hull, log_density
from pipeline.evaluation.latent import gaussian_fit_kl, latent, mmd
from pipeline.evaluation.likelihood import grey_floor, likelihood, terms
from pipeline.evaluation.pictures import grid
from pipeline.evaluation.samples import memorised, samples, shuffled
from pipeline.evaluation.smoothness import pairs, smoothness, tortuosity
from pipeline.frechet import frechet
from pipeline.judge import Judge, JudgeNet, learn, load_judge, save_judge
from pipeline.models import MODELS, Model
from pipeline.runtime import generator
from pipeline.weights import Trained, save_weights
from stages.evaluate import main

SMALL = Budget(400, 400, importance_images=60, exact_images=400, grid=96, plots=200, samples=300, pairs=40)


def build(name: str, input_dim: int, latent_dim: int, hidden_dims: list[int], seed: int = 0) -> Model:
    """Return an untrained model, its weights drawn by ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name](input_dim, latent_dim, hidden_dims)


def fit(model: Model, split: Split, steps: int = 300) -> Model:
    """Train a small model quickly."""
    x = torch.from_numpy(split.pixels)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        noise = torch.randn(len(x), model.noise_dim, generator=generator("test", step))
        loss = model.objective(x, noise)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def train() -> Split:
    return blobs(400, seed=0)


@pytest.fixture(scope="module")
def test() -> Split:
    return blobs(200, seed=1)


@pytest.fixture(scope="module")
def judge(train: Split, test: Split) -> Judge:
    return learn("blobs", train, test, num_steps=60, seed=0)


@pytest.fixture(scope="module")
def subjects(train: Split, test: Split, judge: Judge) -> dict[str, Subject]:
    models = {name: fit(build(name, 64, 2, [32], seed=1), train) for name in ("ae", "vae")}
    betas = {"ae": None, "vae": 1.0}
    return {name: Subject(models[name], train, test, beta=betas[name], budget=SMALL, judge=judge) for name in models}


@pytest.fixture(scope="module")
def mnist() -> dict[str, Split]:
    if not MNIST.is_dir():
        pytest.skip(f"the MNIST files are not at {MNIST}")
    dataset = load("mnist", [str(MNIST)])
    return {"train": dataset.train, "test": dataset.test}


def constant(bias: torch.Tensor) -> Model:
    """Return an autoencoder that decodes everything to the same logits."""
    model = build("ae", len(bias), 2, [4])
    torch.nn.init.zeros_(model.decoder[-1].weight)
    model.decoder[-1].bias.data.copy_(bias)
    return model


def turned(model: Model, angle: float, scale: float) -> Model:
    """Return the same autoencoder with its latent plane rotated and rescaled."""
    turn = scale * torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=torch.float32)
    copy = build("ae", **model.config)
    copy.load_state_dict(model.state_dict())
    with torch.no_grad():
        copy.encoder[-1].weight.copy_(turn @ model.encoder[-1].weight)
        copy.encoder[-1].bias.copy_(turn @ model.encoder[-1].bias)
        copy.decoder[0].weight.copy_(model.decoder[0].weight @ torch.linalg.inv(turn))
    return copy


class TestLikelihood:
    def test_constants_of_mnist(self, mnist):
        assert grey_floor(mnist["test"]) == pytest.approx(45.53, abs=0.006)
        assert grey_floor(mnist["train"]) == pytest.approx(45.76, abs=0.006)
        mean = torch.from_numpy(mnist["train"].mean_image())
        for bias, expected in ((torch.logit(mean.clamp(1e-7, 1 - 1e-7)), 205.80), (torch.zeros(784), 543.43)):
            subject = Subject(constant(bias), mnist["train"], mnist["test"])
            assert likelihood(subject).numbers["recon"] == pytest.approx(expected, abs=0.006)

    def test_terms_add_up(self, subjects):
        numbers = likelihood(replace(subjects["vae"], beta=3.0)).numbers
        assert numbers["elbo"] == pytest.approx(-numbers["recon"] - numbers["kl"])
        assert numbers["objective"] == pytest.approx(numbers["recon"] + 3 * numbers["kl"])
        assert sum(numbers["kl_per_dim"].values()) == pytest.approx(numbers["kl"])
        assert numbers["recon_at_mean"] < numbers["recon"]
        assert numbers["bits_per_dim"] == pytest.approx(-numbers["elbo"] / (64 * np.log(2)))

    def test_an_autoencoder_has_no_kl(self, subjects):
        numbers = likelihood(subjects["ae"]).numbers
        assert not {"kl", "elbo", "objective", "active_units"} & set(numbers)
        assert numbers["recon"] == numbers["recon_at_mean"]
        assert bounds(subjects["ae"]).numbers == {}

    def test_noise_is_repeatable_and_does_not_touch_the_mean(self, subjects):
        first, again, more = (terms(replace(subjects["vae"], num_samples=count)) for count in (4, 4, 8))
        assert np.array_equal(first["recon"], again["recon"])
        assert not np.array_equal(first["recon"], more["recon"])
        assert np.array_equal(first["recon_at_mean"], more["recon_at_mean"])

    def test_images_that_do_not_fit_are_refused(self, train):
        with pytest.raises(ValueError, match="784 pixels"):
            Subject(build("ae", 784, 2, [4]), train, train)

    def test_a_profile_measures_the_same_images_for_every_seed(self, train):
        few = replace(SMALL, test_images=10)
        tests = [Subject(build("ae", 64, 2, [4]), train, train, seed=seed, budget=few).test.images for seed in (1, 2)]
        assert len(tests[0]) == 10
        assert np.array_equal(*tests)


class TestBounds:
    def test_importance_rises_to_the_exact_value(self, subjects):
        subject = subjects["vae"]
        x = subject.pixels(subject.test)[:60]
        weighted, ess = importance(subject, x, "test")
        log_p, half = exact(subject, x, 256)
        elbo = -(terms(subject)["recon"] + terms(subject)["kl"])[:60]
        means = [weighted[k].mean() for k in NUM_WEIGHTS]
        assert means == sorted(means)
        assert np.abs(log_p - half).max() < 1e-3
        assert ((ess >= 1) & (ess <= 500)).all()
        shortfall = log_p - weighted[500]
        assert shortfall.mean() > -3 * shortfall.std() / len(x) ** 0.5
        assert shortfall.mean() < 0.1
        assert elbo.mean() < weighted[500].mean()
        # With one weight the bound is the ELBO itself.
        difference = weighted[1] - elbo
        assert abs(difference.mean()) < 4 * difference.std() / len(x) ** 0.5

    def test_a_decoder_that_ignores_the_code_has_a_known_likelihood(self, train, test):
        model = build("vae", 64, 2, [4])
        torch.nn.init.zeros_(model.decoder[-1].weight)
        subject = Subject(model, train, test)
        x = (subject.pixels(test) > 0.5).float()
        bias = model.decoder[-1].bias
        expected = (x * bias - torch.nn.functional.softplus(bias)).sum(1).detach().numpy()
        assert exact(subject, x, 96)[0] == pytest.approx(expected, abs=1e-3)

    def test_exact_integration_is_for_planes(self, train):
        with pytest.raises(ValueError, match="2 latent dimensions"):
            exact(Subject(build("vae", 64, 3, [4]), train, train), torch.rand(2, 64), 8)

    def test_aggregate_kl_of_the_prior_is_zero_and_of_a_shift_is_known(self):
        codes, spread = np.zeros((3, 2)), np.ones((3, 2))
        assert aggregate_kl(codes, spread) == pytest.approx(0, abs=1e-6)
        assert aggregate_kl(codes + 2, spread) == pytest.approx(4, abs=1e-4)
        with pytest.raises(ValueError, match="mass"):
            aggregate_kl(np.array([[0.0, 0.0], [9.0, 9.0]]), np.array([[1e-5, 1e-5], [1e-5, 1e-5]]))

    def test_the_parts_of_the_kl_are_positive_and_add_up(self, subjects):
        numbers, kl = bounds(subjects["vae"]).numbers, likelihood(subjects["vae"]).numbers["kl"]
        assert numbers["mutual_information"] + numbers["aggregate_kl"] == pytest.approx(kl)
        assert 0 < numbers["mutual_information"] <= np.log(len(subjects["vae"].test))
        assert numbers["aggregate_kl"] > 0
        assert numbers["gap"] > 0

    def test_few_images_give_the_same_bounds_in_the_same_order(self, subjects):
        every = bounds(subjects["vae"]).numbers
        few = bounds(replace(subjects["vae"], budget=replace(SMALL, importance_images=40, exact_images=50))).numbers
        elbo = likelihood(subjects["vae"]).numbers["elbo"]
        for numbers in (every, few):
            assert elbo < numbers["iwae_10"] < numbers["iwae_100"] < numbers["iwae_500"]
            assert numbers["iwae_500"] < numbers["log_p"] + 4 * (numbers["iwae_gain_se"] + numbers["gap_se"])
        assert few["log_p"] == pytest.approx(every["log_p"], abs=4 * few["gap_se"])

    def test_the_binarised_images_are_always_the_same(self, test):
        white = binarise(test)
        assert np.array_equal(white, binarise(test))
        assert white.mean() == pytest.approx(test.pixels.mean(), abs=0.01)


class TestInvariance:
    def test_rotating_and_rescaling_the_latent_plane_changes_nothing_that_claims_so(self, subjects):
        plain = subjects["ae"]
        other = replace(plain, model=turned(plain.model, angle=0.7, scale=5.0))
        assert likelihood(other).numbers == pytest.approx(likelihood(plain).numbers, rel=1e-4)
        a, b = latent(plain).numbers, latent(other).numbers
        for key in ("knn_accuracy", "probe_accuracy", "silhouette", "trustworthiness"):
            assert b[key] == pytest.approx(a[key], abs=0.011)
        assert b["scale"] == pytest.approx(5 * a["scale"], rel=1e-4)
        a, b = geometry(plain).numbers, geometry(other).numbers
        assert b["log_volume_p99_excess"] == pytest.approx(a["log_volume_p99_excess"], abs=1e-3)
        assert b["log_volume"] == pytest.approx(a["log_volume"] - 2 * np.log(5), abs=1e-3)
        a, b = smoothness(plain).numbers["cross_class"], smoothness(other).numbers["cross_class"]
        assert b == pytest.approx(a, rel=1e-2)
        a, b = holes(plain).numbers, holes(other).numbers
        for measure in ("hull", "matched"):
            differences = np.array(list(a[measure].values())) - list(b[measure].values())
            assert np.abs(differences).max() < 4 * np.sqrt(2 * 0.25 / SMALL.samples)


class TestGeometry:
    @pytest.mark.parametrize("dim", [1, 2, 5])
    @pytest.mark.parametrize("name", MODELS)
    def test_volumes_are_those_of_differences(self, name, dim, train, test):
        model = build(name, 64, dim, [128, 64], seed=3)  # so wide that no Jacobian is nearly singular
        z = np.random.default_rng(0).normal(0, 2, (601, dim)).astype(np.float32)
        with torch.no_grad():
            found = log_volume(Subject(model, train, test, beta=None, budget=SMALL), z)
            exact, points, h = deepcopy(model).double(), torch.from_numpy(z).double(), 1e-6
            columns = [
                (torch.sigmoid(exact.decode(points + step)) - torch.sigmoid(exact.decode(points - step))) / (2 * h)
                for step in h * torch.eye(dim, dtype=torch.float64)
            ]
        jacobian = torch.stack(columns, dim=-1)
        expected = 0.5 * torch.linalg.slogdet(jacobian.mT @ jacobian).logabsdet
        np.testing.assert_allclose(found, expected, atol=1e-3)


class TestLatent:
    def test_mmd_is_around_zero_for_equals_and_grows_with_a_shift(self):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(2, 400, 2))
        assert abs(mmd(x, y)) < 0.02
        assert mmd(x, y + 0.5) < mmd(x, y + 1.0)
        assert mmd(x, y + 0.5) > 0.05

    def test_gaussian_fit_kl_of_a_shifted_normal(self):
        z = np.random.default_rng(0).normal(size=(20000, 2))
        assert gaussian_fit_kl(z) == pytest.approx(0, abs=1e-3)
        assert gaussian_fit_kl(z + 2) == pytest.approx(4, abs=0.05)
        assert gaussian_fit_kl(2 * z) == pytest.approx(0.5 * (8 - 2 - np.log(16)), abs=0.05)

    def test_separate_classes_are_found(self, subjects):
        numbers = latent(subjects["vae"]).numbers
        assert numbers["knn_accuracy"] > 0.9
        assert numbers["pixels"]["knn_accuracy"] == 1.0
        assert numbers["radius_95_prior"] == pytest.approx(2.4477, abs=1e-3)


class TestDistances:
    @pytest.fixture
    def points(self):
        rng = np.random.default_rng(1)
        return rng.normal(size=(90, 3)).astype(np.float32), (1.3 * rng.normal(size=(70, 3)) + 0.3).astype(np.float32)

    def test_prdc_against_brute_force(self, points):
        real, fake = points

        def radius(x: np.ndarray, index: int, k: int) -> float:
            return sorted(float(np.linalg.norm(x[index] - other)) for other in x)[k]

        k = 5
        real_radii = [radius(real, index, k) for index in range(len(real))]
        fake_radii = [radius(fake, index, k) for index in range(len(fake))]
        inside = [[float(np.linalg.norm(f - r)) for f in fake] for r in real]
        in_real = [[inside[r][f] < real_radii[r] for r in range(len(real))] for f in range(len(fake))]
        in_fake = [any(inside[r][f] < fake_radii[f] for f in range(len(fake))) for r in range(len(real))]
        expected = {
            "precision": np.mean([any(row) for row in in_real]),
            "recall": np.mean(in_fake),
            "density": np.mean([sum(row) for row in in_real]) / k,
            "coverage": np.mean([min(row) < limit for row, limit in zip(inside, real_radii, strict=True)]),
        }
        assert prdc(real, fake, k) == pytest.approx(expected)

    def test_frechet_against_the_matrix_square_root(self, points):
        x, y = (part.astype(np.float64) for part in points)
        s_x, s_y = np.cov(x.T), np.cov(y.T)
        expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(s_x + s_y - 2 * sqrtm(s_x @ s_y).real)
        assert frechet(x, y) == pytest.approx(expected)

    def test_kid_against_all_pairs(self, points):
        x, y = (part.astype(np.float64) for part in points)

        def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return (a @ b.T / 3 + 1) ** 3

        def within(a: np.ndarray) -> float:
            return (kernel(a, a).sum() - np.trace(kernel(a, a))) / (len(a) * (len(a) - 1))

        assert kid(x, y) == pytest.approx(within(x) + within(y) - 2 * kernel(x, y).mean())

    def test_nearest_in_chunks(self, points):
        x = np.tile(points[0], (10, 1))
        expected = [np.sort(np.linalg.norm(points[1] - point, axis=1))[1] for point in points[0]]
        assert nearest(x, points[1], 2)[:90] == pytest.approx(expected, rel=1e-4)


class TestSamples:
    def test_real_is_near_the_floor_and_shuffled_far_off(self, subjects):
        numbers = samples(subjects["vae"]).numbers
        assert set(numbers) == {*SAMPLERS, "floor", "shuffled"}
        assert numbers["floor"]["fcd"] < 0.05 * numbers["shuffled"]["fcd"]
        assert numbers["floor"]["fcd"] < numbers["kde"]["fcd"] < numbers["shuffled"]["fcd"]
        assert numbers["floor"]["coverage"] > 0.8
        assert numbers["shuffled"]["coverage"] < 0.2

    @pytest.mark.parametrize("name", ["gaussian", "gmm10", "kde"])
    def test_fitted_samplers_have_the_moments_of_the_codes(self, name):
        codes = np.random.default_rng(0).normal(size=(2000, 2)) @ np.array([[30.0, 0.0], [20.0, 5.0]]) + 100
        z = SAMPLERS[name](codes, 4000, np.random.default_rng(1))
        assert z.shape == (4000, 2)
        assert z.mean(0) == pytest.approx(codes.mean(0), abs=3)
        assert np.cov(z.T) == pytest.approx(np.cov(codes.T), rel=0.15)

    def test_memorised_images_are_noticed(self, train, test):
        assert memorised(train.pixels[:50], train.pixels[:200], test.pixels) == 1.0
        assert memorised(test.pixels[:50], train.pixels[:200], test.pixels) == 0.0

    def test_shuffling_keeps_each_images_pixels(self, test):
        images = shuffled(test.pixels, np.random.default_rng(0))
        assert np.array_equal(np.sort(images, axis=1), np.sort(test.pixels, axis=1))


class _Disc(torch.nn.Module):
    """Decodes to a white image, and to noise within a disc around the origin."""

    noise_dim, latent_dim = 0, 2

    def __init__(self, radius: float) -> None:
        super().__init__()
        self.config, self.radius = {"input_dim": 64}, radius
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        return torch.randn(len(x), 2, generator=generator("disc"))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(len(z), 64, generator=generator("noise"))
        return torch.where(z.norm(dim=1, keepdim=True) < self.radius, noise, torch.full((1, 64), 9.0))


class _Even(Judge):
    """Is sure of even images and unsure of noise; its features say which."""

    def look(self, images):
        spread = torch.as_tensor(images).std(-1).numpy()
        top = np.where(spread < 0.01, 0.99, 0.4)
        return spread[..., None].astype(np.float32), np.stack([top, 1 - top], axis=-1).astype(np.float32)


class TestHoles:
    def test_a_planted_hole_is_found_with_its_mass(self):
        white = Split(np.full((400, 8, 8), 255, np.uint8), np.arange(400) % 2)
        judge = _Even(JudgeNet((8, 8), 2), "white", 1.0)
        budget = replace(SMALL, samples=4000)
        subject = Subject(_Disc(1.0), white, white, budget=budget, judge=judge)
        numbers = holes(subject).numbers
        planted = 1 - np.exp(-0.5)
        error = np.sqrt(planted * (1 - planted) / 4000)
        for key in ("confidence_0.8", "confidence_0.9", "off_manifold"):
            assert numbers["prior"][key] == pytest.approx(planted, abs=4 * error)
            # The codes are a standard normal here, so the fitted Gaussian says about the same.
            assert numbers["matched"][key] == pytest.approx(planted, abs=0.07)
        assert 0 < numbers["hull"]["confidence_0.8"] < planted
        assert numbers["hull"]["coverage"] > numbers["prior"]["coverage"]

    def test_hull_draws_are_uniform(self):
        # A trapezoid of two triangles, one three times the other, and a point inside that is no corner.
        codes = np.array([[0.0, 0.0], [3.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5]])
        z = hull(codes, 20000, np.random.default_rng(0))
        assert (z.min(0) >= 0).all()
        assert (z @ [1.0, 2.0] <= 3 + 1e-9).all()
        assert z.mean(0) == pytest.approx([13 / 12, 5 / 12], abs=0.02)

    def test_density_integrates_to_one(self):
        centres = np.random.default_rng(0).normal(size=(300, 2)) * [3.0, 0.5]
        x, y = np.linspace(-15, 15, 200), np.linspace(-3, 3, 200)
        density = np.exp(log_density(grid(x, y).reshape(-1, 2), centres))
        assert density.sum() * (x[1] - x[0]) * (y[1] - y[0]) == pytest.approx(1, abs=1e-3)

    def test_density_moves_with_its_centres_under_affine_maps(self):
        rng = np.random.default_rng(0)
        centres, z = rng.normal(size=(300, 2)) * [3.0, 0.5], rng.normal(size=(50, 2))
        turn, shift = np.array([[3.0, 4.0], [-40.0, 30.0]]), np.array([7.0, -2.0])
        moved = log_density(z @ turn.T + shift, centres @ turn.T + shift)
        assert moved == pytest.approx(log_density(z, centres) - np.log(np.linalg.det(turn)), abs=1e-3)


class TestSmoothness:
    def test_a_straight_path_is_straight_and_a_jump_is_a_jump(self):
        line = np.linspace([0.0, 0.0], [3.0, 4.0], 33)
        jump = np.repeat([[0.0, 0.0], [1.0, 1.0]], [20, 13], axis=0)
        detour = np.array([[0.0, 0.0], [3.0, 4.0], [6.0, 0.0]])
        nowhere = np.zeros((33, 2))
        for path, expected in ((line, (1, 1 / 32)), (jump, (1, 1)), (detour, (10 / 6, 0.5)), (nowhere, (1, 1 / 32))):
            ratio, longest = tortuosity(path[None])
            assert (ratio.item(), longest.item()) == pytest.approx(expected)

    def test_a_nearly_linear_decoder_is_smooth(self, train, test):
        model = build("ae", 64, 2, [])
        torch.nn.init.normal_(model.decoder[-1].weight, std=1e-2, generator=generator("weights"))
        torch.nn.init.zeros_(model.decoder[-1].bias)
        numbers = smoothness(Subject(model, train, test, budget=SMALL)).numbers["cross_class"]
        assert numbers["tortuosity"] == pytest.approx(1, abs=1e-3)
        assert numbers["jump_share"] == pytest.approx(1 / 32, rel=1e-2)

    def test_pairs_are_of_one_class_and_of_two(self, test):
        indices, same = pairs(test.labels, 30, np.random.default_rng(0))
        assert len(indices) == 60
        assert np.array_equal(test.labels[indices[:, 0]] == test.labels[indices[:, 1]], same)
        assert (indices[:, 0] != indices[:, 1]).all()


class TestJudge:
    def test_it_learns_and_round_trips(self, judge, test, tmp_path: Path):
        assert judge.accuracy > 0.95
        save_judge(tmp_path / "judge", judge)
        loaded = load_judge(tmp_path / "judge")
        save_judge(tmp_path / "again", loaded)
        assert (tmp_path / "judge").read_bytes() == (tmp_path / "again").read_bytes()
        for ours, theirs in zip(judge.look(test.pixels), loaded.look(test.pixels), strict=True):
            assert np.array_equal(ours, theirs)

    def test_training_repeats_to_the_bit(self, train, test):
        first, second = (learn("blobs", train, test, num_steps=5, seed=3).net.state_dict() for _ in range(2))
        assert all(torch.equal(first[key], second[key]) for key in first)

    def test_other_files_are_refused(self, train, tmp_path: Path):
        save_dataset(tmp_path / "data", Dataset("blobs", train, train))
        for path in (tmp_path / "data", tmp_path / "absent"):
            with pytest.raises(IntegrityError, match=path.name):
                load_judge(path)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("name", ["ae", "vae"])
def test_every_metric_is_finite_for_every_model_and_dimension(name: str, dim: int, train: Split, test: Split, judge: Judge):
    subject = Subject(build(name, 64, dim, [8]), train, test, beta=4.0 if name == "vae" else None, budget=SMALL, judge=judge)

    def check(value: object) -> None:
        if isinstance(value, dict):
            assert all(isinstance(key, str) for key in value)
            for item in value.values():
                check(item)
        elif not isinstance(value, str):
            assert np.isfinite(value)

    for measure in METRICS.values():
        found = measure(subject)
        check(found.numbers)
        for values in {**found.per_image, **found.arrays}.values():
            assert np.isfinite(values).all()
        assert all(len(values) == len(test) for values in found.per_image.values())
    shown = pictures(subject, dataset="blobs", model=name, manifold_size=4)
    assert shown.manifold_range.shape == ((4, 4, 8, 8) if dim == 2 else (0, 0, 8, 8))
    assert shown.traversals.shape[0] == (3 if dim == 3 else 0)
    assert shown.inputs.shape == shown.reconstructions.shape == (8, 8, 8)


def test_collapsed_codes_are_measured_and_not_a_crash(train: Split, test: Split, judge: Judge):
    model = build("vae", 64, 2, [8])
    torch.nn.init.zeros_(model.encoder[-1].weight)
    subject = Subject(model, train, test, beta=1e6, budget=SMALL, judge=judge)
    for measure in METRICS.values():
        measure(subject)
    assert likelihood(subject).numbers["active_units"] == 0


def test_the_second_axis_of_a_grid_goes_upwards():
    points = grid(np.array([1.0, 2.0]), np.array([10.0, 20.0]))
    assert points.tolist() == [[[1.0, 20.0], [2.0, 20.0]], [[1.0, 10.0], [2.0, 10.0]]]


class TestStage:
    @pytest.fixture
    def files(self, tmp_path: Path, train: Split, test: Split, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(tracking, "find", lambda md5: tracking.Run())
        monkeypatch.setitem(PROFILES, "fast", SMALL)
        params = (Path(__file__).parents[1] / "params.yaml").read_text()
        (tmp_path / "params.yaml").write_text(
            params.replace("profile: full", "profile: fast").replace("threads: 2", "threads: 1")
        )
        save_dataset(tmp_path / "data", Dataset("blobs", train, test))
        save_judge(tmp_path / "judge", judge)
        model = build("vae", 64, 2, [8])
        save_weights(tmp_path / "vae", Trained(model, "vae", "blobs", (8, 8), 1.0))
        return tmp_path

    def run(self, files: Path, out: str, **changed: str) -> object:
        given = {"params": "params.yaml", "data": "data", "judge": "judge", "weights": "vae"} | changed
        made = {name: f"{out}/{name}" for name in ("metrics", "results", "laboratory", "images")}
        arguments = [part for key, value in (given | made).items() for part in (f"--{key}", str(files / value))]
        return CliRunner().invoke(main, ["vae", *arguments])

    def test_same_inputs_give_the_same_bytes(self, files: Path):
        for out in ("first", "second"):
            assert self.run(files, out).exit_code == 0
        for path in (files / "first").iterdir():
            assert path.read_bytes() == (files / "second" / path.name).read_bytes(), path.name

    def test_other_data_is_refused(self, files: Path, train: Split):
        save_dataset(files / "other", Dataset("circles", train, train))
        error = self.run(files, "out", data="other").exception
        assert isinstance(error, IntegrityError)
        assert "blobs" in str(error)
        assert not (files / "out").exists()

    def test_a_judge_that_knows_too_little_is_not_heard(self, files: Path, judge: Judge):
        save_judge(files / "poor", replace(judge, accuracy=0.5))
        for name, note in (("poor", "judge_accuracy"), ("absent", "no such file")):
            assert self.run(files, f"out {name}", judge=name).exit_code == 0
            text = (files / f"out {name}" / "metrics").read_text()
            assert note in text
            assert "fcd" not in text
            assert "class_switches" not in text


class TestReruns:
    """What DVC runs again after a change, by what dvc.yaml says each stage reads (the closure of its imports) and writes."""

    STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]

    def paths(self, name: str, *keys: str) -> set[str]:
        stage = self.STAGES[name]
        listed = [next(iter(entry)) if isinstance(entry, dict) else entry for key in keys for entry in stage.get(key, [])]
        models = stage.get("matrix", {"model": [""]})["model"]
        return {path.replace("${item.model}", model) for path in listed for model in models}

    def after(self, changed: str) -> set[str]:
        """Return the stages that read a file, those that read what these write, and so on."""
        stages: set[str] = set()
        touched = {changed}
        while new := {name for name in self.STAGES.keys() - stages if self.paths(name, "deps") & touched}:
            stages |= new
            touched = touched.union(*(self.paths(name, "outs", "metrics", "plots") for name in new))
        return stages

    def test_a_changed_metric_never_retrains(self):
        training = {name for name in self.STAGES if name.startswith("train")}
        assert {"train_ae", "train_vae"} < self.after("pipeline/trainer.py")  # so the stages are followed
        for path in sorted((ROOT / "pipeline" / "evaluation").glob("*.py")):
            found = self.after(str(path.relative_to(ROOT)))
            assert {"evaluate", "figures", "claims"} <= found, path
            assert not found & (training | {"download"}), path

    def test_a_changed_figure_only_draws_again(self):
        # The laboratory and the explorer draw in the same style, and import it from the package of figures.
        for path in sorted((ROOT / "pipeline" / "figures").glob("*.py")):
            found = self.after(str(path.relative_to(ROOT)))
            assert found, path
            assert found <= {"figures", "laboratory", "explore"}, path
        assert self.after("stages/figures.py") == {"figures"}
        assert self.after("pipeline/figures/laboratory.py") == {"laboratory"}
