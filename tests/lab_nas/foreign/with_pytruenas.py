"""What `pytruenas` is told by a NAS. Run by itself: what to do is JSON on stdin, what came on stdout.

It logs in by `auth.login_ex`: with the name of a key's owner, and with a password and a one-time password.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from pytruenas import Credentials, TrueNASClient, TrueNASError
from pytruenas.auth import APIKeyAuth, BasicAuth
from pytruenas.connection import dumps, loads

WITHIN = 10.0
DATASET = "tank/by-pytruenas"
REALTIME = 'reporting.realtime:{"interval":2}'


def dialled(given: dict[str, Any]) -> TrueNASClient:
    """A client that has not logged in."""
    scheme = "wss" if given["tls"] else "ws"
    verify = given["authority"] or False
    return TrueNASClient(f"{scheme}://127.0.0.1:{given['port']}", verify=verify, autologin=False)


def logged_in(given: dict[str, Any], who: Credentials) -> TrueNASClient:
    client = dialled(given)
    client.login(who, login_ex=True)
    return client


def the_visit(given: dict[str, Any]) -> dict[str, Any]:
    owner = given["username"]
    client = logged_in(given, APIKeyAuth(given["key"], owner))
    samples = client.conn.subscribe(REALTIME)
    told: dict[str, Any] = {"me": client.me()["pw_name"], "ping": client.ping()}
    told["looks like"] = type(Credentials(given["key"])).__name__
    told["queried"] = [called(client, method, params) for method, params in given["queries"]]
    told["job"] = client.api.pool.scrub.scrub("tank", "START", job=True, _timeout=WITHIN)
    told |= created_and_deleted(client)
    told["records"] = records(client)
    told["refused"] = {
        name: refusal(called, client, method, params) for name, method, params in given["refused"]
    }
    told["samples"] = events_of(samples, 2)
    closed(client)
    person = logged_in(given, BasicAuth(*given["person"]))
    told["otp"] = person.me()["pw_name"]
    closed(person)
    told["refused"] |= refused_to_others(given)
    return told


def called(client: TrueNASClient, method: str, params: list[Any]) -> Any:
    return client.conn.call(method, *params)


def created_and_deleted(client: TrueNASClient) -> dict[str, Any]:
    with client.api.pool.dataset.query.subscribe() as heard:
        made = client.api.pool.dataset._create(name=DATASET)
        events = events_of(heard, 1)
        client.api.pool.dataset.delete(DATASET)
        return {"created": made, "events": events + events_of(heard, 1)}


def records(client: TrueNASClient) -> dict[str, Any]:
    """Its own way to records: it compares what is there with what is wanted, and changes the rest."""
    datasets, shares = client.api.pool.dataset, client.api.sharing.nfs
    actions: list[str] = []

    def note(action: Any, ident: Any, record: Any) -> None:
        actions.append(action.value if action else "nothing")

    def upsert(comments: str) -> Any:
        return datasets._upsert(("name",), note, name="tank/kept", comments=comments)

    kept = [upsert("first"), upsert("second"), upsert("second")]
    datasets.delete("tank/kept")
    return {
        "actions": actions,
        "comments": [each["comments"]["value"] for each in kept],
        "share": shares._get(1),
        "no share": shares._get(99),
        "no filter matches": shares._query(path="/mnt/nowhere"),
    }


def events_of(subscription: Any, number: int) -> list[Any]:
    events = []
    for each in subscription.events(timeout=WITHIN):
        events.append(each._asdict())
        if len(events) == number:
            break
    return events


def refused_to_others(given: dict[str, Any]) -> dict[str, Any]:
    owner = given["username"]
    observer = logged_in(given, APIKeyAuth(given["observer_key"], owner))
    told = {
        "not allowed": refusal(observer.api.pool.dataset.delete, "tank/k8s"),
        "not allowed to hear": refusal(observer.conn.subscribe, "auth.sessions"),
    }
    closed(observer)
    anonymous = dialled(given)
    told["not logged in"] = refusal(anonymous.api.pool.query)
    closed(anonymous)
    for name, who in (
        ("wrong key", APIKeyAuth(given["wrong_key"], owner)),
        ("another's key", APIKeyAuth(given["key"], "somebody")),
        ("wrong otp", BasicAuth(*given["person"][:2], "000000")),
    ):
        told[name] = refusal(logged_in, given, who)
        closed()
    return told


def closed(*clients: TrueNASClient) -> None:
    """Close them, and wait until nothing of them runs.

    `close` gives a descriptor back that the reader still reads from: a TLS connection that is opened before
    the reader has noticed gets the same one, and then its handshake fails now and then.
    """
    for each in clients:
        each.close()
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(WITHIN)


def refusal(do: Any, *args: Any) -> dict[str, Any]:
    try:
        return {"class": None, "result": do(*args)}
    except TrueNASError as error:
        told = {name: getattr(error, name, None) for name in ("errno", "response_type")}
        return {"class": type(error).__name__, "text": str(error), **told}


if __name__ == "__main__":
    sys.stdout.write(dumps(the_visit(loads(sys.stdin.read()))))
