"""What a browser does with the pages, for tests and for the README's pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, BrowserContext, Frame, Page, expect, sync_playwright

from tests.web.airflow_server import AirflowServer

#: No chart is wider than the page, whose width may have changed.
DRAWN_ANEW = (
    "() => [...document.querySelectorAll('figure svg.marks')]"
    ".every((one) => one.getAttribute('width') <= document.documentElement.clientWidth)"
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a browser.

    Playwright keeps an event loop running as long as it lives, which others in the process must not find.
    """
    with sync_playwright() as playwright:
        # Root may not use Chromium's own sandbox.
        found = playwright.chromium.launch(
            executable_path="/usr/bin/chromium-headless-shell", args=["--no-sandbox"]
        )
        yield found
        found.close()


def profile(browser: Browser, airflow: AirflowServer, name: str | None) -> BrowserContext:
    """Return a profile of its own in which ``name`` is logged in; nobody for None."""
    context = browser.new_context(base_url=airflow.url)
    log_in(context, airflow, name)
    return context


def log_in(context: BrowserContext, airflow: AirflowServer, name: str | None) -> None:
    """Log ``name`` in, instead of whoever was; nobody for None."""
    context.clear_cookies()
    if name is not None:
        context.add_cookies([{"name": "_token", "value": airflow.token(name), "url": airflow.url}])


def framed(page: Page) -> Frame:
    """Return the frame of the pages within Airflow, once its content is there."""
    element = page.wait_for_selector("iframe")
    frame = element.content_frame()
    frame.wait_for_selector("h1")
    return frame


def draw_all(where: Page | Frame) -> None:
    """Scroll to every chart, so that it is fetched, and wait until it is drawn; folded ones are opened before."""
    where.evaluate("() => document.querySelectorAll('details:has(figure)').forEach((one) => { one.open = true; })")
    draw_shown(where)
    expect(where.locator("figure.remote")).to_have_count(0)


def draw_shown(where: Page | Frame) -> None:
    """Do the same with what is not folded, and end at the top."""
    for place in where.locator("figure:visible").all():
        place.scroll_into_view_if_needed()
        place.locator("svg.marks").wait_for()
    where.evaluate("window.scrollTo(0, 0)")
