"""Recorded HTTP of the real democratic-csi, replayed against the lab's REST.

The traces stand in `traces/`: what freenas-api-nfs, -smb and -iscsi 1.9.4 asked of a 24.10, and
freenas-api-nvmeof of the branch `next` of a 25.10. Ids differ between the recorded NAS and the
lab, so those that the lab gives are put where the driver would have put them.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import aiohttp
from yarl import URL

_TRACES = Path(__file__).parent / "traces"
PROTOCOLS = ("nfs", "smb", "iscsi", "nvmeof")
_TOP = "/api/v2.0"
_WITHIN = 10.0
_PREFIX = "democratic-csi:"
# Which user property the driver keeps the id in that it was given for a new object, and where it
# names that object again.
_MARKS = {
    "sharing/nfs": "freenas_nfs_share_id",
    "sharing/smb": "freenas_smb_share_id",
    "iscsi/target": "freenas_iscsi_target_id",
    "iscsi/extent": "freenas_iscsi_extent_id",
    "iscsi/targetextent": "freenas_iscsi_targettoextent_id",
    "nvmet/subsys": "freenas_nvmeof_subsystem_id",
    "nvmet/namespace": "freenas_nvmeof_namespace_id",
}
_REFERENCES = {
    "iscsi/targetextent": {"target": "iscsi/target", "extent": "iscsi/extent"},
    "nvmet/namespace": {"subsys_id": "nvmet/subsys"},
    "nvmet/port_subsys": {"subsys_id": "nvmet/subsys"},
}
JOBS = "core/get_jobs"


def load(protocol, version=None):
    """A trace; for a version that has lost what 1.9.4 asks for, as `next` would have asked it."""
    trace = json.loads((_TRACES / f"{protocol}.json").read_text())
    if version is not None and trace["truenas"] < "25.10" <= version:
        for call in trace["calls"]:
            call["http"] = [_as_next_asks(http) for http in call["http"]]
    return trace


# What 25.10 wants among the options of a share (democratic-csi `next`).
_SMB_PLAIN = ("name", "path", "browsable")


def _as_next_asks(http):
    path = http["p"].replace("/zfs/snapshot", "/pool/snapshot")
    body = http.get("b")
    if http["m"] == "POST" and path.endswith("/sharing/smb"):
        options = {name: value for name, value in body.items() if name not in _SMB_PLAIN}
        body = {name: body[name] for name in _SMB_PLAIN if name in body}
        body |= {"purpose": "LEGACY_SHARE", "options": {"purpose": "LEGACY_SHARE", **options}}
    return {**http, "p": path} | ({} if body is None else {"b": body})


@dataclass
class Exchange:
    """One request as it was sent to the lab, with what the lab answered and what was recorded."""

    method: str
    path: str
    query: dict
    sent: object
    expected: int
    status: int
    body: object
    text: str

    @property
    def resource(self):
        """The path without `/api/v2.0/` and without the id of a member."""
        return self.path.removeprefix(f"{_TOP}/").partition("/id/")[0].strip("/")

    @property
    def told(self):
        return f"{self.method} {unquote(self.path)} {self.query or ''} {self.sent or ''}: {self.text[:300]}"


@dataclass
class Call:
    """One CSI call with its exchanges.

    Attributes:
        rpc: its name, with `label` saying which of several it is.
        request: what Kubernetes asked for: `name`, `volume_id`, `snapshot_id`, …
        volume: what CreateVolume gave back: `volume_id` and `volume_context`, else None.
        snapshot: what CreateSnapshot gave back: `snapshot_id` and `source_volume_id`, else None.
        error: what the driver said instead, else None.
    """

    rpc: str
    label: str
    request: dict
    volume: dict | None
    snapshot: dict | None
    error: str | None
    exchanges: list[Exchange] = field(default_factory=list)


class Replay:
    """The calls of a trace in order; each has been made when it is yielded.

        async for call in Replay(nas, load("nfs")): ...

    An answer with another status than the recorded one is an AssertionError.

    Attributes:
        before: called with the name and the request of a CSI call before it is made.
        after_exchange: awaited after each request.
    """

    def __init__(self, nas, trace, *, key=None):
        self.nas = nas
        self.trace = trace
        self._ids = {}
        self._headers = {"Authorization": f"Bearer {key or nas.add_key('root', ('FULL_ADMIN',))}"}
        self._base = nas.url.replace("ws", "http", 1)
        self.before = lambda rpc, request: None
        self.after_exchange = None

    def prepare(self):
        """What an administrator has set up before the driver comes."""
        self.nas.call("iscsi.portal.create", {"listen": [{"ip": "0.0.0.0", "port": 3260}]})
        self.nas.call("iscsi.initiator.create", {"comment": "all"})
        if self.nas.machine.number >= (25, 10):
            base = "nqn.2011-06.com.truenas:uuid:11111111-2222-3333-4444-555555555555"
            self.nas.call("nvmet.global.update", {"basenqn": base})
            self.nas.call("nvmet.port.create", {"addr_trtype": "TCP", "addr_traddr": "0.0.0.0"})
        return self

    async def __aiter__(self):
        async with aiohttp.ClientSession(headers=self._headers) as session:
            for recorded in self.trace["calls"]:
                call = Call(
                    recorded["rpc"],
                    recorded["label"] or "",
                    recorded["request"],
                    recorded.get("volume"),
                    recorded.get("snapshot"),
                    recorded.get("error"),
                )
                self.before(call.rpc, call.request)
                for number, http in enumerate(recorded["http"]):
                    call.exchanges.append(await self._exchange(session, http))
                    if self.after_exchange is not None:
                        await self.after_exchange(call.exchanges[-1])
                    self._learn(call.exchanges[-1], recorded["http"][number + 1 :])
                yield call

    async def _exchange(self, session, http):
        method, query = http["m"], dict(http.get("q", {}))
        body, path = self._translated(http)
        if path.endswith(f"/{JOBS}"):
            query["id"] = str(self._ids[JOBS, query["id"]])
        deadline = time.monotonic() + _WITHIN
        while True:
            exchange = await self._send(session, method, path, query, body, http["s"])
            assert exchange.status == exchange.expected, exchange.told
            if exchange.resource != JOBS or exchange.body[0]["state"] not in ("WAITING", "RUNNING"):
                return exchange
            assert time.monotonic() < deadline, exchange.told
            await asyncio.sleep(0.01)

    async def _send(self, session, method, path, query, body, expected):
        url = (
            URL(self._base + path, encoded=True).with_query(query)
            if query
            else URL(self._base + path, encoded=True)
        )
        async with session.request(method, url, json=body) as response:
            text = await response.text()
            told = json.loads(text) if text.startswith(("{", "[", '"')) or text.isdigit() else text
            return Exchange(method, path, query, body, expected, response.status, told, text)

    def _translated(self, http):
        """Body and path with the lab's ids."""
        body, path = http.get("b"), http["p"]
        resource, _, member = path.removeprefix(f"{_TOP}/").partition("/id/")
        if resource in _MARKS and member:
            path = f"{_TOP}/{resource}/id/{self._ids[resource, member]}"
        if not isinstance(body, dict):
            return body, path
        body = json.loads(json.dumps(body))
        for name, other in _REFERENCES.get(resource, {}).items():
            body[name] = self._ids[other, str(body[name])]
        for change in body.get("user_properties_update", []):
            kind = _kind_of(change["key"])
            if kind is not None and "value" in change:
                change["value"] = type(change["value"])(self._ids[kind, str(change["value"])])
        return body, path

    def _learn(self, exchange, coming):
        """Find out by which id the trace goes on speaking of what was just made."""
        if exchange.method != "POST" or exchange.status != 200:
            return
        if exchange.resource in _MARKS:
            mark = _PREFIX + _MARKS[exchange.resource]
            recorded = next(_values(coming, mark), None)
            assert recorded is not None, exchange.told
            self._ids[exchange.resource, str(recorded)] = exchange.body["id"]
        elif isinstance(exchange.body, int) and not isinstance(exchange.body, bool):
            asked = next(http for http in coming if http["p"].endswith(f"/{JOBS}"))
            self._ids[JOBS, asked["q"]["id"]] = exchange.body


