"""Default gateways from the kernel's tables: as Linux 6 prints them, and torn."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from p2pe.core.gateways import ipv4_gateways, ipv6_gateways

ROUTE = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
wlan0	00000000	0101A8C0	0003	0	0	600	00000000	0	0	0
eth0	00000000	0200000A	0003	0	0	100	00000000	0	0	0
eth0	0000000A	00000000	0001	0	0	100	00FFFFFF	0	0	0
tun0	00000000	00000000	0001	0	0	50	00000000	0	0	0
"""
ZEROS = "0" * 32
ROUTE6 = f"""\
{ZEROS} 00 {ZEROS} 00 fe80000000000000021122fffe334455 00000400 00000001 00000000 00000003 eth0
fe800000000000000000000000000000 40 {ZEROS} 00 {ZEROS} 00000100 00000001 00000000 00000001 eth0
{ZEROS} 00 {ZEROS} 00 {ZEROS} ffffffff 00000001 00000000 00200200 lo
"""


def test_the_lowest_metric_comes_first() -> None:
    assert ipv4_gateways(ROUTE) == ("10.0.0.2", "192.168.1.1")
    assert ipv6_gateways(ROUTE6) == ("fe80::211:22ff:fe33:4455%eth0",)


def test_no_gateway() -> None:
    assert ipv4_gateways("") == () and ipv6_gateways("") == ()
    assert ipv4_gateways(ROUTE.splitlines()[0]) == ()


@given(st.text(), st.integers(0, 400))
def test_torn_tables_are_no_error(noise: str, cut: int) -> None:
    for read, table in ((ipv4_gateways, ROUTE), (ipv6_gateways, ROUTE6)):
        read(table[:cut] + noise)
