"""What is mended while the daemon runs is taken up without a restart; what is unproven is not told."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta

from stages import a_stage, finding, findings, lose_one, messages, ready, until_source

from truetally.model.refs import Kind

ORPHAN = "dataset-without-volume"


async def test_a_new_key_in_the_file_is_taken_up_when_the_old_one_has_expired(tmp_path):
    async with a_stage(tmp_path, start=False) as stage:
        key = tmp_path / "nas.key"
        good = key.read_text()
        key.write_text(stage.world.nas.add_key(expires_at=datetime.now(UTC) - timedelta(days=1)))
        await stage.start_daemon()
        await until_source(stage, "nas1", "refused")
        assert (await finding(stage, "source-unavailable"))["severity"] == "critical"
        key.write_text(good)
        await until_source(stage, "nas1", "connected", 60.0)
        await ready(stage)
        await finding(stage, "source-unavailable", "resolved")
        assert stage.world.nas.faults.calls["auth.login_ex"] <= 3


async def test_a_kind_that_may_not_be_read_stops_no_rule_that_does_without_it(tmp_path):
    async with a_stage(tmp_path, start=False) as stage:
        stage.world.cluster.deny(Kind.POD)
        await stage.start_daemon()
        await ready(stage)
        lose_one(stage, 0)
        claim = stage.world.cluster.get(Kind.PERSISTENT_VOLUME_CLAIM, "data-1", "load")
        gone = claim["spec"]["volumeName"]
        stage.world.nas.ssh.destroy(f"tank/k8s/nfs/vols/{gone}", recursive=True)
        # This rule does without pods, and its suspicion is the younger one.
        assert (await finding(stage, "volume-without-dataset"))["subject"]["name"] == gone
        assert await findings(stage, rule=ORPHAN, state="open") == []


async def test_a_kill_while_findings_resolve_tells_each_end_once_and_only_after_its_beginning(tmp_path):
    seed = random.randrange(10**6)
    print("seed", seed)
    dice = random.Random(seed)
    async with a_stage(tmp_path, volumes=4) as stage:
        await ready(stage)
        volumes = [lose_one(stage, number) for number in range(4)]
        await messages(stage, 4)
        for volume in volumes:
            stage.world.clean_up(volume)
            await asyncio.sleep(dice.uniform(0.0, 2.0))  # the moment of the kill, not a wait for anything
            stage.kill_daemon()
            await stage.stop_daemon()
            await stage.start_daemon()

        async def all_resolved() -> bool:
            return not await findings(stage, rule=ORPHAN, state="open") and len(stage.receiver.messages) >= 8

        await stage.until("every end is told", all_resolved, 40.0)
        for volume in volumes:
            titles = [m["title"] for m in stage.receiver.messages if volume.dataset in str(m)]
            assert ["Resolved" in title for title in titles] == [False, True]
