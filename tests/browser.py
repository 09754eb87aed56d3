"""A real Chromium for the tests, driven from Python, with no network."""

import functools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.wanting import missing_unless_required

FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"


class Tab(NamedTuple):
    """A page that is open: playwright's page, what it said on the console, what it asked for."""

    page: Any
    said: list[str]
    asked: list[str]


missing = functools.partial(missing_unless_required, "UBENCH_REQUIRE_BROWSER")


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium of this machine."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        missing("Chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS.split())
        yield opened
        opened.close()


@contextmanager
def tab(chromium: Any, path: Path, *, width: int = 1280, scheme: str = "light", **options: Any) -> Iterator[Tab]:
    """The file open in a context of its own, its scripts done."""
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, **options
    )
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    if options.get("java_script_enabled", True):
        page.wait_for_selector("html[data-ready=true]", timeout=60_000)
    yield Tab(page, said, asked)
    context.close()
