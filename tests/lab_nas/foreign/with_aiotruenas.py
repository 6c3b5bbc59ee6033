"""What `aiotruenas` is told by a NAS. Run by itself: what to do is JSON on stdin, what came on stdout.

It logs in by `auth.login_with_api_key`, which is all that it can.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from aiotruenas import TrueNASClient, TrueNASError, TrueNASState, TrueNASSystem

WITHIN = 10.0
DATASET = "tank/by-aiotruenas"
REALTIME = "reporting.realtime"


class WithoutBootPool(TrueNASClient):
    """The client for a NAS that has no `boot.get_state`: its model then goes on without a boot pool."""

    async def call(self, method: str, *args: Any, **options: Any) -> Any:
        return {} if method == "boot.get_state" else await super().call(method, *args, **options)


def client_for(given: dict[str, Any], key: str) -> TrueNASClient:
    return WithoutBootPool("127.0.0.1", key, use_tls=given["tls"], port=given["port"])


async def the_visit(given: dict[str, Any]) -> dict[str, Any]:
    async with client_for(given, given["key"]) as client:
        samples, _ = await client.subscribe(REALTIME)
        told = {"queried": await queried(client, given["queries"])}
        told["job"] = await client.call("pool.scrub.scrub", ["tank", "START"], job=True)
        told |= await created_and_deleted(client)
        told["refused"] = {
            name: await refusal(client.call(method, params)) for name, method, params in given["refused"]
        }
        told["models"] = await models(client)
        # The second comes of itself, two seconds after the first.
        told["samples"] = await events_of(client, samples, 2)
        await client.unsubscribe(samples)
    async with client_for(given, given["observer_key"]) as observer:
        told["refused"]["not allowed"] = await refusal(observer.call("pool.dataset.delete", ["tank/k8s"]))
        told["refused"]["not allowed to hear"] = await refusal(observer.subscribe("auth.sessions"))
    told["refused"]["wrong key"] = await refusal(client_for(given, given["wrong_key"]).connect())
    return told


async def queried(client: TrueNASClient, queries: list[Any]) -> list[Any]:
    return [await client.call(method, params) for method, params in queries]


async def created_and_deleted(client: TrueNASClient) -> dict[str, Any]:
    heard, _ = await client.subscribe("pool.dataset.query")
    made = await client.call("pool.dataset.create", [{"name": DATASET}])
    events = await events_of(client, heard, 1)
    await client.call("pool.dataset.delete", [DATASET])
    events += await events_of(client, heard, 1)
    await client.unsubscribe(heard)
    return {"created": made, "events": events}


async def events_of(client: TrueNASClient, subscription: str, number: int) -> list[Any]:
    events: list[Any] = []
    async with asyncio.timeout(WITHIN):
        while len(events) < number:
            events += await client.get_subscription_events(subscription, event_timeout=WITHIN)
    return [each["params"] for each in events]


async def models(client: TrueNASClient) -> dict[str, Any]:
    """What the client makes of the answers, with what it could not parse."""
    state, system = TrueNASState(client), TrueNASSystem(client)
    told: dict[str, Any] = {}
    for name in sorted(each for each in dir(state) if each.startswith("get_")):
        try:
            told[name] = await getattr(state, name)()
        except TrueNASError as error:
            told[name] = {"failed": said(error)}
    told["stale"] = sorted(state.stale_endpoints | state.systemstats_stale_graphs)
    told["version"] = (await system.get_system_info()).version
    told["interfaces"] = sorted(await system.get_network_interfaces())
    return told


async def refusal(doing: Any) -> dict[str, Any]:
    try:
        return {"class": None, "result": await doing}
    except TrueNASError as error:
        return said(error)


def said(error: TrueNASError) -> dict[str, Any]:
    told = {name: getattr(error, name, None) for name in ("code", "errname", "reason")}
    return {"class": type(error).__name__, "text": str(error), **told}


if __name__ == "__main__":
    json.dump(asyncio.run(the_visit(json.load(sys.stdin))), sys.stdout, default=str)
