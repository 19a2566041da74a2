"""Procedural faces: the source and the painter."""
