"""Skin tone of aligned faces as the individual typology angle (ITA) of their median color.

The ITA follows from lightness L* and yellowness b* in CIELAB; dark skin has a small angle
(Chardon, Cretois, Hourseau 1991: Skin colour typology and suntanning pathways).
"""

import numpy as np

# Chardon 1991 and Del Bino 2006 call skin very light above 55 degrees, then light (down to 41),
# intermediate (28), tan (10), brown (-30) and dark.  "Dark" means brown or dark here.
DARK_ITA = 10.0
# The middle of the face: columns 44 to 84 and rows 56 to 84 of CelebA's central 142 px, resized
# to 128 px.
FACE_COLUMNS, FACE_ROWS = (44, 84), (56, 84)  # px
FACE_SIZE, FACE_CROP = 128, 142 / 178
CHUNK = 4096  # images at a time, 14 MB of face at 128 px
# linear sRGB (D65) -> XYZ, IEC 61966-2-1; the rows of Y and Z, because ITA needs L* and b* only
YZ_OF_RGB = np.array([[0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def face_box(image_size: int, crop: float) -> tuple[int, int, int, int]:
    """Return the region of the face that shows its skin, as (left, top, right, bottom) in px.

    Args:
        image_size: Side of the image in px.
        crop: Side of the central square of a CelebA image divided by 178 px.
    """
    scale = image_size * FACE_CROP / crop

    def pixel(position: int) -> int:
        offset = scale * (position / FACE_SIZE - 0.5)  # from the center of the image, in px
        return min(max(round(image_size / 2 + offset), 0), image_size)

    (left, right), (top, bottom) = FACE_COLUMNS, FACE_ROWS
    return pixel(left), pixel(top), pixel(right), pixel(bottom)


def skin_tone(images: np.ndarray, crop: float = FACE_CROP) -> np.ndarray:
    """Return the ITA of the median color of each face, in degrees.

    The angle is atan((L* - 50) / b*).  A bluish face (b* < 0) gets the angle of the same quadrant:
    above 90 degrees if it is light and below -90 if it is dark.

    Args:
        images: uint8 (N, 3, S, S), sRGB, aligned like CelebA.
        crop: Side of the central square of a CelebA image divided by 178 px.

    Returns:
        (N,) float64 in (-180, 180].
    """
    left, top, right, bottom = face_box(images.shape[-1], crop)
    starts = range(0, len(images), CHUNK)
    faces = (images[start : start + CHUNK, :, top:bottom, left:right] for start in starts)
    medians = [np.median(face.reshape(len(face), 3, -1), axis=2) for face in faces]  # (n, 3) each
    return individual_typology_angle(np.concatenate([np.empty((0, 3)), *medians]))


def individual_typology_angle(colors: np.ndarray) -> np.ndarray:
    """Return the ITA of sRGB colors (N, 3) in [0, 255], (N,) in degrees."""
    encoded = colors / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    ratios = linear @ (YZ_OF_RGB / YZ_OF_RGB.sum(1, keepdims=True)).T  # Y / Yn and Z / Zn of D65
    threshold = (6 / 29) ** 3  # CIE 15: the root is replaced by its tangent near black
    roots = np.where(ratios > threshold, np.cbrt(ratios), ratios * (29 / 6) ** 2 / 3 + 4 / 29)
    f_y, f_z = roots.T
    lightness, b = 116 * f_y - 16, 200 * (f_y - f_z)
    return np.degrees(np.arctan2(lightness - 50, b))
