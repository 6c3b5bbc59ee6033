"""Does the daemon keep its promise when everything around it fails?"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from stages import (
    a_stage,
    change,
    finding,
    findings,
    in_a_thread,
    lose_one,
    messages,
    ready,
    source,
    truetally,
    until_source,
)

from truetally.model.refs import Kind

ORPHAN, GONE, AWAY = "dataset-without-volume", "volume-without-dataset", "source-unavailable"
ACCUSING = {ORPHAN, GONE, "attachment-stale", "snapshot-without-content", "content-without-snapshot"}


async def accused(stage) -> list[str]:
    return [
        f["subject"]["name"]
        for f in await findings(stage)
        if f["rule"] in ACCUSING and f["state"] != "pending"
    ]


# The whole story


@pytest.mark.parametrize(
    "size", [(), ("--volumes", "200", "--snapshots-per-volume", "3")], ids=["small", "larger"]
)
def test_the_lab_plays_its_story_and_ends(size):
    played = truetally("lab", *size, stdin=-3)
    assert played.returncode == 0, played.stderr
    assert "is open: Nothing in any watched cluster uses dataset" in played.stdout
    assert "The finding is resolved" in played.stdout


async def test_a_destroyed_dataset_is_told_as_critical_and_resolved_when_it_is_back(tmp_path):
    async with a_stage(tmp_path) as stage:
        await ready(stage)
        claim = stage.world.cluster.get(Kind.PERSISTENT_VOLUME_CLAIM, "data-0", "load")
        path = f"tank/k8s/nfs/vols/{claim['spec']['volumeName']}"
        stage.world.nas.ssh.destroy(path, recursive=True)
        found = await finding(stage, GONE)
        assert (found["severity"], found["subject"]["name"]) == ("critical", claim["spec"]["volumeName"])
        assert "Critical" in (await messages(stage, 1))[0]["title"]
        stage.world.nas.ssh.create_dataset(path)
        await finding(stage, GONE, "resolved")


# Sources that fail


async def test_a_nas_that_is_down_at_the_start_accuses_nobody_and_is_waited_for(tmp_path):
    async with a_stage(tmp_path, start=False) as stage:
        port = int(stage.world.nas.url.rpartition(":")[2])
        await stage.world.nas.stop()
        await stage.start_daemon()
        away = await until_source(stage, "nas1", "unreachable")
        assert "cannot connect" in away["detail"]
        assert not (await stage.ask("status"))["ready"]
        assert (await finding(stage, AWAY))["subject"]["name"] == "nas1"
        assert await accused(stage) == []
        await stage.world.nas.start(port=port)
        await ready(stage)
        await finding(stage, AWAY, "resolved")


async def test_a_nas_that_restarts_holds_what_was_open_and_accuses_nobody(tmp_path):
    async with a_stage(tmp_path) as stage:
        await ready(stage)
        volume = lose_one(stage)
        await finding(stage, ORPHAN)
        port = int(stage.world.nas.url.rpartition(":")[2])
        await stage.world.nas.stop()
        await finding(stage, ORPHAN, "held")
        await stage.world.nas.start(port=port)
        await finding(stage, ORPHAN)
        assert await accused(stage) == [volume.dataset]
        assert _told(stage, volume.dataset) == 1


@pytest.mark.parametrize("fault", ["cut", "drop", "truncate"])
async def test_a_list_that_breaks_in_the_middle_accuses_nobody(tmp_path, fault):
    async with a_stage(tmp_path, volumes=20) as stage:
        await ready(stage)
        before = stage.world.nas.faults.calls["zfs.resource.query"]
        getattr(stage.world.nas.faults, fault)("zfs.resource.query")

        async def read_again() -> bool:
            return stage.world.nas.faults.calls["zfs.resource.query"] >= before + 3

        await stage.until("the list has been read again", read_again, 60.0)
        stage.world.nas.faults.clear()
        await ready(stage)
        assert await accused(stage) == []
        assert [m for m in stage.receiver.messages if "nas1" not in m["title"]] == []
        assert (await stage.ask("status"))["objects"]["Dataset"] == len(stage.world.nas.zfs.datasets)


async def test_a_wrong_key_is_told_and_few_logins_are_tried(tmp_path):
    async with a_stage(tmp_path, start=False) as stage:
        (tmp_path / "nas.key").write_text("1-" + "x" * 64)
        await stage.start_daemon()
        refused = await until_source(stage, "nas1", "refused")
        assert "it is wrong, or it does not belong to user truetally" in refused["detail"]
        assert (await finding(stage, AWAY))["severity"] == "critical"
        assert stage.world.nas.faults.calls["auth.login_ex"] == 1


async def test_the_key_of_another_user_is_told(tmp_path):
    async with a_stage(tmp_path, start=False) as stage:
        (tmp_path / "nas.key").write_text(stage.world.nas.add_key("somebody"))
        await stage.start_daemon()
        refused = await until_source(stage, "nas1", "refused")
        assert "does not belong to user truetally" in refused["detail"]


async def test_an_expired_key_is_told_and_the_daemon_lives_on(tmp_path):
    async with a_stage(tmp_path, start=False) as stage:
        expired = stage.world.nas.add_key(expires_at=datetime.now(UTC) - timedelta(days=1))
        (tmp_path / "nas.key").write_text(expired)
        await stage.start_daemon()
        refused = await until_source(stage, "nas1", "refused")
        assert "expired or revoked; make a new one" in refused["detail"]
        assert await accused(stage) == []


async def test_a_revoked_cluster_token_is_told_and_a_new_kubeconfig_is_taken_up(tmp_path):
    async with a_stage(tmp_path) as stage:
        await ready(stage)
        stage.world.cluster.change_token("another")
        stage.world.cluster.end_watches()
        refused = await until_source(stage, "lab", "refused")
        assert "401" in refused["detail"]
        assert await accused(stage) == []
        stage.world.cluster.write_kubeconfig(tmp_path / "kubeconfig")
        await until_source(stage, "lab", "connected", 60.0)
        await ready(stage)


async def test_a_kind_that_may_not_be_read_holds_the_rules_that_need_it(tmp_path):
    async with a_stage(tmp_path, start=False) as stage:
        stage.world.cluster.deny(Kind.POD)
        await stage.start_daemon()
        await ready(stage)
        denied = await finding(stage, AWAY)
        assert denied["subject"]["name"] == "lab/Pod"
        assert "pods" in denied["summary"]
        lose_one(stage)
        why = await stage.ask("explain/dataset?name=tank/k8s/nfs/vols/" + _volume_name(stage, 1))
        assert any("Pod at lab cannot be read" in line for line in why["explanations"][0]["why"])
        assert await accused(stage) == []


def _volume_name(stage, number: int) -> str:
    claim = stage.world.cluster.get(Kind.PERSISTENT_VOLUME_CLAIM, f"data-{number}", "load")
    return claim["spec"]["volumeName"]


# The process


async def test_a_kill_at_any_moment_loses_no_finding_and_repeats_no_message(tmp_path):
    seed = random.randrange(10**6)
    print("seed", seed)
    dice = random.Random(seed)
    async with a_stage(tmp_path, volumes=8) as stage:
        await ready(stage)
        lost = []
        for round_ in range(6):
            lost.append(lose_one(stage, round_).dataset)
            await asyncio.sleep(dice.uniform(0.0, 3.0))
            stage.kill_daemon()
            await stage.stop_daemon()
            await stage.start_daemon()

        async def all_open() -> bool:
            return {f["subject"]["name"] for f in await findings(stage, rule=ORPHAN, state="open")} == set(
                lost
            )

        await stage.until("every orphan is open", all_open, 40.0)

        async def all_told() -> bool:
            return all(_told(stage, path) for path in lost)

        await stage.until("every orphan is told", all_told, 20.0)
        assert {path: _told(stage, path) for path in lost} == dict.fromkeys(lost, 1)
        code = await stage.stop_daemon()
        assert code == 0
        assert _integrity(tmp_path) == "ok"


def _told(stage, path: str) -> int:
    return sum(path in m["title"] + m["message"] for m in stage.receiver.messages)


def _integrity(directory) -> str:
    with sqlite3.connect(directory / "history.sqlite3") as database:
        return database.execute("PRAGMA integrity_check").fetchone()[0]


async def test_what_became_so_while_it_was_down_is_told_and_what_is_unchanged_is_not(tmp_path):
    async with a_stage(tmp_path) as stage:
        await ready(stage)
        first = lose_one(stage, 0)
        await messages(stage, 1)
        assert await stage.stop_daemon() == 0
        second = lose_one(stage, 1)
        await stage.start_daemon()
        told = await messages(stage, 2)
        assert [_told(stage, v.dataset) for v in (first, second)] == [1, 1]
        assert len(told) == 2


async def test_an_acknowledgement_survives_a_kill_right_after_it_was_answered(tmp_path):
    async with a_stage(tmp_path) as stage:
        await ready(stage)
        lose_one(stage)
        found = await finding(stage, ORPHAN)
        words = ("--socket", str(stage.socket), "findings", "ack", found["fingerprint"], "--reason", "known")
        answered = await in_a_thread(*words)
        assert answered.returncode == 0, answered.stderr
        stage.kill_daemon()
        await stage.stop_daemon()
        await stage.start_daemon()
        again = await finding(stage, ORPHAN)
        assert again["acknowledged"]["reason"] == "known"


async def test_what_was_kept_on_purpose_is_still_known_to_be_after_a_kill(tmp_path):
    async with a_stage(tmp_path) as stage:
        name = _volume_name(stage, 0)
        retain = {"spec": {"persistentVolumeReclaimPolicy": "Retain"}}
        stage.world.cluster.patch(Kind.PERSISTENT_VOLUME, name, retain)
        await ready(stage)
        lose_one(stage)
        assert (await finding(stage, "dataset-retained"))["subject"]["name"].endswith(name)

        async def written() -> bool:
            with sqlite3.connect(f"file:{tmp_path}/history.sqlite3?mode=ro", uri=True) as database:
                return bool(
                    database.execute("SELECT 1 FROM memories WHERE name = ? AND retained", (name,)).fetchone()
                )

        await stage.until("it is remembered", written, 20.0)
        stage.kill_daemon()
        await stage.stop_daemon()
        await stage.start_daemon()
        await ready(stage)
        assert (await finding(stage, "dataset-retained"))["severity"] == "info"
        assert await accused(stage) == []


async def test_what_was_mended_while_it_was_down_is_resolved(tmp_path):
    async with a_stage(tmp_path) as stage:
        await ready(stage)
        volume = lose_one(stage)
        await messages(stage, 1)
        await stage.stop_daemon()
        stage.world.clean_up(volume)
        await stage.start_daemon()
        assert "Resolved" in (await messages(stage, 2))[1]["title"]


async def test_a_second_daemon_on_the_same_history_says_so_and_ends(tmp_path):
    async with a_stage(tmp_path) as stage:
        await ready(stage)
        config = yaml.safe_load(stage.config.read_text())
        config["api"] = {"socket": str(tmp_path / "second.sock")}
        second = tmp_path / "second.yaml"
        second.write_text(yaml.safe_dump(config))
        ended = await in_a_thread("run", "-c", str(second))
        assert ended.returncode == 1
        assert str(stage.pid) in ended.stderr
        assert (await stage.ask("status"))["ready"]


async def test_a_second_daemon_on_the_same_socket_says_so_and_ends(tmp_path):
    async with a_stage(tmp_path) as stage:
        config = yaml.safe_load(stage.config.read_text())
        config["history"] = {"path": str(tmp_path / "second.sqlite3")}
        second = tmp_path / "second.yaml"
        second.write_text(yaml.safe_dump(config))
        ended = await in_a_thread("run", "-c", str(second))
        assert ended.returncode == 1
        assert str(stage.socket) in ended.stderr
        await ready(stage)


async def test_it_stops_in_good_order_when_asked(tmp_path):
    async with a_stage(tmp_path) as stage:
        await ready(stage)
        assert await stage.stop_daemon() == 0
        assert not stage.socket.exists()
        assert "truetally stopped" in stage.tail()


async def test_a_reload_takes_up_what_changed_and_leaves_streams_alone(tmp_path):
    async with a_stage(tmp_path) as stage:
        await ready(stage)
        lose_one(stage)
        await finding(stage, ORPHAN)
        logins = stage.world.nas.faults.calls["auth.login_ex"]
        watching = dict(stage.world.cluster.watching)
        listed = stage.world.cluster.served["list", Kind.NODE]
        change(stage, exemptions=[{"name": "tank/*", "reason": "archive"}])
        os.kill(stage.pid, signal.SIGHUP)
        await finding(stage, ORPHAN, "resolved")
        assert stage.world.nas.faults.calls["auth.login_ex"] == logins
        assert dict(stage.world.cluster.watching) == watching
        assert stage.world.cluster.served["list", Kind.NODE] == listed


async def test_a_reload_of_a_broken_configuration_changes_nothing_and_says_so(tmp_path):
    async with a_stage(tmp_path) as stage:
        await ready(stage)
        stage.config.write_text("clusters: [")
        os.kill(stage.pid, signal.SIGHUP)

        async def warned() -> list[str]:
            return (await stage.ask("status"))["warnings"]

        warnings = await stage.until("status warns", warned, 10.0)
        assert str(stage.config) in warnings[0]
        assert (await source(stage, "nas1"))["state"] == "connected"


async def test_a_reload_watches_a_nas_that_was_added(tmp_path):
    from truetally.lab.nas import LabNas

    other = LabNas()
    other.zfs.create_pool("backup")
    await other.start()
    try:
        async with a_stage(tmp_path) as stage:
            await ready(stage)
            (tmp_path / "other.key").write_text(other.add_key())
            content = yaml.safe_load(stage.config.read_text())
            second = content["nas"][0] | {
                "name": "nas2",
                "url": other.url,
                "addresses": [],
                "api_key": {"file": str(tmp_path / "other.key")},
            }
            change(stage, nas=[*content["nas"], second])
            os.kill(stage.pid, signal.SIGHUP)

            async def appears() -> bool:
                names = {s["name"]: s["state"] for s in (await stage.ask("status"))["sources"]}
                return names.get("nas2") == "connected"

            await stage.until("the second NAS is watched", appears, 20.0)
    finally:
        await other.stop()


def test_mistakes_in_the_configuration_end_it_with_file_line_and_key(tmp_path):
    config = tmp_path / "truetally.yaml"
    config.write_text("clusters:\n  - name: prod\n    kubeconfg: /x\n")
    ended = truetally("run", "-c", str(config))
    assert ended.returncode == 2
    assert f'{config}:3: clusters[0].kubeconfg: unknown key; did you mean "kubeconfig"?' in ended.stderr


def test_a_configuration_that_cannot_be_read_ends_it(tmp_path):
    assert truetally("run", "-c", str(tmp_path)).returncode == 2


async def test_no_secret_leaves_the_daemon(tmp_path):
    async with a_stage(tmp_path, start=False) as stage:
        canary = "CANARY" + "z" * 20
        receiver = tmp_path / "receiver.url"
        receiver.write_text(receiver.read_text().replace("json://", f"json://user:{canary}@"))
        key = (tmp_path / "nas.key").read_text()
        token = yaml.safe_load((tmp_path / "kubeconfig").read_text())["users"][0]["user"]["token"]
        await stage.start_daemon()
        await ready(stage)
        lose_one(stage)
        await messages(stage, 1)
        answers = [await stage.ask(path) for path in ("status", "findings", "volumes", "rules")]
        commands = await asyncio.create_subprocess_exec(
            "ps", "axww", "-o", "args", stdout=asyncio.subprocess.PIPE
        )
        listed = (await commands.communicate())[0].decode()
        await stage.stop_daemon()
        seen = {
            "log": stage.log.read_text(),
            "history": (tmp_path / "history.sqlite3").read_bytes().decode(errors="replace"),
            "answers": str(answers),
            "message": str(stage.receiver.messages),
            "processes": listed,
        }
        leaked = [
            (where, what) for where, text in seen.items() for what in (canary, key, token) if what in text
        ]
        assert leaked == []
