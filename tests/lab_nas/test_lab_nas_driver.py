"""democratic-csi on the lab NAS: whole volumes, half-created ones, and what deletions leave."""

import json

import pytest

from lab_nas.nas_client import logged_in
from lab_nas.trace import PROTOCOLS, load
from truetally.lab.nas import Driver
from truetally.lab.nas.driver import Step
from truetally.lab.nas.failures import CallError


def _marks(nas, path):
    user = nas.zfs.dataset(path).user
    return {key.removeprefix("democratic-csi:"): value for key, value in user.items()}


@pytest.mark.parametrize("over", ["ssh", "api"])
async def test_a_whole_nfs_volume_carries_every_mark(any_nas, over):
    driver = Driver(any_nas, instance_id="one", over=over)
    handle, attributes = driver.create_volume("pvc-1", 2 << 30)
    family = "freenas-nfs" if over == "ssh" else "freenas-api-nfs"
    path = "tank/k8s/nfs/vols/pvc-1"
    context = {"node_attach_driver": "nfs", "server": "127.0.0.1", "share": f"/mnt/{path}"}
    provisioner = {"provisioner_driver": family, "provisioner_driver_instance_id": "one"}
    assert (handle, attributes) == ("pvc-1", context | provisioner)
    marks = _marks(any_nas, path)
    assert json.loads(marks.pop("csi_share_volume_context")) == context
    assert marks == {
        "managed_resource": "true",
        "csi_volume_name": "pvc-1",
        "volume_context_provisioner_driver": family,
        "volume_context_provisioner_instance_id": "one",
        "freenas_nfs_share_id": "1",
        "provision_success": "true",
    }
    assert any_nas.zfs.dataset(path).refquota == 2 << 30
    share = any_nas.call("sharing.nfs.query", [], {"get": True})
    assert share["comment"] == f"democratic-csi (org.democratic-csi.nfs): {path}"


async def test_an_iscsi_volume_is_a_zvol_with_target_extent_and_link(any_nas):
    driver = Driver(any_nas, "tank/k8s/iscsi/vols", "tank/k8s/iscsi/snaps", "iscsi")
    _, attributes = driver.create_volume("pvc-A", (1 << 30) + 1)
    assert attributes["iqn"] == "iqn.2005-10.org.freenas.ctl:pvc-a"
    assert any_nas.zfs.dataset("tank/k8s/iscsi/vols/pvc-A").volsize == (1 << 30) + 16384
    extent = any_nas.call("iscsi.extent.query", [], {"get": True})
    assert (extent["disk"], extent["path"]) == ("zvol/tank/k8s/iscsi/vols/pvc-A",) * 2
    marks = _marks(any_nas, "tank/k8s/iscsi/vols/pvc-A")
    assert marks["freenas_iscsi_assets_name"] == "pvc-a"


async def test_an_smb_volume_is_shared_by_its_name(any_nas):
    _, attributes = Driver(any_nas, protocol="smb").create_volume("pvc-A")
    assert attributes["share"] == any_nas.call("sharing.smb.query", [], {"get": True})["name"] == "pvc-a"


@pytest.mark.parametrize(
    ("step", "has", "has_not"),
    [
        (Step.DATASET, {"managed_resource"}, {"provision_success", "freenas_iscsi_target_id"}),
        (Step.TARGET, {"freenas_iscsi_target_id"}, {"freenas_iscsi_extent_id"}),
        (Step.EXTENT, {"freenas_iscsi_extent_id"}, {"freenas_iscsi_targettoextent_id"}),
        (Step.SHARE, {"freenas_iscsi_assets_name"}, {"csi_share_volume_context"}),
        (Step.SHARE_CONTEXT, {"csi_share_volume_context"}, {"provision_success"}),
    ],
)
async def test_a_stopped_creation_leaves_what_was_done(nas, step, has, has_not):
    driver = Driver(nas, protocol="iscsi")
    driver.create_volume("pvc-1", stop_after=step)
    marks = set(_marks(nas, driver.dataset_of("pvc-1")))
    assert marks >= has
    assert not marks & has_not


