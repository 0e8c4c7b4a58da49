from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class InviteLink(_message.Message):
    __slots__ = ("secret", "identity_commitment", "bootstrap", "expires_at")
    SECRET_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    BOOTSTRAP_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    secret: bytes
    identity_commitment: bytes
    bootstrap: _containers.RepeatedScalarFieldContainer[str]
    expires_at: int
    def __init__(self, secret: _Optional[bytes] = ..., identity_commitment: _Optional[bytes] = ..., bootstrap: _Optional[_Iterable[str]] = ..., expires_at: _Optional[int] = ...) -> None: ...

class TicketBody(_message.Message):
    __slots__ = ("peer_identity_key", "petname", "met_at")
    PEER_IDENTITY_KEY_FIELD_NUMBER: _ClassVar[int]
    PETNAME_FIELD_NUMBER: _ClassVar[int]
    MET_AT_FIELD_NUMBER: _ClassVar[int]
    peer_identity_key: bytes
    petname: str
    met_at: int
    def __init__(self, peer_identity_key: _Optional[bytes] = ..., petname: _Optional[str] = ..., met_at: _Optional[int] = ...) -> None: ...
