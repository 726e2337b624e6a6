"""The gradient of a perceptron with Bernoulli pixels, written out: autograd takes 1.24 times as long (docs/log.md).

The hot path of the tutorial's models, and the only place that knows it. Autograd is its reference in the tests.
"""

from typing import cast

import torch
from torch import Tensor, nn

from pipeline.models import VAE, Autoencoder, LatentModel
from pipeline.models.likelihoods import Bernoulli
from pipeline.models.mlp import MLP, MLPDecoder, MLPEncoder
from pipeline.runtime import Runtime

FUSED = {(model, MLPEncoder, MLPDecoder, Bernoulli) for model in (Autoencoder, VAE)}
"""The classes of model, encoder, decoder and likelihood whose gradient this is; a subclass may have another objective."""


class _Layer:
    """A linear layer with the buffers that its matmuls read and write; ``delta`` is the gradient of the loss at ``out``."""

    def __init__(self, linear: nn.Linear, x: Tensor, x_delta: Tensor | None, after_relu: bool, before_relu: bool) -> None:
        assert linear.weight.grad is not None
        assert linear.bias.grad is not None
        self.x, self.x_delta, self.after_relu, self.before_relu = x, x_delta, after_relu, before_relu
        self.weight, self.bias = linear.weight.detach(), linear.bias.detach()
        self.weight_grad, self.bias_grad = linear.weight.grad, linear.bias.grad
        self.out, self.delta = (x.new_empty(len(x), linear.out_features) for _ in range(2))
        self.weight_t, self.delta_t = self.weight.t(), self.delta.t()

    def forward(self) -> None:
        torch.addmm(self.bias, self.x, self.weight_t, out=self.out)
        if self.before_relu:
            self.out.relu_()

    def backward(self) -> None:
        """Write the gradients of weight, bias and input, the last one through the ReLU that the input came from."""
        torch.mm(self.delta_t, self.x, out=self.weight_grad)
        torch.sum(self.delta, 0, out=self.bias_grad)
        if self.x_delta is not None:
            torch.mm(self.delta, self.weight, out=self.x_delta)
            if self.after_relu:
                torch.ops.aten.threshold_backward.grad_input(self.x_delta, self.x, 0, grad_input=self.x_delta)


def _chain(net: MLP, x: Tensor, x_delta: Tensor | None) -> list[_Layer]:
    """Return the net's linear layers, each of which reads what the one before it writes."""
    layers: list[_Layer] = []
    linear = [module for module in net if isinstance(module, nn.Linear)]
    for module in linear:
        layers.append(_Layer(module, x, x_delta, after_relu=bool(layers), before_relu=module is not linear[-1]))
        x, x_delta = layers[-1].out, layers[-1].delta
    return layers


class FusedMLPStep:
    r"""A :class:`~pipeline.training.step.TrainStep` with forward and backward pass written out over fixed buffers.

    Matmuls write into their buffers and into the flat gradient; nothing is recorded.
    With :math:`t = \mathrm{sigmoid}(-l)`, the reconstruction term is :math:`-\sum \log t + x l` and its gradient
    :math:`1 - t - x`, at a third of the cost of a softplus; a logit over 88 counts as a loss that is not finite.
    Equal to autograd's step up to rounding.
    """

    def __init__(self, model: LatentModel, batch_size: int, runtime: Runtime) -> None:
        self.runtime, self.scale, self.is_gaussian = runtime, 1 / batch_size, model.is_probabilistic
        encoder, decoder = cast(MLP, model.encoder), cast(MLP, model.decoder)
        self.encoder_input = torch.empty(batch_size, cast(nn.Linear, encoder[0]).in_features, device=runtime.device)
        self.encoder = _chain(encoder, self.encoder_input, None)
        encoded = self.encoder[-1]
        code, code_delta = encoded.out, encoded.delta
        if self.is_gaussian:
            self.mean, self.logvar = encoded.out.chunk(2, dim=1)
            self.mean_delta, self.logvar_delta = encoded.delta.chunk(2, dim=1)
            code, code_delta = self.z, self.z_delta = [code.new_empty(self.mean.shape) for _ in range(2)]
        self.decoder = _chain(decoder, code, code_delta)
        self.logits_flat = self.decoder[-1].out.view(-1)

    @staticmethod
    def applies_to(model: LatentModel, runtime: Runtime) -> bool:
        """Return whether the gradient of this model is the one written out here, and its tensors stay float32."""
        kinds = tuple(map(type, (model, model.encoder, model.decoder, model.likelihood)))
        return kinds in FUSED and "loss_terms" not in vars(model) and runtime.keeps_float32

    @torch.no_grad()
    def __call__(self, x: Tensor, encoder_input: Tensor, noise: Tensor, beta: float) -> dict[str, Tensor]:
        """Compute the gradient; the arguments are those of :class:`~pipeline.training.step.TrainStep`."""
        x = x.flatten(1)
        self.encoder_input.copy_(encoder_input.flatten(1))
        self._forward(self.encoder)
        if self.is_gaussian:
            std = torch.exp(0.5 * self.logvar)
            torch.addcmul(self.mean, std, noise, out=self.z)
        self._forward(self.decoder)

        logits, delta = self.decoder[-1].out, self.decoder[-1].delta
        t = torch.sigmoid(logits.neg())
        torch.sub(1 - t, x, out=delta).mul_(self.scale)
        recon = (torch.dot(x.view(-1), self.logits_flat) + t.log_().sum()) * -self.scale
        self._backward(self.decoder)
        terms = {"loss": recon, "recon": recon}
        if self.is_gaussian:
            var, weight = std.square(), beta * self.scale
            kl = 0.5 * (self.mean.square() + var - 1 - self.logvar).sum() * self.scale
            terms |= {"loss": recon + beta * kl, "kl": kl}
            torch.add(self.z_delta, self.mean * weight, out=self.mean_delta)
            self.logvar_delta.copy_(0.5 * (self.z_delta * noise * std + (var - 1) * weight))
        self._backward(self.encoder)
        return terms

    def _forward(self, layers: list[_Layer]) -> None:
        with self.runtime.autocast():
            for layer in layers:
                layer.forward()

    def _backward(self, layers: list[_Layer]) -> None:
        with self.runtime.autocast():
            for layer in reversed(layers):
                layer.backward()
