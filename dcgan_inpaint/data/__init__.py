"""Images: three sources (CelebA, a folder, procedural faces), one cache, one DataModule."""
