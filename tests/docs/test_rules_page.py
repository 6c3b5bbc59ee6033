"""Do the documents name every rule, and say what it says itself?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from truetally.findings.catalogue import RULES
from truetally.findings.reference import page

ROOT = Path(__file__).parent.parent.parent


def test_the_page_in_the_repository_is_the_one_of_the_rules():
    assert (ROOT / "docs" / "rules.md").read_text() == page(), "run `make rules`"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_page_has_a_row_and_a_section_with_the_fix_of(rule):
    row = re.search(rf"^\| \[`{rule.id}`\]\(#{rule.id}\) \| (.*) \|$", page(), re.MULTILINE)
    assert row is not None
    assert [rule.title, rule.severity.value] == row[1].split(" | ")[:2]
    section = page().split(f"\n## {rule.id}\n")[1].split("\n## ")[0]
    assert f"**To mend it:** {rule.fix}\n" in section
    assert all(kind.value in section for kind in rule.needs)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_readme_has_a_line_for(rule):
    told = (ROOT / "README.md").read_text().split("## What it finds")[1].split("\n## ")[0]
    assert re.search(rf"^\|.*`{rule.id}`.*\|", told, re.MULTILINE)
