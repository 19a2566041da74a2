import pytest
import torch

from dcgan_inpaint.randomness import latents, normal, uniform


def test_row_depends_on_its_index_only():
    index = torch.tensor([7, 3, 1000000007, -2])
    together = uniform("z", 1, index, 50)
    alone = torch.cat([uniform("z", 1, i[None], 50) for i in index])
    assert torch.equal(together, alone)
    assert torch.equal(uniform("z", 1, index, 20), together[:, :20])


def test_streams_seeds_and_indices_give_different_numbers():
    index = torch.arange(4)
    base = uniform("z", 0, index, 32)
    for other in (
        uniform("mask", 0, index, 32),
        uniform("z", 1, index, 32),
        uniform("z", 0, index + 1, 32),
    ):
        assert not (other == base).any()


def test_numbers_equal_those_of_all_published_results():
    values = uniform("z", 0, torch.tensor([0, 1]), 2)
    expected = torch.tensor([[0.85186327, 0.03981322], [0.28042769, 0.49333817]])
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-7)


def test_uniform_is_uniform_and_uncorrelated():
    u = uniform("test", 3, torch.arange(20000), 4)
    assert u.min() >= 0
    assert u.max() < 1
    counts = torch.histc(u, 20, 0, 1)
    assert (counts / 4000 - 1).abs().max() < 0.07  # 4 sigma of a binomial count
    correlations = torch.corrcoef(torch.cat([u.T, u.roll(1, 0).T]))  # columns and adjacent rows
    assert (correlations - torch.eye(8)).abs().max() < 0.03


def test_normal_has_the_moments_of_a_gaussian():
    n = normal("test", 3, torch.arange(20000), 2)
    assert n.isfinite().all()
    assert n.mean().abs() < 0.02
    assert n.std() == pytest.approx(1, abs=0.01)
    assert (n.abs() < 1).float().mean() == pytest.approx(0.6827, abs=0.01)


def test_latents_follow_the_prior():
    z = latents("uniform", 0, torch.arange(1000), 10)
    assert z.min() < -0.99
    assert z.max() > 0.99
    assert latents("normal", 0, torch.arange(1000), 10).abs().max() > 2
    with pytest.raises(ValueError, match="prior=cauchy: expected uniform or normal"):
        latents("cauchy", 0, torch.arange(2), 10)
