"""Does `truetally explain` show every link of a chain, in order, and say what proves it?"""

from __future__ import annotations

import pytest

from truetally.graph import explain
from truetally.model import truenas
from truetally.model.refs import Kind
from worlds import (
    NAME,
    NAS,
    NQN,
    PATH,
    a_claim,
    a_dataset,
    a_namespace,
    a_pool,
    a_share,
    a_subsystem,
    a_volume,
    a_zvol,
    an_nvme_session,
    an_nvme_volume,
    ref_of,
    world,
)

WHOLE = (a_pool(), a_claim(), an_nvme_volume(), an_nvme_session(), a_subsystem(), a_namespace(), a_zvol())


def links(subject, *values, **how):
    return {link.ref.kind: link for link in explain.links(world(*values, **how), ref_of(subject))}


@pytest.mark.parametrize("subject", [a_zvol(), an_nvme_volume(), a_namespace(), an_nvme_session()], ids=type)
def test_the_chain_of_an_nvme_volume_is_walked_from_claim_to_zvol(subject):
    assert list(links(subject, *WHOLE)) == [
        Kind.PERSISTENT_VOLUME_CLAIM,
        Kind.PERSISTENT_VOLUME,
        Kind.NVME_SESSION,
        Kind.NVME_SUBSYSTEM,
        Kind.NVME_NAMESPACE,
        Kind.DATASET,
    ]


def test_each_link_of_an_nvme_volume_says_what_it_is_and_what_proves_it():
    found = links(a_zvol(), *WHOLE)
    told = {kind: (link.role, link.state, link.detail, link.proof) for kind, link in found.items()}
    assert told[Kind.NVME_NAMESPACE] == (
        "NVMe-oF namespace",
        "enabled",
        f"NSID 1 of {PATH}",
        "its device is the zvol",
    )
    assert told[Kind.NVME_SUBSYSTEM][:3] == ("NVMe-oF subsystem", "", NQN)
    assert told[Kind.NVME_SESSION][:2] == ("NVMe-oF session", "live")
    assert found[Kind.PERSISTENT_VOLUME].proof == "R5: its NQN leads to the namespace of the zvol"
    assert {link.strength for link in found.values() if link.ref.kind is not Kind.DATASET} == {"exact"}


def test_a_dataset_says_which_volume_leads_to_it():
    found = links(an_nvme_volume(), *WHOLE)
    assert found[Kind.DATASET].proof.startswith(f"PersistentVolume {NAME}: R5: its NQN is that of subsystem")


def test_a_namespace_that_is_not_read_now_is_told_as_stale():
    found = links(a_zvol(), *WHOLE, incomplete=[(NAS, Kind.NVME_NAMESPACE)])
    assert "may be stale" in found[Kind.NVME_NAMESPACE].detail


def test_tasks_and_clients_of_a_dataset_are_links_of_it():
    snapshots = truenas.SnapshotTask(3, PATH, False, False, "auto", "0 0 * * *")
    replication = truenas.ReplicationTask(4, "nightly", "PUSH", (PATH,), "b/x", False, True, "SSH")
    client = truenas.NfsClient("10.0.0.7", 3, f"/mnt/{PATH}")
    values = (a_pool(), a_volume(), a_share(), a_dataset(), snapshots, replication, client)
    found = links(a_volume(), *values)
    assert (found[Kind.SNAPSHOT_TASK].state, found[Kind.SNAPSHOT_TASK].proof) == (
        "disabled",
        "names the dataset",
    )
    assert found[Kind.REPLICATION_TASK].detail == "nightly"
    assert found[Kind.NFS_CLIENT].proof == f"mounts /mnt/{PATH}"
