"""Procedural portraits: an endless face data set that needs no files.

A face is a few dozen numbers (`draw_factors`), painted back to front (`render`) with signed
distances: negative inside a shape, positive outside.  Dividing a distance by the pixel width gives
the share of the pixel covered, so edges are smooth and a face is the same at any size.

Frames, all with y down and 1 = half a picture: (across, down) is the picture; (x, y) is the head
upright, eyes at y = -0.14; (u, v) is the surface of the turned head, where features are drawn
symmetrically about u = 0 and get moved and foreshortened by the map from (x, y).
"""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

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
    (0.73, 0.72, 0.71),  # grey
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
LUMA = (0.299, 0.587, 0.114)
SPLITS = {"train": 0, "val": 1_000_000_000, "test": 2_000_000_000}  # the first index of each
CHUNK_PIXELS = 32 * 64 * 64  # painted at once: small enough for the cache

Factors = dict[str, Tensor]  # numbers (B,) and RGB colours (B, 3)
Number = Tensor | float


def draw_factors(seed: int, index: Tensor) -> Factors:
    """What decides the faces `index` (B,) int64; each face follows from (seed, its index) alone.

    Returns named numbers (B,) and colours (B, 3) in [0, 1], on the device of `index`.
    """
    column = iter(uniform("faces", seed, index, 88).unbind(1))

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * next(column)

    def about(middle: float, reach: float) -> Tensor:  # a tent: the middle is likeliest
        return middle + reach * (next(column) - next(column))

    def chance(p: float) -> Tensor:
        return (next(column) < p).float()

    def palette(colours: tuple[tuple[float, float, float], ...]) -> Tensor:  # between neighbours
        table = torch.tensor(colours, device=index.device)
        place = next(column) * (len(colours) - 1)
        below = place.long()
        return torch.lerp(table[below], table[below + 1], (place - below)[:, None])

    def any_hue(saturation: float, low: float, high: float) -> Tensor:
        turns = next(column)[:, None] + torch.arange(3, device=index.device) / 3
        grey = 1 - between(0, saturation)[:, None] * (0.5 + 0.5 * torch.cos(2 * torch.pi * turns))
        return between(low, high)[:, None] * grey

    style = torch.tensor(STYLES, device=index.device)[(next(column) * len(STYLES)).long()]
    hairline, peak, sweep, temple, volume, length, curl, bun = style.unbind(1)
    side = 2 * chance(0.5) - 1  # of the parting
    hat = chance(0.12)
    return {
        "shift_x": about(0, 0.05),
        "shift_y": about(0.01, 0.04),
        "scale": between(1.02, 1.16),
        "yaw": about(0, 0.38),
        "pitch": about(0, 0.14),
        "roll": about(0, 0.18),
        "skin": palette(SKIN) * between(0.95, 1.01)[:, None],
        "blush": between(0, 0.35),
        "face_width": between(0.51, 0.58),
        "chin": between(0.76, 0.87),
        "taper": between(0.08, 0.30),
        "square": between(0.0, 0.3),
        "eye_size": between(0.115, 0.150),
        "eye_open": about(0.50, 0.20),
        "eye_spacing": between(0.235, 0.275),
        "eye_tilt": between(-0.10, 0.18),
        "iris": palette(IRIS),
        "gaze_x": about(0, 0.045),
        "gaze_y": about(0, 0.018),
        "brow_thickness": between(0.012, 0.036),
        "brow_angle": about(0.0, 0.28),
        "brow_height": between(0.14, 0.19),
        "nose_width": between(0.075, 0.125),
        "nose_length": between(0.27, 0.35),
        "mouth_width": between(0.16, 0.235),
        "smile": between(-0.20, 1.0),
        "mouth_open": chance(0.5) * between(0.02, 0.08),
        "lip_fullness": between(0.028, 0.058),
        "lipstick": chance(0.25) * between(0.3, 0.7),
        "hair": palette(HAIR),
        "hairline": hairline + between(-0.03, 0.03),
        "hair_peak": peak + between(0, 0.1),
        "hair_sweep": side * sweep,
        "hair_part": side * between(0.0, 0.22),
        "hair_temple": temple + between(-0.02, 0.02),
        "hair_volume": (volume + between(-0.01, 0.03)) * (1 - 0.6 * hat),
        "hair_length": length + between(-0.04, 0.08),
        "hair_curl": curl,
        "hair_bun": torch.where(hat > 0, -1, bun),
        "beard": chance(0.22) * between(0.35, 0.95),
        "beard_width": between(0.20, 0.9),
        "moustache": chance(0.16) * between(0.6, 0.95),
        "glasses": chance(0.28),
        "lens_dark": 0.05 + 0.87 * chance(0.35),
        "lens_round": between(0.2, 1.0),
        "frame": any_hue(0.8, 0.08, 0.5),
        "hat": hat,
        "hat_brim": between(0.03, 0.32),
        "hat_colour": any_hue(0.75, 0.25, 0.9),
        "light_x": about(0, 0.9),
        "light_y": between(-0.75, -0.1),
        "contrast": between(0.35, 0.65),
        "backdrop": any_hue(0.6, 0.25, 0.95),
        "backdrop_far": any_hue(0.6, 0.25, 0.95),
        "backdrop_angle": between(0, 2 * torch.pi),
        "clothes": any_hue(0.8, 0.15, 0.95),
        "neckline": between(0.0, 0.16),
    }


