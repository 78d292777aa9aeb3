"""Placement: which pool members hold which model versions."""
