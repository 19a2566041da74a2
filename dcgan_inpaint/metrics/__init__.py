"""Metrics of completions and of samples."""