# Signed distances; near enough to true ones close to the edge, where they are used ----------------


def ellipse(x: Tensor, y: Tensor, rx: Number, ry: Number) -> Tensor:
    k = ((x / rx).square_() + (y / ry).square_()).sqrt_()
    return (k - 1).mul_(torch.minimum(torch.as_tensor(rx), torch.as_tensor(ry)))


def rounded_box(x: Tensor, y: Tensor, rx: Number, ry: Number, r: Number) -> Tensor:
    qx, qy = x.abs() - (rx - r), y.abs() - (ry - r)
    outside = (qx.clamp(min=0).square_() + qy.clamp(min=0).square_()).sqrt_()
    return outside + torch.maximum(qx, qy).clamp_(max=0) - r


def both(a: Tensor, b: Tensor, r: float) -> Tensor:
    """The intersection of two shapes, its corners rounded by about r."""
    return torch.maximum(a, b).add_((r - (a - b).abs()).clamp_(min=0).square_(), alpha=0.25 / r)


# Coverage, 0 to 1 ---------------------------------------------------------------------------------


def fill(distance: Tensor, softness: Number) -> Tensor:
    """The inside of a shape; softness is the pixel width for a crisp edge, more for a blur."""
    return (0.5 - distance / softness).clamp_(0, 1)


def line(distance: Tensor, half_width: float, pixel: Tensor) -> Tensor:
    """Along distance 0; a line thinner than a pixel grows faint instead of vanishing."""
    wide = (pixel / 2).clamp(min=half_width)
    return fill(distance.abs() - wide, pixel).mul_(half_width / wide)


def glow(x: Tensor, y: Tensor, rx: Number, ry: Number) -> Tensor:
    """A soft spot: 1 at the centre, falling smoothly to 0 at the ellipse."""
    return (1 - (x / rx).square_() - (y / ry).square_()).clamp_(min=0).square_()


# Painting -----------------------------------------------------------------------------------------


@dataclass
class Scene:
    """Pictures being painted: fields are (B, 1, H, W), the canvas is (B, 3, H, W) in [0, 1]."""

    f: SimpleNamespace  # factors and derived colours, (B, 1, 1, 1) and (B, 3, 1, 1)
    pixel: Tensor  # (B, 1, 1, 1), its width in these frames
    across: Tensor
    down: Tensor
    x: Tensor
    y: Tensor
    u: Tensor
    v: Tensor
    lit: Tensor  # 1 on the person, 0 on the background
    canvas: Tensor

    def over(self, colour: Tensor, coverage: Tensor) -> None:
        self.canvas.lerp_(colour, coverage)

    def solid(self, colour: Tensor, coverage: Tensor) -> None:
        """Paint a part of the person that light falls on."""
        self.canvas.lerp_(colour, coverage)
        torch.maximum(self.lit, coverage, out=self.lit)

    def band(self, top: float, bottom: float) -> "Scene":
        """The rows that can show head-frame y from top to bottom, however the head is held.

        Painting only those is quicker; the margins allow for the extremes of `draw_factors`.
        """
        rows = self.canvas.shape[2]
        first = int(rows * max(0.0, 0.5 + 0.58 * top - 0.12))
        last = 1 + int(rows * min(1.0, 0.5 + 0.58 * bottom + 0.13))
        parts = {k: t[:, :, first:last] for k, t in vars(self).items() if k not in ("f", "pixel")}
        return Scene(self.f, self.pixel, **parts)


