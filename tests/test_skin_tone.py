"""Skin tone: colors with published CIELAB values, and the region of the face."""

import numpy as np
import pytest

from dcgan_inpaint.data.skin_tone import FACE_CROP, face_box, individual_typology_angle, skin_tone


def test_angle_of_colors_with_known_lab_values():
    """L* and b* of sRGB's primaries under D65 are in every table; ITA = atan((L* - 50) / b*)."""
    colors = np.array([[255, 0, 0], [0, 255, 0], [255, 255, 0]])
    lab = np.array([[53.24, 67.20], [87.73, 83.18], [97.14, 94.48]])  # L*, b*
    expected = np.degrees(np.arctan((lab[:, 0] - 50) / lab[:, 1]))
    np.testing.assert_allclose(individual_typology_angle(colors), expected, atol=0.02)


def test_angle_has_the_sign_of_the_lightness():
    gray = individual_typology_angle(np.array([[255] * 3, [200] * 3, [60] * 3, [0] * 3]))
    np.testing.assert_allclose(gray, [90, 90, -90, -90], atol=1e-6)
    light_blue, dark_blue = individual_typology_angle(np.array([[200, 220, 255], [0, 0, 60]]))
    assert 90 < light_blue < 180
    assert -180 < dark_blue < -90


def test_lighter_skin_has_a_larger_angle():
    skin = [[60, 40, 30], [141, 85, 36], [198, 134, 66], [224, 172, 105], [255, 219, 172]]
    angles = individual_typology_angle(np.array(skin))
    assert (np.diff(angles) > 0).all()
    assert angles[0] < -30 and angles[-1] > 41


@pytest.mark.parametrize(
    ("size", "crop", "box"),
    [
        (128, 142 / 178, (44, 56, 84, 84)),
        (128, 0.79775281, (44, 56, 84, 84)),  # conf/data/balanced.yaml
        (256, 142 / 178, (88, 112, 168, 168)),
        # 44 is 22.2 px left of the center of a CelebA image: 32 - 22.2 * 64 / 108 = 18.9
        (64, 108 / 178, (19, 27, 45, 45)),
        (64, 0.1, (0, 0, 64, 64)),
    ],
)
def test_face_is_the_same_region_at_all_sizes_and_crops(size, crop, box):
    if crop == 0.1:
        left, top, right, bottom = face_box(size, crop)
        assert 0 <= left < right <= size and 0 <= top < bottom <= size
    else:
        assert face_box(size, crop) == box


def test_tone_is_that_of_the_median_color_of_the_face():
    """Neither the surroundings nor a small spot in the face have an effect."""
    images = np.zeros((3, 3, 128, 128), np.uint8)
    skin = np.array([[198, 134, 66], [141, 85, 36], [224, 172, 105]], np.uint8)
    left, top, right, bottom = face_box(128, FACE_CROP)
    images[:, :, top:bottom, left:right] = skin[:, :, None, None]
    images[:, :, top : top + 10, left : left + 10] = 255
    np.testing.assert_allclose(skin_tone(images), individual_typology_angle(skin))
    assert skin_tone(images[:0]).shape == (0,)
