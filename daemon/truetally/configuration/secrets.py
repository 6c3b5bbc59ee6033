"""Secrets, read from where the configuration says they stand, and shown nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from truetally.errors import ConfigurationInvalid
from truetally.settings import SecretReference


def resolve(reference: SecretReference, environ: Mapping[str, str]) -> str:
    """The secret itself; ConfigurationInvalid names the reference and never what it holds."""
    if reference.value is not None:
        return reference.value
    if reference.env is not None:
        return _from_environment(reference.env, environ)
    if reference.credential is not None:
        return _from_credential(reference.credential, environ)
    assert reference.file is not None  # noqa: S101 - SecretReference holds exactly one
    return _from_file(reference.file, f"secret file {reference.file}")


def _from_environment(name: str, environ: Mapping[str, str]) -> str:
    secret = environ.get(name, "")
    if not secret:
        state = "empty" if name in environ else "not set"
        raise ConfigurationInvalid(f"environment variable {name} is {state}, and a secret should stand there")
    return secret


def _from_credential(name: str, environ: Mapping[str, str]) -> str:
    if "/" in name or name in {".", ".."}:
        raise ConfigurationInvalid(f"credential {name} is no name of a systemd credential: it holds a path")
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise ConfigurationInvalid(
            f"credential {name} cannot be read: systemd gave this process no credentials; "
            f"put LoadCredential={name}:/path/of/the/secret into the unit"
        )
    return _from_file(Path(directory, name), f"credential {name}")


def _from_file(path: Path, what: str) -> str:
    try:
        secret = path.read_bytes().decode().rstrip("\r\n")
    except UnicodeDecodeError:
        # Not chained: the original carries the bytes of the secret.
        raise ConfigurationInvalid(f"{what} is not text") from None
    except OSError as error:
        raise ConfigurationInvalid(f"{what} cannot be read: {error.strerror}") from error
    if not secret:
        raise ConfigurationInvalid(f"{what} is empty")
    return secret
