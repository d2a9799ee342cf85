"""One table over many runs: memories and training seeds on a suite of tasks."""
