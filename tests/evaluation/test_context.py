"""The shared input of all metrics: the choice of images, and results that are computed once."""

import gc
import weakref
from dataclasses import replace

import numpy as np

from pipeline.evaluation.context import EvalContext
from tests.evaluation.conftest import SMALL, new_model


def test_same_test_images_are_chosen_for_every_seed(train):
    few = replace(SMALL, test_images=10)
    chosen = [EvalContext(new_model("ae"), train, train, seed=seed, budget=few).test.pixels for seed in (1, 2)]
    assert len(chosen[0]) == 10
    assert np.array_equal(*chosen)


def test_indices_say_which_test_images_were_chosen(train):
    for count in (20, len(train)):
        context = EvalContext(new_model("vae"), train, train, budget=replace(SMALL, test_images=count))
        assert len(context.test_indices) == count
        assert np.array_equal(context.test.pixels, train.pixels[context.test_indices])


def test_posterior_of_an_autoencoder_is_a_point(contexts):
    assert not contexts["ae"].spread.any()
    assert np.array_equal(contexts["ae"].reference_samples, contexts["ae"].reference_codes)
    assert (contexts["vae"].spread > 0).all()


def test_terms_are_computed_once_and_freed_with_the_context(train):
    context = EvalContext(new_model("ae"), train, train)
    assert context.terms is context.terms
    model = weakref.ref(context.model)
    del context
    gc.collect()
    assert model() is None


def test_labels_need_two_classes_in_both_parts(train):
    unlabeled, one_class = replace(train, labels=None), replace(train, labels=np.zeros_like(train.labels))
    found = [
        EvalContext(new_model("ae"), *parts).labels is not None
        for parts in ((train, train), (train, unlabeled), (unlabeled, train), (train, one_class), (one_class, train))
    ]
    assert found == [True, False, False, False, False]
