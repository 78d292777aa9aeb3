"""TODO app/serving/comparison/compare."""
