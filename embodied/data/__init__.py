"""Demonstration datasets: episode files, segments for learning, statistics, checks.

A dataset is a directory of HDF5 shards and one ``dataset.json``. Nothing here knows a
simulator or a policy; environments come in through factories.
"""