def rgb(like: Tensor, *values: float) -> Tensor:
    return torch.tensor(values, device=like.device).view(3, 1, 1)


def paint_torso(s: Scene) -> None:
    f = s.f
    s.solid(f.clothes, fill(ellipse(s.across, s.down - 1.44, 1.15, 0.66), s.pixel))


def paint_neck(s: Scene) -> None:
    f = s.f
    column = both(s.across.abs() - 0.29, s.down - 0.86 - f.neckline, 0.2)
    column = torch.maximum(column, -s.down)
    s.over(f.skin * 0.84, fill(column, s.pixel))
    s.over(f.clothes * 0.75, line(column, 0.028, s.pixel) * fill(0.84 - s.down, 0.05))
    chin = glow(s.across - 0.1 * f.yaw, s.down - 0.70, 0.5, 0.26)
    s.over(f.shadow * 0.7, chin * fill(column, s.pixel))


def hair_shape(s: Scene, waves: Tensor) -> Tensor:
    """The skull and what hangs from it; the ends are cut higher outside than inside."""
    f = s.f
    x, y = s.x + 0.10 * f.yaw, s.y + 0.10
    skull = ellipse(x, y.clamp(max=0), f.face_width + 0.02, 0.70) - f.hair_volume + waves
    ends = s.y - f.hair_length + 1.2 * (x.abs() - f.face_width + 0.06).clamp_(min=0) + 0.6 * waves
    bun = (x.square() + (s.y + 0.82).square_()).sqrt_() - f.hair_bun
    return torch.minimum(both(skull, ends, 0.25), bun)


def paint_fringe(s: Scene, hair: Tensor, colour: Tensor, waves: Tensor) -> None:
    """The hair in front of the face: all of it but an opening below the hairline."""
    f = s.f
    from_part = s.u - f.hair_part
    hairline = f.hairline + f.hair_peak * from_part.abs() + f.hair_sweep * from_part + waves
    slant = (0.5 - f.hair_length).clamp(0, 0.35)  # short hair tapers into sideburns
    temple = s.u.abs() - f.hair_temple - slant * (s.v + 0.1).clamp_(min=0)
    opening = both(hairline + f.strands * 0.012 - s.v, temple, 0.12)
    front = both(hair, -opening, 0.03)
    s.over(f.shadow, fill(front - 0.05, 0.10) * s.lit * 0.35)  # its shade on the skin
    s.solid(colour, fill(front, s.pixel))


def head_shape(s: Scene) -> Tensor:
    """An egg, narrower towards a chin that leans the way the head is turned."""
    f = s.f
    y = s.y + 0.10
    below = y.clamp(min=0) / f.chin
    x = (s.x - 0.22 * f.yaw * below) / (f.face_width * (1 - f.taper * below.square()))
    y = torch.maximum(y / f.chin, y / -0.70).square_()
    return ((x.square_() + torch.lerp(y, y.square(), f.square)).sqrt_() - 1) * f.face_width


def paint_head(s: Scene, head: Tensor) -> None:
    f = s.f
    x = (s.x + 0.16 * f.yaw).abs() - f.face_width
    s.solid(f.skin * 0.94, fill(ellipse(x, s.y - 0.03, 0.07, 0.14), s.pixel))  # ears
    s.over(f.shadow, glow(x - 0.01, s.y - 0.02, 0.05, 0.10) * 0.7)
    s.solid(f.skin, fill(head, s.pixel))
    s.over(f.flush, glow(s.u.abs() - 0.30, s.v - 0.17, 0.23, 0.19) * f.blush)
    s.over(f.gloss, glow(s.u, s.v + 0.48, 0.30, 0.20) * 0.35)  # forehead
    s.over(f.shadow, glow(s.u, s.v - 0.57, 0.16, 0.06) * 0.25)  # under the lip
    s.over(f.gloss, glow(s.u, s.v - 0.66, 0.14, 0.08) * 0.30)  # chin


