"""What a NAS tells of its load: graphs over time, and a sample every few seconds.

No disk is ever read here, so the numbers are made up: each is a smooth function of the
clock and of what it is about, so that it moves, stays within what real hardware does, and
is the same for everyone who asks about the same moment. The columns of the graphs are
inferred, as the contract leaves them open (those of `cpu`, `load`, `memory`, `arcsize` and
`interface` are what the client `aiotruenas` looks for); the names of graphs are those that each
version's `reporting.netdata_get_data` accepts.
"""

from __future__ import annotations

import errno
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from truetally.lab.nas.failures import CallError, Invalid
from truetally.lab.nas.machine import Machine, Row
from truetally.lab.nas.table import Caller, asked, filled, method

_MEMORY = 64 << 30
_ARC = 24 << 30
_STEP_SECONDS = {"HOUR": 60, "DAY": 300, "WEEK": 3600, "MONTH": 14400, "YEAR": 86400}
_UNIT_SECONDS = {"HOUR": 3600, "DAY": 86400, "WEEK": 604800, "MONTH": 2592000, "YEAR": 31536000}
_DISK_BYTES_PER_SECOND = 80e6
_BYTES_PER_OPERATION = 64 << 10


def _wave(name: str, seconds: float) -> float:
    """A number between 0 and 1 that moves with time, with a pace and phase of its own."""
    seed = zlib.crc32(name.encode())
    slow, fast = 300 + seed % 600, 17 + seed % 23
    phase = seed % 360
    return 0.5 + 0.35 * math.sin(seconds / slow + phase) + 0.15 * math.sin(seconds / fast + phase)


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph that can be asked for; `sample` tells its columns at a moment."""

    title: str
    unit: str
    columns: tuple[str, ...]
    sample: Callable[[str, float], tuple[float, ...]]
    per: Callable[[Machine], list[str]] | None = None
    until: tuple[int, int] = (99, 0)


def disks(machine: Machine) -> list[str]:
    """The disks of all imported pools."""
    return [each.disk for pool in machine.zfs.imported() for each in pool.disks()]


def _interfaces(_: Machine) -> list[str]:
    return ["eno1"]


def disk_load(disk: str, seconds: float) -> tuple[float, float]:
    """What a disk reads and writes, in bytes per second."""
    return (
        _wave(f"{disk} read", seconds) * _DISK_BYTES_PER_SECOND,
        _wave(f"{disk} write", seconds) * _DISK_BYTES_PER_SECOND / 2,
    )


def arc_bytes(seconds: float) -> int:
    """How large the ARC is."""
    return int(_ARC * (0.7 + 0.3 * _wave("arc", seconds)))


def _kib(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(value / 1024 for value in values)


_GRAPHS: Mapping[str, Graph] = {
    "cpu": Graph("CPU Usage", "%CPU", ("cpu",), lambda _, at: (60 * _wave("cpu", at),)),
    "disk": Graph(
        "Disk I/O ({identifier})",
        "Kibibytes/s",
        ("reads", "writes"),
        lambda disk, at: _kib(disk_load(disk, at)),
        disks,
    ),
    "interface": Graph(
        "Interface Traffic ({identifier})",
        "Kilobits/s",
        ("received", "sent"),
        lambda name, at: (9e5 * _wave(f"{name} in", at), 9e5 * _wave(f"{name} out", at)),
        _interfaces,
    ),
    "load": Graph(
        "System Load Average",
        "Processes",
        ("shortterm", "midterm", "longterm"),
        lambda _, at: (4 * _wave("load", at), 2 + 2 * _wave("load", at / 5), 2 + _wave("load", at / 15)),
    ),
    "memory": Graph(
        "Physical memory available",
        "Bytes",
        ("available",),
        lambda _, at: (_MEMORY - arc_bytes(at) - (8 << 30),),
    ),
    "uptime": Graph("System Uptime", "Seconds", ("uptime",), lambda _, at: (at,)),
    "arcsize": Graph("ZFS ARC Size", "Bytes", ("size",), lambda _, at: (arc_bytes(at),)),
    "arcrate": Graph(
        "ZFS ARC Hits Rate",
        "Events/s",
        ("hits", "misses"),
        lambda _, at: (9000 * _wave("hits", at), 300 * _wave("misses", at)),
        until=(26, 0),
    ),
    "disktemp": Graph(
        "Disk Temperature ({identifier})",
        "Celsius",
        ("temperature_value",),
        lambda disk, at: (30 + 12 * _wave(f"{disk} heat", at / 10),),
        disks,
    ),
}


def _graph_rows(machine: Machine) -> list[Row]:
    old = machine.number < (23, 10)
    rows = []
    for name, graph in _GRAPHS.items():
        if machine.number < graph.until:
            row: Row = {
                "name": name,
                "title": graph.title,
                "vertical_label": graph.unit,
                "identifiers": graph.per(machine) if graph.per is not None else None,
            }
            rows.append(row | ({"stacked": False, "stacked_show_total": False} if old else {}))
    return rows


@method("reporting.netdata_graphs", "REPORTING_READ", since=(23, 10))
@method("reporting.graphs", "REPORTING_READ")
def graphs(caller: Caller, filters: Any = (), options: Any = None) -> Any:
    """The graphs that there are, with what each is drawn for."""
    query = asked(caller, filters, options)
    return query.apply(_graph_rows(caller.machine))


@method("reporting.netdata_get_data", "REPORTING_READ", since=(23, 10))
@method("reporting.get_data", "REPORTING_READ")
def get_data(caller: Caller, graphs: Any, query: Any = None) -> list[Row]:
    """Graphs over the last hour, day and so on, or from a start to an end in seconds since 1970."""
    given = _asked_of_time(query)
    if not isinstance(graphs, list) or not graphs:
        raise Invalid.at("graphs", "List should have at least 1 item after validation, not 0")
    return [_data(caller.machine, each, given) for each in graphs]


@method("reporting.netdata_graph", "REPORTING_READ", since=(23, 10))
def netdata_graph(caller: Caller, name: Any, query: Any = None) -> list[Row]:
    """One graph, for each of what it is drawn for; the text of the refusal is inferred."""
    graph, machine = _GRAPHS.get(name), caller.machine
    if graph is None or machine.number >= graph.until:
        raise CallError(f"{name!r} is not a valid graph plugin.", errno.ENOENT)
    identifiers = graph.per(machine) if graph.per is not None else [None]
    given = _asked_of_time(query)
    return [_data(machine, {"name": name, "identifier": each}, given) for each in identifiers]


def _asked_of_time(query: Any) -> Row:
    defaults: Row = {"unit": None, "page": 1, "aggregate": True, "start": None, "end": None}
    return filled(query or {}, defaults, where="query")


def _data(machine: Machine, asked: Row, given: Row) -> Row:
    filled(asked, {"name": "", "identifier": None}, where="graphs", required=["name"])
    graph, identifier = _GRAPHS.get(asked["name"]), asked.get("identifier")
    if graph is None or machine.number >= graph.until:
        raise Invalid.at("graphs.name", f"{asked['name']!r} is not a valid graph name")
    if graph.per is not None and identifier not in graph.per(machine):
        raise CallError(f"{identifier!r} is not a valid identifier")
    begin, end, step = _span(machine.now(), given)
    times = range(begin, end + 1, step)
    values = [graph.sample(identifier or "", float(at)) for at in times]
    row: Row = {
        "name": asked["name"],
        "identifier": identifier,
        "aggregations": _aggregated(machine, graph, values if given["aggregate"] else []),
        "start": begin,
        "end": end,
    }
    if machine.number < (23, 10):
        # The older engine (rrd) gives a step instead of a time with each row.
        return row | {"data": [list(each) for each in values], "legend": [*graph.columns], "step": step}
    data = [[at, *each] for at, each in zip(times, values, strict=True)]
    return row | {"data": data, "legend": ["time", *graph.columns]}


def _span(now: datetime, given: Row) -> tuple[int, int, int]:
    until = int(now.timestamp())
    if given["start"] is not None:
        end = int(given["end"] if given["end"] is not None else until)
        begin = int(given["start"])
        return begin, end, max((end - begin) // 60, 1)
    unit = given["unit"] or "HOUR"
    if unit not in _UNIT_SECONDS:
        raise Invalid.at("query.unit", "Input should be 'HOUR', 'DAY', 'WEEK', 'MONTH' or 'YEAR'")
    end = until - (max(given["page"], 1) - 1) * _UNIT_SECONDS[unit]
    return end - _UNIT_SECONDS[unit], end, _STEP_SECONDS[unit]


def _aggregated(machine: Machine, graph: Graph, values: list[tuple[float, ...]]) -> Row:
    columns = dict(zip(graph.columns, zip(*values, strict=True), strict=True)) if values else {}
    found: Row = {
        "min": {name: min(column) for name, column in columns.items()},
        "mean": {name: sum(column) / len(column) for name, column in columns.items()},
        "max": {name: max(column) for name, column in columns.items()},
    }
    if machine.number < (25, 4):
        # By column, without its name (schemas up to 24.10).
        return {kind: [*each.values()] for kind, each in found.items()}
    return found


def realtime(machine: Machine) -> Row:
    """The sample of this moment, in the form of the version (22.12 to 24.10 inferred from names alone)."""
    at = machine.now().timestamp()
    fields: Row = {
        "cpu": {"cpu": {"usage": 60 * _wave("cpu", at), "temp": None}},
        "interfaces": {"eno1": {"received_bytes_rate": 1e8 * _wave("in", at), "link_state": "LINK_STATE_UP"}},
    }
    size = arc_bytes(at)
    if machine.number < (25, 4):
        ratio = 0.9 + 0.1 * _wave("hits", at)
        fields["zfs"] = {"arc_max_size": _ARC, "arc_size": size, "cache_hit_ratio": ratio}
        fields["memory"] = {"classes": {"arc": size}, "extra": {}}
        fields["virtual_memory"] = {"total": _MEMORY, "available": _MEMORY - size - (8 << 30)}
        fields["disks"] = _disk_sum(machine, at)
        return fields | {"failed_to_connect": False}
    fields["zfs"] = _arc(at)
    fields["memory"] = {
        "arc_size": size,
        "arc_free_memory": _ARC - size,
        "arc_available_memory": _ARC - size,
        "physical_memory_total": _MEMORY,
        "physical_memory_available": _MEMORY - size - (8 << 30),
    }
    fields["disls" if machine.version == "25.10" else "disks"] = _disk_sum(machine, at)
    if machine.number >= (25, 10):
        fields["pools"] = {
            pool.name: _usage(pool.size_bytes, pool.root.used_bytes) for pool in machine.zfs.imported()
        }
    return fields


def _usage(total: int, used: int) -> Row:
    return {"available": total - used, "used": used, "total": total}


def _disk_sum(machine: Machine, at: float) -> Row:
    loads = [disk_load(each, at) for each in disks(machine)]
    read, written = sum(load[0] for load in loads), sum(load[1] for load in loads)
    return {
        "busy": 100 * _wave("busy", at),
        "read_bytes": read,
        "write_bytes": written,
        "read_ops": read / _BYTES_PER_OPERATION,
        "write_ops": written / _BYTES_PER_OPERATION,
    }


def _arc(at: float) -> Row:
    found: Row = {}
    total = 0
    for kind in ("data", "metadata"):
        hits = int(4000 * _wave(f"{kind} hits", at))
        waiting, misses = hits // 50, int(150 * _wave(f"{kind} misses", at))
        every = max(hits + waiting + misses, 1)
        total += every
        found[f"demand_{kind}_accesses_per_second"] = every
        for name, count in (("hit", hits), ("io_hit", waiting), ("miss", misses)):
            plural = "misses" if name == "miss" else f"{name}s"
            found[f"demand_{kind}_{plural}_per_second"] = count
            found[f"demand_{kind}_{name}_percentage"] = 100 * count // every
    found["demand_accesses_per_second"] = total
    none = ["l2arc_hits_per_second", "l2arc_misses_per_second", "total_l2arc_accesses_per_second"]
    none += ["l2arc_access_hit_percentage", "l2arc_miss_percentage"]
    none += ["bytes_read_per_second_from_the_l2arc", "bytes_written_per_second_to_the_l2arc"]
    return found | dict.fromkeys(none, 0)
