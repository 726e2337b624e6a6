"""What steps a model's parameters: Adam over one flat buffer, and Shampoo for the matrices between hidden layers."""

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from pipeline.errors import ParamsError

# Of the preconditioned matrices. The length of a step is what Adam's has been found to be (2502.16982).
_MOMENTUM, _RMS = 0.95, 0.2
_OBSERVE_EVERY, _PRECONDITION_EVERY = 10, 50  # steps; the second a multiple of the first
_MEMORY = 100  # observations
_ITERATIONS = 10  # directions weaker than the strongest are amplified 1.5 ** 10 = 58 times, and no more
_TINY = 1e-16  # norms below it count as this, so that nothing is divided by zero, or by what has almost faded away


class _Preconditioned:
    r"""A matrix ``[..., m, n]`` that steps along its momentum, preconditioned on its smaller side; here for m <= n.

    .. math:: W \leftarrow W - 0.2\,\eta \sqrt{mn}\; U / \lVert U \rVert, \qquad U = C^{-1/2} (0.05\,G + 0.95\,M), \qquad
              C \propto E[G G^T]

    with Nesterov's momentum M, and C a moving average over every tenth gradient G, each scaled to unit length. Its root is
    renewed every 50 steps, for it costs more than the step. One side and the power are those of ASGO (2503.20762), the constant
    length and the momentum are Muon's (2502.16982), and all go back to Shampoo (1802.09568).
    """

    def __init__(self, weights: Tensor, gradient: Tensor, momentum: Tensor) -> None:
        self.weights, self.gradient, self.momentum = weights, gradient, momentum
        rows, columns = weights.shape[-2:]
        self.on_rows, self.length = rows <= columns, _RMS * math.sqrt(rows * columns)
        side = min(rows, columns)
        self.covariance = torch.zeros(*weights.shape[:-2], side, side, device=weights.device)
        self.root = torch.eye(side, device=weights.device).expand_as(self.covariance).clone()

    def step(self, bad: Tensor, learning_rate: float | Tensor) -> None:
        # Where a gradient is bad the momentum stands in for it, which leaves the momentum as it is, and the step is zero long.
        ahead = torch.where(bad.bool(), self.momentum, self.gradient)
        self.momentum.lerp_(ahead, 1 - _MOMENTUM)
        ahead.lerp_(self.momentum, _MOMENTUM)
        update = self.root @ ahead if self.on_rows else ahead @ self.root
        norm = torch.linalg.matrix_norm(update, keepdim=True).clamp_min(_TINY)
        update.mul_(self.length * learning_rate * (1 - bad) / norm)
        self.weights.sub_(update.nan_to_num_(0.0))  # nothing at all where the products of huge gradients overflow

    def observe(self, bad: Tensor, share: float) -> None:
        unit = self.gradient / torch.linalg.matrix_norm(self.gradient, keepdim=True).clamp_min(_TINY)
        product = unit @ unit.mT if self.on_rows else unit.mT @ unit
        self.covariance.lerp_(torch.where(bad.bool(), self.covariance, product), share)

    def precondition(self) -> None:
        self.root.copy_(inverse_root(self.covariance))


def inverse_root(matrix: Tensor) -> Tensor:
    r"""Return :math:`A^{-1/2}` of symmetric matrices ``[..., n, n]`` without a negative eigenvalue.

    By the coupled Newton-Schulz iteration (Higham, Functions of Matrices, 2008, section 6.7): nothing but products, which every
    device can do without asking the host. It is the root for eigenvalues of at least a hundredth of the norm; for smaller
    ones it grows ever slower, so that nothing has to be added to a matrix that is singular.

    >>> inverse_root(torch.tensor([[4.0, 0.0], [0.0, 0.25]]))
    tensor([[0.5000, 0.0000],
            [0.0000, 2.0000]])
    """
    norm = torch.linalg.matrix_norm(matrix, keepdim=True).clamp_min(_TINY)
    eye = torch.eye(matrix.shape[-1], device=matrix.device)
    root, inverse = matrix / norm, eye.expand_as(matrix)
    for _ in range(_ITERATIONS):
        factor = 1.5 * eye - 0.5 * (inverse @ root)
        root, inverse = root @ factor, factor @ inverse
    return inverse / norm.sqrt()


def hidden_weights(model: nn.Module) -> list[str]:
    """Return the names of the matrices between two hidden layers of a model's encoder or decoder, each a ``nn.Sequential``.

    Raises ParamsError when the model has no such parts.

    >>> from pipeline.models.vae import VAE
    >>> hidden_weights(VAE(784, 2, [512, 256]))
    ['encoder.2.weight', 'decoder.2.weight']
    """
    names: list[str] = []
    for part in ("encoder", "decoder"):
        layers = getattr(model, part, None)
        if not isinstance(layers, nn.Sequential):
            raise ParamsError(f"preconditioner: shampoo is for models whose {part} is a nn.Sequential; use none")
        names += [f"{part}.{index}.weight" for index, layer in enumerate(layers) if isinstance(layer, nn.Linear)][1:-1]
    return names


