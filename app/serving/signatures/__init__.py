"""TODO app/serving/signatures."""
