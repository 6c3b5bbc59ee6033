"""What simpler ways to find orphaned datasets are worth, on the worlds of the proof.

Each random history (tests/proof) ends in a world of which the truth is known. The two
published ways see it as it is at that moment, without any delay or loss, which is more
than they would see in life; truetally has only what it was told all along.

- *handles*: every dataset under the parent whose name is no volumeHandle of any
  PersistentVolume (the one line of shell that is passed around, and upstream's
  `k8s-csi-cleaner`);
- *suffix*: every dataset with democratic-csi's mark, wherever it is, whose path ends in
  no handle and no name of a PersistentVolume.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "daemon"), str(ROOT / "tests")]

from proof.model import Truth  # noqa: E402
from proof.runner import ORPHAN, History, silent  # noqa: E402
from truetally.csi import democratic_csi as csi  # noqa: E402
from truetally.model import kubernetes as k8s  # noqa: E402
from truetally.model import truenas  # noqa: E402
from truetally.model.findings import State  # noqa: E402
from truetally.model.refs import Kind, Ref  # noqa: E402

WAYS = ("handles", "suffix", "truetally")


def volumes(truth: Truth) -> list[k8s.PersistentVolume]:
    objects = (value for cluster in truth.clusters for value in truth.objects[cluster].values())
    return [value for value in objects if isinstance(value, k8s.PersistentVolume)]


def datasets(truth: Truth) -> list[tuple[Ref, truenas.Dataset]]:
    refs = (ref for nas in truth.nas for ref in truth.of_kind(nas, Kind.DATASET))
    return [(ref, value) for ref in refs if isinstance(value := truth.visible(ref), truenas.Dataset)]


def by_handles(truth: Truth) -> set[Ref]:
    handles = {volume.csi.volume_handle for volume in volumes(truth) if volume.csi is not None}
    parents = {(d.nas, d.parent) for d in truth.deployments if d.watched}
    return {r for r, d in datasets(truth) if (r.source, d.parent) in parents and d.leaf not in handles}


def by_suffix(truth: Truth) -> set[Ref]:
    names = {volume.name for volume in volumes(truth)}
    names |= {volume.csi.volume_handle for volume in volumes(truth) if volume.csi is not None}
    marked = [(ref, d) for ref, d in datasets(truth) if csi.MANAGED in d.user_properties]
    return {ref for ref, d in marked if not any(d.path.endswith(name) for name in names)}


def by_truetally(history: History) -> set[Ref]:
    findings = history.reconciler.ledger.findings()
    return {f.subject for f in findings if f.rule == ORPHAN and f.state is State.OPEN}


def counts(seeds: range) -> dict[str, list[int]]:
    """For each way: right accusations, all accusations, orphans; and the orphans that can be proven."""
    found = {way: [0, 0, 0, 0, 0] for way in WAYS}
    with silent():
        for seed in seeds:
            history = History(Random(seed), seed)
            history.play()
            truth = history.truth
            orphans = {v.ref for v in truth.orphans()}
            provable = {v.ref for v in truth.orphans() if truth.provable(v) and not truth.may_be_kept(v.ref)}
            accused = dict(
                zip(WAYS, (by_handles(truth), by_suffix(truth), by_truetally(history)), strict=True)
            )
            for way, refs in accused.items():
                for n, more in enumerate((refs & orphans, refs, orphans, refs & provable, provable)):
                    found[way][n] += len(more)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description="precision and recall of three ways to find orphaned datasets"
    )
    parser.add_argument("--histories", type=int, default=1000)
    histories = parser.parse_args().histories
    chunks = [range(n, min(n + 50, histories)) for n in range(0, histories, 50)]
    total = {way: [0, 0, 0, 0, 0] for way in WAYS}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for each in pool.map(counts, chunks):
            for way in WAYS:
                total[way] = [a + b for a, b in zip(total[way], each[way], strict=True)]
    orphans, provable = total["truetally"][2], total["truetally"][4]
    print(f"{histories} worlds; {orphans} orphaned datasets, of which {provable} can be proven ours")
    print()
    print("| way | accused | falsely | precision | recall of the provable | recall of all |")
    print("|---|---|---|---|---|---|")
    for way, (right, all_, _, right_provable, _) in total.items():
        figures = (_percent(right, all_), _percent(right_provable, provable), _percent(right, orphans))
        print(f"| {way} | {all_} | {all_ - right} | {' | '.join(figures)} |")


def _percent(part: int, whole: int) -> str:
    return f"{100.0 * part / whole:.1f} %" if whole else "none"


if __name__ == "__main__":
    main()
