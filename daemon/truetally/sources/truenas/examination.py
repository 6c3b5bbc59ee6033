"""Is a NAS reachable, does it let us in, and may our user do what we need? For `truetally doctor nas`.

What may be called is found by calling it, where it can be for an object that cannot exist: the answer is the
truth, whatever roles and lists say, and costs the NAS no more than one reading of everything does. What
changes something is never called; for it the roles that `auth.me` tells are compared with those needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from truetally.errors import CredentialsRefused, SourceUnavailable
from truetally.settings import NasSettings
from truetally.sources.truenas import decode
from truetally.sources.truenas.addresses import connect, find_generation, http_session
from truetally.sources.truenas.calls import CallFailed, Fault
from truetally.sources.truenas.logins import Credential, Standby, log_in
from truetally.sources.truenas.queries import Need, needed, needed_to_remediate
from truetally.sources.truenas.session import Session

_NOWHERE = "truetally-doctor/no-such-object"


class Checked(msgspec.Struct, frozen=True):
    """One thing that has to be permitted.

    Attributes:
        permitted: None if it cannot be told.
        roles: any one of these permits it; as the NAS itself says where it does (25.10+).
        lost: what does not work without it.
        optional: whether truetally does its work without it, only later or with fewer details.
    """

    purpose: str
    method: str
    permitted: bool | None
    roles: tuple[str, ...] = ()
    lost: str = ""
    subscription: bool = False
    optional: bool = False


class Examination(msgspec.Struct, frozen=True):
    """What was found at one address with one user.

    Attributes:
        trouble: why it could not be examined further; empty if it could.
        standby: that is because it is the controller of a pair that is not active.
        user_roles: what `auth.me` tells; None where keys have lists instead (up to 24.10).
        grant: the fewest roles to add, or the entries to add to the key's list.
        grant_more: those for what can be done without.
    """

    nas: str
    url: str
    username: str
    purpose: str
    trouble: str = ""
    standby: bool = False
    generation: str = ""
    version: str = ""
    user_roles: tuple[str, ...] | None = None
    checked: tuple[Checked, ...] = ()
    grant: tuple[str, ...] = ()
    grant_more: tuple[str, ...] = ()

    @property
    def well(self) -> bool:
        """Whether nothing that is necessary is missing; a standby controller lacks nothing."""
        missing = [each for each in self.checked if each.permitted is False and not each.optional]
        return self.standby or not (self.trouble or missing)


@asynccontextmanager
async def logged_in(settings: NasSettings, url: str, who: Credential) -> AsyncIterator[Session]:
    """A session for a few calls, outside of the watching one; as one opens it for a plan.

    Raises:
        SourceUnavailable: the NAS cannot be reached, or this is the standby controller.
        CredentialsRefused: it does not let us in.
    """

    async def not_again(_: Session) -> None:
        raise SourceUnavailable(settings.name, "the NAS has ended our login")

    async with http_session(settings) as http:
        generation = await find_generation(settings.name, url, http)
        socket = await connect(settings.name, url, generation, http)
        session = Session(
            settings.name,
            generation,
            socket,
            call_timeout=settings.call_timeout.total_seconds(),
            log_in_again=not_again,
            hint=lambda _: None,
        )
        reading = asyncio.create_task(session.run(), name=f"{settings.name} reading")
        try:
            await log_in(session, settings.name, url, who)
            yield session
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await socket.close()


async def examine(settings: NasSettings, url: str, who: Credential, *, remediator: bool) -> Examination:
    """Looks at one address with one user; what goes wrong stands in the answer."""
    found = Examination(
        settings.name, url, who.username, "to change things, on approval" if remediator else "to watch"
    )
    try:
        async with logged_in(settings, url, who) as session:
            return await _permissions(session, found, remediator=remediator)
    except Standby as error:
        return msgspec.structs.replace(found, trouble=error.reason, standby=True)
    except (SourceUnavailable, CredentialsRefused, CallFailed) as error:
        return msgspec.structs.replace(found, trouble=error.reason)


async def _permissions(session: Session, found: Examination, *, remediator: bool) -> Examination:
    generation = session.generation
    roles = await _roles(session)
    if remediator:
        checked = [_by_roles(need, roles) for need in needed_to_remediate(generation)]
    else:
        checked = [await _probed(session, need) for need in needed(generation)]
        if roles is not None and "FULL_ADMIN" not in roles:
            checked = [_only_own_jobs(each) for each in checked]
    checked = [await _with_true_roles(session, each) for each in checked]
    missing = [each for each in checked if each.permitted is False]
    grant = _grant(each for each in missing if not each.optional)
    more = _grant((each for each in missing if each.optional), (*grant, *(roles or ())))
    return msgspec.structs.replace(
        found,
        generation=generation.name,
        version=str(await session.call("system.version")),
        user_roles=roles,
        checked=tuple(checked),
        grant=tuple(grant),
        grant_more=tuple(more),
    )


async def _roles(session: Session) -> tuple[str, ...] | None:
    if not session.generation.has_users:
        return None
    return decode.roles(await session.call("auth.me"))


async def _probed(session: Session, need: Need) -> Checked:
    permitted: bool | None = True
    try:
        if need.subscription:
            await session.subscribe(need.method)
        else:
            await session.call(need.method, *_harmless(need.method))
    except CallFailed as error:
        if error.fault is Fault.NOT_PERMITTED:
            permitted = False
        elif error.fault not in (Fault.INVALID, Fault.NOT_FOUND):
            # It is not there, or busy, or fails: whether it would be permitted, nobody knows.
            permitted = None
    lost = need.without or f"{need.purpose} is unknown, and rules that need it are held"
    return Checked(
        need.purpose, need.method, permitted, need.roles, lost, need.subscription, optional=bool(need.without)
    )


def _only_own_jobs(checked: Checked) -> Checked:
    """From 25.04 on everybody may ask for jobs, and gets one's own."""
    if checked.method != "core.get_jobs" or checked.subscription:
        return checked
    lost = "jobs of others that use a dataset are not seen; only FULL_ADMIN sees them"
    return msgspec.structs.replace(checked, permitted=None, lost=lost, optional=True)


