"""A volume that somebody wrote by hand names a target that is gone: its data is wanted all the same."""

from __future__ import annotations

import pytest

from truetally.csi import democratic_csi as csi
from truetally.model import kubernetes as k8s
from worlds import (
    NAME,
    NQN,
    PARENT,
    PATH,
    a_csi_source,
    a_dataset,
    a_pool,
    a_volume,
    accused,
    an_nvme_volume,
    properties,
    world,
)

ORPHAN = "dataset-without-volume"
IQN = f"iqn.2005-10.org.freenas.ctl:csi-{NAME}-clustera"


def by_hand(**attributes):
    source = a_csi_source("old-data", server="", share="", **attributes)
    return a_volume("by-hand", claim=None, csi=source, annotations={})


def by_iqn(iqn=IQN):
    return by_hand(node_attach_driver="iscsi", portal="10.0.0.10:3260", iqn=iqn)


def a_zvol(path=PATH, **marks):
    marks = properties(driver="freenas-api-iscsi", volume_name=NAME, **marks)
    return a_dataset(path, kind="VOLUME", mountpoint=None, user_properties=marks)


IN_TREE = k8s.IscsiSource(("10.0.0.10:3260",), IQN)


@pytest.mark.parametrize(
    "volume",
    [
        by_iqn(),
        a_volume("by-hand", claim=None, csi=None, iscsi=IN_TREE, annotations={}),
        an_nvme_volume(NQN, handle="old-data", name="by-hand", claim=None, annotations={}),
        by_hand(node_attach_driver="smb", source=f"//10.0.0.10/csi-{NAME}-clustera"),
        k8s.Pod("default", "inline", "uid", "Running", "node1", iscsi=(IN_TREE,)),
    ],
    ids=["CSI by IQN", "in-tree by IQN", "by NQN", "by SMB share", "inline in a pod"],
)
def test_a_name_with_the_volumes_uid_in_it_protects_the_dataset(volume):
    assert accused(ORPHAN, world(a_pool(), a_zvol())) == [PATH]
    assert accused(ORPHAN, world(a_pool(), a_zvol(), volume)) == []


@pytest.mark.parametrize(
    ("remembered", "volume"),
    [
        ({csi.ISCSI_NAME: "csi-data-7-x"}, by_iqn("iqn.2005-10.org.freenas.ctl:csi-data-7-x")),
        (
            {csi.NVMEOF_NAME: "csi-data-7-x"},
            an_nvme_volume(
                "nqn.2011-06.com.truenas:uuid:1:CSI-data-7-x", handle="old", name="by-hand", claim=None
            ),
        ),
    ],
    ids=["iSCSI", "NVMe-oF"],
)
def test_the_name_that_a_zvol_remembers_protects_it_where_its_own_is_a_template(remembered, volume):
    path = f"{PARENT}/data-7"
    in_world = world(a_pool(), a_zvol(path), volume)
    assert accused(ORPHAN, in_world) == [path]
    assert accused(ORPHAN, world(a_pool(), a_zvol(path, **remembered), volume)) == []
