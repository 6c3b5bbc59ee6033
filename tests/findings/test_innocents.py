"""References that are easily overlooked; each of these once made a false accusation possible."""

from __future__ import annotations

import pytest

from truetally.csi import democratic_csi as csi
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.observations import Seen
from truetally.model.refs import Kind, Ref
from worlds import (
    NAS,
    PARENT,
    PATH,
    a_csi_source,
    a_dataset,
    a_pool,
    a_volume,
    accused,
    seen,
    settings,
    world,
)

ORPHAN, GONE = "dataset-without-volume", "volume-without-dataset"
MEDIA = f"{PARENT}/media"


def by_hand(source: k8s.CsiSource):
    return a_volume("by-hand", claim=None, annotations={}, csi=source)


def csi_source(driver: str, **attributes: str):
    return k8s.CsiSource(driver, "a-handle-of-its-own", "", attributes)


def smb_share(path: str = MEDIA):
    return truenas.SmbShare(1, "Media", f"/mnt/{path}")


ELSEWHERE = a_dataset(MEDIA, mountpoint="/mnt/other/x")
SMB = {"node_attach_driver": "smb", "server": "10.0.0.10"}
INLINE = {
    "SMB": k8s.Pod("default", "p", "u", csi=(csi_source("smb.csi.k8s.io", source="//10.0.0.10/media"),)),
    "NFS": k8s.Pod("default", "p", "u", csi=(csi_source("nfs.csi.k8s.io", share=f"/mnt/{MEDIA}"),)),
}
OVERLOOKED = {
    "a mountpoint of its own": (ELSEWHERE, by_hand(csi_source("d", share="/mnt/other/x"))),
    "a directory below a mountpoint of its own": (
        ELSEWHERE,
        by_hand(csi_source("d", share="/mnt/other/x/sub")),
    ),
    "an SMB share": (smb_share(), by_hand(csi_source("d", share="MEDIA", **SMB))),
    "a directory of an SMB share": (smb_share(), by_hand(csi_source("d", share="media/sub", **SMB))),
    "an SMB share of a directory in it": (
        smb_share(f"{MEDIA}/sub"),
        by_hand(csi_source("d", share="media", **SMB)),
    ),
    "csi-driver-smb": (smb_share(), by_hand(csi_source("smb.csi.k8s.io", source="//10.0.0.10/media"))),
    "csi-driver-nfs with a directory": (
        by_hand(csi_source("nfs.csi.k8s.io", server="10.0.0.10", share=f"/mnt/{PARENT}", subDir="media")),
    ),
    "truenas-csi": (by_hand(csi_source("csi.truenas.io", nfsServer="10.0.0.10", nfsPath=f"/mnt/{MEDIA}")),),
    "a driver that names the dataset": (by_hand(csi_source("tns.csi.io", datasetName=MEDIA)),),
    "an inline SMB volume": (smb_share(), INLINE["SMB"]),
    "an inline NFS volume": (INLINE["NFS"],),
    "a file that is an iSCSI extent": (truenas.IscsiExtent(1, "x", "FILE", f"/mnt/{MEDIA}/disk.img"),),
}


@pytest.mark.parametrize("what", OVERLOOKED)
def test_a_dataset_is_not_accused_because_of(what):
    values = OVERLOOKED[what]
    datasets = [] if any(isinstance(v, truenas.Dataset) for v in values) else [a_dataset(MEDIA)]
    assert accused(ORPHAN, world(a_pool(), *datasets, *values)) == []


def test_the_control_without_a_reference_is_accused():
    assert accused(ORPHAN, world(a_pool(), a_dataset(MEDIA), smb_share())) == [MEDIA]


@pytest.mark.parametrize("attachment", ["NVMe-oF Namespace: x", "SMB Share: x", "iSCSI Extent: x"])
def test_a_share_that_its_own_driver_does_not_make_is_another_use(attachment):
    use = Seen(Ref(NAS, Kind.DATASET_USE, PATH), truenas.DatasetUse(attachments=(attachment,)), 99.0)
    assert accused(ORPHAN, world(a_pool(), a_dataset(), use)) == []


def test_a_volume_that_lives_on_after_a_failover_to_another_nas_is_not_gone():
    two = settings(
        nas=[
            {
                "name": name,
                "url": f"wss://{name}",
                "username": "u",
                "api_key": {"env": "K"},
                "addresses": [address],
            }
            for name, address in (("nas1", "10.0.0.10"), ("nas2", "10.0.0.11"))
        ]
    )
    in_world = world(a_pool(), a_volume(), seen(a_dataset(), source="nas2"), config=two)
    assert accused(GONE, in_world) == []


def test_a_volume_that_mounts_a_directory_of_another_is_not_gone():
    inside = a_volume("sub", claim=None, csi=a_csi_source("sub", share=f"/mnt/{PATH}/sub"))
    assert accused(GONE, world(a_pool(), a_dataset(), a_volume(), inside)) == []


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("media", "media"),
        ("/Media/", "media"),
        ("media/sub", "media"),
        ("//nas1/media/sub", "media"),
        ("\\\\nas1\\media", "media"),
        ("", ""),
    ],
)
def test_the_name_of_an_smb_share(text, share):
    assert csi.smb_share_of(text) == share
