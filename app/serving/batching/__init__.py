"""TODO app/serving/batching/batcher."""
