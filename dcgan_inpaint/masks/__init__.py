"""Masks, mask images and other measurements of an image."""