def paint_eyes(s: Scene) -> None:
    f = s.f
    out, y = s.u.abs() - f.eye_spacing, s.v + 0.14  # outwards and down from each eye's centre
    s.over(f.shadow, glow(out + 0.02, y + 0.03, 0.23, 0.17) * 0.4)  # socket
    brow = y + f.brow_height - f.brow_angle * out - 2.5 * (out + 0.01).square()
    thick = f.brow_thickness * (1 - (out / 0.175).square_())
    s.over(f.brow, fill(brow.abs() - thick, s.pixel + 0.01) * 0.9)

    y = y + f.eye_tilt * out
    bow = 1 - (out / f.eye_size).square_()  # the lids are parabolas
    height = f.eye_size * f.eye_open
    upper, lower = -y - height * bow, y - 0.7 * height * bow
    inside = fill(torch.maximum(upper, lower), s.pixel)
    s.over(f.white, inside)
    x, y = out * s.u.sign() - f.gaze_x, y - f.gaze_y + 0.1 * height
    r, iris = (x.square() + y.square()).sqrt_(), 0.48 * f.eye_size
    s.over(f.iris * 0.4, inside * fill(r - iris, s.pixel))
    s.over(f.iris, inside * fill(r - 0.8 * iris, s.pixel))
    s.over(f.black, inside * fill(r - 0.45 * iris, s.pixel))
    s.over(f.shadow * 0.6, inside * fill(upper + 0.025, 0.05) * 0.45)  # the lid's shade
    glint = ellipse(x - 0.35 * iris * f.light_x, y + 0.4 * iris, 0.28 * iris, 0.28 * iris)
    s.over(f.white, inside * fill(glint, s.pixel))
    near = fill(-bow, 0.15)
    s.over(f.black, line(upper, 0.014, s.pixel) * near * 0.9)  # lashes
    s.over(f.shadow * 0.8, line(upper - 0.045, 0.008, s.pixel) * near * 0.5)  # crease
    s.over(f.shadow * 0.8, line(lower, 0.006, s.pixel) * near * 0.5)


def paint_nose(s: Scene) -> None:
    f = s.f
    y = s.v + 0.14 - f.nose_length
    x = s.u - 0.22 * f.yaw * (1 + y / f.nose_length).clamp_(0, 1)  # it stands out of the face
    dark, wing = 0.25 + 0.35 * f.light_x.abs(), f.nose_width
    s.over(f.shadow, glow(x + 0.10 * f.light_x.sign(), y + 0.10, 0.09, 0.26) * dark)
    s.over(f.gloss, glow(x - 0.015 * f.light_x.sign(), y + 0.11, 0.05, 0.24) * 0.5)
    s.over(f.shadow, glow(x, y - 0.055, wing * 1.3, 0.07) * 0.45)
    below = fill(0.02 - y, 0.07)
    s.over(f.shadow * 0.85, line(ellipse(x, y, wing, 0.06), 0.009, s.pixel) * below * 0.7)
    nostril = ellipse(x.abs() - 0.5 * wing, y - 0.035, 0.3 * wing, 0.014)
    s.over(f.shadow * 0.4, fill(nostril, s.pixel) * 0.8)
    s.over(f.gloss, glow(x - 0.03 * f.light_x, y + 0.02, 0.06, 0.05) * 0.8)


def paint_beard(s: Scene, head: Tensor) -> None:
    f = s.f
    cheeks = 0.34 - 1.5 * s.u.square() - s.v
    area = both(both(cheeks, head, 0.05), s.u.abs() - f.beard_width, 0.1)
    s.over(f.brow, fill(area + 0.01, 0.06) * f.beard)
    bow = 1 - (s.u / 0.21).square_()
    upper_lip = (s.v - 0.35 - 1.2 * s.u.square()).abs() - 0.04 * bow
    s.over(f.brow, fill(upper_lip, s.pixel + 0.02) * f.moustache)


