"""Adapter for the MLflow registry and its models."""
