"""The control API's routes for the life of an identity: devices, and requests of former contacts."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from p2pe.control import present
from p2pe.control.schemas import DecisionBody, RevokeBody
from p2pe.control.services import Services
from p2pe.control.shapes import DevicesAnswer, RequestsAnswer, RequestShape
from p2pe.core.derive import safety_number
from p2pe.identity.devices import parse_device_key
from p2pe.storage.requests import Request


def identity_router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["identity"])
    requests = services.requests

    def shown(request: Request) -> RequestShape:
        return {
            "id": request.id,
            "name": request.name or request.petname,
            "identity_key": request.identity_key.hex(),
            "safety_number": safety_number(services.identity_key, request.identity_key),
            "met_at": request.met_at,
            "first_at": request.first_at,
            "last_at": request.last_at,
            "state": request.state,
        }

    @routes.get("/devices", response_model=DevicesAnswer)
    async def list_devices() -> Response:
        """This device, and those that no longer speak for this identity."""
        return JSONResponse(present.devices(services.devices.list()))

    @routes.post("/devices/revoke", response_model=DevicesAnswer)
    async def revoke(body: RevokeBody) -> Response:
        """A newer certificate for this device, which supersedes those of all others."""
        keys = [parse_device_key(each) for each in body.keys]
        return JSONResponse(present.devices(await services.devices.revoke(keys, body.passphrase)))

    @routes.get("/requests", response_model=RequestsAnswer)
    async def list_requests() -> Response:
        """Former contacts of this restored identity who came with a ticket of ours."""
        return JSONResponse({"requests": [shown(each) for each in await requests.list()]})

    @routes.post("/requests/{request_id}", response_model=RequestShape)
    async def decide(request_id: int, body: DecisionBody) -> Response:
        """Approved ones become contacts at once if they are on the line, else when they come next."""
        if body.approve:
            return JSONResponse(shown(await requests.approve(request_id, body.name)))
        return JSONResponse(shown(await requests.refuse(request_id)))

    return routes
