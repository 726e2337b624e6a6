"""The decoder's volumes against finite differences of its pixels in float64."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from pipeline.evaluation.context import EvalContext
from pipeline.evaluation.geometry import geometry, log_volume
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


def test_many_dimensions_are_left_out_with_a_note(train):
    assert "64" in geometry(EvalContext(new_model("ae", latent_dim=65), train, train)).numbers["note"]
