"""The source of procedural faces, which needs no files.

`draw_factors` draws a few dozen numbers for each face, and painter.py paints them.
"""

import numpy as np
import torch
from torch import Tensor

from dcgan_inpaint.configs import Count, Seed
from dcgan_inpaint.data.decoding import Channels, ImageSize, source_class
from dcgan_inpaint.data.faces.painter import Factors, render
from dcgan_inpaint.images import to_uint8
from dcgan_inpaint.randomness import uniform

SKIN = (
    (0.99, 0.86, 0.77),
    (0.94, 0.75, 0.62),
    (0.83, 0.62, 0.47),
    (0.62, 0.42, 0.30),
    (0.42, 0.28, 0.2),
)
IRIS = (
    (0.25, 0.15, 0.09),
    (0.45, 0.30, 0.14),
    (0.35, 0.48, 0.28),
    (0.28, 0.48, 0.68),
    (0.48, 0.55, 0.6),
)
HAIR = (
    (0.09, 0.08, 0.09),  # black
    (0.18, 0.12, 0.10),
    (0.30, 0.19, 0.12),
    (0.44, 0.28, 0.17),  # brown
    (0.60, 0.29, 0.15),  # ginger
    (0.83, 0.66, 0.40),  # blond
    (0.73, 0.72, 0.71),  # gray
)
STYLES = (
    # hairline: v of the hair's edge on the forehead; peak: how fast it falls away from the part;
    # sweep: its slope; temple: half width of the bare face; volume: height above the skull;
    # length: y where the hair ends; curl: depth of the waves; bun: radius of a bun on top, if any
    # hairline, peak, sweep, temple, volume, length, curl, bun
    (-0.60, 0.00, 0.00, 0.70, -0.50, -0.60, 0.000, -1.0),  # bald
    (-0.54, 0.22, 0.00, 0.51, 0.015, -0.10, 0.000, -1.0),  # cropped
    (-0.48, 0.10, 0.20, 0.51, 0.060, -0.02, 0.000, -1.0),  # short
    (-0.54, 0.16, 0.06, 0.50, 0.130, 0.00, 0.008, -1.0),  # quiff
    (-0.42, 0.04, 0.42, 0.50, 0.080, 0.04, 0.000, -1.0),  # swept
    (-0.30, 0.06, 0.03, 0.48, 0.070, 0.08, 0.004, -1.0),  # short fringe
    (-0.28, 0.10, 0.00, 0.45, 0.090, 0.62, 0.000, -1.0),  # bob with a fringe
    (-0.66, 0.75, 0.00, 0.46, 0.080, 1.60, 0.005, -1.0),  # long, parted
    (-0.48, 0.10, 0.45, 0.46, 0.100, 1.60, 0.010, -1.0),  # long, swept
    (-0.48, 0.15, 0.05, 0.49, 0.130, 0.14, 0.028, -1.0),  # curly
    (-0.48, 0.20, 0.05, 0.47, 0.200, 0.75, 0.036, -1.0),  # long curls
    (-0.56, 0.25, 0.00, 0.50, 0.040, 0.04, 0.000, 0.20),  # bun
)
FIRST_INDEX = {"train": 0, "val": 1_000_000_000, "test": 2_000_000_000}  # of each split


class _Draw:
    """Draws numbers (B,) for the faces `index`; each draw uses the next random column."""

    def __init__(self, seed: int, index: Tensor):
        self.columns = iter(uniform("faces", seed, index, 88).unbind(1))
        self.device = index.device

    def between(self, low: float, high: float) -> Tensor:
        return low + (high - low) * next(self.columns)

    def about(self, middle: float, reach: float) -> Tensor:  # triangular
        return middle + reach * (next(self.columns) - next(self.columns))

    def chance(self, p: float) -> Tensor:
        return (next(self.columns) < p).float()

    def one_of(self, rows: tuple[tuple[float, ...], ...]) -> Tensor:  # (B, columns)
        table = torch.tensor(rows, device=self.device)
        return table[(next(self.columns) * len(rows)).long()]

    def palette(self, colors: tuple[tuple[float, float, float], ...]) -> Tensor:
        # Interpolates between neighbors.
        table = torch.tensor(colors, device=self.device)
        position = next(self.columns) * (len(colors) - 1)
        below = position.long()
        return torch.lerp(table[below], table[below + 1], (position - below)[:, None])

    def any_hue(self, saturation: float, low: float, high: float) -> Tensor:
        thirds = torch.arange(3, device=self.device) / 3
        turns = next(self.columns)[:, None] + thirds
        gray = self.between(0, saturation)[:, None] * (0.5 + 0.5 * torch.cos(2 * torch.pi * turns))
        return self.between(low, high)[:, None] * (1 - gray)


