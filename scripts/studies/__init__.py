"""Studies: many small runs of one question, in one table; run by scripts/study.py."""
