"""Interpolations: paths of known shape, and pairs of images."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.evaluation.context import EvalContext
from pipeline.evaluation.interpolation import interpolation, pairs, tortuosity
from pipeline.runtime import generator
from tests.evaluation.conftest import SMALL, new_model

LINE = np.linspace([0.0, 0.0], [3.0, 4.0], 33)
JUMP = np.repeat([[0.0, 0.0], [1.0, 1.0]], [20, 13], axis=0)
DETOUR = np.array([[0.0, 0.0], [3.0, 4.0], [6.0, 0.0]])
NOWHERE = np.zeros((33, 2))


@pytest.mark.parametrize(
    ("path", "expected"), [(LINE, (1, 1 / 32)), (JUMP, (1, 1)), (DETOUR, (10 / 6, 0.5)), (NOWHERE, (1, 1 / 32))]
)
def test_tortuosity_and_longest_step_of_known_paths(path, expected):
    ratio, longest = tortuosity(path[None])
    assert (ratio.item(), longest.item()) == pytest.approx(expected)


def test_nearly_linear_decoder_is_smooth(train, test):
    model = new_model("ae", hidden_dims=())
    torch.nn.init.normal_(model.decoder[-1].weight, std=1e-2, generator=generator("weights"))
    torch.nn.init.zeros_(model.decoder[-1].bias)
    numbers = interpolation(EvalContext(model, train, test, budget=SMALL)).numbers["cross_class"]
    assert numbers["tortuosity"] == pytest.approx(1, abs=1e-3)
    assert numbers["jump_share"] == pytest.approx(1 / 32, rel=1e-2)


def test_pairs_are_of_one_class_and_of_two(test):
    indices, same = pairs(test.labels, 30, np.random.default_rng(0))
    assert len(indices) == 60
    assert np.array_equal(test.labels[indices[:, 0]] == test.labels[indices[:, 1]], same)
    assert (indices[:, 0] != indices[:, 1]).all()


def test_pairs_without_labels_are_any_two_images(contexts):
    context = contexts["vae"]
    result = interpolation(replace(context, test=replace(context.test, labels=None)))
    assert result.numbers.keys() == {"all_pairs", "note"}
    assert "pair_same_class" not in result.arrays
    assert len(result.arrays["pair_tortuosity"]) == SMALL.pairs
