"""What an operator is told of a configuration that isn't right."""

from datetime import date
from pathlib import Path
from textwrap import dedent

import pytest

from truetally.configuration import Mistake, check, load, mistakes, warnings
from truetally.errors import ConfigurationInvalid

CLUSTER = "clusters: [{name: prod, in_cluster: true}]\n"
NAS = "nas: [{name: nas1, url: wss://nas1, username: truetally, api_key: {env: NAS1_KEY}}]\n"
DRIVER = "drivers: [{driver: org.nfs, cluster: prod, nas: nas1, parent: tank/k8s}]\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "truetally.yaml"


def told(config: Path, text: str | bytes, **environ: str) -> list[str]:
    """The mistakes as they are printed, without the folder of the file."""
    config.write_bytes(text if isinstance(text, bytes) else dedent(text).encode())
    return [str(mistake).removeprefix(f"{config.parent}/") for mistake in mistakes(config, environ)]


def test_a_right_configuration_has_no_mistakes(config):
    assert told(config, CLUSTER + NAS + DRIVER) == []


def test_an_unknown_key_is_told_with_file_line_and_the_nearest_right_key(config):
    text = """\
        clusters:
          - name: prod
            in_cluster: true
        nas:
          - name: nas1
            ulr: wss://nas1
            url: wss://nas1
            username: truetally
            api_key: {env: NAS1_KEY}
        """
    assert told(config, text) == ['truetally.yaml:6: nas[0].ulr: unknown key; did you mean "url"?']


def test_an_unknown_key_that_resembles_nothing_gets_no_suggestion(config):
    assert told(config, CLUSTER + NAS + "xyzzy: 1\n") == ["truetally.yaml:3: xyzzy: unknown key"]


def test_a_mistake_knows_its_column(config):
    config.write_text(CLUSTER + NAS + "log:\n    levle: info\n")
    assert mistakes(config, {}) == [Mistake(str(config), 4, 5, "log.levle", "unknown key", "level")]


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(config):
    text = """\
        clusters:
          - name: prod
            in_clutser: true
        nas:
          - name: prod
            url: http://nas1.example.com
            username: truetally
            api_key: 1-abc
            call_timeout: 60
        drivers:
          - {driver: org.nfs, cluster: prodd, nas: nas1, parent: /mnt/tank/k8s}
        log:
          level: warn
        """
    found = told(config, text)
    assert [line.split(": ")[:2] for line in found] == [
        ["truetally.yaml:3", "clusters[0].in_clutser"],
        ["truetally.yaml:5", "nas[0].name"],
        ["truetally.yaml:6", "nas[0].url"],
        ["truetally.yaml:8", "nas[0].api_key"],
        ["truetally.yaml:9", "nas[0].call_timeout"],
        ["truetally.yaml:11", "drivers[0].cluster"],
        ["truetally.yaml:11", "drivers[0].nas"],
        ["truetally.yaml:11", "drivers[0].parent"],
        ["truetally.yaml:13", "log.level"],
    ]


def test_a_missing_key_is_told_on_the_line_where_its_section_begins(config):
    text = CLUSTER + "nas:\n  - name: nas1\n    url: nas1\n    api_key: {env: K}\n"
    assert told(config, text) == ["truetally.yaml:3: nas[0].username: is required"]


