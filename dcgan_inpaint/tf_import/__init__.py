"""Checkpoints of the TensorFlow original, read without TensorFlow."""
