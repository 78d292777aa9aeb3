"""The endpoints ``/serve`` and ``/``."""
