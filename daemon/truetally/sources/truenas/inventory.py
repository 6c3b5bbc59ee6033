"""What is asked of a NAS, kind by kind: in full, object by object, and the snapshots of some datasets.

Long lists come in pages, as few as the NAS allows: it builds the whole list for each of them
(`utils/filter_list.py`). A page begins after the last id of the one before, not at an offset:
what is deleted in between would shift the rest, and an object that exists would be missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import cache
from hashlib import blake2b
from typing import Any

import msgspec

from truetally.errors import AccessDenied, SourceUnavailable, TruetallyError
from truetally.model import truenas
from truetally.model.observations import Value
from truetally.model.refs import Kind
from truetally.sources.truenas import decode
from truetally.sources.truenas.calls import CallFailed, Fault
from truetally.sources.truenas.generations import Engine, Generation
from truetally.sources.truenas.queries import QUERIES, Absence, Missing, Query, missing, system_reads
from truetally.sources.truenas.session import Session
from truetally.sources.truenas.use import Lists, use

Named = tuple[str, Value]
Page = list[Named]

_RESOURCES = "zfs.resource.query"
# 25.10 and newer refuse a limit above 10,000.
_PAGE = 10_000
# So many entries are decoded before others get their turn: some milliseconds.
_SLICE = 250
_RESOURCE_PROPERTIES = [
    *("used", "available", "referenced", "usedbysnapshots", "logicalused"),
    *("quota", "refquota", "refreservation", "volsize", "volblocksize"),
    *("creation", "origin", "readonly", "mountpoint", "encryption", "keystatus", "snapshots_changed"),
]
_DATASET_FIELDS = [*decode.DatasetEntry.__struct_fields__]
# The server reads no message above 64 kB (24.10+), and all versions take longer for more names.
_NAMES_BYTES, _NAMES = 24 * 1024, 400
# More walks over all snapshots than this are worse than one list of them all, and so are more single reads.
_WALKS, _SINGLY = 2, 50


class NotTold(TruetallyError):
    """This version has such objects and no way to tell them."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(f"{kind.value}: {reason}")
        self.reason = reason


class Known:
    """What the entries of a kind's last complete list meant, by the digest of their bytes.

    An entry that has not changed is not decoded again, and means the same object as before.
    """

    def __init__(self) -> None:
        self._form = ""
        self._entries: dict[bytes, Named] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def of(self, form: str) -> Mapping[bytes, Named]:
        """The entries, if they came in this form; the same bytes may mean something else in another."""
        return self._entries if form == self._form else {}

    def replace(self, form: str, entries: dict[bytes, Named]) -> None:
        """Keeps these and forgets all others."""
        self._form, self._entries = form, entries


class _Decoding:
    """One listing's decoding: what was known before, and what will be known after it."""

    def __init__(self, form: str, known: Known | None) -> None:
        self._form, self._known = form, known
        self._before = known.of(form) if known is not None else {}
        self._after: dict[bytes, Named] = {}

    async def page(
        self,
        raws: Sequence[msgspec.Raw],
        entry: type,
        name: Callable[[Any], str],
        value: Callable[[Any], Value],
    ) -> Page:
        """The objects of a page, in slices between which others have their turn.

        Raises:
            CallFailed: an entry is not what we expect.
        """
        decoder = _decoder(entry)
        found: Page = []
        for at in range(0, len(raws), _SLICE):
            if at:
                await asyncio.sleep(0)
            for raw in raws[at : at + _SLICE]:
                digest = blake2b(raw, digest_size=12).digest()
                named = self._before.get(digest)
                if named is None:
                    named = _named(raw, decoder, name, value)
                if self._known is not None:
                    self._after[digest] = named
                found.append(named)
        return found

    def ended(self) -> None:
        """The list was complete."""
        if self._known is not None:
            self._known.replace(self._form, self._after)


