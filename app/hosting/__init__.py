"""TODO app/hosting."""
