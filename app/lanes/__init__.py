"""Lanes: the connections over which gateway replicas send batches to pool replicas.

A gateway replica opens one lane to each pool replica, and all its batches for that replica share it. Serve's handle
carries everything else, and batches where there is no lane. Figures and alternatives: ``docs/adr/0026-lanes.md``.
"""
