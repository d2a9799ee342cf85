"""A real-time loop between an exported policy and a robot in another process; needs no torch."""
