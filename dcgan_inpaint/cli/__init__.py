"""The doors: what train.py, inpaint.py, sample.py and the commands dcgan-... run."""
