"""What the tests that train or predict share."""

from pytorch_lightning import Trainer


def quiet_trainer(**settings) -> Trainer:
    """One epoch on the CPU that writes and prints nothing."""
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
