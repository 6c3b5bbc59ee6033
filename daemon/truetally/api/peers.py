"""Who asks: the process at the other end of a unix socket, as the kernel knows it.

SO_PEERCRED (unix(7)) names the process that called connect(), and no client can
lie about it. So nobody logs in: whoever may open the socket may ask.
"""

from __future__ import annotations

import pwd
import socket
import struct
from dataclasses import dataclass

from aiohttp import web

_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that asks."""

    pid: int
    uid: int
    gid: int

    @property
    def user(self) -> str:
        """The user's name, or `uid 1234` where this machine has none for it."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"uid {self.uid}"


def peer_of(request: web.Request) -> Peer | None:
    """The process at the other end, if it is on this machine and still connected."""
    connection = request.get_extra_info("socket")
    if connection is None or connection.family != socket.AF_UNIX:
        return None
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return Peer(pid, uid, gid)
