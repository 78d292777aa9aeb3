"""Prometheus metrics of a gateway replica."""
