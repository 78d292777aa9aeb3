"""Ray Serve deployments and the Ray runtime: the only place that imports ray."""

APPLICATION = "ml-serve"
"""Name of the Serve application."""
