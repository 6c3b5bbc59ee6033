"""Whose a volume is: a watched cluster's alone, or perhaps somebody else's.

democratic-csi writes no cluster id. A parent is ours if the operator says so, or if a
live volume of a watched cluster lies in it; it is ours alone if nothing in it says
otherwise (domain notes on democratic-csi, §4.4, conditions 2 and 3).
"""

from __future__ import annotations

import msgspec

from truetally.csi import democratic_csi as csi
from truetally.graph import chains
from truetally.graph.world import World
from truetally.model.memories import MemoryKind
from truetally.model.refs import Kind
from truetally.model.truenas import Dataset
from truetally.settings import DriverSettings

IGNORE = "truetally:ignore"


def exemption_mark(dataset: Dataset) -> str:
    """What the dataset's own property `truetally:ignore` says; empty if it exempts nothing."""
    mark = csi.own(dataset, IGNORE)
    return "" if mark.lower() in ("false", "0", "no", "off") else mark


class Ownership(msgspec.Struct, frozen=True):
    """Whether a dataset below a parent is provably a volume of a watched cluster."""

    proven: bool
    exclusive: bool
    text: str
    driver: DriverSettings | None = None


def ownership(world: World, nas: str, dataset: Dataset) -> Ownership:
    """Conditions 2 and 3: is the parent ours, and nobody else's?

    democratic-csi writes no cluster id. A parent is ours if the operator says so, or if a live volume of a
    watched cluster lies in it. In a parent only learned from live volumes, a neighbour we don't watch
    could have made the dataset: there it must carry an instance id that our volumes carry, or have been seen
    with its PersistentVolume before.
    """
    configured = world.drivers_of_parent(nas, dataset.parent)
    stamp = world.graph.stamp(dataset)
    makers = [d for d in configured if _may_have_made(d, dataset)]
    if foreign := _foreign_children(world, nas, dataset.parent, configured):
        marked = [d for d in makers if d.marker_property]
        if marked:
            return Ownership(True, True, "it carries the marker of a watched cluster", _keenest(marked))
        return Ownership(True, False, f"{dataset.parent} also holds volumes of {foreign}")
    if configured:
        if not makers:
            return Ownership(True, False, _why_none_made(dataset, configured))
        return _configured(dataset.parent, _keenest(makers))
    if stamp.instance_id and (stamp.provisioner_driver, stamp.instance_id) in _ours(world):
        known = f"it carries our instance id {stamp.instance_id}"
    else:
        known = _seen_before(world, csi.own(dataset, csi.VOLUME_NAME))
    return _learned(world, nas, dataset.parent, known)


def ownership_of_name(world: World, nas: str, parent: str, name: str) -> Ownership:
    """Whose a volume was of which only the parent and the name are left, and no mark.

    Without a mark nothing tells it from those of somebody else in the parent.
    """
    configured = world.drivers_of_parent(nas, parent)
    if foreign := _foreign_children(world, nas, parent, configured):
        return Ownership(True, False, f"{parent} also holds volumes of {foreign}")
    if marked := next(filter(None, map(_marker, configured)), ""):
        return Ownership(True, False, f"volumes in {parent} are told apart by {marked}, and no mark is left")
    if configured:
        return _configured(parent, configured[0])
    return _learned(world, nas, parent, _seen_before(world, name))


def _configured(parent: str, driver: DriverSettings) -> Ownership:
    return Ownership(True, True, f"{parent} is configured as the parent of {driver.driver}", driver)


def _learned(world: World, nas: str, parent: str, known: str) -> Ownership:
    """Whose it is in a parent that nobody has configured; `known` says why it must be ours, or is empty."""
    live = _live_volume_in(world, nas, parent)
    if live is None:
        text = f"no live volume lies in {parent}, and no configured driver has it as parent"
        return Ownership(False, True, text)
    if known:
        return Ownership(True, True, f"{known}, and {live} lies beside it")
    return Ownership(
        True,
        False,
        f"{live} lies beside it, but without an instance_id a cluster that is not watched could own it; "
        f"name {parent} under `drivers` if it is only yours",
    )


def _seen_before(world: World, name: str) -> str:
    seen = world.graph.remembered(MemoryKind.VOLUME, name) is not None
    return "its PersistentVolume was seen before" if seen else ""


def _ours(world: World) -> set[tuple[str, str]]:
    return {who for who, count in world.graph.provisioners().items() if count > 0}


def _foreign_children(world: World, nas: str, parent: str, configured: list[DriverSettings]) -> str:
    """Who else has volumes beside it: another instance, another driver, another cluster's marker."""
    ours = _ours(world)
    drivers = {driver for driver, _ in ours}
    instances = {instance for _, instance in ours} | {d.instance_id or "" for d in configured}
    markers = {_marker(d) for d in configured}
    for stamp, count in world.graph.stamps(nas, parent).items():
        if count <= 0:
            continue
        if instances and stamp.instance_id not in instances:
            return f"instance {stamp.instance_id or '(none)'}"
        # An instance id that is ours says more than the kind of driver, which may be replaced.
        if drivers and not stamp.instance_id and stamp.provisioner_driver not in drivers:
            return f"driver {stamp.provisioner_driver or '(none)'}"
        if stamp.marker and stamp.marker not in markers:
            return f"the cluster marked {stamp.marker}"
    return ""


def _marker(driver: DriverSettings) -> str:
    return f"{driver.marker_property}={driver.marker_value}" if driver.marker_property else ""


def _may_have_made(driver: DriverSettings, dataset: Dataset) -> bool:
    """Whether a dataset carries the instance id and the marker that the driver's volumes carry."""
    if csi.own(dataset, csi.INSTANCE_ID) != (driver.instance_id or ""):
        return False
    return not driver.marker_property or csi.own(dataset, driver.marker_property) == driver.marker_value


def _keenest(drivers: list[DriverSettings]) -> DriverSettings:
    """Of several drivers that may have made a volume, the one that keeps most."""
    return next((d for d in drivers if d.retains_deleted), drivers[0])


def _why_none_made(dataset: Dataset, configured: list[DriverSettings]) -> str:
    instance = csi.own(dataset, csi.INSTANCE_ID)
    if any((d.instance_id or "") == instance for d in configured):
        return f"it does not carry the marker {' or '.join(filter(None, map(_marker, configured)))}"
    wanted = ", ".join(d.instance_id or "(none)" for d in configured)
    return f"its instance id is {instance or '(none)'}, and the configured one is {wanted}"


def _live_volume_in(world: World, nas: str, parent: str) -> str | None:
    """The name of a live volume whose dataset lies directly below the parent."""
    key = "live volume in", nas, parent
    if key not in world.memo:
        world.memo[key] = _found_live_in(world, nas, parent)
    live = world.memo[key]
    return live if isinstance(live, str) else None


def _found_live_in(world: World, nas: str, parent: str) -> str | None:
    for child in chains.children_of(world, nas, parent):
        for ref in world.sharing(f"h:{child.name.rpartition('/')[2]}", Kind.PERSISTENT_VOLUME):
            volume = world.volume(ref)
            if volume is None or not csi.is_provisioned(volume):
                continue
            found = chains.backing(world, ref)
            if found is not None and found.dataset == child and found.strength == chains.EXACT:
                return ref.name
    return None
