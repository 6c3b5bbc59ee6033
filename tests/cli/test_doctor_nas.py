"""`truetally doctor nas` against a lab NAS: what is missing, what to grant, and what is never said."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
import yaml
from click.testing import CliRunner

from truetally.cli.root import root
from truetally.lab.nas import LabNas

# Who is an NFS client may only be read with the right to change shares, or as READONLY_ADMIN, which has all.
HAS = ["POOL_READ", "SHARING_NFS_WRITE"]


@asynccontextmanager
async def nas_of(version: str = "25.10"):
    nas = LabNas(version)
    nas.zfs.create_pool("tank")
    await nas.start()
    try:
        yield nas
    finally:
        await nas.stop()


class Doctor:
    def __init__(self, tmp_path) -> None:
        self.config = tmp_path / "truetally.yaml"
        (tmp_path / "kubeconfig").write_text("{}")
        self.nas = []
        self.keys = {}

    def add(self, nas, name="nas1", key="", **more) -> None:
        self.keys[f"KEY_{name}"] = key
        entry = {"name": name, "url": nas if isinstance(nas, str) else nas.url, "username": "truetally"}
        self.nas.append(entry | {"api_key": {"env": f"KEY_{name}"}} | more)

    async def __call__(self, *words: str, **keys: str):
        kubeconfig = str(self.config.with_name("kubeconfig"))
        content = {"clusters": [{"name": "prod", "kubeconfig": kubeconfig}], "nas": self.nas}
        self.config.write_text(yaml.safe_dump(content))
        ran = await asyncio.to_thread(
            CliRunner().invoke,
            root,
            ["doctor", "nas", *words, "-c", str(self.config)],
            env=self.keys | keys,
            prog_name="truetally",
        )
        assert not any(key in ran.output for key in self.keys.values() if key)
        return ran.exit_code, ran.stdout, ran.stderr


@pytest.fixture
def doctor(tmp_path) -> Doctor:
    return Doctor(tmp_path)


@pytest.mark.parametrize("version", ["25.10", "26.0"])
async def test_a_read_only_admin_has_all_that_is_needed(doctor, version):
    async with nas_of(version) as nas:
        doctor.add(nas, key=nas.add_key())
        code, out, _ = await doctor()
    assert "✓ all that truetally needs is permitted" in out
    assert code == 0


async def test_what_is_granted_as_told_is_enough(doctor):
    async with nas_of() as nas:
        key = nas.add_key(roles=HAS)
        doctor.add(nas, key=key)
        code, out, _ = await doctor("-o", "json")
        assert code == 1
        [found] = json.loads(out)
        nas.set_roles(key, [*HAS, *found["grant"]])
        code, out, _ = await doctor("-o", "json")
    [found] = json.loads(out)
    assert (code, found["grant"]) == (0, [])
    assert found["grant_more"]


async def test_one_role_less_than_told_is_not_enough(doctor):
    async with nas_of() as nas:
        key = nas.add_key(roles=HAS)
        doctor.add(nas, key=key)
        [found] = json.loads((await doctor("-o", "json"))[1])
        for left_out in found["grant"]:
            nas.set_roles(key, [*HAS, *(role for role in found["grant"] if role != left_out)])
            code, out, _ = await doctor("-o", "json")
            [less] = json.loads(out)
            assert code == 1, left_out
            assert less["grant"] == [left_out]


async def test_the_second_user_is_told_what_to_grant_and_changes_nothing(doctor):
    async with nas_of() as nas:
        watching, changing = nas.add_key(), nas.add_key("mender", ["DATASET_DELETE"])
        doctor.add(nas, key=watching, remediator={"username": "mender", "api_key": {"env": "KEY_mender"}})
        doctor.keys["KEY_mender"] = changing
        code, out, _ = await doctor()
        assert "tank" in nas.zfs.datasets
        assert not [name for name in nas.faults.calls if name.endswith((".delete", ".create", ".update"))]
    assert "user mender, to change things, on approval" in out
    assert "SNAPSHOT_DELETE" in out
    assert "no plan can delete NFS shares" in out
    assert "DATASET_DELETE\n" not in out.partition("Add to")[2]
    assert code == 1


async def test_a_wrong_key_is_told(doctor):
    async with nas_of() as nas:
        doctor.add(nas, key="1-wrong")
        code, out, _ = await doctor()
    assert "✗ the NAS refused the API key: it is wrong, or it does not belong to user truetally" in out
    assert code == 1


async def test_a_nas_that_is_away_does_not_hide_the_others(doctor):
    async with nas_of() as nas:
        doctor.add("ws://127.0.0.1:1", name="away", key="1-x")
        doctor.add(nas, name="here", key=nas.add_key())
        code, out, _ = await doctor()
    assert "✗ cannot connect to http://127.0.0.1:1/api/versions" in out
    assert "✓" in out
    assert code == 1


async def test_a_name_that_is_not_configured_is_told_with_those_that_are(doctor):
    doctor.add("ws://127.0.0.1:1", name="nas1", key="1-x")
    code, out, err = await doctor("nas2")
    assert (code, out) == (4, "")
    assert "there is no NAS nas2 in the config file; there are nas1" in err


async def test_a_broken_config_is_told_with_its_line(doctor):
    doctor.add("ws://192.0.2.1", key="1-x")
    code, _, err = await doctor()
    assert code == 2
    assert "truetally.yaml:" in err


async def test_before_25_04_the_entries_for_the_list_of_the_key_are_told_and_are_enough(doctor):
    async with nas_of("24.10") as nas:
        key = nas.add_key(allowlist=[("CALL", "pool.query")])
        doctor.add(nas, key=key)
        code, out, _ = await doctor("-o", "json")
        [found] = json.loads(out)
        assert (code, found["user_roles"]) == (1, None)
        entries = [json.loads(line) for line in found["grant"] + found["grant_more"]]
        assert {"method": "CALL", "resource": "zfs.snapshot.query"} in entries
        assert {"method": "SUBSCRIBE", "resource": "sharing.nfs.query"} in entries
        allowed = [("CALL", "pool.query"), *((each["method"], each["resource"]) for each in entries)]
        doctor.keys["KEY_nas1"] = nas.add_key(allowlist=allowed)
        code, out, _ = await doctor()
    assert (code, "✓" in out) == (0, True)


async def test_a_standby_controller_is_no_fault_of_a_pair(doctor):
    async with nas_of() as one, nas_of() as other:
        key = one.add_key()
        other.machine.keys = one.machine.keys
        other.standby_of = [one.url]
        doctor.add(one, key=key, failover_urls=[other.url])
        code, out, _ = await doctor()
        assert (code, "this is the standby controller" in out, "✓" in out) == (0, True, True)
        one.standby_of = [other.url]
        assert (await doctor())[0] == 1


async def test_what_fails_for_another_reason_is_not_called_permitted(doctor):
    async with nas_of() as nas:
        doctor.add(nas, key=nas.add_key())
        nas.faults.fail("sharing.nfs.query")
        _, out, _ = await doctor("-o", "json")
    [found] = json.loads(out)
    permitted = {each["method"]: each["permitted"] for each in found["checked"] if not each["subscription"]}
    assert permitted["sharing.nfs.query"] is None
    assert permitted["sharing.smb.query"] is True
    # Whoever is no full administrator is told nothing of others' jobs.
    assert permitted["core.get_jobs"] is None
    assert found["well"] is True


async def test_a_secret_that_cannot_be_read_does_not_hide_the_others(doctor):
    async with nas_of() as nas:
        doctor.add(nas, name="here", key=nas.add_key())
        doctor.add(nas, name="keyless", key="")
        code, out, _ = await doctor()
    assert code == 1
    assert "environment variable KEY_keyless is empty" in out
    assert "✓" in out
