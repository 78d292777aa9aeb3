"""HTTP: read a request, route it, send the reply. Shared by all dialects."""
