"""What sample.py does with z: rows from a file, walks between them, arithmetic with them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dcgan_inpaint.models.base import LatentGAN
from dcgan_inpaint.randomness import uniform


def load_z(path: str, count: int, gan: LatentGAN) -> Tensor:
    """The first `count` rows, (N, z_dim), of a z.npy that inpaint.py wrote.

    Raises FileNotFoundError, or ValueError for a file that is something else or does not fit.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"z={path}: no such file; inpaint.py writes <its run>/z.npy")
    try:  # mapped, so that no more is read than is there; pickles are refused
        rows = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"z={path}: not a z.npy ({str(error).splitlines()[0]})") from error
    if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "fiu":
        raise ValueError(f"z={path}: not a z.npy, which is one array of numbers")
    if rows.ndim != 2 or rows.shape[1] != gan.settings.z_dim or len(rows) == 0:
        raise ValueError(f"z={path} has shape {rows.shape}; ckpt= takes (N, {gan.settings.z_dim})")
    z = torch.from_numpy(np.array(rows[:count], np.float32))
    if not z.isfinite().all():
        raise ValueError(f"z={path}: has numbers that are not finite")
    return z


def check_rows(count: int, chosen: Mapping[str, Sequence[int] | None]) -> bool:
    """Whether arithmetic is asked for.  Raises ValueError for rows that are not among the `count`,
    or when only some of the three are chosen."""
    if all(rows is None for rows in chosen.values()):
        return False
    for name, rows in chosen.items():
        if not rows:
            said = "null" if rows is None else "[]"
            raise ValueError(f"{name}={said}: arithmetic needs rows for {', '.join(chosen)}")
        if max(rows) >= count:
            raise ValueError(f"{name}={list(rows)}: rows go from 0 to {count - 1}")
    return True


def walks(z: Tensor, steps: int) -> Tensor:
    """Straight lines from row 0 to 1, 2 to 3, ...: (N, z_dim) -> (W, steps, z_dim), W at most 8.

    Both ends are included.
    """
    pairs = z[: len(z) // 2 * 2].unflatten(0, (-1, 2))[:8]  # (W, 2, z_dim)
    weights = torch.linspace(0, 1, steps)[None, :, None]
    return torch.lerp(pairs[:, :1], pairs[:, 1:], weights)


def arithmetic(rows: Sequence[Tensor], prior: str, seed: int) -> Tensor:
    """Of three sets of rows (N, z_dim) the means, their sum, and four around it: (8, z_dim).

    plus, minus, base; plus - minus + base; the same with noise of ±0.25 (Radford 2016, fig. 7).
    """
    means = torch.stack([chosen.mean(0) for chosen in rows])  # (3, z_dim)
    around = uniform("arithmetic", seed, torch.arange(4), means.shape[1]) - 0.5
    result = means[0] - means[1] + means[2]
    result = result + 0.5 * torch.cat([torch.zeros_like(around[:1]), around])  # (5, z_dim)
    if prior == "uniform":
        result = result.clamp(-1, 1)
    return torch.cat([means, result])
