"""NAT-PMP and PCP messages: laid out by hand from the RFCs' figures, and torn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from p2pe.core import natpmp
from p2pe.core.natpmp import Granted, OtherVersion, Refused
from p2pe.errors import RemoteError

NONCE = bytes(range(12))
MAPPED = "00000000000000000000ffff"  # ::ffff:0:0/96
PCP_ANSWER = bytes.fromhex(
    "0281000000000e1000000005" + "00" * 12 + NONCE.hex() + "060000000fa11388" + MAPPED + "c0000201"
)


def test_requests_have_the_layout_of_the_rfcs() -> None:
    assert natpmp.address_request() == bytes.fromhex("0000")  # RFC 6886 section 3.2
    assert natpmp.map_request(4001, 5000, 3600) == bytes.fromhex("000200000fa1138800000e10")  # 3.3
    head, body = "0201000000000e10" + MAPPED + "c0a80702", "060000000fa11388" + MAPPED + "00000000"
    expected = head + NONCE.hex() + body
    made = natpmp.pcp_request("192.168.7.2", NONCE, 4001, 5000, 3600)  # RFC 6887 sections 7.1 and 11.1
    assert made == bytes.fromhex(expected) and len(made) == 60


def test_answers_are_read() -> None:
    assert natpmp.read_address(bytes.fromhex("0080000000000005c0000201")) == "192.0.2.1"
    answer = bytes.fromhex("00820000000000050fa1138800000e10")
    assert natpmp.read_mapping(answer, 4001) == Granted(5000, 3600)
    assert natpmp.read_pcp(PCP_ANSWER, NONCE, 4001) == Granted(5000, 3600, "192.0.2.1")


@pytest.mark.parametrize("result", [2, 3, 4, 5, 99])
def test_refusals_say_why(result: int) -> None:
    with pytest.raises(Refused):
        natpmp.read_mapping(b"\x00\x82" + result.to_bytes(2, "big") + bytes(12), 4001)
    with pytest.raises(Refused):
        natpmp.read_pcp(PCP_ANSWER[:3] + bytes((result,)) + PCP_ANSWER[4:], NONCE, 4001)


def test_an_older_router_is_known_by_its_answer() -> None:
    with pytest.raises(OtherVersion):
        natpmp.read_pcp(bytes.fromhex("0081000100000000"), NONCE, 4001)
    with pytest.raises(OtherVersion):
        natpmp.read_mapping(b"\x00\x82\x00\x01" + bytes(12), 4001)


def test_answers_to_others_are_not_ours() -> None:
    with pytest.raises(RemoteError):
        natpmp.read_pcp(PCP_ANSWER, bytes(12), 4001)
    with pytest.raises(RemoteError):
        natpmp.read_pcp(PCP_ANSWER, NONCE, 4002)
    with pytest.raises(RemoteError):
        natpmp.read_mapping(bytes.fromhex("00820000000000050fa2138800000e10"), 4001)


@given(st.binary(max_size=80), st.integers(0, 60))
def test_torn_answers_are_refused_or_read(noise: bytes, cut: int) -> None:
    for answer in (noise, PCP_ANSWER[:cut] + noise, bytes.fromhex("00820000")[: cut % 5] + noise):
        for read in (
            natpmp.read_address,
            lambda each: natpmp.read_mapping(each, 4001),
            lambda each: natpmp.read_pcp(each, NONCE, 4001),
        ):
            try:
                read(answer)
            except RemoteError:
                pass
