"""SPAKE2 (library `spake2`, Ed25519 group) between an invitee, side A, and an inviter, side B.

Both peer ids go into the transcript: an answer of one conversation is of no use in another. Either call takes some
milliseconds of pure Python: run them in a worker thread.
"""

from __future__ import annotations

from typing import Final

from spake2 import SPAKE2_A, SPAKE2_B
from spake2.spake2 import SPAKEError

from p2pe.core.derive import code_psk0
from p2pe.core.invite import Code
from p2pe.errors import HandshakeError
from p2pe.model import PeerId
from p2pe.ports import Entropy

MESSAGE_BYTES: Final = 33  # a side byte and a point


class Pake:
    """One side of one run."""

    def __init__(self, code: Code, *, dialer: PeerId, responder: PeerId, is_dialer: bool, entropy: Entropy) -> None:
        side = SPAKE2_A if is_dialer else SPAKE2_B
        self._run = side(
            str(code).encode(),
            idA=b"p2pe/1 invitee" + dialer,
            idB=b"p2pe/1 inviter" + responder,
            entropy_f=entropy,
        )

    def start(self) -> bytes:
        """Our message, MESSAGE_BYTES long."""
        return bytes(self._run.start())

    def finish(self, message: bytes) -> bytes:
        """psk0 (32 bytes) from the other side's message: the same on both sides if the codes are.
        Raises HandshakeError when the message is none."""
        if len(message) != MESSAGE_BYTES:
            raise HandshakeError(f"a SPAKE2 message of {len(message)} bytes")
        try:
            return code_psk0(bytes(self._run.finish(message)))
        except (SPAKEError, ValueError):
            raise HandshakeError("the other side's SPAKE2 message isn't valid") from None