def test_a_key_that_stands_twice_is_a_mistake(config):
    text = CLUSTER + NAS + "log:\n  level: info\n  level: debug\n"
    assert told(config, text) == [
        "truetally.yaml:5: log.level: stands here a second time; the first is on line 4"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clusters: [\n", "truetally.yaml:2: is no valid YAML: "),
        (
            "log:\n\tlevel: info\n",
            "truetally.yaml:2: is no valid YAML: is indented with a tab; YAML wants spaces",
        ),
        ("log: *nothing\n", "truetally.yaml:1: is no valid YAML: found undefined alias 'nothing'"),
        ("log: !!python/object:os.system {}\n", "truetally.yaml:1: is no valid YAML: "),
        ("? [a]\n: b\n", "truetally.yaml:1: is no valid YAML: found unhashable key"),
        ("log: {}\n---\nnas: []\n", "truetally.yaml:2: is no valid YAML: but found another document"),
        ("log: \x00\n", "truetally.yaml:1: holds a character that YAML does not allow: #x0000"),
        ("- a\n- b\n", "truetally.yaml:1: has to be a mapping of settings"),
        ("just text\n", "truetally.yaml:1: has to be a mapping of settings"),
        ("log: &a [*a]\n", "truetally.yaml: is nested too deeply"),
        ("[" * 5000, "truetally.yaml: is nested too deeply"),
        ("", "truetally.yaml: is empty"),
        ("# only a comment\n", "truetally.yaml: is empty"),
        (b"log:\n  level: inf\xf6\n", "truetally.yaml:2: is not UTF-8 text here"),
    ],
)
def test_what_is_no_configuration_at_all_is_told_clearly(config, text, expected):
    found = told(config, text)
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_a_file_that_does_not_exist_is_told_with_what_to_write(config):
    assert [str(mistake) for mistake in mistakes(config, {})] == [
        f"{config}: does not exist; config/truetally.example.yaml shows what to write"
    ]


def test_a_directory_is_told(tmp_path):
    assert [mistake.message for mistake in mistakes(tmp_path, {})] == ["is a directory; name the file in it"]


def test_a_path_that_leads_through_a_file_is_told(config):
    config.write_text("")
    assert [mistake.message for mistake in mistakes(config / "x.yaml", {})] == [
        "cannot be read: Not a directory"
    ]


def test_both_sides_are_needed(config):
    assert [line.split(";")[0] for line in told(config, "log: {level: info}\n")] == [
        "truetally.yaml:1: clusters: names no cluster",
        "truetally.yaml:1: nas: names no NAS",
    ]


def test_a_section_whose_lines_are_all_commented_out_says_nothing(config):
    assert told(config, CLUSTER + NAS + "rules:\n  # grace: 1h\nnotify:\n") == []


@pytest.mark.parametrize("name", ["no", "1e3", "12:30", "2026-01-01", "0x10"])
def test_a_name_stays_the_text_that_was_written(config, name):
    config.write_text(CLUSTER.replace("prod", name) + NAS)
    assert load(config, {}).clusters[0].name == name


def test_a_cluster_and_a_nas_may_not_share_a_name(config):
    assert told(config, CLUSTER + NAS.replace("name: nas1", "name: prod")) == [
        "truetally.yaml:2: nas[0].name: prod is taken by clusters[0]; names have to differ"
    ]


def test_a_driver_has_to_name_a_cluster_and_a_nas_that_exist(config):
    driver = DRIVER.replace("cluster: prod", "cluster: prdo").replace("nas: nas1", "nas: nas2")
    assert told(config, CLUSTER + NAS + driver) == [
        'truetally.yaml:3: drivers[0].cluster: prdo is not among clusters; did you mean "prod"?',
        'truetally.yaml:3: drivers[0].nas: nas2 is not among nas; did you mean "nas1"?',
    ]


def test_a_route_has_to_name_receivers_that_exist(config):
    notify = """\
notify:
  receivers: [{name: storage, url: {env: URL}}]
  routes: [{receivers: [storage, storrage]}]
"""
    [line] = told(config, CLUSTER + NAS + notify)
    place, _, message = line.partition("[1]: ")
    assert place == "truetally.yaml:5: notify.routes[0].receivers"
    assert message == 'storrage is not among notify.receivers; did you mean "storage"?'