def _named(
    raw: msgspec.Raw,
    decoder: msgspec.json.Decoder[Any],
    name: Callable[[Any], str],
    value: Callable[[Any], Value],
) -> Named:
    try:
        entry = decoder.decode(raw)
        return name(entry), value(entry)
    except (msgspec.DecodeError, ValueError, TypeError, AttributeError, OverflowError) as error:
        # What a NAS sends is no bug of ours, however odd; only this kind is lost.
        raise CallFailed(Fault.FAILED, f"an entry of a list cannot be read: {error}") from error


@cache
def _decoder(entry: type) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(entry)


# Whole kinds


def absent(kind: Kind, generation: Generation) -> bool:
    """Whether this version has no such objects at all, so that their list is empty and complete."""
    why = missing(kind, generation)
    return why is not None and why.absence is Absence.ABSENT


async def listing(kind: Kind, session: Session, nas: str, known: Known | None = None) -> AsyncIterator[Page]:
    """The full list of a kind, page by page.

    Args:
        nas: what the NAS itself is called.
        known: spares decoding what has not changed; it is brought up to date at the list's end.

    Raises:
        NotTold: this version has such objects, and cannot be asked for them.
        AccessDenied, SourceUnavailable, CallFailed: it cannot be listed now.
    """
    why = missing(kind, session.generation)
    if why is not None:
        if why.absence is Absence.UNTOLD:
            raise NotTold(kind, why.reason)
        yield []
        return
    if kind is Kind.SYSTEM:
        yield [(nas, await system(session))]
        return
    decoding = _Decoding(f"{session.generation.name} {kind.value}", known)
    async for page in _pages_of(kind, session, decoding):
        yield page
    decoding.ended()


def _pages_of(kind: Kind, session: Session, decoding: _Decoding) -> AsyncIterator[Page]:
    match kind:
        case Kind.DATASET:
            return _datasets(session, decoding)
        case Kind.SNAPSHOT:
            return _snapshots(session, (), decoding)
        case Kind.NVME_SUBSYSTEM:
            return _subsystems(session)
        case _:
            return _plain(QUERIES[kind], session, decoding)


async def _plain(query: Query, session: Session, decoding: _Decoding) -> AsyncIterator[Page]:
    """A kind that is small enough for one answer, or that the method cannot page."""
    for part in query.parts():
        raws = await _asked(part, session)
        for at in range(0, max(len(raws), 1), _PAGE):
            yield await decoding.page(raws[at : at + _PAGE], part.entry, part.name, part.value)


async def _asked(query: Query, session: Session, type_: Any = list[msgspec.Raw]) -> Any:
    way = query.way(session.generation)
    if isinstance(way, Missing):
        raise NotTold(query.kind, way.reason)
    return await session.permitted(" or ".join(way.roles), way.method, *way.params, type_=type_)


async def _subsystems(session: Session) -> AsyncIterator[Page]:
    """What belongs to a subsystem is told apart from it, where the subsystem does not tell it itself."""
    query = QUERIES[Kind.NVME_SUBSYSTEM]
    entries: list[decode.SubsystemEntry] = await _asked(query, session, list[decode.SubsystemEntry])
    links: list[decode.SubsystemLink] = []
    if any(each.hosts is None or each.ports is None for each in entries):
        for method in ("nvmet.host_subsys.query", "nvmet.port_subsys.query"):
            links += await session.permitted(
                "SHARING_NVME_TARGET_READ", method, [], {}, type_=list[decode.SubsystemLink]
            )
    yield [(query.name(each), decode.subsystem(each, links)) for each in entries]


# Datasets


async def _datasets(session: Session, decoding: _Decoding) -> AsyncIterator[Page]:
    """All datasets and zvols, by the engine that costs this NAS least."""
    if session.generation.datasets is Engine.ZFS_RESOURCE and _RESOURCES not in session.denied:
        try:
            async for page in _resources(session, decoding):
                yield page
        except AccessDenied:
            pass  # a role with DATASET_READ alone has the older way
        else:
            return
    async for page in _pool_datasets(session, (), decoding):
        yield page