def draw_factors(seed: int, index: Tensor) -> Factors:
    """Draw the factors of faces; each face depends on (seed, index[b]) only.

    Args:
        seed: Seed of the faces.
        index: (B,) int64.

    Returns:
        Numbers (B,) and colors (B, 3) in [0, 1] by name, on the device of `index`.
    """
    draw = _Draw(seed, index)
    hairline, peak, sweep, temple, volume, length, curl, bun = draw.one_of(STYLES).unbind(1)
    side = 2 * draw.chance(0.5) - 1  # of the parting
    hat = draw.chance(0.12)
    # The order of the draws determines the faces.
    return {
        "shift_x": draw.about(0, 0.05),
        "shift_y": draw.about(0.01, 0.04),
        "scale": draw.between(1.02, 1.16),
        "yaw": draw.about(0, 0.38),
        "pitch": draw.about(0, 0.14),
        "roll": draw.about(0, 0.18),
        "skin": draw.palette(SKIN) * draw.between(0.95, 1.01)[:, None],
        "blush": draw.between(0, 0.35),
        "face_width": draw.between(0.51, 0.58),
        "chin": draw.between(0.76, 0.87),
        "taper": draw.between(0.08, 0.30),
        "square": draw.between(0.0, 0.3),
        "eye_size": draw.between(0.115, 0.150),
        "eye_open": draw.about(0.50, 0.20),
        "eye_spacing": draw.between(0.235, 0.275),
        "eye_tilt": draw.between(-0.10, 0.18),
        "iris": draw.palette(IRIS),
        "gaze_x": draw.about(0, 0.045),
        "gaze_y": draw.about(0, 0.018),
        "brow_thickness": draw.between(0.012, 0.036),
        "brow_angle": draw.about(0.0, 0.28),
        "brow_height": draw.between(0.14, 0.19),
        "nose_width": draw.between(0.075, 0.125),
        "nose_length": draw.between(0.27, 0.35),
        "mouth_width": draw.between(0.16, 0.235),
        "smile": draw.between(-0.20, 1.0),
        "mouth_open": draw.chance(0.5) * draw.between(0.02, 0.08),
        "lip_fullness": draw.between(0.028, 0.058),
        "lipstick": draw.chance(0.25) * draw.between(0.3, 0.7),
        "hair": draw.palette(HAIR),
        "hairline": hairline + draw.between(-0.03, 0.03),
        "hair_peak": peak + draw.between(0, 0.1),
        "hair_sweep": side * sweep,
        "hair_part": side * draw.between(0.0, 0.22),
        "hair_temple": temple + draw.between(-0.02, 0.02),
        "hair_volume": (volume + draw.between(-0.01, 0.03)) * (1 - 0.6 * hat),
        "hair_length": length + draw.between(-0.04, 0.08),
        "hair_curl": curl,
        "hair_bun": torch.where(hat > 0, -1, bun),
        "beard": draw.chance(0.22) * draw.between(0.35, 0.95),
        "beard_width": draw.between(0.20, 0.9),
        "moustache": draw.chance(0.16) * draw.between(0.6, 0.95),
        "glasses": draw.chance(0.28),
        "lens_dark": 0.05 + 0.87 * draw.chance(0.35),
        "lens_round": draw.between(0.2, 1.0),
        "frame": draw.any_hue(0.8, 0.08, 0.5),
        "hat": hat,
        "hat_brim": draw.between(0.03, 0.32),
        "hat_color": draw.any_hue(0.75, 0.25, 0.9),
        "light_x": draw.about(0, 0.9),
        "light_y": draw.between(-0.75, -0.1),
        "contrast": draw.between(0.35, 0.65),
        "backdrop": draw.any_hue(0.6, 0.25, 0.95),
        "backdrop_far": draw.any_hue(0.6, 0.25, 0.95),
        "backdrop_angle": draw.between(0, 2 * torch.pi),
        "clothes": draw.any_hue(0.8, 0.15, 0.95),
        "neckline": draw.between(0.0, 0.16),
    }


@source_class
class Faces:
    """Procedural portraits, painted on demand: the source that needs no files.

    Args:
        image_size: Side of the square images in px.
        channels: 3 for color, 1 for gray.
        seed: Seed of the faces.
        train_size, val_size, test_size: Number of images in each split.
    """

    crop = 1.0  # the full image

    image_size: ImageSize = 64
    channels: Channels = 3
    seed: Seed = 0
    train_size: Count = 20000
    val_size: Count = 1000
    test_size: Count = 1000

    def settings(self) -> dict[str, str | int]:
        """Return all settings that affect the pixels; `version` is that of the painter."""
        shape = {"image_size": self.image_size, "channels": self.channels}
        return {"source": "faces", "version": 1, **shape, "seed": self.seed}

    def items(self, split: str) -> list[str]:
        """Return the names of the faces in a split; no two splits share a face."""
        first, size = FIRST_INDEX[split], getattr(self, f"{split}_size")
        return [f"face_{i:08d}" for i in range(first, first + size)]

    def decode(self, items: list[str]) -> list[np.ndarray]:
        """Paint faces by name: uint8 (C, S, S) each."""
        index = torch.tensor([int(name.removeprefix("face_")) for name in items], dtype=torch.int64)
        images = render(draw_factors(self.seed, index), self.image_size, self.channels)
        return list(to_uint8(images).numpy())  # (B, C, S, S)
