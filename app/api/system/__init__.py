"""Health probes, documentation pages and the OpenAPI schema."""