class Optimizer:
    """A model's parameters and gradients as flat buffers, stepped by one fused Adam call instead of one per tensor.

    ``exp_avg`` and ``exp_avg_sq`` are the moments, ``count`` the steps taken, all on the model's device; ``taken`` is the same
    number, known to the host.

    Args:
        model: its parameters become views of the buffer ``weights``.
        scales: what Adam's step size is multiplied by for the parameters of these names, which splits the call; else 1.
        preconditioned: names of matrices that Shampoo steps instead (:class:`_Preconditioned`), at the same step size.
        betas, eps: Adam's other numbers.

    Raises ValueError when the model has no parameter of such a name.

    Reference: Adam: A Method for Stochastic Optimization, 1412.6980.
    """

    def __init__(
        self,
        model: nn.Module,
        scales: Mapping[str, float] | None = None,
        preconditioned: Collection[str] = (),
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        parameters, scales = dict(model.named_parameters()), scales or {}
        if unknown := {*scales, *preconditioned} - parameters.keys():
            raise ValueError(f"the model has no parameters {', '.join(sorted(unknown))}")
        self.betas, self.eps = betas, eps
        self.weights = torch.cat([parameter.detach().reshape(-1) for parameter in parameters.values()])
        self.gradient, self.exp_avg, self.exp_avg_sq = (torch.zeros_like(self.weights) for _ in range(3))
        self.count, self.taken = torch.zeros((), device=self.weights.device), 0
        # The fused kernel leaves weights and moments alone where this is 1: nothing is stepped after a bad gradient,
        # and nobody has to wait for the device to find out.
        self.bad = torch.zeros((), device=self.weights.device)
        self.matrices: list[_Preconditioned] = []
        views: list[tuple[float, slice]] = []  # neighbours of one scale are stepped as one
        offset = 0
        for name, parameter in parameters.items():
            view = slice(offset, offset + parameter.numel())
            parameter.data = self.weights[view].view_as(parameter)
            parameter.grad = self.gradient[view].view_as(parameter)
            offset = view.stop
            if name in preconditioned:
                self.matrices.append(_Preconditioned(parameter.data, parameter.grad, self.exp_avg[view].view_as(parameter)))
                continue
            scale = scales.get(name, 1.0)
            if views and views[-1][0] == scale and views[-1][1].stop == view.start:
                view = slice(views.pop()[1].start, view.stop)
            views.append((scale, view))
        buffers = self.weights, self.gradient, self.exp_avg, self.exp_avg_sq
        self.parts = [(scale, [buffer[view] for buffer in buffers]) for scale, view in views]

    @property
    def state(self) -> dict[str, Tensor]:
        """What the next steps depend on beside the gradient and the steps taken, by name."""
        found = {"weights": self.weights, "exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}
        for index, matrix in enumerate(self.matrices):
            found |= {f"covariance.{index}": matrix.covariance, f"root.{index}": matrix.root}
        return found

    def resume(self, state: Mapping[str, Tensor], taken: int) -> None:
        """Continue from a copy of :attr:`state` after so many steps."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])
        self.count.fill_(taken)
        self.taken = taken

    def step(self, loss: Tensor, learning_rate: float | Tensor) -> None:
        """Apply the gradient, unless it or the loss is not finite."""
        bad = torch.isfinite(loss + self.gradient.sum()).logical_not()
        torch.logical_or(self.bad, bad, out=self.bad)
        self.count += 1
        for scale, (weights, gradient, exp_avg, exp_avg_sq) in self.parts:
            # The kernel behind torch.optim.Adam(fused=True), whose Python costs 4% of a step on a CPU.
            torch._fused_adam_(
                [weights],
                [gradient],
                [exp_avg],
                [exp_avg_sq],
                [],
                [self.count],
                lr=learning_rate * scale,
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=0.0,
                eps=self.eps,
                amsgrad=False,
                maximize=False,
                found_inf=self.bad,
            )
        for matrix in self.matrices:
            matrix.step(self.bad, learning_rate)

    def adapt(self) -> None:
        """Learn from a step's gradient, now and then, what preconditions the steps to come; call it after each.

        Apart from :meth:`step`, which a CUDA graph repeats as it is.
        """
        self.taken += 1
        if self.taken % _OBSERVE_EVERY == 0:
            for matrix in self.matrices:
                matrix.observe(self.bad, max(1 / _MEMORY, _OBSERVE_EVERY / self.taken))
                if self.taken % _PRECONDITION_EVERY == 0:
                    matrix.precondition()
