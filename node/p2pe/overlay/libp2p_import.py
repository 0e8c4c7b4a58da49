"""The parts of py-libp2p that we use, imported without the rest of it.

`libp2p/__init__.py` imports every transport the library has (QUIC, WebSocket, WebRTC, ...): 50 MiB and a third of a
second or more that a node never uses. The modules we want need none of it: they import each other alone. So while
they load, their parent packages stand in `sys.modules` as empty packages with the right search path; afterwards all
packages are withdrawn, and a later `import libp2p` runs the real one, sharing the modules loaded here. (Those aren't
attributes of it then: write `from libp2p.peer.id import ID`, as the library itself does.)

Measured figures and the alternatives: docs/decisions/0001-own-connection-manager.md.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from google.protobuf.message import DecodeError
from nacl.exceptions import CryptoError

# Packages with an `__init__` that imports more than we need.
_HEAVY_PACKAGES = ("libp2p", "libp2p.security")


@contextmanager
def _light_parents() -> Iterator[None]:
    """For the duration of the block the heavy packages are empty shells with a search path.

    Does nothing when libp2p was imported already: then there is nothing left to save.
    Raises ModuleNotFoundError when py-libp2p isn't installed.
    """
    if "libp2p" in sys.modules:
        yield
        return
    spec = importlib.util.find_spec("libp2p")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("py-libp2p isn't installed; run: pip install 'libp2p~=0.8.1'")
    root = Path(spec.submodule_search_locations[0])
    for name in _HEAVY_PACKAGES:
        shell = ModuleType(name)
        path = [str(root.joinpath(*name.split(".")[1:]))]
        shell.__path__ = path
        shell.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        shell.__spec__.submodule_search_locations = path
        sys.modules[name] = shell
    try:
        yield
    finally:
        # All packages go, also the real ones below the shells: whoever imports libp2p afterwards must come in through
        # its front door, or its circular imports are met in another order than the library expects.
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == "libp2p" and hasattr(module, "__path__"):
                del sys.modules[name]


with _light_parents():
    _ed25519: Any = importlib.import_module("libp2p.crypto.ed25519")
    _serialization: Any = importlib.import_module("libp2p.crypto.serialization")
    _peer_id: Any = importlib.import_module("libp2p.peer.id")
    _noise_messages: Any = importlib.import_module("libp2p.security.noise.messages")
    _x25519: Any = importlib.import_module("libp2p.crypto.x25519")
    _exceptions: Any = importlib.import_module("libp2p.exceptions")

Ed25519PrivateKey: Any = _ed25519.Ed25519PrivateKey
X25519PublicKey: Any = _x25519.X25519PublicKey
deserialize_public_key: Any = _serialization.deserialize_public_key
BaseLibp2pError: type[Exception] = _exceptions.BaseLibp2pError
ID: Any = _peer_id.ID
# What its key and signature code raises over bytes of a stranger's choosing.
UNREADABLE: Final = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    DecodeError,
    InvalidSignature,
    CryptoError,
    BaseLibp2pError,
)
NoiseExtensions: Any = _noise_messages.NoiseExtensions
NoiseHandshakePayload: Any = _noise_messages.NoiseHandshakePayload
make_handshake_payload_sig: Any = _noise_messages.make_handshake_payload_sig
verify_handshake_payload_sig: Any = _noise_messages.verify_handshake_payload_sig
