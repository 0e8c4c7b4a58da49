"""`make demo`: the product's main job on real sockets between real processes, told as it happens.

Fails (exit status 1) when any message is lost, doubled, out of order, or in a state that isn't true.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from p2pe.control.client import Client
from p2pe.errors import NoDaemon, TimedOut
from rich.console import Console
from rich.table import Table

from p2pe_sim.processes import Person, Processes, ProcessFailed, processes, settled

BURST = 600  # messages of each burst; enough that a kill lands in the middle
CHUNK = 20  # messages a request of a burst
KILL_AFTER = 0.35  # of the burst

console = Console(highlight=False, soft_wrap=True)


@dataclass
class Account:
    """What was sent to whom, in order, to be compared with what is there in the end."""

    sender: Person
    recipient: Person
    texts: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)


@dataclass
class Verdict:
    sent: int
    delivered: int
    doubled: int
    lost: int
    in_order: bool

    @property
    def right(self) -> bool:
        return self.sent == self.delivered and not self.doubled and not self.lost and self.in_order


def say(text: str) -> None:
    console.print(f"  {text}")


def act(title: str) -> None:
    console.print(f"\n[bold]{title}[/bold]")


def send(account: Account, texts: list[str]) -> list[str]:
    """One request; returns the ids, all durably committed."""
    with account.sender.client() as client:
        ids = client.send_many([{"to": account.recipient.name, "text": text} for text in texts])
    account.texts += texts
    account.ids += ids
    return ids


def burst(account: Account, title: str, victim: Person) -> None:
    """A stream of messages, with `kill -9` on `victim` in the middle of it, and its restart."""
    texts = [f"{title} {number}" for number in range(1, BURST + 1)]
    half = threading.Event()

    def murder() -> None:
        half.wait()
        victim.kill()
        victim.start()

    killer = threading.Thread(target=murder)
    killer.start()
    try:
        for first in range(0, BURST, CHUNK):
            if first >= BURST * KILL_AFTER:
                half.set()
            chunk = texts[first : first + CHUNK]
            # The key makes a repetition harmless: whether the request had been committed before the kill or not.
            batch = [{"to": account.recipient.name, "text": text, "key": f"demo {text}"} for text in chunk]
            account.ids += account.sender.persist(lambda client, batch=batch: client.send_many(batch))  # type: ignore[misc]
            account.texts += chunk
    finally:
        half.set()
        killer.join()


def judge(account: Account) -> Verdict:
    """Compares the sender's record and the recipient's inbox with what was sent."""
    states = Counter(message["state"] for message in settled(account.sender, account.ids))
    arrived = [message["text"] for message in account.recipient.inbox(account.sender.name)]
    counts = Counter(arrived)
    return Verdict(
        sent=len(account.texts),
        delivered=states["delivered"],
        doubled=sum(count - 1 for count in counts.values()),
        lost=sum(1 for text in account.texts if text not in counts),
        in_order=[text for text in arrived if text in set(account.texts)] == account.texts,
    )


def states_table(title: str, client: Client, ids: list[str]) -> None:
    table = Table(title=title, title_justify="left", title_style="")
    for column in ("message", "state", "why"):
        table.add_column(column)
    for each in ids:
        message = client.message(each)
        table.add_row(message["text"], message["state"], message["reason"])
    console.print(table)


def wait_all(account: Account, ids: list[str]) -> float:
    began = time.monotonic()
    for each in ids:
        account.sender.wait_delivered(each)
    return time.monotonic() - began


def play(story: Processes) -> bool:
    """The whole demo. Returns whether every count is right."""
    act("1. Three processes: a bootstrap node, Alice's node, Bob's node")
    story.bootstrap()
    say(f"bootstrap node: {story.bootstraps[0]}")
    alice, bob = story.person("alice"), story.person("bob")
    say("each made a root seed and an encrypted database of their own (p2pe init)")
    for person in (alice, bob):
        person.launch()
    for person in (alice, bob):
        person.ready()
    say("both nodes run (p2pe run)")

    act("2. They meet: Alice reads four words aloud, Bob types them")
    with alice.client() as client:
        invite = client.invite("code", "bob")
    say(f"alice$ p2pe invite --name bob      →  [bold]{invite['code']}[/bold]")
    assert invite["code"] is not None
    bob.command("accept", invite["code"], "--name", "alice")
    say(f"bob$   p2pe accept {invite['code']} --name alice")
    with alice.client() as hers, bob.client() as his:
        one = hers.show_invite(invite["id"], wait=60.0)["contact"]
        other = his.contact("alice")
    if one is None or one["safety_number"] != other["safety_number"]:
        raise ProcessFailed("the two safety numbers differ")
    say(f"both see the safety number {one['safety_number']}")

    act("3. Messages, both ways")
    to_bob, to_alice = Account(alice, bob), Account(bob, alice)
    took = wait_all(to_bob, send(to_bob, ["Hello Bob"]))
    say(f"Alice → Bob: delivered, and durably on his disk, {took * 1000:.0f} ms after `send` returned")
    took = wait_all(to_alice, send(to_alice, ["Hello Alice", "How are you?"]))
    say(f"Bob → Alice: two messages, {took * 1000:.0f} ms")

    act("4. Bob is away: what Alice writes stays with Alice")
    bob.stop()
    held = send(to_bob, ["Are you there?", "I'll wait.", "It keeps."])
    with alice.client() as client:
        states_table("Alice's outbox while Bob's node is stopped", client, held)
        if any(client.message(each)["state"] == "delivered" for each in held):
            raise ProcessFailed("a message is shown as delivered to a node that isn't running")
    bob.start()
    took = wait_all(to_bob, held)
    with alice.client() as client:
        states_table(f"Bob's node is back; {took:.1f} s later", client, held)

    act(f"5. kill -9 of the sender in the middle of {BURST} messages")
    burst(to_bob, "from a sender that dies:", alice)
    settled(alice, to_bob.ids)
    say("Alice's node was killed and started again; everything is delivered")

    act(f"6. kill -9 of the recipient in the middle of {BURST} messages")
    burst(to_bob, "to a recipient that dies:", bob)
    settled(alice, to_bob.ids)
    say("Bob's node was killed and started again; everything is delivered")

    act("7. The count")
    table = Table()
    for column in ("from → to", "sent", "delivered", "doubled", "lost", "in order"):
        table.add_column(column, justify="right" if column != "from → to" else "left")
    verdicts = []
    for account in (to_bob, to_alice):
        verdict = judge(account)
        verdicts.append(verdict)
        names = f"{account.sender.name} → {account.recipient.name}"
        numbers = (verdict.sent, verdict.delivered, verdict.doubled, verdict.lost)
        table.add_row(names, *map(str, numbers), "yes" if verdict.in_order else "NO")
    console.print(table)
    return all(verdict.right for verdict in verdicts)


def main() -> int:
    """Exit status 0 when every count is right."""
    began = time.monotonic()
    try:
        with processes() as story:
            right = play(story)
    except (ProcessFailed, TimedOut, NoDaemon) as error:
        console.print(f"[bold]The demo failed:[/bold] {error}")
        return 1
    took = time.monotonic() - began
    console.print(f"\n{'Every message once and in order' if right else 'THE COUNTS ARE WRONG'}; {took:.0f} s in all.")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
