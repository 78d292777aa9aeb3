"""TODO app/metrics."""
