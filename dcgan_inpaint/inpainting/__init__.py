"""Completion of images: search, solvers and baselines."""
