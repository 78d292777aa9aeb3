"""TODO app/api/v1/predict."""
