"""TODO app/api/oip/endpoints."""
