"""The control API's routes for messages: sending, states, inbox."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from p2pe.config import API_MAX_WAIT, API_PAGE
from p2pe.control import present
from p2pe.control.failures import while_connected
from p2pe.control.schemas import BatchBody, EditBody, MarkReadBody, ResendBody, SendBody
from p2pe.control.services import Services
from p2pe.control.shapes import (
    AcceptedAnswer,
    InboxAnswer,
    IncomingDetail,
    IncomingHistory,
    MarkedAnswer,
    OutboxAnswer,
    OutgoingShape,
)
from p2pe.errors import UsageError
from p2pe.messaging.inbox import Followed
from p2pe.messaging.outbox import SendRequest
from p2pe.model import MessageId, MessageState

ContactName = Annotated[str | None, Query(description="Only with this contact.")]
Limit = Annotated[int, Query(ge=1, le=API_PAGE, description="At most so many.")]


def _request(body: SendBody) -> SendRequest:
    reply_to = None if body.reply_to is None else MessageId(bytes.fromhex(body.reply_to))
    return SendRequest(body.to, body.text, body.key, reply_to, round(1000 * (body.expire_after or 0)))


def _inbox_answer(followed: Followed, after: int) -> InboxAnswer:
    return {
        "messages": [present.incoming(each) for each in followed.messages],
        "next": followed.messages[-1].row if followed.messages else after,
        "ended": [present.incoming(each) for each in followed.ended],
        "next_ended": followed.ended_number,
    }


def messages_router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["messages"])
    outbox, inbox = services.outbox, services.inbox

    @routes.post("/messages", response_model=OutgoingShape, status_code=201)
    async def send(body: SendBody) -> Response:
        """Answers once the message is durably committed on this machine."""
        [message] = await outbox.send_many([_request(body)])
        return JSONResponse(present.outgoing(message), status_code=201)

    @routes.post("/messages/batch", response_model=AcceptedAnswer, status_code=201)
    async def send_batch(body: BatchBody) -> Response:
        """Many at once: all are durably committed, in this order, or none."""
        messages = await outbox.send_many([_request(each) for each in body.messages])
        return JSONResponse({"ids": [each.id.hex() for each in messages]}, status_code=201)

    @routes.post("/resend", response_model=AcceptedAnswer)
    async def resend(body: ResendBody) -> Response:
        """Sends what is held for a contact, to it or to the contact that it has become. Answers with the ids."""
        resent = await services.resender.resend(body.contact, body.to)
        return JSONResponse({"ids": [each.hex() for each in resent.ids]})

    @routes.get("/messages/{identifier}", response_model=OutgoingShape)
    async def show(
        identifier: str,
        request: Request,
        wait: Annotated[MessageState | None, Query(description="Rest until it is at least this far.")] = None,
        timeout: Annotated[float, Query(ge=0, le=API_MAX_WAIT, description="Seconds; then it fails.")] = 60.0,
    ) -> Response:
        """`identifier`: the id, or as much of its beginning as is unique."""
        if wait is None:
            return JSONResponse(present.outgoing(await outbox.show(identifier)))
        message = await while_connected(request, lambda: outbox.wait(identifier, wait, timeout))
        return JSONResponse(present.outgoing(message))

    @routes.delete("/messages/{identifier}", response_model=OutgoingShape)
    async def retract(identifier: str) -> Response:
        """Takes a message back: erased if it never left, asked back if it may have."""
        return JSONResponse(present.outgoing(await outbox.retract(identifier)))

    @routes.post("/messages/{identifier}/edits", response_model=OutgoingShape, status_code=201)
    async def edit(identifier: str, body: EditBody) -> Response:
        """Queues a message that replaces the text of an earlier one, and answers with it."""
        message = await outbox.edit(identifier, body.text, idempotency_key=body.key)
        return JSONResponse(present.outgoing(message), status_code=201)

    @routes.get("/messages/{identifier}/history", response_model=OutboxAnswer)
    async def history(identifier: str) -> Response:
        """A message of ours and what replaced its text, oldest first."""
        return JSONResponse({"messages": [present.outgoing(each) for each in await outbox.history(identifier)]})

    @routes.get("/outbox", response_model=OutboxAnswer)
    async def list_outbox(
        contact: ContactName = None,
        state: Annotated[list[MessageState] | None, Query(description="Only in these states.")] = None,
        before: Annotated[str | None, Query(description="Only older than this id.")] = None,
        limit: Limit = API_PAGE,
    ) -> Response:
        """The newest ones, oldest of them first."""
        older = None if before is None else (await outbox.show(before)).id
        found = await outbox.list(contact_name=contact, states=state or (), before=older, limit=limit)
        return JSONResponse({"messages": [present.outgoing(each) for each in found]})

    @routes.get("/inbox", response_model=InboxAnswer)
    async def list_inbox(
        request: Request,
        contact: ContactName = None,
        after: Annotated[int, Query(ge=0, description="Rows above this one: `next` of the answer before.")] = 0,
        unread: Annotated[bool, Query(description="Only what isn't marked as read.")] = False,
        newest: Annotated[int | None, Query(ge=1, le=API_PAGE, description="Instead: the last so many.")] = None,
        ended: Annotated[bool, Query(description="Also what was taken back or has expired, without its text.")] = False,
        limit: Limit = API_PAGE,
        wait: Annotated[float, Query(ge=0, le=API_MAX_WAIT, description="Seconds to rest while there is none.")] = 0.0,
        ended_after: Annotated[
            int | None, Query(ge=0, description="Also what ended since: `next_ended` of the answer before.")
        ] = None,
    ) -> Response:
        """One page, oldest first. A loop with `after`, `ended_after` and `wait` follows all and misses nothing."""
        if newest is not None and (after or unread or wait):
            raise UsageError("newest goes with contact alone; leave out after, unread and wait")
        if ended_after is not None and (newest is not None or unread or ended):
            raise UsageError("ended_after goes with after, wait and contact; leave out newest, unread and ended")
        if newest is None and not unread and not ended:
            followed = await while_connected(
                request,
                lambda: inbox.follow(
                    contact_name=contact, after=after, ended_after=ended_after, limit=limit, timeout=wait
                ),
            )
            return JSONResponse(_inbox_answer(followed, after))
        next_ended = await inbox.last_ended()
        if newest is not None:
            found = await inbox.newest(contact_name=contact, limit=newest, ended=ended)
        else:
            found = await inbox.list(contact_name=contact, after=after, unread_only=unread, limit=limit, ended=ended)
        return JSONResponse(_inbox_answer(Followed(found, [], next_ended), after))

    @routes.get("/inbox/{identifier}", response_model=IncomingDetail)
    async def show_incoming(identifier: str) -> Response:
        """One message to us; `identifier` as for ours."""
        message = await inbox.show(identifier)
        person = await services.book.get(message.contact_id)
        return JSONResponse({**present.incoming(message), "reason": inbox.explain(message, person)})

    @routes.get("/inbox/{identifier}/history", response_model=IncomingHistory)
    async def incoming_history(identifier: str) -> Response:
        """A message to us and what replaced its text, oldest first."""
        return JSONResponse({"messages": [present.incoming(each) for each in await inbox.history(identifier)]})

    @routes.post("/inbox/read", response_model=MarkedAnswer)
    async def mark_read(body: MarkReadBody) -> Response:
        """Marks messages as read; what isn't given doesn't restrict."""
        if body.ids is not None and not body.ids:
            return JSONResponse({"marked": 0})
        ids = [MessageId(bytes.fromhex(each)) for each in body.ids or ()]
        marked = await inbox.mark_read(contact_name=body.contact, ids=ids, up_to=body.up_to)
        return JSONResponse({"marked": marked})

    return routes
