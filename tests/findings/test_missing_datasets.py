"""Is the dataset behind a volume gone? Only where the volume says exactly where it must be, and it is not."""

from __future__ import annotations

import msgspec
import pytest

from truetally.graph.graph import Changes
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.observations import Gone
from truetally.model.refs import Kind, Ref
from worlds import (
    CLUSTER,
    DRIVER,
    NAME,
    NAS,
    OLD,
    PATH,
    a_csi_source,
    a_dataset,
    a_pool,
    a_share,
    a_volume,
    accused,
    properties,
    settings,
    world,
)

GONE = "volume-without-dataset"
IQN = "iqn.2005-10.org.freenas.ctl:csi-x"


def iscsi(**attributes):
    base = {"node_attach_driver": "iscsi", "iqn": IQN, "lun": "0", "portal": "10.0.0.10:3260"}
    return a_volume(csi=a_csi_source(NAME, server="", share="", **(base | attributes)))


def chain(disk=PATH):
    return [
        truenas.IscsiTarget(5, "csi-x"),
        truenas.IscsiExtent(6, "csi-x", "DISK", disk),
        truenas.IscsiTargetExtent(7, 5, 6, 0),
    ]


def test_a_volume_whose_dataset_is_gone_is_found():
    assert accused(GONE, world(a_pool(), a_volume())) == [NAME]


def test_a_share_that_is_left_over_does_not_replace_the_dataset():
    assert accused(GONE, world(a_pool(), a_volume(), a_share())) == [NAME]


def test_a_whole_volume_is_not():
    assert accused(GONE, world(a_pool(), a_volume(), a_dataset())) == []


def test_a_zvol_is_followed_from_iqn_to_extent():
    whole = world(a_pool(), iscsi(), *chain(), a_dataset(kind="VOLUME"))
    broken = world(a_pool(), iscsi(), *chain())
    assert (accused(GONE, whole), accused(GONE, broken)) == ([], [NAME])


def test_a_broken_link_on_the_way_is_not_a_missing_zvol():
    assert accused(GONE, world(a_pool(), iscsi(), a_dataset(kind="VOLUME"))) == []


def test_a_smb_volume_is_followed_by_its_share():
    smb = a_volume(csi=a_csi_source(NAME, node_attach_driver="smb", share="MEDIA"))
    share = truenas.SmbShare(3, "media", f"/mnt/{PATH}")
    assert accused(GONE, world(a_pool(), smb, share, a_dataset())) == []
    assert accused(GONE, world(a_pool(), smb, share)) == [NAME]


NOT_GONE = {
    "it names a server that is no configured NAS": a_volume(csi=a_csi_source(NAME, server="192.0.2.9")),
    "a person made it": a_volume(annotations={}),
    "node-manual": a_volume(csi=a_csi_source(NAME, provisioner_driver="node-manual")),
    "it is in-tree": a_volume(csi=None, nfs=k8s.NfsSource("10.0.0.10", f"/mnt/{PATH}")),
    "it lives on its node": a_volume(csi=a_csi_source(NAME, node_attach_driver="zfs-local")),
    "it is being deleted": a_volume(deleted_at=OLD),
    "it is released": a_volume(phase="Released"),
    "somebody exempts it": a_volume(
        annotations={"pv.kubernetes.io/provisioned-by": DRIVER, "truetally.io/ignore": "true"}
    ),
}


@pytest.mark.parametrize("why", NOT_GONE)
def test_a_volume_is_left_alone_when(why):
    assert accused(GONE, world(a_pool(), NOT_GONE[why])) == []


def test_a_dataset_that_was_renamed_is_not_gone():
    moved = a_dataset("tank/elsewhere/x", user_properties=properties(volume_name=NAME))
    assert accused(GONE, world(a_pool(), a_volume(), moved)) == []


def test_a_dataset_mounted_there_under_another_name_is_not_gone():
    assert (
        accused(GONE, world(a_pool(), a_volume(), a_dataset("tank/other", mountpoint=f"/mnt/{PATH}"))) == []
    )


@pytest.mark.parametrize("pool", [a_pool(status="OFFLINE"), a_pool(name="other")])
def test_a_pool_that_is_not_there_hides_its_datasets(pool):
    assert accused(GONE, world(pool, a_volume())) == []


def test_a_pool_that_vanished_between_two_lists_takes_nobody_with_it():
    in_world = world(a_pool(), a_volume())
    in_world.graph.apply(Gone(Ref(NAS, Kind.DATASET, "tank"), 2.0), Changes())
    assert accused(GONE, in_world) == []


@pytest.mark.parametrize(
    "incomplete",
    [(NAS, Kind.DATASET), (NAS, Kind.POOL), (NAS, Kind.ISCSI_EXTENT), (CLUSTER, Kind.PERSISTENT_VOLUME)],
    ids=str,
)
def test_nothing_is_missed_before_everything_is_listed(incomplete):
    assert accused(GONE, world(a_pool(), a_volume(), incomplete=[incomplete])) == []


def test_an_iscsi_volume_without_target_is_judged_only_where_its_parent_is_known():
    known = settings()
    unknown = settings(drivers=[])
    assert accused(GONE, world(a_pool(), iscsi(), config=known)) == [NAME]
    assert accused(GONE, world(a_pool(), iscsi(), config=unknown)) == []


def test_two_nas_of_which_the_volumes_own_decides():
    two = settings(
        nas=[
            {
                "name": NAS,
                "url": "wss://a",
                "username": "u",
                "api_key": {"env": "K"},
                "addresses": ["10.0.0.10"],
            },
            {
                "name": "nas2",
                "url": "wss://b",
                "username": "u",
                "api_key": {"env": "K"},
                "addresses": ["10.0.0.20"],
            },
        ]
    )
    torn = [("nas2", Kind.DATASET)]
    assert accused(GONE, world(a_pool(), a_volume(), config=two, incomplete=torn)) == [NAME]
    elsewhere = msgspec.structs.replace(a_volume(), csi=a_csi_source(NAME, server="10.0.0.20"))
    assert accused(GONE, world(a_pool(), elsewhere, config=two, incomplete=torn)) == []
