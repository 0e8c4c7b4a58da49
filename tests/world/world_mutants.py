"""Nodes that are broken on purpose: each by one change that a programmer could make by mistake, or out of malice.

A change is (where, name, original -> replacement). `MUTANTS` maps a mutant to its changes and the invariant that
must catch it.
"""

from __future__ import annotations

import _thread
import hashlib
import os
import random
import secrets
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple
from unittest.mock import patch

import p2pe.app as app
import p2pe.connectivity.service as service
import p2pe.messaging.receiver as receiver_module
import p2pe.rendezvous.publisher as publisher_module
import p2pe_bootstrap.services as bootstrap_services
import trio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from p2pe.connectivity.dialer import SessionDialer
from p2pe.connectivity.links import LinkRegistry
from p2pe.connectivity.session import Session
from p2pe.core.paths import RelayPolicy
from p2pe.core.records import make_record, public_key_of, record_key
from p2pe.errors import StorageError
from p2pe.messaging.courier import Couriers
from p2pe.messaging.expiry import Expiry
from p2pe.messaging.outbox import Outbox
from p2pe.model import Address, MessageId
from p2pe.overlay.noise import SecureStream
from p2pe.storage import connection as storage_connection
from p2pe.storage import incoming

Change = tuple[object, str, Callable[[Any], Any]]


class Mutant(NamedTuple):
    caught_by: str
    changes: tuple[Change, ...]


# --- delivery ---


def _dedupe_off(accept: Any) -> Any:
    """Takes a message that it has already as a new one."""

    def mutant(tx: Any, contact_id: Any, stream_id: Any, messages: Sequence[Any], now: Any) -> Any:
        def fresh(message: Any) -> Any:
            known = tx.execute("SELECT 1 FROM incoming WHERE contact_id = ? AND id = ?", (contact_id, message.id)).get
            return replace(message, id=MessageId(hashlib.sha256(message.id).digest())) if known else message

        stream = hashlib.sha256(stream_id + str(now).encode()).digest()[:16]
        accepted = accept(tx, contact_id, stream, [fresh(each) for each in messages], now)
        receipts = [(m.id, h, s) for m, (_, h, s) in zip(messages, accepted.receipts, strict=False)]
        return accepted._replace(receipts=receipts, conflict=None)

    return mutant


def _order_swapped(insert: Any) -> Any:
    """Writes the messages of a batch from the last to the first."""

    def mutant(tx: Any, contact_id: Any, stream_id: Any, messages: Any, hashes: Any, now: Any) -> Any:
        return insert(tx, contact_id, stream_id, messages[::-1], hashes[::-1], now)

    return mutant


def _ack_and_drop(accept: Any) -> Any:
    """Receipts what it hasn't stored."""

    def mutant(tx: Any, contact_id: Any, stream_id: Any, messages: Any, now: Any) -> Any:
        accepted = accept(tx, contact_id, stream_id, messages, now)
        tx.execute("DELETE FROM incoming WHERE id = ?", (messages[-1].id,))
        return accepted

    return mutant


def _no_receipts(_receipt_frames: Any) -> Any:
    return lambda receipts: ()


def _without_sync(configure: Any) -> Any:
    """A database that leaves the disk to itself."""

    def mutant(connection: Any, *arguments: Any, **options: Any) -> None:
        configure(connection, *arguments, **options)
        connection.pragma("synchronous", "off")

    return mutant


def _send_swallows_errors(queue: Any) -> Any:
    """`send` says yes though the commit failed."""

    async def mutant(self: Outbox, prepared: Any) -> Any:
        try:
            return await queue(self, prepared)
        except StorageError:
            return [None for _ in prepared]

    return mutant


def _begins_anew(deliver: Any) -> Any:
    """Forgets, when a link comes, that messages were offered before."""

    async def mutant(self: Any, lane: Any, link: Any) -> None:
        forget = "UPDATE outgoing SET state = 'queued' WHERE state = 'offered' AND contact_id = ?"
        await self._database.write(lambda tx: tx.execute(forget, (lane.contact_id,)).fetchall())
        await deliver(self, lane, link)

    return mutant


