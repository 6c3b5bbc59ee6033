"""Sources that cannot be read: while one is away, much is unknown and nothing is orphaned."""

from __future__ import annotations

from truetally.findings.rule import Clear, Evidence, Judgement, Rule
from truetally.graph.world import World
from truetally.model.findings import Fact, Severity
from truetally.model.observations import Trouble
from truetally.model.refs import KUBERNETES_KINDS, TRUENAS_KINDS, Kind, Ref

# Without these something is missing in what is shown, and in who protects a dataset; but no rule stops.
INFORMATIVE = frozenset(
    {
        Kind.EVENT,
        Kind.ISCSI_INITIATOR,
        Kind.ISCSI_PORTAL,
        Kind.NFS_CLIENT,
        Kind.NVME_HOST,
        Kind.NVME_PORT,
        Kind.SMB_CLIENT,
    }
)
# What concerns one kind, while the source as a whole can be read.
_OF_ONE_KIND = frozenset({Trouble.DENIED, Trouble.FAILED})


def subjects(world: World) -> list[Ref]:
    """One subject for each source as a whole, and one for each kind that may be denied."""
    found = []
    for sources, kinds in ((world.clusters, KUBERNETES_KINDS), (world.nas_names, TRUENAS_KINDS)):
        for source in sources:
            found.append(Ref(source, Kind.SOURCE, source))
            found += [Ref(source, Kind.SOURCE, f"{source}/{kind.value}") for kind in sorted(kinds)]
    return found


def _judge(ref: Ref, world: World) -> Judgement:
    source, _, kind = ref.name.partition("/")
    if source not in world.clusters and source not in world.nas_names:
        return Clear("it is not configured any more")
    return _judge_kind(source, Kind(kind), world) if kind else _judge_source(source, world)


def _judge_kind(source: str, kind: Kind, world: World) -> Judgement:
    state = world.graph.completeness(source, kind)
    if state.trouble not in _OF_ONE_KIND:
        return Clear("nothing is wrong with this kind alone")
    facts: dict[str, Fact] = {"kind": kind.value, "trouble": state.trouble.value, "reason": state.reason}
    severity = Severity.INFO if kind in INFORMATIVE else None
    return Evidence(f"{kind.value} at {source} cannot be read: {state.reason}", facts, severity=severity)


def _judge_source(source: str, world: World) -> Judgement:
    kinds = KUBERNETES_KINDS if source in world.clusters else TRUENAS_KINDS
    for kind in sorted(kinds):
        state = world.graph.completeness(source, kind)
        if state.trouble is None or state.trouble in _OF_ONE_KIND or state.trouble is Trouble.UNTOLD:
            continue
        severity = Severity.CRITICAL if state.trouble is Trouble.CREDENTIALS else None
        facts: dict[str, Fact] = {"trouble": state.trouble.value, "reason": state.reason}
        return Evidence(f"{source} cannot be read: {state.reason}", facts, severity=severity)
    return Clear("it can be read")


SOURCE_UNAVAILABLE = Rule(
    id="source-unavailable",
    title="Cluster or NAS that cannot be read",
    fix=(
        "Mend the connection, the credentials or the permission that the reason names. "
        "Until then findings that need it are held, and nothing is called orphaned."
    ),
    severity=Severity.WARNING,
    subject=Kind.SOURCE,
    needs=frozenset(),
    judge=_judge,
    pending=lambda world: world.settings.rules.source_unavailable_after,
)
