"""Ray Serve deployments and the Ray runtime: the only place that imports ray."""
