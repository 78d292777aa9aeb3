"""The ``/serve`` dialect."""
