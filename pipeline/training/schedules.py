"""The learning rate, the weight of the KL term, and when to stop."""

import math
from dataclasses import dataclass

from pipeline.training.config import TrainConfig


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """Return the learning rate of a step, from 0, out of ``total``."""
    peak = config.learning_rate
    return peak if config.schedule == "constant" else 0.5 * peak * (1 + math.cos(math.pi * step / total))


def warmup_epochs(config: TrainConfig) -> int:
    """Return the epochs of the KL warm-up, which a shorter training cuts off."""
    return min(config.warmup_epochs, config.epochs)


def kl_weight(config: TrainConfig, epoch: int) -> float:
    """Return the weight of the KL term in an epoch, from 1.

    >>> [kl_weight(TrainConfig(10, beta=4.0, warmup_epochs=2), epoch) for epoch in (1, 2, 3)]
    [2.0, 4.0, 4.0]
    """
    warmup = warmup_epochs(config)
    return config.beta * min(1.0, epoch / warmup) if warmup else config.beta


@dataclass
class EarlyStopping:
    """The best epoch so far, and the epochs since; those of the KL warm-up count as neither: they minimize another objective."""

    best_epoch: int = 0
    best_loss: float = math.inf
    epochs_waited: int = 0

    def update(self, config: TrainConfig, epoch: int, loss: float) -> bool:
        """Record an epoch's validation loss; return whether it is the best one so far."""
        warmup = warmup_epochs(config)
        is_best = loss < self.best_loss and epoch >= warmup
        if is_best:
            self.best_epoch, self.best_loss, self.epochs_waited = epoch, loss, 0
        elif epoch > warmup:
            self.epochs_waited += 1
        return is_best

    def should_stop(self, config: TrainConfig, epoch: int) -> bool:
        """Return whether no epoch follows this one."""
        return epoch >= config.epochs or bool(config.patience and self.epochs_waited >= config.patience)
