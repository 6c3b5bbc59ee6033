"""How a TrueNAS says no: the exceptions that the wire turns into error envelopes.

A missing instance is a validation error for JSON-RPC (code -32602, EINVAL) whose
`extra` alone tells ENOENT; a client that looks at the code takes "gone" for "asked
wrongly" (middleware 26 `api/base/server/ws_handler/rpc.py`).
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

ENOTAUTHENTICATED = 207


def errname(number: int) -> str:
    """The name that TrueNAS prints for an errno, its own ones included."""
    return {ENOTAUTHENTICATED: "ENOTAUTHENTICATED"}.get(number) or errno.errorcode.get(number, str(number))


class NasRefusal(Exception):
    """Base of all that a method call can be refused with."""

    code = -32001
    message = "Method call error"

    def data(self) -> dict[str, Any]:
        """The `data` member of the JSON-RPC error."""
        raise NotImplementedError


class CallError(NasRefusal):
    """The call was understood, and failed."""

    def __init__(self, reason: str, number: int = errno.EFAULT) -> None:
        super().__init__(reason, number)
        self.reason = reason
        self.number = number

    def data(self) -> dict[str, Any]:
        """The `data` member of the JSON-RPC error."""
        return _data(self, self.number, f"[{errname(self.number)}] {self.reason}", None)


class MatchNotFound(NasRefusal):
    """A query for exactly one row (`get`) found none."""

    def data(self) -> dict[str, Any]:
        """The `data` member of the JSON-RPC error."""
        return _data(self, errno.EINVAL, "MatchNotFound()", None)


class Invalid(NasRefusal):
    """Arguments were refused; each as (attribute, message, errno)."""

    code = -32602
    message = "Invalid params"

    def __init__(self, extra: Sequence[tuple[str, str, int]]) -> None:
        super().__init__(list(extra))
        self.extra = extra

    @classmethod
    def at(cls, attribute: str, message: str, number: int = errno.EINVAL) -> Invalid:
        """One mistake."""
        return cls([(attribute, message, number)])

    def data(self) -> dict[str, Any]:
        """The `data` member of the JSON-RPC error."""
        reason = "".join(f"[{errname(number)}] {name}: {text}\n" for name, text, number in self.extra)
        extra = [list(each) for each in self.extra]
        return _data(self, errno.EINVAL, reason, extra, class_name="ValidationErrors")


class InstanceNotFound(NasRefusal):
    """The one object that was named does not exist."""

    code = -32602
    message = "Invalid params"

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def data(self) -> dict[str, Any]:
        """The `data` member of the JSON-RPC error."""
        extra = [[None, self.text, errno.ENOENT]]
        return _data(self, errno.EINVAL, f"[ENOENT] None: {self.text}", extra)


class MethodMissing(NasRefusal):
    """No such method, in this version or at this endpoint."""

    code = -32601
    message = "Method does not exist"

    def data(self) -> dict[str, Any]:
        """The `data` member; this error has none."""
        return {}


def _data(
    error: NasRefusal, number: int, reason: str, extra: list[list[Any]] | None, class_name: str = ""
) -> dict[str, Any]:
    trace = {"class": class_name or type(error).__name__, "formatted": "...", "repr": repr(error)}
    return {"error": number, "errname": errname(number), "reason": reason, "trace": trace, "extra": extra}
