"""The gateway's end of a lane."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable
from typing import Any

from app.errors import ReplicaDied
from app.lanes.frames import FrameProtocol, Kind
from app.lanes.server import LaneAddress
from app.serving.references import ModelVersion

_CONNECT_S = 5.0
_KEEPALIVE = (
    ((socket.SOL_SOCKET, socket.SO_KEEPALIVE), 1),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 5),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPINTVL), 2),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPCNT), 3),
    ((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT), 11_000),
)
"""A lane to a node that is gone ends after about eleven seconds."""


class Lane(FrameProtocol):
    """A connection to one replica, which carries many calls at once. Make it with `connect`.

    Attributes:
        held: the versions that a pool's replica has loaded.
        takes_calls: False once the replica drains or the connection is lost.
    """

    def __init__(self, name: str, lost: Callable[[Lane], None]) -> None:
        super().__init__()
        self.held: frozenset[ModelVersion] = frozenset()
        self.takes_calls = False
        self._name = name
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._begun: set[int] = set()
        self._numbers = itertools.count(1)

    @classmethod
    async def connect(cls, address: LaneAddress, name: str, lost: Callable[[Lane], None] = lambda _: None) -> Lane:
        """Open a lane. Returns when the replica has accepted it.

        Args:
            name: the deployment in messages, ``pool 'default'``.
            lost: called once when the lane has ended.

        Raises:
            OSError: the replica cannot be reached in five seconds, or refuses.
        """
        loop = asyncio.get_running_loop()
        lane = cls(name, lost)
        async with asyncio.timeout(_CONNECT_S):
            transport, _ = await loop.create_connection(lambda: lane, address.host, address.port)
            for option, value in _KEEPALIVE:
                transport.get_extra_info("socket").setsockopt(*option, value)
            lane.say_hello(address.secret)
            try:
                await lane._opened
            except BaseException:
                lane.close()
                raise
        if lane.is_closed:  # at once, and nobody is told a second time
            raise ConnectionResetError("the replica closed the lane")
        return lane

    @property
    def calls(self) -> int:
        """Calls in flight."""
        return len(self._waiting)

    async def call(self, *arguments: Any) -> Any:
        """Call the function that the replica answers lanes with. Cancel it, and the replica stops waiting for its turn.

        Raises:
            ReplicaDied: the connection was lost.
            ServingError: the function raised it.
        """
        if self.is_closed:
            raise self._death()
        number = next(self._numbers)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting[number] = future
        try:
            self.send(Kind.CALL, number, arguments)
            return await future
        except asyncio.CancelledError:
            self.send(Kind.CANCEL, number, None)
            raise
        finally:
            del self._waiting[number]
            self._begun.discard(number)

    def received(self, kind: int, number: int, value: Any) -> None:
        if kind == Kind.HELD:
            self.held = value
            if not self._opened.done():
                self.takes_calls = True
                self._opened.set_result(None)
        elif kind == Kind.BEGINS:
            if number in self._waiting:
                self._begun.add(number)
        elif kind == Kind.BYE:
            self.takes_calls = False
        elif (future := self._waiting.get(number)) is not None and not future.done():  # else it was cancelled
            if kind == Kind.ANSWER:
                future.set_result(value)
            else:
                future.set_exception(value)

    def connection_lost(self, error: Exception | None) -> None:
        # A process that dies ends its connections; one that is on a lost node does not.
        died = self.takes_calls and (error is None or isinstance(error, ConnectionResetError))
        self.takes_calls = False
        if not self._opened.done():
            self._opened.set_exception(error or ConnectionRefusedError("the replica closed the lane"))
        for number, future in self._waiting.items():
            if not future.done():
                future.set_exception(self._death(began=died and number in self._begun))
        self._lost(self)

    def _death(self, *, began: bool = False) -> ReplicaDied:
        death = ReplicaDied(f"a replica of {self._name} died during the call; try again")
        death.began = began
        return death
