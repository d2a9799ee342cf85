"""From a checkpoint to a bundle that a controller runs without torch."""
