"""Volumes over NVMe-oF: followed from NQN to zvol, protected by whoever else serves or holds the zvol."""

from __future__ import annotations

import pytest

from truetally.csi import democratic_csi as csi
from truetally.findings import orphans
from truetally.findings.rule import Clear
from truetally.graph import chains
from truetally.graph.graph import Changes
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.observations import Gone, Listed, Lost, Seen, Trouble
from truetally.model.refs import Kind, Ref
from worlds import (
    CLUSTER,
    NAME,
    NAS,
    NQN,
    NVME_NAME,
    PARENT,
    PATH,
    a_dataset,
    a_namespace,
    a_pool,
    a_share,
    a_subsystem,
    a_volume,
    a_zvol,
    accused,
    an_attachment,
    an_nvme_session,
    an_nvme_volume,
    judge,
    ref_of,
    seen,
    settings,
    world,
)

ORPHAN, UNKNOWN, GONE = "dataset-without-volume", "dataset-owner-unknown", "volume-without-dataset"
STALE, RELEASED = "attachment-stale", "volume-released"
OTHER = f"{PARENT}/pvc-3b4f5f0e-8f1a-4c8a-9d0e-00000000000b"
NVME_KINDS = frozenset({Kind.NVME_SUBSYSTEM, Kind.NVME_NAMESPACE, Kind.NVME_SESSION})
ZVOL = Ref(NAS, Kind.DATASET, PATH)
VOLUME = Ref(CLUSTER, Kind.PERSISTENT_VOLUME, NAME)


def verdict(*values, **how):
    return orphans.verdict(orphans.conditions(world(*values, **how), ZVOL)).value


def why_not(*values):
    answer = judge(ORPHAN, ZVOL, world(*values))
    assert isinstance(answer, Clear)
    return answer.reason


def backing_of(*values, **how):
    found = chains.backing(world(*values, **how), VOLUME)
    assert found is not None
    return found


def left_over(**zvol):
    return [a_pool(), a_zvol(**zvol), a_subsystem(), a_namespace()]


def whole():
    return [*left_over(), an_nvme_volume(), an_nvme_session()]


# From the volume to its zvol


def test_a_whole_volume_is_accused_of_nothing():
    in_world = world(*whole())
    assert [rule for rule in (ORPHAN, UNKNOWN, GONE, RELEASED) if accused(rule, in_world)] == []


def test_a_volume_is_followed_from_its_nqn_to_the_zvol():
    found = backing_of(*whole())
    assert (found.dataset, found.path, found.strength) == (ZVOL, PATH, chains.EXACT)
    assert found.how == "R5: its NQN leads to the namespace of the zvol"


@pytest.mark.parametrize("nqn", [NQN.upper().replace("NQN.", "nqn.", 1), f" {NQN}"], ids=["case", "space"])
def test_an_nqn_is_compared_without_case(nqn):
    assert backing_of(*left_over(), an_nvme_volume(nqn)).strength == chains.EXACT


@pytest.mark.parametrize("device", [PATH, f"zvol/{PATH}", f"/dev/zvol/{PATH}"])
def test_the_device_of_a_namespace_is_a_zvol_however_it_is_written(device):
    assert accused(ORPHAN, world(a_pool(), a_zvol(), a_subsystem(), a_namespace(device))) == [PATH]
    assert backing_of(a_zvol(), a_subsystem(), a_namespace(device), an_nvme_volume()).dataset == ZVOL


def test_a_space_in_a_path_is_a_plus_in_the_device():
    path = f"tank/my vols/{NAME}"
    found = backing_of(a_zvol(path), a_subsystem(), a_namespace(path.replace(" ", "+")), an_nvme_volume())
    assert (found.dataset, found.strength) == (Ref(NAS, Kind.DATASET, path), chains.EXACT)


def test_of_several_namespaces_the_volumes_own_number_decides():
    second = a_namespace(OTHER, id=3, nsid=7)
    values = [a_zvol(), a_zvol(OTHER), a_subsystem(), a_namespace(), second]
    assert backing_of(*values, an_nvme_volume(nsid="7")).path == OTHER
    assert backing_of(*values, an_nvme_volume(nsid="1")).path == PATH
    assert backing_of(*values, an_nvme_volume(nsid="")).path == PATH
    assert "no namespace 9" in backing_of(*values, an_nvme_volume(nsid="9")).how


