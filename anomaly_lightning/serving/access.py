"""Who may do what: a token that may do all, one that may only look."""

import secrets
from typing import Annotated, Literal

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from anomaly_lightning.serving.problems import Problem
from anomaly_lightning.serving.service import Service, TheService

Role = Literal["read", "write"]
_bearer = HTTPBearer(auto_error=False, description="The token that the service was started with, if any.")


def role_of(service: Service, token: str) -> Role | None:
    """What a token allows; None = nothing."""
    if service.secret is None or secrets.compare_digest(token.encode(), service.secret.encode()):
        return "write"
    known = service.read_secret
    return "read" if known is not None and secrets.compare_digest(token.encode(), known.encode()) else None


async def authorised(
    service: TheService, shown: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Role:
    """Who asks may look; raises `Problem` 401."""
    role = role_of(service, "" if shown is None else shown.credentials)
    if role is None:
        what = "Expected the header 'Authorization: Bearer <token>'" if shown is None else "This is not the token"
        raise Problem(401, f"{what} of this service.", headers={"WWW-Authenticate": "Bearer"})
    return role


async def may_write(request: Request, service: TheService, role: Annotated[Role, Depends(authorised)]) -> None:
    """Who asks may inspect and mark; raises `Problem` 403.

    Without a token the browser on this machine could be made to by a page from elsewhere: it says where a request
    comes from.
    """
    if role != "write":
        raise Problem(403, "This token may only look: what changes something needs the other one.")
    if service.secret is None and request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise Problem(403, "A page from elsewhere asks for this: without a token it may not.")


MayRead, MayWrite = Depends(authorised), Depends(may_write)
TheRole = Annotated[Role, Depends(authorised)]
