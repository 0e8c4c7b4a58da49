"""The book of contacts: list, find, rename, verify, block, remove. What is changed here takes effect at once."""

from __future__ import annotations

from p2pe.connectivity.links import LinkRegistry
from p2pe.core.names import contact_name
from p2pe.model import Contact, ContactId
from p2pe.rendezvous.roster import Roster
from p2pe.storage import contacts
from p2pe.storage.database import Database
from p2pe.storage.migrations import Tx


class Book:
    """Names are matched without regard to ASCII case. Methods that take a name raise NotFound."""

    def __init__(self, database: Database, roster: Roster, links: LinkRegistry) -> None:
        self._database = database
        self._roster = roster
        self._links = links

    async def list(self) -> tuple[Contact, ...]:
        """All contacts, by name."""
        return await self._database.read(contacts.all_contacts)

    async def find(self, name: str) -> Contact:
        return await self._database.read(lambda tx: contacts.find(tx, name))

    async def get(self, contact_id: ContactId) -> Contact:
        """By row. Raises NotFound."""
        return await self._database.read(lambda tx: contacts.get(tx, contact_id))

    async def rename(self, name: str, new_name: str) -> Contact:
        """Raises UsageError for an unfit name, Conflict for a taken one."""
        wanted = contact_name(new_name)

        def change(tx: Tx) -> Contact:
            person = contacts.find(tx, name)
            contacts.rename(tx, person.id, wanted)
            return contacts.get(tx, person.id)

        return await self._database.write(change)

    async def set_verified(self, name: str, verified: bool) -> Contact:
        """Notes that the safety numbers were compared, or takes that back."""

        def change(tx: Tx) -> Contact:
            person = contacts.find(tx, name)
            contacts.set_verified(tx, person.id, verified)
            return contacts.get(tx, person.id)

        return await self._database.write(change)

    async def set_blocked(self, name: str, blocked: bool) -> Contact:
        """A blocked contact gets neither tags nor records nor answers of ours: to them we are offline."""

        def change(tx: Tx) -> Contact:
            person = contacts.find(tx, name)
            contacts.set_blocked(tx, person.id, blocked)
            return contacts.get(tx, person.id)

        person = await self._database.write(change)
        await self._took_effect(person.id)
        if not blocked:
            self._links.connect_soon(person.id)
        return person

    async def set_tells_reading(self, name: str, on: bool) -> Contact:
        """Whether they learn, from now on, when their messages are marked read here."""

        def change(tx: Tx) -> Contact:
            person = contacts.find(tx, name)
            contacts.set_tells_reading(tx, person.id, on)
            return contacts.get(tx, person.id)

        return await self._database.write(change)

    async def remove(self, name: str) -> None:
        """Removes the contact with its keys and all messages to and from it. There is no way back but pairing."""

        def change(tx: Tx) -> ContactId:
            person = contacts.find(tx, name)
            contacts.remove(tx, person.id)
            return person.id

        await self._took_effect(await self._database.write(change))
        await self._database.truncate_log()  # it has the keys and texts still

    async def _took_effect(self, contact_id: ContactId) -> None:
        await self._roster.reload(contact_id)
        known = self._roster.get(contact_id)
        if known is None or known.blocked:
            await self._links.drop(contact_id)
