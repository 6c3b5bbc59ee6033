"""Does a host lead to the NAS it means, and to none if it could mean two?"""

from __future__ import annotations

from truetally.model import truenas
from worlds import a_pool, seen, settings, world


def two_nas(**addresses):
    return settings(
        nas=[
            {
                "name": name,
                "url": f"wss://{name}.example.com",
                "username": "u",
                "api_key": {"env": "K"},
                "addresses": addresses.get(name, []),
            }
            for name in ("nas1", "nas2")
        ],
        drivers=[],
    )


def a_system(name, *addresses, hostname=""):
    return seen(truenas.System("25.10", hostname, addresses), source=name)


def test_a_nas_is_known_by_its_url_its_configured_and_its_own_addresses():
    config = two_nas(nas1=["10.0.0.10"])
    in_world = world(a_pool(), a_system("nas1", "10.0.0.11", hostname="Filer"), config=config)
    hosts = ["nas1.example.com", "10.0.0.10", "10.0.0.11", "filer"]
    assert [in_world.nas_at([host]) for host in hosts] == ["nas1"] * 4
    assert in_world.nas_at(["192.0.2.1"]) is None


def test_an_address_that_two_nas_have_leads_to_none():
    in_world = world(a_system("nas1", "172.16.0.1"), a_system("nas2", "172.16.0.1"), config=two_nas())
    assert in_world.nas_at(["172.16.0.1"]) is None


def test_what_the_operator_says_goes_before_what_the_nas_say():
    both = (a_system("nas1", "10.0.0.10"), a_system("nas2", "10.0.0.10"))
    assert world(*both, config=two_nas(nas2=["10.0.0.10"])).nas_at(["10.0.0.10"]) == "nas2"


def test_a_machines_own_loopback_and_link_local_addresses_lead_nowhere():
    in_world = world(a_system("nas1", "127.0.0.1", "::1", "169.254.10.1", "fe80::1"), config=two_nas())
    assert [in_world.nas_at([h]) for h in ("127.0.0.1", "::1", "169.254.10.1", "fe80::1")] == [None] * 4
