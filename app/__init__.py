"""A real-time model-serving gateway on Ray Serve, MLflow and Feast."""

__version__ = "0.1.0"
