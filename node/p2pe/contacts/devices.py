"""This identity's devices: which one speaks for it, which no longer do, and revoking while the node runs."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from p2pe.connectivity.links import LinkRegistry
from p2pe.identity.devices import DeviceList, device_list
from p2pe.identity.home import Home
from p2pe.identity.keyring import revoke_devices
from p2pe.identity.keys import Identity
from p2pe.ports import World
from p2pe.rendezvous.roster import Roster
from p2pe.storage import contacts
from p2pe.storage.database import Database


class Devices:
    """Of a running node, which holds the home's lock."""

    def __init__(
        self, world: World, home: Home, identity: Identity, database: Database, roster: Roster, links: LinkRegistry
    ) -> None:
        self._world = world
        self._home = home
        self._identity = identity
        self._database = database
        self._roster = roster
        self._links = links
        self._one_at_a_time = trio.Lock()

    def list(self) -> DeviceList:
        return device_list(self._identity)

    async def revoke(self, keys: Sequence[bytes], passphrase: str | None) -> DeviceList:
        """A newer certificate that names `keys` besides those named already; with none, it only supersedes every other
        device's. It is used from the next handshake on, and live sessions are renewed at once.

        Raises UsageError, WrongPassphrase, StorageError; nothing has changed then.
        """
        async with self._one_at_a_time:
            now, entropy = self._world.clock.now(), self._world.entropy
            renewed = await self._world.threads(
                lambda: revoke_devices(self._home, passphrase, tuple(keys), entropy, now)
            )
            self._identity.certificate = renewed.certificate
        await self._database.write(contacts.rotate_soon)  # the stolen device has the secrets
        await self._roster.load()
        for contact_id in {session.contact_id for session in self._links.all()}:
            self._links.renew_soon(contact_id)
        return self.list()
