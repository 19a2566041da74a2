"""Counter-based random numbers: each value is a pure function of (stream, seed, index, column).

There is no state.  The z of image 7 is the same in any batch and on any device, and a
resumed run samples the same numbers as an uninterrupted one.  Integer hashing is exact on every
device; the mixer is the finalizer of SplitMix64 (Steele, Lea & Flood 2014).
"""

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """Return a 64-bit pattern as two's-complement int64; torch has no uint64 arithmetic."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


# The constants of SplitMix64.
_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX1 = _signed(0xBF58476D1CE4E5B9)
_MIX2 = _signed(0x94D049BB133111EB)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros; torch fills with the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix_number(value: int) -> int:
    """Hash one number as `_mix` does, without a transfer to a device."""
    word = (1 << 64) - 1
    value = (value + _GOLDEN) & word
    value = ((value ^ value >> 30) * _MIX1) & word
    value = ((value ^ value >> 27) * _MIX2) & word
    return value ^ value >> 31


def _mix(x: Tensor) -> Tensor:
    """Hash int64 numbers of any shape."""
    x = x + _GOLDEN
    x = (x ^ _shift_right(x, 30)) * _MIX1
    x = (x ^ _shift_right(x, 27)) * _MIX2
    return x ^ _shift_right(x, 31)


def uniform(stream: str, seed: int, index: Tensor, n: int) -> Tensor:
    """Sample from U[0, 1), one row per index.

    Args:
        stream: Name of the use ("z", "mask", ...), so that uses do not share numbers.
        seed: The seed.
        index: (B,) int64.
        n: Numbers per row.

    Returns:
        (B, n) float32 on the device of `index`.
    """
    key = _signed(_mix_number(_mix_number(zlib.crc32(stream.encode())) ^ seed))
    rows = _mix(key ^ index.to(torch.int64))  # (B,)
    columns = torch.arange(n, device=index.device)  # (n,)
    bits = _mix(rows[:, None] ^ _mix(columns))  # (B, n)
    return _shift_right(bits, 40).to(torch.float32) * 2.0**-24


def permutation(stream: str, seed: int, n: int) -> Tensor:
    """Return a random permutation of 0 ... n - 1, (n,) int64."""
    key = uniform(stream, seed, torch.arange(n), 2)  # (n, 2)
    return torch.argsort(key[:, 0].double() + key[:, 1].double() * 2**-24)


def normal(stream: str, seed: int, index: Tensor, n: int) -> Tensor:
    """Sample from N(0, 1), one row per index (Box-Muller); arguments and shape as `uniform`."""
    u = uniform(stream, seed, index, 2 * n)
    radius = torch.sqrt(-2 * torch.log1p(-u[:, :n]))  # 1 - u is in (0, 1]: the log is finite
    return radius * torch.cos(2 * torch.pi * u[:, n:])


def latents(prior: str, seed: int, index: Tensor, z_dim: int) -> Tensor:
    """Sample z (B, z_dim) from the prior: "uniform" is U[-1, 1], "normal" is N(0, 1).

    Raises ValueError for another prior.
    """
    if prior == "uniform":
        return uniform("z", seed, index, z_dim) * 2 - 1
    if prior == "normal":
        return normal("z", seed, index, z_dim)
    raise ValueError(f"prior={prior}: expected uniform or normal")


@dataclass(frozen=True)
class CounterRNG:
    """Random numbers of a batch for the steps of an algorithm.

    Row b depends on (seed, index[b]), the stream and the step t only.
    """

    seed: int
    index: Tensor  # (B,) int64

    def uniform(self, stream: str, t: int, n: int) -> Tensor:
        """Sample from U[0, 1) for step t: (B, n)."""
        return uniform(f"{stream} {t}", self.seed, self.index, n)

    def normal(self, stream: str, t: int, n: int) -> Tensor:
        """Sample from N(0, 1) for step t: (B, n)."""
        return normal(f"{stream} {t}", self.seed, self.index, n)
