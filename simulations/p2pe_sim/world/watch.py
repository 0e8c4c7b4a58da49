"""The observer of a run: the ledger of messages, the invariants, the event log, counts and curves."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio
from p2pe.errors import P2peError
from p2pe.overlay.noise import SecureStream
from p2pe.ports import Link

from p2pe_sim.invariants.findings import Findings
from p2pe_sim.invariants.messages import Ledger
from p2pe_sim.invariants.secrecy import Secrecy, scan_opened
from p2pe_sim.world.log import EventLog
from p2pe_sim.world.observe import ContactRow
from p2pe_sim.world.wire import Pipe

if TYPE_CHECKING:
    from p2pe_bootstrap.services import Services as ServerServices

    from p2pe_sim.world.person import Person
    from p2pe_sim.world.server import Server

SAMPLE_SECONDS: Final = 1.0  # between two points of a curve


class Watch:
    """One a run."""

    def __init__(self, log: EventLog, findings: Findings, ledger: Ledger) -> None:
        self.log = log
        self.findings = findings
        self.ledger = ledger
        self.secrecy: Secrecy
        self.people: dict[str, Person] = {}
        self.counts: dict[str, int] = {}
        self.series: dict[str, list[tuple[float, float]]] = {}
        self._links: dict[str, int] = {}  # path -> live links, counted at both ends

    def count(self, name: str, by: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + by

    # --- nodes ---

    def started(self, person: Person) -> None:
        self.log.add("start", node=person.name)
        self.count("starts")

    def died(self, node: Person | Server, group: BaseExceptionGroup[Exception], had_started: bool) -> None:
        """A node ended by an exception: one that says why it can't start is no defect (a full disk), all others are."""
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if not had_started and isinstance(first, P2peError):
            self.log.add("start_failed", node=node.name, problem=str(first))
            self.count("failed_starts")
            return
        self.log.add("died", node=node.name, problem=type(first).__name__)
        self.findings.add("no-defects", f"{node.name}'s node ended: {_described(group)}", node.name)

    def server_started(self, server: Server, services: ServerServices) -> None:
        self.log.add("start", node=server.name)
        store: Any = services.dht.server._store
        put = store.put

        def observed(key: bytes, raw: bytes, **options: Any) -> None:
            put(key, raw, **options)
            self.count("records_stored")
            self.secrecy.on_stored(server.name, key, raw, server.clock.now())

        store.put = observed

    def contact_changed(self, person: Person, row: ContactRow) -> None:
        """Whoever knows a pair's secrets can tell its address records from anything else."""
        for secret in filter(None, (row.pair_secret, row.next_secret)):
            own = person.identity.identity_key
            self.secrecy.book.learn_pair(person.name, own, row.identity_key, secret)

    # --- links ---

    def link_changed(self, person: Person, link: Link, *, is_up: bool) -> None:
        path = str(link.path)
        peer = next(
            (each.name for each in self.people.values() if each.identity.identity_key == link.peer_identity), "?"
        )
        self.log.add("link_up" if is_up else "link_down", node=person.name, peer=peer, path=path)
        self._links[path] = self._links.get(path, 0) + (1 if is_up else -1)
        if is_up:
            self.count("links")
            self.count(f"{path}_links")

    # --- curves ---

    async def sample(self, connections: Any) -> None:
        """Curves over time, until cancelled."""
        while True:
            now = trio.current_time()
            self._point("connections", now, connections())
            for path, count in self._links.items():
                self._point(f"path/{path}", now, count / 2)
            for state, count in self.ledger.in_state().items():
                self._point(f"state/{state}", now, count)
            await trio.sleep(SAMPLE_SECONDS)

    def _point(self, name: str, at: float, value: float) -> None:
        points = self.series.setdefault(name, [])
        if len(points) >= 2 and points[-1][1] == points[-2][1] == value:
            points[-1] = (at, value)
        else:
            points.append((at, value))

    # --- taps ---

    def on_bytes(self, pipe: Pipe, data: bytes) -> None:
        self.log.bytes_on_wire(pipe.number, len(data))
        self.secrecy.on_wire(pipe, data)

    @contextmanager
    def tapped(self) -> Iterator[None]:
        """Inside the block, what SecureStreams decrypt and what nodes log is seen."""
        opened: Any = SecureStream._open
        watch = self

        def observed(stream: SecureStream) -> bytes:
            data: bytes = opened(stream)
            if data:
                scan_opened(stream, data, watch.secrecy)
            return data

        SecureStream._open = observed  # type: ignore[method-assign,assignment]
        before = structlog.get_config()
        structlog.configure(
            processors=[self._logged],
            wrapper_class=structlog.make_filtering_bound_logger(30),
            cache_logger_on_first_use=False,
        )
        try:
            yield
        finally:
            SecureStream._open = opened  # type: ignore[method-assign]
            structlog.configure(**before)

    def _logged(self, _logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        text = str(event.get("event"))
        self.count(f"logged_{method}")
        if event.get("exc_info") is not None and method in ("error", "critical", "exception"):
            defect = event["exc_info"]
            self.findings.add("no-defects", f"{text}: {_described(defect)}")
        raise structlog.DropEvent


def _described(defect: object) -> str:
    """The innermost single exception, with where it was raised."""
    while isinstance(defect, BaseExceptionGroup):
        defect = defect.exceptions[0]
    if not isinstance(defect, BaseException):
        return str(defect)
    trace = defect.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" at {trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}"
    return f"{type(defect).__name__}: {defect}{where}"
