"""MemoryBench: robosuite tasks that can't be solved without memory."""
