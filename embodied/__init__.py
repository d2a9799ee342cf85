"""Robot policies that remember, the tasks that prove it, and the way to a controller."""

__version__ = "0.1.0"