def walks(session: Session) -> bool:
    """Whether reading one dataset takes a walk over all of them, so that few are as dear as all."""
    return session.generation.datasets is Engine.ZFS_RESOURCE and _RESOURCES in session.denied


async def _resources(session: Session, decoding: _Decoding) -> AsyncIterator[Page]:
    found = await session.permitted("POOL_READ", "pool.query", [], {}, type_=list[decode.PoolEntry])
    for pool in found:
        if pool.status not in ("ONLINE", "DEGRADED"):
            continue
        raws = await _resource_entries(session, pool.name, list[msgspec.Raw], children=True)
        for at in range(0, len(raws), _PAGE):
            yield await decoding.page(
                raws[at : at + _PAGE], decode.ResourceEntry, lambda e: str(e.name), decode.resource
            )


async def _resource_entries(session: Session, path: str, type_: Any, *, children: bool) -> Any:
    query = {
        "paths": [path],
        "properties": _RESOURCE_PROPERTIES,
        "get_user_properties": True,
        "get_source": False,
        "get_children": children,
    }
    return await session.permitted("ZFS_RESOURCE_READ", _RESOURCES, query, type_=type_)


async def _pool_datasets(
    session: Session, filters: Sequence[Any], decoding: _Decoding
) -> AsyncIterator[Page]:
    """Flat, and without the subtree that every ancestor otherwise repeats.

    Up to 25.04 `retrieve_children: false` searches the pools' roots only, so there the subtrees are left out
    by `select`; on 25.10 and newer it is what makes the walk flat.
    """
    extra: dict[str, Any] = {"properties": _RESOURCE_PROPERTIES}
    options: dict[str, Any] = {"extra": extra, "order_by": ["id"]}
    if session.generation.datasets is Engine.POOL_DATASET:
        options["select"] = _DATASET_FIELDS
    else:
        extra["retrieve_children"] = False
        options["limit"] = _PAGE
    tells = session.generation.tells_origin
    asked = ("DATASET_READ", "pool.dataset.query")
    async for page in _paged(
        session,
        asked,
        filters,
        options,
        lambda raws: decoding.page(
            raws,
            decode.DatasetEntry,
            lambda e: str(e.id),
            lambda e: decode.dataset(e, tells_origin=tells),
        ),
    ):
        yield page


async def _paged(
    session: Session,
    asked: tuple[str, str],
    filters: Sequence[Any],
    options: Mapping[str, Any],
    decoded: Callable[[Sequence[msgspec.Raw]], Any],
) -> AsyncIterator[Page]:
    last = ""
    while True:
        after = [*filters, ["id", ">", last]] if last or not filters else filters
        raws = await session.permitted(*asked, after, options, type_=list[msgspec.Raw])
        page: Page = await decoded(raws)
        yield page
        if len(page) < _PAGE or "limit" not in options:
            return
        last = page[-1][0]


# Snapshots


async def _snapshots(session: Session, filters: Sequence[Any], decoding: _Decoding) -> AsyncIterator[Page]:
    """Snapshots with few properties: their full list is what brings a NAS to its knees."""
    options = {
        "extra": {"properties": list(session.generation.snapshot_properties)},
        "order_by": ["id"],
        "limit": _PAGE,
    }
    asked = ("SNAPSHOT_READ", session.generation.snapshots)
    async for page in _paged(
        session,
        asked,
        filters,
        options,
        lambda raws: decoding.page(raws, decode.SnapshotEntry, lambda e: str(e.id), decode.snapshot),
    ):
        yield page


