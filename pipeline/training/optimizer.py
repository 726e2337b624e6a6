"""The optimizer: Adam, and one-sided Shampoo for the parameter groups that ask for it, over one flat buffer."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

# Of Shampoo's matrices. The length of an update is what Adam's has been found to be (2502.16982).
_MOMENTUM, _RMS = 0.95, 0.2
_OBSERVE_EVERY, _PRECONDITION_EVERY = 10, 50  # steps; the second a multiple of the first
_MEMORY = 100  # observations
_ITERATIONS = 10  # directions weaker than the strongest are amplified 1.5 ** 10 = 58 times, and no more
_TINY = 1e-16  # norms below it count as this, so that nothing is divided by zero, or by what has almost faded away


class _Shampoo:
    r"""A matrix ``[m, n]`` that moves along its momentum, preconditioned on its smaller side; here for m <= n.

    .. math:: W \leftarrow W - 0.2\,\eta \sqrt{mn}\; U / \lVert U \rVert, \qquad U = C^{-1/2} (0.05\,G + 0.95\,M), \qquad
              C \propto E[G G^T]

    with Nesterov's momentum M, and C a moving average over every tenth gradient G, each scaled to unit length. Its root is
    renewed every 50 steps, for it costs more than the step. One side and the power are those of ASGO (2503.20762), the constant
    length and the momentum are Muon's (2502.16982), and all go back to Shampoo (1802.09568).
    """

    def __init__(self, weights: Tensor, gradient: Tensor, momentum: Tensor) -> None:
        self.weights, self.gradient, self.momentum = weights, gradient, momentum
        rows, columns = weights.shape
        self.on_rows, self.length = rows <= columns, _RMS * math.sqrt(rows * columns)
        side = min(rows, columns)
        self.covariance = torch.zeros(side, side, device=weights.device)
        self.root = torch.eye(side, device=weights.device)

    def step(self, found_inf: Tensor, learning_rate: float) -> None:
        # Where a gradient is not finite the momentum stands in for it, which leaves the momentum as it is, and the step is zero.
        ahead = torch.where(found_inf.bool(), self.momentum, self.gradient)
        self.momentum.lerp_(ahead, 1 - _MOMENTUM)
        ahead.lerp_(self.momentum, _MOMENTUM)
        update = self.root @ ahead if self.on_rows else ahead @ self.root
        norm = torch.linalg.matrix_norm(update, keepdim=True).clamp_min(_TINY)
        update.mul_(self.length * learning_rate * (1 - found_inf) / norm)
        self.weights.sub_(update.nan_to_num_(0.0))  # nothing at all where matmuls of huge gradients overflow

    def observe(self, found_inf: Tensor, share: float) -> None:
        unit = self.gradient / torch.linalg.matrix_norm(self.gradient, keepdim=True).clamp_min(_TINY)
        product = unit @ unit.mT if self.on_rows else unit.mT @ unit
        self.covariance.lerp_(torch.where(found_inf.bool(), self.covariance, product), share)


def inverse_root(matrix: Tensor) -> Tensor:
    r"""Return :math:`A^{-1/2}` of a symmetric matrix ``[n, n]`` without a negative eigenvalue.

    By the coupled Newton-Schulz iteration (Higham, Functions of Matrices, 2008, section 6.7): nothing but matmuls, which every
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
    result: Tensor = inverse / norm.sqrt()
    return result


