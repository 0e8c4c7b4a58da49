"""The control API's routes: status, contacts, invites, reachability. Messages are in control/messages.py.

A route does no more than read the request, call one room, and present what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse

from p2pe.config import API_MAX_WAIT
from p2pe.contacts.pairing import ShownInvite
from p2pe.control import present
from p2pe.control.dht import dht_router
from p2pe.control.failures import BodyLimit, install, while_connected
from p2pe.control.identity import identity_router
from p2pe.control.messages import messages_router
from p2pe.control.schemas import AcceptBody, ContactChange, InviteBody, ReplaceBody
from p2pe.control.services import Services
from p2pe.control.shapes import (
    ContactsAnswer,
    ContactShape,
    ErrorAnswer,
    InvitesAnswer,
    InviteShape,
    ReplacedAnswer,
    StatusAnswer,
    WhyAnswer,
)
from p2pe.core.names import skeleton
from p2pe.errors import UsageError
from p2pe.model import Contact, MessageState

_FAILURES: Final[dict[int | str, dict[str, Any]]] = {"default": {"model": ErrorAnswer, "description": "It failed."}}
Wait = Annotated[float, Query(ge=0, le=API_MAX_WAIT, description="Seconds to rest until there is something new.")]


def make_api(services: Services) -> FastAPI:
    """The ASGI application. `/openapi.json` describes it."""
    api = FastAPI(
        title="p2pe control API",
        version=services.version,
        description="Local: a Unix socket of mode 0600 in the node's home. Times are Unix milliseconds.",
        responses=_FAILURES,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
    )
    install(api)
    api.add_middleware(BodyLimit)
    for router in (_node_router(services), _contacts_router(services), _invites_router(services)):
        api.include_router(router, prefix="/v1")
    api.include_router(messages_router(services), prefix="/v1")
    api.include_router(identity_router(services), prefix="/v1")
    api.include_router(dht_router(services), prefix="/v1")
    return api


def _node_router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["node"])

    @routes.get("/status", response_model=StatusAnswer)
    async def status() -> Response:
        people = await services.book.list()
        counts = await services.outbox.counts()
        answer: StatusAnswer = {
            "version": services.version,
            "pid": services.pid,
            "home": services.home,
            "started_at": services.started_at,
            "identity_key": services.identity_key.hex(),
            "key_protection": services.key_protection,
            "overlay": services.overlay(),
            "counts": {
                "contacts": len(people),
                "connected": sum(services.links.is_linked(each.id) for each in people),
                "queued": counts.get(MessageState.QUEUED, 0),
                "offered": counts.get(MessageState.OFFERED, 0),
                "held": counts.get(MessageState.HELD_IDENTITY, 0),
                "unread": await services.inbox.unread_count(),
            },
            "links": [
                shown
                for each in people
                if (shown := present.link(each, services.links.reachability(each.id))) is not None
            ],
        }
        return JSONResponse(answer)

    @routes.get("/why/{name}", response_model=WhyAnswer)
    async def why(name: str) -> Response:
        person = await services.book.find(name)
        waiting = await services.outbox.waiting(person.id)
        return JSONResponse(present.why(person, services.links.reachability(person.id),
                                        services.couriers.situation(person.id), waiting, services.now(),
                                        services.own_reach()))  # fmt: skip

    return routes


async def _shown(services: Services, person: Contact) -> ContactShape:
    [one] = _all_shown(services, [person], await services.book.list())
    return one


def _all_shown(services: Services, people: Sequence[Contact], everyone: Sequence[Contact]) -> list[ContactShape]:
    alike: dict[str, list[str]] = {}
    for each in everyone:
        alike.setdefault(skeleton(each.name), []).append(each.name)
    return [
        _present(services, each, [name for name in alike.get(skeleton(each.name), ()) if name != each.name])
        for each in people
    ]


def _present(services: Services, person: Contact, looks_like: Sequence[str]) -> ContactShape:
    link = services.links.current(person.id)
    return present.contact(person, services.identity_key, link.path if link else None, looks_like)


def _contacts_router(services: Services) -> APIRouter:
    routes = APIRouter(prefix="/contacts", tags=["contacts"])
    book = services.book

    @routes.get("", response_model=ContactsAnswer)
    async def list_contacts() -> Response:
        return JSONResponse({"contacts": _all_shown(services, everyone := await book.list(), everyone)})

    @routes.post("", response_model=ContactShape, status_code=201)
    async def accept(body: AcceptBody, request: Request) -> Response:
        """Accepts an invite. Answers once both sides have stored each other."""
        person = await while_connected(request, lambda: services.pairing.accept(body.invitation, body.name))
        return JSONResponse(await _shown(services, person), status_code=201)

    @routes.get("/{name}", response_model=ContactShape)
    async def show(name: str) -> Response:
        return JSONResponse(await _shown(services, await book.find(name)))

    @routes.patch("/{name}", response_model=ContactShape)
    async def change(name: str, body: ContactChange) -> Response:
        """Renames, verifies, blocks, tells of reading; what isn't given stays."""
        if body.verified is not None:
            await book.set_verified(name, body.verified)
        if body.blocked is not None:
            services.couriers.contact_changed((await book.set_blocked(name, body.blocked)).id)
        if body.receipts is not None:
            await book.set_tells_reading(name, body.receipts)
        if body.name is not None:
            await book.rename(name, body.name)
        return JSONResponse(await _shown(services, await book.find(body.name or name)))

    @routes.post("/{name}/replace", response_model=ReplacedAnswer)
    async def replace(name: str, body: ReplaceBody, request: Request) -> Response:
        """Gives a contact's name to a new identity of the same person; what waited for the old one is held."""
        if (body.invitation is None) == (body.by is None):
            raise UsageError("give either an invitation of the new identity, or the contact that it is already")
        done = await while_connected(
            request, lambda: services.replace_contact(name, invitation=body.invitation, by=body.by)
        )
        services.couriers.contact_changed(done.old.id)
        answer: ReplacedAnswer = {
            "old": await _shown(services, done.old),
            "new": await _shown(services, done.new),
            "held": done.held,
        }
        return JSONResponse(answer)

    @routes.delete("/{name}", status_code=204)
    async def remove(name: str) -> Response:
        """Removes the contact, with all messages from and to it."""
        person = await book.find(name)
        await book.remove(name)
        services.couriers.contact_changed(person.id)
        return Response(status_code=204)

    return routes


