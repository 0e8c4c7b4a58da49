"""What the rooms ask of the outside world, as Protocols: production and the simulator both provide them.

Nothing here has behaviour. A test suite in tests/ports holds every implementation to these docstrings.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import trio

from p2pe.model import Address, ContactId, Frame, IdentityKey, Millis, PathKind, PeerId, PeerInfo

T = TypeVar("T")


class Clock(Protocol):
    """Wall-clock time. Durations and time-outs use trio's own clock, which a simulation replaces."""

    def now(self) -> Millis: ...


class Entropy(Protocol):
    """Unpredictable bytes. Production: the operating system. Seeded only inside p2pe_sim."""

    def __call__(self, count: int, /) -> bytes: ...


class ByteStream(Protocol):
    """A trio.abc.HalfCloseableStream with the two addresses of the connection."""

    local: Address
    remote: Address

    async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...
    def send_now(self, data: bytes) -> int:
        """Sends what can go at once; returns how many bytes that were. 0 as well when something is wrong: the next
        `send_all` says what. Not while one is under way."""
        ...

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...
    async def send_eof(self) -> None: ...
    async def wait_send_all_might_not_block(self) -> None: ...
    async def aclose(self) -> None: ...


class Listener(Protocol):
    """A bound port. `address` has the real port when 0 was asked for."""

    address: Address

    async def accept(self) -> ByteStream: ...
    async def aclose(self) -> None: ...


class NetworkChanges(Protocol):
    """Tells of changes since it was opened."""

    async def wait(self) -> None:
        """Returns when this machine's addresses or its default gateway are others than at the last return."""
        ...


class Net(Protocol):
    """TCP, or a virtual network."""

    async def listen(self, address: Address) -> Listener:
        """Binds an /ip4|ip6/../tcp/.. address (SO_REUSEADDR and SO_REUSEPORT). Raises OSError."""
        ...

    async def dial(self, address: Address, *, local: Address | None = None) -> ByteStream:
        """Connects; `local` binds the outgoing socket to a listen address (hole punching). Raises OSError."""
        ...

    async def interfaces(self) -> tuple[Address, ...]:
        """Addresses of this machine's interfaces without port, e.g. /ip4/192.168.1.5."""
        ...

    def changes(self) -> AbstractAsyncContextManager[NetworkChanges]:
        """Watches for another network (a laptop moved, a cable pulled) while the block runs."""
        ...

    async def resolve(self, name: str) -> tuple[str, ...]:
        """IP addresses of a DNS name. Raises OSError."""
        ...


class Threads(Protocol):
    """Runs blocking work elsewhere: a worker thread in production, inline in a simulation."""

    async def __call__(self, work: Callable[[], T], /) -> T: ...


@dataclass(frozen=True, slots=True)
class World:
    """All of the outside that a node touches, in one value. `app.real_world()` makes the real one."""

    clock: Clock
    entropy: Entropy
    net: Net
    threads: Threads
    lan: bool = False  # whether there are a router to ask and neighbours to hear: a machine's real network


class Stream(Protocol):
    """One multiplexed libp2p stream, protocol already negotiated.

    Errors: trio.BrokenResourceError when reset or the connection died, trio.ClosedResourceError after our own
    close; `receive_some` returns b"" once, and again, after the other side's half-close.
    """

    @property
    def remote_peer(self) -> PeerId: ...
    @property
    def connection(self) -> Connection: ...

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Returns at once while there is room; lets other tasks run now and then, not each time."""
        ...

    def send_now(self, data: bytes) -> int:
        """As ByteStream's: all of it, or 0."""
        ...

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...
    async def send_eof(self) -> None: ...
    async def aclose(self) -> None:
        """Closes both directions gracefully; never raises for a stream that is already dead."""
        ...

    def reset(self) -> None:
        """Drops the stream at once, without waiting; the other side sees BrokenResourceError."""
        ...


StreamHandler = Callable[[Stream], Awaitable[None]]


