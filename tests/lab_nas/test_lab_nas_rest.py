"""REST v2.0: who may, which path is which method, how refusals look, and what faults do to it."""

import asyncio
import base64
import contextlib
import json

import aiohttp
import pytest

from lab_nas.nas_client import logged_in
from lab_nas.rest_client import one_of_everything, rest_of, started
from truetally.lab.nas.failures import Invalid

_A = "pool/dataset/id/tank%2Fk8s%2Fa"


# --- who may ---------------------------------------------------------------------------------------


async def _status(nas, path="pool/dataset", method="GET", **login):
    async with rest_of(nas, **login) as client:
        return (await client.status_and_body(method, path, {} if method != "GET" else None))[0]


async def test_a_request_without_a_login_is_401(nas):
    assert await _status(nas, headers={}) == 401


async def test_a_wrong_or_expired_key_is_401(nas):
    key = nas.add_key("root", ("FULL_ADMIN",))
    assert await _status(nas, headers={"Authorization": f"Bearer {key}"}) == 200
    assert await _status(nas, headers={"Authorization": f"Bearer {key}x"}) == 401
    assert await _status(nas, headers={"Authorization": "Bearer nonsense"}) == 401
    nas.expire_key(key)
    assert await _status(nas, headers={"Authorization": f"Bearer {key}"}) == 401


def _basic(name, password):
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"}


async def test_a_user_with_a_password_logs_in_by_basic_auth(nas):
    nas.machine.add_user("root", "secret")
    nas.machine.add_user("careful", "secret", otp="123456")
    assert await _status(nas, headers=_basic("root", "secret")) == 200
    assert await _status(nas, headers=_basic("root", "wrong")) == 401
    assert await _status(nas, headers=_basic("nobody", "secret")) == 401
    assert await _status(nas, headers=_basic("careful", "secret")) == 401
    assert await _status(nas, headers={"Authorization": "Basic ???"}) == 401


async def test_a_role_that_only_reads_is_403_where_something_changes(nas):
    assert await _status(nas, roles=("READONLY_ADMIN",)) == 200
    assert await _status(nas, method="POST", roles=("READONLY_ADMIN",)) == 403


async def test_the_allowlist_of_an_old_key_names_paths():
    async with started("24.10") as lab:
        key = lab.machine.add_key("root", (), allowlist=[("GET", "/pool/*")]).text
        login = {"headers": {"Authorization": f"Bearer {key}"}}
        assert await _status(lab, **login) == 200
        assert await _status(lab, "sharing/nfs", **login) == 403
        assert await _status(lab, method="POST", **login) == 403


async def test_a_key_that_comes_unencrypted_is_not_revoked(nas):
    nas.remote_address = "10.0.0.9"
    key = nas.add_key("root", ("FULL_ADMIN",))
    for _ in range(2):
        assert await _status(nas, headers={"Authorization": f"Bearer {key}"}) == 200


# --- which path is which method ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "there", "absent"),
    [
        ("24.10", "zfs/snapshot", "pool/snapshot"),
        ("25.04", "zfs/snapshot", "nvmet/subsys"),
        ("25.10", "pool/snapshot", "zfs/snapshot"),
        ("25.10", "nvmet/subsys", "zfs/dataset"),
    ],
)
async def test_what_a_version_has_not_is_404(version, there, absent):
    async with started(version) as lab:
        assert await _status(lab, there) == 200
        assert await _status(lab, absent) == 404


async def test_rest_is_gone_in_26(nas26):
    for path in ("system/version", "pool/dataset", ""):
        assert await _status(nas26, path) == 404


async def test_a_trailing_slash_makes_no_difference(rest):
    assert await rest.get("system/version/") == await rest.get("system/version") == "TrueNAS-25.10.5"


async def test_another_verb_is_405(rest):
    assert (await rest.status_and_body("PUT", "pool/dataset"))[0] == 405
    assert (await rest.status_and_body("GET", "filesystem/setperm"))[0] == 405


async def test_logging_in_and_subscribing_need_a_socket(rest):
    for path in ("core/subscribe", "auth/login", "auth/login_ex"):
        assert (await rest.status_and_body("POST", path, ["x"]))[0] == 404


