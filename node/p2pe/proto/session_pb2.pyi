from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Purpose(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PURPOSE_UNSPECIFIED: _ClassVar[Purpose]
    PURPOSE_SESSION: _ClassVar[Purpose]
    PURPOSE_PAIR_CODE: _ClassVar[Purpose]
    PURPOSE_PAIR_LINK: _ClassVar[Purpose]
    PURPOSE_RECOVER: _ClassVar[Purpose]

class ReceiptStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RECEIPT_STATUS_UNSPECIFIED: _ClassVar[ReceiptStatus]
    RECEIPT_STATUS_DELIVERED: _ClassVar[ReceiptStatus]
    RECEIPT_STATUS_READ: _ClassVar[ReceiptStatus]
    RECEIPT_STATUS_RETRACTED: _ClassVar[ReceiptStatus]
PURPOSE_UNSPECIFIED: Purpose
PURPOSE_SESSION: Purpose
PURPOSE_PAIR_CODE: Purpose
PURPOSE_PAIR_LINK: Purpose
PURPOSE_RECOVER: Purpose
RECEIPT_STATUS_UNSPECIFIED: ReceiptStatus
RECEIPT_STATUS_DELIVERED: ReceiptStatus
RECEIPT_STATUS_READ: ReceiptStatus
RECEIPT_STATUS_RETRACTED: ReceiptStatus

class Hello(_message.Message):
    __slots__ = ("versions", "purpose", "tag", "pake", "nonce", "mlkem_ek")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    PAKE_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    MLKEM_EK_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedScalarFieldContainer[int]
    purpose: Purpose
    tag: bytes
    pake: bytes
    nonce: bytes
    mlkem_ek: bytes
    def __init__(self, versions: _Optional[_Iterable[int]] = ..., purpose: _Optional[_Union[Purpose, str]] = ..., tag: _Optional[bytes] = ..., pake: _Optional[bytes] = ..., nonce: _Optional[bytes] = ..., mlkem_ek: _Optional[bytes] = ...) -> None: ...

class HelloReply(_message.Message):
    __slots__ = ("version", "nonce", "mlkem_ct", "pake")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    MLKEM_CT_FIELD_NUMBER: _ClassVar[int]
    PAKE_FIELD_NUMBER: _ClassVar[int]
    version: int
    nonce: bytes
    mlkem_ct: bytes
    pake: bytes
    def __init__(self, version: _Optional[int] = ..., nonce: _Optional[bytes] = ..., mlkem_ct: _Optional[bytes] = ..., pake: _Optional[bytes] = ...) -> None: ...

class DeviceCertificate(_message.Message):
    __slots__ = ("body", "signature")
    BODY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    signature: bytes
    def __init__(self, body: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class CertificateBody(_message.Message):
    __slots__ = ("identity_key", "device_key", "list_version", "issued_at", "revoked")
    IDENTITY_KEY_FIELD_NUMBER: _ClassVar[int]
    DEVICE_KEY_FIELD_NUMBER: _ClassVar[int]
    LIST_VERSION_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    identity_key: bytes
    device_key: bytes
    list_version: int
    issued_at: int
    revoked: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, identity_key: _Optional[bytes] = ..., device_key: _Optional[bytes] = ..., list_version: _Optional[int] = ..., issued_at: _Optional[int] = ..., revoked: _Optional[_Iterable[bytes]] = ...) -> None: ...

class AuthPayload(_message.Message):
    __slots__ = ("certificate", "peer_identity_key", "contribution", "suggested_name", "ticket")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    PEER_IDENTITY_KEY_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    SUGGESTED_NAME_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    certificate: DeviceCertificate
    peer_identity_key: bytes
    contribution: bytes
    suggested_name: str
    ticket: bytes
    def __init__(self, certificate: _Optional[_Union[DeviceCertificate, _Mapping]] = ..., peer_identity_key: _Optional[bytes] = ..., contribution: _Optional[bytes] = ..., suggested_name: _Optional[str] = ..., ticket: _Optional[bytes] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("batch", "receipts", "order_conflict", "retractions", "pair_confirm", "ping", "pong", "goodbye", "rotation", "padding")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    ORDER_CONFLICT_FIELD_NUMBER: _ClassVar[int]
    RETRACTIONS_FIELD_NUMBER: _ClassVar[int]
    PAIR_CONFIRM_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    ROTATION_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    batch: Batch
    receipts: Receipts
    order_conflict: OrderConflict
    retractions: Retractions
    pair_confirm: PairConfirm
    ping: Ping
    pong: Ping
    goodbye: Goodbye
    rotation: Rotation
    padding: bytes
    def __init__(self, batch: _Optional[_Union[Batch, _Mapping]] = ..., receipts: _Optional[_Union[Receipts, _Mapping]] = ..., order_conflict: _Optional[_Union[OrderConflict, _Mapping]] = ..., retractions: _Optional[_Union[Retractions, _Mapping]] = ..., pair_confirm: _Optional[_Union[PairConfirm, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., pong: _Optional[_Union[Ping, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., rotation: _Optional[_Union[Rotation, _Mapping]] = ..., padding: _Optional[bytes] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("stream_id", "messages")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    stream_id: bytes
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    def __init__(self, stream_id: _Optional[bytes] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("id", "sequence", "sent_at", "body", "expire_after")
    ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SENT_AT_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_AFTER_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    sequence: int
    sent_at: int
    body: bytes
    expire_after: int
    def __init__(self, id: _Optional[bytes] = ..., sequence: _Optional[int] = ..., sent_at: _Optional[int] = ..., body: _Optional[bytes] = ..., expire_after: _Optional[int] = ...) -> None: ...

class Content(_message.Message):
    __slots__ = ("text", "edit", "reply_to")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    EDIT_FIELD_NUMBER: _ClassVar[int]
    REPLY_TO_FIELD_NUMBER: _ClassVar[int]
    text: str
    edit: Edit
    reply_to: bytes
    def __init__(self, text: _Optional[str] = ..., edit: _Optional[_Union[Edit, _Mapping]] = ..., reply_to: _Optional[bytes] = ...) -> None: ...

class Edit(_message.Message):
    __slots__ = ("target", "text")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    target: bytes
    text: str
    def __init__(self, target: _Optional[bytes] = ..., text: _Optional[str] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("id", "status", "mac")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    status: ReceiptStatus
    mac: bytes
    def __init__(self, id: _Optional[bytes] = ..., status: _Optional[_Union[ReceiptStatus, str]] = ..., mac: _Optional[bytes] = ...) -> None: ...

class Receipts(_message.Message):
    __slots__ = ("receipts",)
    RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    receipts: _containers.RepeatedCompositeFieldContainer[Receipt]
    def __init__(self, receipts: _Optional[_Iterable[_Union[Receipt, _Mapping]]] = ...) -> None: ...

class OrderConflict(_message.Message):
    __slots__ = ("stream_id", "last_sequence")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    stream_id: bytes
    last_sequence: int
    def __init__(self, stream_id: _Optional[bytes] = ..., last_sequence: _Optional[int] = ...) -> None: ...

class Retraction(_message.Message):
    __slots__ = ("id", "mac")
    ID_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    mac: bytes
    def __init__(self, id: _Optional[bytes] = ..., mac: _Optional[bytes] = ...) -> None: ...

class Retractions(_message.Message):
    __slots__ = ("retractions",)
    RETRACTIONS_FIELD_NUMBER: _ClassVar[int]
    retractions: _containers.RepeatedCompositeFieldContainer[Retraction]
    def __init__(self, retractions: _Optional[_Iterable[_Union[Retraction, _Mapping]]] = ...) -> None: ...

class PairConfirm(_message.Message):
    __slots__ = ("mac", "ticket")
    MAC_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    mac: bytes
    ticket: bytes
    def __init__(self, mac: _Optional[bytes] = ..., ticket: _Optional[bytes] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    def __init__(self, nonce: _Optional[bytes] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: int
    def __init__(self, reason: _Optional[int] = ...) -> None: ...

class Rotation(_message.Message):
    __slots__ = ("step", "epoch", "contribution")
    class Step(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STEP_UNSPECIFIED: _ClassVar[Rotation.Step]
        STEP_PROPOSE: _ClassVar[Rotation.Step]
        STEP_ACCEPT: _ClassVar[Rotation.Step]
        STEP_COMMIT: _ClassVar[Rotation.Step]
    STEP_UNSPECIFIED: Rotation.Step
    STEP_PROPOSE: Rotation.Step
    STEP_ACCEPT: Rotation.Step
    STEP_COMMIT: Rotation.Step
    STEP_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    step: Rotation.Step
    epoch: int
    contribution: bytes
    def __init__(self, step: _Optional[_Union[Rotation.Step, str]] = ..., epoch: _Optional[int] = ..., contribution: _Optional[bytes] = ...) -> None: ...
