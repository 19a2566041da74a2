"""Helper functions of the tests that train or predict."""

import torch
from pytorch_lightning import Trainer

from dcgan_inpaint.models.dcgan import DCGAN


def quiet_trainer(**settings) -> Trainer:
    """Return a Trainer for one epoch on the CPU that writes and prints nothing."""
    defaults = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return Trainer(**defaults | settings)


def moved_since(before: dict, model: torch.nn.Module) -> set[str]:
    """Return the attribute names of the networks whose parameters differ from `before`.

    `before` is a copy of an earlier state_dict of the model.
    """
    return {
        name.split(".")[0]
        for name, value in model.named_parameters()
        if not torch.equal(value, before[name])
    }


def small_dcgan(z_dim: int) -> DCGAN:
    """Return a DCGAN of 16 px whose weights are large enough that images depend on z."""
    torch.manual_seed(0)
    model = DCGAN(image_size=16, z_dim=z_dim, gf_dim=4, df_dim=4)
    for network in (model.ema_generator, model.discriminator):
        for parameter in network.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    return model


def without_update(optimizer, loss_of, parts, **options):
    """Return the values to log as `Model.update_network`, but take no step."""
    (part,) = parts
    return loss_of(*part)[1]
