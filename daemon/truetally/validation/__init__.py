"""Whether StorageClasses, drivers and NAS fit together, checked before anything goes wrong. Pure: no I/O."""

from truetally.validation.check import Check, Item, Outcome, validate

__all__ = ["Check", "Item", "Outcome", "validate"]
