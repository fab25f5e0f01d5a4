import asyncio
import importlib.util
import re
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

from factory.web.clean import SHARING_TAG, CleanPages

FOREIGN = (
    '<meta property="og:url" content="https://foreign.example/" />\n'
    '<meta name="twitter:image" content="https://foreign.example/x.png">'
    '<link rel="preconnect" href="https://fonts.example" />\n'
    '<link href="http://fonts.example/css" rel="stylesheet">'
)
OWN = '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="./assets/a.css"><p>https://x</p>'
PAGE = f"<head>{FOREIGN}{OWN}</head>"


def _get(path, accept="gzip"):
    async def pieces():
        for at in range(0, len(PAGE), 7):
            yield PAGE[at : at + 7]

    def headers(request):
        return PlainTextResponse(request.headers.get("accept-encoding", "none"))

    routes = [
        Route("/ui/page", lambda request: HTMLResponse(PAGE)),
        Route("/ui/pieces", lambda request: StreamingResponse(pieces(), media_type="text/html")),
        Route("/ui/data", lambda request: JSONResponse({"page": FOREIGN})),
        Route("/ui/headers", headers),
        Route("/other", lambda request: HTMLResponse(PAGE)),
    ]

    async def run():
        transport = httpx.ASGITransport(CleanPages(Starlette(routes=routes), "/ui"))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(path, headers={"accept-encoding": accept})

    return asyncio.run(run())


@pytest.mark.parametrize("path", ["/ui/page", "/ui/pieces"])
def test_foreign_addresses_are_cut_and_the_rest_of_the_page_stays(path):
    answer = _get(path)

    assert answer.text == f"<head>{OWN}</head>"
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_what_is_no_page_or_stands_elsewhere_passes_untouched():
    assert _get("/ui/data").json() == {"page": FOREIGN}
    assert _get("/other").text == PAGE
    assert _get("/ui/missing").status_code == 404


def test_pages_do_not_come_compressed():
    assert _get("/ui/headers").text == "none"


@given(st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=200))
def test_text_without_tags_is_never_changed(text):
    assert SHARING_TAG.sub(b"", text.encode()) == text.encode()


def test_gradios_own_page_holds_no_foreign_address_in_its_head_afterwards():
    package = importlib.util.find_spec("gradio").origin  # importing it takes ten seconds
    template = Path(package).parent / "templates/frontend/index.html"
    before = template.read_bytes()
    links = rb'<(?:link|meta)[^>]+(?:href|content)="https?://'

    assert re.search(links, before)
    assert not re.search(links, SHARING_TAG.sub(b"", before))
