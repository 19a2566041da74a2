"""Command-line entry points: train, inpaint, sample and export."""
