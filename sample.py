"""Explore the latent space of a trained GAN: samples, interpolation, vector arithmetic.

Examples:
    # 64 samples of the shipped checkpoint
    python sample.py
    # 256 samples of a model that you trained
    python sample.py ckpt=runs/train/<run>/weights.safetensors count=256
    # vector arithmetic with rows of samples.png
    python sample.py plus=[3,17,40] minus=[5,9,22] base=[8,30,31]
    # the same with the z of completed images
    python sample.py z=runs/inpaint/<run>/z.npy plus=[0,2] minus=[1] base=[3]
    # compare the samples with test images
    python sample.py metrics=true

Files in the run directory:
    samples.png                 G(z) of `count` rows of z, numbered from 0, left to right
    interpolation.png and .gif  walks from row 0 to 1, 2 to 3, ...
    arithmetic.png              "smiling woman - neutral woman + neutral man": z is averaged over
                                the rows of each operand (Radford 2016, fig. 7)
    quality.csv                 metrics of the samples, with metrics=true

conf/README.md describes all options.
"""

from dcgan_inpaint.cli.entry_point import sample

if __name__ == "__main__":
    sample()
