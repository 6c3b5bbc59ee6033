"""Rows of a table as every service of the middleware reads and removes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from truetally.lab.nas.failures import InstanceNotFound
from truetally.lab.nas.machine import Machine, Row, Version
from truetally.lab.nas.query import checked
from truetally.lab.nas.table import Caller, asked, method

# What the middleware calls an instance in "does not exist"; of NVMe-oF inferred from its class names.
_NAMES: Mapping[str, str] = {
    "sharing.nfs": "SharingNFS",
    "sharing.smb": "SharingSMB",
    "iscsi.portal": "iSCSIPortal",
    "iscsi.initiator": "iSCSITargetAuthorizedInitiator",
    "iscsi.target": "iSCSITarget",
    "iscsi.extent": "iSCSITargetExtent",
    "iscsi.targetextent": "iSCSITargetToExtent",
    "nvmet.subsys": "NVMetSubsys",
    "nvmet.namespace": "NVMetNamespace",
    "nvmet.port": "NVMetPort",
    "nvmet.host": "NVMetHost",
    "nvmet.port_subsys": "NVMetPortSubsys",
    "nvmet.host_subsys": "NVMetHostSubsys",
    "pool.snapshottask": "PeriodicSnapshotTask",
    "replication": "ReplicationTask",
}


def the_row(machine: Machine, kind: str, row_id: Any) -> Row:
    """The row of this id.

    Raises:
        InstanceNotFound: there is none.
    """
    rows = machine.tables[kind].rows
    if not isinstance(row_id, int) or row_id not in rows:
        raise InstanceNotFound(f"{_NAMES[kind]} {row_id} does not exist")
    return rows[row_id]


def drop(machine: Machine, kind: str, row_id: int) -> bool:
    """Remove a row, and tell; True, as the services answer."""
    machine.tables[kind].remove(row_id)
    machine.tell("removed", f"{kind}.query", row_id)
    return True


def readable(
    kind: str,
    role: str,
    shown: Callable[[Machine, Row], Row],
    *,
    verbose: Callable[[Machine, Row], Row] | None = None,
    since: Version = (0, 0),
) -> None:
    """Put `query` and `get_instance` of a kind into the method table.

    Args:
        shown: a row as it is told.
        verbose: the same where a query asks for more by `extra.verbose`.
    """

    def query(caller: Caller, filters: Any = (), options: Any = None) -> Any:
        machine, wanted = caller.machine, asked(caller, filters, options)
        told = verbose if verbose is not None and wanted.option("verbose") else shown
        return wanted.apply(told(machine, row) for row in machine.tables[kind].rows.values())

    def get_instance(caller: Caller, id: Any, options: Any = None) -> Row:  # noqa: A002
        checked((), options)
        return shown(caller.machine, the_row(caller.machine, kind, id))

    method(f"{kind}.query", role, since=since)(query)
    method(f"{kind}.get_instance", role, since=since)(get_instance)
