"""DCGAN training and image completion with a generative prior."""