def test_a_namespace_whose_number_is_not_told_may_be_the_one():
    assert (
        backing_of(a_zvol(OTHER), a_subsystem(), a_namespace(OTHER, nsid=None), an_nvme_volume()).path
        == OTHER
    )


def test_a_subsystem_of_another_nas_is_not_followed():
    elsewhere = [seen(a_subsystem(), source="nas2"), seen(a_namespace(OTHER), source="nas2")]
    assert backing_of(a_zvol(OTHER), an_nvme_volume(), *elsewhere).dataset is None


def test_a_namespace_may_be_a_file_in_a_dataset():
    file = a_namespace(f"/mnt/{PATH}/disk.img", type="FILE")
    found = backing_of(a_dataset(), a_subsystem(), file, an_nvme_volume())
    assert (found.dataset, found.strength) == (ZVOL, chains.EXACT)


# Is the zvol gone?


def test_a_volume_whose_zvol_is_gone_is_found():
    assert accused(GONE, world(a_pool(), a_subsystem(), a_namespace(), an_nvme_volume())) == [NAME]


def test_a_namespace_that_leads_to_another_zvol_is_no_missing_one():
    values = [a_pool(), a_zvol(OTHER), a_subsystem(), a_namespace(OTHER), an_nvme_volume()]
    assert accused(GONE, world(*values)) == []
    assert backing_of(*values).dataset == Ref(NAS, Kind.DATASET, OTHER)


def test_a_volume_that_leads_elsewhere_still_protects_the_zvol_of_its_name():
    values = [*left_over(), a_zvol(OTHER), an_nvme_volume(NQN.replace(NAME, "other"))]
    other = [a_subsystem(NVME_NAME.replace(NAME, "other"), 5), a_namespace(OTHER, id=6, subsystem=5)]
    assert accused(ORPHAN, world(*values, *other)) == []


@pytest.mark.parametrize(
    "kept", [[], [a_subsystem()], [a_namespace()]], ids=["all", "namespace", "subsystem"]
)
def test_a_broken_link_on_the_way_is_no_missing_zvol(kept):
    in_world = world(a_pool(), a_zvol(), an_nvme_volume(), *kept)
    assert (accused(GONE, in_world), accused(ORPHAN, in_world)) == ([], [])


def test_a_volume_without_subsystem_is_judged_only_where_its_parent_is_known():
    values = [a_pool(), an_nvme_volume()]
    assert accused(GONE, world(*values)) == [NAME]
    assert accused(GONE, world(*values, config=settings(drivers=[]))) == []


def test_a_zvol_that_was_renamed_is_not_gone():
    moved = a_zvol("tank/elsewhere/x", user_properties=a_zvol().user_properties)
    assert accused(GONE, world(a_pool(), a_subsystem(), a_namespace(), an_nvme_volume(), moved)) == []


@pytest.mark.parametrize("pool", [a_pool(status="OFFLINE"), a_pool(name="other")])
def test_a_pool_that_is_not_there_hides_its_zvols(pool):
    assert accused(GONE, world(pool, a_subsystem(), a_namespace(), an_nvme_volume())) == []


def test_a_volume_at_a_foreign_server_is_nobodys_loss():
    attributes = {"node_attach_driver": "nvmeof", "nqn": NQN, "transports": "tcp://192.0.2.9:4420"}
    foreign = a_volume(csi=k8s.CsiSource("org.democratic-csi.nvmeof", NAME, "", attributes))
    assert accused(GONE, world(a_pool(), foreign)) == []


# Is the zvol an orphan?


def test_what_a_volume_leaves_behind_is_one_orphan():
    in_world = world(*left_over())
    assert (accused(ORPHAN, in_world), accused(UNKNOWN, in_world), accused(GONE, in_world)) == (
        [PATH],
        [],
        [],
    )
    evidence = judge(ORPHAN, ZVOL, in_world)
    assert evidence.facts["shares"] == (f"NvmeNamespace 2 ({NAS})",)


def test_a_live_session_means_in_use():
    assert verdict(*left_over(), an_nvme_session()) == "in use"
    assert why_not(*left_over(), an_nvme_session()).startswith(
        "an NVMe-oF session of nqn.2014-08.org.nvmexpress"
    )


def test_a_session_on_another_subsystem_or_nas_is_no_use():
    assert accused(ORPHAN, world(*left_over(), an_nvme_session(9))) == [PATH]
    assert accused(ORPHAN, world(*left_over(), seen(an_nvme_session(), source="nas2"))) == [PATH]