async def test_a_collection_is_queried_by_its_query_string(rest):
    for name in ("a", "b", "c"):
        await rest.post("pool/dataset", {"name": f"tank/k8s/{name}"})
    await rest.put("pool/dataset/id/tank%2Fk8s%2Fb", {"refquota": "2147483648"})

    async def names(**query):
        return [row["name"] for row in await rest.get("pool/dataset", **query)]

    assert await names(name="tank/k8s/b") == ["tank/k8s/b"]
    assert await names(name__in="tank/k8s/b,tank/k8s/c") == ["tank/k8s/b", "tank/k8s/c"]
    assert await names(sort="-name", limit="2") == ["tank/k8s/c", "tank/k8s/b"]
    assert await names(sort="name", limit="1", offset="2") == ["tank/k8s/a"]
    assert await names(type="VOLUME") == []
    assert await names(**{"refquota.parsed__gt": "1073741824"}) == ["tank/k8s/b"]
    assert await names(name__regex="tank/k8s/[ab]") == ["tank/k8s/a", "tank/k8s/b"]
    assert (await rest.get("nvmet/port", count="true")) == 0
    flat = await rest.get("pool/dataset", pool="tank", extra_retrieve_children="false")
    assert [row["children"] for row in flat] == [[]] * 5


async def test_a_member_is_got_changed_and_deleted(rest):
    await rest.post("pool/dataset", {"name": "tank/k8s/a"})
    marks = [{"key": "a:number", "value": 7}, {"key": "a:gone", "value": "x"}]
    await rest.put(_A, {"user_properties_update": marks})
    await rest.put(_A, {"user_properties_update": [{"key": "a:gone", "remove": True}]})
    held = (await rest.get(_A))["user_properties"]
    assert {key: each["rawvalue"] for key, each in held.items()} == {"a:number": "7"}
    assert await rest.delete(_A, {"recursive": True, "force": True}) is True
    assert await rest.delete("pool/dataset/id/tank%2Fk8s") is True


async def test_a_method_of_a_member_has_its_name_behind_the_id(rest):
    await rest.post("pool/dataset", {"name": "tank/k8s/a"})
    await rest.post("sharing/nfs", {"path": "/mnt/tank/k8s/a"})
    assert [each["type"] for each in await rest.post(f"{_A}/attachments")] == ["NFS Share"]


async def test_snapshots_of_a_dataset_are_shown_where_they_are_asked_for(rest):
    await rest.post("pool/dataset", {"name": "tank/k8s/a", "user_properties": [{"key": "a:b", "value": "c"}]})
    await rest.post("pool/snapshot", {"dataset": "tank/k8s/a", "name": "s"})
    assert "snapshots" not in await rest.get(_A)
    shown = await rest.get(_A, extra_snapshots="1", extra_snapshots_properties='["used","a:b"]')
    ((name, properties),) = [(each["name"], each["properties"]) for each in shown["snapshots"]]
    assert name == "tank/k8s/a@s"
    assert {key: each["rawvalue"] for key, each in properties.items()} == {"used": "0", "a:b": "c"}


async def test_several_arguments_are_the_members_of_the_body(nas, rest):
    nas.zfs.create("tank/k8s/z", volsize=1 << 30)
    nas.call("iscsi.target.create", {"name": "z"})
    nas.call("iscsi.extent.create", {"name": "z", "disk": "zvol/tank/k8s/z"})
    nas.call("iscsi.targetextent.create", {"target": 1, "extent": 1})
    nas.machine.connect_initiator("z", "iqn.x")
    told = await rest.refused("DELETE", "iscsi/extent/id/1")
    assert told == {"message": "Associated target z is in use.", "errno": 16}
    assert await rest.delete("iscsi/extent/id/1", {"force": True}) is True
    status, told = await rest.status_and_body("DELETE", "iscsi/target/id/1", {"strength": 1})
    assert (status, told["message"]) == (400, "The following attributes are not expected: strength")


@pytest.mark.parametrize(("version", "body"), [("24.10", True), ("25.04", {"delete_extents": True})])
async def test_extents_go_with_their_target_from_25_04_on_only(version, body):
    async with started(version) as nas, rest_of(nas) as rest:
        nas.zfs.create("tank/k8s/z", volsize=1 << 30)
        nas.call("iscsi.target.create", {"name": "z"})
        nas.call("iscsi.extent.create", {"name": "z", "disk": "zvol/tank/k8s/z"})
        nas.call("iscsi.targetextent.create", {"target": 1, "extent": 1})
        if version == "24.10":
            with pytest.raises(Invalid, match=r"Too many arguments \(expected 2, found 3\)"):
                nas.call("iscsi.target.delete", 1, False, True)
        assert await rest.delete("iscsi/target/id/1", body) is True
        assert len(await rest.get("iscsi/extent")) == (1 if version == "24.10" else 0)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("pool/dataset", {"name": 5}),
        ("pool/dataset", ["tank"]),
        ("filesystem/setperm", {"path": None}),
        ("sharing/nfs", {"path": ["/mnt/tank"]}),
        ("iscsi/target", {"name": {}}),
        ("nvmet/subsys", {"name": []}),
        ("pool/snapshottask", {"dataset": 1}),
    ],
)
async def test_a_body_of_another_shape_is_refused_and_nothing_breaks(rest, path, body):
    told = await rest.refused("POST", path, body)
    assert "Input should be a valid" in json.dumps(told)


