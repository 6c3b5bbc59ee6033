"""The clients of a NAS: nodes that have mounted, logged in or opened something.

They are what "in use" means, and the NAS learns of them by itself: no event tells that one
came or went. Which entries of `smb.status` and of NFSv4 a real server shows is open in the
contract; those here have what truetally and the web UI read.
"""

from __future__ import annotations

import errno

from truetally.lab.nas import nvmet
from truetally.lab.nas.failures import CallError
from truetally.lab.nas.machine import Machine, Row

_NODE = "10.0.0.11"


class Sessions:
    """Who uses the NAS; each method lets somebody come or go."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def login_iscsi(self, target: str, initiator: str, address: str = _NODE) -> Row:
        """An initiator logs in to a target, which is given by its name without the IQN."""
        if not self._machine.tables["iscsi.target"].where("name", target):
            raise CallError(f"there is no iSCSI target {target}", errno.ENOENT)
        return self._machine.connect_initiator(target, initiator, address)

    def logout_iscsi(self, target: str) -> None:
        """Every initiator logs out of a target."""
        self._machine.disconnect_initiators(target)

    def connect_nvme(self, subsystem: str, host: str, address: str = _NODE) -> Row:
        """A host, by its NQN, connects to an NVMe-oF subsystem, by its name (25.10+)."""
        return nvmet.connect_host(self._machine, self._subsystem(subsystem), host, address)

    def disconnect_nvme(self, subsystem: str) -> None:
        """Every host leaves an NVMe-oF subsystem, given by its name."""
        nvmet.disconnect_hosts(self._machine, self._subsystem(subsystem))

    def mount_nfs3(self, path: str, address: str = _NODE) -> Row:
        """A node mounts an exported path with NFS version 3."""
        row: Row = {"ip": address, "export": path}
        self._machine.nfs3_clients.append(row)
        return row

    def mount_nfs4(self, address: str = _NODE, *, path: str = "") -> Row:
        """A node mounts with NFS version 4; the NAS does not tell what, but which file (`path`) is open."""
        machine = self._machine
        number = max((int(each["id"]) for each in machine.nfs4_clients), default=0) + 1
        states = [{str(number): {"type": "open", "access": "rw", "filename": path}}] if path else []
        row: Row = {"id": str(number), "info": {"address": f"{address}:700"}, "states": states}
        machine.nfs4_clients.append(row)
        return row

    def unmount_nfs(self, address: str = _NODE) -> None:
        """A node has nothing mounted over NFS any more, of whatever version."""
        machine = self._machine
        machine.nfs3_clients[:] = [each for each in machine.nfs3_clients if each["ip"] != address]
        machine.nfs4_clients[:] = [
            each
            for each in machine.nfs4_clients
            if str(each["info"].get("address", "")).rpartition(":")[0] != address
        ]

    def connect_smb(self, share: str, address: str = _NODE) -> Row:
        """A node connects to an SMB share, given by its name."""
        row: Row = {"service": share, "machine": address, "session_id": str(_next(self._machine))}
        self._machine.smb_clients.append(row)
        return row

    def disconnect_smb(self, share: str) -> None:
        """Everybody leaves an SMB share."""
        clients = self._machine.smb_clients
        clients[:] = [each for each in clients if each["service"] != share]

    def open_files(self, dataset: str, process: str, pid: int = 4711) -> Row:
        """A process of the NAS itself has files open in a dataset."""
        self._machine.zfs.dataset(dataset)
        row: Row = {"pid": pid, "name": process, "service": None, "cmdline": None}
        self._machine.processes.setdefault(dataset, []).append(row)
        return row

    def close_files(self, dataset: str) -> None:
        """No process of the NAS has files open in a dataset any more."""
        self._machine.processes.pop(dataset, None)

    def _subsystem(self, name: str) -> int:
        for row in self._machine.tables["nvmet.subsys"].rows.values():
            if row["name"] == name:
                return int(row["id"])
        raise CallError(f"there is no NVMe-oF subsystem {name}", errno.ENOENT)


def _next(machine: Machine) -> int:
    return max((int(each["session_id"]) for each in machine.smb_clients), default=0) + 1
