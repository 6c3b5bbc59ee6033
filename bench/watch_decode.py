"""How much faster are watch lines decoded than by the client library's models?

    python bench/watch_decode.py [--lines 20000] [--at-least 20]

Ends with 1 when the ratio is smaller than it has to be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import msgspec
from kubernetes_asyncio.watch import Watch

from truetally.model.refs import Kind
from truetally.sources.kubernetes.decode import Decoder, WatchLine

_BORN = datetime(2026, 11, 24, tzinfo=UTC)


def a_line(number: int) -> bytes:
    """An event of a volume as an apiserver sends it, with all that nobody keeps."""
    born = (_BORN + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%SZ")
    name = f"pvc-{number:08x}-5d1f-4b8e-9c1e-2f6f6f1d7a10"
    volume = {
        "kind": "PersistentVolume",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "uid": f"{number:08x}-aaaa-bbbb-cccc-2f6f6f1d7a10",
            "resourceVersion": str(1000 + number),
            "creationTimestamp": born,
            "annotations": {
                "pv.kubernetes.io/provisioned-by": "org.democratic-csi.nfs",
                "volume.kubernetes.io/provisioner-deletion-secret-name": "",
            },
            "finalizers": [
                "external-provisioner.volume.kubernetes.io/finalizer",
                "kubernetes.io/pv-protection",
            ],
            "managedFields": [_managed("csi-provisioner", born), _managed("kube-controller-manager", born)],
        },
        "spec": {
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteMany"],
            "claimRef": {
                "kind": "PersistentVolumeClaim",
                "apiVersion": "v1",
                "namespace": f"team-{number % 40}",
                "name": f"data-{number}",
                "uid": f"{number:08x}-dddd-eeee-ffff-2f6f6f1d7a10",
                "resourceVersion": str(900 + number),
            },
            "csi": {
                "driver": "org.democratic-csi.nfs",
                "volumeHandle": name,
                "fsType": "nfs",
                "volumeAttributes": {
                    "node_attach_driver": "nfs",
                    "provisioner_driver": "freenas-nfs",
                    "server": "10.0.0.10",
                    "share": f"/mnt/tank/k8s/{name}",
                    "storage.kubernetes.io/csiProvisionerIdentity": "1700000000-81-org.democratic-csi.nfs",
                },
            },
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": "nfs",
            "mountOptions": ["nfsvers=4.2", "noatime"],
            "volumeMode": "Filesystem",
        },
        "status": {"phase": "Bound", "lastPhaseTransitionTime": born},
    }
    return json.dumps({"type": "MODIFIED", "object": volume}, separators=(",", ":")).encode()


def _managed(who: str, born: str) -> dict[str, object]:
    fields = {"f:spec": {f"f:{each}": {} for each in ("accessModes", "capacity", "claimRef", "csi")}}
    return {
        "manager": who,
        "operation": "Update",
        "apiVersion": "v1",
        "time": born,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }


def ours(lines: Sequence[bytes]) -> Iterator[object]:
    decoder = Decoder(Kind.PERSISTENT_VOLUME)
    for line in lines:
        yield decoder.object(msgspec.json.decode(line, type=WatchLine).object)


def models(watch: Watch, lines: Sequence[bytes]) -> Iterator[object]:
    for line in lines:
        yield watch.unmarshal_event(line.decode(), "V1PersistentVolume")


def lines_per_second(decode: Callable[[Sequence[bytes]], Iterator[object]], lines: Sequence[bytes]) -> float:
    began = time.perf_counter()
    for _ in decode(lines):
        pass
    return len(lines) / (time.perf_counter() - began)


async def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--lines", type=int, default=20_000)
    arguments.add_argument("--at-least", type=float, default=20)
    wanted = arguments.parse_args()
    lines = [a_line(number) for number in range(wanted.lines)]
    fast = max(lines_per_second(ours, lines) for _ in range(3))
    few = lines[: max(100, wanted.lines // 20)]
    async with Watch() as watch:  # it makes a client of its own, for which a loop has to run
        slow = max(lines_per_second(partial(models, watch), few) for _ in range(3))
    print(f"truetally                  {fast:>10,.0f} lines/s")
    print(f"kubernetes_asyncio models  {slow:>10,.0f} lines/s")
    print(f"ratio                      {fast / slow:>10.1f} (at least {wanted.at_least:g})")
    return 0 if fast / slow >= wanted.at_least else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