async def test_a_member_that_no_path_can_name_is_just_missing(rest):
    for path in ("pool/dataset/id/1", "pool/snapshot/id/1", "nvmet/subsys/id/x", "nvmet/subsys/id/7"):
        assert (await rest.status_and_body("GET", path))[0] == 404


async def test_what_is_no_json_is_400(nas):
    async with rest_of(nas) as client:
        url = f"{client._base}/api/v2.0/pool/dataset"
        async with client._session.post(url, data="{") as response:
            assert response.status == 400


# --- how refusals look --------------------------------------------------------------------------------


async def test_a_missing_member_is_404_to_read_and_422_to_delete(rest):
    status, told = await rest.status_and_body("GET", _A)
    assert (status, set(told)) == (404, {"message"})
    told = await rest.refused("DELETE", _A)
    assert told == {"null": [{"message": "PoolDataset tank/k8s/a does not exist", "errno": 2}]}


async def test_a_wrong_argument_is_told_with_its_name(rest):
    told = await rest.refused("POST", "pool/dataset", {"name": "tank/k8s/a", "colour": "red"})
    assert told == {"data.colour": [{"message": "Extra inputs are not permitted", "errno": 22}]}
    told = await rest.refused("POST", "pool/dataset", {"name": "tank/k8s/a", "refquota": "much"})
    assert told == {"pool_dataset.refquota": [{"message": "Input should be a valid integer", "errno": 22}]}


async def test_a_failed_call_is_told_with_its_errno(nas, rest):
    nas.call("iscsi.target.create", {"name": "z"})
    nas.machine.connect_initiator("z", "iqn.x")
    told = await rest.refused("DELETE", "iscsi/target/id/1")
    assert told == {"message": "Target z is in use.", "errno": 14}


_CONFLICTS = [
    ("pool/dataset", {"name": "tank/k8s/a"}, "already exists"),
    ("pool/snapshot", {"dataset": "tank/k8s/a", "name": "s"}, "already exists"),
    ("pool/snapshot", {"dataset": "tank/k8s/x", "name": "s"}, "does not exist"),
    ("pool/snapshot/clone", {"snapshot": "tank/k8s/a@s", "dataset_dst": "tank/k8s/a"}, "already exists"),
    (
        "sharing/nfs",
        {"path": "/mnt/tank/k8s/a", "networks": ["10.0.0.0/24"]},
        "Another NFS share already exports this dataset for some network",
    ),
    ("sharing/smb", {"name": "A", "path": "/mnt/tank/k8s/a"}, "A share with this name already exists."),
    ("iscsi/target", {"name": "z"}, "Target name already exists"),
    ("iscsi/extent", {"name": "z", "disk": "zvol/tank/k8s/z"}, "Extent name must be unique"),
    ("iscsi/targetextent", {"target": 1, "extent": 1, "lunid": 1}, "Extent is already in this target."),
    (
        "iscsi/targetextent",
        {"target": 1, "extent": 2, "lunid": 0},
        "LUN ID is already being used for this target.",
    ),
    ("nvmet/subsys", {"name": "n"}, "Object with this name already exists"),
    (
        "nvmet/namespace",
        {"device_type": "ZVOL", "device_path": "zvol/tank/k8s/n", "subsys_id": 1},
        "This device_path already used by subsystem: n",
    ),
    (
        "nvmet/namespace",
        {"device_type": "ZVOL", "device_path": "zvol/tank/k8s/z", "subsys_id": 1},
        "This device_path already used by iSCSI extent: z",
    ),
    ("nvmet/port_subsys", {"port_id": 9, "subsys_id": 1}, "No port with ID 9"),
]


