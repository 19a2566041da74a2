"""Counter-based random numbers: a value is a pure function of (stream, seed, index, column).

There is no state, so the z of image 7 is the same alone, in a batch of 64, or on another device,
and a resumed run draws what the uninterrupted one would have drawn.  Integer hashing is exact on
every device; the mixer is the finaliser of SplitMix64 (Steele, Lea & Flood 2014).
"""

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """The two's-complement int64 of a 64-bit pattern (torch has no uint64 arithmetic)."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX1 = _signed(0xBF58476D1CE4E5B9)
_MIX2 = _signed(0x94D049BB133111EB)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # torch shifts in the sign; a hash wants zeros


def _mixed(value: int) -> int:
    """`_mix` of one number, which no device has to be asked for."""
    word = (1 << 64) - 1
    value = (value + _GOLDEN) & word
    value = ((value ^ value >> 30) * _MIX1) & word
    value = ((value ^ value >> 27) * _MIX2) & word
    return value ^ value >> 31


def _mix(x: Tensor) -> Tensor:
    x = x + _GOLDEN
    x = (x ^ _shift_right(x, 30)) * _MIX1
    x = (x ^ _shift_right(x, 27)) * _MIX2
    return x ^ _shift_right(x, 31)


def uniform(stream: str, seed: int, index: Tensor, n: int) -> Tensor:
    """U[0, 1) numbers, one row per index.

    `stream` names the use ("z", "mask", ...), so that uses never share numbers.
    `index` (B,) int64.  Returns (B, n) float32 on the device of `index`.
    """
    key = _signed(_mixed(_mixed(zlib.crc32(stream.encode())) ^ seed))
    rows = _mix(key ^ index.to(torch.int64))  # (B,)
    columns = torch.arange(n, device=index.device)  # (n,)
    bits = _mix(rows[:, None] ^ _mix(columns))  # (B, n)
    return _shift_right(bits, 40).to(torch.float32) * 2.0**-24


def permutation(stream: str, seed: int, n: int) -> Tensor:
    """0 ... n - 1, (n,) int64, in an order that follows from (stream, seed)."""
    key = uniform(stream, seed, torch.arange(n), 2)  # (n, 2)
    return torch.argsort(key[:, 0].double() + key[:, 1].double() * 2**-24)


def normal(stream: str, seed: int, index: Tensor, n: int) -> Tensor:
    """N(0, 1) numbers, one row per index (Box-Muller); arguments and shape as `uniform`."""
    u = uniform(stream, seed, index, 2 * n)
    radius = torch.sqrt(-2 * torch.log1p(-u[:, :n]))  # 1 - u is in (0, 1]: the log is finite
    return radius * torch.cos(2 * torch.pi * u[:, n:])


def latents(prior: str, seed: int, index: Tensor, z_dim: int) -> Tensor:
    """z (B, z_dim) drawn from the prior: "uniform" is U[-1, 1], "normal" is N(0, 1).

    Raises ValueError for another prior.
    """
    if prior == "uniform":
        return uniform("z", seed, index, z_dim) * 2 - 1
    if prior == "normal":
        return normal("z", seed, index, z_dim)
    raise ValueError(f"prior={prior!r}: choose uniform or normal")


@dataclass(frozen=True)
class CounterRNG:
    """Random numbers of a batch for the steps of an algorithm: row b follows from (seed, index[b])
    and the step t alone."""

    seed: int
    index: Tensor  # (B,) int64

    def uniform(self, stream: str, t: int, n: int) -> Tensor:
        """U[0, 1), (B, n)."""
        return uniform(f"{stream} {t}", self.seed, self.index, n)

    def normal(self, stream: str, t: int, n: int) -> Tensor:
        """N(0, 1), (B, n)."""
        return normal(f"{stream} {t}", self.seed, self.index, n)
