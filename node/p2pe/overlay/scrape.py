"""Metrics for Prometheus: a small HTTP answer to `GET /metrics` in its text format, and the families that a bootstrap
node and a person's node have in common.

Nothing here can tell one peer from another: sums and sizes only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from p2pe import config
from p2pe.errors import LocalError, StorageError

Render = Callable[[], Awaitable[Iterable[Metric]]]
"""Looks at the node and says its metrics. May raise StorageError."""


async def bind_metrics(host: str, port: int) -> list[trio.SocketListener]:
    """Raises LocalError."""
    try:
        return list(await trio.open_tcp_listeners(port, host=host))
    except OSError as error:
        raise LocalError(f"can't serve metrics on {host}:{port}: {error.strerror or error}") from None


async def serve_metrics(listeners: list[trio.SocketListener], render: Render) -> None:
    """Answers until cancelled, one request a connection. Beyond SCRAPE_CONNECTIONS at once they are closed unheard:
    those who wait would each hold a socket."""
    places = trio.Semaphore(config.SCRAPE_CONNECTIONS)

    async def answer(stream: trio.SocketStream) -> None:
        try:
            places.acquire_nowait()
        except trio.WouldBlock:
            await trio.aclose_forcefully(stream)
            return
        try:
            with trio.move_on_after(config.SCRAPE_SECONDS):
                await _answer(stream, render)
        except trio.BrokenResourceError:
            pass  # the scraper left
        finally:
            places.release()
            await trio.aclose_forcefully(stream)

    await trio.serve_listeners(answer, listeners)


async def _answer(stream: trio.SocketStream, render: Render) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        piece = await stream.receive_some(config.SCRAPE_BYTES)
        request += piece
        if not piece or len(request) > config.SCRAPE_BYTES:
            return
    method, target, *_ = [*request.split(b" ", 2), b"", b""]
    if method == b"GET" and target.partition(b"?")[0] == b"/metrics":
        head, body = await _metrics(render)
    else:
        head, body = b"404 Not Found", b"only GET /metrics\n"
    await stream.send_all(
        b"HTTP/1.1 %b\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
        b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (head, len(body), body)
    )
    await stream.send_eof()


async def _metrics(render: Render) -> tuple[bytes, bytes]:
    try:
        families = await render()
    except StorageError as problem:
        return b"503 Service Unavailable", f"{problem}\n".encode()
    registry = CollectorRegistry()
    registry.register(_Given(families))
    return b"200 OK", generate_latest(registry)


class _Given(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = tuple(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


# --- what every node of the overlay has ---


def overlay_families(started_at: float, connections: int, directory: Mapping[str, Any]) -> Iterable[Metric]:
    """`started_at`: Unix seconds. `directory`: what DhtView.health says."""
    yield GaugeMetricFamily("p2pe_start_time_seconds", "Unix time of the start", value=started_at)
    yield GaugeMetricFamily("p2pe_connections", "Connections open", value=connections)
    yield GaugeMetricFamily("p2pe_dht_peers", "Servers in the routing table", value=directory["servers_known"])
    yield GaugeMetricFamily(
        "p2pe_dht_live_peers", "Of them, those that answered when asked last", value=directory["servers_live"]
    )
    yield GaugeMetricFamily("p2pe_dht_records", "Address records kept for others", value=directory["records_stored"])
    buckets = {str(each["number"]): each["servers"] for each in directory["buckets"]}
    yield gauges("p2pe_dht_bucket_peers", "Servers in a bucket of the table", "bucket", buckets)
    yield counters("p2pe_dht_served", "Requests answered or refused, by kind", directory["served"])
    yield counters("p2pe_dht_client", "Requests and bytes of our own", directory["traffic"])
    failed = directory["lookups_failed"]
    yield counters("p2pe_dht_lookups", "Lookups of our own", {"ok": directory["lookups"] - failed, "failed": failed})


def counters(name: str, text: str, values: Mapping[str, float]) -> Metric:
    """One that only grows, for each `kind`."""
    family = CounterMetricFamily(name, text, labels=["kind"])
    for kind, value in values.items():
        family.add_metric([kind], value)
    return family


def gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for kind, value in values.items():
        family.add_metric([kind], value)
    return family
