"""Faults on purpose: kills, full disks, rotations, stopped processes, cut connections. Nothing answered is unlogged.

Every test prints its figures: python -m pytest tests/faults -s. FAULTS=full gives the counts of the figures to reach.
"""
