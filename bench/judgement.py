"""What judging costs: one chain by each rule, and a whole inventory at once.

Runs in memory, on the same values that the sources would emit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from truetally.clock import SystemClock
from truetally.findings import catalogue
from truetally.model.kubernetes import ClaimRef
from truetally.model.observations import Listed, Observation
from truetally.model.refs import KUBERNETES_KINDS, TRUENAS_KINDS, Kind, Ref
from truetally.reconciler import Reconciler
from worlds import (
    CLUSTER,
    NAS,
    PARENT,
    a_claim,
    a_dataset,
    a_pool,
    a_share,
    a_snapshot,
    a_volume,
    seen,
    settings,
)


def _inventory(volumes: int, snapshots: int) -> Iterator[Observation]:
    yield seen(a_pool())
    yield seen(a_dataset("tank", user_properties={}))
    for number in range(volumes):
        uid = f"3b4f5f0e-8f1a-4c8a-9d0e-{number:012d}"
        name = f"pvc-{uid}"
        yield seen(a_dataset(f"{PARENT}/{name}"))
        yield seen(a_share(f"{PARENT}/{name}", number + 1))
        for each in range(snapshots):
            yield seen(a_snapshot(f"auto-{each}", f"{PARENT}/{name}"))
        if number % 100:
            yield seen(a_volume(name, claim=ClaimRef("default", f"c{number}", uid)))
            yield seen(a_claim(f"c{number}", uid, volume_name=name))


async def measure(volumes: int, snapshots: int) -> dict[str, float]:
    async def record(_transitions: object) -> None:
        return None

    reconciler = Reconciler(settings(), SystemClock(), record)
    observations = list(_inventory(volumes, snapshots))
    names: dict[tuple[str, Kind], set[str]] = {}
    for each in observations:
        ref: Ref = each.ref  # type: ignore[union-attr]
        names.setdefault((ref.source, ref.kind), set()).add(ref.name)
    working = asyncio.create_task(reconciler.run())
    began, cpu = time.perf_counter(), time.process_time()
    for at in range(0, len(observations), 500):
        await reconciler.emit(observations[at : at + 500])
    for source, kinds in ((CLUSTER, KUBERNETES_KINDS), (NAS, TRUENAS_KINDS)):
        for kind in sorted(kinds):
            await reconciler.emit([Listed(source, kind, frozenset(names.get((source, kind), ())), 2.0)])
    while len(reconciler.ledger.findings()) < volumes // 100:
        await asyncio.sleep(0.01)
    found = {
        "objects": float(len(observations)),
        "orphans": float(len(reconciler.ledger.findings())),
        "first_verdicts_seconds": time.perf_counter() - began,
        "first_verdicts_cpu_seconds": time.process_time() - cpu,
    }
    working.cancel()
    return found | _by_rule(reconciler)


def _by_rule(reconciler: Reconciler) -> dict[str, float]:
    costs = {}
    for rule in catalogue.RULES:
        times = []
        for ref in list(reconciler.graph.refs(rule.subject))[:2000]:
            world = reconciler.world()
            began = time.perf_counter()
            rule.judge(ref, world)
            times.append(time.perf_counter() - began)
        if times:
            costs[f"{rule.id}_median_us"] = statistics.median(times) * 1e6
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=10_000)
    parser.add_argument("--snapshots-per-volume", type=int, default=3)
    args = parser.parse_args()
    found = asyncio.run(measure(args.volumes, args.snapshots_per_volume))
    print(json.dumps({k: round(v, 3) for k, v in found.items()}, indent=2))


if __name__ == "__main__":
    main()
