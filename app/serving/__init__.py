"""The serving domain: pure Python and numpy, no FastAPI, Ray, MLflow or Feast."""