def paint_mouth(s: Scene) -> None:
    f = s.f
    width = f.mouth_width * (1 + 0.18 * f.smile)
    bow = 1 - (s.u / width).square_()
    y = s.v - 0.44 + 0.07 * f.smile * (1 - bow)
    full, gap = f.lip_fullness, f.mouth_open + 0.006
    dip = 1 - 0.3 * (1 - (s.u / 0.06).square_()).clamp_(min=0)  # in the middle of the upper lip
    lips = torch.maximum(-y - (gap + 0.8 * full * dip) * bow, y - (gap + full) * bow)
    lips = fill(lips, s.pixel)
    s.over(f.lip, lips)
    s.over(f.lip * 0.7, lips * fill(y + 0.5 * gap, 0.05) * 0.5)  # the upper lip faces down
    shine = glow(s.u - 0.04 * f.light_x, y - gap - 0.55 * full, 0.10, 0.022)
    s.over(f.white, shine * 0.25)
    inside = fill(y.abs() - gap * bow, s.pixel)
    s.over(f.lip * 0.22, inside)
    s.over(f.white, inside * fill(y - 0.25 * gap, s.pixel) * (f.mouth_open > 0))  # teeth
    s.over(f.shadow * 0.8, glow(s.u.abs() - width, y, 0.05, 0.04) * 0.6)


def paint_glasses(s: Scene, head: Tensor) -> None:
    f = s.f
    out, y = s.u.abs() - f.eye_spacing - 0.005, s.v + 0.12
    rim = rounded_box(out, y, 0.19, 0.125 + 0.045 * f.lens_round, 0.04 + 0.09 * f.lens_round)
    lens = fill(rim, s.pixel) * f.glasses
    s.over(f.frame * 0.3, lens * f.lens_dark)
    s.over(f.white, lens * glow(out + 0.05 - y, y + 0.05, 0.09, 0.3) * 0.3)  # a reflection
    bars = line(y + 0.04, 0.016, s.pixel) * fill(-rim, s.pixel) * fill(head, s.pixel)
    s.over(f.frame, torch.maximum(line(rim, 0.016, s.pixel), bars) * f.glasses)


def paint_hat(s: Scene) -> None:
    f = s.f
    x, y = s.x + 0.06 * f.yaw, s.y + 0.44
    edge = y + 0.10 * x.square()
    width = f.face_width + 0.07 + f.hair_volume.clamp(min=0)
    dome, width = ellipse(x, y.clamp(max=0), width, 0.54), width + f.hat_brim
    crown = fill(torch.maximum(dome, edge), s.pixel) * f.hat
    s.over(f.black, glow(x, edge - 0.08, width * 0.8, 0.16) * s.lit * f.hat * 0.35)
    s.solid(f.hat_colour, crown)
    s.over(f.hat_colour * 0.55, crown * fill(edge.abs() - 0.13, s.pixel))
    brim = rounded_box(x, edge, width, 0.055, 0.054)
    s.solid(f.hat_colour * 0.85, fill(brim, s.pixel) * f.hat)


def shade(s: Scene) -> None:
    """Light the person as one rounded thing; the shadows are warm."""
    f = s.f
    nx, ny = s.x / 0.85, (s.y + 0.05) / 1.15
    nz = (1 - nx.square() - ny.square()).clamp_(min=0.05).sqrt_()
    strength = (f.light_x.square() + f.light_y.square() + 0.64).sqrt()
    facing = (f.light_x * nx + f.light_y * ny + 0.8 * nz) / strength
    change = (facing - 0.78) * f.contrast * s.lit
    s.canvas.mul_(1 + change * rgb(change, 0.85, 1.0, 1.1)).clamp_(0, 1)


