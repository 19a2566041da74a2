"""Train a DCGAN, a latent encoder to start its search, or a context encoder to compare with.

python train.py model=dcgan data=faces
python train.py model=dcgan data=celeba data.root=path/to/celeba model.gf_dim=32 model.df_dim=32
python train.py model=latent_encoder gan=runs/train/<run>/weights.safetensors
python train.py model=context_encoder data=faces
"""

from dcgan_inpaint.cli.entry_point import train

if __name__ == "__main__":
    train()