FOREIGN = {
    "a subsystem of another name": (a_subsystem("vmware"), a_namespace()),
    "a name that begins alike": (a_subsystem(f"{NVME_NAME}2"), a_namespace()),
    "a subsystem of another id": (a_subsystem(id=8), a_namespace(subsystem=8)),
    "a namespace of another id": (a_subsystem(), a_namespace(id=9)),
    "a subsystem that is not known": (a_namespace(),),
    "a second namespace": (
        a_subsystem(),
        a_namespace(),
        a_subsystem("vmware", 8),
        a_namespace(id=9, subsystem=8),
    ),
    "one that is switched off": (a_subsystem("vmware"), a_namespace(enabled=False)),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_namespace_that_is_not_its_own_protects(what):
    assert verdict(a_pool(), a_zvol(), *FOREIGN[what]) == "in use"
    assert "which is not its own, has it as a namespace" in why_not(a_pool(), a_zvol(), *FOREIGN[what])


def test_a_namespace_at_a_zvol_of_another_driver_protects_it():
    driver = truenas.UserProperty("freenas-api-iscsi", truenas.Origin.LOCAL)
    iscsi = a_zvol(user_properties={**a_zvol().user_properties, csi.PROVISIONER_DRIVER: driver})
    assert verdict(a_pool(), iscsi, a_subsystem(), a_namespace()) == "in use"


def test_a_namespace_of_another_nas_is_no_use():
    foreign = [seen(a_subsystem("vmware"), source="nas2"), seen(a_namespace(), source="nas2")]
    assert accused(ORPHAN, world(a_pool(), a_zvol(), *foreign)) == [PATH]


def marked(**changes):
    names = {"asset": csi.NVMEOF_NAME, "subsystem": csi.NVMEOF_SUBSYSTEM, "namespace": csi.NVMEOF_NAMESPACE}
    marks = dict(a_zvol().user_properties)
    for what, value in changes.items():
        marks.pop(names[what])
        if value:
            marks[names[what]] = truenas.UserProperty(value, truenas.Origin.LOCAL)
    return a_zvol(user_properties=marks)


MARKS = {
    "as it is in the end": ({}, True),
    "names in another case": ({"asset": NVME_NAME.upper()}, True),
    "before the name is written down": ({"asset": ""}, True),
    "before the namespace is written down": ({"asset": "", "namespace": ""}, True),
    "when both ids were removed": ({"subsystem": "", "namespace": ""}, True),
    "with neither name nor ids": ({"asset": "", "subsystem": "", "namespace": ""}, False),
    "with another's subsystem": ({"subsystem": "77"}, False),
    "with another's namespace": ({"namespace": "77"}, False),
    "with another's name": ({"asset": "csi-other"}, False),
}


@pytest.mark.parametrize("what", MARKS)
def test_which_namespace_is_a_zvols_own(what):
    changes, own = MARKS[what]
    assert csi.is_own_namespace(marked(**changes), a_namespace(), a_subsystem()) is own


def test_an_inherited_mark_owns_no_namespace():
    inherited = {
        name: truenas.UserProperty(p.value, truenas.Origin.INHERITED) for name, p in _marks().items()
    }
    assert not csi.is_own_namespace(a_zvol(user_properties=inherited), a_namespace(), a_subsystem())


def _marks():
    return a_zvol().user_properties


def with_use(*values, **use):
    return world(*values, Seen(Ref(NAS, Kind.DATASET_USE, PATH), truenas.DatasetUse(**use), 99.0))


NAMESPACE = f"NVMe-oF Namespace: zvol/{PATH}"


@pytest.mark.parametrize(
    ("attachments", "orphaned"),
    [((NAMESPACE,), True), ((NAMESPACE, NAMESPACE), False), ((NAMESPACE, "iSCSI Extent: x"), False)],
    ids=["its own", "one more than its own", "an extent besides"],
)
def test_only_its_own_namespace_is_no_use_of_what_truenas_says_is_attached(attachments, orphaned):
    in_world = with_use(*left_over(), attachments=attachments)
    assert accused(ORPHAN, in_world) == ([PATH] if orphaned else [])


def test_an_attached_namespace_that_the_lists_do_not_show_is_another_use():
    assert accused(ORPHAN, with_use(a_pool(), a_zvol(), attachments=(NAMESPACE,))) == []


REFERENCES = {
    "its volume": an_nvme_volume(),
    "a volume that a person made": an_nvme_volume(name="by-hand", claim=None, annotations={}, handle="x"),
    "a volume by its NQN in another case": an_nvme_volume(
        NQN.upper(), name="by-hand", claim=None, annotations={}, handle="x"
    ),
    "a volume of another driver": a_volume(
        "tns", claim=None, csi=k8s.CsiSource("tns.csi.io", "x", "", {"protocol": "nvmeof", "nqn": NQN})
    ),
    "an inline volume of a pod": k8s.Pod(
        "default", "p", "u", csi=(k8s.CsiSource("tns.csi.io", "", "", {"nqn": NQN}),)
    ),
    "a volume at an address that truetally does not know": a_volume(
        "alias",
        claim=None,
        annotations={},
        csi=k8s.CsiSource(
            "x",
            "x",
            "",
            {"node_attach_driver": "nvmeof", "nqn": NQN, "transport": "tcp://storage.example.com:4420"},
        ),
    ),
}


@pytest.mark.parametrize("what", REFERENCES)
def test_a_zvol_is_not_found_while_something_refers_to_it_by_nqn(what):
    in_world = world(*left_over(), REFERENCES[what])
    assert PATH not in accused(ORPHAN, in_world) + accused(UNKNOWN, in_world)


def test_a_volume_of_another_subsystem_is_no_reference():
    other = an_nvme_volume(NQN.replace(NAME, "other"), handle="x", name="other", claim=None)
    assert accused(ORPHAN, world(*left_over(), other)) == [PATH]


def test_a_file_namespace_inside_a_dataset_protects_it():
    file = a_namespace(f"/mnt/{PATH}/disk.img", type="FILE")
    assert accused(ORPHAN, world(a_pool(), a_dataset(), a_subsystem("vmware"), file)) == []


# What must be known


@pytest.mark.parametrize("kind", sorted(NVME_KINDS))
def test_nothing_is_said_before_nvme_is_listed_in_full(kind):
    torn = [(NAS, kind)]
    assert accused(ORPHAN, world(*left_over(), incomplete=torn)) == []
    assert accused(GONE, world(a_pool(), an_nvme_volume(), incomplete=torn)) == []
    assert kind in orphans.DATASET_OWNER_UNKNOWN.needs & orphans.DATASET_RETAINED.needs


def test_a_version_without_nvme_is_judged_and_one_that_forbids_to_read_it_is_not():
    in_world = world(a_pool(), a_dataset(), incomplete=[(NAS, kind) for kind in NVME_KINDS])
    for kind in NVME_KINDS:
        in_world.graph.apply(Listed(NAS, kind, frozenset(), 1.0, absent=True), Changes())
    assert accused(ORPHAN, in_world) == [PATH]
    in_world.graph.apply(
        Lost(NAS, Kind.NVME_NAMESPACE, Trouble.DENIED, "grant SHARING_NVME_TARGET_READ", 2.0), Changes()
    )
    in_world.memo.clear()
    assert accused(ORPHAN, in_world) == []


def test_namespaces_and_sessions_are_read_again_before_a_zvol_is_accused():
    reread = orphans.DATASET_WITHOUT_VOLUME.reread(ZVOL, world(*left_over()))
    assert reread.nas_kinds >= NVME_KINDS | {Kind.ISCSI_SESSION}
    volume = orphans.VOLUME_WITHOUT_DATASET.reread(VOLUME, world(a_pool(), an_nvme_volume()))
    assert volume.nas_kinds >= NVME_KINDS


def test_a_foreign_subsystem_that_goes_away_leaves_an_orphan():
    in_world = world(*left_over(), a_subsystem("vmware", 8), a_namespace(id=9, subsystem=8))
    assert accused(ORPHAN, in_world) == []
    in_world.graph.apply(Gone(ref_of(a_namespace(id=9, subsystem=8)), 2.0), Changes())
    in_world.memo.clear()
    assert accused(ORPHAN, in_world) == [PATH]


# Tasks and clients, which the graph knows as well


def snapshot_task(dataset=PATH, **changes):
    return truenas.SnapshotTask(3, dataset, changes.pop("recursive", False), True, "auto-%Y", **changes)


def replication(direction="PUSH", sources=(PATH,), target="backup/x", transport="SSH", enabled=True):
    return truenas.ReplicationTask(4, "nightly", direction, sources, target, False, enabled, transport)


TASKS = {
    "a snapshot task": (snapshot_task(), True),
    "a snapshot task of its parent": (snapshot_task(PARENT), False),
    "a recursive snapshot task of its parent": (snapshot_task(PARENT, recursive=True), False),
    "a replication of it": (replication(), True),
    "a replication of it among others": (replication(sources=("tank/a", PATH)), True),
    "a replication that is switched off": (replication(enabled=False), True),
    "a replication of its parent": (replication(sources=(PARENT,)), False),
    "a replication to another NAS's dataset of that name": (
        replication(sources=("tank/a",), target=PATH),
        False,
    ),
    "a replication into it": (replication("PULL", ("tank/a",), PATH), True),
    "a replication from another NAS's dataset of that name": (
        replication("PULL", (PATH,), "backup/x"),
        False,
    ),
    "a local replication into it": (replication(sources=("tank/a",), target=PATH, transport="LOCAL"), True),
    "a replication of a way that is not told": (
        replication("", ("tank/a",), PATH, transport=""),
        True,
    ),
}


@pytest.mark.parametrize("what", TASKS)
def test_a_task_that_names_a_dataset_uses_it(what):
    task, protects = TASKS[what]
    for volume in (a_dataset(), a_zvol()):
        assert verdict(a_pool(), volume, task) == ("in use" if protects else "orphaned")


def test_a_task_of_another_nas_is_no_use():
    assert accused(ORPHAN, world(a_pool(), a_dataset(), seen(snapshot_task(), source="nas2"))) == [PATH]


def smb(path):
    return truenas.SmbShare(1, "Media", f"/mnt/{path}"), truenas.SmbClient("laptop", "MEDIA")


CLIENTS = {
    "an NFS client": ((truenas.NfsClient("10.0.0.7", 3, f"/mnt/{PATH}"),), True),
    "an NFS client of its parent": ((truenas.NfsClient("10.0.0.7", 3, f"/mnt/{PARENT}"),), True),
    "an NFS client of a directory in it": ((truenas.NfsClient("10.0.0.7", 3, f"/mnt/{PATH}/a"),), True),
    "an NFS client with a file open": ((truenas.NfsClient("10.0.0.7", 4, "", (f"/mnt/{PATH}/a/f",)),), True),
    "an NFS client of another": ((truenas.NfsClient("10.0.0.7", 3, f"/mnt/{OTHER}"),), False),
    "an NFS client with another's file": (
        (truenas.NfsClient("10.0.0.7", 4, "", (f"/mnt/{PATH}x/f",)),),
        False,
    ),
    "an SMB client": (smb(PATH), True),
    "an SMB client of its parent": (smb(PARENT), True),
    "an SMB client of another": (smb(OTHER), False),
    "an SMB share without client": (smb(PATH)[:1], False),
}


@pytest.mark.parametrize("what", CLIENTS)
def test_a_client_uses_what_it_mounts(what):
    values, uses = CLIENTS[what]
    assert verdict(a_pool(), a_dataset(), a_share(), *values) == ("in use" if uses else "orphaned")


def test_a_client_of_another_nas_is_no_use():
    client = seen(truenas.NfsClient("10.0.0.7", 3, f"/mnt/{PATH}"), source="nas2")
    assert accused(ORPHAN, world(a_pool(), a_dataset(), client)) == [PATH]


def test_a_client_of_a_mountpoint_of_its_own_uses_the_dataset():
    client = truenas.NfsClient("10.0.0.7", 3, "/mnt/other/x")
    assert verdict(a_pool(), a_dataset(mountpoint="/mnt/other/x"), client) == "in use"


# Volumes that linger


def test_an_attachment_with_a_live_nvme_session_is_not_stale():
    values = [*left_over(), an_nvme_volume(), an_attachment()]
    assert accused(STALE, world(*values)) == ["csi-1"]
    assert accused(STALE, world(*values, an_nvme_session())) == []


def test_a_session_is_told_as_what_keeps_a_released_volume():
    released = an_nvme_volume(phase="Released")
    evidence = judge(RELEASED, VOLUME, world(*left_over(), released, an_nvme_session()))
    assert evidence.facts["blocked_by"] == ("NVMe-oF session of nqn.2014-08.org.nvmexpress:uuid:node1",)
