"""Does systemd take the unit as it is meant?"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "systemd" / "truetally.service"

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze is not installed: the unit is NOT checked",
)


def _analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with programs that exist on this machine: systemd looks whether they do."""
    copy = tmp_path / UNIT.name
    text = UNIT.read_text().replace("/opt/truetally/bin/truetally", shutil.which("true") or "/bin/true")
    copy.write_text(text.replace("/bin/kill", shutil.which("kill") or "/bin/kill"))
    return copy


@needs_systemd
def test_systemd_has_nothing_to_say_about_the_unit(unit):
    # It exits with 0 even if it ignores half of the keys; only its words tell.
    checked = _analyze("verify", "--man=no", str(unit))
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@needs_systemd
def test_a_mistyped_key_would_be_noticed(unit):
    unit.write_text(unit.read_text().replace("ProtectSystem=", "ProtectSytem="))
    assert "ProtectSytem" in _analyze("verify", "--man=no", str(unit)).stderr


@needs_systemd
def test_the_unit_exposes_little(unit):
    checked = _analyze("security", "--offline=true", "--threshold=20", "--no-pager", str(unit))
    assert checked.returncode == 0, checked.stdout


def test_the_unit_and_the_settings_agree_on_where_things_are():
    # Imported here, so that the unit can be checked while the settings are broken.
    from truetally.settings import ApiSettings, HistorySettings

    keys = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE))
    assert ApiSettings().socket.parent == Path("/run", keys["RuntimeDirectory"])
    assert HistorySettings().path.parent == Path("/var/lib", keys["StateDirectory"])


def test_peer_credentials_stay_readable():
    assert not re.search(r"^PrivateUsers=", UNIT.read_text(), re.MULTILINE)
