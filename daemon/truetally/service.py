"""The service manager: telling systemd how it goes (the protocol of sd_notify(3)).

Started by hand there is nobody to tell, and every call here does nothing. A child
process, such as an exec plugin of a kubeconfig, inherits the address too; the unit's
`NotifyAccess=main` makes systemd deaf to it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from typing import Self

import structlog

log = structlog.get_logger(__name__)

# PID 1 reads at once unless it hangs itself, and then we must not hang with it.
_SEND_WITHIN = timedelta(seconds=1)


class Notifier:
    """Speaks to the service manager, if there is one.

    Attributes:
        watchdog_every: how often `watchdog()` has to be called, or None if nobody waits for it; half of
            what the unit allows, so that one late call is forgiven.
    """

    def __init__(self, address: str | None = None, watchdog_every: timedelta | None = None) -> None:
        self.watchdog_every = watchdog_every if address else None
        self._address = address

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], pid: int | None = None) -> Self:
        """Take the address and the watchdog's time from what systemd put into the environment."""
        address = environ.get("NOTIFY_SOCKET") or None
        if address and address[0] not in "/@":
            log.warning("notify socket not usable", address=address, usable="a path or an abstract name")
            address = None
        return cls(address, _watchdog_every(environ, os.getpid() if pid is None else pid))

    def ready(self, status: str) -> None:
        """The start, or a reload, is done."""
        self._send("READY=1", _status(status))

    def status(self, status: str) -> None:
        """What `systemctl status` shows."""
        self._send(_status(status))

    def watchdog(self) -> None:
        """Still alive."""
        self._send("WATCHDOG=1")

    def reloading(self, ticks: float) -> None:
        """A reload begins; `ready()` ends it. `ticks` are those of CLOCK_MONOTONIC."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={int(ticks * 1_000_000)}")

    def stopping(self, status: str) -> None:
        """The stop has begun."""
        self._send("STOPPING=1", _status(status))

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.settimeout(_SEND_WITHIN.total_seconds())
                channel.connect(_socket_name(self._address))
                channel.sendall("\n".join(lines).encode())
        except OSError as error:
            log.warning("service manager not told", message=lines[0], reason=str(error))


def _socket_name(address: str) -> str:
    return "\0" + address[1:] if address.startswith("@") else address


def _status(text: str) -> str:
    # A line break would begin another assignment.
    return "STATUS=" + " ".join(text.splitlines())


def _watchdog_every(environ: Mapping[str, str], pid: int) -> timedelta | None:
    allowed = environ.get("WATCHDOG_USEC", "")
    meant_for = environ.get("WATCHDOG_PID") or str(pid)
    if not allowed.isdecimal() or int(allowed) == 0 or meant_for != str(pid):
        return None
    return timedelta(microseconds=int(allowed)) / 2
