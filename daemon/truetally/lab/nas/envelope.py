"""JSON-RPC 2.0 as TrueNAS speaks it (25.04+, `api/base/server/ws_handler/rpc.py`).

Params are positional only, batches are refused, and ids may be null, a string or an integer.
"""

from __future__ import annotations

import json
from typing import Any

from truetally.lab.nas.failures import NasRefusal
from truetally.lab.nas.machine import Row
from truetally.lab.nas.wire import Request


class JsonRpc:
    """The protocol of `/api/current` and of the endpoints with a version."""

    awaits_jobs = True

    def read(self, text: str) -> Request | Row:
        """A request, or the reply to a bad envelope."""
        try:
            message = json.loads(text)
        except ValueError as mistake:
            return _error(None, -32700, str(mistake))
        if isinstance(message, list):
            return _error(None, -32700, "Batch messages are not supported at this time")
        if not isinstance(message, dict):
            return _error(None, -32600, "Invalid Message Format")
        return _request(message)

    def result(self, request: Request, value: Any) -> Row:
        """The reply of a call that succeeded."""
        return {"jsonrpc": "2.0", "result": value, "id": request.id}

    def refusal(self, request: Request, refused: NasRefusal) -> Row:
        """The reply of a call that was refused."""
        return _error(request.id, refused.code, refused.message, _data(refused))

    def event(self, told: Row) -> Row:
        """What a subscriber is sent."""
        return {"jsonrpc": "2.0", "method": "collection_update", "params": told}

    def unsubscribed(self, collection: str, refused: NasRefusal | None) -> Row:
        """What a subscriber is sent whose subscription the NAS has ended."""
        params = {"collection": collection, "error": None if refused is None else _data(refused)}
        return {"jsonrpc": "2.0", "method": "notify_unsubscribed", "params": params}


def _request(message: Row) -> Request | Row:
    ident = message.get("id")
    if not isinstance(ident, int | str | None):
        return _error(None, -32600, "'id' member must be of type string or number")
    wrong = _mistake(message)
    if wrong is not None:
        return _error(ident, -32600, wrong)
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


def _error(ident: Any, code: int, message: str, data: Row | None = None) -> Row:
    told: Row = {"code": code, "message": message}
    if data:
        told["data"] = data
    return {"jsonrpc": "2.0", "error": told, "id": ident}


# The errors of the envelope itself carry nothing but their code.
_BARE = (-32601, -32000)


def _data(refused: NasRefusal) -> Row | None:
    return None if refused.code in _BARE else refused.data()
