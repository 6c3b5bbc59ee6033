"""The tally: what truetally answers when it is asked, put together from memory.

It reads the graph and the ledger between two steps of the reconciler, on the same
loop, so every answer is one consistent moment.
"""

from __future__ import annotations

import contextlib
import difflib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path

import msgspec

from truetally import __version__
from truetally.clock import Clock
from truetally.csi import democratic_csi as csi
from truetally.errors import HistoryUnavailable, NotFound
from truetally.findings import catalogue, inhibition, orphans, snapshot_list
from truetally.findings.rule import Clear, gaps
from truetally.graph import chains
from truetally.graph.explain import links
from truetally.graph.graph import value_of
from truetally.graph.snapshots import total
from truetally.graph.world import World
from truetally.history.history import History
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.answers import (
    CheckedItem,
    Explanation,
    IncompleteKind,
    ReceiverAnswer,
    RuleAnswer,
    SnapshotAnswer,
    SnapshotsAnswer,
    SourceAnswer,
    StatusAnswer,
    VolumeAnswer,
)
from truetally.model.findings import Finding, Severity, State, Transition
from truetally.model.observations import SourceState, SourceStatus
from truetally.model.refs import KUBERNETES_KINDS, TRUENAS_KINDS, Kind, Ref
from truetally.model.snapshots import SnapshotOrder, SnapshotVerdict
from truetally.pace import Pace
from truetally.reconciler import Reconciler
from truetally.validation import Outcome, validate
from truetally.validation.checks import CHECKS

_RESOLVED_SHOWN = 1000

_MARKS = {True: "✓", False: "✗", None: "?"}

# What a person may call a thing, and the kinds it can be.
_KINDS: Mapping[str, tuple[Kind, ...]] = {
    "pvc": (Kind.PERSISTENT_VOLUME_CLAIM,),
    "pv": (Kind.PERSISTENT_VOLUME,),
    "dataset": (Kind.DATASET,),
    "snapshot": (Kind.SNAPSHOT, Kind.VOLUME_SNAPSHOT, Kind.VOLUME_SNAPSHOT_CONTENT),
    "share": (Kind.NFS_SHARE, Kind.SMB_SHARE),
    "target": (Kind.ISCSI_TARGET, Kind.NVME_SUBSYSTEM),
}