def _crashing_room(_run: Any) -> Any:
    async def mutant(self: Any, *, task_status: Any) -> None:
        task_status.started()
        raise ZeroDivisionError("a defect")

    return mutant


def _dying(_keep_peers: Any) -> Any:
    async def mutant(*_arguments: Any) -> None:
        raise ZeroDivisionError("a defect")

    return mutant


# --- secrecy ---


class _PlainCipher:
    def encrypt(self, data: bytes) -> bytes:
        return bytes(data)

    def decrypt(self, data: bytes) -> bytes:
        return bytes(data)


def _plain_session(init: Any) -> Any:
    def mutant(self: Any, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options)
        self._send_cipher = self._recv_cipher = _PlainCipher()

    return mutant


def _plain(self: Any) -> None:
    self._encrypt = lambda _nonce, data, _aad: bytes(data) + bytes(16)
    self._decrypt = lambda _nonce, data, _aad: bytes(data)[:-16]


def _plain_transport(init: Any) -> Any:
    def mutant(self: Any, *arguments: Any) -> None:
        init(self, *arguments)
        _plain(self)

    return mutant


def _plain_circuits(init: Any) -> Any:
    """Trusts the relay: what runs through a circuit isn't encrypted once more."""

    def mutant(self: Any, stream: Any, *arguments: Any) -> None:
        init(self, stream, *arguments)
        if type(stream).__name__ != "VirtualStream":
            _plain(self)

    return mutant


def _hides_in_padding(seal: Any) -> Any:
    """Puts 64 bytes of something else into the address record."""

    def mutant(info: Any, aead_key: bytes, nonce: bytes) -> bytes:
        import p2pe.core.records as records

        with patch.object(records, "_pad", lambda plain: plain + bytes([15 << 3 | 2]) + _hidden(plain)):
            sealed: bytes = seal(info, aead_key, nonce)
        return sealed

    return mutant


def _hidden(plain: bytes) -> bytes:
    from p2pe.core.records import _PLAIN_BYTES

    count = _PLAIN_BYTES - len(plain) - 3
    return bytes([count & 0x7F | 0x80, count >> 7]) + b"a sealed message for you".ljust(count, b"\1")


def _parks_messages(store: Any) -> Any:
    """Leaves 512 bytes more in the DHT, under a key of its own."""

    async def mutant(self: Any, own: Any, k_rendezvous: bytes, direction: int, day: int) -> Any:
        seed, now = self._world.entropy(32), self._world.clock.now()
        raw = make_record(seed, 0, now, now + 3_600_000, self._world.entropy(512))
        await self._directory.publish(record_key(public_key_of(seed), 0), raw)
        return await store(self, own, k_rendezvous, direction, day)

    return mutant


def _mailbox(server: Any) -> Any:
    """A bootstrap node that keeps messages for those who are away."""

    def mutant(host: Any) -> Any:
        async def keep(stream: Any) -> None:
            await stream.receive_some()

        host.handle("/mailbox/1.0.0", keep)
        return server(host)

    return mutant


def _shows_address(_publishable: Any) -> Any:
    """Publishes the interface's address too, whatever the policy."""
    return lambda listening, policy: (*_publishable(listening, policy), Address("/ip4/192.0.2.7/tcp/4001"))


def _dials_directly(init: Any) -> Any:
    """Forgets the policy when it dials."""

    def mutant(self: Any, *arguments: Any) -> None:
        *others, _policy, relays = arguments
        init(self, *others, lambda: RelayPolicy.FALLBACK, relays)

    return mutant


def _keeps_both_links(_retire: Any) -> Any:
    """When a link has been replaced, the old one stays."""

    async def mutant(_self: Any, _session: Any) -> None:
        pass

    return mutant


def _opens_another(_improve: Any) -> Any:
    """Makes a second link beside each first one."""

    async def mutant(self: Any, session: Any) -> None:
        if session.is_dialer and len(self.all()) == 1:
            await self._open_over(session.contact_id, session.connection)

    return mutant


def _lingers(stop: Any) -> Any:
    """Waits for an answer to its goodbye, whatever it is told."""

    async def mutant(self: Any) -> None:
        await stop(self)
        with trio.CancelScope(shield=True):
            await trio.sleep(10)

    return mutant


