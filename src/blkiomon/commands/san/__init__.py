"""Findings on a SAN.

``facts`` has the figures of LUNs and paths, ``checks`` makes findings of them, ``changes`` those of
a topology that changes, ``wording`` names moments and paths. ``tracker`` does all of this for each
interval of a run.
"""
