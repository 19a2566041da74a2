import pytest
import torch

from dcgan_inpaint.inpainting.solvers import HMC, Adam, Momentum, keep_in_bounds
from dcgan_inpaint.randomness import CounterRNG

SOLVERS = {
    "adam": lambda **s: Adam(**{"iterations": 200, "lr": 0.05} | s),
    "momentum": lambda **s: Momentum(**{"iterations": 200, "lr": 0.01} | s),
    "hmc": lambda **s: HMC(**{"iterations": 401, "leapfrog": 20, "eps": 0.02, "beta": 20} | s),
}
SCALES = torch.tensor([1.0, 4.0, 0.5])
TARGET = torch.tensor([[0.3, -0.5, 0.2], [0.9, 0.1, -0.7], [0.0, 0.4, 0.6], [-0.2, -0.2, 0.8]])


def quadratic(target=TARGET, scales=SCALES):
    """A context loss per image, sum scales·(z - target)², with its minimum at the target."""

    def evaluate(z):
        loss = (scales * (z - target[: len(z)]).square()).sum(1)
        return loss, torch.zeros_like(loss), loss

    return evaluate


def solve(solver, evaluate=None, n=4, start=0):
    index = torch.arange(start, start + n)
    z = torch.nn.Parameter(torch.zeros(n, 3))
    evaluate = evaluate or quadratic(TARGET[start:])
    trace = [torch.stack(losses) for losses in solver(z, evaluate, CounterRNG(0, index))]
    return z.data, torch.stack(trace)  # (T, 3, B)


@pytest.mark.parametrize("name", SOLVERS)
def test_solver_finds_the_minimum(name):
    z, trace = solve(SOLVERS[name]())
    close = 0.25 if name == "hmc" else 0.01  # HMC samples around the minimum
    torch.testing.assert_close(z, TARGET, rtol=0, atol=close)
    assert (trace[-1, 2] < trace[0, 2]).all()


@pytest.mark.parametrize("name", SOLVERS)
def test_solver_yields_once_per_evaluation(name):
    calls = []

    def evaluate(z):
        calls.append(z.detach().clone())
        return quadratic()(z)

    _, trace = solve(SOLVERS[name](iterations=37), evaluate)
    assert len(calls) == len(trace) == 37
    assert not trace.requires_grad
    assert torch.equal(trace[0, 2], (SCALES * TARGET.square()).sum(1))  # of the initial z


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("bound", ["clip", "stochastic"])
def test_images_do_not_influence_each_other(name, bound):
    """An image takes the same path alone and beside images that are harder to optimize."""
    far = TARGET * torch.tensor([[1.0], [5.0], [1.0], [30.0]])
    solver = SOLVERS[name](iterations=43, bound=bound)
    together, _ = solve(solver, quadratic(far))
    for i in range(4):
        alone, _ = solve(solver, quadratic(far[i:]), n=1, start=i)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("bound", ["clip", "stochastic"])
def test_z_stays_in_bounds(name, bound):
    z, _ = solve(SOLVERS[name](bound=bound), quadratic(TARGET * 5))
    assert z.abs().max() <= 1


@pytest.mark.parametrize("name", ["adam", "momentum"])
def test_z_leaves_the_range_without_a_bound(name):
    z, _ = solve(SOLVERS[name](bound="none", iterations=600), quadratic(TARGET * 3))
    torch.testing.assert_close(z, TARGET * 3, rtol=0, atol=0.05)


def test_keep_in_bounds_clips_or_resamples():
    z = torch.tensor([[0.5, 1.5, -2.0], [-0.1, 0.2, 1.0]])
    rng = CounterRNG(0, torch.tensor([4, 9]))
    assert keep_in_bounds(z, "clip", rng, 0).tolist()[0] == [0.5, 1, -1]
    resampled = keep_in_bounds(z, "stochastic", rng, 0)
    assert torch.equal(resampled[1], z[1])
    assert resampled[0, 0] == 0.5
    assert (resampled[0, 1:].abs() < 1).all()
    assert not torch.equal(resampled, keep_in_bounds(z, "stochastic", rng, 1))
    alone = keep_in_bounds(z[:1], "stochastic", CounterRNG(0, torch.tensor([4])), 0)
    assert torch.equal(alone[0], resampled[0])
    assert torch.equal(keep_in_bounds(z, "none", rng, 0), z)


def test_adam_matches_torch():
    result, _ = solve(Adam(iterations=20, lr=0.05, bound="none"))
    z = torch.nn.Parameter(torch.zeros(4, 3))
    optimizer = torch.optim.Adam([z], lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        quadratic()(z)[2].sum().backward()
        optimizer.step()
    assert torch.equal(result, z.data)


def test_nesterov_momentum_matches_a_manual_computation():
    """v <- m v + g and z <- z - lr (g + m v) for the loss z² / 2 from z = 1 (Sutskever 2013)."""

    def evaluate(z):
        loss = (z.square() / 2).sum(1)
        return loss, 0 * loss, loss

    z = torch.nn.Parameter(torch.ones(1, 1))
    list(Momentum(iterations=2, lr=0.1, momentum=0.5)(z, evaluate, CounterRNG(0, torch.arange(1))))
    first = 1 - 0.1 * (1 + 0.5 * 1)
    velocity = 0.5 * 1 + first
    assert z.item() == pytest.approx(first - 0.1 * (first + 0.5 * velocity))


def test_cosine_schedule_decays_to_a_fiftieth():
    solver = Adam(iterations=101, lr=0.1, schedule="cosine")
    assert solver.step_size(0) == pytest.approx(0.1)
    assert solver.step_size(50) == pytest.approx((0.1 + 0.002) / 2)
    assert solver.step_size(100) == pytest.approx(0.002)
    assert Adam(lr=0.1).step_size(77) == 0.1


def test_hmc_samples_a_normal_distribution():
    """exp(-beta·loss) with loss = |z|² / 2 is a normal distribution with variance 1 / beta."""

    def evaluate(z):
        loss = z.square().sum(1) / 2
        return loss, 0 * loss, loss

    z, _ = solve(HMC(1 + 30 * 20, leapfrog=20, eps=0.05, beta=4, bound="none"), evaluate, n=2000)
    assert z.mean().abs() < 0.02
    assert z.std().item() == pytest.approx(0.5, rel=0.03)


def test_hmc_rejects_proposals_that_diverge():
    """With steps that are far too large, z keeps its initial value."""
    z, _ = solve(HMC(iterations=41, leapfrog=10, eps=5.0, beta=5, bound="none"))
    assert torch.equal(z, torch.zeros(4, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adam(iterations=-1), "iterations=-1"),
        (lambda: Adam(lr=0), "lr=0"),
        (lambda: Adam(schedule="linear"), "schedule=linear: should be 'constant' or 'cosine'"),
        (lambda: Momentum(bound="box"), "bound=box"),
        (lambda: Momentum(momentum=1), "momentum=1"),
        (lambda: HMC(eps=0), "eps=0"),
    ],
)
def test_arguments_out_of_range_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()
