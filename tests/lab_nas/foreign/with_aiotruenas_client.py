"""What `aiotruenas-client` is told over `/websocket`. Run by itself: JSON on stdin and stdout.

Of a refusal it knows only that there was no result. It is not asked for jails, virtual machines and disks.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from aiotruenas_client import CachingMachine
from websockets.exceptions import SecurityError

WITHIN = 10.0
DATASET = "tank/by-aiotruenas-client"
REALTIME = "reporting.realtime"


class Listener:
    """Whoever the client tells that it closes."""

    async def unsubscribe(self) -> None:
        pass


async def met(given: dict[str, Any], **who: str) -> CachingMachine:
    return await CachingMachine.create(f"127.0.0.1:{given['port']}", secure=given["tls"], **who)


async def the_visit(given: dict[str, Any]) -> dict[str, Any]:
    machine = await met(given, api_key=given["key"])
    samples = await machine.subscribe(Listener(), REALTIME)
    told: dict[str, Any] = {"models": await models(machine)}
    told["queried"] = [await machine.invoke_method(method, params) for method, params in given["queries"]]
    told["job"] = await scrubbed(machine)
    told |= await created_and_deleted(machine)
    told["refused"] = {
        name: await refusal(machine.invoke_method(method, params))
        for name, method, params in given["refused"]
    }
    told["samples"] = await events_of(samples, 2)
    await machine.close()
    observer = await met(given, api_key=given["observer_key"])
    told["refused"]["not allowed"] = await refusal(
        observer.invoke_method("pool.dataset.delete", ["tank/k8s"])
    )
    await observer.close()
    name, password = given["person"][:2]
    person = await met(given, username=name, password=password)
    told["person"] = (await person.get_system_info())["version"]
    await person.close()
    told["refused"]["wrong key"] = await refusal(met(given, api_key=given["wrong_key"]))
    return told


async def models(machine: CachingMachine) -> dict[str, Any]:
    """What the client makes of the answers."""
    return {
        "pools": {
            each.name: {
                "status": each.status.name,
                "id": each.id,
                "guid": each.guid,
                "vdevs": sorted(each.topology),
            }
            for each in await machine.get_pools()
        },
        "datasets": {
            each.id: {
                "pool": each.pool_name,
                "type": each.type.name,
                "used": each.used_bytes,
                "available": each.available_bytes,
                "ratio": each.compression_ratio,
            }
            for each in await machine.get_datasets()
        },
        "version": (await machine.get_system_info())["version"],
    }


async def scrubbed(machine: CachingMachine) -> Any:
    number = await machine.invoke_method("pool.scrub.scrub", ["tank", "START"])
    async with asyncio.timeout(WITHIN):
        job = await machine.wait_for_job(number)
    return job.result_or_raise_error


async def created_and_deleted(machine: CachingMachine) -> dict[str, Any]:
    heard = await machine.subscribe(Listener(), "pool.dataset.query")
    made = await machine.invoke_method("pool.dataset.create", [{"name": DATASET}])
    events = await events_of(heard, 1)
    # What is removed it does not pass on.
    await machine.invoke_method("pool.dataset.delete", [DATASET])
    return {"created": made, "events": events}


async def events_of(queue: asyncio.Queue[Any], number: int) -> list[Any]:
    async with asyncio.timeout(WITHIN):
        return [await queue.get() for _ in range(number)]


async def refusal(doing: Any) -> dict[str, Any]:
    try:
        return {"class": None, "result": await doing}
    except (KeyError, SecurityError) as error:
        return {"class": type(error).__name__, "text": str(error)}


def plainly(value: Any) -> Any:
    return {"$date": round(value.timestamp() * 1000)} if hasattr(value, "timestamp") else str(value)


if __name__ == "__main__":
    json.dump(asyncio.run(the_visit(json.load(sys.stdin))), sys.stdout, default=plainly)
