"""Complete images with a trained model or with a baseline.

Examples:
    # 24 shipped portraits, with the shipped checkpoint celeba128
    python inpaint.py
    # your photo, with the same checkpoint
    python inpaint.py images=photo.jpg
    # test images of the data that a model was trained on, with random pixels missing
    python inpaint.py ckpt=runs/train/<run>/weights.safetensors mask=random
    # a square of a photo, with a mask image
    python inpaint.py images=photo.jpg 'crop=[x,y,width,height]' mask=file mask.path=hole.png
    # a baseline without a search; the checkpoint only selects the image size
    python inpaint.py method=tv

conf/README.md describes all options.
"""

from dcgan_inpaint.cli.entry_point import inpaint

if __name__ == "__main__":
    inpaint()
