"""Overrides from the environment."""

from pathlib import Path

import pytest

from truetally.configuration import load, mistakes
from truetally.model.findings import Severity

CONFIG = """\
clusters: [{name: prod, in_cluster: true}]
nas:
  - {name: nas1, url: wss://nas1, username: truetally, api_key: {env: TRUETALLY_NAS1_KEY}}
log: {level: info}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "truetally.yaml"
    path.write_text(CONFIG)
    return path


def told(config: Path, **environ: str) -> list[str]:
    return [str(mistake) for mistake in mistakes(config, environ)]


def test_a_variable_overrides_the_file(config):
    assert load(config, {"TRUETALLY_LOG__LEVEL": "debug"}).log.level == "debug"


def test_a_variable_sets_what_the_file_does_not_say(config):
    settings = load(
        config, {"TRUETALLY_RULES__GRACE": "2h", "TRUETALLY_API__HEALTH_ADDRESS": "127.0.0.1:8080"}
    )
    assert settings.rules.grace.total_seconds() == 7200
    assert settings.api.health_address == "127.0.0.1:8080"


def test_an_item_of_a_list_is_overridden_by_its_index(config):
    nas = load(config, {"TRUETALLY_NAS__0__URL": "wss://other"}).nas
    assert [(one.name, one.url) for one in nas] == [("nas1", "wss://other")]


def test_the_next_index_adds_an_item_whatever_the_order_of_the_variables(config):
    environ = {
        f"TRUETALLY_NAS__{index}__{key}": value
        for index in range(11, 0, -1)
        for key, value in {
            "URL": f"nas{index}",
            "NAME": f"n{index}",
            "USERNAME": "t",
            "API_KEY__ENV": "K",
        }.items()
    }
    assert [nas.name for nas in load(config, environ).nas] == [
        "nas1",
        *(f"n{index}" for index in range(1, 12)),
    ]


def test_a_list_or_a_section_may_be_json(config):
    environ = {
        "TRUETALLY_NAS__0__ADDRESSES": '["10.0.0.1"]',
        "TRUETALLY_RULES__DISABLED": '["claim-pending"]',
        "TRUETALLY_RULES__SEVERITIES__VOLUME-RELEASED": "info",
        "TRUETALLY_LOG": '{"format": "json"}',
    }
    settings = load(config, environ)
    assert settings.nas[0].addresses == ("10.0.0.1",)
    assert settings.rules.disabled == ("claim-pending",)
    assert settings.rules.severities == {"volume-released": Severity.INFO}
    assert (settings.log.format, settings.log.level) == ("json", "info")


def test_the_environment_alone_is_enough_over_an_empty_file(config):
    config.write_text("")
    environ = {
        "TRUETALLY_CLUSTERS": '[{"name": "prod", "in_cluster": true}]',
        "TRUETALLY_NAS": '[{"name": "nas1", "url": "nas1", "username": "t", "api_key": {"env": "K"}}]',
    }
    assert load(config, environ).nas[0].url == "wss://nas1"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("TRUETALLY_LOG__LEVLE", "x", 'unknown key; did you mean "TRUETALLY_LOG__LEVEL"?'),
        ("TRUETALLY_NAS__0__ULR", "x", 'unknown key; did you mean "TRUETALLY_NAS__0__URL"?'),
        ("TRUETALLY_LOG_LEVEL", "x", 'is no setting; did you mean "TRUETALLY_LOG__LEVEL"?'),
        ("TRUETALLY_LGO__LEVEL", "x", 'is no setting; did you mean "TRUETALLY_LOG__LEVEL"?'),
        ("TRUETALLY_LOG__LEVEL", "inof", "'error'; did you mean \"info\"?"),
        ("TRUETALLY_NAS__0__CALL_TIMEOUT", "60", "a duration is written with its unit"),
        ("TRUETALLY_NAS__0__URL", "http://nas1", "TrueNAS revokes for good"),
        ("TRUETALLY_RULES__DISABLED", "claim-pending", "has to be JSON"),
        ("TRUETALLY_NAS__3__URL", "nas3", "leaves a gap: the list has 1 items, so the next index is 1"),
        ("TRUETALLY_NAS__URL", "nas3", "address its items by index"),
        ("TRUETALLY_NAS__", "nas3", "address its items by index"),
        ("TRUETALLY_LOG__LEVEL__X", "x", "goes deeper than the config file"),
        ("TRUETALLY_LOG", '{"levle": "x"}', "log.levle: unknown key"),
    ],
)
def test_a_mistake_in_a_variable_is_told_by_its_name(config, name, value, expected):
    [line] = told(config, **{name: value})
    assert line.startswith(f"environment: {name}: ")
    assert expected in line


def test_what_is_missing_of_an_item_from_the_environment_is_told_as_the_environments(config):
    [*found] = told(config, TRUETALLY_NAS__1__NAME="nas2", TRUETALLY_NAS__1__URL="nas2")
    assert found == ["environment: TRUETALLY_NAS__1__NAME: nas[1].username: is required"]


def test_a_nas_needs_one_secret_and_not_two(config):
    nas = {
        "TRUETALLY_NAS__1__NAME": "nas2",
        "TRUETALLY_NAS__1__URL": "nas2",
        "TRUETALLY_NAS__1__USERNAME": "u",
    }
    [none] = told(config, **nas)
    assert none.endswith("nas[1]: give either api_key (better) or password")
    both = {"TRUETALLY_NAS__1__API_KEY__ENV": "A", "TRUETALLY_NAS__1__PASSWORD__ENV": "B"}
    assert list(told(config, **nas, **both)) == [none]


def test_a_variable_that_holds_a_secret_by_reference_is_no_setting_and_no_mistake(config):
    assert told(config, TRUETALLY_NAS1_KEY="1-abc") == []


def test_the_variables_that_kubernetes_makes_of_a_service_are_left_alone(config):
    links = {
        "TRUETALLY_SERVICE_HOST": "10.96.0.1",
        "TRUETALLY_SERVICE_PORT": "80",
        "TRUETALLY_SERVICE_PORT_HTTP": "80",
        "TRUETALLY_PORT": "tcp://10.96.0.1:80",
        "TRUETALLY_API_PORT_80_TCP": "tcp://10.96.0.1:80",
        "TRUETALLY_API_PORT_80_TCP_ADDR": "10.96.0.1",
    }
    assert told(config, **links) == []
