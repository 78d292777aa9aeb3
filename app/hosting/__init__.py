"""Model hosts: load, keep and run model versions in one process."""