@pytest.mark.parametrize(("path", "body", "text"), _CONFLICTS)
async def test_a_conflict_is_told_in_the_words_that_the_driver_knows(nas, rest, path, body, text):
    await one_of_everything(nas)
    assert text in json.dumps(await rest.refused("POST", path, body))


async def test_two_shares_of_one_path_for_different_networks_are_allowed(nas, rest):
    await one_of_everything(nas)
    await rest.post("sharing/nfs", {"path": "/mnt/tank/k8s/a", "networks": ["10.0.1.0/24"]})


@pytest.mark.parametrize(
    ("make", "path", "body", "text"),
    [
        ("clone", _A, {"recursive": True, "force": True}, "filesystem has dependent clones"),
        ("child", _A, None, "filesystem has children"),
        ("clone", "pool/snapshot/id/tank%2Fk8s%2Fa%40s", {}, "snapshot has dependent clones"),
        ("hold", "pool/snapshot/id/tank%2Fk8s%2Fa%40s", None, "dataset is busy"),
    ],
)
async def test_a_refused_deletion_says_why(nas, rest, make, path, body, text):
    await one_of_everything(nas)
    if make == "clone":
        nas.zfs.clone("tank/k8s/a@s", "tank/k8s/clone")
    elif make == "child":
        nas.zfs.create("tank/k8s/a/child")
    else:
        nas.zfs.hold("tank/k8s/a@s")
    assert text in (await rest.refused("DELETE", path, body))["message"]


# --- what goes wrong, and who hears of it ---------------------------------------------------------------


async def test_a_change_over_rest_is_told_to_subscribers(nas, rest):
    async with logged_in(nas) as client:
        await client.call("core.subscribe", "nvmet.subsys.query")
        await rest.post("nvmet/subsys", {"name": "a"})
        await client.call("core.ping")
    ((event),) = client.events
    assert (event["msg"], event["collection"], event["fields"]["name"]) == (
        "added",
        "nvmet.subsys.query",
        "a",
    )


async def test_faults_meet_rest_calls_too(nas, rest):
    nas.faults.fail("pool.dataset.create", reason="no")
    told = await rest.refused("POST", "pool/dataset", {"name": "tank/k8s/a"})
    assert told == {"message": "no", "errno": 14}
    for name in ("a", "b"):
        await rest.post("nvmet/subsys", {"name": name})
    nas.faults.truncate("nvmet.subsys.query")
    assert len(await rest.get("nvmet/subsys")) == 1
    assert len(await rest.get("nvmet/subsys")) == 2


async def test_a_stalled_nas_answers_when_it_goes_on(nas, rest):
    nas.faults.stall("nvmet.subsys.create")
    waiting = asyncio.create_task(rest.post("nvmet/subsys", {"name": "a"}))
    while nas.awake.is_set():
        await asyncio.sleep(0.01)
    assert not waiting.done()
    nas.resume()
    assert (await asyncio.wait_for(waiting, 10))["name"] == "a"


async def test_an_answer_held_back_comes_after_that_of_another_request(nas, rest):
    nas.faults.hold("nvmet.subsys.create")
    waiting = asyncio.create_task(rest.post("nvmet/subsys", {"name": "a"}))
    async with asyncio.timeout(10):
        while not nas.machine.tables["nvmet.subsys"].rows:
            await asyncio.sleep(0.01)
    assert not (await asyncio.wait({waiting}, timeout=0.1))[0]
    assert [each["name"] for each in await rest.get("nvmet/subsys")] == ["a"]
    assert (await asyncio.wait_for(waiting, 10))["name"] == "a"


async def test_a_restart_loses_the_call_and_answers_again(nas, rest):
    nas.faults.restart("nvmet.subsys.create")
    with contextlib.suppress(aiohttp.ClientError, AssertionError):
        await rest.post("nvmet/subsys", {"name": "a"})
        pytest.fail("the call was answered")
    async with asyncio.timeout(10):
        while True:
            try:
                assert await rest.get("nvmet/subsys") == []
            except aiohttp.ClientError:
                await asyncio.sleep(0.01)
            else:
                break


@pytest.mark.parametrize("fault", ["drop", "cut"])
async def test_a_lost_answer_breaks_the_connection_after_the_call_was_made(nas, rest, fault):
    getattr(nas.faults, fault)("nvmet.subsys.create")
    with pytest.raises(aiohttp.ClientError):
        await rest.post("nvmet/subsys", {"name": "a"})
    assert len(await rest.get("nvmet/subsys")) == 1
