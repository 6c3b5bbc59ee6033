"""The example is what people start from, so it is right, and it is complete."""

import json
import re
from datetime import date, timedelta

import jsonschema
import pytest
import yaml

from truetally.configuration import check, load
from truetally.configuration.schema import schema
from truetally.configuration.shape import places
from truetally.settings import Settings, written
from truetally.shared import share

EXAMPLE = share("config") / "truetally.example.yaml"


def test_the_example_has_neither_mistakes_nor_warnings():
    checked = check(EXAMPLE, {}, date(2026, 1, 1))
    assert checked.mistakes == checked.warnings == ()
    assert checked.settings is not None


@pytest.mark.parametrize("place", list(places()), ids=lambda place: ".".join(map(str, place)))
def test_the_example_shows_every_setting(place):
    key = str(place[-1])
    assert re.search(rf"^ *(# +)?(- )?{key}:", EXAMPLE.read_text(), re.MULTILINE)


def test_what_the_example_shows_as_commented_out_are_settings():
    shown = re.findall(r"^ +# +(?:- )?([a-z_]+):(?: |$)", EXAMPLE.read_text(), re.MULTILINE)
    known = {str(part) for place in places() for part in place if isinstance(part, str)}
    assert set(shown) <= known


@pytest.mark.parametrize(
    ("section", "key"),
    [
        (section, key)
        for section in ("rules", "history", "api", "log")
        for key, field in type(getattr(Settings(), section)).model_fields.items()
        if field.default not in (None, (), {})
    ],
)
def test_the_defaults_in_the_comments_are_the_defaults(section, key):
    default = getattr(getattr(Settings(), section), key)
    said = written(default) if isinstance(default, timedelta) else str(default)
    part = re.split(rf"^{section}:\n", EXAMPLE.read_text(), flags=re.MULTILINE)[1]
    assert re.search(rf"^  # {key}: (.*)$", part, re.MULTILINE)[1] == said


def test_the_schema_in_the_repository_is_the_one_of_the_settings():
    assert (share("config") / "truetally.schema.json").read_text() == schema(), "run `make schema`"


def _against_schema(content: object) -> list[str]:
    validator = jsonschema.Draft202012Validator(json.loads(schema()))
    return [error.message for error in validator.iter_errors(content)]


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(json.loads(schema()))


def test_the_example_is_valid_by_the_schema():
    content = {key: value for key, value in yaml.safe_load(EXAMPLE.read_text()).items() if value is not None}
    # YAML's dates are text in JSON.
    assert _against_schema(json.loads(json.dumps(content, default=str))) == []


@pytest.mark.parametrize(
    "content",
    [
        {"nass": []},
        {"rules": {"grace": 60}},
        {"rules": {"grace": "60"}},
        {"log": {"level": "warn"}},
        {"notify": {"receivers": [{"name": "x", "url": {}}]}},
        {"notify": {"receivers": [{"name": "x", "url": {"env": "A", "file": "b"}}]}},
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(content):
    assert _against_schema(content) != []


@pytest.mark.parametrize("text", ["500ms", "0s", "90s", "1m", "1h", "25h", "2d", "1w"])
def test_a_duration_is_written_as_it_is_read(text, tmp_path):
    config = tmp_path / "truetally.yaml"
    config.write_text(EXAMPLE.read_text().replace("  # grace: 1h", f"  grace: {text}"))
    assert written(load(config, {}).rules.grace) == text


def test_parts_of_a_duration_add_up(tmp_path):
    config = tmp_path / "truetally.yaml"
    config.write_text(EXAMPLE.read_text().replace("  # grace: 1h", "  grace: 1d2h30m1.5s"))
    assert load(config, {}).rules.grace == timedelta(days=1, hours=2, minutes=30, seconds=1.5)
