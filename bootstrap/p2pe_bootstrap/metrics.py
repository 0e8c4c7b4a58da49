"""Prometheus metrics, and the small HTTP answer that carries them (Prometheus text exposition format).

Nothing here can tell one peer from another: sums and sizes only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict

import trio
from p2pe.overlay.host import OverlayHost
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from p2pe_bootstrap.services import Services

_REQUEST_BYTES = 4_096  # a scraper's request takes a few hundred
_REQUEST_SECONDS = 5.0
_CONNECTIONS = 8  # scrapers at once


class NodeCollector(Collector):
    """Reads the counters when scraped."""

    def __init__(self, host: OverlayHost, services: Services, started_at: float) -> None:
        self._host = host
        self._services = services
        self._started_at = started_at

    def collect(self) -> Iterable[Metric]:
        stats = self._services.dht.stats()
        yield GaugeMetricFamily("p2pe_start_time_seconds", "Unix time of the start", value=self._started_at)
        yield GaugeMetricFamily("p2pe_connections", "Connections open", value=len(self._host.connections()))
        yield GaugeMetricFamily("p2pe_dht_peers", "Servers in the routing table", value=stats.peers)
        yield GaugeMetricFamily("p2pe_dht_live_peers", "Of them, those that answered when asked last", value=stats.live)
        yield GaugeMetricFamily("p2pe_dht_records", "Address records kept for others", value=stats.records)
        buckets = GaugeMetricFamily("p2pe_dht_bucket_peers", "Servers in a bucket of the table", labels=["bucket"])
        for bucket in stats.buckets:
            buckets.add_metric([str(bucket.number)], bucket.entries)
        yield buckets
        yield _counter("p2pe_dht_served", "Requests answered or refused, by kind", asdict(stats.served))
        yield _counter("p2pe_dht_client", "Requests and bytes of our own", asdict(stats.traffic))
        lookups = {"ok": stats.lookups - stats.lookups_failed, "failed": stats.lookups_failed}
        yield _counter("p2pe_dht_lookups", "Lookups of our own", lookups)
        relay = self._services.relay.metrics.as_dict()
        for present in ("reservations", "circuits"):
            text = f"Relay {present} held now"
            yield GaugeMetricFamily(f"p2pe_relay_{present}", text, value=relay.pop(present))
        yield _counter("p2pe_relay_events", "Events and bytes of the relay, by kind", relay)
        yield _counter("p2pe_host", "Events of the host, by kind", self._host.metrics.as_dict())


def _counter(name: str, text: str, values: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=["kind"])
    for kind, value in values.items():
        family.add_metric([kind], value)
    return family


def exposition(collector: Collector) -> Callable[[], bytes]:
    registry = CollectorRegistry()
    registry.register(collector)
    return lambda: generate_latest(registry)


async def serve_metrics(listeners: list[trio.SocketListener], render: Callable[[], bytes]) -> None:
    """Answers `GET /metrics` until cancelled, one request a connection, a few connections at once."""
    places = trio.Semaphore(_CONNECTIONS)

    async def answer(stream: trio.SocketStream) -> None:
        async with places:
            with trio.move_on_after(_REQUEST_SECONDS):
                try:
                    await _answer(stream, render)
                except trio.BrokenResourceError:
                    pass  # the scraper left
            await trio.aclose_forcefully(stream)

    await trio.serve_listeners(answer, listeners)


async def _answer(stream: trio.SocketStream, render: Callable[[], bytes]) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        piece = await stream.receive_some(_REQUEST_BYTES)
        request += piece
        if not piece or len(request) > _REQUEST_BYTES:
            return
    method, target, *_ = [*request.split(b" ", 2), b"", b""]
    if method == b"GET" and target.partition(b"?")[0] == b"/metrics":
        head, body = b"200 OK", render()
    else:
        head, body = b"404 Not Found", b"only GET /metrics\n"
    await stream.send_all(
        b"HTTP/1.1 %b\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
        b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (head, len(body), body)
    )
    await stream.send_eof()
