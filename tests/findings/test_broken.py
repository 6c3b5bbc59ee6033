"""Is the way from a volume to its data broken, or does it lead to somebody else's?"""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from truetally.csi import democratic_csi as csi
from truetally.findings import catalogue
from truetally.findings.rule import Clear, Evidence, Order
from truetally.graph.graph import Changes
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.findings import Severity
from truetally.model.observations import Listed
from truetally.model.refs import KUBERNETES_KINDS, Kind, Ref
from worlds import (
    CLUSTER,
    DRIVER,
    NAME,
    NAS,
    NOW,
    NQN,
    OLD,
    PARENT,
    PATH,
    SNAPSHOT_UID,
    UID,
    a_claim,
    a_content,
    a_csi_source,
    a_dataset,
    a_namespace,
    a_pool,
    a_share,
    a_snapshot,
    a_subsystem,
    a_volume,
    a_zvol,
    accused,
    an_nvme_volume,
    judge,
    properties,
    seen,
    settings,
    two_nas,
    world,
)

MISSING, OTHER, LOST, UNREFERENCED = (
    "volume-share-missing",
    "volume-serves-other-data",
    "claim-lost",
    "content-unreferenced",
)
VOLUME = Ref(CLUSTER, Kind.PERSISTENT_VOLUME, NAME)
CLAIM = Ref(CLUSTER, Kind.PERSISTENT_VOLUME_CLAIM, "default/data")
IQN = "iqn.2005-10.org.freenas.ctl:csi-x"
OTHER_UID = "3b4f5f0e-8f1a-4c8a-9d0e-00000000000b"
OTHER_NAME = f"pvc-{OTHER_UID}"
OTHER_PATH = f"{PARENT}/{OTHER_NAME}"
ANNOTATION = {"pv.kubernetes.io/provisioned-by": DRIVER}
POD = k8s.Pod("default", "web", "u", "Running", "node1", claims=("data",))


def iscsi(handle=NAME, name=NAME, iqn=IQN, volume=(), **attributes):
    base = {"node_attach_driver": "iscsi", "iqn": iqn, "lun": "0", "portal": "10.0.0.10:3260"}
    base |= {"provisioner_driver": "freenas-api-iscsi", "server": "", "share": ""}
    return a_volume(name, csi=a_csi_source(handle, **(base | attributes)), **dict(volume))


def zvol(path=PATH, driver="freenas-api-iscsi", origin=truenas.Origin.LOCAL, **changes):
    marks = properties(origin, driver=driver, volume_name=path.rpartition("/")[2])
    return a_dataset(path, **({"kind": "VOLUME", "mountpoint": None, "user_properties": marks} | changes))


TARGET = truenas.IscsiTarget(5, "csi-x")
EXTENT = truenas.IscsiExtent(6, "csi-x", "DISK", PATH)
LINK = truenas.IscsiTargetExtent(7, 5, 6, 0)


def smb(**attributes):
    base = {"node_attach_driver": "smb", "share": "Media", "provisioner_driver": "freenas-api-smb"}
    return a_volume(csi=a_csi_source(NAME, **(base | attributes)))


def smb_share(path=PATH, **changes):
    return msgspec.structs.replace(truenas.SmbShare(3, "media", f"/mnt/{path}"), **changes)


SMB_HOME = a_dataset(user_properties=properties(driver="freenas-api-smb"))


def whole(*values, without=(), **how):
    """A world around a volume; `without` are the objects left out of it."""
    return world(a_pool(), a_claim(), *[v for v in values if v not in without], **how)


# The way is whole


WHOLE = {
    "NFS": (a_volume(), a_dataset(), a_share()),
    "SMB": (smb(), SMB_HOME, smb_share()),
    "iSCSI": (iscsi(), zvol(), TARGET, EXTENT, LINK),
    "NVMe-oF": (an_nvme_volume(), a_zvol(), a_subsystem(), a_namespace()),
}


@pytest.mark.parametrize("protocol", WHOLE)
@pytest.mark.parametrize("rule", [MISSING, OTHER])
def test_a_whole_volume_is_accused_of_nothing(protocol, rule):
    assert accused(rule, whole(*WHOLE[protocol])) == []


# Something of it is missing or switched off


def replaced(values, old, **changes):
    return tuple(msgspec.structs.replace(v, **changes) if v == old else v for v in values)


def left_out(protocol, *gone):
    return tuple(v for v in WHOLE[protocol] if v not in gone)


