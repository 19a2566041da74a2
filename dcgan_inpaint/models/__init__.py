"""Networks, models that train them, and checkpoints."""
