"""Does newer evidence win, does absence need a full list, and is kinship found by every form of identity?"""

from __future__ import annotations

import pytest

from truetally.csi import democratic_csi as csi
from truetally.graph.graph import Changes, Graph
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.memories import Memory, MemoryKind
from truetally.model.observations import Gone, Listed, Lost, Trouble
from truetally.model.refs import Kind, Ref
from worlds import (
    CLUSTER,
    NAME,
    NAS,
    PARENT,
    PATH,
    UID,
    a_claim,
    a_content,
    a_csi_source,
    a_dataset,
    a_namespace,
    a_snapshot,
    a_subsystem,
    a_volume,
    a_zvol,
    an_nvme_session,
    an_nvme_volume,
    properties,
    ref_of,
    seen,
)

DATASET = ref_of(a_dataset())


def graph_of(*values, doubt_for=3600.0):
    graph = Graph(doubt_for)
    for value in values:
        graph.apply(seen(value), Changes())
    return graph


def applied(graph, observation):
    changes = Changes()
    graph.apply(observation, changes)
    return changes


def listed(*names, kind=Kind.DATASET, at=2.0):
    return Listed(NAS, kind, frozenset(names), at)


# Evidence in its order


def test_an_older_answer_does_not_overwrite_a_newer_one():
    graph = graph_of()
    graph.apply(seen(a_dataset(used_bytes=2), 5.0), Changes())
    graph.apply(seen(a_dataset(used_bytes=1), 4.0), Changes())
    assert graph.node(DATASET).value.used_bytes == 2


def test_an_answer_from_before_its_destruction_does_not_bring_an_object_back():
    graph = graph_of(a_dataset())
    graph.apply(Gone(DATASET, 5.0), Changes())
    graph.apply(seen(a_dataset(), 4.0), Changes())
    assert graph.node(DATASET) is None
    graph.apply(seen(a_dataset(), 6.0), Changes())
    assert graph.node(DATASET) is not None


def test_a_list_removes_what_it_lacks_but_not_what_was_seen_after_it_was_asked_for():
    graph = graph_of(a_dataset("tank/old"))
    graph.apply(seen(a_dataset("tank/new"), 3.0), Changes())
    graph.apply(listed(at=2.0), Changes())
    assert sorted(graph.nodes(NAS, Kind.DATASET)) == ["tank/new"]


def test_what_is_seen_unchanged_makes_nothing_dirty():
    graph = graph_of(a_dataset())
    assert applied(graph, seen(a_dataset(), 9.0)).refs == set()
    assert graph.node(DATASET).asked_at == 9.0


# Absence


def test_absence_is_proven_from_the_end_of_a_full_list_until_the_source_is_lost():
    graph = graph_of()
    assert not graph.proves_absence(NAS, Kind.DATASET)
    graph.apply(listed(), Changes())
    assert graph.proves_absence(NAS, Kind.DATASET)
    graph.apply(Lost(NAS, Kind.DATASET, Trouble.UNREACHABLE, "off", 3.0), Changes())
    assert not graph.proves_absence(NAS, Kind.DATASET)
    assert graph.count(Kind.DATASET) == 0


@pytest.mark.parametrize(("left", "believed"), [(4, False), (5, True)])
def test_a_list_that_has_lost_more_than_half_is_doubted(left, believed):
    names = [f"tank/{n}" for n in range(10)]
    graph = graph_of(*(a_dataset(name) for name in names))
    graph.apply(listed(*names), Changes())
    graph.apply(listed(*names[:left], at=3.0), Changes())
    assert graph.proves_absence(NAS, Kind.DATASET) is believed


def test_a_doubted_list_is_believed_when_a_later_one_agrees_after_the_grace():
    names = [f"tank/{n}" for n in range(10)]
    graph = graph_of(*(a_dataset(name) for name in names), doubt_for=60.0)
    graph.apply(listed(*names), Changes())
    graph.apply(listed(at=3.0), Changes())
    graph.apply(listed(at=30.0), Changes())
    assert not graph.proves_absence(NAS, Kind.DATASET)
    graph.apply(listed(at=64.0), Changes())
    assert graph.proves_absence(NAS, Kind.DATASET)


def test_a_doubt_survives_the_loss_of_the_source():
    names = [f"tank/{n}" for n in range(10)]
    graph = graph_of(*(a_dataset(name) for name in names))
    graph.apply(listed(*names), Changes())
    graph.apply(Lost(NAS, Kind.DATASET, Trouble.UNREACHABLE, "off", 3.0), Changes())
    graph.apply(listed(at=4.0), Changes())
    assert not graph.proves_absence(NAS, Kind.DATASET)


# Kinship


def iscsi_chain():
    return [
        truenas.IscsiTarget(5, "CSI-X"),
        truenas.IscsiExtent(6, "csi-x", "DISK", PATH),
        truenas.IscsiTargetExtent(7, 5, 6, 0),
    ]