async def test_a_stopped_replication_leaves_an_unmarked_dataset(nas):
    driver = Driver(nas)
    driver.create_volume("pvc-1")
    driver.create_volume("pvc-2", source="pvc-1", detached=True, stop_after=Step.REPLICATED)
    left = nas.zfs.dataset(driver.dataset_of("pvc-2"))
    assert (left.user, list(left.snapshots)) == ({}, ["volume-source-for-volume-pvc-2"])


async def test_a_deleted_volume_leaves_nothing(any_nas):
    for protocol in ("nfs", "smb", "iscsi"):
        driver = Driver(any_nas, protocol=protocol)
        driver.create_volume("pvc-1")
        driver.delete_volume("pvc-1")
        assert any_nas.zfs.find(driver.dataset_of("pvc-1")) is None
    for kind in ("sharing.nfs", "sharing.smb", "iscsi.target", "iscsi.extent", "iscsi.targetextent"):
        assert any_nas.call(f"{kind}.query") == []


async def test_a_deletion_that_clones_refuse_has_lost_its_share(nas):
    driver = Driver(nas)
    driver.create_volume("pvc-1")
    driver.restore("pvc-2", driver.create_snapshot("pvc-1", "snapshot-1"))
    with pytest.raises(CallError, match="has dependent clones"):
        driver.delete_volume("pvc-1")
    assert "freenas_nfs_share_id" not in _marks(nas, driver.dataset_of("pvc-1"))
    assert [row["path"] for row in nas.call("sharing.nfs.query")] == [f"/mnt/{driver.dataset_of('pvc-2')}"]


async def test_a_clone_takes_its_source_snapshot_with_it(nas):
    driver = Driver(nas)
    driver.create_volume("pvc-1")
    driver.clone("pvc-2", "pvc-1")
    marks = _marks(nas, driver.dataset_of("pvc-2"))
    assert (marks["csi_volume_content_source_type"], marks["csi_volume_content_source_id"]) == (
        "volume",
        "pvc-1",
    )
    assert list(nas.zfs.dataset(driver.dataset_of("pvc-1")).snapshots) == ["volume-source-for-volume-pvc-2"]
    driver.delete_volume("pvc-2")
    assert nas.zfs.dataset(driver.dataset_of("pvc-1")).snapshots == {}


async def test_a_deleted_snapshot_with_clones_waits_for_them(nas):
    driver = Driver(nas)
    driver.create_volume("pvc-1")
    handle = driver.create_snapshot("pvc-1", "snapshot-1")
    assert handle == "pvc-1@snapshot-1"
    driver.restore("pvc-2", handle)
    driver.delete_snapshot(handle)
    assert nas.zfs.snapshot(driver.snapshot_of(handle)).defer_destroy
    driver.delete_volume("pvc-2")
    assert nas.zfs.find_snapshot(driver.snapshot_of(handle)) is None


async def test_a_detached_snapshot_is_a_dataset_in_a_plain_container(nas):
    driver = Driver(nas)
    driver.create_volume("pvc-1")
    handle = driver.create_snapshot("pvc-1", "snapshot-1", detached=True)
    assert handle == "pvc-1/snapshot-1"
    assert _marks(nas, "tank/k8s/nfs/snaps/pvc-1") == {}
    assert _marks(nas, "tank/k8s/nfs/snaps/pvc-1/snapshot-1")["csi_snapshot_name"] == "snapshot-1"
    driver.delete_snapshot(handle)
    assert nas.zfs.find("tank/k8s/nfs/snaps/pvc-1") is None


