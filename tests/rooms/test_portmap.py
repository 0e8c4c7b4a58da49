"""Port mapping against a router that speaks all three protocols on loopback, honest and otherwise."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
import trio.lowlevel
from netns_kit import ip, run_in_namespace
from overlay_kit import host, until
from p2pe import config
from p2pe.errors import Unreachable
from p2pe.model import Address
from p2pe.overlay.portmap import PortMapper
from p2pe.overlay.routers import Mapping, NatPmp, Pcp, Router, Upnp
from router_kit import DESCRIPTION, FakeRouter

ANY = Address("/ip4/0.0.0.0/tcp/0")


@asynccontextmanager
async def running(router: FakeRouter) -> AsyncIterator[FakeRouter]:
    async with trio.open_nursery() as nursery:
        await nursery.start(router.run)
        yield router
        nursery.cancel_scope.cancel()


def ways(router: FakeRouter) -> dict[str, Router]:
    return {
        "PCP": Pcp("127.0.0.1", "127.0.0.1", os.urandom, router.udp_port),
        "NAT-PMP": NatPmp("127.0.0.1", router.udp_port),
        "UPnP": Upnp("127.0.0.1", None, ("127.0.0.1", router.ssdp_port)),
    }


@pytest.mark.parametrize("method", ["PCP", "NAT-PMP", "UPnP"])
async def test_a_port_is_mapped_renewed_and_given_back(method: str) -> None:
    async with running(FakeRouter(mappings={4001: 9})) as router:  # 4001 is taken, for those who can say so
        router.faults = [718] if method == "UPnP" else []
        way = ways(router)[method]
        mapping = await way.map(4001, 4001)
        assert mapping.method == method and mapping.external_ip == "5.6.7.8"
        assert mapping.external_port != 4001 and router.mappings[mapping.external_port] == 4001
        assert mapping.lifetime == config.PORT_MAPPING_SECONDS
        assert (await way.map(4001, mapping.external_port)).external_port == mapping.external_port
        await way.unmap(4001, mapping)
        assert router.mappings == {4001: 9}


@pytest.mark.parametrize("method", ["PCP", "NAT-PMP"])
async def test_datagrams_that_are_no_answer_are_waited_out(method: str) -> None:
    noise = (b"", b"\x00", b"\xff\x00" * 550, b"\x02\x81", b"\x00\x02" + bytes(14), b"\x02" + os.urandom(59))
    async with running(FakeRouter(noise=noise)) as router:
        assert (await ways(router)[method].map(4001, 4001)).external_port == 4001


async def test_a_router_that_knows_only_permanent_mappings() -> None:
    async with running(FakeRouter(faults=[725])) as router:
        assert (await ways(router)["UPnP"].map(4001, 4001)).lifetime == config.PORT_MAPPING_SECONDS
        assert router.requests.count("AddPortMapping") == 2


@pytest.mark.parametrize(
    "description",
    [
        "",
        "<root>" * 5_000,
        "<root/>",
        "<!DOCTYPE x [<!ENTITY a 'aaaa'>]>" + DESCRIPTION.partition("?>")[2],
        DESCRIPTION.replace("/ctl/IPConn", "http://192.0.2.9/ctl"),
        DESCRIPTION.replace("/ctl/IPConn", "http://[2001:db8::1"),
        DESCRIPTION.replace("/ctl/IPConn", "/a b\r\nX: y"),
        "<root>" + "<a/>" * 3_000 + DESCRIPTION.partition("?>")[2] + "</root>",
        "x" * 200_000,
    ],
    ids=[
        "empty",
        "torn",
        "no-service",
        "entities",
        "elsewhere",
        "half-an-address",
        "header-injection",
        "many-elements",
        "large",
    ],
)
async def test_a_description_that_is_no_good_is_refused(description: str) -> None:
    async with running(FakeRouter(description=description)) as router:
        with pytest.raises(Unreachable, match="UPnP"):
            await ways(router)["UPnP"].map(4001, 4001)
        assert router.requests == []


async def test_nobody_there() -> None:
    async with running(FakeRouter(speaks=frozenset())) as router:
        for way in ways(router).values():
            with pytest.raises(Unreachable):
                await way.map(4001, 4001)


@asynccontextmanager
async def mapped(router: FakeRouter, speaks: Sequence[str] = ("PCP", "NAT-PMP", "UPnP")) -> AsyncIterator[PortMapper]:
    """A node on a private address whose mapper asks `router`. In a namespace."""
    ip("addr add 192.168.7.2/24 dev lan0")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(router))
        node = await host(stack, ANY)
        mapper = PortMapper(node, lambda _: [way for name, way in ways(router).items() if name in speaks])
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        await nursery.start(mapper.run)
        yield mapper


@pytest.mark.parametrize("speaks", ["pcp", "natpmp", "upnp"])
def test_the_mapped_address_is_announced_while_it_lasts(speaks: str) -> None:
    async def story() -> None:
        router = FakeRouter(speaks=frozenset({speaks}))
        async with mapped(router) as mapper:
            await until(lambda: mapper.mapping is not None)
            port = int(mapper._host.bound_addresses()[0].rsplit("/", 1)[1])
            assert router.mappings == {port: port}
            outside = Address(f"/ip4/5.6.7.8/tcp/{port}")
            assert outside in mapper._host.listen_addresses()
            assert mapper.describe().endswith(f"at {outside}")
            ip("addr del 192.168.7.2/24 dev lan0", "addr add 6.6.6.6/24 dev lan0")  # now on a network without NAT
            await mapper._host.refresh_interfaces()
            await until(lambda: outside not in mapper._host.listen_addresses())
            await until(lambda: not router.mappings)
            assert "not needed" in mapper.problem

    run_in_namespace(story)


def test_it_is_renewed_in_time_and_given_back_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "PORT_MAPPING_MIN_SECONDS", 0.05)

    async def story() -> None:
        router = FakeRouter(lifetime=1)
        async with mapped(router) as mapper:
            await until(lambda: router.requests.count("pcp") >= 3)
            router.outside = "5.6.7.9"  # the provider gave the router another address
            await until(lambda: any("5.6.7.9" in a for a in mapper._host.listen_addresses()))
            assert not any("5.6.7.8" in a for a in mapper._host.listen_addresses())

    run_in_namespace(story)


def test_behind_a_carriers_nat_the_mapping_is_given_back_and_not_announced() -> None:
    async def story() -> None:
        router = FakeRouter(outside="100.64.3.4")
        async with mapped(router) as mapper:
            await until(lambda: "another NAT" in mapper.problem)
            assert "another NAT (100.64.3.4)" in mapper.describe()
            assert router.mappings == {} and mapper.mapping is None
            assert all("100.64" not in a for a in mapper._host.listen_addresses())

    run_in_namespace(story)


async def test_at_the_end_the_mapping_is_removed() -> None:
    removed: list[Mapping] = []

    class Way:
        async def map(self, port: int, wish: int) -> Mapping:
            return Mapping("PCP", "5.6.7.8", wish, 3600.0)

        async def unmap(self, port: int, mapping: Mapping) -> None:
            await trio.lowlevel.checkpoint()
            removed.append(mapping)

    async with AsyncExitStack() as stack:
        node = await host(stack)
        mapper = PortMapper(node, lambda _: [Way()])
        mapper._wanted = lambda: ("192.168.7.2", 4001)  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            await nursery.start(mapper.run)
            await until(lambda: mapper.mapping is not None)
            nursery.cancel_scope.cancel()
        assert [mapping.external_port for mapping in removed] == [4001]
        assert node.listen_addresses() == node.own_addresses()
