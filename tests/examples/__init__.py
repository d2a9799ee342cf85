"""Worked examples of the README; each is one file a newcomer can start from."""