def test_rules_are_compared_with_the_known_ones_where_those_are_given(config):
    config.write_text(
        CLUSTER
        + NAS
        + "rules:\n  disabled: [claim-pendign]\n  severities:\n    volume-relesed: info\n"
        + "exemptions:\n  - {name: x, reason: y, rule: volume-released}\n"
    )
    known = {"claim-pending", "volume-released"}
    assert [(found.line, found.key, found.suggestion) for found in mistakes(config, {}, known)] == [
        (4, "rules.disabled[0]", "claim-pending"),
        (6, "rules.severities.volume-relesed", "volume-released"),
    ]
    assert mistakes(config, {}) == []


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("{}", "says nothing of where the secret stands"),
        ("{env: A, file: b}", "says file and env, and a secret stands in one place only"),
        ("1-abcdef", "has to say where the secret stands"),
        ("{env: 1-abcdef}", "has to be the name of an environment variable"),
        ("{env: ''}", "is empty"),
        ("[1-abcdef]", "has to say where the secret stands"),
    ],
)
def test_a_secret_stands_in_exactly_one_place_and_is_never_repeated(config, reference, expected):
    [line] = told(config, CLUSTER + NAS.replace("{env: NAS1_KEY}", reference))
    assert expected in line
    assert "abcdef" not in line


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ("{name: prod}", "has no way in"),
        ("{name: prod, in_cluster: true, kubeconfig: /dev/null}", "there is one way in only"),
        ("{name: prod, in_cluster: true, context: x}", "context chooses within a kubeconfig"),
        ("{name: prod, kubeconfig: gone.kubeconfig}", "gone.kubeconfig does not exist"),
        ("{name: prod, kubeconfig: .}", "is a directory, not a file"),
        ("{name: prod, kubeconfig: ~nobody-of-this-name/x}", "begins with the home of a user who has none"),
        ('{name: prod, kubeconfig: "a\\0b"}', "holds a NUL character"),
        ("{name: prod, in_cluster: perhaps}", "boolean"),
    ],
)
def test_a_cluster_has_exactly_one_way_in(config, cluster, expected):
    found = told(config, f"clusters: [{cluster}]\n" + NAS)
    assert expected in found[0]


def test_a_relative_path_starts_at_the_config_file(config):
    (config.parent / "prod.kubeconfig").write_text("")
    config.write_text("clusters: [{name: prod, kubeconfig: prod.kubeconfig}]\n" + NAS)
    assert load(config, {}).clusters[0].kubeconfig == config.parent / "prod.kubeconfig"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("nas1.example.com", "wss://nas1.example.com"),
        ("wss://nas1.example.com:8443", "wss://nas1.example.com:8443"),
        ("https://nas1", "https://nas1"),
        ("ws://127.0.0.1:6000", "ws://127.0.0.1:6000"),
        ("http://127.8.0.1", "http://127.8.0.1"),
        ("ws://[::1]:6000", "ws://[::1]:6000"),
        ("ws://localhost", "ws://localhost"),
    ],
)
def test_a_nas_is_reached_encrypted_or_on_loopback(config, written, meant):
    config.write_text(CLUSTER + NAS.replace("url: wss://nas1", f'url: "{written}"'))
    assert load(config, {}).nas[0].url == meant


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ws://nas1.example.com", "TrueNAS revokes for good an API key"),
        ("http://10.0.0.5", "TrueNAS revokes for good an API key"),
        ("http://127.0.0.1.example.com", "TrueNAS revokes for good an API key"),
        ("http://localhost.example.com", "TrueNAS revokes for good an API key"),
        ("ftp://nas1", "is no address of a NAS"),
        ("wss://", "is no address of a NAS"),
        ("wss://nas1:port", "is no URL"),
        ("wss://[::1", "is no URL"),
        ("wss://user:hunter2@nas1", "holds credentials"),
        ("http://user:hunter2@127.0.0.1", "holds credentials"),
    ],
)
def test_an_address_that_would_harm_the_key_is_refused(config, url, expected):
    [line] = told(config, CLUSTER + NAS.replace("url: wss://nas1", f'url: "{url}"'))
    assert expected in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("parent", "expected"),
    [
        ("parent: /mnt/tank/k8s", "leave out /mnt/"),
        ("parent: /tank/k8s", "no slash before"),
        ("parent: tank/k8s/", "no slash before"),
        ("parent: tank//k8s", "no slash before"),
        ("parent: tank/k8s@daily", "not of a snapshot"),
        ("parent: tank/k8s, snapshots_parent: tank/k8s/snapshots", "within each other"),
        ("parent: tank/k8s/volumes, snapshots_parent: tank/k8s", "within each other"),
        ("parent: tank/k8s, snapshots_parent: tank/k8s", "within each other"),
        ("parent: tank/k8s, marker_value: prod", "go together"),
    ],
)
def test_a_parent_is_a_dataset_apart_from_that_of_the_snapshots(config, parent, expected):
    [line] = told(config, CLUSTER + NAS + DRIVER.replace("parent: tank/k8s", parent))
    assert expected in line


