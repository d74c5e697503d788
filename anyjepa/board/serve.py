"""The board's small web server.

Starlette and uvicorn are small, typed and widely kept, and bring a test client and a server that takes polls
in parallel and is told to stop cleanly. Flask and Bottle are as small, but their own servers are for
development only.

The page may read the runs of one folder and ask for a report, nothing else. A request must name this machine
in its Host header, so that no other site's name can be pointed here (DNS rebinding); asking for a report must
come from the page itself. Runs are looked up by name among those that were found: no path is made of what a
request says. Reports are shown without an origin of their own, for they came with the run's folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import socket
from collections.abc import AsyncIterator, Mapping
from importlib import resources
from typing import Any

from anyjepa.board.growing import own_file
from anyjepa.board.reporting import Reporter
from anyjepa.board.runs import Runs, text
from anyjepa.core.errors import UserError, require

MOST_RUNS, MOST_FIELDS, MOST_SMOOTHED = 64, 24, 100_000  # in one request for curves
LARGEST_BODY = 10_000  # bytes
ALONG = ("step", "epoch", "samples", "time")
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
FILES = {
    "/": ("anyjepa.board", "board.html", "text/html"),
    "/board.js": ("anyjepa.board", "board.js", "text/javascript"),
    "/board.css": ("anyjepa.board", "board.css", "text/css"),
    "/page.css": ("anyjepa.reports", "page.css", "text/css"),
}


def application(runs: Runs, reporter: Reporter, host: str = "127.0.0.1") -> Any:
    """The ASGI application.

    Args:
        runs: to show.
        reporter: that makes reports when asked.
        host: that it listens on, which says by which names it may be called.
    """
    require("starlette", "board")
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import FileResponse, Response
    from starlette.routing import Route

    def answer(request: Request, content: Any, code: int = 200) -> Response:
        body = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
        tag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return Response(body, code, {"ETag": tag}, media_type="application/json")

    def asked(request: Request) -> Any:
        run = runs.get(request.query_params.get("run", ""))
        if run is None:
            raise HTTPException(404, "there is no such run here")
        return run

    def listed(request: Request) -> Response:
        return answer(request, table(runs, reporter))

    def one(request: Request) -> Response:
        run = asked(request)
        return answer(request, {**run.details(), "making": reporter.state(run.name)})

    def curves(request: Request) -> Response:
        query = request.query_params
        names, fields = query.getlist("run")[:MOST_RUNS], query.getlist("field")[:MOST_FIELDS]
        along, smooth = query.get("along", "step"), query.get("smooth", "0")
        if along not in ALONG or not (smooth.isascii() and smooth.isdigit() and len(smooth) < 9):
            raise HTTPException(400, f"along is one of {', '.join(ALONG)}; smooth is a number of rows")
        drawn = runs.curves(names, fields, along, min(int(smooth), MOST_SMOOTHED))
        return answer(request, {"runs": drawn})

    def report(request: Request) -> Response:
        page = asked(request).folder / "report.html"
        if own_file(page) is None:
            raise HTTPException(404, "this run has no report yet")
        return FileResponse(page, headers={"Content-Security-Policy": REPORT_POLICY}, media_type="text/html")

    async def make(request: Request) -> Response:
        own = f"{request.url.scheme}://{request.headers.get('host', '')}"
        if request.headers.get("origin") != own:
            raise HTTPException(403, "only this page may ask for a report")
        if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
            raise HTTPException(415, "ask in JSON")
        body = await _body(request, LARGEST_BODY)
        try:
            name = json.loads(body or b"")["run"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise HTTPException(400, 'ask with {"run": NAME}') from None
        run = runs.get(name) if isinstance(name, str) else None
        if run is None:
            raise HTTPException(404, "there is no such run here")
        reporter.ask(run.name, run.folder)
        return answer(request, reporter.state(run.name), 202)

    def static(path: str) -> Any:
        package, name, kind = FILES[path]
        content = resources.files(package).joinpath(name).read_bytes()
        return lambda _request: Response(content, media_type=kind)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[None]:
        yield
        reporter.close()

    routes = [Route(path, static(path)) for path in FILES]
    routes += [Route("/api/runs", listed), Route("/api/run", one), Route("/api/curves", curves)]
    routes += [Route("/report", report), Route("/api/report", make, methods=["POST"])]
    return _Guarded(Starlette(routes=routes, lifespan=lifespan), host)


async def _body(request: Any, most: int) -> bytes:
    """The body of a request, None of it where it is longer than `most` bytes."""
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > most:
            return b""
    return content


def table(runs: Runs, reporter: Reporter | None = None) -> dict[str, Any]:
    """``folder`` and the rows of all ``runs``; with a reporter, what it does for each as ``making``."""
    rows = runs.rows()
    if reporter:
        rows = [{**row, "making": reporter.state(row["run"])} for row in rows]
    return {"folder": text(runs.root), "runs": rows}


class _Guarded:
    """Answers only to this machine's own names, and puts the headers that keep a page to itself on all."""

    def __init__(self, inner: Any, host: str) -> None:
        self.inner, self.host = inner, host

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.inner(scope, receive, send)
            return
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or not welcome(hosts[0], self.host):
            start = {"type": "http.response.start", "status": 421, "headers": _encoded(HEADERS)}
            await send(start)
            words = b"this board answers to this machine's own name and address only\n"
            await send({"type": "http.response.body", "body": words})
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                more = [pair for pair in _encoded(HEADERS) if pair[0] not in there]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        await self.inner(scope, receive, guarded)


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def welcome(header: str, host: str) -> bool:
    """Whether a Host header names this machine, rather than a name that somebody else may point here.

    Args:
        header: the Host header, with its port or without.
        host: what the server listens on. Beyond loopback, addresses are welcome too: they cannot be pointed.
    """
    name = header.rpartition("]")[0] + "]" if header.startswith("[") else header.partition(":")[0]
    name = name.lower().rstrip(".").strip("[]")
    if name == "localhost":
        return True
    address = _address(name)
    if loopback(host):
        return address is not None and address.is_loopback
    own = {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
    return address is not None or name in own


def loopback(host: str) -> bool:
    """Only this machine can reach what listens on `host`."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; `port` 0 takes a free one.

    Raises:
        UserError: the port is taken, or the machine has no such address.
    """
    if not 0 <= port < 65536:
        raise UserError(f"there is no port {port}; choose another --port (0 takes a free one).")
    try:
        kind = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(kind[0], socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(kind[4])
        opened.listen(128)
    except OSError as problem:
        raise UserError(
            f"cannot listen on {host}, port {port} ({problem}); choose another --port (0 takes a free one) "
            "or --host."
        ) from problem
    return opened


def address_of(opened: socket.socket, host: str) -> str:
    """Where the page is: ``http://127.0.0.1:8127/``."""
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{opened.getsockname()[1]}/"


def server(runs: Runs, host: str) -> Any:
    """A server of the runs, whose ``run(sockets=[listen(host, port)])`` serves until it is told to stop.

    Raises:
        UserError: the extra ``board`` is not installed.
    """
    uvicorn = require("uvicorn", "board")
    settings = uvicorn.Config(
        application(runs, Reporter(), host),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(settings)
