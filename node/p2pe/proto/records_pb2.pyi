from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class SignedRecord(_message.Message):
    __slots__ = ("body", "signature")
    BODY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    signature: bytes
    def __init__(self, body: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class RecordBody(_message.Message):
    __slots__ = ("public_key", "slot", "sequence", "expires_at", "payload")
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    public_key: bytes
    slot: int
    sequence: int
    expires_at: int
    payload: bytes
    def __init__(self, public_key: _Optional[bytes] = ..., slot: _Optional[int] = ..., sequence: _Optional[int] = ..., expires_at: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class Addresses(_message.Message):
    __slots__ = ("peer_id", "addresses", "padding")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    peer_id: bytes
    addresses: _containers.RepeatedScalarFieldContainer[bytes]
    padding: bytes
    def __init__(self, peer_id: _Optional[bytes] = ..., addresses: _Optional[_Iterable[bytes]] = ..., padding: _Optional[bytes] = ...) -> None: ...