def test_parents_that_only_begin_alike_are_apart(config):
    parents = "parent: tank/k8s, snapshots_parent: tank/k8s-snapshots"
    assert told(config, CLUSTER + NAS + DRIVER.replace("parent: tank/k8s", parents)) == []


@pytest.mark.parametrize(
    "duration", ["60", "0s", "-1s", "1 m", "PT1M", "1h30", "1:30", "99999999999999w", "{}"]
)
def test_an_interval_needs_a_unit_and_a_length(config, duration):
    nas = NAS.replace("username", f"reconcile_every: {duration}, username")
    [line] = told(config, CLUSTER + nas)
    assert "nas[0].reconcile_every" in line


@pytest.mark.parametrize(
    "address", ["8080", "127.0.0.1", "127.0.0.1:http", ":80", "127.0.0.1:70000", "0.0.0.0:8080", "nas1:8080"]
)
def test_a_health_address_is_on_loopback_and_has_a_port(config, address):
    [line] = told(config, CLUSTER + NAS + f'api: {{health_address: "{address}"}}\n')
    assert "has to be a loopback address with its port" in line


@pytest.mark.parametrize("address", ["127.0.0.1:8081", "[::1]:8081", "localhost:0"])
def test_a_health_address_on_loopback_is_taken(config, address):
    assert told(config, CLUSTER + NAS + f'api: {{health_address: "{address}"}}\n') == []


def test_a_value_outside_its_choices_is_told_with_them_and_the_nearest(config):
    [line] = told(config, CLUSTER + NAS + "log: {level: warn}\n")
    choices = "'debug', 'info', 'warning' or 'error'"
    assert line == f'truetally.yaml:3: log.level: has to be {choices}; did you mean "warning"?'


def test_merge_keys_and_anchors_work(config):
    config.write_text(
        CLUSTER
        + "nas:\n  - &nas\n    name: nas1\n    url: nas1\n    username: t\n    api_key: {env: K}\n"
        + "  - <<: *nas\n    name: nas2\n    url: nas2\n"
    )
    assert [nas.url for nas in load(config, {}).nas] == ["wss://nas1", "wss://nas2"]


def test_loading_refuses_with_every_mistake(config):
    config.write_text("logg: {}\n")
    with pytest.raises(ConfigurationInvalid) as refusal:
        load(config, {})
    assert [mistake.key for mistake in refusal.value.mistakes] == ["clusters", "logg", "nas"]
    assert str(refusal.value).splitlines() == [str(mistake) for mistake in refusal.value.mistakes]


def test_an_inline_secret_works_and_is_warned_about(config):
    config.write_text(CLUSTER + NAS.replace("{env: NAS1_KEY}", "{value: 1-abcdef}"))
    checked = check(config, {}, date(2026, 1, 1))
    assert checked.settings is not None
    assert [(warning.line, warning.key) for warning in checked.warnings] == [(2, "nas[0].api_key.value")]
    assert "abcdef" not in str(checked)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, 0), (0o400, 0), (0o640, 1), (0o604, 1)])
def test_a_secret_file_that_others_can_read_is_warned_about(config, mode, warned):
    secret = config.parent / "nas1.key"
    secret.write_text("1-abc")
    secret.chmod(mode)
    config.write_text(CLUSTER + NAS.replace("{env: NAS1_KEY}", "{file: nas1.key}"))
    found = warnings(config, {}, date(2026, 1, 1))
    assert [f"{mode:04o}" in warning.message for warning in found] == [True] * warned


def test_an_exemption_is_warned_about_from_the_day_after_its_last(config):
    config.write_text(CLUSTER + NAS + "exemptions:\n  - {name: x, reason: y, until: 2026-03-31}\n")
    assert warnings(config, {}, date(2026, 3, 31)) == []
    assert [warning.line for warning in warnings(config, {}, date(2026, 4, 1))] == [4]


def test_receivers_that_no_route_leads_to_are_warned_about(config):
    config.write_text(CLUSTER + NAS + "notify: {receivers: [{name: x, url: {env: X}}]}\n")
    assert [warning.key for warning in warnings(config, {}, date(2026, 1, 1))] == ["notify.receivers"]
