"""Networks, what trains them, and their checkpoints."""