def _harmless(method: str) -> Sequence[Any]:
    """Arguments with which a method has nothing to do; wrong ones are refused only after the permission."""
    if method == "zfs.resource.query" or method == "zfs.resource.snapshot.query":
        return ({"paths": [_NOWHERE]},)
    if method.endswith(".query"):
        return ([["id", "=", _NOWHERE]], {})
    if method in ("pool.dataset.attachments", "pool.dataset.processes"):
        return (_NOWHERE,)
    return ()


def _by_roles(need: Need, roles: tuple[str, ...] | None) -> Checked:
    permitted = None if roles is None else any(covers(roles, each) for each in need.roles)
    return Checked(need.purpose, need.method, permitted, need.roles, f"no plan can {need.purpose}")


async def _with_true_roles(session: Session, checked: Checked) -> Checked:
    """What the NAS itself says permits a method that is not permitted (25.10+)."""
    if checked.permitted is not False or session.generation.since < (25, 10) or checked.subscription:
        return checked
    service = checked.method.rpartition(".")[0]
    try:
        told = await session.call("core.get_methods", service)
    except CallFailed:
        return checked
    entry = told.get(checked.method) if isinstance(told, dict) else None
    roles = entry.get("roles") if isinstance(entry, dict) else None
    return msgspec.structs.replace(checked, roles=tuple(map(str, roles))) if roles else checked


def covers(roles: Iterable[str], needed: str) -> bool:
    """Whether roles include a needed one.

    The composite roles are those of middleware 25.04 to 27 (`role.py`); `auth.me` may tell them as they are
    or already resolved.
    """
    return any(_includes(role, needed) for role in roles)


_SHARES = ("SHARING_NFS_", "SHARING_SMB_", "SHARING_ISCSI_", "SHARING_NVME_TARGET_")


def _includes(role: str, needed: str) -> bool:
    if role in (needed, "FULL_ADMIN"):
        return True
    stem, _, kind = role.rpartition("_")
    reads = needed.endswith("_READ")
    if role == "READONLY_ADMIN":
        return reads
    if role in ("SHARING_READ", "SHARING_WRITE", "SHARING_ADMIN"):
        writes = role != "SHARING_READ" and needed.endswith("_WRITE")
        return needed.startswith(_SHARES) and (reads or writes)
    if kind == "WRITE":
        return needed.startswith(f"{stem}_") and needed.endswith(("_READ", "_WRITE"))
    return kind == "READ" and reads and needed.startswith(f"{stem}_")


def _grant(missing: Iterable[Checked], granted: Sequence[str] = ()) -> list[str]:
    """The fewest roles that permit what is missing, beside those that are granted; entries where keys have
    lists (and nothing has roles)."""
    added: list[str] = []
    for each in sorted(missing, key=lambda one: len(one.roles)):
        if not each.roles:
            kind = "SUBSCRIBE" if each.subscription else "CALL"
            added.append(msgspec.json.encode({"method": kind, "resource": each.method}).decode())
        elif not any(covers((*granted, *added), role) for role in each.roles):
            added.append(each.roles[0])
    return [role for role in added if not covers([other for other in added if other != role], role)]
