"""Training: the Lightning module, its loss, optimizer, checkpoints and what is watched."""
