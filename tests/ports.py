"""Ports for servers that tests start."""

from __future__ import annotations

import random
import socket

_CANDIDATES = range(20_000, 32_000)
"""Between Ray's own ports and those that the kernel gives to outgoing connections, which could take a free one."""


def free_ports(count: int) -> list[int]:
    """Return different ports that nobody listens on."""
    found: list[int] = []
    while len(found) < count:
        port = random.choice(_CANDIDATES)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def free_port() -> int:
    """Return one port that nobody listens on."""
    return free_ports(1)[0]
