"""Which of our addresses is told to strangers."""

import pytest

from covenantd.addresses import most_reachable

ME = "/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo"
LOOP, LAN, CARRIER = "/ip4/127.0.0.1/tcp/31330", "/ip4/192.168.1.7/tcp/31330", "/ip4/100.64.0.9/tcp/31330"
WORLD, WORLD6 = "/ip4/8.8.4.4/tcp/31330", "/ip6/2001:4860:4860::8888/tcp/31330"
LOOP6, LINK6, LAN6 = "/ip6/::1/tcp/31330", "/ip6/fe80::1/tcp/31330", "/ip6/fd00::1/tcp/31330"
NAME = "/dns4/peer.example.org/tcp/31330"
RELAYED = f"{WORLD}/p2p/12D3KooWBmAwcd4PJNJvfV89HwE48nwkRmAgo8Vy3uQEyNNHBox2/p2p-circuit{ME}"


@pytest.mark.parametrize(
    ("addresses", "announced", "chosen"),
    [
        ([LOOP, LAN, WORLD], [], WORLD),
        ([LOOP, LAN, WORLD], [NAME], NAME),
        ([LOOP, LAN, WORLD], [LAN + ME, WORLD], LAN),  # whoever announces knows why
        ([LOOP, LAN], [], LAN),
        ([LOOP, CARRIER, LOOP6], [], CARRIER),
        ([LOOP6, LINK6, LAN6], [], LAN6),
        ([LOOP6, LINK6], [], LINK6),
        ([LAN6, WORLD6, WORLD], [], WORLD6),  # the first of equals
        ([LOOP, NAME], [], NAME),
        ([LOOP6, LOOP], [], LOOP6),  # a swarm on one host
        ([LOOP, RELAYED], [], LOOP),
        ([RELAYED, LAN], [RELAYED], LAN),
        ([RELAYED], [], ""),
        ([], [], ""),
    ],
)
def test_the_widest_reach_wins(addresses: list[str], announced: list[str], chosen: str) -> None:
    own = [one if one.endswith(ME) else one + ME for one in addresses]
    assert most_reachable(own, announced) == chosen
