"""Evaluation: the runner, executors, interventions, statistics, videos and reports."""
