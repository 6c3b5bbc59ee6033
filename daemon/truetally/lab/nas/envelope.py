"""JSON-RPC 2.0 as TrueNAS speaks it (25.04+, `api/base/server/ws_handler/rpc.py`).

Params are positional only, batches are refused, and ids may be null, a string or an integer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from truetally.lab.nas.failures import NasRefusal
from truetally.lab.nas.machine import Row

TOO_MANY = "Maximum number of concurrent calls (20) has exceeded"


@dataclass(frozen=True, slots=True)
class Request:
    """A well-formed request; a notification gets no reply."""

    method: str
    params: list[Any]
    id: str | int | None
    notification: bool


class BadEnvelope(Exception):
    """Not a request; what to answer stands in `reply`."""

    def __init__(self, code: int, message: str, ident: Any = None) -> None:
        super().__init__(message)
        self.reply = error(ident, code, message)


def parse(text: str) -> Request:
    """The request, or BadEnvelope."""
    try:
        message = json.loads(text)
    except ValueError as mistake:
        raise BadEnvelope(-32700, str(mistake)) from mistake
    if isinstance(message, list):
        raise BadEnvelope(-32700, "Batch messages are not supported at this time")
    if not isinstance(message, dict):
        raise BadEnvelope(-32600, "Invalid Message Format")
    return _request(message)


def _request(message: Row) -> Request:
    ident = message.get("id")
    if not isinstance(ident, int | str | None):
        raise BadEnvelope(-32600, "'id' member must be of type string or number")
    wrong = _mistake(message)
    if wrong is not None:
        raise BadEnvelope(-32600, wrong, ident)
    return Request(message["method"], message.get("params", []), ident, "id" not in message)


def _mistake(message: Row) -> str | None:
    if "jsonrpc" not in message:
        return "Missing 'jsonrpc' member"
    if message["jsonrpc"] != "2.0":
        return "'jsonrpc' member must be \"2.0\""
    if "method" not in message:
        return "Missing 'method' member"
    if not isinstance(message["method"], str):
        return "'method' member must be of type string"
    if not isinstance(message.get("params", []), list):
        return "'params' member must be of type array"
    return None


def result(ident: Any, value: Any) -> Row:
    """The reply of a call that succeeded."""
    return {"jsonrpc": "2.0", "result": value, "id": ident}


def error(ident: Any, code: int, message: str, data: Row | None = None) -> Row:
    """The reply of a call that failed."""
    told: Row = {"code": code, "message": message}
    if data:
        told["data"] = data
    return {"jsonrpc": "2.0", "error": told, "id": ident}


def refusal(ident: Any, refused: NasRefusal) -> Row:
    """The reply of a call that was refused."""
    return error(ident, refused.code, refused.message, refused.data())


def notification(params: Row) -> Row:
    """What a subscriber is sent."""
    return {"jsonrpc": "2.0", "method": "collection_update", "params": params}
