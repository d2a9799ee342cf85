"""Vocabulary shared by every part: specs, errors, random numbers, ticks, tasks, policies.

Everything here except :mod:`embodied.core.policy` needs numpy only, so that a robot
controller can import it without torch.
"""