KIN = {
    "an NFS export": (a_volume("x", claim=None, csi=a_csi_source("y", share=f"/mnt/{PATH}")), a_dataset()),
    "a handle": (a_volume("x", claim=None, csi=a_csi_source(share="", server="")), a_dataset()),
    "the driver's own property": (a_volume(claim=None), a_dataset("tank/t", user_properties=properties())),
    "a claim's uid": (a_claim(volume_name=""), a_dataset()),
    "a reserved claim": (a_claim(uid="other", volume_name=""), a_volume()),
    "an attachment": (k8s.VolumeAttachment("a", a_volume().created_at, "d", "n", NAME), a_volume()),
    "a pod and its claim": (k8s.Pod("default", "p", "u", claims=("data",)), a_claim()),
    "a zvol and its extent": (iscsi_chain()[1], a_dataset()),
    "a link and its target": (iscsi_chain()[2], iscsi_chain()[0]),
    "an IQN": (
        a_volume("x", claim=None, csi=a_csi_source("y", node_attach_driver="iscsi", iqn="iqn.2005:csi-x")),
        iscsi_chain()[0],
    ),
    "a session": (truenas.IscsiSession("i", "a", "iqn.2005:csi-x"), iscsi_chain()[0]),
    "an NQN": (an_nvme_volume(handle="y", name="x", claim=None), a_subsystem()),
    "a namespace and its zvol": (a_namespace(f"zvol/{PATH}"), a_zvol()),
    "a namespace and its subsystem": (a_namespace(), a_subsystem()),
    "an NVMe-oF session": (an_nvme_session(), a_subsystem()),
    "an NFS client": (truenas.NfsClient("10.0.0.7", 3, f"/mnt/{PATH}"), a_dataset()),
    "an SMB client": (truenas.SmbClient("pc", "Media"), truenas.SmbShare(1, "media", "/mnt/tank/x")),
}


@pytest.mark.parametrize("how", KIN)
def test_two_objects_are_kin_by(how):
    one, other = KIN[how]
    graph = graph_of(one, other)
    assert ref_of(other) in graph.neighbours(ref_of(one))
    assert ref_of(one) in graph.neighbours(ref_of(other))


def test_a_session_reaches_its_zvol():
    session = truenas.IscsiSession("i", "a", "iqn.2005:csi-x")
    graph = graph_of(session, *iscsi_chain(), a_dataset())
    assert DATASET in graph.related(ref_of(session))


def test_an_nvme_session_reaches_its_zvol_and_the_zvol_its_volume():
    volume = an_nvme_volume(handle="y", name="x", claim=None)
    graph = graph_of(an_nvme_session(), a_subsystem(), a_namespace(), a_zvol(), volume)
    assert DATASET in graph.related(ref_of(an_nvme_session()))
    assert ref_of(volume) in graph.related(DATASET)


def test_subsystems_of_the_same_id_on_two_nas_are_no_kin():
    graph = graph_of(a_namespace())
    graph.apply(seen(a_subsystem("another"), source="nas2"), Changes())
    assert graph.neighbours(ref_of(a_namespace())) == set()


def test_a_task_makes_the_datasets_dirty_that_it_names_and_does_not_join_them():
    task = truenas.ReplicationTask(1, "t", "PUSH", (PATH, f"{PARENT}/other"), "b", False, True, "SSH")
    other = ref_of(a_dataset(f"{PARENT}/other"))
    graph = graph_of(task, a_dataset(), a_dataset(f"{PARENT}/other"))
    assert graph.neighbours(ref_of(task)) == {DATASET, other}
    assert graph.related(DATASET) == {DATASET}


def test_siblings_under_one_parent_are_no_kin():
    graph = graph_of(a_dataset(), a_dataset(f"{PARENT}/other"))
    assert graph.related(DATASET) == {DATASET}


def test_a_pod_with_two_volumes_does_not_join_them():
    pod = k8s.Pod("default", "p", "u", claims=("data", "other"))
    other = a_claim("other", "another-uid", volume_name="pv-other")
    graph = graph_of(pod, a_claim(), other)
    assert ref_of(other) not in graph.related(ref_of(a_claim()))


def test_a_clone_makes_its_source_dirty():
    graph = graph_of(a_dataset())
    clone = a_dataset(f"{PARENT}/clone", origin=f"{PATH}@s")
    graph.apply(seen(clone), Changes())
    assert DATASET in graph.neighbours(ref_of(clone))


def test_a_snapshot_makes_its_dataset_dirty():
    graph = graph_of(a_dataset(), a_snapshot())
    assert DATASET in graph.neighbours(ref_of(a_snapshot()))


