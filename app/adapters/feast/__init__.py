"""TODO app/adapters/feast."""
