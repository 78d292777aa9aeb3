"""Lanes: the connections over which gateway replicas send batches to pools, and reads to the feature store.

A gateway replica opens one lane to each replica of a pool and of `Features`, and all its batches or reads for that
replica share it. Serve's handle carries everything else, and what finds no lane. Figures and alternatives:
``docs/adr/0026-lanes.md``.
"""
