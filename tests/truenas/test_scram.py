"""SCRAM-SHA-512: does the client prove that it knows the key, and does it believe only who knows it, too?"""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from truetally.sources.truenas.scram import ScramClient, ScramMistrust

KEY = "7-VqZfWCloeIoYsJbquX7BGaD45JBtOUx0NFHxg5ll7e4QLH1cG5XTtdGU0KbBxxRL"
NONCE, THEIRS, SALT = bytes(range(32)), bytes(range(100, 132)), b"a salt of 16 byt"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Server:
    """The other half, written from RFC 5802: it only knows what a server stores."""

    def __init__(self, key: str = KEY, rounds: int = 50_000) -> None:
        salted = hashlib.pbkdf2_hmac("sha512", key.split("-", 1)[1].encode(), SALT, rounds)
        self.stored = hashlib.sha512(hmac.digest(salted, b"Client Key", "sha512")).digest()
        self.server_key = hmac.digest(salted, b"Server Key", "sha512")
        self.rounds = rounds

    def first(self, client_first: str) -> str:
        assert client_first.startswith("n,,")
        self.bare = client_first[3:]
        nonce = base64.b64decode(self.bare.partition(",r=")[2])
        self.said = f"r={b64(nonce + THEIRS)},s={b64(SALT)},i={self.rounds}"
        return self.said

    def final(self, client_final: str) -> str | None:
        without, _, proof = client_final.rpartition(",p=")
        message = f"{self.bare},{self.said},{without}".encode()
        signature = hmac.digest(self.stored, message, "sha512")
        key = bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature, strict=True))
        if hashlib.sha512(key).digest() != self.stored:
            return None
        return f"v={b64(hmac.digest(self.server_key, message, 'sha512'))}"


def test_the_first_message_names_the_user_and_the_number_of_the_key():
    assert ScramClient("root", KEY, NONCE).first() == f"n,,n=root:7,r={b64(NONCE)}"


def test_a_name_with_signs_of_the_protocol_is_escaped():
    assert ScramClient("a,b=c", KEY, NONCE).first().startswith("n,,n=a=2Cb=3Dc:7,r=")


def test_the_key_is_never_sent():
    client, server = ScramClient("root", KEY), Server()
    sent = client.first()
    sent += client.final(server.first(sent))
    assert KEY.split("-", 1)[1] not in sent


def test_both_sides_are_convinced():
    client, server = ScramClient("root", KEY), Server()
    answer = server.final(client.final(server.first(client.first())))
    assert answer is not None
    client.verify(answer)


def test_a_wrong_key_convinces_nobody():
    client, server = ScramClient("root", "7-wrong"), Server()
    assert server.final(client.final(server.first(client.first()))) is None


def test_a_server_that_does_not_know_the_key_is_found_out():
    client, impostor = ScramClient("root", KEY), Server("7-something else")
    client.final(impostor.first(client.first()))
    with pytest.raises(ScramMistrust, match="is it the right machine"):
        client.verify(f"v={b64(bytes(64))}")


def test_no_final_message_is_believed_before_ours():
    with pytest.raises(ScramMistrust):
        ScramClient("root", KEY).verify("v=")


def server_first(nonce: bytes = NONCE + THEIRS, salt: str = b64(SALT), rounds: object = 50_000) -> str:
    return f"r={b64(nonce)},s={salt},i={rounds}"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (server_first(nonce=bytes(64)), "somebody else's nonce"),
        (server_first(nonce=NONCE), "somebody else's nonce"),
        (server_first(rounds=1), "rounds of hashing"),
        (server_first(rounds=10**9), "rounds of hashing"),
        (server_first(rounds="many"), "not SCRAM"),
        (server_first(salt="***"), "broken base64"),
        ("e=other-error", "not SCRAM"),
        ("", "not SCRAM"),
    ],
)
def test_an_answer_that_no_honest_server_gives_is_not_worked_on(said, told):
    with pytest.raises(ScramMistrust, match=told):
        ScramClient("root", KEY, NONCE).final(said)


@pytest.mark.parametrize("key", ["", "nokey", "-x", "7-", "a-b"])
def test_what_is_no_key_is_refused_without_showing_it(key):
    with pytest.raises(ValueError, match="looks like 7-"):
        ScramClient("root", key)
