"""How z moves: each solver is an iterator over its own evaluations of G.

`solver(z, evaluate, draws)` changes z (B, z_dim) in place, one evaluation per item, and yields the
per-image losses (context, prior, total), each (B,), that were seen there.  `evaluate(z)` returns
these three with a graph to z; `draws` gives the random numbers of a step (randomness.Draws).
Losses are summed for the gradient, and every decision is taken per image, so each image searches on
its own.  `iterations` counts evaluations of G for every solver: a fair budget.
"""

import math
from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dcgan_inpaint.configs import NonNegative, Positive, Share, checked
from dcgan_inpaint.randomness import Draws

Losses = tuple[Tensor, Tensor, Tensor]
Evaluate = Callable[[Tensor], Losses]

Bound = Literal["clip", "stochastic", "none"]
Schedule = Literal["constant", "cosine"]
Beta = Annotated[float, Field(ge=0, lt=1)]
Budget = Annotated[int, Field(ge=0, le=10**6)]  # evaluations of G


def keep_in_bounds(z: Tensor, bound: str, draws: Draws, t: int) -> Tensor:
    """z (B, z_dim) brought back into [-1, 1].

    clip: clamped (Amos 2016).  stochastic: a component outside is drawn anew from U[-1, 1] (Lipton
    & Tripathi 2017).  none: left alone, for a normal prior.
    """
    if bound == "clip":
        return z.clamp(-1, 1)
    if bound == "stochastic":
        return torch.where(z.abs() > 1, draws.uniform("bound", t, z.shape[1]) * 2 - 1, z)
    return z


def gradient(evaluate: Evaluate, z: Tensor) -> tuple[Losses, Tensor]:
    """The losses at z, detached, and d total / d z (B, z_dim)."""
    losses = evaluate(z)
    (slope,) = torch.autograd.grad(losses[2].sum(), z)
    context, prior, total = (loss.detach() for loss in losses)
    return (context, prior, total), slope


class Solver:
    """What all solvers share: a budget of G evaluations and the bound on z.

    With 0 iterations z stays where it starts, and the solver is not called.
    """

    def __init__(self, iterations: int, bound: str):
        self.iterations, self.bound = iterations, bound

    def __call__(self, z: nn.Parameter, evaluate: Evaluate, draws: Draws) -> Iterator[Losses]:
        raise NotImplementedError


class GradientSolver(Solver):
    """One optimizer step per evaluation, with a constant or cosine step size.

    `schedule` "cosine" falls from lr to lr / 50 over the iterations.
    """

    def __init__(self, iterations: int, lr: float, schedule: str, bound: str):
        super().__init__(iterations, bound)
        self.lr, self.schedule = lr, schedule

    def optimizer(self, z: nn.Parameter) -> torch.optim.Optimizer:
        raise NotImplementedError

    def step_size(self, t: int) -> float:
        """The learning rate of iteration t."""
        if self.schedule == "constant":
            return self.lr
        floor = self.lr / 50
        fraction = t / max(1, self.iterations - 1)
        return floor + (self.lr - floor) * (1 + math.cos(math.pi * fraction)) / 2

    def __call__(self, z: nn.Parameter, evaluate: Evaluate, draws: Draws) -> Iterator[Losses]:
        optimizer = self.optimizer(z)
        for t in range(self.iterations):
            losses, z.grad = gradient(evaluate, z)
            optimizer.param_groups[0]["lr"] = self.step_size(t)
            optimizer.step()
            z.data = keep_in_bounds(z.data, self.bound, draws, t)
            yield losses


class Adam(GradientSolver):
    """Adam on z (Kingma 2015); the defaults are Amos 2016's.

    iterations None is left to build.py, which says it by the start; alone it is 100.
    """

    @checked
    def __init__(
        self,
        iterations: Budget | None = 1000,
        lr: Positive = 0.01,
        beta1: Beta = 0.9,
        beta2: Beta = 0.999,
        schedule: Schedule = "constant",
        bound: Bound = "clip",
    ):
        super().__init__(100 if iterations is None else iterations, lr, schedule, bound)
        self.betas = (beta1, beta2)

    def optimizer(self, z: nn.Parameter) -> torch.optim.Optimizer:
        return torch.optim.Adam([z], lr=self.lr, betas=self.betas, eps=1e-8)


class Momentum(GradientSolver):
    """Gradient descent with Nesterov momentum; the defaults are those of moodoki's code."""

    @checked
    def __init__(
        self,
        iterations: Budget = 3000,
        lr: Positive = 3e-4,
        momentum: Share = 0.9,
        schedule: Schedule = "constant",
        bound: Bound = "clip",
    ):
        super().__init__(iterations, lr, schedule, bound)
        self.momentum = momentum

    def optimizer(self, z: nn.Parameter) -> torch.optim.Optimizer:
        return torch.optim.SGD([z], lr=self.lr, momentum=self.momentum, nesterov=True)


