"""Asking the daemon: HTTP over its unix socket, and what went wrong in words that help."""

from __future__ import annotations

import grp
import http.client
import json
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, urlencode

from truetally.cli.exits import Misunderstood
from truetally.errors import DaemonNotRunning, NotFound, TruetallyError

_START = "start it with `systemctl start truetally` or `truetally run -c FILE`"


class Client:
    """A client of the daemon that listens on one of the sockets."""

    def __init__(self, sockets: Sequence[Path], *, timeout_seconds: float = 35.0) -> None:
        # A little longer than the daemon itself gives an answer, so that its own words arrive.
        self._timeout_seconds = timeout_seconds
        self._path = next((path for path in sockets if path.exists()), sockets[0])

    def get(self, *path: str, query: Mapping[str, str | None] | None = None) -> bytes:
        """The daemon's answer, as JSON."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        return self._ask("GET", _url(path) + ("?" + urlencode(given) if given else ""), None)

    def post(self, *path: str, body: Mapping[str, str]) -> bytes:
        """The daemon's answer to a request that changes something, as JSON."""
        return self._ask("POST", _url(path), json.dumps(body).encode())

    def _ask(self, method: str, url: str, body: bytes | None) -> bytes:
        connection = _UnixConnection(self._path, self._timeout_seconds)
        try:
            connection.request(method, url, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            answer = response.read()
        except TimeoutError as error:
            raise DaemonNotRunning(
                f"the daemon on {self._path} did not answer within {self._timeout_seconds:g} seconds; "
                "look at its log, or restart it"
            ) from error
        except OSError as error:
            raise DaemonNotRunning(unreachable(self._path, error)) from error
        except http.client.HTTPException as error:
            raise DaemonNotRunning(
                f"what listens on {self._path} does not answer as truetally does; name the right --socket"
            ) from error
        finally:
            connection.close()
        if response.status != 200:
            raise _failure(response.status, answer)
        return answer


def unreachable(path: Path, error: OSError) -> str:
    """Why nobody could be asked on the socket, and what to do about it."""
    match error:
        case FileNotFoundError():
            return f"the daemon is not running: there is no socket {path}; {_START}"
        case ConnectionRefusedError():
            return f"the daemon is not running: nobody listens on {path}; {_START}"
        case ConnectionError():
            return (
                f"the daemon on {path} closed the connection; it may be stopping: {error.strerror or error}"
            )
        case PermissionError():
            return f"you may not use {path}; {_membership(path)}, or ask as root"
        case _:
            return f"the daemon cannot be reached on {path}: {error.strerror or error}; {_START}"


def _membership(path: Path) -> str:
    # The directory counts where it does not even let us see the socket.
    for place in (path, path.parent):
        try:
            gid = place.stat().st_gid
        except OSError:
            continue
        group = _group_name(gid)
        return f"it is for the group {group}: join it (`sudo usermod -aG {group} $USER`) and log in again"
    return "ask who runs truetally for its group"


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _url(path: Sequence[str]) -> str:
    return "/api/v1/" + "/".join(quote(part, safe="") for part in path)


def _failure(status: int, answer: bytes) -> TruetallyError:
    try:
        problem = json.loads(answer)
        detail, nearest = str(problem["detail"]), [str(name) for name in problem.get("nearest", [])]
    except (ValueError, KeyError, TypeError, AttributeError):
        detail, nearest = f"the daemon answered {status}, and not why", []
    meant = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
    match status:
        case 400:
            return Misunderstood(detail + meant)
        case 404:
            return NotFound(detail + meant, nearest)
        case _:
            return TruetallyError(detail)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_seconds: float) -> None:
        super().__init__("truetally", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))
