"""Play with the latent space of a trained DCGAN: samples, interpolation, vector arithmetic.

python sample.py                                        the shipped checkpoint
python sample.py ckpt=runs/train/<run>/weights.safetensors count=256

samples.png shows G(z) of the first `count` rows of the seed, numbered from 0, left to right.
interpolation.png and .gif walk from row 0 to 1, 2 to 3, ...  The arithmetic of the DCGAN paper,
"smiling woman - neutral woman + neutral man" (Radford 2016, fig. 7), averages z over the rows you
pick from samples.png, or over the z.npy of completed images:

python sample.py plus=[3,17,40] minus=[5,9,22] base=[8,30,31]
python sample.py z=runs/inpaint/<run>/z.npy plus=[0,2] minus=[1] base=[3]

How good are the samples?  quality.csv compares them with held-out images:

python sample.py metrics=true
"""

from dcgan_inpaint.cli.entry_point import sample

if __name__ == "__main__":
    sample()
