"""What a person's node tells Prometheus, when asked to (`p2pe run --metrics`): numbers, and no names.

Other users of this machine can read a loopback port: how many contacts there are and how much is written is all that
they learn.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

import trio
from prometheus_client.core import GaugeMetricFamily, Metric

from p2pe.control.services import Services
from p2pe.model import MessageState, PathKind
from p2pe.overlay.scrape import bind_metrics, gauges, overlay_families, serve_metrics

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

_WAITING: Final = (MessageState.QUEUED, MessageState.OFFERED, MessageState.HELD_IDENTITY)


async def run_metrics(
    services: Services, host: str, port: int, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serves until cancelled. Raises LocalError when it can't listen there."""
    listeners = await bind_metrics(host, port)
    task_status.started()
    await serve_metrics(listeners, partial(families, services))


async def families(services: Services) -> Iterable[Metric]:
    """All metrics, as they are now. Raises StorageError."""
    people = await services.book.list()
    counts = await services.outbox.counts()
    unread = await services.inbox.unread_count()
    oldest = await services.outbox.oldest_waiting()
    paths = dict.fromkeys((str(each) for each in PathKind), 0)
    for each in people:
        if (path := services.links.reachability(each.id).path) is not None:
            paths[path] += 1
    age = 0.0 if oldest is None else max(0.0, (services.now() - oldest) / 1000)
    overlay = services.overlay()
    reachable = overlay["reachability"]["reachable"]
    return [
        *overlay_families(services.started_at / 1000, overlay["connections"], services.directory.health()),
        gauges("p2pe_reachable", "1 for how strangers reach this node", "how",
               {how: float(how == reachable) for how in ("public", "private", "unknown")}),
        GaugeMetricFamily("p2pe_relays", "Relays where others reach us", value=len(overlay["reachability"]["relays"])),
        GaugeMetricFamily("p2pe_contacts", "Contacts", value=len(people)),
        gauges("p2pe_contact_links", "Contacts connected, by path", "path", paths),
        gauges("p2pe_messages", "Messages of ours that aren't delivered, by state", "state",
               {str(state): counts.get(state, 0) for state in _WAITING}),
        GaugeMetricFamily("p2pe_oldest_message_seconds", "Age of the oldest one that waits; 0: none does", value=age),
        GaugeMetricFamily("p2pe_unread_messages", "Messages to us that aren't marked as read", value=unread),
    ]  # fmt: skip
