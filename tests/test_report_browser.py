"""The report in a real browser, from disk: no errors, no network, live tables and charts, accessible."""

import shutil
from contextlib import contextmanager

import pytest

from innerpo import report
from tests.report_helpers import HOSTILE, study_folders

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]
DRAWN = "[...document.querySelectorAll('.plot')].every(plot => plot.dataset.live)"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    out = tmp_path_factory.mktemp("browser")
    folders = study_folders(out, prompts=40, shifts=2, seeds=(1, 2), strengths=(0.5, 1.0, 1.5))
    return report(folders, out / "report.html")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield found
        found.close()


@contextmanager
def opened(browser, file, **options):
    """The page, and what went wrong on it: script errors, console lines, requests but for the file itself."""
    context = browser.new_context(**options)
    page = context.new_page()
    faults = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda r: None if r.url.split("#")[0] in (file.as_uri(), "data:,") else faults.append(r.url))
    page.goto(file.as_uri())
    yield page, faults
    context.close()


def draw_all(page):
    for plot in page.locator(".plot").all():
        plot.scroll_into_view_if_needed()
    page.wait_for_function(DRAWN, timeout=30_000)


def body_rows(page):
    return page.locator("#example-table > tbody > tr")


def test_it_opens_from_disk_and_a_prompt_with_markup_stays_text(browser, tmp_path):
    folders = study_folders(tmp_path, methods=("dpo",), prompts=12, shifts=1)
    with opened(browser, report(folders, tmp_path / "small.html")) as (page, faults):
        page.locator("#example-controls input").fill("alert(1)")
        assert body_rows(page).count() > 0
        body_rows(page).first.get_by_role("button").click()
        assert page.locator(".texts p.text").first.evaluate("e => e.textContent") == HOSTILE
        assert page.locator(".texts script, .texts b").count() == 0
        page.wait_for_function("document.querySelector('.plot').dataset.live", timeout=30_000)
        assert faults == []


@pytest.mark.slow
def test_search_sort_filter_and_pages_of_the_examples(browser, file):
    with opened(browser, file) as (page, faults):
        count = page.locator("#example-count")
        total = int(count.inner_text().split()[0])
        differences = [
            float(t.replace("−", "-")) for t in page.locator("#example-table td:nth-child(7)").all_inner_texts()
        ]
        assert len(differences) == 25
        assert differences == sorted(differences, key=abs, reverse=True)  # the largest changes first
        page.get_by_role("button", name="Next").click()
        assert page.locator("#example-page").inner_text().startswith("page 2 of")
        header = page.locator("#example-table th", has_text="Base margin")
        for order, sign in (("ascending", 1), ("descending", -1)):
            header.get_by_role("button").click()
            assert header.get_attribute("aria-sort") == order
            shown = [
                sign * float(t.replace("−", "-"))
                for t in page.locator("#example-table td:nth-child(5)").all_inner_texts()
            ]
            assert shown == sorted(shown)
        page.get_by_label("Set", exact=True).select_option("target1")
        page.get_by_label("Change", exact=True).select_option("gained")
        page.get_by_label("Run", exact=True).select_option("dpo_seed2")
        rows = [
            line.split("\t") for line in page.locator("#example-table tbody").inner_text().splitlines() if "\t" in line
        ]
        assert {(row[2], row[3], row[7]) for row in rows} == {("target1", "dpo_seed2", "gained")}
        assert 0 < int(count.inner_text().split()[0]) < total
        page.get_by_label("Search").fill("no such words")
        assert body_rows(page).count() == 0
        assert count.inner_text() == f"0 of {total} rows"
        assert faults == []


@pytest.mark.slow
def test_tables_sort_by_value_and_by_keyboard(browser, file):
    with opened(browser, file) as (page, faults):
        table = page.locator("#examples table.sortable").first
        values = "cells => cells.map(cell => Number(cell.dataset.value))"
        table.locator("thead button").nth(1).focus()
        page.keyboard.press("Enter")
        found = table.locator("tbody td:nth-child(2)").evaluate_all(values)
        assert found == sorted(found)
        page.keyboard.press("Space")
        assert table.locator("tbody td:nth-child(2)").evaluate_all(values) == sorted(found, reverse=True)
        page.keyboard.press("Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        assert faults == []


@pytest.mark.slow
def test_dark_and_light_by_the_system_and_by_the_button(browser, file):
    background = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, file, color_scheme="light") as (page, _):
        light = page.evaluate(background)
    with opened(browser, file, color_scheme="dark") as (page, faults):
        dark = page.evaluate(background)
        assert dark != light
        button = page.get_by_role("button", name="Dark")
        assert button.get_attribute("aria-pressed") == "true"
        button.click()
        assert page.evaluate(background) == light
        page.reload()
        assert page.evaluate(background) == light  # the choice is kept
        page.get_by_role("button", name="Dark").click()
        assert page.evaluate(background) == dark
        assert faults == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_axe_finds_nothing_serious(browser, file, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    with opened(browser, file, color_scheme=scheme, viewport={"width": width, "height": 900}) as (page, faults):
        draw_all(page)
        body_rows(page).first.get_by_role("button").click()
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = axe.Axe().run(page).response["violations"]
        serious = [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]
        assert serious == []
        assert faults == []


@pytest.mark.slow
def test_without_scripts_the_tables_and_drawings_are_there(browser, file):
    with opened(browser, file, java_script_enabled=False, viewport={"width": 400, "height": 900}) as (page, faults):
        plots = page.locator(".plot")
        assert plots.count() > 3
        for plot in plots.all():
            assert plot.locator("svg").bounding_box()["width"] > 100
        assert page.locator("#headline tbody tr").count() == 5  # test, two shifts, their mean, the control
        assert page.locator("noscript p").bounding_box()["height"] > 10
        assert not page.locator("#theme").is_visible()
        assert faults == []


@pytest.mark.slow
def test_paper_is_white_and_shows_every_chart(browser, file):
    with opened(browser, file, color_scheme="dark") as (page, faults):
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--paper').trim()") == "#fff"
        assert not page.locator("#example-controls").is_visible()
        assert all(plot.locator("svg").first.is_visible() for plot in page.locator(".plot").all())
        assert faults == []
