"""What must hold in every run, whatever goes wrong: checked at each commit, each chunk on a wire, each attempt to
connect. `SAFETY` has the names that a scenario may list under `[check] safety`."""

from typing import Final

SAFETY: Final[dict[str, str]] = {
    "exactly-once": "a message is in its recipient's inbox once, unchanged, and in nobody else's",
    "order": "messages of one person to another arrive in the order in which they were sent",
    "nothing-lost": "what `send` returned for is on the sender's disk, and what was received on the recipient's",
    "no-plaintext": "no text of a message is readable on any wire",
    "third-parties": "no relay or DHT server can read a message, or keeps anything but address records",
    "address-hidden": "a node with relay = only never shows its address to a contact",
    "states-forward": "a message's state changes as core/delivery.py allows, over crashes too",
    "receipts-true": "DELIVERED means: durably on the recipient's disk",
    "links-agree": "after a calm while both sides of a link know of it, and of no second one",
    "stops": "a node that is told to stop ends within five seconds",
    "no-defects": "no part of a node fails and has to begin anew",
}
