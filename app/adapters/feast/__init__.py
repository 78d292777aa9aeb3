"""Adapter for Feast's online store."""
