"""Releases: which model version serves which requests."""
