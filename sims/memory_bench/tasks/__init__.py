"""One task a file; the table of names is in :mod:`sims`."""
