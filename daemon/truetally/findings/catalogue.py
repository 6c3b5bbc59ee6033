"""All rules, by id."""

from __future__ import annotations

from truetally.findings import (
    broken,
    capacity,
    copies,
    nas,
    orphans,
    pools,
    retention,
    shares,
    snapshot_states,
    snapshots,
    sources,
    stuck,
    volumes,
)
from truetally.findings.rule import Rule
from truetally.model.refs import Kind

RULES: tuple[Rule, ...] = (
    sources.SOURCE_UNAVAILABLE,
    orphans.DATASET_WITHOUT_VOLUME,
    orphans.DATASET_OWNER_UNKNOWN,
    orphans.DATASET_RETAINED,
    orphans.VOLUME_WITHOUT_DATASET,
    shares.NFS_SHARE_ORPHANED,
    shares.SMB_SHARE_ORPHANED,
    shares.TARGET_ORPHANED,
    shares.EXTENT_ORPHANED,
    shares.TARGET_LINK_ORPHANED,
    shares.SUBSYSTEM_ORPHANED,
    shares.NAMESPACE_ORPHANED,
    shares.NFS_SHARE_OWNER_UNKNOWN,
    shares.SMB_SHARE_OWNER_UNKNOWN,
    shares.EXTENT_OWNER_UNKNOWN,
    shares.NAMESPACE_OWNER_UNKNOWN,
    copies.SNAPSHOT_CONTAINER_EMPTY,
    copies.CLONE_SOURCE_LEFT,
    broken.VOLUME_SHARE_MISSING,
    broken.VOLUME_SERVES_OTHER_DATA,
    broken.CLAIM_LOST,
    broken.CONTENT_UNREFERENCED,
    volumes.VOLUME_RELEASED,
    volumes.CLAIM_PENDING,
    volumes.ATTACHMENT_STALE,
    stuck.VOLUME_DELETION_STUCK,
    stuck.CLAIM_DELETION_STUCK,
    stuck.SNAPSHOT_DELETION_STUCK,
    stuck.CONTENT_DELETION_STUCK,
    stuck.CLAIM_UNUSED,
    snapshots.SNAPSHOT_WITHOUT_CONTENT,
    snapshots.CONTENT_WITHOUT_SNAPSHOT,
    pools.POOL_DEGRADED,
    pools.POOL_DEVICE_ERRORS,
    pools.POOL_SCRUB_OVERDUE,
    pools.POOL_SCRUB_ERRORS,
    capacity.POOL_NEARLY_FULL,
    capacity.POOL_OVERCOMMITTED,
    capacity.POOL_RESERVATIONS_EXCEED_FREE,
    capacity.VOLUME_NEARLY_FULL,
    capacity.VOLUME_SIZE_DIFFERS,
    nas.NAS_SERVICE_STOPPED,
    nas.NAS_KEY_EXPIRES,
    nas.NAS_ALERT,
    snapshot_states.SNAPSHOT_NOT_READY,
    snapshot_states.SNAPSHOT_WITHOUT_RESTORE_SIZE,
    snapshot_states.SNAPSHOT_DEFERRED,
    snapshot_states.SNAPSHOT_BLOCKS_DELETE,
    retention.SNAPSHOT_RETENTION,
    retention.SNAPSHOTS_TOO_MANY,
)

BY_ID = {rule.id: rule for rule in RULES}

_BY_KIND = {kind: tuple(rule for rule in RULES if rule.subject is kind) for kind in Kind}


def rules_for(kind: Kind) -> tuple[Rule, ...]:
    """The rules that judge a kind of subject."""
    return _BY_KIND.get(kind, ())
