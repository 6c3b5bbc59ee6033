"""The story that `make demo` plays: how a volume becomes an orphan, and who hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from truetally.lab.stage import LabFailed, Stage
from truetally.lab.world import Volume

Say = Callable[[str], None]

_SOON, _LATER = 15.0, 60.0


async def play(stage: Stage, say: Say, pause: float) -> None:
    """Plays the story once.

    Args:
        say: takes each line for the person who watches.
        pause: seconds between the steps, so that a person can follow.

    Raises:
        LabFailed: something did not come out as it should.
    """
    await _opening(stage, say)
    volume = await _a_volume_is_used(stage, say, pause)
    print_ = await _it_is_orphaned(stage, say, pause, volume)
    await _somebody_cleans_up(stage, say, pause, volume, print_)


def leave_one_behind(stage: Stage) -> Volume:
    """One more volume that is lost, for a person to look into."""
    volume = stage.world.provision("shop", "reports")
    stage.world.lose(volume)
    return volume


async def _opening(stage: Stage, say: Say) -> None:
    await stage.until("all sources are listed", lambda: _ready(stage), _LATER)
    status = await stage.ask("status")
    sources = ", ".join(f"{s['name']} ({s['version'] or s['kind']})" for s in status["sources"])
    say(f"truetally watches {sources}: {status['volumes']} volumes, all whole.")


async def _a_volume_is_used(stage: Stage, say: Say, pause: float) -> Volume:
    world = stage.world
    volume = world.provision("shop", "orders-db")
    say(f"Claim shop/orders-db is made. democratic-csi provisions dataset {volume.dataset}.")
    await asyncio.sleep(pause)
    world.use(volume, "orders-0")
    say("Pod orders-0 mounts it.")
    handle = world.snapshot(volume, "before-upgrade")
    say(f"VolumeSnapshot before-upgrade is taken: {handle}")
    await stage.until("the chain is whole", lambda: _whole(stage, volume), _SOON)
    say("truetally sees one whole chain, from the pod down to the disk, and has nothing to say.")
    await asyncio.sleep(pause)
    world.drop_snapshot(volume, "before-upgrade", handle)
    world.stop_using(volume, "orders-0")
    return volume


async def _it_is_orphaned(stage: Stage, say: Say, pause: float, volume: Volume) -> str:
    stage.world.lose(volume)
    say("Pod and snapshot are gone. Somebody force-deletes claim and volume; the driver is never asked.")
    await stage.until("the dataset is suspected", lambda: _finding(stage, volume, "pending"), _SOON)
    say(
        "truetally suspects that the dataset is orphaned. It tells nobody yet: it waits for the grace to end,"
    )
    say("then reads NAS and cluster again, in this order, and believes only what both say.")
    finding = await stage.until("the finding is open", lambda: _finding(stage, volume, "open"), _LATER)
    say(f"Finding {finding['fingerprint']} is open: {finding['summary']}.")
    for reason in finding["facts"]["because"]:
        say(f"    because {reason}")
    message = await stage.until("the message has arrived", lambda: _message(stage, 1), _SOON)
    say(f"The webhook has received: {message['title']}")
    await asyncio.sleep(pause)
    return str(finding["fingerprint"])


async def _somebody_cleans_up(stage: Stage, say: Say, pause: float, volume: Volume, print_: str) -> None:
    stage.world.clean_up(volume)
    say("An administrator looks, and destroys share and dataset on the NAS.")
    await stage.until("the finding is resolved", lambda: _resolved(stage, print_), _SOON)
    message = await stage.until("the resolved notice has arrived", lambda: _message(stage, 2), _SOON)
    say(f"The finding is resolved, and the webhook has received: {message['title']}")
    await asyncio.sleep(pause)
    if len(stage.receiver.messages) != 2:
        raise LabFailed(f"{len(stage.receiver.messages)} messages were sent instead of two")


async def _ready(stage: Stage) -> bool:
    return bool((await stage.ask("status"))["ready"])


async def _whole(stage: Stage, volume: Volume) -> bool:
    answer = await stage.ask(f"explain/dataset?name={volume.dataset}")
    roles = {link["role"] for each in answer.get("explanations", ()) for link in each["links"]}
    return {"pod", "claim", "volume", "NFS share", "dataset", "snapshot content"} <= roles


async def _finding(stage: Stage, volume: Volume, state: str) -> dict[str, Any] | None:
    answer = await stage.ask(f"findings?state={state}&rule=dataset-without-volume")
    found: list[dict[str, Any]] = [f for f in answer["findings"] if f["subject"]["name"] == volume.dataset]
    return found[0] if found else None


async def _resolved(stage: Stage, print_: str) -> bool:
    return str((await stage.ask(f"findings/{print_}")).get("state")) == "resolved"


async def _message(stage: Stage, number: int) -> dict[str, Any] | None:
    messages = stage.receiver.messages
    return messages[number - 1] if len(messages) >= number else None
