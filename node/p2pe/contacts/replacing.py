"""Somebody returns as a new identity: a separate contact, under the old one's name because a person says so. What
waited for the old identity is held until that person resends it; nothing else passes from one to the other."""

from __future__ import annotations

from dataclasses import dataclass

from p2pe.contacts.pairing import Pairing
from p2pe.core.names import free_name
from p2pe.errors import Conflict
from p2pe.model import Contact
from p2pe.ports import World
from p2pe.storage import contacts, held
from p2pe.storage.database import Database
from p2pe.storage.migrations import Tx


@dataclass(frozen=True, slots=True)
class Replaced:
    old: Contact  # under its new name
    new: Contact
    held: int  # messages that waited for the old one


async def replace_contact(
    world: World, database: Database, pairing: Pairing, name: str, *, invitation: str | None, by: str | None
) -> Replaced:
    """Gives the name of a contact to a new identity: whoever made `invitation`, or the contact called `by`.

    The old one is called NAME-old from now on. Raises NotFound, Conflict, and what Pairing.accept raises, such as
    AlreadyContact when it isn't a new identity at all.
    """
    old = await database.read(lambda tx: contacts.find(tx, name))
    if invitation is not None:
        everybody = await database.read(contacts.all_contacts)
        new = await pairing.accept(invitation, _free(f"{old.name}-new", everybody))
    else:
        new = await database.read(lambda tx: contacts.find(tx, by or ""))
    if new.id == old.id:
        raise Conflict(f"{old.name!r} can't be replaced by itself: name the contact that this person has become")
    now = world.clock.now()

    def work(tx: Tx) -> Replaced:
        wanted = contacts.get(tx, old.id).name
        contacts.rename(tx, old.id, _free(f"{wanted}-old", contacts.all_contacts(tx)))
        contacts.rename(tx, new.id, wanted)
        count = held.hold(tx, old.id, now)
        return Replaced(contacts.get(tx, old.id), contacts.get(tx, new.id), count)

    return await database.write(work)


def _free(wanted: str, everybody: tuple[Contact, ...]) -> str:
    return free_name(wanted, frozenset(each.name.lower() for each in everybody))
