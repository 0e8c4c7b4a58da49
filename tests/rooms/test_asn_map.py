"""The map of autonomous systems: ranges from a file, and what the directory makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from p2pe.core.kademlia.diversity import groups_of
from p2pe.errors import UsageError
from p2pe.model import Address
from p2pe.overlay.asn_map import load_asn_map

TABLE = """\
# first\tlast\tAS
8.8.8.0\t8.8.8.255\t15169\tUS\tGOOGLE
1.0.0.0\t1.0.0.255\t13335\tUS\tCLOUDFLARENET
1.0.1.0\t1.0.3.255\t0\tNone\tNot routed

2001:4860::\t2001:4860:ffff:ffff:ffff:ffff:ffff:ffff\t15169\tUS\tGOOGLE
"""


def at(ip: str) -> Address:
    return Address(f"/ip{6 if ':' in ip else 4}/{ip}/tcp/4001")


def test_addresses_are_found_in_their_ranges(tmp_path: Path) -> None:
    path = tmp_path / "asn.tsv"
    path.write_text(TABLE)
    asn_of = load_asn_map(path)
    assert len(asn_of) == 4
    for ip, number in (
        ("8.8.8.0", 15169), ("8.8.8.255", 15169), ("8.8.9.0", None), ("8.8.7.255", None), ("1.0.0.7", 13335),
        ("1.0.1.0", None), ("0.0.0.0", None), ("255.255.255.255", None), ("2001:4860::8888", 15169),
        ("2001:4860:ffff:ffff::1", 15169), ("2001:4861::1", None), ("::1", None),
    ):  # fmt: skip
        assert asn_of(at(ip)) == number, ip
    assert asn_of(Address("/dns4/example.org/tcp/1")) is None
    assert groups_of(at("8.8.8.8"), asn_of)[-1] == b"asn:" + (15169).to_bytes(4, "big")
    assert len(groups_of(at("8.8.9.8"), asn_of)) == 1  # its /24 alone


@pytest.mark.parametrize(
    "line",
    ["8.8.8.0", "8.8.8.0\t8.8.8.255", "8.8.8.9\t8.8.8.1\t5", "8.8.8.0\t::1\t5", "a\tb\t5", "1.1.1.1\t1.1.1.2\t-1"],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "asn.tsv"
    path.write_text(f"{TABLE}{line}\n")
    with pytest.raises(UsageError, match="line 7"):
        load_asn_map(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.tsv can't be read"):
        load_asn_map(tmp_path / "gone.tsv")
