"""Outside systems behind the ports of the domain: MLflow and Feast."""
