"""The story of the uninstalled messenger, with real processes: `make demo STORY=reinstall`, docs/stories/reinstall.md.

One writes to another who is away. The other uninstalls. The first deletes the message. The other reinstalls. Then the
first uninstalls as well and comes back. In server-based messengers that ends with messages that nobody can read,
reports about messages that nobody knows, and strangers where friends were. Here each step has one true outcome, which
is asserted as it is told.
"""

from __future__ import annotations

import io
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from p2pe.control.shapes import ContactShape
from p2pe.errors import Conflict, NoDaemon, NotFound, TimedOut
from rich.console import Console

from p2pe_sim.processes import Person, Processes, ProcessFailed, processes, settled
from p2pe_sim.stories.telling import Teller


class Return(StrEnum):
    """How somebody comes back after an uninstallation."""

    PHRASE = "phrase"  # the 24 words, nothing else
    BACKUP = "backup"  # a backup made just before
    OLD_BACKUP = "old-backup"  # one from before the last messages
    NEW = "new"  # as somebody new: words lost, no backup


HOW = {
    Return.PHRASE: "from the 24 words alone",
    Return.BACKUP: "from the words and a backup made just before",
    Return.OLD_BACKUP: "from the words and an old backup",
    Return.NEW: "with a new identity: words and backups are lost",
}
DOOMED = "the message that is deleted"
KEPT = "the message that waits"


@dataclass
class Side:
    """One of the two, across reinstallations. `has` is what their inbox must hold from the other, in order."""

    person: Person
    called: str  # by the other
    backup: Path | None = None  # the one they will come back with
    at_backup: list[str] = field(default_factory=list)  # what `has` was when it was made
    has: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.person.name


