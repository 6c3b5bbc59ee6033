"""Secrets are read from where the configuration says, and never told."""

from pathlib import Path

import pytest

from truetally.configuration import resolve
from truetally.errors import ConfigurationInvalid
from truetally.settings import SecretReference

SECRET = "1-hunter2"


def test_a_secret_in_a_file_ends_before_its_newline(tmp_path):
    for number, ending in enumerate(["", "\n", "\r\n", "\n\n"]):
        file = tmp_path / str(number)
        file.write_bytes(SECRET.encode() + ending.encode())
        assert resolve(SecretReference(file=file), {}) == SECRET


def test_spaces_within_a_file_belong_to_the_secret(tmp_path):
    (tmp_path / "secret").write_text(" a b \n")
    assert resolve(SecretReference(file=tmp_path / "secret"), {}) == " a b "


def test_a_secret_may_stand_in_the_environment():
    assert resolve(SecretReference(env="NAS1_KEY"), {"NAS1_KEY": SECRET}) == SECRET


def test_a_secret_may_be_a_systemd_credential(tmp_path):
    (tmp_path / "nas1-key").write_text(SECRET)
    assert resolve(SecretReference(credential="nas1-key"), {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == SECRET


def test_an_inline_secret_is_itself():
    assert resolve(SecretReference(value=SECRET), {}) == SECRET


def test_an_inline_secret_is_not_shown():
    assert SECRET not in repr(SecretReference(value=SECRET))


@pytest.mark.parametrize(
    ("reference", "environ", "expected"),
    [
        (SecretReference(env="NAS1_KEY"), {}, "environment variable NAS1_KEY is not set"),
        (SecretReference(env="NAS1_KEY"), {"NAS1_KEY": ""}, "environment variable NAS1_KEY is empty"),
        (
            SecretReference(file=Path("/nonexistent/key")),
            {},
            "secret file /nonexistent/key cannot be read: No such",
        ),
        (SecretReference(file=Path("/dev/null")), {}, "secret file /dev/null is empty"),
        (SecretReference(file=Path("/")), {}, "secret file / cannot be read: Is a directory"),
        (SecretReference(credential="key"), {}, "LoadCredential=key:"),
        (
            SecretReference(credential="key"),
            {"CREDENTIALS_DIRECTORY": "/nonexistent"},
            "credential key cannot be read",
        ),
        (SecretReference(credential="../key"), {"CREDENTIALS_DIRECTORY": "/etc"}, "it holds a path"),
        (SecretReference(credential=".."), {"CREDENTIALS_DIRECTORY": "/etc"}, "it holds a path"),
    ],
)
def test_a_secret_that_cannot_be_read_is_named_by_its_reference(reference, environ, expected):
    with pytest.raises(ConfigurationInvalid, match=expected.replace("(", r"\(")):
        resolve(reference, environ)


def test_the_bytes_of_a_secret_that_is_no_text_are_not_carried_along(tmp_path):
    (tmp_path / "key").write_bytes(b"hunter2\xff")
    with pytest.raises(ConfigurationInvalid, match="is not text") as refusal:
        resolve(SecretReference(file=tmp_path / "key"), {})
    assert refusal.value.__suppress_context__
