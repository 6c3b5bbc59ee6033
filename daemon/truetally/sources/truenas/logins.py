"""Logging in, on every generation: what to send, and what each answer means.

A failed login is an answer, not an error (25.04+). A good key that comes over plain transport is revoked
for good there (middleware 25.04 to 26, `plugins/auth.py`); with SCRAM (26+) the key is not sent at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from truetally.configuration.secrets import resolve
from truetally.errors import CredentialsRefused, SourceUnavailable
from truetally.settings import NasSettings
from truetally.sources.truenas.addresses import is_safe_for_secrets
from truetally.sources.truenas.calls import CallFailed, Fault
from truetally.sources.truenas.scram import ScramClient, ScramMistrust
from truetally.sources.truenas.session import Session


@dataclass(frozen=True, slots=True)
class Credential:
    """Who logs in. The secret is an API key, or a password if `is_password`."""

    username: str
    secret: str = field(repr=False)
    is_password: bool = False


def observer(settings: NasSettings, environ: Mapping[str, str]) -> Credential:
    """The user that watches.

    Raises:
        ConfigurationInvalid: the secret cannot be read.
    """
    reference = settings.api_key or settings.password
    assert reference is not None  # noqa: S101 - NasSettings holds one of them
    secret = resolve(reference, environ)
    return Credential(settings.username, secret, is_password=settings.api_key is None)


def remediator(settings: NasSettings, environ: Mapping[str, str]) -> Credential | None:
    """The user that may change things, if there is one.

    Raises:
        ConfigurationInvalid: the secret cannot be read.
    """
    if settings.remediator is None:
        return None
    return Credential(settings.remediator.username, resolve(settings.remediator.api_key, environ))


class KeyExpired(CredentialsRefused):
    """The key is expired or revoked: it will never work again."""


class Standby(SourceUnavailable):
    """This controller of an HA pair is not the active one.

    Attributes:
        urls: where the NAS says the active one is.
    """

    def __init__(self, source: str, urls: Sequence[str]) -> None:
        where = ", ".join(urls) or "another address"
        super().__init__(
            source,
            f"this is the standby controller; the active one is at {where}, which is tried only if it stands "
            "under failover_urls",
        )
        self.urls = tuple(urls)


class Mistrusted(CredentialsRefused):
    """Whoever answers could not prove that it is the NAS; no key is to be sent there."""


async def log_in(session: Session, name: str, url: str, who: Credential, *, prove: bool = False) -> bool:
    """Logs a session in.

    Args:
        prove: this NAS has proven before that it knows the key (SCRAM), so it has to again: nobody who stands
            in between shall talk us into sending the key itself.

    Returns:
        Whether the NAS has proven that it knows the key.

    Raises:
        Mistrusted: it could not, or would not.
        KeyExpired: the key is expired or revoked.
        CredentialsRefused: the secret is wrong, its user may not use the API, or the NAS is not who it says.
        Standby: this is not the active controller.
        SourceUnavailable: the NAS did not answer, or not now.
    """
    if not is_safe_for_secrets(url):
        raise CredentialsRefused(
            name,
            "no key or password is sent over an unencrypted connection: TrueNAS would revoke the key; use wss://",
        )
    try:
        if not who.is_password and session.generation.has_scram and "SCRAM" in await _mechanisms(session):
            await _scram(session, name, who)
            return True
        if prove:
            raise Mistrusted(
                name,
                "it offers no SCRAM any more, by which it has proven to be the right NAS, and the key is not "
                "sent without; restart truetally if it was really set back to an older version",
            )
        if not session.generation.has_users:
            await _is_really_old(session, name)
            await _legacy(session, name, who)
        elif who.is_password:
            await _plain(session, name, who, "PASSWORD_PLAIN", "password")
        else:
            await _plain(session, name, who, "API_KEY_PLAIN", "api_key")
    except CallFailed as error:
        if error.fault is Fault.BUSY:
            raise SourceUnavailable(name, "too many logins; it accepts none for some minutes") from error
        if error.fault is Fault.FAILED:
            raise SourceUnavailable(name, f"it cannot log us in now: {error.reason}") from error
        raise CredentialsRefused(name, f"the NAS does not accept the login: {error.reason}") from error
    return False


async def _is_really_old(session: Session, name: str) -> None:
    """A proxy that passes nothing but websockets makes a newer NAS look old: `/api/versions` is not found.

    Up to 24.10 nobody is told how to log in without being logged in; from 25.04 on everybody is.
    """
    try:
        await session.raw_call("auth.mechanism_choices")
    except CallFailed:
        return
    raise SourceUnavailable(
        name,
        "it is 25.04 or newer and /api/versions is not found; a proxy in between has to pass /api/, too",
    )


async def _mechanisms(session: Session) -> list[str]:
    found: list[str] = await session.raw_call("auth.mechanism_choices", type_=list[str])
    return found


async def _legacy(session: Session, name: str, who: Credential) -> None:
    if who.is_password:
        if not await session.raw_call("auth.login", who.username, who.secret):
            raise CredentialsRefused(
                name,
                f"the NAS refused the password of {who.username}: it is wrong, or the user needs a one-time "
                "password; use an API key",
            )
    elif not await session.raw_call("auth.login_with_api_key", who.secret):
        raise CredentialsRefused(name, "the NAS refused the API key: it is wrong, or was deleted")


async def _plain(session: Session, name: str, who: Credential, mechanism: str, member: str) -> None:
    login = {
        "mechanism": mechanism,
        "username": who.username,
        member: who.secret,
        "login_options": {"user_info": False},
    }
    _judge(await session.raw_call("auth.login_ex", login, type_=dict[str, Any]), name, who)


async def _scram(session: Session, name: str, who: Credential) -> None:
    try:
        client = ScramClient(who.username, who.secret)
    except ValueError as error:
        raise CredentialsRefused(name, f"this is no API key: {error}") from error
    try:
        first = await _scram_step(session, name, who, "CLIENT_FIRST_MESSAGE", client.first())
        final = await asyncio.to_thread(client.final, first)
        client.verify(await _scram_step(session, name, who, "CLIENT_FINAL_MESSAGE", final))
    except ScramMistrust as error:
        raise Mistrusted(name, str(error)) from error


async def _scram_step(session: Session, name: str, who: Credential, step: str, text: str) -> str:
    message = {"mechanism": "SCRAM", "scram_type": step, "rfc_str": text}
    answer = await session.raw_call("auth.login_ex", message, type_=dict[str, Any])
    if answer.get("response_type") != "SCRAM_RESPONSE":
        _judge(answer, name, who)
        raise ScramMistrust("the NAS let us in before we had proven anything")
    return str(answer.get("rfc_str") or "")


def _judge(answer: Mapping[str, Any], name: str, who: Credential) -> None:
    user, what = who.username, "password" if who.is_password else "API key"
    match answer.get("response_type"):
        case "SUCCESS":
            return
        case "EXPIRED":
            raise KeyExpired(
                name,
                f"the {what} of {user} is expired or revoked; make a new one on the NAS (a key that was "
                "ever used over plain HTTP, also by a proxy in between, is revoked)",
            )
        case "AUTH_ERR":
            raise CredentialsRefused(
                name, f"the NAS refused the {what}: it is wrong, or it does not belong to user {user}"
            )
        case "DENIED":
            raise CredentialsRefused(
                name, f"user {user} may not use the API; give its group a privilege with READONLY_ADMIN"
            )
        case "OTP_REQUIRED":
            raise CredentialsRefused(
                name, f"user {user} needs a one-time password; use an API key, or a user without 2FA"
            )
        case "REDIRECT":
            raise Standby(name, [str(each) for each in answer.get("urls") or ()])
        case other:
            raise CredentialsRefused(name, f"the NAS answered the login with {other}")