@dataclass
class Story:
    """One variant, told to `tell`."""

    world: Processes
    tell: Teller
    variant: Return
    folder: Path

    # --- small things that people do ---

    def contact(self, viewer: Side, other: Side) -> ContactShape:
        with viewer.person.client() as client:
            return client.contact(other.called)

    def knows(self, viewer: Side, other: Side) -> bool:
        with viewer.person.client() as client:
            return any(each["name"] == other.called for each in client.contacts())

    def send(self, sender: Side, other: Side, text: str) -> str:
        with sender.person.client() as client:
            return client.send(other.called, text)["id"]

    def talk(self, sender: Side, other: Side, text: str) -> None:
        """Something that arrives at once."""
        sender.person.wait_delivered(self.send(sender, other, text))
        other.has.append(text)

    def texts(self, reader: Side, sender: Side) -> list[str]:
        return [each["text"] for each in reader.person.inbox(sender.called)]

    def back_up(self, side: Side, title: str) -> Path:
        file = self.folder / f"{side.name}-{title.replace(' ', '-')}.backup"
        side.person.command("backup", str(file))
        self.tell.say(f"{side.name}$ p2pe backup …        → {title}")
        return file

    # --- the acts ---

    def play(self, one: str, other: str) -> None:
        self.tell.act(f"{one} and {other} install, and meet")
        self.world.bootstrap()
        sender, other_side = self.meet(one, other)
        self.lose_and_return(sender, other_side, is_first=True)
        self.tell.act(f"And round it goes: now {sender.name} uninstalls, and {other_side.name} writes")
        self.lose_and_return(other_side, sender, is_first=False)
        self.nothing_odd_in_the_logs()

    def meet(self, one: str, other: str) -> tuple[Side, Side]:
        people = [self.world.person(name) for name in (one, other)]
        for person in people:
            person.launch()
        for person in people:
            person.ready()
        sides = Side(people[0], one), Side(people[1], other)
        self.pair(*sides)
        for sender, reader in (sides, sides[::-1]):
            self.talk(sender, reader, f"hello from {sender.name}")
        self.tell.say(f"{one} and {other} have paired and greeted each other")
        for side in sides:
            side.backup, side.at_backup = self.back_up(side, "old backup"), list(side.has)
        for sender, reader in (sides, sides[::-1]):
            self.talk(sender, reader, f"{sender.name}'s news since then")
        return sides

    def pair(self, inviting: Side, accepting: Side) -> None:
        with inviting.person.client() as hers, accepting.person.client() as his:
            invite = hers.invite("code", accepting.called)
            assert invite["code"] is not None
            theirs = his.accept(invite["code"], inviting.called)
            ours = hers.show_invite(invite["id"], wait=60.0)["contact"]
        assert ours is not None
        same = ours["safety_number"] == theirs["safety_number"]
        self.tell.holds("both see the same safety number", same)

    def lose_and_return(self, sender: Side, victim: Side, *, is_first: bool) -> None:
        """`victim` is away, uninstalls and comes back, while `sender` writes to them and deletes one message."""
        tell, victim_name = self.tell, victim.name
        if self.variant is Return.BACKUP:
            victim.backup, victim.at_backup = self.back_up(victim, "last backup"), list(victim.has)
        before = self.contact(sender, victim)

        tell.act(f"{victim_name} goes offline before {sender.name} writes")
        victim.person.stop()
        doomed = self.send(sender, victim, f"{DOOMED} ({sender.name}'s)")
        kept = self.send(sender, victim, f"{KEPT} ({sender.name}'s)")
        with sender.person.client() as client:
            states = [client.message(each)["state"] for each in (doomed, kept)]
        tell.holds(
            f"both messages wait on {sender.name}'s machine and nowhere else", states == ["queued"] * 2, found=states
        )
        if is_first and self.variant is Return.OLD_BACKUP:
            # The nastiest backup there is: it has the message that is deleted next.
            sender.backup, sender.at_backup = self.back_up(sender, "with both waiting"), list(sender.has)

        tell.act(f"{victim_name} uninstalls; {sender.name} deletes the first message")
        shutil.rmtree(victim.person.home)
        tell.say(f"{victim_name}'s home folder is gone, with its keys")
        with sender.person.client() as client:
            gone = client.retract(doomed)
        erased = "before it had left" in gone["reason"] and gone["text"] == ""
        tell.holds(f"it is erased before it ever left: “{gone['reason']}”", erased, found=gone)

        if is_first:
            self.impostor(sender, victim, kept)

        tell.act(f"{victim_name} reinstalls, {HOW[self.variant]}")
        if self.variant is Return.NEW:
            self.return_as_new(sender, victim, before, kept)
        else:
            self.return_restored(sender, victim, before, is_first=is_first)
        self.outcome(sender, victim, doomed)

    def impostor(self, sender: Side, victim: Side, kept: str) -> None:
        """Somebody says that they are the one who is away."""
        tell = self.tell
        tell.act(f"Meanwhile, somebody says: I'm {victim.name}, on a new phone")
        mallory = self.world.person("mallory").start()
        with sender.person.client() as client, mallory.client() as theirs:
            try:
                client.invite("code", victim.called)
                tell.holds(f"the name {victim.called} can't be given a second time", False)
            except Conflict as refusal:
                tell.holds(f"the name can't be given a second time: “{refusal}”", True)
            invite = client.invite("link", f"{victim.called}?")
            assert invite["link"] is not None
            theirs.accept(invite["link"], sender.called)
            known, stranger = client.contact(victim.called), client.contact(f"{victim.called}?")
            tell.holds(
                "they are another contact, with another identity and safety number, not verified",
                known["identity_key"] != stranger["identity_key"]
                and known["safety_number"] != stranger["safety_number"]
                and not stranger["verified"],
            )
            tell.holds(
                f"{sender.name} is warned that the two names look alike", victim.called in stranger["looks_like"]
            )
            probe = client.send(f"{victim.called}?", "who are you?")["id"]
            client.message(probe, wait="delivered", timeout=60.0)
            got = [each["text"] for each in theirs.all_inbox()]
            waits = client.message(kept)["state"]
        tell.holds(f"nothing that waits for {victim.name} goes to them", got == ["who are you?"], found=got)
        tell.holds("it waits on", waits == "queued", found=waits)
        sender.person.command("forget", f"{victim.called}?", "--yes")
        mallory.stop()

    def return_restored(self, sender: Side, victim: Side, before: ContactShape, *, is_first: bool) -> None:
        """The same identity: by words, with or without a backup."""
        tell = self.tell
        by_phrase = self.variant is Return.PHRASE
        victim.person = victim.person.reinstall(None if by_phrase else victim.backup).start()
        victim.has = [] if by_phrase else list(victim.at_backup)
        if by_phrase:
            with victim.person.client() as client:
                [request] = tell.comes(
                    f"{sender.name} comes by, with the ticket that {victim.name} once gave", client.requests
                )
                tell.holds(
                    f"{victim.name} sees who that is: “{request['name']}”, and the safety number of before",
                    request["name"] == sender.called and request["safety_number"] == before["safety_number"],
                    found=request,
                )
                tell.holds("nothing arrives before it is approved", client.inbox()["messages"] == [])
                client.decide(request["id"], approve=True)
            tell.say(f"{victim.name}$ p2pe requests approve {request['id']}")
            tell.comes(f"{sender.name} is a contact again", lambda: self.knows(victim, sender))
        elif not is_first and self.variant is Return.OLD_BACKUP:
            self.backup_with_a_deleted_message(sender, victim)
        victim.has.append(f"{KEPT} ({sender.name}'s)")
        after = self.contact(sender, victim)
        tell.holds(
            f"to {sender.name} it is the same {victim.name} as before: same identity, same safety number",
            (after["identity_key"], after["safety_number"]) == (before["identity_key"], before["safety_number"]),
        )

    def backup_with_a_deleted_message(self, reader: Side, restored: Side) -> None:
        """Their backup has two messages waiting; one was deleted since, the other delivered."""
        tell = self.tell
        with restored.person.client() as client:
            held = client.outbox(states=["held_identity"])
            texts = [each["text"] for each in held]
            expected = [f"{DOOMED} ({restored.name}'s)", f"{KEPT} ({restored.name}'s)"]
            tell.holds("what waited in the backup is held, not sent", texts == expected, found=texts)
            tell.say(f"why: “{held[0]['reason']}”")
            client.retract(held[0]["id"])
            client.resend(reader.called)
        settled(restored.person, [held[1]["id"]])
        tell.holds(
            f"the delivered one is resent, and {reader.name} has it once", self.texts(reader, restored) == reader.has
        )

    def return_as_new(self, sender: Side, victim: Side, before: ContactShape, kept: str) -> None:
        """Another identity. Nothing makes it the old one but a person's own decision."""
        tell = self.tell
        victim.person = self.world.person(victim.name).start()
        victim.has = []
        with victim.person.client() as client:
            tell.holds("the new installation knows nobody", client.contacts() == [])
        old = victim.called
        victim.called = f"{victim.name}-new"
        self.pair(sender, victim)
        after = self.contact(sender, victim)
        tell.holds(
            f"to {sender.name} it is a new contact beside the old one, with another safety number, not verified",
            after["identity_key"] != before["identity_key"]
            and after["safety_number"] != before["safety_number"]
            and not after["verified"],
        )
        self.talk(sender, victim, "is that you?")
        with sender.person.client() as client:
            waits = client.message(kept)["state"]
            tell.holds(
                "what waits for the old identity isn't sent to the new one by itself", waits == "queued", found=waits
            )
            [resent] = client.resend(old, victim.called)
            tell.say(f"{sender.name}$ p2pe resend {old} {victim.called}")
            moved = client.message(kept)
        tell.holds(f"the old one is ended truthfully: “{moved['reason']}”", moved["state"] == "retracted", found=moved)
        settled(sender.person, [resent])
        victim.has.append(f"{KEPT} ({sender.name}'s)")

    # --- what must be true in the end, however they came back ---

    def outcome(self, sender: Side, victim: Side, doomed: str) -> None:
        tell = self.tell
        tell.comes(
            f"what {sender.name} wrote and didn't delete has arrived",
            lambda: self.texts(victim, sender)[-1:] == [f"{KEPT} ({sender.name}'s)"],
        )
        self.talk(victim, sender, f"{victim.name} is back")
        self.talk(sender, victim, f"{sender.name} is glad")
        got = self.texts(victim, sender)
        sentence = f"{victim.name} has what there is, once each and in order; the deleted one isn't there"
        tell.holds(sentence, got == victim.has, found=(got, victim.has))
        got = [each["text"] for each in sender.person.inbox(victim.called)]
        expected = sender.has if self.variant is not Return.NEW else sender.has[-1:]
        tell.holds(f"{sender.name} has kept everything of before", got == expected, found=(got, expected))
        try:
            with victim.person.client() as client:
                client.incoming(doomed)
            tell.holds(f"{victim.name}'s node knows nothing of the deleted message", False)
        except NotFound as refusal:
            tell.holds(f"{victim.name} can't report what they never heard of: “{refusal}”", True)
        with sender.person.client() as client:
            shown = client.message(doomed)
            open_states = [each for each in client.outbox() if each["state"] in ("queued", "offered", "held_identity")]
        tell.holds(
            f"{sender.name} still sees the truth about it: “{shown['reason']}”",
            (shown["state"], shown["text"]) == ("retracted", "") and "before it had left" in shown["reason"],
        )
        tell.holds("nothing is left hanging on either side", not open_states, found=open_states)
        if self.variant is Return.NEW:
            sender.person.command("forget", victim.name, "--yes")
            sender.has = sender.has[-1:]
            victim.person.command("contacts", "show", sender.called)
            sender.person.command("contacts", "rename", victim.called, victim.name)
            victim.called = victim.name
            tell.say(f"{sender.name} forgets the old contact, and gives the new one its name")

    def nothing_odd_in_the_logs(self) -> None:
        odd = [
            line
            for each in self.world.running
            for line in each.log_text().splitlines()
            if any(
                word in line for word in ("broke the protocol", "can't be decrypted", "Traceback", "defect", '"error"')
            )
        ]
        self.tell.holds("no node logged anything that it couldn't read or didn't expect", not odd, found=odd[:3])


