"""The pages in a real browser, within a real Airflow: every page and control, by mouse and by keyboard."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Download,
    Frame,
    Page,
    expect,
)

from bigtcp_bench.report import links
from bigtcp_bench.resources import include_dir
from bigtcp_bench.warehouse import incidents
from bigtcp_bench.warehouse.store import Warehouse
from tests.monitoring.servers import asked, prometheus, until
from tests.web.airflow_server import AirflowServer, RunningServer
from tests.web.browsing import DRAWN_ANEW, chromium, draw_all, framed, log_in, profile
from tests.web.history import CLUSTER, DAG_ID, LAB, NIGHTS

pytestmark = pytest.mark.browser

# A busy machine may take a page's time.
expect.set_options(timeout=30_000)

SCREENSHOTS = Path(__file__).resolve().parents[2] / ".bigtcp" / "screenshots"
RUN_ID = "browser__2026-03-01T02:00:00+00:00"
#: The first run of the newest Cilium.
UPGRADED = NIGHTS - 24
PAGES = (
    "overview",
    "trend?scenario=ipv6-stream-1",
    "runs",
    f"run/{NIGHTS}",
    f"run/{NIGHTS + 2}",
    f"run/{UPGRADED}",
    f"compare?a={NIGHTS - 1}&b={NIGHTS}",
    f"compare?cluster={CLUSTER}&before=1.18.1&after=1.18.3",
    "incidents",
    "incidents/2",
    "incidents/3",
)
DARK, LIGHT = "rgb(20, 24, 31)", "rgb(255, 255, 255)"
WIDE, NARROW = 1280, 400
CUT_OFF_PX = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
#: Words of charts that are cut off on a page that is 400 pixels wide.
BEYOND_THE_SIDES = (
    "() => [...document.querySelectorAll('figure text')].filter((one) => one.textContent"
    " && (one.getBoundingClientRect().right > 400 || one.getBoundingClientRect().left < 0))"
    ".map((one) => one.textContent)"
)
NAVIGATION = ("Overview", "Trend", "Runs", "Compare", "Incidents")


@pytest.fixture(scope="module")
def warehouse(filled_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Return the warehouse behind the pages; Airflow knows its newest run."""
    path = shutil.copy(filled_file, tmp_path_factory.mktemp("browser") / "warehouse.db")
    filled = Warehouse(f"sqlite:///{path}")
    with filled.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE bigtcp_run SET run_id = ? WHERE id = ?", (RUN_ID, NIGHTS))
    return filled


@pytest.fixture(scope="module")
def airflow(warehouse: Warehouse, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowServer]:
    file = Path(str(warehouse.engine.url.database))
    with RunningServer(tmp_path_factory.mktemp("airflow"), file) as server:
        run = {"dag_run_id": RUN_ID, "logical_date": None}
        server.call("ada", f"/api/v2/dags/{DAG_ID}/dagRuns", run)
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def profiles(airflow: AirflowServer, browser: Browser) -> Iterator[dict[str, BrowserContext]]:
    """Yield two browser profiles: vera's own, and one for a guest, in which whoever is there logs in anew.

    Airflow's scripts are compiled once in each and not by every test.
    """
    found = {"vera": profile(browser, airflow, "vera"), "guest": profile(browser, airflow, None)}
    yield found
    for context in found.values():
        context.close()


@pytest.fixture
def user(airflow: AirflowServer, profiles: dict[str, BrowserContext]) -> Iterator[Callable[..., Page]]:
    """Return a function that opens a page for a user of Airflow. What goes wrong in any of them fails the test.

    ``careful=False`` is for pages that are meant to go wrong, ``guest`` for what vera's own profile must not keep.
    """
    opened: list[Page] = []
    troubles: list[str] = []

    def complain(said: ConsoleMessage) -> None:
        # Airflow's own interface has complaints of its own.
        if said.type == "error" and links.URL_PREFIX in said.location["url"]:
            troubles.append(said.text)

    def open_page(
        name: str | None = "vera",
        *,
        width: int = WIDE,
        height: int = 900,
        careful: bool = True,
        guest: bool = False,
    ) -> Page:
        is_guest = guest or name != "vera"
        context = profiles["guest" if is_guest else "vera"]
        page = context.new_page()
        opened.append(page)
        if is_guest:
            log_in(context, airflow, name)
        page.set_viewport_size({"width": width, "height": height})
        page.set_default_timeout(20_000)
        if careful:
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on("console", complain)
        return page

    yield open_page
    for one in reversed(opened):
        one.close()
    assert troubles == []