def test_what_a_dropped_source_has_said_is_forgotten():
    graph = graph_of(a_dataset(), a_volume())
    graph.apply(listed(PATH), Changes())
    graph.drop_source(NAS, Changes())
    assert graph.node(DATASET) is None
    assert not graph.proves_absence(NAS, Kind.DATASET)
    assert graph.node(Ref(CLUSTER, Kind.PERSISTENT_VOLUME, NAME)) is not None
    assert graph.sharing(f"p:{PATH}") == {Ref(CLUSTER, Kind.PERSISTENT_VOLUME, NAME)}


# What outlives its object


def test_a_volume_is_remembered_when_it_is_gone_and_written_down_once_and_when_it_goes():
    graph = graph_of(a_volume(reclaim_policy="Retain"))
    memory = Memory(MemoryKind.VOLUME, NAME, CLUSTER, True)
    assert graph.fresh_memories() == [memory]
    graph.apply(seen(a_volume(reclaim_policy="Retain", phase="Released"), 2.0), Changes())
    assert graph.fresh_memories() == [memory]
    graph.apply(Gone(ref_of(a_volume()), 3.0), Changes())
    assert graph.fresh_memories() == [memory]
    assert graph.remembered(MemoryKind.VOLUME, NAME) == memory


def test_what_was_remembered_before_a_restart_is_known_and_not_written_again():
    memory = Memory(MemoryKind.VOLUME, NAME, CLUSTER, False)
    graph = graph_of()
    graph.recall([memory])
    graph.apply(seen(a_volume()), Changes())
    assert graph.fresh_memories() == []


def test_only_a_retained_snapshot_is_remembered():
    graph = graph_of(a_content(), a_content(name="kept", deletion_policy="Retain", snapshot_handle="v@kept"))
    assert graph.fresh_memories() == [Memory(MemoryKind.SNAPSHOT, "v@kept", CLUSTER, True)]


# How things are written


@pytest.mark.parametrize(
    ("portal", "host"),
    [
        ("10.0.0.10:3260", "10.0.0.10"),
        ("10.0.0.10", "10.0.0.10"),
        ("NAS1.example.com:3260", "nas1.example.com"),
        ("[fd00::1]:3260", "fd00::1"),
        ("fd00::1", "fd00::1"),
        ("tcp://10.0.0.10:4420", "10.0.0.10"),
    ],
)
def test_the_host_of_a_portal(portal, host):
    assert csi.host_of(portal) == host


@pytest.mark.parametrize(
    ("attributes", "nqn", "nsid"),
    [
        (
            {"nqn": "nqn.2011-06.com.truenas:uuid:1:CSI-x", "nsid": "1"},
            "nqn.2011-06.com.truenas:uuid:1:csi-x",
            1,
        ),
        ({"nqn": " nqn.x:y ", "nsid": ""}, "nqn.x:y", None),
        ({"nsid": "one"}, "", None),
    ],
)
def test_the_subsystem_and_namespace_of_a_volume(attributes, nqn, nsid):
    attributes |= {"node_attach_driver": "nvmeof", "transports": "tcp://10.0.0.10:4420,rdma://[fd00::1]:4420"}
    backend = csi.backend(a_volume(csi=k8s.CsiSource("d", "h", "", attributes)))
    assert (backend.protocol, backend.nqn, backend.nsid) == (csi.Protocol.NVMEOF, nqn, nsid)
    assert backend.hosts == ("10.0.0.10", "fd00::1")


@pytest.mark.parametrize(
    ("handle", "parts"),
    [
        ("pvc-1@snapshot-2", ("pvc-1", "snapshot-2", True)),
        ("pvc-1/snapshot-2", ("pvc-1", "snapshot-2", False)),
    ],
)
def test_a_snapshot_handle_tells_attached_from_detached(handle, parts):
    assert csi.split_snapshot_handle(handle) == parts


def test_paths_of_mounts_and_devices():
    assert csi.dataset_of_mount("/mnt/tank/a b/") == "tank/a b"
    assert csi.dataset_of_device("zvol/tank/a+b") == "tank/a b"
    assert csi.targets_of_iqn("iqn.2005-10.org.freenas.ctl:CSI-x") == (
        "iqn.2005-10.org.freenas.ctl:csi-x",
        "csi-x",
    )
    assert "pvc-1" in csi.targets_of_iqn("iqn.2010-01.com.acme:storage:pvc-1")
    assert csi.uuid_in(f"prefix-{UID}") == UID


def test_the_end_of_a_list_that_the_loss_of_its_source_has_overtaken_proves_nothing():
    graph = Graph()
    graph.apply(Lost(NAS, Kind.DATASET, Trouble.UNREACHABLE, "it is off", 5.0), Changes())
    graph.apply(Listed(NAS, Kind.DATASET, frozenset(), 4.0), Changes())
    assert not graph.proves_absence(NAS, Kind.DATASET)
    graph.apply(Listed(NAS, Kind.DATASET, frozenset(), 6.0), Changes())
    assert graph.proves_absence(NAS, Kind.DATASET)
