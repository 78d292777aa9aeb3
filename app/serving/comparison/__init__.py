"""Comparison of model versions by what they answered."""
