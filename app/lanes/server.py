"""The called end of lanes: calls from gateway replicas become calls of one function on the event loop."""

from __future__ import annotations

import asyncio
import copy
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

from app.errors import Overloaded, ServingError, Unavailable
from app.lanes.frames import FrameProtocol, Kind
from app.serving.references import ModelVersion

log = logging.getLogger(__name__)

Answer = Callable[..., Awaitable[Any]]

_MOST_CALLS = 4096
"""Calls of one lane in progress. Gateways bound their batches far below."""

_HELLO_S = 5.0
"""Seconds that a connection has to say the secret."""


class LaneAddress(NamedTuple):
    """Where the replica with an id takes lanes, and the secret that a lane has to say first."""

    member: str
    host: str
    port: int
    secret: bytes


class LaneServer:
    """Answers the lanes of one replica. Create and use it on one event loop.

    Args:
        answer: answers one call. Its arguments are those of `Lane.call`.
        name: the deployment in messages, ``the pool``.
        held: returns the versions that are loaded, where the replica is one of a pool.
        tells_begin: whether `answer` has a keyword argument `begins`, and calls it when it begins what may end the
            process.
    """

    def __init__(
        self,
        answer: Answer,
        name: str,
        held: Callable[[], Iterable[ModelVersion]] = tuple,
        *,
        tells_begin: bool = False,
    ) -> None:
        self._tells_begin = tells_begin
        self._answer = answer
        self._name = name
        self._held = held
        self._told: frozenset[ModelVersion] | None = None
        self._telling: asyncio.Handle | None = None
        self._secret = secrets.token_bytes(32)
        self.lanes: set[_ServedLane] = set()
        self._server: asyncio.Server | None = None

    async def start(self, member: str, host: str) -> LaneAddress:
        """Take lanes from now on, at a free port of a local address."""
        self._server = await asyncio.get_running_loop().create_server(self._lane, host)
        port: int = self._server.sockets[0].getsockname()[1]
        return LaneAddress(member, host, port, self._secret)

    @property
    def ongoing(self) -> int:
        """Calls in progress."""
        return sum(len(lane.calls) for lane in self.lanes)

    def changed(self) -> None:
        """Tell all gateways the loaded versions, in the next turn of the loop."""
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_soon(self._tell)

    async def stop(self, timeout_s: float) -> None:
        """Ask for no further calls, finish those in progress, and close the lanes."""
        if self._server is not None:
            self._server.close()
        for lane in self.lanes:
            lane.send(Kind.BYE, 0, None)
        calls = [call for lane in self.lanes for call in lane.calls.values()]
        if calls:
            await asyncio.wait(calls, timeout=timeout_s)
        for lane in [*self.lanes]:
            lane.close()

    def _lane(self) -> _ServedLane:
        return _ServedLane(
            self._secret,
            self._answer,
            self._name,
            self._opened,
            self.lanes.discard,
            tells_begin=self._tells_begin,
        )

    def _opened(self, lane: _ServedLane) -> None:
        self.lanes.add(lane)
        lane.send(Kind.HELD, 0, frozenset(self._held()))

    def _tell(self) -> None:
        self._telling = None
        held = frozenset(self._held())
        if held == self._told:
            return
        self._told = held
        for lane in self.lanes:
            lane.send(Kind.HELD, 0, held)


class _ServedLane(FrameProtocol):
    """One lane, from one gateway replica. A connection that does not say the secret in time is closed."""

    def __init__(
        self,
        secret: bytes,
        answer: Answer,
        name: str,
        opened: Callable[[_ServedLane], None],
        closed: Callable[[_ServedLane], None],
        *,
        tells_begin: bool,
    ) -> None:
        super().__init__(secret)
        self._tells_begin = tells_begin
        self._answer, self._name = answer, name
        self._opened, self._closed = opened, closed
        self.calls: dict[int, asyncio.Task[None]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._late = asyncio.get_running_loop().call_later(_HELLO_S, transport.abort)  # type: ignore[attr-defined]

    def accepted(self) -> None:
        self._late.cancel()
        self._opened(self)

    def received(self, kind: int, number: int, value: Any) -> None:
        if kind == Kind.CALL and len(self.calls) >= _MOST_CALLS:
            self.send(Kind.ERROR, number, self._overloaded())
        elif kind == Kind.CALL:
            self.calls[number] = asyncio.get_running_loop().create_task(self._call(number, value))
        elif kind == Kind.CANCEL and number in self.calls:
            self.calls[number].cancel()

    def connection_lost(self, error: Exception | None) -> None:
        self._late.cancel()
        self._closed(self)
        for call in self.calls.values():  # nobody reads the answers
            call.cancel()

    def _overloaded(self) -> Overloaded:
        return Overloaded(f"{self._name} refuses more calls; try again", {"retry_after_s": 1})

    async def _call(self, number: int, arguments: tuple[Any, ...]) -> None:
        try:
            told = {"begins": partial(self.send, Kind.BEGINS, number, None)} if self._tells_begin else {}
            self.send(Kind.ANSWER, number, await self._answer(*arguments, **told))
        except ServingError as error:
            self.send(Kind.ERROR, number, copy.copy(error))  # without its traceback's frames
        except Exception:
            log.exception("call failed: first_argument=%s", arguments[0])
            self.send(Kind.ERROR, number, Unavailable(f"{self._name} failed; the log has the cause"))
        finally:
            del self.calls[number]