MUTANTS: dict[str, Mutant] = {
    "dedupe-off": Mutant("exactly-once", ((incoming, "accept", _dedupe_off),)),
    "order-swapped": Mutant("order", ((incoming, "_insert", _order_swapped),)),
    "no-sync": Mutant("nothing-lost", ((storage_connection, "_configure", _without_sync),)),
    "send-swallows-errors": Mutant("nothing-lost", ((Outbox, "_queue", _send_swallows_errors),)),
    "ack-and-drop": Mutant("receipts-true", ((incoming, "accept", _ack_and_drop),)),
    "ack-before-sync": Mutant("receipts-true", ((storage_connection, "_configure", _without_sync),)),
    "lost-ack": Mutant("delivered", ((receiver_module, "receipt_frames", _no_receipts),)),
    "begins-anew": Mutant("states-forward", ((Couriers, "_deliver", _begins_anew),)),
    "keeps-both-links": Mutant(
        "links-agree", ((LinkRegistry, "_retire", _keeps_both_links), (LinkRegistry, "_improve", _opens_another))
    ),
    "lingers": Mutant("stops", ((LinkRegistry, "stop", _lingers),)),
    "crashing-room": Mutant("no-defects", ((Expiry, "run", _crashing_room),)),
    "dying": Mutant("no-defects", ((app, "_keep_peers", _dying),)),
    "plaintext-link": Mutant(
        "no-plaintext", ((Session, "__init__", _plain_session), (SecureStream, "__init__", _plain_transport))
    ),
    "plaintext-relay": Mutant(
        "third-parties", ((Session, "__init__", _plain_session), (SecureStream, "__init__", _plain_circuits))
    ),
    "hides-in-padding": Mutant("third-parties", ((publisher_module, "seal_addresses", _hides_in_padding),)),
    "parks-messages": Mutant("third-parties", ((publisher_module.Publisher, "_store", _parks_messages),)),
    "mailbox": Mutant("third-parties", ((bootstrap_services, "AutonatServer", _mailbox),)),
    "shows-address": Mutant("address-hidden", ((service, "publishable", _shows_address),)),
    "dials-directly": Mutant("address-hidden", ((SessionDialer, "__init__", _dials_directly),)),
}


# --- escapes ---


def _escaping(act: Callable[[], object]) -> Callable[[Any], Any]:
    def change(_run: Any) -> Any:
        async def mutant(self: Any, *, task_status: Any) -> None:
            task_status.started()
            act()
            await trio.sleep_forever()

        return mutant

    return change


def _swallowing() -> None:
    try:
        time.time()
    except Exception:  # noqa: BLE001, S110  # what careless code does
        pass


ESCAPES: dict[str, tuple[str, Callable[[], object]]] = {
    "clock": ("time.time", lambda: time.time()),
    "clock that is swallowed": ("time.time", _swallowing),
    "other clock": ("time.monotonic_ns", lambda: time.monotonic_ns()),
    "entropy": ("os.urandom", lambda: os.urandom(8)),
    "secrets": ("secrets.token_bytes", lambda: secrets.token_bytes(8)),
    "random": ("random.random", lambda: random.random()),
    "uuid": ("uuid.uuid4", lambda: uuid.uuid4()),
    "key": ("X25519PrivateKey.generate", lambda: X25519PrivateKey.generate()),
    "socket": ("a real socket", socket.socket),
    "look-up": ("a real name look-up", lambda: socket.getaddrinfo("localhost", 1)),
    "thread": ("a thread", lambda: _thread.start_new_thread(int, ())),
    "process": ("a process", lambda: subprocess.run(["true"], check=True)),
}
for _name, (_, _act) in ESCAPES.items():
    MUTANTS[f"escape: {_name}"] = Mutant("", ((Expiry, "run", _escaping(lambda act=_act: act())),))  # type: ignore[misc]


@contextmanager
def applied(mutant: str) -> Iterator[None]:
    """The mutant's changes hold inside the block, and in what is forked there."""
    with ExitStack() as stack:
        for where, name, change in MUTANTS[mutant].changes if mutant else ():
            stack.enter_context(patch.object(where, name, change(getattr(where, name))))
        yield
