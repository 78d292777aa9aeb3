"""TODO app/api/system."""