async def test_an_nvmeof_volume_is_a_zvol_with_a_subsystem_that_a_port_shows(nas):
    driver = Driver(nas, protocol="nvmeof")
    handle, attributes = driver.create_volume("pvc-A", (1 << 30) + 1)
    path = driver.dataset_of(handle)
    subsys = nas.call("nvmet.subsys.query", [], {"get": True, "extra": {"verbose": True}})
    namespace = nas.call("nvmet.namespace.query", [], {"get": True})
    assert (subsys["name"], subsys["namespaces"], subsys["ports"]) == ("pvc-a", [namespace["id"]], [1])
    assert namespace["device_path"] == f"zvol/{path}"
    assert attributes == {
        "node_attach_driver": "nvmeof",
        "transport": "tcp://127.0.0.1:4420",
        "transports": "",
        "nqn": subsys["subnqn"],
        "nsid": "1",
        "provisioner_driver": "freenas-nvmeof",
    }
    assert json.loads(_marks(nas, path)["csi_share_volume_context"])["nsid"] == 1
    driver.delete_volume(handle)
    for kind in ("subsys", "namespace", "port_subsys"):
        assert nas.call(f"nvmet.{kind}.query") == []


@pytest.mark.parametrize(
    ("step", "left"),
    [(Step.TARGET, (1, 0, 0)), (Step.EXTENT, (1, 1, 0)), (Step.SHARE, (1, 1, 1))],
)
async def test_a_stopped_nvmeof_creation_leaves_what_was_done(nas, step, left):
    Driver(nas, protocol="nvmeof").create_volume("pvc-1", stop_after=step)
    kinds = ("subsys", "namespace", "port_subsys")
    found = tuple(nas.call(f"nvmet.{kind}.query", [], {"count": True}) for kind in kinds)
    # Ports are linked within the same step as what comes after them.
    assert found == left


async def test_the_newer_driver_keeps_a_volume_that_has_csi_snapshots(nas):
    driver = Driver(nas, protocol="nvmeof", over="api")
    driver.create_volume("pvc-1")
    driver.create_snapshot("pvc-1", "snapshot-1")
    with pytest.raises(CallError, match="filesystem has dependent snapshots"):
        driver.delete_volume("pvc-1")
    assert nas.call("nvmet.subsys.query") == []
    driver.delete_snapshot("pvc-1@snapshot-1")
    nas.ssh.snapshot(f"{driver.dataset_of('pvc-1')}@auto-2026")
    driver.delete_volume("pvc-1")
    assert nas.zfs.find(driver.dataset_of("pvc-1")) is None


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_lab_driver_marks_a_volume_as_the_real_one_did(nas, protocol):
    driver = Driver(nas, protocol=protocol, over="api", instance_id="cluster-a")
    recorded = load(protocol)["states"]["full"]["datasets"]
    real = next(each for name, each in recorded.items() if name.endswith("00000000000d"))["marks"]
    driver.create_volume("pvc-1")
    driver.create_volume("pvc-2", source="pvc-1", detached=True)
    made = nas.zfs.dataset(driver.dataset_of("pvc-2")).user
    assert made.keys() == real.keys()
    mine, theirs = (json.loads(each["democratic-csi:csi_share_volume_context"]) for each in (made, real))
    assert {key: type(value) for key, value in mine.items()} == {
        key: type(value) for key, value in theirs.items()
    }
    assert not nas.zfs.dataset(driver.dataset_of("pvc-1")).snapshots


async def test_a_detached_clone_over_the_api_is_a_replication_job(nas):
    driver = Driver(nas, over="api")
    driver.create_volume("pvc-1")
    driver.create_volume("pvc-2", source="pvc-1", detached=True, stop_after=Step.REPLICATED)
    (job,) = nas.call("core.get_jobs", [["method", "=", "replication.run_onetime"]])
    assert (job["state"], job["arguments"][0]["target_dataset"]) == ("SUCCESS", driver.dataset_of("pvc-2"))


async def test_ssh_drivers_leave_shares_behind_that_point_at_nothing(nas):
    driver = Driver(nas)
    driver.create_volume("pvc-1")
    nas.ssh.destroy(driver.dataset_of("pvc-1"))
    async with logged_in(nas) as client:
        assert len(await client.call("sharing.nfs.query")) == 1
