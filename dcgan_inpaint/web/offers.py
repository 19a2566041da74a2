"""What a page offers to begin with: masks by name, and example images."""

from importlib.util import find_spec
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from dcgan_inpaint.configs import choices_of, conf_dir
from dcgan_inpaint.data.faces.source import Faces
from dcgan_inpaint.photos.reading import open_photo

FACES = 5
SIDE = 256  # of a painted face, px


def masks(size: int) -> dict[str, Image.Image]:
    """The masks of conf/mask that have a hole of pixels, drawn at size x size: white is known."""
    found = {}
    for name in choices_of("mask"):
        cfg = OmegaConf.load(conf_dir() / "mask" / f"{name}.yaml")
        # another file is needed, or other masks, or it is a measurement
        if "_target_" not in cfg or OmegaConf.missing_keys(cfg) or "defaults" in cfg:
            continue
        mask = instantiate(cfg)(torch.tensor([0]), size)[0]  # (1, S, S)
        if mask.min() < mask.max():
            found[name] = to_pil_image(mask)
    return found


def examples() -> dict[str, Image.Image]:
    """Painted faces that no shipped model was trained on, and NASA's portrait of Eileen Collins,
    which is in the public domain, if scikit-image is installed, which has it."""
    faces = Faces(image_size=SIDE, test_size=FACES)
    images = faces.decode(faces.items("test"))  # uint8 (3, S, S) each
    found = {
        f"face-{i}": to_pil_image(torch.from_numpy(image)) for i, image in enumerate(images, 1)
    }
    scikit_image = find_spec("skimage")
    if scikit_image and scikit_image.origin:
        astronaut = Path(scikit_image.origin).parent / "data" / "astronaut.png"
        if astronaut.is_file():
            found["astronaut"] = open_photo(astronaut)
    return found
