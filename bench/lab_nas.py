"""What the lab NAS itself costs: making a full one, and each query of it, without any client.

Prints JSON: seconds to make the datasets with their snapshots, to make volumes as the driver does, and of
every query (of a paged one, the first page, the slowest of the others and the number of pages).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

from truetally import logs
from truetally.lab.nas import Driver, LabNas

_PAGE = 10_000


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = run()
    return time.perf_counter() - began, result


def fill(lab: LabNas, datasets: int, snapshots: int) -> None:
    for number in range(datasets):
        name = f"tank/pvc-{number:05}"
        lab.ssh.create_dataset(name, user={"democratic-csi:managed_resource": "true"})
        for leaf in range(snapshots):
            lab.ssh.snapshot(f"{name}@s{leaf}")


def paged(lab: LabNas, options: dict[str, Any]) -> dict[str, Any]:
    method = "zfs.snapshot.query" if lab.machine.old_engine else "pool.snapshot.query"
    last, seconds, rows = "", [], 0
    while True:
        asked = [["name", ">", last]], {"order_by": ["name"], "limit": _PAGE, **options}
        each, page = timed(lambda asked=asked: lab.call(method, *asked))
        seconds.append(each)
        rows += len(page)
        if len(page) < _PAGE:
            break
        last = page[-1]["name"]
    return {
        "first_page_seconds": seconds[0],
        "slowest_other_seconds": max(seconds[1:], default=0.0),
        "pages": len(seconds),
        "rows": rows,
    }


def measure(version: str, datasets: int, snapshots: int) -> dict[str, Any]:
    lab = LabNas(version)
    lab.zfs.create_pool("tank")
    found: dict[str, Any] = {"made_seconds": timed(lambda: fill(lab, datasets, snapshots))[0]}
    flat = {"extra": {"retrieve_children": lab.machine.old_engine}, "limit": _PAGE, "order_by": ["id"]}
    found["all_datasets_seconds"] = timed(lambda: lab.call("pool.dataset.query", [["id", "!=", ""]], flat))[0]
    if lab.machine.number >= (25, 10):
        resources = {"paths": ["tank"], "get_children": True, "properties": ["used"], "nest_results": False}
        found["resources_seconds"] = timed(lambda: lab.call("zfs.resource.query", resources))[0]
    found["snapshot_names"] = paged(lab, {"select": ["name"]})
    found["snapshot_sizes"] = paged(lab, {"extra": {"properties": ["used", "creation"]}})
    driven = LabNas(version)
    driven.zfs.create_pool("tank")
    driver, names = Driver(driven), [f"pvc-{number}" for number in range(datasets)]
    found["driver_volumes_seconds"] = timed(lambda: driver.create_many(names, snapshots_per_volume=3))[0]
    found["shares_seconds"] = timed(lambda: driven.call("sharing.nfs.query"))[0]
    return found


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return round(value, 3) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", action="append", help="24.10 and 26.0 unless told otherwise")
    parser.add_argument("--datasets", type=int, default=10_000)
    parser.add_argument("--snapshots-per-dataset", type=int, default=10)
    args = parser.parse_args()
    logs.configure("console", "warning")
    versions = args.version or ["24.10", "26.0"]
    found = {each: measure(each, args.datasets, args.snapshots_per_dataset) for each in versions}
    print(json.dumps(rounded(found), indent=2))


if __name__ == "__main__":
    main()
