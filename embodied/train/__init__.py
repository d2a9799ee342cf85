"""Training: one imitation trainer, checkpoints, logging and optimisation."""
