"""The artifact cache on disk."""
