"""Policies: one folder each, same file names; they know no simulator."""
