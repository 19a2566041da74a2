"""Solvers that minimize the objective of each image over its latents.

A solver is an iterator: `solver(z, evaluate, rng)` updates z (B, z_dim) in place and yields the
context, prior and total loss, (B,) each, of one evaluation of G per step.  `evaluate(z)` returns
these losses with a graph to z, and `rng` provides random numbers.  Every decision is made per
image, so images do not influence each other.  `iterations` counts evaluations of G for all solvers,
which makes their budgets comparable.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dcgan_inpaint.configs import Positive, Share, checked
from dcgan_inpaint.randomness import CounterRNG

Losses = tuple[Tensor, Tensor, Tensor]  # context, prior and total loss
Evaluate = Callable[[Tensor], Losses]
MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]  # of [z]

Bound = Literal["clip", "stochastic", "none"]
Schedule = Literal["constant", "cosine"]
Budget = Annotated[int, Field(ge=0, le=10**6)]  # evaluations of G


def keep_in_bounds(z: Tensor, bound: str, rng: CounterRNG, t: int) -> Tensor:
    """Apply the bound of a solver to z (B, z_dim).

    Args:
        z: Latents, (B, z_dim).
        bound: "clip" clamps (Amos 2016); "stochastic" resamples components outside the range from
            U[-1, 1] (Lipton & Tripathi 2017); "none" returns z, for a normal prior.
        rng: Random numbers of the rows.
        t: Current iteration.
    """
    if bound == "clip":
        return z.clamp(-1, 1)
    if bound == "stochastic":
        return torch.where(z.abs() > 1, rng.uniform("bound", t, z.shape[1]) * 2 - 1, z)
    return z


def losses_and_gradient(evaluate: Evaluate, z: Tensor) -> tuple[Losses, Tensor]:
    """Return the detached losses at z and the gradient (B, z_dim) of the total loss."""
    losses = evaluate(z)
    # The sum has the gradient of each image's own loss in its row.
    (gradient,) = torch.autograd.grad(losses[2].sum(), z)
    context, prior, total = (loss.detach() for loss in losses)
    return (context, prior, total), gradient


class Solver:
    """Base class of the solvers.

    Args:
        iterations: Number of evaluations of G; with 0 the solver is not called.
        bound: How z is kept in [-1, 1], see `keep_in_bounds`.
    """

    def __init__(self, iterations: int, bound: str):
        self.iterations, self.bound = iterations, bound

    def __call__(self, z: nn.Parameter, evaluate: Evaluate, rng: CounterRNG) -> Iterator[Losses]:
        raise NotImplementedError


class GradientSolver(Solver):
    """Base class of the solvers that take one optimizer step per evaluation.

    Args:
        iterations: Number of evaluations of G.
        lr: Initial step size.
        schedule: "constant", or "cosine" for a decay from lr to lr / 50.
        bound: How z is kept in [-1, 1], see `keep_in_bounds`.
        optimizer: Function of [z] that returns the optimizer.
    """

    def __init__(
        self, iterations: int, lr: float, schedule: str, bound: str, optimizer: MakeOptimizer
    ):
        super().__init__(iterations, bound)
        self.lr, self.schedule, self.optimizer = lr, schedule, optimizer

    def step_size(self, t: int) -> float:
        """Return the step size of iteration t."""
        if self.schedule == "constant":
            return self.lr
        floor = self.lr / 50
        fraction = t / max(1, self.iterations - 1)
        return floor + (self.lr - floor) * (1 + math.cos(math.pi * fraction)) / 2

    def __call__(self, z: nn.Parameter, evaluate: Evaluate, rng: CounterRNG) -> Iterator[Losses]:
        optimizer = self.optimizer([z])
        for t in range(self.iterations):
            losses, z.grad = losses_and_gradient(evaluate, z)
            optimizer.param_groups[0]["lr"] = self.step_size(t)
            optimizer.step()
            z.data = keep_in_bounds(z.data, self.bound, rng, t)
            yield losses


class Adam(GradientSolver):
    """Adam (Kingma & Ba 2015); the defaults are those of Amos 2016.

    Args:
        iterations: Number of evaluations of G; None means 100.
        lr: Initial step size.
        schedule: "constant" or "cosine".
        bound: "clip", "stochastic" or "none".

    Raises:
        ValueError: If an argument is out of range.
    """

    @checked
    def __init__(
        self,
        iterations: Budget | None = 1000,
        lr: Positive = 0.01,
        schedule: Schedule = "constant",
        bound: Bound = "clip",
    ):
        iterations = 100 if iterations is None else iterations
        super().__init__(iterations, lr, schedule, bound, torch.optim.Adam)


class Momentum(GradientSolver):
    """Gradient descent with Nesterov momentum; the defaults are those of moodoki's code.

    Args:
        iterations: Number of evaluations of G.
        lr: Initial step size.
        momentum: Decay of the velocity.
        schedule: "constant" or "cosine".
        bound: "clip", "stochastic" or "none".

    Raises:
        ValueError: If an argument is out of range.
    """

    @checked
    def __init__(
        self,
        iterations: Budget = 3000,
        lr: Positive = 3e-4,
        momentum: Share = 0.9,
        schedule: Schedule = "constant",
        bound: Bound = "clip",
    ):
        sgd = partial(torch.optim.SGD, momentum=momentum, nesterov=True)
        super().__init__(iterations, lr, schedule, bound, sgd)


class HMC(Solver):
    """Hamiltonian Monte Carlo: samples z from exp(-beta·total loss), as in Amos's code.

    A proposal integrates `leapfrog` steps from a momentum v ~ N(0, I) and keeps z in its bounds.
    Each image accepts it with probability min(1, exp(-change of beta·total loss + |v|²/2)).

    Args:
        iterations: Number of evaluations of G.
        leapfrog: Number of steps per proposal.
        eps: Step size.
        beta: Inverse temperature.
        bound: "clip", "stochastic" or "none".

    Raises:
        ValueError: If an argument is out of range.
    """

    @checked
    def __init__(
        self,
        iterations: Budget = 1000,
        leapfrog: Annotated[int, Field(ge=1, le=10**6)] = 100,
        eps: Positive = 0.001,
        beta: Positive = 0.2,
        bound: Bound = "clip",
    ):
        super().__init__(iterations, bound)
        self.leapfrog, self.eps, self.beta = leapfrog, eps, beta

    def __call__(self, z: nn.Parameter, evaluate: Evaluate, rng: CounterRNG) -> Iterator[Losses]:
        losses, gradient = losses_and_gradient(evaluate, z)
        yield losses
        force = self.eps / 2 * self.beta  # half a momentum step per unit of gradient
        for proposal, done in enumerate(range(1, self.iterations, self.leapfrog)):
            count = min(self.leapfrog, self.iterations - done)
            v = rng.normal("momentum", proposal, z.shape[1])  # (B, z_dim)
            trial, energy = z.data, self.beta * losses[2] + v.square().sum(1) / 2
            trial_losses, trial_gradient = losses, gradient
            for step in range(count):
                v = v - force * trial_gradient
                trial = keep_in_bounds(trial + self.eps * v, self.bound, rng, done + step)
                trial_losses, trial_gradient = losses_and_gradient(evaluate, trial.requires_grad_())
                trial = trial.detach()
                v = v - force * trial_gradient
                yield trial_losses
            log_accept = energy - self.beta * trial_losses[2] - v.square().sum(1) / 2  # (B,)
            accept = rng.uniform("accept", proposal, 1)[:, 0].log() < log_accept
            z.data = torch.where(accept[:, None], trial, z.data)
            gradient = torch.where(accept[:, None], trial_gradient, gradient)
            losses = tuple(  # type: ignore[assignment]
                torch.where(accept, new, old) for new, old in zip(trial_losses, losses, strict=True)
            )