def _invites_router(services: Services) -> APIRouter:
    routes = APIRouter(prefix="/invites", tags=["invites"])
    pairing = services.pairing

    async def shown(invite: ShownInvite) -> InviteShape:
        person = None
        if invite.contact_id is not None:
            person = await _shown(services, await services.book.get(invite.contact_id))
        return present.invite(invite, person)

    @routes.get("", response_model=InvitesAnswer)
    async def list_invites() -> Response:
        return JSONResponse({"invites": [await shown(each) for each in await pairing.invites()]})

    @routes.post("", response_model=InviteShape, status_code=201)
    async def invite(body: InviteBody, request: Request) -> Response:
        """Opens an invite for one person and publishes it."""
        made = await while_connected(request, lambda: pairing.create_invite(body.kind, body.name))
        return JSONResponse(await shown(made), status_code=201)

    @routes.get("/{invite_id}", response_model=InviteShape)
    async def show_invite(invite_id: int, request: Request, wait: Wait = 0.0) -> Response:
        """With `wait`, answers when the invite is no longer open, or after so many seconds."""
        found = await while_connected(request, lambda: pairing.wait_for(invite_id, wait))
        return JSONResponse(await shown(found))

    @routes.delete("/{invite_id}", status_code=204)
    async def revoke(invite_id: int) -> Response:
        await pairing.revoke(invite_id)
        return Response(status_code=204)

    return routes
