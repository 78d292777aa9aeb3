"""TODO app/api/system/health."""
