"""The control plane of `Releases`: read the registry, load, promote, roll back. No Ray here."""