class LBFGS(Solver):
    """Limited-memory BFGS (Nocedal & Wright 2006, algorithm 7.4), every image on its own.

    Each evaluation tries one point per image.  Where the loss has fallen enough (Armijo) the image
    accepts it and takes its next quasi-Newton direction; elsewhere it halves its own step and
    tries again, so no image waits for another's line search.  A direction whose step has shrunk
    below `smallest` is dropped with its history, for steepest descent with a first step of `lr`.
    """

    @checked
    def __init__(
        self,
        iterations: Budget = 300,
        lr: Positive = 0.1,
        history: Annotated[int, Field(ge=1, le=1000)] = 10,
        smallest: NonNegative = 1e-4,
        bound: Bound = "clip",
    ):
        super().__init__(iterations, bound)
        self.lr, self.history, self.smallest = lr, history, smallest

    def __call__(self, z: nn.Parameter, evaluate: Evaluate, draws: Draws) -> Iterator[Losses]:
        losses, slope = gradient(evaluate, z)
        yield losses
        best = torch.stack(losses)  # (3, B) at the accepted point z
        pairs = z.new_zeros(2, self.history, *z.shape)  # newest last: steps s, slope changes y
        rho = z.new_zeros(self.history, len(z))  # 1 / s·y, 0 where there is no pair
        direction, step = self._steepest(slope), z.new_ones(len(z), 1)
        for t in range(1, self.iterations):
            trial = keep_in_bounds(z.data + step * direction, self.bound, draws, t)
            losses, trial_slope = gradient(evaluate, trial.requires_grad_())
            move = trial.detach() - z.data  # (B, z_dim), as the bound left it
            decrease = 1e-4 * (slope * move).sum(1).clamp(max=0)
            accept = (losses[2] <= best[2] + decrease)[:, None]  # (B, 1)
            change = trial_slope - slope
            curvature = (move * change).sum(1)
            known = accept[:, 0] & (curvature > 1e-10)
            shifted = torch.cat([pairs[:, 1:], torch.stack([move, change])[:, None]], 1)
            pairs = torch.where(known[None, None, :, None], shifted, pairs)
            shifted_rho = torch.cat([rho[1:], (1 / curvature.clamp(min=1e-10))[None]])
            rho = torch.where(known, shifted_rho, rho)
            z.data = torch.where(accept, trial.detach(), z.data)
            slope = torch.where(accept, trial_slope, slope)
            best = torch.where(accept[:, 0], torch.stack(losses), best)
            stuck = ~accept & (step * direction.norm(dim=1, keepdim=True) < self.smallest)
            rho = rho * ~stuck[:, 0]
            step = torch.where(accept | stuck, 1.0, step / 2)
            direction = torch.where(accept | stuck, self._direction(slope, pairs, rho), direction)
            yield tuple(best.unbind())  # type: ignore[misc]

    def _steepest(self, slope: Tensor) -> Tensor:
        return -self.lr * slope / slope.norm(dim=1, keepdim=True).clamp(min=1e-12)

    def _direction(self, slope: Tensor, pairs: Tensor, rho: Tensor) -> Tensor:
        """The two-loop recursion, batched; steepest descent where there is no history."""
        steps, changes = pairs
        q, alphas = slope, []
        for s, y, r in zip(steps.flip(0), changes.flip(0), rho.flip(0), strict=True):
            alphas.append(r * (s * q).sum(1))
            q = q - alphas[-1][:, None] * y
        newest = rho[-1] * changes[-1].square().sum(1)  # y·y / s·y of the newest pair
        q = q / newest.clamp(min=1e-12)[:, None]
        for s, y, r, alpha in zip(steps, changes, rho, reversed(alphas), strict=True):
            q = q + (alpha - r * (y * q).sum(1))[:, None] * s
        downhill = (q * slope).sum(1, keepdim=True) > 0
        return torch.where((rho[-1] > 0)[:, None] & downhill, -q, self._steepest(slope))


class HMC(Solver):
    """Hamiltonian Monte Carlo as in Amos's code: sample z from exp(-beta·total).

    A proposal is `leapfrog` steps of `eps` from a momentum v ~ N(0, I), z kept in bounds at each;
    it is accepted per image with probability min(1, exp(-change of beta·total + |v|²/2)).  beta is
    multiplied by `anneal` after each proposal.
    """

    @checked
    def __init__(
        self,
        iterations: Budget = 1000,
        leapfrog: Annotated[int, Field(ge=1, le=10**6)] = 100,
        eps: Positive = 0.001,
        beta: Positive = 0.2,
        anneal: Annotated[float, Field(gt=0, le=2)] = 1.0,
        bound: Bound = "clip",
    ):
        super().__init__(iterations, bound)
        self.leapfrog, self.eps, self.beta, self.anneal = leapfrog, eps, beta, anneal

    def __call__(self, z: nn.Parameter, evaluate: Evaluate, draws: Draws) -> Iterator[Losses]:
        losses, slope = gradient(evaluate, z)
        yield losses
        done, proposal, beta = 1, 0, self.beta
        while done < self.iterations:
            count = min(self.leapfrog, self.iterations - done)
            v = draws.normal("momentum", proposal, z.shape[1])  # (B, z_dim)
            trial, energy = z.data, beta * losses[2] + v.square().sum(1) / 2
            trial_losses, trial_slope = losses, slope
            for step in range(count):
                v = v - self.eps / 2 * beta * trial_slope
                trial = keep_in_bounds(trial + self.eps * v, self.bound, draws, done + step)
                trial_losses, trial_slope = gradient(evaluate, trial.requires_grad_())
                trial = trial.detach()
                v = v - self.eps / 2 * beta * trial_slope
                yield trial_losses
            log_accept = energy - beta * trial_losses[2] - v.square().sum(1) / 2  # (B,)
            accept = draws.uniform("accept", proposal, 1)[:, 0].log() < log_accept
            z.data = torch.where(accept[:, None], trial, z.data)
            slope = torch.where(accept[:, None], trial_slope, slope)
            losses = tuple(  # type: ignore[assignment]
                torch.where(accept, new, old) for new, old in zip(trial_losses, losses, strict=True)
            )
            done, proposal, beta = done + count, proposal + 1, beta * self.anneal
