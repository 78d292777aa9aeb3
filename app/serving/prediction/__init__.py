"""The use case: from one request to one prediction."""
