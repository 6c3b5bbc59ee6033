"""SCRAM-SHA-512 as TrueNAS 26 speaks it: the client's half, without I/O.

RFC 5802 with SHA-512. What differs: the name is `user:key id`, the password is the API key without
its id, nonces are base64, and the combined nonce is the base64 of both nonces' bytes one after the other
(truenas/api_client `py_scram`, read 2026-11). Channel binding is not used.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets

# The server's own bounds (`truenas_scram.h`); more would let a false server burn our time.
_ITERATIONS = range(50_000, 5_000_001)
_NONCE_BYTES = 32
_NO_BINDING = "n,,"


class ScramMistrust(Exception):
    """The server's answer is not what one that knows the key would give."""


class ScramClient:
    """One login. The steps are `first()`, `final(server_first)` and `verify(server_final)`.

    Args:
        username: the key's owner.
        api_key: the whole key, `id-material`.
        nonce: 32 random bytes; only a test names them.

    Raises:
        ValueError: the key does not have the form `id-material`.
    """

    def __init__(self, username: str, api_key: str, nonce: bytes | None = None) -> None:
        number, dash, material = api_key.partition("-")
        if not number.isdecimal() or not dash or not material:
            raise ValueError("an API key looks like 7-…, its number first")
        self._material = material.encode()
        self._nonce = nonce if nonce is not None else secrets.token_bytes(_NONCE_BYTES)
        self._first_bare = f"n={_escaped(username)}:{number},r={_base64(self._nonce)}"
        self._server_signature = b""

    def first(self) -> str:
        """The client's first message."""
        return _NO_BINDING + self._first_bare

    def final(self, server_first: str) -> str:
        """The client's final message. Takes about half a second of CPU: call it in a thread.

        Raises:
            ScramMistrust: the server did not take up our nonce, or asks for an absurd effort.
        """
        nonce, salt, iterations = _server_first(server_first)
        combined = _bytes(nonce)
        if not combined.startswith(self._nonce) or len(combined) <= len(self._nonce):
            raise ScramMistrust("the NAS answered the login with somebody else's nonce")
        if iterations not in _ITERATIONS:
            raise ScramMistrust(f"the NAS asks for {iterations} rounds of hashing")
        salted = hashlib.pbkdf2_hmac("sha512", self._material, salt, iterations)
        client_key = _hmac(salted, b"Client Key")
        bare = f"c={_base64(_NO_BINDING.encode())},r={nonce}"
        message = f"{self._first_bare},{server_first},{bare}".encode()
        self._server_signature = _hmac(_hmac(salted, b"Server Key"), message)
        signature = _hmac(hashlib.sha512(client_key).digest(), message)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        return f"{bare},p={_base64(proof)}"

    def verify(self, server_final: str) -> None:
        """Checks that the server knows the key, too.

        Raises:
            ScramMistrust: it does not.
        """
        given = _bytes(_attributes(server_final).get("v", ""))
        if not self._server_signature or not hmac.compare_digest(given, self._server_signature):
            raise ScramMistrust("the NAS could not prove that it knows the API key; is it the right machine?")


def _server_first(text: str) -> tuple[str, bytes, int]:
    found = _attributes(text)
    iterations = found.get("i", "")
    if not found.get("r") or not found.get("s") or not iterations.isdecimal() or len(iterations) > 12:
        raise ScramMistrust("the NAS began the login with something that is not SCRAM")
    return found["r"], _bytes(found["s"]), int(iterations)


def _attributes(text: str) -> dict[str, str]:
    return {name: value for name, _, value in (part.partition("=") for part in text.split(","))}


def _escaped(name: str) -> str:
    return name.replace("=", "=3D").replace(",", "=2C")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ScramMistrust("the NAS answered the login with broken base64") from error


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha512")
