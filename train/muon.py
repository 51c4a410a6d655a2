"""Muon for small matrices: `torch.optim.Muon` in fp32, all matrices of one shape in one batched product.

torch 2.13's Muon takes each matrix alone and in bfloat16, which on a CPU costs more than the forward and
backward passes of a model of this size together. The update is the same (Jordan et al. 2024,
kellerjordan.github.io/posts/muon; scaled to AdamW's RMS, arXiv 2502.16982 section 2.2).
"""

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.775, 2.0315)
ITERATIONS = 5


def orthogonalize(matrices: Tensor) -> Tensor:
    """Five quintic Newton-Schulz iterations towards the nearest semi-orthogonal matrix: (N, rows, columns), same out."""
    a, b, c = COEFFICIENTS
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if matrices.shape[1] <= matrices.shape[2] else wide.mT


class StackedMuon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, scaled by 0.2 sqrt(max(rows, columns)); decoupled weight decay."""

    def __init__(self, matrices: list[Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for matrix in matrices:
            by_shape.setdefault(matrix.shape, []).append(matrix)
        groups = [{"params": same} for same in by_shape.values()]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of every matrix from its gradient."""
        for group in self.param_groups:
            weights = group["params"]
            gradients = torch.stack([weight.grad for weight in weights])
            state = self.state[weights[0]]
            average = state.setdefault("momentum", torch.zeros_like(gradients))
            average.lerp_(gradients, 1 - group["momentum"])
            update = orthogonalize(gradients.lerp(average, group["momentum"]))
            scale = group["lr"] * 0.2 * max(update.shape[1:]) ** 0.5
            for weight, change in zip(weights, update, strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(change, alpha=scale)
