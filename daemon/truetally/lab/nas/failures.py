"""How a TrueNAS says no: what went wrong, whatever wire will tell it.

The wires tell the same refusal differently. Refused parameters are EINVAL for JSON-RPC and EAGAIN for
the older protocol. A missing instance is a validation error for JSON-RPC (code -32602, EINVAL) whose
`extra` alone tells ENOENT; a client that looks at the code takes "gone" for "asked wrongly"
(middleware 26 `api/base/server/ws_handler/rpc.py`, `apps/websocket_app.py`).
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

ENOMETHOD = 201
ENOTAUTHENTICATED = 207
_OWN = {ENOMETHOD: "ENOMETHOD", ENOTAUTHENTICATED: "ENOTAUTHENTICATED"}


def errname(number: int) -> str:
    """The name that TrueNAS prints for an errno, its own ones included."""
    return _OWN.get(number) or errno.errorcode.get(number, str(number))


class NasRefusal(Exception):
    """Base of all that a method call can be refused with.

    Attributes:
        code: of the JSON-RPC error, with its `message`.
        number: the errno of the older protocol; JSON-RPC tells EINVAL of whatever is `validation`.
        said: the reason as both tell it.
        extra: the mistakes as (attribute, message, errno).
        shown: class and `repr` of the Python exception that the real middleware would have raised.
    """

    code = -32001
    message = "Method call error"
    number = errno.EINVAL
    validation = False

    @property
    def said(self) -> str:
        """The reason."""
        return str(self)

    @property
    def extra(self) -> Sequence[Sequence[Any]] | None:
        """The mistakes, where there can be several."""
        return None

    @property
    def shown(self) -> tuple[str, str]:
        """Class and `repr` of the exception."""
        return type(self).__name__, repr(self)

    def details(self) -> dict[str, Any]:
        """What both wires tell of it."""
        klass, representation = self.shown
        trace = {"class": klass, "formatted": "...", "repr": representation}
        extra = None if self.extra is None else [list(each) for each in self.extra]
        return {"reason": self.said, "trace": trace, "extra": extra}

    def data(self) -> dict[str, Any]:
        """The `data` member of the JSON-RPC error."""
        number = errno.EINVAL if self.validation else self.number
        return {"error": number, "errname": errname(number), **self.details()}


class CallError(NasRefusal):
    """The call was understood, and failed."""

    def __init__(self, reason: str, number: int = errno.EFAULT) -> None:
        super().__init__(reason, number)
        self.reason = reason
        self.number = number

    @property
    def said(self) -> str:
        """The reason."""
        return f"[{errname(self.number)}] {self.reason}"


class MatchNotFound(NasRefusal):
    """A query for exactly one row (`get`) found none."""

    @property
    def said(self) -> str:
        """The reason."""
        return "MatchNotFound()"


class Invalid(NasRefusal):
    """Arguments were refused; each as (attribute, message, errno)."""

    code = -32602
    message = "Invalid params"
    number = errno.EAGAIN
    validation = True

    def __init__(self, mistakes: Sequence[tuple[str, str, int]]) -> None:
        super().__init__(list(mistakes))
        self._mistakes = mistakes

    @classmethod
    def at(cls, attribute: str, message: str, number: int = errno.EINVAL) -> Invalid:
        """One mistake."""
        return cls([(attribute, message, number)])

    @property
    def said(self) -> str:
        """The reason."""
        return "".join(f"[{errname(number)}] {name}: {text}\n" for name, text, number in self._mistakes)

    @property
    def extra(self) -> Sequence[tuple[str, str, int]]:
        """The mistakes."""
        return self._mistakes

    @property
    def shown(self) -> tuple[str, str]:
        """Class and `repr` of the exception."""
        inner = ", ".join(f"ValidationError{each!r}" for each in self._mistakes)
        return "ValidationErrors", f"ValidationErrors([{inner}])"


class InstanceNotFound(NasRefusal):
    """The one object that was named does not exist."""

    code = -32602
    message = "Invalid params"
    number = errno.ENOENT
    validation = True

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    @property
    def said(self) -> str:
        """The reason."""
        return f"[ENOENT] None: {self.text}"

    @property
    def extra(self) -> Sequence[tuple[str | None, str, int]]:
        """The one thing that is missing."""
        return [(None, self.text, errno.ENOENT)]


class MethodMissing(NasRefusal):
    """No such method, in this version or at this endpoint; JSON-RPC tells no more than that."""

    code = -32601
    message = "Method does not exist"
    number = ENOMETHOD

    def __init__(self, name: str = "", *, service_known: bool = False) -> None:
        super().__init__(name)
        service, _, method = name.rpartition(".")
        missing = f"Method {method!r} not found in {service!r}" if service_known else ""
        self._missing = missing or f"Service {service!r} not found"

    @property
    def said(self) -> str:
        """The reason."""
        return f"[ENOMETHOD] {self._missing}"

    @property
    def shown(self) -> tuple[str, str]:
        """Class and `repr` of the exception."""
        return "CallError", f"CallError({self._missing!r}, {ENOMETHOD})"


class TooManyCalls(NasRefusal):
    """More calls of one connection are under way than the NAS takes; told without a trace."""

    code = -32000
    message = "Maximum number of concurrent calls (20) has exceeded"
    number = errno.ETOOMANYREFS

    def details(self) -> dict[str, Any]:
        """What the older protocol tells of it."""
        return {"reason": f"{self.message}.", "trace": None, "extra": None}
