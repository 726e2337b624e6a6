"""The decoder's volumes against finite differences of its pixels in float64."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from pipeline.evaluation.context import EvalContext
from pipeline.evaluation.geometry import frame, geometry, log_volume
from pipeline.models import MODELS
from tests.evaluation.conftest import SMALL, new_model


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("name", MODELS)
def test_volumes_match_finite_differences(name, dim, train, test):
    model = new_model(name, dim, (128, 64), seed=3)  # so wide that no Jacobian is nearly singular
    z = np.random.default_rng(0).normal(0, 2, (601, dim)).astype(np.float32)
    with torch.no_grad():
        found = log_volume(EvalContext(model, train, test, budget=SMALL), z)
        exact, points, h = deepcopy(model).double(), torch.from_numpy(z).double(), 1e-6
        columns = [
            (torch.sigmoid(exact.decode(points + step)) - torch.sigmoid(exact.decode(points - step))).flatten(1) / (2 * h)
            for step in h * torch.eye(dim, dtype=torch.float64)
        ]
    jacobian = torch.stack(columns, dim=-1)
    expected = 0.5 * torch.linalg.slogdet(jacobian.mT @ jacobian).logabsdet
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_volumes_do_not_depend_on_how_many_are_computed_at_once(contexts, monkeypatch):
    expected = log_volume(contexts["vae"], contexts["vae"].codes)
    monkeypatch.setattr("pipeline.evaluation.geometry.ENTRIES", 64 * 2 * 7)
    np.testing.assert_allclose(log_volume(contexts["vae"], contexts["vae"].codes), expected, rtol=1e-4)


def test_many_dimensions_are_left_out_with_a_note(train):
    assert "64" in geometry(EvalContext(new_model("ae", latent_dim=65), train, train)).numbers["note"]


def test_maps_span_the_middle_99_percent_of_the_codes_and_a_tenth_more_on_each_side():
    codes = np.stack([np.arange(1001.0), 10 * np.arange(1001.0)], axis=1)
    for axis, scale in zip(frame(codes), (1, 10), strict=True):
        assert axis[[0, -1]] == pytest.approx([scale * (5 - 99), scale * (995 + 99)])


def test_one_percent_of_the_codes_is_above_the_99th_percentile(contexts):
    context = contexts["vae"]
    numbers, volumes = geometry(context).numbers, log_volume(context, context.codes)
    assert (volumes > numbers["log_volume_p99"]).sum() == len(volumes) // 100
    assert (volumes > numbers["log_volume"]).sum() == len(volumes) // 2
