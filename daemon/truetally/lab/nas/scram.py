"""SCRAM-SHA-512 as TrueNAS 26 speaks it: the server's half, without I/O.

RFC 5802 with SHA-512. What differs: the name is `user:key id`, the password is the API key without its
id, nonces are 32 bytes in base64, and the combined nonce is the base64 of both nonces' bytes one after
the other (truenas/api_client `py_scram`, read 2026-11). Channel binding is refused
(inferred: the lab has none).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from functools import cached_property

from truetally.lab.nas.machine import ApiKey

_NONCE_BYTES = 32


class BadMessage(Exception):
    """What the client sent is no SCRAM message that the NAS takes."""


class Verifier:
    """What the NAS keeps of a key instead of the key: salt, rounds and two derived keys."""

    def __init__(self, key: ApiKey) -> None:
        self._key = key
        self.salt = key.salt
        self.iterations = key.iterations

    @cached_property
    def _salted(self) -> bytes:
        return hashlib.pbkdf2_hmac("sha512", self._key.secret.encode(), self.salt, self.iterations)

    @property
    def stored_key(self) -> bytes:
        """What the client's proof is checked with."""
        return hashlib.sha512(_hmac(self._salted, b"Client Key")).digest()

    @property
    def server_key(self) -> bytes:
        """What the server proves itself with."""
        return _hmac(self._salted, b"Server Key")


@dataclass(frozen=True, slots=True)
class ClientFirst:
    """The client's first message: which key it says to have, and its nonce."""

    bare: str
    username: str
    key_id: int
    nonce: bytes

    @classmethod
    def read(cls, text: str) -> ClientFirst:
        """The message.

        Raises:
            BadMessage: it is none, binds a channel, or names no API key.
        """
        flag, separator, bare = text.partition(",,")
        if not separator or flag not in ("n", "y"):
            raise BadMessage("no channel can be bound here")
        found = _attributes(bare)
        name, colon, number = found.get("n", "").rpartition(":")
        if not colon or not number.isdecimal():
            raise BadMessage("the name is not user:key id")
        nonce = _bytes(found.get("r", ""))
        if len(nonce) != _NONCE_BYTES:
            raise BadMessage(f"{len(nonce)}: unexpected nonce size")
        return cls(bare, name.replace("=2C", ",").replace("=3D", "="), int(number), nonce)


class Exchange:
    """One login under way: `first` is to be sent, and `finish` judges what comes back."""

    def __init__(self, asked: ClientFirst, verifier: Verifier, nonce: bytes | None = None) -> None:
        server_nonce = nonce if nonce is not None else secrets.token_bytes(_NONCE_BYTES)
        self._asked = asked
        self._verifier = verifier
        self._nonce = _base64(asked.nonce + server_nonce)
        self.first = f"r={self._nonce},s={_base64(verifier.salt)},i={verifier.iterations}"

    def finish(self, text: str) -> str | None:
        """The server's final message, or None if the client does not know the key.

        Raises:
            BadMessage: it is no final message.
        """
        bare, separator, proof = text.rpartition(",p=")
        found = _attributes(bare)
        if not separator or found.get("r") != self._nonce:
            return None
        message = f"{self._asked.bare},{self.first},{bare}".encode()
        stored = self._verifier.stored_key
        signature = _hmac(stored, message)
        given = _bytes(proof)
        if len(given) != len(signature):
            raise BadMessage(f"{len(given)}: unexpected client proof size")
        client_key = bytes(a ^ b for a, b in zip(given, signature, strict=True))
        if not hmac.compare_digest(hashlib.sha512(client_key).digest(), stored):
            return None
        return f"v={_base64(_hmac(self._verifier.server_key, message))}"


def _attributes(text: str) -> dict[str, str]:
    return {name: value for name, _, value in (part.partition("=") for part in text.split(","))}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as mistake:
        raise BadMessage("broken base64") from mistake


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha512")