class Connection(Protocol):
    """One secured, multiplexed connection to a peer."""

    @property
    def remote_peer(self) -> PeerId: ...
    @property
    def remote_address(self) -> Address: ...
    @property
    def path(self) -> PathKind: ...
    @property
    def round_trip(self) -> float | None:
        """Seconds, from the ping watcher; None before its first answer."""
        ...

    @property
    def is_alive(self) -> bool: ...

    async def open_stream(self, protocol: str) -> Stream:
        """Negotiates `protocol` on a new stream of this very connection. Raises Unreachable when the peer
        doesn't speak it or the connection died."""
        ...

    async def aclose(self) -> None: ...


class Host(Protocol):
    """Our presence in the overlay: listening, dialling, dispatching streams. Implemented by overlay/host.py."""

    @property
    def peer_id(self) -> PeerId: ...

    def listen_addresses(self) -> tuple[Address, ...]:
        """Where we really listen, wildcard expanded to interface addresses, plus relay circuit addresses held."""
        ...

    def handle(self, protocol: str, handler: StreamHandler) -> None:
        """Registers before or while running. Each stream runs `handler` in a guarded task of its own: whatever
        it raises is logged and counted, and resets that stream alone."""
        ...

    async def connect(self, peer: PeerInfo) -> Connection:
        """An existing live connection, or a new one by racing all addresses. Raises Unreachable, whose
        `attempts` (tuple of PathAttempt) says what each address answered."""
        ...

    def connections(self, peer_id: PeerId | None = None) -> tuple[Connection, ...]: ...


class Directory(Protocol):
    """The DHT as rendezvous sees it."""

    async def publish(self, key: bytes, record: bytes) -> int:
        """Stores a serialized SignedRecord at the closest servers. Returns how many took it. Raises
        Unreachable when no server could be asked."""
        ...

    async def lookup(self, key: bytes) -> tuple[bytes, ...]:
        """All distinct valid records found under `key`, newest first; empty when none. Raises Unreachable when
        no server could be asked."""
        ...

    def refresh_seconds(self) -> float:
        """The pause after which a record needs to be published again."""
        ...


class Link(Protocol):
    """An authenticated session to a contact: frames in, frames out. What carries it doesn't matter."""

    @property
    def contact_id(self) -> ContactId: ...
    @property
    def peer_identity(self) -> IdentityKey: ...
    @property
    def receipt_key(self) -> bytes:
        """K_receipt of the pair-secret epoch this session was made under."""
        ...

    @property
    def path(self) -> PathKind: ...
    @property
    def established_at(self) -> Millis: ...

    async def send(self, frames: tuple[Frame, ...]) -> None:
        """Encrypts and writes, in order, in as few writes as possible. Safe to call from several tasks.
        Raises LinkClosed."""
        ...

    async def receive(self) -> Frame:
        """The next frame; Ping, Pong and Goodbye are handled inside. One reader. Raises LinkClosed when the
        session ended, RemoteError when the other side broke the protocol."""
        ...

    async def aclose(self) -> None: ...


class Links(Protocol):
    """Where a courier gets its link. Implemented by connectivity/links.py."""

    def current(self, contact_id: ContactId) -> Link | None:
        """A live link, newest first, or None."""
        ...

    async def get(self, contact_id: ContactId) -> Link:
        """`current`, or one made by looking the contact up and dialling. Raises Unreachable."""
        ...


class Relays(Protocol):
    """How contacts' links fared over their relays. Implemented by overlay/relay/client.py."""

    def broke(self, circuit: Address) -> None:
        """A contact's link over this circuit address broke, without a goodbye and not by our wish."""
        ...

    def failures(self, circuit: Address) -> int:
        """How often that happened of late over its relay, while the relay was there; 0 for a direct address."""
        ...


LinkHandler = Callable[[Link], Awaitable[None]]  # runs for as long as the link lives; reads it to its end
ContextOf = AbstractAsyncContextManager
Nursery = trio.Nursery
