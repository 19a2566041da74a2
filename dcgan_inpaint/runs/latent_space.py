"""Operations on latents: loading, interpolation and vector arithmetic."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dcgan_inpaint.errors import show
from dcgan_inpaint.files import Z_FILE, check_file
from dcgan_inpaint.models.base import LatentGAN
from dcgan_inpaint.randomness import uniform


def load_z(path: str, count: int, gan: LatentGAN) -> Tensor:
    """Load the first `count` latents from a z.npy of inpaint.py.

    Returns:
        Latents (N, z_dim), at most `count`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not an array of finite numbers, or does not fit the GAN.
    """
    check_file("z", path, Z_FILE)
    try:  # A mapped file is never read beyond its end. NumPy refuses pickles by default.
        rows = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"z={path}: not a NumPy file ({reason}). Use {Z_FILE}") from error
    if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "fiu":
        raise ValueError(f"z={path}: not an array of numbers. Use {Z_FILE}")
    z_dim = gan.settings.z_dim
    if rows.ndim != 2 or rows.shape[1] != z_dim or len(rows) == 0:
        raise ValueError(f"z={path}: expected shape (N, {z_dim}), not {rows.shape}. Use {Z_FILE}")
    z = torch.from_numpy(np.array(rows[:count], np.float32))
    if not z.isfinite().all():
        raise ValueError(f"z={path}: contains numbers that are not finite. Use {Z_FILE}")
    return z


def check_rows(count: int, rows: Mapping[str, Sequence[int] | None]) -> bool:
    """Check the rows for `vector_arithmetic`; return whether rows are set.

    Args:
        count: Number of latents.
        rows: Rows for plus, minus and base, by the name of the option.

    Raises:
        ValueError: If only some of them are given, or a row does not exist.
    """
    if all(numbers is None for numbers in rows.values()):
        return False
    for name, numbers in rows.items():
        if not numbers:
            raise ValueError(
                f"{name}={show(numbers)}: contains no rows. Set {', '.join(rows)} together"
            )
        if max(numbers) >= count:
            raise ValueError(f"{name}={show(list(numbers))}: no such row. Use 0 to {count - 1}")
    return True


def interpolate(z: Tensor, steps: int) -> Tensor:
    """Return straight lines from row 0 to 1, from row 2 to 3, and so on, both ends included.

    Args:
        z: Latents (N, z_dim).
        steps: Number of points on each line.

    Returns:
        Latents (W, steps, z_dim), W = N // 2 but at most 8.
    """
    pairs = z[: len(z) // 2 * 2].unflatten(0, (-1, 2))[:8]  # (W, 2, z_dim)
    weights = torch.linspace(0, 1, steps)[None, :, None]
    return torch.lerp(pairs[:, :1], pairs[:, 1:], weights)


def vector_arithmetic(rows: Sequence[Tensor], prior: str, seed: int) -> Tensor:
    """Return mean(plus) - mean(minus) + mean(base), with its operands and neighbors.

    The neighbors add uniform noise in [-0.25, 0.25] (Radford 2016, fig. 7).

    Args:
        rows: Latents (N, z_dim) of plus, minus and base.
        prior: Prior of the GAN; the results of "uniform" are clipped to [-1, 1].
        seed: Seed of the noise.

    Returns:
        Latents (8, z_dim): the three means, the result, and four neighbors of the result.
    """
    means = torch.stack([operand.mean(0) for operand in rows])  # (3, z_dim)
    noise = uniform("arithmetic", seed, torch.arange(4), means.shape[1]) - 0.5  # (4, z_dim)
    result = means[0] - means[1] + means[2]  # (z_dim,)
    result = result + 0.5 * torch.cat([torch.zeros_like(noise[:1]), noise])  # (5, z_dim)
    if prior == "uniform":
        result = result.clamp(-1, 1)
    return torch.cat([means, result])
