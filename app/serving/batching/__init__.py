"""Dynamic batching: many requests, one prediction."""