async def snapshots_of(
    session: Session, datasets: Sequence[str], held: Mapping[str, Value]
) -> AsyncIterator[Page]:
    """All snapshots of these datasets, without those of their children; a dataset that is gone has none.

    26 opens the datasets directly. Older versions do so only for the names; for anything more they walk over
    all snapshots of all pools. So there the names are read, then the snapshots that are new: a few one by
    one, many by portions of datasets, and very many by one list of all.

    Args:
        datasets: best only those whose `snapshots_changed` has changed.
        held: what is known of snapshots by `dataset@name`; on older versions that is given back as it is.
    """
    portions, decoding = list(_portions(datasets)), _Decoding("", None)
    if session.generation.since >= (26, 0):
        for some in portions:
            async for page in _snapshots(session, [["dataset", "in", some]], decoding):
                yield page
        return
    names = [name for some in portions for name in await _names_of(session, some)]
    new = [name for name in names if name not in held]
    yield [(name, held[name]) for name in names if name in held]
    if len(new) <= _SINGLY:
        asked = ("SNAPSHOT_READ", session.generation.snapshots)
        options = {"extra": {"properties": list(session.generation.snapshot_properties)}}
        for name in new:
            raws = await session.permitted(*asked, [["id", "=", name]], options, type_=list[msgspec.Raw])
            yield await decoding.page(raws, decode.SnapshotEntry, lambda e: str(e.id), decode.snapshot)
        return
    wanted = frozenset(new)
    portions = list(_portions(sorted({name.partition("@")[0] for name in new})))
    filters: list[list[Any]] = [[["dataset", "in", some]] for some in portions]
    for each in filters if len(filters) <= _WALKS else [[]]:
        async for page in _snapshots(session, each, decoding):
            yield [one for one in page if one[0] in wanted]


async def _names_of(session: Session, datasets: Sequence[str]) -> list[str]:
    """The server takes the short way for exactly this `select` and these filters."""
    asked = ("SNAPSHOT_READ", session.generation.snapshots)
    entries: list[decode.NameEntry] = await session.permitted(
        *asked, [["dataset", "in", datasets]], {"select": ["name"]}, type_=list[decode.NameEntry]
    )
    return [each.name for each in entries]


def _portions(names: Sequence[str]) -> Iterator[list[str]]:
    """The names in portions that stay far below the longest message that the server reads."""
    some: list[str] = []
    size = 0
    for name in names:
        length = len(msgspec.json.encode(name)) + 1
        if some and (len(some) >= _NAMES or size + length > _NAMES_BYTES):
            yield some
            some, size = [], 0
        some.append(name)
        size += length
    if some:
        yield some


# The NAS itself


async def system(session: Session) -> truenas.System:
    """The NAS itself; what our role may not read, or this version does not tell, stays empty."""
    version = str(await session.call("system.version"))
    told: dict[str, Any] = {}
    for method, _, _ in system_reads(session.generation):
        told[method] = await _optional(session, method, *([], {}) if method.endswith(".query") else ())
    info, config = told["system.info"], told["iscsi.global.config"]
    return truenas.System(
        version,
        str(info.get("hostname") or "") if isinstance(info, Mapping) else "",
        decode.addresses(told["interface.query"]),
        str(config.get("basename") or "") if isinstance(config, Mapping) else "",
        _word(told["system.boot_id"]),
        _word(told["failover.status"]),
        decode.update(told.get("update.status")),
        decode.roles(told.get("auth.me")),
    )


def _word(answer: Any) -> str:
    return answer if isinstance(answer, str) else ""


async def _optional(session: Session, method: str, *params: Any) -> Any:
    """None if it cannot be told; an HA pair that is failing over, say, errs in `failover.status`."""
    try:
        return await session.call(method, *params)
    except CallFailed as error:
        if error.fault in (Fault.NOT_AUTHENTICATED, Fault.BUSY):
            raise
        return None


# Performance