def play(variant: Return, names: tuple[str, str] = ("alice", "bob"), console: Console | None = None) -> int:
    """One variant with its own processes. Returns how many things were asserted; raises ProcessFailed and others."""
    tell = Teller(console or Console(highlight=False, soft_wrap=True))
    with processes() as world:
        Story(world, tell, variant, world.folder).play(*names)
    return tell.asserted


def play_quietly(variant: Return, names: tuple[str, str] = ("alice", "bob")) -> tuple[str, Exception | None]:
    """The narration, and what went wrong."""
    text = io.StringIO()
    try:
        play(variant, names, Console(file=text, highlight=False, soft_wrap=True, width=160))
    except (ProcessFailed, TimedOut, NoDaemon, Conflict, NotFound) as problem:
        return text.getvalue(), problem
    return text.getvalue(), None


def main(arguments: Sequence[str] | None = None) -> int:
    """Tells the variants named, or all four; exit status 0 when everything asserted is so."""
    wanted = [Return(each) for each in (sys.argv[1:] if arguments is None else arguments)] or list(Return)
    console = Console(highlight=False, soft_wrap=True)
    began = time.monotonic()
    failed = []
    with ThreadPoolExecutor(len(wanted)) as pool:  # most of a story is waiting: together they take as long as one
        for variant, told in zip(wanted, pool.map(play_quietly, wanted), strict=True):
            narration, problem = told
            console.rule(f"They come back {HOW[variant]}")
            console.print(narration, markup=False)
            if problem is not None:
                failed.append(variant)
                console.print(f"[bold]The story failed:[/bold] {problem}")
    took = time.monotonic() - began
    console.print(f"\n{len(wanted) - len(failed)} of {len(wanted)} variants end as they must; {took:.0f} s in all.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
