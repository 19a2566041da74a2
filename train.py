"""Train a DCGAN, or a network that completes images with it or without it.

Examples:
    # a DCGAN on procedural faces
    python train.py model=dcgan data=faces
    # a network that starts from a DCGAN and completes images in one pass
    python train.py model=one_pass gan=runs/train/<run>/weights.safetensors
    # a latent encoder, which starts the search in that DCGAN
    python train.py model=latent_encoder gan=runs/train/<run>/weights.safetensors
    # a context encoder, which completes without a search
    python train.py model=context_encoder data=faces
    # a smaller DCGAN on CelebA
    python train.py model=dcgan data=celeba data.root=path/to/celeba model.gf_dim=32 model.df_dim=32
    # resume a training for more epochs
    python train.py resume=runs/train/<run>/last.ckpt trainer.max_epochs=50

conf/README.md describes all options.
"""

from dcgan_inpaint.cli.entry_point import train

if __name__ == "__main__":
    train()
