"""A lab NAS that runs alone, for a person who points a driver or a client at it.

It is plain HTTP unless it is asked for TLS; its certificate is then made for the day by the program
`openssl`, and is its own authority.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from truetally.errors import TruetallyError
from truetally.lab.nas import state
from truetally.lab.nas.machine import ADMINISTRATOR, Machine
from truetally.lab.nas.server import LabNas

_EVERYTHING = ("FULL_ADMIN",)
_CERTIFICATE_DAYS = 30


class LabNasFailed(TruetallyError):
    """The lab NAS cannot be started as it was asked for."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person asked for.

    Attributes:
        pools: names and sizes in bytes, where no state brings its own.
        control: whether `/lab/` answers (control.py).
        state: the file to begin from, if it is there, and to write at the end.
    """

    version: str
    host: str = "127.0.0.1"
    port: int = 0
    tls: bool = False
    state: Path | None = None
    api_key: str | None = None
    password: str | None = None
    pools: Sequence[tuple[str, int]] = (("tank", 10 << 40),)
    control: bool = True


@dataclass(frozen=True, slots=True)
class Running:
    """Where the NAS answers, and to whom.

    Attributes:
        authority: the file of the certificate that a client needs.
        control: the URL of the control API, if it answers.
    """

    url: str
    version: str
    api_key: str
    password: str
    authority: Path | None
    control: str | None
    pools: Sequence[str]


async def run_alone(wanted: Wanted, tell: Callable[[Running], None], until: asyncio.Event) -> None:
    """Run a lab NAS until the event is set, and then keep its state if there is a file for it.

    Raises:
        LabNasFailed: state, key, address or certificate cannot be had; the message says which.
    """
    with ExitStack() as stack:
        context, authority = None, None
        if wanted.tls:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="truetally-lab-nas-")))
            context, authority = certified(directory, wanted.host)
        nas = LabNas(wanted.version, tls=context, control=wanted.control)
        api_key, password = _furnish(nas.machine, wanted)
        try:
            await nas.start(wanted.host, wanted.port)
        except OSError as error:
            raise LabNasFailed(
                f"nothing can listen at {wanted.host}:{wanted.port}: {error.strerror}; choose another --port"
            ) from error
        try:
            url = nas.url.replace("ws", "http", 1)
            control = f"{url}/lab/" if wanted.control else None
            tell(
                Running(
                    url, nas.machine.branded_version, api_key, password, authority, control, [*nas.zfs.pools]
                )
            )
            await until.wait()
        finally:
            await nas.stop()
            if wanted.state is not None:
                keep(nas.machine, wanted.state)


def _furnish(machine: Machine, wanted: Wanted) -> tuple[str, str]:
    """Bring in the state, the pools and the administrator; the administrator's key and password."""
    if wanted.state is not None and wanted.state.exists():
        bring_back(machine, wanted.state)
    else:
        for name, size_bytes in wanted.pools:
            machine.zfs.create_pool(name, size_bytes)
        machine.addresses = [wanted.host]
    known = machine.users.get(ADMINISTRATOR)
    password = wanted.password or (known.password if known is not None else secrets.token_urlsafe(12))
    machine.add_user(ADMINISTRATOR, password, _EVERYTHING, otp=known.otp if known is not None else None)
    return _key(machine, wanted.api_key), password


def _key(machine: Machine, text: str | None) -> str:
    usable = [
        key
        for key in machine.keys.values()
        if key.username == ADMINISTRATOR and "FULL_ADMIN" in key.roles and not key.expired(machine.now())
    ]
    if text is None and usable:
        return usable[0].text
    try:
        return machine.add_key(ADMINISTRATOR, _EVERYTHING, text=text).text
    except ValueError as error:
        raise LabNasFailed(f"--api-key: {error}") from error


def bring_back(machine: Machine, file: Path) -> None:
    """Let a machine have the state that was kept in a file.

    Raises:
        LabNasFailed: it cannot be read, or is no state.
    """
    try:
        state.load(machine, json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise LabNasFailed(f"the state {file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise LabNasFailed(f"{file}: {error}") from error


def keep(machine: Machine, file: Path) -> None:
    """Write a machine's state to a file, all of it or nothing; keys and passwords are in it.

    Raises:
        LabNasFailed: it cannot be written.
    """
    text = json.dumps(state.dump(machine, secrets=True), indent=1)
    try:
        # mkstemp makes a file that only its owner may read.
        handle, name = tempfile.mkstemp(dir=file.absolute().parent, prefix=f".{file.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as made:
            made.write(text)
        Path(name).replace(file)
    except OSError as error:
        raise LabNasFailed(f"the state {file} cannot be written: {error.strerror}") from error


def certified(directory: Path, host: str) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS for a host, with the file of the authority that a client needs.

    Raises:
        LabNasFailed: the program `openssl` is missing, or does not do it.
    """
    program = shutil.which("openssl")
    if program is None:
        raise LabNasFailed("--tls needs the program openssl to make a certificate; install it")
    key, authority = directory / "key.pem", directory / "ca.pem"
    command = [
        program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-days", str(_CERTIFICATE_DAYS), "-subj", "/CN=truetally lab NAS",
        "-addext", f"subjectAltName={_names(host)}",
        "-addext", "keyUsage=critical,digitalSignature,keyCertSign",
        "-addext", "extendedKeyUsage=serverAuth",
        "-keyout", str(key), "-out", str(authority),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        told = done.stderr.strip().splitlines() or ["it said nothing"]
        raise LabNasFailed(f"openssl made no certificate: {told[-1]}")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority, key)
    key.unlink()
    return context, authority


def _names(host: str) -> str:
    names = {f"DNS:{socket.gethostname()}", "DNS:localhost", "IP:127.0.0.1"}
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        names.add(f"DNS:{host}")
    else:
        if not address.is_unspecified:
            names.add(f"IP:{address}")
    return ",".join(sorted(names))
