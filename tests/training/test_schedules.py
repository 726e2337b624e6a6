"""Learning rate, KL weight and early stopping follow their config alone."""

import math
from dataclasses import replace

import pytest

from pipeline.training.config import TrainConfig
from pipeline.training.schedules import EarlyStopping, kl_weight, learning_rate

CONFIG = TrainConfig(epochs=10, learning_rate=0.5, beta=4.0, warmup_epochs=4, patience=2)


def test_cosine_falls_from_the_peak_to_almost_zero() -> None:
    rates = [learning_rate(CONFIG, step, 100) for step in range(100)]
    assert rates[0] == 0.5
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.25 * (1 + math.cos(math.pi * 0.99)))
    assert {learning_rate(replace(CONFIG, schedule="constant"), step, 100) for step in range(100)} == {0.5}


def test_kl_weight_rises_linearly_to_beta() -> None:
    assert [kl_weight(CONFIG, epoch) for epoch in range(1, 7)] == [1.0, 2.0, 3.0, 4.0, 4.0, 4.0]
    assert kl_weight(replace(CONFIG, warmup_epochs=0), 1) == 4.0


def test_a_warm_up_longer_than_the_training_ends_with_it() -> None:
    short = replace(CONFIG, epochs=2, warmup_epochs=10)
    assert [kl_weight(short, epoch) for epoch in (1, 2)] == [2.0, 4.0]


def test_the_best_epoch_is_chosen_from_the_end_of_the_warm_up_on() -> None:
    stopping = EarlyStopping()
    losses = [1.0, 2.0, 3.0, 9.0, 8.0, 8.5, 8.0]
    best = [stopping.update(CONFIG, epoch, loss) for epoch, loss in enumerate(losses, 1)]
    assert best == [False, False, False, True, True, False, False]
    assert (stopping.best_epoch, stopping.best_loss, stopping.epochs_waited) == (5, 8.0, 2)
    assert stopping.should_stop(CONFIG, 7)
    assert not stopping.should_stop(replace(CONFIG, patience=0), 7)
    assert stopping.should_stop(replace(CONFIG, patience=0), 10)
