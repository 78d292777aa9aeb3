"""TODO app/control."""