class Tally:
    """Answers the API's questions.

    Args:
        sources: the status of every source, asked when needed.
        receivers: the state of every receiver.
        history_trouble: `ok`, or what is wrong with the history.
        recorded: waits until everything is in the history; whether it is.
    """

    def __init__(
        self,
        reconciler: Reconciler,
        history: History,
        clock: Clock,
        *,
        config_file: Path,
        sources: Callable[[], Sequence[SourceStatus]],
        receivers: Callable[[], Sequence[ReceiverAnswer]],
        history_trouble: Callable[[], str],
        warnings: Callable[[], Sequence[str]],
        recorded: Callable[[], Awaitable[bool]],
        loop_lag: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._reconciler = reconciler
        self._history = history
        self._clock = clock
        self._config_file = config_file
        self._sources = sources
        self._receivers = receivers
        self._history_trouble = history_trouble
        self._warnings = warnings
        self._recorded = recorded
        self._loop_lag = loop_lag
        self._started_at = clock.now()
        self._started_ticks = clock.ticks()

    # The daemon

    def status(self) -> StatusAnswer:
        """The daemon as a whole."""
        graph = self._reconciler.graph
        ready, detail = self.ready()
        by_state = Counter(f.state.value for f in self._reconciler.ledger.findings())
        kinds = sorted(KUBERNETES_KINDS | TRUENAS_KINDS)
        return StatusAnswer(
            version=__version__,
            started_at=self._started_at,
            uptime_seconds=self._clock.ticks() - self._started_ticks,
            ready=ready,
            ready_detail=detail,
            sources=tuple(self._source(status) for status in self._sources()),
            findings=dict(by_state),
            objects={kind.value: n for kind in kinds if (n := graph.count(kind))},
            volumes=graph.count(Kind.PERSISTENT_VOLUME),
            queue_depth=self._reconciler.queue_depth,
            last_batch_seconds=self._reconciler.batch_seconds,
            worst_loop_lag_seconds=self._loop_lag(),
            history=self._history_trouble(),
            notify=tuple(self._receivers()),
            held=by_state[State.HELD.value],
            config_file=str(self._config_file),
            warnings=tuple(self._warnings()),
        )

    def _source(self, status: SourceStatus) -> SourceAnswer:
        complete, incomplete = [], []
        for kind in sorted(KUBERNETES_KINDS if status.kind == "cluster" else TRUENAS_KINDS):
            state = self._reconciler.graph.completeness(status.name, kind)
            if state.listed_at is not None and state.doubted_since is None:
                complete.append(kind.value + (" (not installed)" if state.absent else ""))
            else:
                doubt = "the list suddenly shrank by half" if state.doubted_since is not None else ""
                trouble = state.trouble.value if state.trouble else "doubted" if doubt else "starting"
                incomplete.append(IncompleteKind(kind.value, trouble, state.reason or doubt))
        return SourceAnswer(
            status.name,
            status.kind,
            status.state.value,
            status.detail,
            status.version,
            status.reconnects,
            tuple(complete),
            tuple(incomplete),
        )

    def live(self) -> bool:
        """Whether the reconciler still works; the process ends by itself when it doesn't."""
        return True

    def ready(self) -> tuple[bool, str]:
        """Whether every source has been listed in full once, or is known to be in trouble."""
        graph = self._reconciler.graph
        for status in self._sources():
            for kind in KUBERNETES_KINDS if status.kind == "cluster" else TRUENAS_KINDS:
                state = graph.completeness(status.name, kind)
                if state.listed_at is None and state.trouble is None:
                    return False, f"{status.name} has not been listed in full yet"
            if status.state is not SourceState.CONNECTED:
                return False, f"{status.name}: {status.detail or status.state.value}"
        return True, ""

    # Findings

    async def findings(
        self,
        *,
        state: frozenset[State] | None,
        rule: str | None,
        severity: Severity | None,
        source: str | None,
    ) -> Sequence[Finding]:
        """The findings that match everything given, the gravest and oldest first.

        Of the resolved ones, the thousand that changed last.
        """
        known = self._reconciler.ledger.findings()
        if state is None or State.RESOLVED in state:
            known += await self._history.recent_findings(State.RESOLVED, _RESOLVED_SHOWN)
        found = [
            f
            for f in known
            if (state is None or f.state in state)
            and rule in (None, f.rule)
            and severity in (None, f.severity)
            and source in (None, f.subject.source)
        ]
        order = list(Severity)
        found.sort(key=lambda f: (-order.index(f.severity), f.since, f.fingerprint))
        return await self._with_hiding(found)

    async def _with_hiding(self, findings: Sequence[Finding]) -> list[Finding]:
        """The findings with what hides them; a resolved one is hidden by nothing."""
        by = inhibition.hiding(self._reconciler.ledger.findings())
        if not by:
            return list(findings)
        world, pace, shown = self._reconciler.world(), Pace(), []
        for finding in findings:
            await pace.breathe()
            shown.append(_hidden(finding, by, world))
        return shown

    async def finding(self, fingerprint: str) -> Finding:
        """The finding whose fingerprint begins so; a resolved one by its whole fingerprint."""
        try:
            return (await self._with_hiding([self._unresolved(fingerprint)]))[0]
        except NotFound:
            resolved = await self._history.finding(fingerprint)
            if resolved is None:
                raise
            return resolved

    def _unresolved(self, fingerprint: str) -> Finding:
        found = [f for f in self._reconciler.ledger.findings() if f.fingerprint.startswith(fingerprint)]
        if len(found) == 1:
            return found[0]
        if not found:
            raise NotFound(f"no unresolved finding {fingerprint}; `truetally findings` lists them")
        raise NotFound(f"{len(found)} findings begin with {fingerprint}; give more digits")

    async def acknowledge(self, fingerprint: str, by: str, reason: str) -> Finding:
        """Notes that somebody has seen the finding; it is in the history when this returns.

        Raises:
            HistoryUnavailable: it stands in memory, and is recorded when the history can be written again.
        """
        found = await self._reconciler.acknowledge(self._unresolved(fingerprint).fingerprint, by, reason)
        if not await self._recorded():
            raise HistoryUnavailable(
                f"the history cannot be written now ({self._history_trouble()}); the acknowledgement "
                "counts, but a restart before the history is mended would forget it"
            )
        return found

    async def transitions(self, fingerprint: str) -> Sequence[Transition]:
        """What has become of the finding, oldest first; also of resolved ones."""
        with contextlib.suppress(NotFound):
            fingerprint = self._unresolved(fingerprint).fingerprint
        found = await self._history.transitions(fingerprint)
        if not found:
            raise NotFound(f"the history knows no finding {fingerprint}")
        return found[::-1]

    def rules(self) -> Sequence[RuleAnswer]:
        """All rules, also those that are disabled."""
        settings = self._reconciler.settings.rules
        return [
            RuleAnswer(
                rule.id,
                rule.title,
                settings.severities.get(rule.id, rule.severity),
                tuple(sorted(kind.value for kind in rule.needs)),
                rule.fix,
                rule.id not in settings.disabled,
            )
            for rule in catalogue.RULES
        ]

    def validation(self) -> Sequence[CheckedItem]:
        """Whether classes, drivers and NAS fit together, the worst first."""
        items = validate(CHECKS, self._reconciler.world())
        order = list(Outcome)
        found = sorted(items, key=lambda item: (-order.index(item.outcome), item.check, item.about))
        return [CheckedItem(i.check, i.about, i.outcome.value, i.found, i.fix) for i in found]

    # Volumes

    async def volumes(
        self, *, source: str | None, namespace: str | None, state: str | None
    ) -> Sequence[VolumeAnswer]:
        """Every PersistentVolume, and every dataset of democratic-csi that no PersistentVolume uses."""
        world = self._reconciler.world()
        by_subject = Counter(f.subject for f in self._reconciler.ledger.findings() if f.state is State.OPEN)
        found = []
        pace = Pace()
        for answer in chain(self._bound(world, by_subject), self._unbound(world, by_subject)):
            await pace.breathe()
            if source not in (None, answer.cluster, answer.nas) or namespace not in (None, answer.namespace):
                continue
            if state is None or answer.state.lower() == state.lower():
                found.append(answer)
        return found

    # Snapshots

    async def snapshots(
        self,
        *,
        source: str | None,
        volume: str | None,
        verdict: SnapshotVerdict | None,
        older_than: timedelta | None,
        order: SnapshotOrder,
    ) -> SnapshotsAnswer:
        """The snapshots that match everything given, and what would come back without them.

        Raises:
            NotFound: nothing is called like the volume, with the nearest names.
        """
        world = self._reconciler.world()
        found: list[SnapshotAnswer] = []
        pace = Pace()
        for answer in snapshot_list.SnapshotList(world, self._reconciler.ledger.findings()):
            await pace.breathe()
            if answer is None or source not in (None, answer.cluster, answer.nas):
                continue
            if volume is not None and not snapshot_list.is_of(answer, volume):
                continue
            if verdict is not None and answer.verdict != verdict.value:
                continue
            # Whose age is unknown cannot be said to be older.
            if older_than is None or (answer.created_at and world.now - answer.created_at > older_than):
                found.append(answer)
        if not found and volume is not None:
            self._refuse_unknown_volume(volume)
        largest_first = order is SnapshotOrder.SIZE
        found.sort(key=snapshot_list.by_size if largest_first else snapshot_list.by_name)
        spaces = []
        for space in snapshot_list.spaces(world, found):
            await pace.breathe()
            spaces.append(space)
        together = total(spaces)
        ready, detail = self.ready()
        return SnapshotsAnswer(tuple(found), together.at_least_bytes, together.at_most_bytes, ready, detail)

    def _refuse_unknown_volume(self, volume: str) -> None:
        kinds = (Kind.PERSISTENT_VOLUME, Kind.PERSISTENT_VOLUME_CLAIM, Kind.DATASET)
        names = {ref.name for kind in kinds for ref in self._reconciler.graph.refs(kind)}
        names |= {name.rpartition("/")[2] for name in names}
        if volume not in names:
            near = difflib.get_close_matches(volume, sorted(names), 3, 0.5)
            raise NotFound(f"no volume, claim or dataset is called {volume}", near)

    def _bound(self, world: World, findings: Mapping[Ref, int]) -> Iterator[VolumeAnswer]:
        for ref in sorted(self._reconciler.graph.refs(Kind.PERSISTENT_VOLUME)):
            volume, backing = world.volume(ref), chains.backing(world, ref)
            if volume is None:
                continue
            where = backing.dataset if backing is not None else None
            dataset = world.dataset(where.source, where.name) if where is not None else None
            yield VolumeAnswer(
                cluster=ref.source,
                namespace=volume.claim.namespace if volume.claim else "",
                claim=volume.claim.name if volume.claim else "",
                volume=ref.name,
                storage_class=volume.storage_class,
                phase=volume.phase,
                nas=(backing.nas or "") if backing is not None else "",
                dataset=where.name if where is not None else "",
                protocol=backing.backend.protocol.value if backing is not None else "",
                capacity_bytes=volume.capacity_bytes,
                used_bytes=dataset.used_bytes if dataset is not None else None,
                snapshots=len(chains.snapshots_of(world, where.source, where.name))
                if where is not None
                else 0,
                state=_state(backing, dataset),
                findings=findings.get(ref, 0) + (findings.get(where, 0) if where is not None else 0),
            )

    def _unbound(self, world: World, findings: Mapping[Ref, int]) -> Iterator[VolumeAnswer]:
        for ref in sorted(self._reconciler.graph.refs(Kind.DATASET)):
            dataset = world.dataset(ref.source, ref.name)
            if dataset is None or not csi.is_managed(dataset):
                continue
            if any(r.ref.kind is Kind.PERSISTENT_VOLUME for r in chains.references(world, ref)):
                continue
            yield VolumeAnswer(
                volume=csi.own(dataset, csi.VOLUME_NAME),
                nas=ref.source,
                dataset=ref.name,
                used_bytes=dataset.used_bytes,
                snapshots=len(chains.snapshots_of(world, ref.source, ref.name)),
                state=self._verdict(ref, world),
                findings=findings.get(ref, 0),
            )

    def _verdict(self, ref: Ref, world: World) -> str:
        """An orphan is only called so once it has been proven."""
        if gaps(orphans.DATASET_WITHOUT_VOLUME, ref, world):
            return "unknown"
        verdict = orphans.verdict(orphans.conditions(world, ref))
        if verdict is orphans.Verdict.ORPHAN:
            finding = self._reconciler.ledger.finding(orphans.DATASET_WITHOUT_VOLUME.id, ref)
            return verdict.value if finding is not None and finding.state is State.OPEN else "suspected"
        return verdict.value

    # Explanations

    def explain(self, kind: str, name: str, source: str | None) -> Sequence[Explanation]:
        """What is known of the things of this name.

        Raises:
            NotFound: with the nearest names.
        """
        world = self._reconciler.world()
        subjects = sorted(self._named(kind, name, source, world))
        if not subjects:
            raise self._not_found(kind, name, source, world)
        return [self._explanation(subject, world) for subject in subjects]

    def _named(self, kind: str, name: str, source: str | None, world: World) -> Iterator[Ref]:
        for each in _KINDS[kind]:
            for ref in self._reconciler.graph.refs(each):
                if source in (None, ref.source) and name in _names(ref, world):
                    yield ref

    def _not_found(self, kind: str, name: str, source: str | None, world: World) -> NotFound:
        names = sorted(
            {
                ref.name
                for each in _KINDS[kind]
                for ref in self._reconciler.graph.refs(each)
                if source in (None, ref.source)
            }
        )
        near = difflib.get_close_matches(name, names, 3, 0.5)
        near = near or [n for n in names if name in n][:3]
        ready, detail = self.ready()
        return NotFound(f"no {kind} is called {name}" + ("" if ready else f" ({detail})"), near)

    def _explanation(self, subject: Ref, world: World) -> Explanation:
        known = self._reconciler.ledger.findings()
        by = inhibition.hiding(known)
        findings = [_hidden(f, by, world) for f in known if f.subject == subject]
        return Explanation(
            subject,
            self._say(subject, world),
            tuple(self._why(subject, world)),
            links(world, subject),
            tuple(findings),
        )

    def _say(self, subject: Ref, world: World) -> str:
        open_ = [
            f
            for f in self._reconciler.ledger.findings()
            if f.subject == subject and f.state in (State.OPEN, State.HELD)
        ]
        if open_:
            return open_[0].summary
        if subject.kind is Kind.DATASET:
            return self._verdict(subject, world)
        if any(f.subject == subject for f in self._reconciler.ledger.findings()):
            return "suspected"
        return "no finding"

    def _why(self, subject: Ref, world: World) -> Iterator[str]:
        if subject.kind is Kind.DATASET:
            found = orphans.conditions(world, subject)
            if orphans.verdict(found) is orphans.Verdict.NO_VOLUME:
                found = tuple(c for c in found if c.otherwise is orphans.Verdict.NO_VOLUME)
            for condition in found:
                yield f"{_MARKS[condition.holds]} {condition.number}. {condition.text}"
        for rule in catalogue.rules_for(subject.kind):
            if rule.id in world.settings.rules.disabled:
                yield f"? {rule.id}: the rule is disabled"
            elif (exemption := world.exemption(rule.id, subject)) is not None:
                yield f"✗ {rule.id}: exempted: {exemption.reason}"
            elif missing := gaps(rule, subject, world):
                yield f"? {rule.id}: {missing[0].reason}"
            elif isinstance(judgement := rule.judge(subject, world), Clear):
                yield f"✗ {rule.id}: {judgement.reason}"
            else:
                yield f"✓ {rule.id}: {judgement.summary}{self._standing(rule.id, subject)}"

    def _standing(self, rule: str, subject: Ref) -> str:
        finding = self._reconciler.ledger.finding(rule, subject)
        if finding is None or finding.state is not State.PENDING:
            return ""
        return f" (suspected since {_time(finding.since)}{'; ' + finding.note if finding.note else ''})"


def _hidden(finding: Finding, by: Sequence[Finding], world: World) -> Finding:
    if finding.state is State.RESOLVED:
        return finding
    return msgspec.structs.replace(finding, hidden_by=inhibition.hidden_by(finding, by, world))


def _state(backing: chains.Backing | None, dataset: truenas.Dataset | None) -> str:
    if backing is None or backing.nas is None:
        return "out of scope"
    if dataset is not None:
        return "whole"
    return "unknown"


def _names(ref: Ref, world: World) -> tuple[str, ...]:
    """What a person may call an object: shares by path or name, targets by name, IQN or NQN, claims bare."""
    node = world.node(ref)
    share = value_of(node, truenas.NfsShare)
    if share is not None:
        return ref.name, share.path, csi.dataset_of_mount(share.path)
    smb = value_of(node, truenas.SmbShare)
    if smb is not None:
        return ref.name, smb.name, smb.path
    target = value_of(node, truenas.IscsiTarget)
    if target is not None:
        system = world.system(ref.source)
        return ref.name, target.name, f"{system.iscsi_basename if system else ''}:{target.name}"
    subsystem = value_of(node, truenas.NvmeSubsystem)
    if subsystem is not None:
        return ref.name, subsystem.name, subsystem.nqn
    claim = value_of(node, k8s.PersistentVolumeClaim) or value_of(node, k8s.VolumeSnapshot)
    return (ref.name, claim.name) if claim is not None else (ref.name,)


def _time(at: datetime) -> str:
    return at.astimezone().isoformat(timespec="seconds")
