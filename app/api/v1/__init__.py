"""The gateway's own dialect under ``/v1``, which extends KServe v1."""
