"""MemoryVLA; see README.md beside this file."""
