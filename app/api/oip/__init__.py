"""TODO app/api/oip."""