def optimizer_shapes(groups: list[dict[str, Any]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that a file has of :meth:`Optimizer.state_dict` for these groups."""
    weights = sum(parameter.numel() for group in groups for parameter in group["params"])
    sides = [min(group["params"][0].shape) for group in groups if group["kind"] != "adam"]
    matrices = {f"{name}.{index}": (side, side) for index, side in enumerate(sides) for name in ("covariance", "root")}
    return {"exp_avg": (weights,), "exp_avg_sq": (weights,), "step": (1,), **matrices}


class Optimizer(torch.optim.Optimizer):
    """Adam (1412.6980) by one fused call a group, and Shampoo, over parameters and gradients that lie in flat buffers.

    The parameters become views of :attr:`weights` and their gradients views of :attr:`gradient`, in the order of the groups, so
    gradients are added up, checked and saved as one tensor. A group has ``params``, ``lr`` and ``lr_scale`` (its learning rate
    is their product), ``betas``, ``eps`` and ``kind``: ``adam`` or ``shampoo``, whose groups hold one matrix.

    >>> model = torch.nn.Linear(3, 2)
    >>> optimizer = Optimizer([{"params": list(model.parameters())}], lr=0.1)
    >>> model(torch.ones(4, 3)).sum().backward()
    >>> optimizer.step()
    >>> optimizer.num_steps, optimizer.weights.shape
    (1, torch.Size([8]))
    """

    def __init__(
        self, params: list[dict[str, Any]], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(params, {"lr": lr, "lr_scale": 1.0, "kind": "adam", "betas": betas, "eps": eps})
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self.weights = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
        self.gradient, self.exp_avg, self.exp_avg_sq = (torch.zeros_like(self.weights) for _ in range(3))
        self.count, self.num_steps = torch.zeros((), device=self.weights.device), 0
        # The fused kernel leaves weights and moments alone where this is 1: no step is taken after a gradient that is not finite,
        # and nobody has to wait for the device to find out.
        self.found_inf = torch.zeros((), device=self.weights.device)
        self._adam: list[tuple[dict[str, Any], list[Tensor]]] = []
        self._shampoo: list[tuple[dict[str, Any], _Shampoo]] = []
        stop = 0
        for group in self.param_groups:
            start = stop
            for parameter in group["params"]:
                view = slice(stop, stop := stop + parameter.numel())
                parameter.data = self.weights[view].view_as(parameter)
                parameter.grad = self.gradient[view].view_as(parameter)
            if group["kind"] == "adam":
                buffers = self.weights, self.gradient, self.exp_avg, self.exp_avg_sq
                self._adam.append((group, [buffer[start:stop] for buffer in buffers]))
            else:
                (matrix,) = group["params"]
                self._shampoo.append((group, _Shampoo(matrix.data, matrix.grad, self.exp_avg[view].view_as(matrix))))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group during construction; torch's own method would import its compiler, which takes a second."""
        if hasattr(self, "weights"):
            raise RuntimeError("groups are fixed at construction: their tensors are one buffer")
        self.param_groups.append({**self.defaults, **param_group})

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set all gradients to zero, in place: they stay views of the flat gradient."""
        self.gradient.zero_()

    def set_learning_rate(self, lr: float) -> None:
        """Set ``lr`` of every group."""
        for group in self.param_groups:
            group["lr"] = lr

    @torch.no_grad()
    def step(  # type: ignore[override]  # torch's own are untyped
        self, closure: Callable[[], Tensor] | None = None, loss: Tensor | None = None
    ) -> Tensor | None:
        """Apply the gradient that is there, or the one that ``closure`` leaves, unless it or the loss is not finite."""
        if closure:
            with torch.enable_grad():
                loss = closure()
        total = self.gradient.sum() if loss is None else loss.detach() + self.gradient.sum()
        torch.logical_or(self.found_inf, torch.isfinite(total).logical_not(), out=self.found_inf)
        self.count += 1
        self.num_steps += 1
        for group, (weights, gradient, exp_avg, exp_avg_sq) in self._adam:
            # The kernel behind torch.optim.Adam(fused=True), whose Python costs 4% of a step on a CPU.
            (beta1, beta2), lr = group["betas"], group["lr"] * group["lr_scale"]
            options = {"weight_decay": 0.0, "eps": group["eps"], "amsgrad": False, "maximize": False, "found_inf": self.found_inf}
            tensors: Any = [weights], [gradient], [exp_avg], [exp_avg_sq], [], [self.count]
            torch._fused_adam_(*tensors, lr=lr, beta1=beta1, beta2=beta2, **options)
        for group, matrix in self._shampoo:
            matrix.step(self.found_inf, group["lr"] * group["lr_scale"])
            if self.num_steps % _OBSERVE_EVERY == 0:
                matrix.observe(self.found_inf, max(1 / _MEMORY, _OBSERVE_EVERY / self.num_steps))
            if self.num_steps % _PRECONDITION_EVERY == 0:
                matrix.root.copy_(inverse_root(matrix.covariance))
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return what the next steps depend on beside weights and gradient, tensors by name; they change with each step."""
        state = {"exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq, "step": self.count}
        for index, (_, matrix) in enumerate(self._shampoo):
            state |= {f"covariance.{index}": matrix.covariance, f"root.{index}": matrix.root}
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a copy of :meth:`state_dict`. Raises KeyError when it is of other groups."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state_dict[name].view_as(tensor))  # a file keeps a number as an array of one
        self.num_steps = int(self.count.item())
