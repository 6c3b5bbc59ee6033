"""Files that are not code: the SQL and the example configuration.

In a wheel they are inside the package, under `_share`; in a checkout they
stand at its top, where people look for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).resolve().parent


def share(name: Literal["sql", "config"]) -> Path:
    """The folder of this name, wherever truetally runs from."""
    for place in (_PACKAGE / "_share", _PACKAGE.parent.parent):
        if (place / name).is_dir():
            return place / name
    raise FileNotFoundError(f"this truetally came without its {name} folder; install it again from a release")
