"""TODO app/api/serve."""