def paint(factors: Factors, size: int) -> Tensor:
    """The pictures (B, 3, size, size) in [0, 1], painted from the back to the front."""
    f = SimpleNamespace(**{k: t.reshape(len(t), -1, 1, 1) for k, t in factors.items()})
    f.white, f.black = rgb(f.skin, 0.96, 0.95, 0.94), f.hair * 0.15
    f.shadow, f.gloss = f.skin * rgb(f.skin, 0.66, 0.54, 0.50), f.skin * 0.6 + 0.4
    f.flush = torch.lerp(f.skin, rgb(f.skin, 0.90, 0.35, 0.32), 0.5)
    f.lip = torch.lerp(
        f.skin * rgb(f.skin, 0.9, 0.6, 0.6), rgb(f.skin, 0.8, 0.14, 0.25), f.lipstick
    )
    f.brow = f.hair * 0.7

    steps = (torch.arange(size, device=f.skin.device) + 0.5) * (2 / size) - 1  # pixel centres
    across = ((steps - f.shift_x) / f.scale).expand(-1, -1, size, -1)
    down = ((steps[:, None] - f.shift_y) / f.scale).expand(-1, -1, -1, size)
    x = across * torch.cos(f.roll) + down * torch.sin(f.roll)
    y = down * torch.cos(f.roll) - across * torch.sin(f.roll)
    depth = (0.42 - x.square() - 0.5 * y.square()).clamp_(min=0).sqrt_()  # the head is round
    u, v = x * torch.cos(f.yaw) - depth * torch.sin(f.yaw), y - depth * f.pitch
    gradient = across * torch.cos(f.backdrop_angle) + down * torch.sin(f.backdrop_angle)
    canvas = torch.lerp(f.backdrop, f.backdrop_far, 0.5 + 0.36 * gradient)
    s = Scene(f, 2 / (size * f.scale), across, down, x, y, u, v, torch.zeros_like(x), canvas)

    curls = torch.sin(9 * x - 15 * y + 1.4 * torch.sin(11 * x + 7 * y))
    waves, f.strands = curls * f.hair_curl, torch.sin(34 * u)
    shine = glow(x - 0.3 * f.light_x, y + 0.66 + 0.25 * x.square(), 0.5, 0.16) * 0.3
    colour = f.hair * (1 + 0.04 * f.strands - 2.5 * waves) + shine * (0.25 + 0.6 * f.hair)
    hair, head = hair_shape(s, waves), head_shape(s)
    paint_torso(s.band(0.6, 2))
    s.solid(colour * 0.75, fill(hair, s.pixel))
    paint_neck(s.band(0.0, 2))
    paint_head(s, head)
    paint_eyes(s.band(-0.45, 0.15))
    paint_nose(s.band(-0.3, 0.4))
    paint_beard(s, head)
    paint_mouth(s.band(0.2, 0.65))
    paint_glasses(s, head)
    paint_fringe(s, hair, colour, waves)
    paint_hat(s)
    shade(s)
    return s.canvas


def check(size: int, channels: int) -> None:
    if size < 1:
        raise ValueError(f"image_size={size}: must be positive")
    if channels not in (1, 3):
        raise ValueError(f"channels={channels}: choose 1 or 3")


def render(factors: Factors, size: int, channels: int = 3) -> Tensor:
    """Paint the faces: (B, channels, size, size) in [-1, 1]; 1 channel is the luminance.

    Raises ValueError for a size below 1, or channels other than 1 and 3.
    """
    check(size, channels)
    count, step = len(factors["skin"]), max(1, CHUNK_PIXELS // size**2)
    out = factors["skin"].new_empty(count, channels, size, size)
    for i in range(0, count, step):
        picture = paint({k: t[i : i + step] for k, t in factors.items()}, size)
        if channels == 1:
            picture = (picture * rgb(picture, *LUMA)).sum(1, keepdim=True)
        out[i : i + step] = picture.mul_(2).sub_(1)
    return out


class Faces:
    """Portraits painted on demand: the data source that needs no download.

    image_size >= 1; channels 1 or 3; seed picks the population; *_size count each split.
    Raises ValueError for an image_size below 1, or channels other than 1 and 3.
    """

    crop = 1.0  # the whole picture is used

    def __init__(
        self,
        image_size: int = 64,
        channels: int = 3,
        seed: int = 0,
        train_size: int = 20000,
        val_size: int = 1000,
        test_size: int = 1000,
    ) -> None:
        check(image_size, channels)
        self.image_size, self.channels, self.seed = image_size, channels, seed
        self.sizes = {"train": train_size, "val": val_size, "test": test_size}

    def settings(self) -> dict[str, str | int]:
        """The JSON-able facts that decide the pixels; `version` grows when the painting changes."""
        facts = {"image_size": self.image_size, "channels": self.channels, "seed": self.seed}
        return {"source": "faces", "version": 1, **facts}

    def items(self, split: str) -> list[str]:
        """The names of a split's faces; the splits share none.  Raises ValueError if unknown."""
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: choose {', '.join(SPLITS)}")
        first = SPLITS[split]
        return [f"face_{i:08d}" for i in range(first, first + self.sizes[split])]

    def decode(self, items: list[str]) -> list[np.ndarray]:
        """The named faces, each uint8 (C, S, S)."""
        index = torch.tensor([int(name.removeprefix("face_")) for name in items], dtype=torch.int64)
        pictures = render(draw_factors(self.seed, index), self.image_size, self.channels)
        return list(pictures.add_(1).mul_(127.5).round_().to(torch.uint8).numpy())
