"""TODO app/serving/placement."""
