"""What computes the gradient of one step: autograd, or a fused step where one is registered for the model."""

from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor

from pipeline.models import LatentModel
from pipeline.runtime import Runtime
from pipeline.training.fused_mlp import FusedMLPStep


class TrainStep(Protocol):
    """Computes the gradient of a batch's loss."""

    def __call__(self, x: Tensor, encoder_input: Tensor, noise: Tensor, beta: float) -> dict[str, Tensor]:
        """Leave the gradient in every parameter's ``grad`` and return the scalar terms of the objective.

        Takes images ``x`` and what the encoder reads, both ``[B, C, H, W]``, standard normal noise ``[B, noise_dim]`` and the
        weight of the KL term.
        """


class AutogradStep:
    """The step as it is usually written: for any model, at any precision."""

    def __init__(self, model: LatentModel, runtime: Runtime) -> None:
        self.model, self.runtime = model, runtime

    def __call__(self, x: Tensor, encoder_input: Tensor, noise: Tensor, beta: float) -> dict[str, Tensor]:
        """Compute the gradient; the arguments are those of :class:`TrainStep`."""
        self.model.zero_grad(set_to_none=False)  # the gradients are views of the optimizer's flat one
        with self.runtime.autocast():
            terms = self.model.loss_terms(x, noise, beta, encoder_input)
        # torch.autocast has left its precision in the graph; the other context is read by each matmul when it runs.
        with self.runtime.autocast() if self.runtime.keeps_float32 else nullcontext():
            torch.autograd.backward(terms["loss"])
        return {name: value.detach() for name, value in terms.items() if value.ndim == 0}


def train_step(model: LatentModel, batch_size: int, runtime: Runtime, fused: bool = True) -> TrainStep:
    """Return the step for a model, fused if one applies. Every ``grad`` must be allocated already; :class:`Optimizer` does it."""
    if fused and FusedMLPStep.applies_to(model, runtime):
        return FusedMLPStep(model, batch_size, runtime)
    return AutogradStep(model, runtime)
