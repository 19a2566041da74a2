"""How z moves: each solver is an iterator over its own iterations.

`solver(z, evaluate)` changes z (B, z_dim) in place, one iteration per item, and yields the
per-image losses (context, prior, total), each (B,), that the iteration saw before its update.
`evaluate(z)` returns these three with a graph to z.  Losses are summed for the gradient, so each
image searches on its own.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

Losses = tuple[Tensor, Tensor, Tensor]
Evaluate = Callable[[Tensor], Losses]


class Adam:
    """Adam on z (Kingma 2015), clipped to [-1, 1] after each update (Amos 2016's settings).

    `bound` is the half-width of the box z is kept in; null leaves z free (a normal prior).
    Raises ValueError for fewer than one iteration or a learning rate that is not positive.
    """

    def __init__(
        self,
        iterations: int = 1000,
        lr: float = 0.01,
        beta1: float = 0.9,
        beta2: float = 0.999,
        bound: float | None = 1.0,
    ):
        if iterations < 1:
            raise ValueError(f"solver.iterations={iterations}: use 1 or more")
        if lr <= 0:
            raise ValueError(f"solver.lr={lr}: use a positive step")
        self.iterations, self.lr, self.betas, self.bound = iterations, lr, (beta1, beta2), bound

    def __call__(self, z: nn.Parameter, evaluate: Evaluate) -> Iterator[Losses]:
        optimizer = torch.optim.Adam([z], lr=self.lr, betas=self.betas, eps=1e-8)
        for _ in range(self.iterations):
            context, prior, total = evaluate(z)
            (z.grad,) = torch.autograd.grad(total.sum(), z)
            optimizer.step()
            if self.bound is not None:
                z.data.clamp_(-self.bound, self.bound)
            yield context.detach(), prior.detach(), total.detach()
