"""What a bootstrap node tells Prometheus (p2pe.overlay.scrape)."""

from __future__ import annotations

from collections.abc import Iterable

from p2pe.overlay.dht_view import DhtView
from p2pe.overlay.host import OverlayHost
from p2pe.overlay.scrape import counters, overlay_families
from prometheus_client.core import GaugeMetricFamily, Metric

from p2pe_bootstrap.services import Services


class NodeMetrics:
    """Reads the counters when scraped."""

    def __init__(self, host: OverlayHost, services: Services, started_at: float) -> None:
        self._host = host
        self._relay = services.relay
        self._directory = DhtView(services.dht)
        self._started_at = started_at

    async def render(self) -> Iterable[Metric]:
        return [
            *overlay_families(self._started_at, len(self._host.connections()), self._directory.health()),
            *self._of_a_server(),
        ]

    def _of_a_server(self) -> Iterable[Metric]:
        relay = self._relay.metrics.as_dict()
        for present in ("reservations", "circuits"):
            text = f"Relay {present} held now"
            yield GaugeMetricFamily(f"p2pe_relay_{present}", text, value=relay.pop(present))
        yield counters("p2pe_relay_events", "Events and bytes of the relay, by kind", relay)
        yield counters("p2pe_host", "Events of the host, by kind", self._host.metrics.as_dict())