def _kind_of(key):
    return next((kind for kind, mark in _MARKS.items() if key == _PREFIX + mark), None)


def _values(coming, key):
    for http in coming:
        for change in (http.get("b") or {}).get("user_properties_update", []):
            if change["key"] == key and "value" in change:
                yield change["value"]


def state(nas):
    """What the lab holds, in the words of the samples' states; ids are left out."""
    rows = {
        kind: list(nas.machine.tables[kind].rows.values())
        for kind in (
            "sharing.nfs",
            "sharing.smb",
            "iscsi.target",
            "iscsi.extent",
            "iscsi.targetextent",
            "nvmet.subsys",
            "nvmet.namespace",
        )
    }
    subsystems = {row["id"]: row["name"] for row in rows["nvmet.subsys"]}
    everything = list(nas.zfs.visible())
    return {
        "datasets": {each.name: {"type": each.kind, "marks": dict(each.user)} for each in everything},
        "snapshots": {
            taken.path: {"marks": dict(taken.user), "deferred": taken.defer_destroy}
            for each in everything
            for taken in each.snapshots.values()
        },
        "nfs": sorted(row["path"] for row in rows["sharing.nfs"]),
        "smb": {row["name"]: row["path"] for row in rows["sharing.smb"]},
        "targets": sorted(row["name"] for row in rows["iscsi.target"]),
        "extents": {row["name"]: row["disk"] for row in rows["iscsi.extent"]},
        "links": len(rows["iscsi.targetextent"]),
        "subsystems": sorted(subsystems.values()),
        "namespaces": {row["device_path"]: subsystems[row["subsys_id"]] for row in rows["nvmet.namespace"]},
    }


def without_ids(held):
    """A state with `#` for every id that a mark holds."""
    copy = json.loads(json.dumps(held))
    for each in copy["datasets"].values():
        for key in each["marks"]:
            if _kind_of(key) is not None:
                each["marks"][key] = "#"
    return copy
