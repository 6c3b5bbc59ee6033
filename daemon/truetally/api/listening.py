"""The places where the API listens: a unix socket, and a loopback address for health probes."""

from __future__ import annotations

import os
import socket
import stat
from ipaddress import ip_address
from pathlib import Path

from truetally.errors import TruetallyError

_MODE = 0o660
_DIRECTORY_MODE = 0o750
# sun_path holds 108 bytes and its closing zero (unix(7)).
_LONGEST = 107


class CannotListen(TruetallyError):
    """The API has no place to listen at, and the message says why."""


def listen_on(path: Path) -> socket.socket:
    """A listening socket at the path, in place of one that a dead daemon left behind."""
    # It is made under another name and renamed when it listens with the right mode: there is no moment
    # in which it is open to everybody, nor one in which it is there and refuses.
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    if len(os.fsencode(draft)) > _LONGEST:
        raise CannotListen(f"{path} is too long for a socket; set api.socket to a shorter path")
    _make_directory(path.parent)
    _refuse_if_taken(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        draft.unlink(missing_ok=True)
        listening.bind(str(draft))
        draft.chmod(_MODE)
        listening.listen(128)
        draft.rename(path)
    except OSError as error:
        listening.close()
        raise CannotListen(
            f"cannot listen on {path}: {error.strerror}; set api.socket to a place this user may write to"
        ) from error
    return listening


def listen_for_probes(address: str) -> socket.socket:
    """A listening socket on `host:port`, which must be on the loopback interface."""
    host, port = _host_and_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(16)
    except OSError as error:
        listening.close()
        raise CannotListen(
            f"cannot listen on {address} for health probes: {error.strerror}; change api.health_address"
        ) from error
    return listening


def forget(path: Path, made: os.stat_result | None) -> None:
    """Remove the socket file, if it is still the one that was made."""
    try:
        found = path.lstat()
        if made is not None and (found.st_dev, found.st_ino) == (made.st_dev, made.st_ino):
            path.unlink()
    except OSError:
        # It is gone, or its directory no longer ours; the next daemon replaces it.
        return


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
    except OSError as error:
        raise CannotListen(
            f"cannot make {directory} for the socket: {error.strerror}; make it, "
            "or set api.socket to a place this user may write to"
        ) from error


def _refuse_if_taken(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise CannotListen(f"cannot look at {path}: {error.strerror}; set api.socket elsewhere") from error
    if not stat.S_ISSOCK(found.st_mode):
        raise CannotListen(f"{path} is there and is no socket; move it away, or set api.socket elsewhere")
    if _answers(path):
        raise CannotListen(
            f"another truetally listens on {path}; stop it first, or give this one its own api.socket"
        )


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(1.0)
        try:
            asking.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            # Its queue is full, or it is not ours to connect to: somebody is there.
            return True
    return True


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    host = "127.0.0.1" if host == "localhost" else host
    try:
        loopback, number = ip_address(host).is_loopback, int(port)
    except ValueError:
        loopback, number = False, -1
    if not loopback or not 0 <= number <= 65535:
        raise CannotListen(
            f"api.health_address is {address}, and has to be a loopback address with its port, "
            "like 127.0.0.1:8081"
        )
    return host, number
