"""TODO app/adapters/artifacts."""
