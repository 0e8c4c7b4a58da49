"""A synchronous client of the control API, for commands and for bots.

HTTP over the daemon's Unix socket with the standard library's http.client: importing httpx would alone take half of
what a whole command may take (docs/decisions/control-client.md). Answers are the JSON objects of control/shapes.py;
failures are raised as the very exception classes the daemon raised.

A `Client` keeps one connection and belongs to one thread.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote, urlencode

from p2pe.errors import LocalError, NoDaemon, P2peError, TimedOut

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from p2pe.control.shapes import (
        AcceptedAnswer,
        ContactsAnswer,
        ContactShape,
        DevicesAnswer,
        DhtAnswer,
        DhtLookupAnswer,
        InboxAnswer,
        IncomingDetail,
        IncomingHistory,
        IncomingShape,
        InvitesAnswer,
        InviteShape,
        MarkedAnswer,
        OutboxAnswer,
        OutgoingShape,
        ReplacedAnswer,
        RequestsAnswer,
        RequestShape,
        StatusAnswer,
        WhyAnswer,
    )

CONNECT_TIMEOUT: Final = 5.0  # seconds: a Unix socket answers at once or its daemon is stuck
ANSWER_TIMEOUT: Final = 30.0  # seconds beyond what the request itself asks to wait
PAIRING_TIMEOUT: Final = 120.0  # seconds: a lookup, up to three tries, each with its dial and handshake
FOLLOW_WAIT: Final = 60.0  # seconds a follower's request rests at the daemon


def error_class(code: str) -> type[P2peError]:
    """The exception class whose `code` this is; P2peError for codes of a newer daemon."""
    todo = [P2peError]
    while todo:
        cls = todo.pop()
        if cls.code == code:
            return cls
        todo.extend(cls.__subclasses__())
    return P2peError


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=CONNECT_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CONNECT_TIMEOUT)
        self.sock.connect(self._path)

    def went_stale(self) -> bool:
        """True when the daemon closed this idle connection meanwhile."""
        if self.sock is None:
            return False
        self.sock.settimeout(0)
        try:
            return self.sock.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True


class Client:
    """Talks to the daemon behind `socket_path`. Any method may raise NoDaemon, TimedOut or what the daemon raised."""

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path
        self._connection: _UnixConnection | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- the node ---

    def status(self) -> StatusAnswer:
        return cast("StatusAnswer", self._call("GET", "/v1/status"))

    def dht(self) -> DhtAnswer:
        """How the directory fares."""
        return cast("DhtAnswer", self._call("GET", "/v1/dht"))

    def dht_lookup(self, record_hash: str) -> DhtLookupAnswer:
        """The directory's servers nearest to a hash, in hex."""
        return cast("DhtLookupAnswer", self._call("GET", f"/v1/dht/lookup/{quote(record_hash, safe='')}"))

    def why(self, name: str) -> WhyAnswer:
        return cast("WhyAnswer", self._call("GET", f"/v1/why/{quote(name, safe='')}"))

    # --- contacts and invites ---

    def contacts(self) -> list[ContactShape]:
        return cast("ContactsAnswer", self._call("GET", "/v1/contacts"))["contacts"]

    def contact(self, name: str) -> ContactShape:
        return cast("ContactShape", self._call("GET", f"/v1/contacts/{quote(name, safe='')}"))

    def change_contact(
        self,
        name: str,
        *,
        new_name: str | None = None,
        verified: bool | None = None,
        blocked: bool | None = None,
        receipts: bool | None = None,
    ) -> ContactShape:
        """What isn't given stays. `receipts`: whether they learn when you have read their messages."""
        body = {"name": new_name, "verified": verified, "blocked": blocked, "receipts": receipts}
        answer = self._call("PATCH", f"/v1/contacts/{quote(name, safe='')}", _given(body))
        return cast("ContactShape", answer)

    def replace_contact(self, name: str, *, invitation: str | None = None, by: str | None = None) -> ReplacedAnswer:
        """Gives a contact's name to a new identity: whoever made `invitation`, or the contact called `by`."""
        path = f"/v1/contacts/{quote(name, safe='')}/replace"
        answer = self._call("POST", path, _given({"invitation": invitation, "by": by}), patience=PAIRING_TIMEOUT)
        return cast("ReplacedAnswer", answer)

    def remove_contact(self, name: str) -> None:
        self._call("DELETE", f"/v1/contacts/{quote(name, safe='')}")

    def accept(self, invitation: str, name: str | None = None) -> ContactShape:
        """Pairs by a spoken code or a link; returns the new contact once both sides have stored each other."""
        body = _given({"invitation": invitation, "name": name})
        return cast("ContactShape", self._call("POST", "/v1/contacts", body, patience=PAIRING_TIMEOUT))

    def invite(self, kind: str = "code", name: str | None = None) -> InviteShape:
        """`kind` is code or link."""
        body = _given({"kind": kind, "name": name})
        return cast("InviteShape", self._call("POST", "/v1/invites", body, patience=PAIRING_TIMEOUT))

    def invites(self) -> list[InviteShape]:
        return cast("InvitesAnswer", self._call("GET", "/v1/invites"))["invites"]

    def show_invite(self, invite_id: int, *, wait: float = 0.0) -> InviteShape:
        """With `wait`, rests for up to so many seconds until the invite is no longer open."""
        path = f"/v1/invites/{invite_id}" + _query({"wait": wait or None})
        return cast("InviteShape", self._call("GET", path, patience=wait + ANSWER_TIMEOUT))

    def revoke_invite(self, invite_id: int) -> None:
        self._call("DELETE", f"/v1/invites/{invite_id}")

    # --- the life of an identity ---

    def devices(self) -> DevicesAnswer:
        return cast("DevicesAnswer", self._call("GET", "/v1/devices"))

    def revoke_devices(self, keys: Sequence[str] = (), passphrase: str | None = None) -> DevicesAnswer:
        """Hex keys; none: all other devices. `passphrase` is the key file's, when it is sealed."""
        body = _given({"keys": list(keys), "passphrase": passphrase})
        return cast("DevicesAnswer", self._call("POST", "/v1/devices/revoke", body))

    def requests(self) -> list[RequestShape]:
        """Former contacts who came to this restored identity."""
        return cast("RequestsAnswer", self._call("GET", "/v1/requests"))["requests"]

    def decide(self, request_id: int, *, approve: bool, name: str | None = None) -> RequestShape:
        body = _given({"approve": approve, "name": name})
        return cast("RequestShape", self._call("POST", f"/v1/requests/{request_id}", body))

    # --- messages ---

    def send(
        self,
        to: str,
        text: str,
        *,
        key: str | None = None,
        reply_to: str | None = None,
        expire_after: float | None = None,
    ) -> OutgoingShape:
        """Returns after the message is durably committed. `key` makes a repetition harmless. `expire_after`: seconds,
        here from delivery, there from reading."""
        body = _given({"to": to, "text": text, "key": key, "reply_to": reply_to, "expire_after": expire_after})
        return cast("OutgoingShape", self._call("POST", "/v1/messages", body))

    def send_many(self, messages: Sequence[Mapping[str, str]]) -> list[str]:
        """Each message has `to` and `text`, and may have `key` and `reply_to`. All are committed, or none."""
        answer = self._call("POST", "/v1/messages/batch", {"messages": list(messages)}, patience=ANSWER_TIMEOUT * 2)
        return cast("AcceptedAnswer", answer)["ids"]

    def resend(self, contact: str, to: str | None = None) -> list[str]:
        """Sends what is held for a contact, to it or to the one that it has become. Returns the ids."""
        answer = self._call("POST", "/v1/resend", _given({"contact": contact, "to": to}))
        return cast("AcceptedAnswer", answer)["ids"]

    def message(self, id_or_prefix: str, *, wait: str | None = None, timeout: float = 0.0) -> OutgoingShape:
        """With `wait` (a state), rests until the message is at least that far; TimedOut after `timeout` seconds."""
        query = _query({"wait": wait, "timeout": timeout if wait else None})
        path = f"/v1/messages/{quote(id_or_prefix, safe='')}{query}"
        return cast("OutgoingShape", self._call("GET", path, patience=timeout + ANSWER_TIMEOUT))

    def retract(self, id_or_prefix: str) -> OutgoingShape:
        return cast("OutgoingShape", self._call("DELETE", f"/v1/messages/{quote(id_or_prefix, safe='')}"))

    def edit(self, id_or_prefix: str, text: str, *, key: str | None = None) -> OutgoingShape:
        """Replaces the text of a message; returns the message that does so."""
        path = f"/v1/messages/{quote(id_or_prefix, safe='')}/edits"
        return cast("OutgoingShape", self._call("POST", path, _given({"text": text, "key": key})))

    def history(self, id_or_prefix: str) -> list[OutgoingShape]:
        """A message of ours and what replaced its text, oldest first."""
        path = f"/v1/messages/{quote(id_or_prefix, safe='')}/history"
        return cast("OutboxAnswer", self._call("GET", path))["messages"]

    def incoming(self, id_or_prefix: str) -> IncomingDetail:
        """One message to us."""
        return cast("IncomingDetail", self._call("GET", f"/v1/inbox/{quote(id_or_prefix, safe='')}"))

    def incoming_history(self, id_or_prefix: str) -> list[IncomingShape]:
        """A message to us and what replaced its text, oldest first."""
        path = f"/v1/inbox/{quote(id_or_prefix, safe='')}/history"
        return cast("IncomingHistory", self._call("GET", path))["messages"]

    def outbox(
        self, *, contact: str | None = None, states: Sequence[str] = (), limit: int | None = None
    ) -> list[OutgoingShape]:
        query = _query({"contact": contact, "state": list(states) or None, "limit": limit})
        return cast("OutboxAnswer", self._call("GET", f"/v1/outbox{query}"))["messages"]

    def inbox(
        self,
        *,
        contact: str | None = None,
        after: int = 0,
        unread: bool = False,
        ended: bool = False,
        limit: int | None = None,
        wait: float = 0.0,
        ended_after: int | None = None,
    ) -> InboxAnswer:
        """One page, oldest first. With `wait`, rests for up to so many seconds while there is nothing. With `ended`,
        what was taken back or has expired is there too, without its text. With `ended_after`, the answer says in
        `ended` what was so since that cursor."""
        flags = {"unread": unread or None, "ended": ended or None, "wait": wait or None, "ended_after": ended_after}
        query = _query({"contact": contact, "after": after, "limit": limit, **flags})
        return cast("InboxAnswer", self._call("GET", f"/v1/inbox{query}", patience=wait + ANSWER_TIMEOUT))

    def newest(self, count: int, *, contact: str | None = None, ended: bool = False) -> InboxAnswer:
        """The last `count` messages, oldest of them first. `ended` as for `inbox`."""
        query = _query({"contact": contact, "newest": count, "ended": ended or None})
        return cast("InboxAnswer", self._call("GET", f"/v1/inbox{query}"))

    def all_inbox(
        self, *, contact: str | None = None, after: int = 0, unread: bool = False, ended: bool = False
    ) -> Iterator[IncomingShape]:
        """Everything that is there now, page by page. `ended` as for `inbox`."""
        while True:
            page = self.inbox(contact=contact, after=after, unread=unread, ended=ended)
            yield from page["messages"]
            if not page["messages"]:
                return
            after = page["next"]

    def follow(self, *, contact: str | None = None, after: int = 0) -> Iterator[IncomingShape]:
        """Everything after row `after`, then everything that arrives, for ever."""
        for page in self.follow_pages(contact=contact, after=after):
            yield from page["messages"]

    def follow_pages(
        self, *, contact: str | None = None, after: int = 0, ended_after: int | None = None
    ) -> Iterator[InboxAnswer]:
        """As `follow`, and in `ended` of each page what was taken back or has expired after it had been given out.
        Keep `next` and `next_ended` of the last page, and go on with them after a restart. `ended_after` None: what
        ends from now on."""
        while True:
            page = self.inbox(contact=contact, after=after, ended_after=ended_after, wait=FOLLOW_WAIT)
            after, ended_after = page["next"], page["next_ended"]
            yield page

    def mark_read(
        self, *, contact: str | None = None, ids: Sequence[str] | None = None, up_to: int | None = None
    ) -> int:
        """Marks messages read; what isn't given doesn't restrict. Returns how many were unread."""
        body = _given({"contact": contact, "ids": None if ids is None else list(ids), "up_to": up_to})
        return cast("MarkedAnswer", self._call("POST", "/v1/inbox/read", body))["marked"]

    # --- the wire ---

    def _call(self, method: str, path: str, body: object = None, *, patience: float = ANSWER_TIMEOUT) -> Any:
        payload = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if payload is not None else {}
        connection = self._connected()
        reusable = False
        try:
            connection.sock.settimeout(patience)
            connection.request(method, path, body=payload, headers=headers)
            response = connection.getresponse()
            raw = response.read()
            reusable = not response.will_close
        except TimeoutError:
            raise TimedOut(
                f"The node took the request but hasn't answered within {patience:.0f} s. "
                "Look at its log; if it is stuck, restart it: nothing that was accepted is lost."
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise NoDaemon(
                "The node went away before it answered. Whether it did what was asked shows once it runs again."
            ) from error
        finally:
            if not reusable:
                self.close()
        if 200 <= response.status < 300:
            return json.loads(raw) if raw else None
        raise _as_error(response.status, raw)

    def _connected(self) -> _UnixConnection:
        if self._connection is not None and self._connection.went_stale():
            self.close()
        if self._connection is None:
            connection = _UnixConnection(str(self._path))
            connected = False
            try:
                connection.connect()
                connected = True
            except (FileNotFoundError, ConnectionRefusedError):
                raise NoDaemon(_why_none(self._path.parent)) from None
            except PermissionError:
                raise NoDaemon(
                    f"The node on {self._path.parent} belongs to another user. Run this command as that user."
                ) from None
            except TimeoutError:
                raise NoDaemon(f"The node on {self._path.parent} doesn't answer. Look at its log.") from None
            except OSError as error:
                raise NoDaemon(f"Can't reach the node through {self._path}: {error}.") from None
            finally:
                if not connected:
                    connection.close()
            self._connection = connection
        return self._connection


def _why_none(home: Path) -> str:
    try:
        made = (home / "keys").exists()
    except OSError:  # not ours to look into
        made = True
    if made:
        return f"No node is running on {home}. Start one with `p2pe run`."
    return f"There is no node in {home}. `p2pe init` makes one, `p2pe run` runs it; --home or P2PE_HOME names another."


def _given(body: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in body.items() if value is not None}


def _query(values: Mapping[str, object]) -> str:
    given = _given(values)
    return "?" + urlencode(given, doseq=True) if given else ""


def _as_error(status: int, raw: bytes) -> P2peError:
    try:
        body = json.loads(raw)["error"]
        return error_class(str(body["code"]))(str(body["message"]))
    except (ValueError, KeyError, TypeError):
        return LocalError(f"The node answered with HTTP status {status} and nothing readable.")