BROKEN = {
    "no NFS share": (left_out("NFS", a_share()), f"no NFS share exports /mnt/{PATH}"),
    "NFS share disabled": (
        replaced(WHOLE["NFS"], a_share(), enabled=False),
        f"NFS share 1 of /mnt/{PATH} is disabled",
    ),
    "no SMB share": (left_out("SMB", smb_share()), "SMB share Media does not exist"),
    "SMB share disabled": (
        replaced(WHOLE["SMB"], smb_share(), enabled=False),
        "SMB share media is disabled",
    ),
    "no target": (left_out("iSCSI", TARGET, LINK), "iSCSI target csi-x does not exist"),
    "no link": (left_out("iSCSI", LINK), "iSCSI target csi-x has no extent at LUN 0"),
    "a link at another LUN": (
        replaced(WHOLE["iSCSI"], LINK, lun=3),
        "iSCSI target csi-x has no extent at LUN 0 (only at LUN 3)",
    ),
    "no extent": (
        left_out("iSCSI", EXTENT),
        "iSCSI target csi-x is linked to extent 6, which does not exist",
    ),
    "extent disabled": (
        replaced(WHOLE["iSCSI"], EXTENT, enabled=False),
        "iSCSI extent csi-x is disabled",
    ),
    "an extent of nothing": (
        replaced(WHOLE["iSCSI"], EXTENT, disk=f"{PARENT}/gone"),
        f"iSCSI extent csi-x leads to {PARENT}/gone, which does not exist",
    ),
    "no subsystem": (
        left_out("NVMe-oF", a_subsystem(), a_namespace()),
        f"NVMe-oF subsystem {NQN} does not exist",
    ),
    "no namespace": (
        left_out("NVMe-oF", a_namespace()),
        f"NVMe-oF subsystem {NQN} has no namespace 1",
    ),
    "another namespace": (
        replaced(WHOLE["NVMe-oF"], a_namespace(), nsid=9),
        f"NVMe-oF subsystem {NQN} has no namespace 1",
    ),
    "namespace disabled": (
        replaced(WHOLE["NVMe-oF"], a_namespace(), enabled=False),
        "NVMe-oF namespace 2 is disabled",
    ),
    "dataset locked": (
        replaced(WHOLE["NFS"], a_dataset(), locked=True),
        f"dataset {PATH} is locked",
    ),
    "zvol locked": (replaced(WHOLE["iSCSI"], zvol(), locked=True), f"dataset {PATH} is locked"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_way_is_found_and_named(what):
    values, missing = BROKEN[what]
    evidence = judge(MISSING, VOLUME, whole(*values))
    assert isinstance(evidence, Evidence)
    assert evidence.summary == f"No pod can mount volume {NAME} of claim default/data: {missing}"
    assert accused(OTHER, whole(*values)) == []


MENDED = {
    "no NFS share": (
        f"create an NFS share of /mnt/{PATH} with the options of its neighbours and the comment "
        f"'democratic-csi ({DRIVER}): {PATH}', then zfs set democratic-csi:freenas_nfs_share_id=<its new id> "
        f"{PATH}"
    ),
    "NFS share disabled": "enable NFS share 1",
    "no link": (
        "take target csi-x, link it to extent csi-x (id 6) at LUN 0, then zfs set "
        f"democratic-csi:freenas_iscsi_targettoextent_id=<its new id> {PATH}"
    ),
    "an extent of nothing": f"set the device of extent csi-x (id 6) to zvol/{PATH}",
    "dataset locked": f"unlock dataset {PATH}",
}


@pytest.mark.parametrize("what", MENDED)
def test_how_to_mend_it_is_said_exactly(what):
    values, _ = BROKEN[what]
    assert judge(MISSING, VOLUME, whole(*values)).facts["to_mend"] == MENDED[what]


def test_a_target_that_is_made_again_gets_an_extent_where_there_is_none():
    mend = judge(MISSING, VOLUME, whole(iscsi(), zvol())).facts["to_mend"]
    assert f"a new DISK extent csi-x of zvol/{PATH}" in mend


def test_a_subsystem_is_made_again_with_its_own_nqn():
    values, _ = BROKEN["no subsystem"]
    assert f"with the NQN {NQN}" in judge(MISSING, VOLUME, whole(*values)).facts["to_mend"]


def test_it_is_critical_while_pods_want_to_mount_it():
    values, _ = BROKEN["no NFS share"]
    alone, used = whole(*values), whole(*values, POD)
    ended = whole(*values, msgspec.structs.replace(POD, phase="Succeeded"))
    found = [judge(MISSING, VOLUME, each) for each in (alone, used, ended)]
    assert [each.severity for each in found] == [None, Severity.CRITICAL, None]
    assert found[1].facts["pods"] == ("default/web",)


# What is left alone


def no_share(**changes):
    return (a_volume(**changes), a_dataset())


def nfs(**attributes):
    return (a_volume(csi=a_csi_source(NAME, **attributes)), a_dataset())


ALONE = {
    "it names a server that is no configured NAS": nfs(server="192.0.2.9"),
    "a person made it": no_share(annotations={}),
    "node-manual": nfs(provisioner_driver="node-manual"),
    "zfs-generic shares behind TrueNAS's back": nfs(provisioner_driver="zfs-generic-nfs"),
    "in-tree": no_share(csi=None, nfs=k8s.NfsSource("10.0.0.10", f"/mnt/{PATH}")),
    "on its node": nfs(node_attach_driver="zfs-local"),
    "being deleted": no_share(deleted_at=OLD),
    "released": no_share(phase="Released"),
    "failed": no_share(phase="Failed"),
    "available": no_share(phase="Available", claim=None),
    "just made": no_share(created_at=NOW - timedelta(minutes=4)),
    "exempted": no_share(annotations=ANNOTATION | {"truetally.io/ignore": "true"}),
    "bound to a claim that is another now": no_share(claim=k8s.ClaimRef("default", "data", OTHER_UID)),
    "bound to a claim that is gone": no_share(claim=k8s.ClaimRef("default", "gone", UID)),
    "its dataset is gone": (a_volume(),),
    "its dataset is exempted": (a_volume(), a_dataset(user_properties=properties(ignore="yes"))),
    "the share above exports it too": (*no_share(), a_share(PARENT)),
    "one of two shares is enabled": (
        *no_share(),
        truenas.NfsShare(1, f"/mnt/{PATH}", enabled=False),
        a_share(id=2),
    ),
    "a share that says it is locked while its dataset is not": (
        *no_share(),
        truenas.NfsShare(1, f"/mnt/{PATH}", locked=True),
    ),
    "it mounts a directory inside a dataset": (
        a_volume(csi=a_csi_source(NAME, share=f"/mnt/{PATH}/sub")),
        a_dataset(),
    ),
}


@pytest.mark.parametrize("why", ALONE)
def test_a_volume_without_share_is_left_alone_when(why):
    assert accused(MISSING, whole(*ALONE[why])) == []


def test_a_claim_that_goes_takes_its_share_with_it():
    leaving = world(a_pool(), *no_share(), a_claim(deleted_at=NOW))
    exempted = world(a_pool(), *no_share(), a_claim(annotations={"truetally.io/ignore": "1"}))
    assert (accused(MISSING, leaving), accused(MISSING, exempted)) == ([], [])


def test_a_volume_that_is_just_made_is_looked_at_again():
    made = NOW - timedelta(minutes=4)
    answer = judge(MISSING, VOLUME, whole(*no_share(created_at=made)))
    assert isinstance(answer, Clear)
    assert answer.again_at == made + timedelta(minutes=5)


@pytest.mark.parametrize("pool", [a_pool(status="OFFLINE"), a_pool(name="other")], ids=["offline", "gone"])
def test_a_pool_that_is_not_there_hides_what_is_shared(pool):
    assert accused(MISSING, world(pool, a_claim(), *no_share())) == []


def test_an_extent_of_a_pool_that_is_not_there_leads_somewhere():
    values = replaced(WHOLE["iSCSI"], EXTENT, disk="flash/vols/x")
    assert accused(MISSING, whole(*values)) == []
    assert accused(MISSING, whole(*values, a_pool(name="flash"))) == [NAME]


UNCLEAR = {
    "a session is on the target": (truenas.IscsiSession("iqn.node1", "10.0.0.5", IQN), iscsi(), zvol()),
    "the zvol carries another's marks": (iscsi(), zvol(driver="freenas-api-nfs")),
    "the zvol is another instance's": (
        iscsi(),
        zvol(user_properties=properties(driver="freenas-api-iscsi", instance_id="cluster-b")),
    ),
    "the zvol is a replica": (iscsi(), zvol(readonly=True)),
    "the zvol was received": (iscsi(), zvol(origin=truenas.Origin.RECEIVED)),
    "two zvols carry its name": (iscsi(), zvol(), zvol(f"{PARENT}/old/{NAME}")),
    "its zvol is nowhere": (iscsi(),),
    "its parent is unknown": (iscsi(), zvol(f"tank/elsewhere/{NAME}")),
    "the extent is a file": (
        iscsi(),
        zvol(),
        TARGET,
        LINK,
        truenas.IscsiExtent(6, "csi-x", "FILE", "/mnt/tank/x.img", enabled=False),
    ),
    "two extents have the LUN": (
        iscsi(),
        zvol(),
        TARGET,
        LINK,
        truenas.IscsiTargetExtent(8, 5, 9, 0),
    ),
    "an SMB share of a directory": (smb(), SMB_HOME, smb_share(f"{PARENT}/files/sub")),
    "the namespace is a file": (
        an_nvme_volume(),
        a_zvol(),
        a_subsystem(),
        a_namespace("/mnt/tank/x.img", type="FILE", enabled=False),
    ),
    "a detached snapshot has its name": (
        iscsi(),
        zvol(user_properties=properties(driver="freenas-api-iscsi", **{csi.SNAPSHOT_NAME: NAME})),
    ),
    "an unmarked zvol has its name": (iscsi(), zvol(user_properties={})),
    "some of its marks were received": (
        iscsi(),
        zvol(
            user_properties=properties(driver="freenas-api-iscsi")
            | {"org.example:x": truenas.UserProperty("y", truenas.Origin.RECEIVED)}
        ),
    ),
    "another NAS has the marks": (iscsi(), seen(zvol(), source="nas2")),
}


@pytest.mark.parametrize("why", UNCLEAR)
def test_nothing_is_said_of_a_way_when(why):
    assert accused(MISSING, whole(*UNCLEAR[why])) == []


def test_a_path_proves_a_dataset_even_where_its_parent_is_unknown():
    nobody = settings(drivers=[])
    assert accused(MISSING, whole(*no_share(), config=nobody)) == [NAME]
    assert accused(MISSING, whole(iscsi(), zvol(), config=nobody)) == []


ELSEWHERE = {
    "a share": ("no NFS share", [a_share()]),
    "an SMB share": ("no SMB share", [smb_share()]),
    "a target": ("no target", [TARGET, EXTENT, LINK]),
    "a subsystem": ("no subsystem", [a_subsystem(), a_namespace()]),
}


@pytest.mark.parametrize("what", ELSEWHERE)
def test_another_nas_does_not_serve_it_by(what):
    broken, there = ELSEWHERE[what]
    values, missing = BROKEN[broken]
    in_world = whole(*values, *[seen(v, source="nas2") for v in there], config=two_nas())
    assert judge(MISSING, VOLUME, in_world).facts["missing"] == missing


def test_an_extent_on_another_nas_is_none_to_link():
    in_world = whole(iscsi(), zvol(), seen(EXTENT, source="nas2"), config=two_nas())
    assert "a new DISK extent" in judge(MISSING, VOLUME, in_world).facts["to_mend"]


def test_why_a_volume_under_a_shared_parent_is_left_alone():
    answer = judge(MISSING, VOLUME, whole(*ALONE["the share above exports it too"]))
    assert answer == Clear(f"the NFS share of /mnt/{PARENT} may serve it")


def test_an_inherited_mark_is_none_where_truenas_hides_it():
    marks = properties(truenas.Origin.UNKNOWN, driver="freenas-api-iscsi")
    child = a_dataset(f"{PATH}/inside", user_properties=marks)
    own = a_dataset(PATH, user_properties=marks, mountpoint=None)
    assert accused(MISSING, whole(iscsi(), child)) == []
    assert accused(MISSING, whole(iscsi(), own, child)) == [NAME]


def test_a_link_whose_lun_is_not_told_may_be_the_one():
    assert accused(MISSING, whole(*replaced(WHOLE["iSCSI"], LINK, lun=None))) == []


def test_a_handle_made_by_a_template_finds_its_zvol_by_the_claims_name():
    marks = properties(driver="freenas-api-iscsi", volume_name=NAME)
    templated = a_dataset(f"{PARENT}/shop-data", user_properties=marks, mountpoint=None)
    assert accused(MISSING, whole(iscsi(handle="shop-data"), templated)) == [NAME]


@pytest.mark.parametrize(
    "kind",
    sorted(
        catalogue.BY_ID[MISSING].needs,
    ),
)
@pytest.mark.parametrize("rule", [MISSING, OTHER])
def test_nothing_is_judged_before_all_is_listed(kind, rule):
    torn = [(CLUSTER if kind in KUBERNETES_KINDS else NAS, kind)]
    values, _ = BROKEN["no NFS share"]
    assert judge(rule, VOLUME, whole(*values, incomplete=torn)) is None


@pytest.mark.parametrize("rule", [MISSING, OTHER])
def test_the_cluster_is_read_before_the_nas(rule):
    values, _ = BROKEN["no NFS share"]
    in_world, declared = whole(*values), catalogue.BY_ID[rule]
    reread = declared.reread(VOLUME, in_world)
    assert (reread.order, reread.nas, reread.cluster) == (Order.CLUSTER_FIRST, NAS, CLUSTER)
    assert reread.nas_kinds | reread.cluster_kinds == declared.needs


def read_again(in_world, listed):
    """Lists kinds again at their times; a volume is seen when its list is asked for."""
    for kind, at in listed.items():
        source = CLUSTER if kind in KUBERNETES_KINDS else NAS
        if kind is Kind.PERSISTENT_VOLUME:
            in_world.graph.apply(seen(in_world.volume(VOLUME), at), Changes())
        names = frozenset(in_world.graph.nodes(source, kind))
        in_world.graph.apply(Listed(source, kind, names, at), Changes())
    return in_world


STORAGE = sorted(catalogue.BY_ID[MISSING].needs - KUBERNETES_KINDS)
CLUSTER_NOT_READ, NAS_NOT_READ = (
    "the volume has not been read again",
    "the NAS has not been read after the cluster",
)
PV, PVC = Kind.PERSISTENT_VOLUME, Kind.PERSISTENT_VOLUME_CLAIM
ORDERS = [
    ({PV: 20.0, PVC: 20.0} | dict.fromkeys(STORAGE, 30.0), ""),
    ({PV: 5.0, PVC: 20.0} | dict.fromkeys(STORAGE, 30.0), CLUSTER_NOT_READ),
    ({PV: 20.0, PVC: 5.0} | dict.fromkeys(STORAGE, 30.0), CLUSTER_NOT_READ),
    ({PV: 20.0, PVC: 20.0} | dict.fromkeys(STORAGE, 15.0), NAS_NOT_READ),
    *[
        ({PV: 20.0, PVC: 20.0} | dict.fromkeys(STORAGE, 30.0) | {late: 15.0}, NAS_NOT_READ)
        for late in STORAGE
    ],
]


@pytest.mark.parametrize(("listed", "problem"), ORDERS)
@pytest.mark.parametrize("rule", [MISSING, OTHER])
def test_it_is_confirmed_only_in_that_order(rule, listed, problem):
    values, _ = BROKEN["no NFS share"]
    in_world = read_again(whole(*values), listed)
    assert catalogue.BY_ID[rule].confirmed(VOLUME, in_world, 10.0) == problem


# Another volume's data


def pointing_at_another(*more, volume=None, served=None, home=True):
    """Issue #289: the volume's IQN leads to the zvol of another, and its own lies empty beside it."""
    served = served or zvol(OTHER_PATH)
    extent = msgspec.structs.replace(EXTENT, disk=served.path)
    own = (zvol(),) if home else ()
    return whole(volume or iscsi(), served, *own, TARGET, extent, LINK, *more)


OTHER_VOLUME = iscsi(
    OTHER_NAME, OTHER_NAME, "iqn.x:csi-y", volume={"claim": k8s.ClaimRef("shop", "db", OTHER_UID)}
)


def test_a_volume_that_serves_a_retained_volumes_data_is_critical():
    evidence = judge(OTHER, VOLUME, pointing_at_another())
    assert evidence.summary == (
        f"Volume {NAME} of claim default/data serves the data of {OTHER_NAME}: "
        f"iSCSI extent csi-x leads to {OTHER_PATH}"
    )
    assert catalogue.BY_ID[OTHER].severity is Severity.CRITICAL
    assert evidence.facts["own_dataset"] == PATH
    assert evidence.facts["to_mend"] == f"set the device of extent csi-x (id 6) to zvol/{PATH}"


def test_two_live_volumes_of_one_zvol_need_no_own_dataset_to_be_told_apart():
    evidence = judge(OTHER, VOLUME, pointing_at_another(OTHER_VOLUME, home=False))
    assert evidence.facts["other_volume"] == f"PersistentVolume {OTHER_NAME} ({CLUSTER})"
    assert evidence.facts["to_mend"] is None


def test_the_other_volume_may_be_in_another_cluster():
    two = settings(clusters=[{"name": n, "kubeconfig": "/dev/null"} for n in (CLUSTER, "edge")])
    there = seen(OTHER_VOLUME, source="edge")
    served, extent = zvol(OTHER_PATH), msgspec.structs.replace(EXTENT, disk=OTHER_PATH)
    in_world = whole(iscsi(), served, TARGET, extent, LINK, there, config=two)
    assert accused(OTHER, in_world) == [NAME]


def test_an_smb_share_and_a_namespace_may_lead_astray_as_well():
    other_files = a_dataset(OTHER_PATH, user_properties=properties(volume_name=OTHER_NAME))
    astray = whole(smb(), SMB_HOME, other_files, smb_share(OTHER_PATH))
    assert (
        judge(OTHER, VOLUME, astray).facts["to_mend"]
        == f"set the path of SMB share media (id 3) to /mnt/{PATH}"
    )
    namespaces = whole(an_nvme_volume(), a_zvol(), a_zvol(OTHER_PATH), a_subsystem(), a_namespace(OTHER_PATH))
    assert accused(OTHER, namespaces) == [NAME]


def test_the_pair_is_not_said_to_be_unmountable():
    assert accused(MISSING, pointing_at_another()) == []


INNOCENT = {
    "a person put an unmarked zvol there": {"served": zvol(OTHER_PATH, user_properties={})},
    "a received copy is served after a failover": {
        "served": zvol(OTHER_PATH, origin=truenas.Origin.RECEIVED)
    },
    "it was renamed, and carries its name": {
        "served": zvol(
            f"{PARENT}/moved",
            user_properties=properties(driver="freenas-api-iscsi", volume_name=NAME),
        )
    },
    "it was adopted under its new handle": {
        "volume": iscsi(handle=OTHER_NAME),
        "home": False,
    },
    "its mark may be inherited": {
        "served": zvol(
            f"{OTHER_PATH}/x",
            user_properties=properties(truenas.Origin.UNKNOWN, volume_name=OTHER_NAME),
        )
    },
    "it is a detached snapshot": {
        "served": zvol(
            OTHER_PATH,
            user_properties=properties(volume_name=OTHER_NAME, **{csi.SNAPSHOT_NAME: "s"}),
        )
    },
    "democratic-csi does not manage it": {
        "served": zvol(OTHER_PATH, user_properties=properties(managed=None, volume_name=OTHER_NAME))
    },
    "its mark names no volume": {"served": zvol(OTHER_PATH, user_properties=properties(volume_name=None))},
    "nobody else is known to own it": {"home": False},
    "it is locked": {"served": zvol(OTHER_PATH, locked=True)},
    "the served zvol is exempted": {
        "served": zvol(
            OTHER_PATH,
            user_properties=properties(
                driver="freenas-api-iscsi", volume_name=OTHER_NAME, ignore="on purpose"
            ),
        )
    },
    "a static volume": {"volume": iscsi(volume={"annotations": {}})},
    "node-manual": {"volume": iscsi(provisioner_driver="node-manual")},
    "a released volume": {"volume": iscsi(volume={"phase": "Released"})},
    "an exempted volume": {
        "volume": iscsi(volume={"annotations": ANNOTATION | {"truetally.io/ignore": "true"}})
    },
}


@pytest.mark.parametrize("why", INNOCENT)
def test_other_data_is_not_said_to_be_served_when(why):
    assert accused(OTHER, pointing_at_another(**INNOCENT[why])) == []


def test_a_zvol_that_was_made_for_the_claim_is_its_own_under_any_name():
    restored = iscsi(handle="h", name="velero-clone-1")
    own = zvol(f"{PARENT}/h")
    assert accused(OTHER, pointing_at_another(own, volume=restored, served=zvol(), home=False)) == []
    stranger = pointing_at_another(own, volume=restored, home=False)
    assert accused(OTHER, stranger) == ["velero-clone-1"]


def test_two_volumes_of_one_handle_do_not_take_each_others_data():
    first, second = iscsi(OTHER_NAME), iscsi(OTHER_NAME, "velero-clone-1")
    assert accused(OTHER, pointing_at_another(second, volume=first, home=False)) == []


def test_a_copy_of_its_own_zvol_elsewhere_proves_nothing():
    copy = zvol(f"tank/elsewhere/{NAME}")
    assert accused(OTHER, pointing_at_another(copy, home=False)) == []


@pytest.mark.parametrize(
    ("owner", "leaf"),
    [
        (OTHER_VOLUME, "renamed"),
        (msgspec.structs.replace(OTHER_VOLUME, name="velero-clone-1"), OTHER_NAME),
    ],
    ids=["by its name", "by its handle"],
)
def test_the_other_volume_is_known(owner, leaf):
    marks = properties(driver="freenas-api-iscsi", volume_name=OTHER_NAME)
    served = zvol(f"{PARENT}/{leaf}", user_properties=marks)
    evidence = judge(OTHER, VOLUME, pointing_at_another(owner, served=served, home=False))
    assert evidence.facts["serves_volume"] == owner.name


def test_a_zvol_of_another_that_is_locked_is_not_said_to_be_missing():
    assert accused(MISSING, pointing_at_another(served=zvol(OTHER_PATH, locked=True))) == []


def test_a_volume_made_by_hand_owns_nothing():
    by_hand = msgspec.structs.replace(OTHER_VOLUME, annotations={})
    assert accused(OTHER, pointing_at_another(by_hand, home=False)) == []


@pytest.mark.parametrize(
    ("origin", "leaf"), [(truenas.Origin.LOCAL, "shop-db"), (truenas.Origin.UNKNOWN, OTHER_NAME)]
)
def test_a_mark_that_is_surely_its_own_tells_whose_the_zvol_is(origin, leaf):
    marks = properties(origin, driver="freenas-api-iscsi", volume_name=OTHER_NAME)
    assert accused(OTHER, pointing_at_another(served=zvol(f"{PARENT}/{leaf}", user_properties=marks))) == [
        NAME
    ]


def test_a_disabled_extent_serves_nobody():
    extent = msgspec.structs.replace(EXTENT, disk=OTHER_PATH, enabled=False)
    in_world = whole(iscsi(), zvol(), zvol(OTHER_PATH), TARGET, extent, LINK)
    assert accused(OTHER, in_world) == []


# Claims that have lost their volume

CLASS = k8s.StorageClass("nfs", DRIVER)


def lost(**changes):
    return a_claim(phase="Lost", **changes)


def test_a_claim_that_has_lost_its_volume_is_found_with_the_dataset_that_is_left():
    evidence = judge(LOST, CLAIM, world(a_pool(), lost(), CLASS, a_dataset()))
    assert evidence.summary == f"Claim default/data has lost its volume: volume {NAME} does not exist"
    assert evidence.facts["datasets"] == (f"{PATH} ({NAS})",)


def test_a_volume_that_another_claim_has_taken_is_lost_as_well():
    taken = a_volume(claim=k8s.ClaimRef("default", "data2", OTHER_UID))
    evidence = judge(LOST, CLAIM, world(lost(), CLASS, taken))
    assert evidence.facts["because"] == (f"volume {NAME} is bound to claim default/data2 (uid {OTHER_UID})",)


def test_a_claim_may_lose_even_the_name_of_its_volume():
    evidence = judge(LOST, CLAIM, world(lost(volume_name=""), CLASS))
    assert evidence.facts["because"] == ("it names no volume any more",)


@pytest.mark.parametrize(
    "sign",
    [CLASS, a_dataset()],
    ids=["its class", "a dataset"],
)
def test_a_lost_claim_is_known_to_be_ours_by(sign):
    assert accused(LOST, world(a_pool(), lost(storage_class="nfs"), sign)) == ["default/data"]


FOUND_AGAIN = {
    "it is bound": (a_claim(), CLASS),
    "it is pending": (a_claim(phase="Pending"), CLASS),
    "it is being deleted": (lost(deleted_at=NOW), CLASS),
    "it is exempted": (lost(annotations={"truetally.io/ignore": "yes"}), CLASS),
    "its volume is back": (lost(), CLASS, a_volume()),
    "its volume is restored without uid": (
        lost(),
        CLASS,
        a_volume(claim=k8s.ClaimRef("default", "data")),
    ),
    "its volume is restored and free": (lost(), CLASS, a_volume(claim=None)),
    "it is another driver's": (lost(), k8s.StorageClass("nfs", "ebs.csi.aws.com")),
    "nobody knows its class": (lost(),),
}


@pytest.mark.parametrize("why", FOUND_AGAIN)
def test_a_claim_is_not_lost_when(why):
    assert accused(LOST, world(*FOUND_AGAIN[why])) == []


@pytest.mark.parametrize("kind", sorted(catalogue.BY_ID[LOST].needs))
def test_no_claim_is_lost_before_all_is_listed(kind):
    assert judge(LOST, CLAIM, world(lost(), CLASS, incomplete=[(CLUSTER, kind)])) is None


def test_a_lost_claim_is_confirmed_by_listing_the_cluster_again():
    in_world, rule = world(lost(), CLASS), catalogue.BY_ID[LOST]
    reread = rule.reread(CLAIM, in_world)
    assert (reread.cluster, reread.cluster_kinds, reread.nas) == (CLUSTER, rule.needs, None)
    assert rule.confirmed(CLAIM, in_world, 10.0) == "the cluster has not been read again"
    assert rule.confirmed(CLAIM, in_world, 0.5) == ""


# Contents without VolumeSnapshot

CONTENT = Ref(CLUSTER, Kind.VOLUME_SNAPSHOT_CONTENT, a_content().name)


def a_volume_snapshot(**changes):
    snapshot = k8s.VolumeSnapshot("default", "snap", SNAPSHOT_UID, OLD, bound_content=a_content().name)
    return msgspec.structs.replace(snapshot, **changes)


def test_a_content_whose_snapshot_is_gone_is_found():
    evidence = judge(UNREFERENCED, CONTENT, world(a_content(), a_snapshot(used_bytes=7)))
    assert evidence.summary == f"VolumeSnapshot default/snap of content {CONTENT.name} does not exist"
    assert (evidence.severity, evidence.facts["used_bytes"]) == (None, 7)


def test_one_that_is_retained_is_only_mentioned():
    evidence = judge(UNREFERENCED, CONTENT, world(a_content(deletion_policy="Retain")))
    assert evidence.severity is Severity.INFO
    assert evidence.summary.endswith(", and its deletion policy Retain keeps the snapshot")


def test_a_snapshot_of_the_same_name_that_was_made_later_does_not_use_it():
    later = a_volume_snapshot(uid=OTHER_UID, bound_content="snapcontent-new")
    assert accused(UNREFERENCED, world(a_content(), later)) == [CONTENT.name]


REFERRED = {
    "its snapshot exists": (a_content(), a_volume_snapshot()),
    "its snapshot is not bound yet": (a_content(), a_volume_snapshot(bound_content="")),
    "a snapshot names it as its source": (
        a_content(),
        a_volume_snapshot(uid=OTHER_UID, bound_content="", source_content=a_content().name),
    ),
    "Velero keeps it": (a_content(labels={"velero.io/backup-name": "nightly"}),),
    "Kasten keeps it": (a_content(labels={"k10.kasten.io/x": "y"}),),
    "it is being deleted": (a_content(deleted_at=NOW),),
    "it is exempted": (a_content(annotations={"truetally.io/ignore": "true"}),),
    "it is another driver's": (a_content(driver="ebs.csi.aws.com"),),
    "it is young": (a_content(created_at=NOW - timedelta(minutes=59)),),
    "its snapshot is being made": (
        a_content(annotations={"snapshot.storage.kubernetes.io/volumesnapshot-being-created": "yes"}),
    ),
    "it is pre-provisioned, and waits": (
        a_content(source_volume_handle="", source_snapshot_handle="v@s", snapshot_uid=""),
    ),
}


@pytest.mark.parametrize("why", REFERRED)
def test_a_content_is_left_alone_when(why):
    assert accused(UNREFERENCED, world(*REFERRED[why])) == []


def test_a_snapshot_in_another_cluster_does_not_use_it():
    two = settings(clusters=[{"name": n, "kubeconfig": "/dev/null"} for n in (CLUSTER, "edge")])
    there = seen(a_volume_snapshot(), source="edge")
    assert accused(UNREFERENCED, world(a_content(), there, config=two)) == [CONTENT.name]


@pytest.mark.parametrize("kind", [Kind.VOLUME_SNAPSHOT, Kind.VOLUME_SNAPSHOT_CONTENT])
def test_no_content_is_judged_before_all_is_listed(kind):
    assert judge(UNREFERENCED, CONTENT, world(a_content(), incomplete=[(CLUSTER, kind)])) is None


def test_a_cluster_without_the_snapshot_api_misses_no_snapshot():
    in_world = world(a_content())
    in_world.graph.apply(Listed(CLUSTER, Kind.VOLUME_SNAPSHOT, frozenset(), 2.0, absent=True), Changes())
    assert accused(UNREFERENCED, in_world) == []
