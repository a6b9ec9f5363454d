"""Muon (Jordan et al., 2024): momentum, made orthogonal, for matrices.

For all matrices of one shape at once, in float32 or, with `half`, in bfloat16; the
momenta stay float32.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon:
    """Updates matrices in place. `state` holds the momenta, in the matrices' order."""

    def __init__(
        self, params: Sequence[nn.Parameter], lr: float, momentum: float, decay: float = 0.01,
        *, half: bool = False,
    ) -> None:  # fmt: skip
        self.lr = lr
        self._kind = torch.bfloat16 if half else torch.float32
        self.state = [torch.zeros_like(param) for param in params]
        self._momentum, self._decay = momentum, decay
        self._params = list(params)
        groups: defaultdict[torch.Size, list[int]] = defaultdict(list)
        for at, param in enumerate(self._params):
            groups[param.shape].append(at)
        self._groups = list(groups.values())

    @torch.no_grad()
    def step(self) -> None:
        for group in self._groups:
            updates = orthogonal(torch.stack([self._pushed(at) for at in group]).to(self._kind))
            for at, update in zip(group, updates, strict=True):
                param = self._params[at]
                rows, columns = param.shape
                param.mul_(1 - self.lr * self._decay)
                param.add_(update, alpha=-self.lr * max(1.0, rows / columns) ** 0.5)

    def _pushed(self, at: int) -> Tensor:
        grad, momentum = self._params[at].grad, self.state[at]
        if grad is None:
            raise ValueError("a matrix without a gradient")
        momentum.lerp_(grad, 1 - self._momentum)
        pushed: Tensor = grad.lerp(momentum, self._momentum)  # Nesterov's
        return pushed


def orthogonal(batch: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices, by Newton-Schulz. Shape: [matrices, rows, columns]."""
    a, b, c = _COEFFICIENTS
    tall = batch.shape[1] > batch.shape[2]
    x = batch.mT if tall else batch
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    found: Tensor = x.mT if tall else x
    return found