async def performance(session: Session) -> truenas.Performance:
    """The latest sample of the graphs that netdata keeps (23.10+); `reporting.realtime` tells more.

    Raises:
        AccessDenied, SourceUnavailable: it cannot be told.
    """
    names = [["name", "in", ["disk", "arcsize", "memory"]]]
    role = "REPORTING_READ"
    graphs: list[decode.GraphEntry] = await session.permitted(
        role, "reporting.netdata_graphs", names, {}, type_=list[decode.GraphEntry]
    )
    wanted = [
        {"name": graph.name, "identifier": each}
        for graph in graphs
        for each in (graph.identifiers if graph.identifiers is not None else [None])
    ]
    if not wanted:
        return truenas.Performance()
    answers: list[decode.GraphData] = await session.permitted(
        role, "reporting.netdata_get_data", wanted, {"unit": "HOUR"}, type_=list[decode.GraphData]
    )
    return decode.netdata(graphs, answers)


# One object


async def read(kind: Kind, name: str, session: Session, nas: str, lists: Lists | None = None) -> Value | None:
    """One object as it is now; None if the NAS says that it does not exist.

    Args:
        lists: what several readings of a dataset's use share.

    Raises:
        NotTold: this version cannot be asked for such objects.
        AccessDenied, SourceUnavailable, CallFailed: it cannot be told now.
    """
    if absent(kind, session.generation):
        return None
    match kind:
        case Kind.DATASET:
            return await _read_dataset(session, name)
        case Kind.SNAPSHOT:
            return await _read_snapshot(session, name)
        case Kind.DATASET_USE:
            return await use(lists or Lists(session), name)
        case Kind.PERFORMANCE:
            return await performance(session)
        case Kind.POOL:
            return await _found(QUERIES[kind], [["name", "=", name]], session)
        case _ if kind in QUERIES and QUERIES[kind].by_id and kind is not Kind.NVME_SUBSYSTEM:
            return await _found(QUERIES[kind], [["id", "=", int(name)]], session)
        case _:
            async for page in listing(kind, session, nas):
                for each, value in page:
                    if each == name:
                        return value
            return None


async def _found(query: Query, filters: Sequence[Any], session: Session) -> Value | None:
    way = query.way(session.generation)
    if isinstance(way, Missing):
        raise NotTold(query.kind, way.reason)
    entries = await session.permitted(
        " or ".join(way.roles),
        way.method,
        filters,
        *way.params[1:],
        type_=list[query.entry],  # type: ignore[name-defined]
    )
    return query.value(entries[0]) if entries else None


async def _read_dataset(session: Session, path: str) -> Value | None:
    if session.generation.datasets is Engine.ZFS_RESOURCE and _RESOURCES not in session.denied:
        try:
            entries = await _resource_entries(session, path, list[decode.ResourceEntry], children=False)
        except AccessDenied:
            pass
        except SourceUnavailable as error:
            # A path that does not exist is a validation error here, not an empty list.
            if not isinstance(error.__cause__, CallFailed) or error.__cause__.fault is not Fault.NOT_FOUND:
                raise
            return None
        else:
            return decode.resource(entries[0]) if entries else None
    async for page in _pool_datasets(session, [["id", "=", path]], _Decoding("", None)):
        for _, value in page:
            return value
    return None


async def _read_snapshot(session: Session, path: str) -> Value | None:
    if session.generation.snapshot_detail == "zfs.resource.snapshot.query":
        query = {
            "paths": [path],
            "properties": list(session.generation.snapshot_properties),
            "get_user_properties": True,
            "get_holds": True,
        }
        try:
            resources = await session.permitted(
                "SNAPSHOT_READ",
                session.generation.snapshot_detail,
                query,
                type_=list[decode.SnapshotResource],
            )
        except SourceUnavailable as error:
            if not isinstance(error.__cause__, CallFailed) or error.__cause__.fault is not Fault.NOT_FOUND:
                raise
            return None
        return decode.snapshot_resource(resources[0]) if resources else None
    entries = await session.permitted(
        "SNAPSHOT_READ",
        session.generation.snapshot_detail,
        [["id", "=", path]],
        {"extra": {"holds": True}},
        type_=list[decode.SnapshotEntry],
    )
    tells = session.generation.tells_origin
    return decode.snapshot(entries[0], detailed=True, tells_origin=tells) if entries else None
