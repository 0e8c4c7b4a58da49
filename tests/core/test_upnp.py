"""UPnP gateways: a search's answers, descriptions and faults, as routers send them and as strangers might."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from p2pe.core import upnp
from p2pe.core.upnp import Control, SoapFault
from p2pe.errors import RemoteError

SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"
DESCRIPTION = f"""<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><!-- a comment -->
<device><serviceList><service><serviceType>{SERVICE}</serviceType><controlURL>ctl/IP</controlURL></service>
</serviceList></device></root>""".encode()
FAULT = b"""<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>s:Client</faultcode>
<detail><UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>718</errorCode></UPnPError></detail></s:Fault>
</s:Body></s:Envelope>"""
PLACE = ("192.168.1.1", 5000, "/dir/desc.xml")


def answer(location: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nST: x\r\nlocation: {location}\r\n\r\n".encode()


def test_a_description_is_asked_for_where_the_answer_came_from_and_nowhere_else() -> None:
    found = upnp.location_of(answer("http://192.168.1.1:5000/dir/desc.xml?a=b"), "192.168.1.1")
    assert found == ("192.168.1.1", 5000, "/dir/desc.xml?a=b")
    for location in (
        "http://192.168.1.9:5000/",
        "http://router.example/",
        "https://192.168.1.1/",
        "http://192.168.1.1:99999/",
        "http://192.168.1.1/a b",
        "http://192.168.1.1/" + "x" * 600,
        "http://[::1/",
        "",
    ):
        assert upnp.location_of(answer(location), "192.168.1.1") is None
    assert upnp.location_of(b"NOTIFY * HTTP/1.1\r\nLOCATION: http://192.168.1.1/\r\n\r\n", "192.168.1.1") is None


def test_the_control_address_is_relative_to_the_description_or_its_base() -> None:
    assert upnp.control_of(DESCRIPTION, PLACE) == Control("192.168.1.1", 5000, "/dir/ctl/IP", SERVICE)
    based = DESCRIPTION.replace(b"<device>", b"<URLBase>http://192.168.1.1:80/</URLBase><device>", 1)
    assert upnp.control_of(based, PLACE) == Control("192.168.1.1", 80, "/ctl/IP", SERVICE)
    with pytest.raises(RemoteError):
        upnp.control_of(DESCRIPTION.replace(b"ctl/IP", b"http://192.168.1.2/"), PLACE)


def test_entities_are_refused_in_every_encoding() -> None:
    bomb = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'
    for text in (bomb.encode(), bomb.encode("utf-16"), bomb.encode("utf-8-sig")):
        with pytest.raises(RemoteError, match="declarations"):
            upnp.control_of(text, PLACE)


def test_an_order_escapes_what_it_says() -> None:
    request = upnp.order(Control("192.168.1.1", 80, "/c", SERVICE), "AddPortMapping", {"NewInternalClient": "<&>"})
    head, _, body = request.partition(b"\r\n\r\n")
    assert b"&lt;&amp;&gt;" in body and f"Content-Length: {len(body)}".encode() in head


def test_results_and_faults() -> None:
    ok = b"HTTP/1.1 200 OK\r\n\r\n<r><NewExternalIPAddress> 192.0.2.1 </NewExternalIPAddress></r>"
    assert upnp.result_of(ok, "NewExternalIPAddress") == "192.0.2.1"
    assert upnp.result_of(ok, "Other") == ""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\n<r><a\r\nb\r\n>1</a></r>  \r\n0\r\n\r\n"
    assert upnp.result_of(chunked, "a") == "1"
    with pytest.raises(SoapFault) as caught:
        upnp.result_of(b"HTTP/1.1 500 Internal\r\n\r\n" + FAULT, "x")
    assert caught.value.number == upnp.CONFLICT
    with pytest.raises(SoapFault):
        upnp.result_of(b"HTTP/1.1 401 No\r\n\r\n", "x")


@given(st.binary(max_size=300), st.integers(0, 500), st.integers(0, 500))
def test_torn_answers_are_refused_or_read(noise: bytes, cut: int, at: int) -> None:
    chunked = b"HTTP/1.1 200\r\ntransfer-encoding: chunked\r\n\r\n"
    for raw in (noise, b"HTTP/1.1 200 OK\r\n\r\n" + FAULT[:cut] + noise, chunked + noise):
        try:
            upnp.result_of(raw, "x")
        except RemoteError:
            pass
    upnp.location_of(noise, "192.168.1.1")
    upnp.location_of(answer("http://192.168.1.1/")[:at] + noise, "192.168.1.1")
    try:
        upnp.control_of(DESCRIPTION[:at] + noise, PLACE)
    except RemoteError:
        pass
