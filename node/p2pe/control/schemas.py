"""What the control API accepts. Answers are control/shapes.py."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from p2pe.config import API_MAX_BATCH, MAX_EXPIRE_MILLIS, MAX_REVOKED_DEVICES, MESSAGE_ID_BYTES

MessageIdText = Annotated[str, Field(pattern=f"^[0-9a-f]{{{2 * MESSAGE_ID_BYTES}}}$")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")  # a misspelt field must not be ignored


class SendBody(_Request):
    to: str = Field(description="The contact's name.")
    text: str
    key: str | None = Field(default=None, description="Idempotency key: the same key again sends nothing twice.")
    reply_to: MessageIdText | None = None
    expire_after: float | None = Field(
        default=None, ge=1, le=MAX_EXPIRE_MILLIS / 1000, description="Seconds: from delivery here, from reading there."
    )


class EditBody(_Request):
    text: str
    key: str | None = Field(default=None, description="Idempotency key: the same key again sends nothing twice.")


class ResendBody(_Request):
    contact: str = Field(description="Whose messages are held.")
    to: str | None = Field(default=None, description="The contact that it has become; else the same.")


class BatchBody(_Request):
    messages: Annotated[list[SendBody], Field(min_length=1, max_length=API_MAX_BATCH)]


class InviteBody(_Request):
    kind: Literal["code", "link"] = "code"
    name: str | None = Field(default=None, description="What to call the person who comes; else what they suggest.")


class AcceptBody(_Request):
    invitation: str = Field(description="A spoken code or a link.", max_length=4096)
    name: str | None = None


class DecisionBody(_Request):
    approve: bool
    name: str | None = Field(default=None, description="What to call them; else as before.")


class RevokeBody(_Request):
    keys: Annotated[list[str], Field(max_length=MAX_REVOKED_DEVICES)] = Field(
        default=[], description="Device keys, hex. None: all other devices, known or not, by the list's version alone."
    )
    passphrase: str | None = Field(default=None, description="The key file's, when it is sealed.")


class ReplaceBody(_Request):
    """Exactly one of the two."""

    invitation: str | None = Field(default=None, description="A code or a link of the new identity.", max_length=4096)
    by: str | None = Field(default=None, description="The contact that is the new identity.")


class ContactChange(_Request):
    name: str | None = None
    verified: bool | None = None
    blocked: bool | None = None
    receipts: bool | None = Field(default=None, description="Whether they learn when you have read their messages.")


class MarkReadBody(_Request):
    """What isn't given doesn't restrict; an empty body marks everything."""

    contact: str | None = None
    ids: Annotated[list[MessageIdText] | None, Field(max_length=API_MAX_BATCH)] = None
    up_to: int | None = Field(default=None, description="Rows up to this one.")
