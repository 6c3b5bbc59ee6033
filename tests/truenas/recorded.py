"""A session without a wire: it writes down what it is asked, and lets somebody else answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from truetally.errors import AccessDenied, SourceUnavailable
from truetally.sources.truenas.calls import CallFailed, Fault
from truetally.sources.truenas.generations import LEGACY, Generation, generation

_TRAINS = {"25.04": "v25.04.2", "25.10": "v25.10.5", "26.0": "v26.0.0"}


def generation_of(train: str) -> Generation:
    found = generation([_TRAINS[train]]) if train in _TRAINS else LEGACY
    assert found is not None
    return found


class RecordingSession:
    alive = True
    denied: frozenset[str] = frozenset()

    def __init__(self, train: str, answer: Callable[..., Any]) -> None:
        self.generation = generation_of(train)
        self.asked: list[tuple[str, list[Any]]] = []
        self._answer = answer

    async def call(self, method: str, *params: Any, type_: Any = Any, timeout: float | None = None) -> Any:
        self.asked.append((method, list(params)))
        answer = self._answer(method, *params)
        if isinstance(answer, Exception):
            raise answer
        return msgspec.json.decode(msgspec.json.encode(answer), type=type_)

    async def permitted(self, role: str, method: str, *params: Any, type_: Any = Any) -> Any:
        try:
            return await self.call(method, *params, type_=type_)
        except CallFailed as error:
            if error.fault is Fault.NOT_PERMITTED:
                raise AccessDenied("nas1", f"call {method}", f"grant {role}") from error
            raise SourceUnavailable("nas1", error.reason) from error


def answers(literal: dict[str, Any]) -> Callable[..., Any]:
    """Answers what stands there, and that everything else does not exist."""

    def answer(method: str, *params: Any) -> Any:
        found = literal.get(method, CallFailed(Fault.NO_METHOD, f"no {method}"))
        return found(*params) if callable(found) else found

    return answer
