"""The page for a person: a few files, and a policy by which a browser fetches nothing from elsewhere."""

from pathlib import Path

from fastapi import APIRouter, Response

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parent / "static"
KINDS = {".css": "text/css", ".js": "text/javascript"}
TYPES = {path.name: KINDS[path.suffix] for path in FOLDER.iterdir() if path.suffix in KINDS}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@router.get("/")
async def index() -> Response:
    """The page itself; it shows nothing before a token was given, where there is one."""
    return _file("index.html", "text/html")


@router.get("/static/{name}")
async def part(name: str) -> Response:
    """Its styles and its scripts."""
    return _file(name, TYPES[name]) if name in TYPES else Response(status_code=404)


def _file(name: str, kind: str) -> Response:
    return Response((FOLDER / name).read_bytes(), media_type=kind, headers=HEADERS)
