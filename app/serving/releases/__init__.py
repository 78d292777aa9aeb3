"""TODO app/serving/releases."""