def choose(page: Page | Frame, selector: str, value: str) -> None:
    """Choose something in a form of which every change applies at once."""
    with page.expect_navigation():
        page.select_option(selector, value)


def follow(frame: Frame, name: str) -> None:
    """Follow a link of the navigation; a click that comes while the page before still loads would be lost."""
    with frame.expect_navigation():
        frame.get_by_role("link", name=name, exact=True).first.click()


def direct(page: Page, path: str) -> Page:
    """Open one of the pages without Airflow around it, and every chart on it."""
    page.goto(f"{links.URL_PREFIX}/{path}")
    draw_all(page)
    return page


def picture(page: Page, name: str, frame: Frame | None = None) -> None:
    """Keep a picture of a whole page, or of what is seen of Airflow with the top of its frame."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    (frame or page).evaluate("window.scrollTo(0, 0)")
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=frame is None)


def narrow(page: Page, where: Page | Frame) -> None:
    """Make a page narrow, and wait until its charts, which are all drawn, are as well."""
    page.set_viewport_size({"width": NARROW, "height": 900})
    where.wait_for_function(DRAWN_ANEW)


def content(download: Download) -> bytes:
    return Path(download.path()).read_bytes()


def test_from_the_login_through_the_navigation_to_every_page_until_the_login_ends(airflow, user):
    # Before the login Airflow's own pages are refused what they ask for.
    page = user(None, careful=False)
    page.goto("/")
    page.fill("input[name=username]", "vera")
    page.fill("input[name=password]", airflow.password("vera"))
    page.click("button[type=submit]")
    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="BIG TCP").click()
    frame = framed(page)
    expect(frame.locator("h1")).to_have_text("Overview")
    draw_all(frame)
    picture(page, "airflow-overview", frame)
    for name in NAVIGATION:
        follow(frame, name)
        expect(frame.locator("h1")).to_have_text(name)
        expect(frame.locator("nav [aria-current=page]")).to_have_text(name)
        # The address can be shared: it leads back here.
        expect(page).to_have_url(re.compile(f"/plugin/bigtcp/bigtcp-bench/{name.lower()}$"))
    follow(frame, "Trend")
    draw_all(frame)
    page.route("**/chart/trend.json*", lambda route: route.fulfill(status=401, json={"detail": "Not logged in"}))
    frame.get_by_role("button", name="Show").click()
    button = frame.get_by_role("button", name="Log in").first
    expect(frame.get_by_text("You are no longer logged in to Airflow.")).to_be_visible()
    page.context.clear_cookies()
    button.click()
    page.wait_for_url("**/auth/login*")


def test_every_page_is_drawn_without_a_complaint_wide_and_narrow_and_every_control_has_a_name(user):
    page = user()
    for number, path in enumerate(PAGES, 1):
        page.set_viewport_size({"width": WIDE, "height": 900})
        direct(page, path)
        name = f"{number:02}-{re.split('[/?]', path)[0]}"
        picture(page, name)
        nameless = page.evaluate(
            "() => [...document.querySelectorAll('input, select, textarea, button, a, [role=region]')]"
            ".filter((one) => !(one.labels?.length || one.textContent.trim() || one.ariaLabel))"
            ".map((one) => one.outerHTML)"
        )
        assert nameless == [], path
        assert page.locator("h1").count() == 1, path
        narrow(page, page)
        assert page.evaluate(CUT_OFF_PX) <= 0, path
        if path in (f"run/{NIGHTS}", "overview", "trend?scenario=ipv6-stream-1"):
            assert page.evaluate(BEYOND_THE_SIDES) == [], path
            picture(page, f"narrow-{name}")
        # What is said is read without scrolling to the side.
        if news := {"runs": "helps", "incidents": "gain fell from"}.get(path):
            assert page.locator(".scroll").evaluate("(one) => one.scrollWidth <= one.clientWidth")
            expect(page.locator("td.news", has_text=news).first).to_be_in_viewport()
        if path == f"run/{UPGRADED}":
            table = page.get_by_role("region", name="Before and after the change")
            after = table.get_by_role("columnheader", name="After")
            after.scroll_into_view_if_needed()
            assert after.evaluate("(one) => one.getBoundingClientRect().right") <= NARROW


def test_the_policy_stops_injected_scripts(user):
    page = direct(user(careful=False), "incidents")
    ran = page.evaluate(
        "() => { const one = document.createElement('script'); one.textContent = 'window.ran = true';"
        " document.body.append(one); return window.ran === true; }"
    )
    assert not ran


def test_overview_leads_on(user):
    page = direct(user(), "overview")
    card = page.locator("section", has=page.get_by_role("heading", name=CLUSTER))
    expect(card).to_contain_text("nobody has acknowledged it")
    expect(card).to_contain_text("none planned: the DAG is paused")
    card.get_by_text("The same as a table").click()
    expect(card.get_by_role("row", name="ipv6-stream-1")).to_contain_text("better")
    card.get_by_role("link", name="ipv6-stream-1").click()
    expect(page.locator("#scenario")).to_have_value("ipv6-stream-1")
    page.go_back()
    card.get_by_role("link", name="2 open").click()
    expect(page.locator("#state")).to_have_value("open")
    expect(page.locator("tbody tr")).to_have_count(2)


def test_trend_shows_what_is_chosen_and_its_address_carries_it(user):
    page = user()
    page.goto("/plugin/bigtcp/bigtcp-bench/trend")
    frame = framed(page)
    expect(frame.locator("#cluster")).to_have_value(CLUSTER)
    choose(frame, "#scenario", "ipv6-rr")
    expect(frame.locator("#metric")).to_have_value("transactions_per_s")
    choose(frame, "#scenario", "ipv6-stream-1")
    choose(frame, "#metric", "cpu_s_per_gb_sender")
    choose(frame, "#version", "1.18.3")
    # A date that is filled in applies at once, as every choice does.
    with frame.expect_navigation():
        frame.fill("#since", "2026-01-01")
    expect(page).to_have_url(re.compile("metric=cpu_s_per_gb_sender&since=2026-01-01.*version=1.18.3"))
    expect(frame.locator("figcaption").first).to_contain_text("CPU seconds per gigabyte")
    draw_all(frame)
    rows = frame.locator("tbody tr").count()
    with page.expect_download() as started:
        frame.get_by_role("link", name="CSV of these").click()
    lines = list(csv.DictReader(content(started.value).decode().splitlines()))
    assert len(lines) == rows
    assert {line["metric"] for line in lines} == {"cpu_s_per_gb_sender"}
    assert started.value.suggested_filename.endswith(".csv")

    shared = user("ada")
    shared.goto(page.url)
    again = framed(shared)
    expect(again.locator("#metric")).to_have_value("cpu_s_per_gb_sender")
    expect(again.locator("tbody tr")).to_have_count(rows)
    choose(again, "#cluster", LAB)
    expect(again.get_by_text("No valid night measured")).to_be_visible()


def test_a_point_tells_the_figures_of_its_night_and_opens_its_run(user):
    page = direct(user(), "trend?scenario=ipv6-stream-1")
    page.locator("figure").first.locator("path[aria-roledescription=point]").nth(40).hover()
    tooltip = page.locator("#vg-tooltip-element")
    expect(tooltip).to_be_visible()
    expect(tooltip).to_contain_text("Gbit/s")
    for chart in (0, 1):
        if chart:
            page.go_back()
            draw_all(page)
        point = page.locator("figure").nth(chart).locator("path[aria-roledescription=point]").last
        point.click(force=True)
        expect(page.locator("h1")).to_have_text(f"Run {NIGHTS} of {CLUSTER}")


def test_a_task_links_to_the_tab_of_its_run_which_leads_back(user):
    page = user(height=1400)
    page.goto(f"{links.airflow_run_url('', DAG_ID, RUN_ID)}/tasks/check_kernel/details")
    page.get_by_role("link", name="BIG TCP comparison").click()
    expect(page).to_have_url(re.compile(re.escape(links.run_url("", DAG_ID, RUN_ID))))
    frame = framed(page)
    expect(frame.locator("h1")).to_have_text(f"Run {NIGHTS} of {CLUSTER}")
    expect(frame.get_by_role("heading", name="Proof of effect")).to_be_visible()
    draw_all(frame)
    picture(page, "airflow-run", frame)
    with page.expect_download() as started:
        frame.get_by_role("link", name="All 32 raw documents").click()
    assert content(started.value).startswith(b"PK")
    frame.get_by_text("Raw documents one by one").click()
    with page.expect_download() as started:
        frame.get_by_role("link", name="repetition, ipv6-rr").first.click()
    assert content(started.value).startswith(b'{"block": 1')
    # A frame may not navigate the page around it; the link must work all the same.
    frame.get_by_role("link", name="This run in Airflow").click()
    expect(page).to_have_url(re.compile(re.escape(links.airflow_run_url("", DAG_ID, RUN_ID)) + "$"))


def test_runs_are_filtered_and_two_of_them_compared(user):
    page = direct(user(), "runs")
    choose(page, "#cluster", CLUSTER)
    choose(page, "#status", "invalid")
    expect(page.locator("tbody .status-word.invalid").first).to_be_visible()
    assert page.locator("tbody .status-word:not(.invalid)").count() == 0
    page.goto(f"{links.URL_PREFIX}/runs?cluster={CLUSTER}")
    page.get_by_role("link", name="Older ones").click()
    expect(page.locator("tbody th a").first).to_have_text(str(NIGHTS - 50))
    page.go_back()
    page.get_by_label(f"A is run {NIGHTS - 3}").check()
    page.get_by_label(f"B is run {NIGHTS}").check()
    page.get_by_role("button", name="Compare A with B").click()
    expect(page.get_by_role("heading", name=f"Run {NIGHTS - 3} (A) and run {NIGHTS} (B)")).to_be_visible()
    page.select_option("#before", "1.17.9")
    page.select_option("#after", "1.18.1")
    page.get_by_role("button", name="Compare versions").click()
    expect(page.get_by_role("heading", name="Cilium 1.17.9 and 1.18.1")).to_be_visible()
    page.get_by_text("All other figures").click()
    expect(page.get_by_role("row", name="latency p99")).to_be_visible()


def test_an_incident_is_acknowledged_with_the_keyboard_alone(user, warehouse):
    reader = direct(user("vera"), "incidents/3")
    expect(reader.get_by_text("which you do not have")).to_be_visible()
    expect(reader.locator("textarea")).to_have_count(0)

    page = user("ada")
    page.goto("/plugin/bigtcp/bigtcp-bench/incidents")
    frame = framed(page)
    frame.locator("a.skip").focus()
    press_until(frame, "3")
    page.keyboard.press("Enter")
    expect(frame.locator("h1")).to_have_text("Incident 3")
    frame.locator("a.skip").focus()
    press_until(frame, "", tag="TEXTAREA")
    page.keyboard.type("the new driver <b>")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(frame.get_by_text("acknowledged by ada")).to_be_visible()
    expect(frame.get_by_text("the new driver <b>")).to_be_visible()
    found = incidents.get(warehouse, 3)
    assert (found.acknowledged_by, found.acknowledged_note) == ("ada", "the new driver <b>")


def test_an_acknowledgement_is_added_to_and_undone(user, warehouse):
    incidents.take_back(warehouse, 3)
    incidents.acknowledge(warehouse, 3, by="grace", note="a new switch")
    page = direct(user("ada"), "incidents/3")
    page.get_by_label("What else is known").fill("and a new card")
    page.get_by_role("button", name="Add as ada").click()
    expect(page.get_by_text("acknowledged by grace")).to_contain_text("and a new card")
    expect(page.get_by_role("button", name="Undo it")).to_be_hidden()
    page.get_by_text("Undo the acknowledgement").click()
    page.get_by_role("button", name="Undo it").click()
    expect(page.get_by_text("nobody has acknowledged it")).to_be_visible()
    assert not incidents.get(warehouse, 3).acknowledged


def press_until(frame: Frame, text: str, tag: str = "A", most: int = 60) -> None:
    """Press Tab until the focused element is ``tag`` with ``text``; every stop on the way must be visible."""
    for _ in range(most):
        frame.page.keyboard.press("Tab")
        found = frame.evaluate(
            "() => { const one = document.activeElement, box = one.getBoundingClientRect();"
            " return [one.tagName, one.textContent.trim(), box.width > 0 && box.height > 0,"
            " getComputedStyle(one).outlineStyle]; }"
        )
        assert found[2], found
        assert found[3] != "none", found
        if found[:2] == [tag, text]:
            return
    raise AssertionError(f"no {tag} {text!r} within {most} stops")


def test_the_skip_link_leads_to_the_content(user):
    page = direct(user(), "runs")
    page.keyboard.press("Tab")
    expect(page.locator("a.skip")).to_be_focused()
    expect(page.locator("a.skip")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#cluster")).to_be_focused()


def test_a_dag_has_the_trend_of_its_cluster_as_dark_and_as_narrow_as_airflow(user):
    page = user(guest=True)
    page.add_init_script("localStorage.setItem('theme', 'dark')")
    page.goto(f"/dags/{DAG_ID}/plugin/{links.DAG_ROUTE}")
    frame = framed(page)
    expect(frame.locator("h1")).to_have_text("Trend")
    expect(frame.locator("#cluster")).to_have_value(CLUSTER)
    draw_all(frame)
    expect(frame.locator("body")).to_have_css("background-color", DARK)
    expect(frame.locator("figure text").first).to_have_css("fill", "rgb(230, 233, 238)")
    picture(page, "airflow-dark", frame)
    page.evaluate("document.documentElement.classList.remove('dark')")
    expect(frame.locator("body")).to_have_css("background-color", LIGHT)
    narrow(page, frame)
    assert frame.evaluate(CUT_OFF_PX) <= 0
    picture(page, "airflow-narrow", frame)
    page.evaluate("localStorage.removeItem('theme')")


def test_without_airflow_around_it_the_browsers_setting_counts(user):
    page = user()
    page.emulate_media(color_scheme="dark")
    direct(page, "overview")
    expect(page.locator("body")).to_have_css("background-color", DARK)
    page.emulate_media(color_scheme="light")
    expect(page.locator("body")).to_have_css("background-color", LIGHT)


@pytest.mark.parametrize(
    ("name", "status", "words"), [("mallory", 403, "Not allowed"), (None, 401, "Not logged in")]
)
def test_who_may_not_sees_nothing(user, name, status, words):
    page = user(name, careful=False)
    answer = page.goto(f"{links.URL_PREFIX}/overview")
    assert answer.status == status
    expect(page.locator("h1")).to_have_text(words)
    assert CLUSTER not in page.content()
    picture(page, f"refused-{status}")
    for path in (*PAGES, "trend.csv", "chart/trend.json", "docs", "openapi.json", "static/x/pages.css"):
        assert page.request.get(f"{links.URL_PREFIX}/{path}").status == status, path


def test_a_chart_that_cannot_be_loaded_says_so_and_can_be_asked_for_again(user):
    page = user(careful=False)
    page.route("**/chart/**", lambda route: route.fulfill(status=503, json={"detail": "The warehouse is away."}))
    page.goto(f"{links.URL_PREFIX}/trend")
    figure = page.locator("figure").first
    expect(figure).to_contain_text("The chart could not be loaded: The warehouse is away.")
    page.unroute("**/chart/**")
    figure.get_by_role("button", name="Try again").click()
    figure.locator("svg.marks").wait_for()


@pytest.mark.prometheus
def test_a_prometheus_with_a_token_of_a_user_scrapes_as_the_document_says(
    airflow: AirflowServer, tmp_path: Path
) -> None:
    text = (include_dir().parent / "docs" / "monitoring.md").read_text(encoding="utf-8")
    (documented,) = re.findall(r"```yaml\n(scrape_configs:.*?)```", text, re.DOTALL)
    (job,) = yaml.safe_load(documented)["scrape_configs"]
    target = [{"targets": [airflow.url.removeprefix("http://")]}]
    jobs = []
    for user in ("vera", "mallory"):
        token = tmp_path / user
        token.write_text(airflow.token(user), encoding="utf-8")
        own = {"job_name": user, "scheme": "http", "scrape_interval": "2s", "static_configs": target}
        jobs.append(job | own | {"authorization": {"credentials_file": str(token)}})
    with prometheus(tmp_path, jobs) as url:
        # The first one makes the server load the pages, and may have to be given up.
        until(lambda: asked(url, 'up{job="vera"} == 1') and asked(url, 'up{job="mallory"}'), "a scrape of both")
        found = asked(url, "max_over_time(bigtcp_bench_change_ratio[1m])")
        (refused,) = asked(url, 'max_over_time(up{job="mallory"}[1m])')
    assert {(one["metric"]["job"], one["metric"]["cluster"]) for one in found} == {("vera", CLUSTER)}
    assert refused["value"][1] == "0"
