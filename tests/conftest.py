"""Small networks run fastest, and to the bit the same everywhere, on one thread."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; scripts under test inherit it
