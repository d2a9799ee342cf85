"""Recall tasks for reinforcement learning: many rows at once, numpy alone, no simulator.

``sims.make_vec("recall/ballet_lite", 4096, level="2_delay16")`` gives a vector environment,
``gymnasium.make("Recall/BalletLite-v0", level="2_delay16")`` a single one with the same rules.
"""
