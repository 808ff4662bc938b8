"""`view` in a real browser: another process trains, the page follows without being loaded again."""

import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
import uvicorn

from innerpo.view.app import make_app
from innerpo.view.server import bind
from view_helpers import finished, training, write_config, write_log

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine"),
]
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]
SOON = 40_000  # a machine may have other work
LIVE = "Live: this page follows the files."

TRAINER = """
import json, pathlib, sys, time
from innerpo import progress
from innerpo.training import state
state.SECONDS_BETWEEN_WRITES = 0.0
folder = pathlib.Path(sys.argv[1])
with state.recorded_state(folder, "training"), progress.task("training", 10) as update:
    update(0)
    for step in range(1, 11):
        input()
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "loss": 1 / step, "rewards/accuracies": step / 10}) + "\\n")
        update(step)
        print(step, flush=True)
(folder / "run.json").write_text('{"method": "dpo", "steps": 10}')
"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield found
        found.close()


@contextmanager
def served(root, port=0):
    """The server in a thread; its address."""
    with bind(port) as listening:
        config = uvicorn.Config(make_app(root), log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(10)


@contextmanager
def opened(browser, address, **options):
    """A page, and what went wrong on it: errors of scripts, lines of the console, requests to elsewhere."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(SOON)
    faults = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    own = address.split("/")[2]
    page.on(
        "request", lambda r: None if r.url.split("/")[2] == own else faults.append(r.url) if r.url != "data:," else None
    )
    page.goto(address)
    yield page, faults
    context.close()


class Trainer:
    """A process of its own that trains, one step each time it is told to."""

    def __init__(self, folder):
        command = [sys.executable, "-c", TRAINER, str(folder)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def step(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()


@pytest.fixture
def trainer(tmp_path):
    found = Trainer(write_config(tmp_path / "runs" / "busy"))
    yield found
    with found.process as process:  # closes its pipes
        process.kill()


def text_of(page, selector, text):
    page.locator(selector, has_text=text).first.wait_for()


def points_of(page, count):
    for number in (0, 1):  # by locators: the page's policy forbids the scripts that playwright's waits would run in it
        page.locator("figure.curve").nth(number).locator(f".plot[data-points='{count}']").wait_for()


def test_a_training_in_another_process_is_followed_without_loading_the_page_again(browser, trainer, tmp_path):
    root, row = tmp_path / "runs", "tr[data-key=busy]"
    trainer.step()
    with served(root) as address, opened(browser, address) as (page, faults):
        page.evaluate("window.samePage = true")
        text_of(page, row, "1 of 10")
        text_of(page, row, "training")
        points_of(page, 1)
        page.locator(f"{row} input").focus()
        trainer.step()
        trainer.step()
        text_of(page, row, "3 of 10")
        points_of(page, 3)
        assert page.evaluate("document.activeElement.value") == "busy"  # the place of the keyboard was kept
        assert page.locator(".plot svg").count() == 2
        finished(root / "appeared")
        text_of(page, "tr[data-key=appeared]", "finished")
        shutil.rmtree(root / "appeared")
        page.locator("tr[data-key=appeared]").wait_for(state="detached")
        write_log(root / "busy", [], torn='{"step": 4, "lo')
        text_of(page, row, "the last line is not complete yet")
        with (root / "busy" / "metrics.jsonl").open("a") as file:
            file.write('ss": 0.125, "rewards/accuracies": 1.0}\n')
        points_of(page, 4)
        trainer.process.kill()
        text_of(page, row, "interrupted")
        assert page.evaluate("window.samePage") is True
        assert page.locator("#connection").inner_text() == LIVE
        assert faults == []


def test_a_run_is_followed_to_its_scores(browser, trainer, tmp_path):
    trainer.step()
    with served(tmp_path / "runs") as address, opened(browser, f"{address}runs/busy") as (page, faults):
        text_of(page, "#state", "1 of 10")
        text_of(page, "#lines", "The last 1 lines of the log")
        while trainer.step().strip() != "10":
            pass
        trainer.process.wait(10)
        text_of(page, "#state", "finished")
        text_of(page, "#lines tbody tr:last-child", "0.1")
        points_of(page, 10)
        finished(tmp_path / "other")
        shutil.copy(tmp_path / "other" / "headline.json", tmp_path / "runs" / "busy" / "headline.json")
        text_of(page, "#tables", "0.875 [0.775, 0.975]")
        page.locator("select[name=key]").first.select_option("rewards/accuracies")
        page.locator("figure").first.locator(".plot[aria-label^='rewards/accuracies']").wait_for()
        page.locator("select[name=key]").nth(1).select_option("loss")  # both the same
        page.locator("figure").nth(1).locator(".plot[aria-label^='loss']").wait_for()
        shutil.rmtree(tmp_path / "runs" / "busy")
        text_of(page, "#connection.lost", "Not up to date: there is no such run")
        assert [fault for fault in faults if "404" not in fault] == []


def test_the_page_says_when_the_server_is_gone_and_goes_on_when_it_is_back(browser, tmp_path):
    training(tmp_path / "a")
    with served(tmp_path) as address, opened(browser, address) as (page, _):
        text_of(page, "#connection", LIVE)
        page.context.set_offline(True)
        text_of(page, "#connection.lost", "Not up to date: the server does not answer")
        page.context.set_offline(False)
        text_of(page, "#connection:not(.lost)", LIVE)


def test_filter_sort_choose_and_compare_by_keyboard(browser, tmp_path):
    finished(tmp_path / "alpha")
    training(tmp_path / "beta")
    write_config(tmp_path / "gamma")
    visible = "[...document.querySelectorAll('#rows tr')].filter(r => !r.hidden).map(r => r.dataset.key)"
    with served(tmp_path) as address, opened(browser, address) as (page, faults):
        text_of(page, "#connection", LIVE)
        page.keyboard.press("Tab")  # the button for the dark page
        assert page.evaluate("document.activeElement.id") == "theme"
        page.keyboard.press("Tab")
        page.keyboard.type("beta")
        assert page.evaluate(visible) == ["beta"]
        page.keyboard.press("Enter")  # a filter is no form to send
        assert page.url == address
        page.locator("#filter").fill("")
        page.locator("#state").select_option("planned")
        assert page.evaluate(visible) == ["gamma"]
        page.locator("#state").select_option("")
        page.locator("thead button", has_text="Run").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        assert page.evaluate(visible) == ["gamma", "beta", "alpha"]
        for name in ("alpha", "beta"):
            page.locator(f"tr[data-key={name}] input").focus()
            page.keyboard.press("Space")
        page.wait_for_url("**/?run=beta&run=alpha")
        page.locator(".legend li", has_text="alpha").first.wait_for()
        page.reload()
        assert page.locator("input:checked").count() == 2
        page.locator("button", has_text="Compare").focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/compare?run=alpha&run=beta")
        text_of(page, "h1", "Two runs compared")
        points_of(page, 4)
        assert faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_axe_finds_nothing_serious_and_nothing_overflows(browser, tmp_path, scheme, width):
    finished(tmp_path / "a_run_with_a_long_name_seed1+0123abcd")
    training(tmp_path / "busy")
    (tmp_path / "busy" / "run.json").write_text("{")
    size = {"width": width, "height": 900}
    names = "run=busy&run=a_run_with_a_long_name_seed1%2B0123abcd"
    with served(tmp_path) as address, opened(browser, address, color_scheme=scheme, viewport=size) as (page, faults):
        for path in ("", "runs/busy", f"compare?{names}"):
            page.goto(address + path)
            page.locator(".plot svg").nth(1).wait_for()
            for summary in page.locator("summary").all():
                summary.click()
            found = axe.Axe().run(page).response["violations"]
            assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") == (scheme == "light")
        page.locator("#theme").click()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background
        assert faults == []


def test_another_origin_learns_nothing(browser, tmp_path):
    """A page of another port of this machine may neither read nor frame nor run anything of the server's."""
    finished(tmp_path / "runs" / "a")
    probe = tmp_path / "elsewhere"
    probe.mkdir()
    with served(tmp_path / "runs") as address, served(probe) as elsewhere:
        context = browser.new_context()
        page = context.new_page()
        page.route(f"{elsewhere}probe", lambda route: route.fulfill(content_type="text/html", body="<p>probe</p>"))
        page.goto(f"{elsewhere}probe")
        read = """async (address) => {
            try { return await (await fetch(address)).text(); } catch (error) { return error.name; }
        }"""
        assert page.evaluate(read, address) == "TypeError"
        opaque = "async (address) => (await fetch(address, {mode: 'no-cors'}).catch(e => ({type: e.name}))).type"
        assert page.evaluate(opaque, f"{address}chart.json") == "TypeError"  # not even an opaque answer
        assert page.evaluate(read, elsewhere) != "TypeError"
        context.close()


def test_a_real_training_and_scoring_is_shown(browser, tmp_path, toy_folder):
    options = {
        "model.base-model": toy_folder, "data.dataset": "embedded:longer", "data.max-train-prompts": 64,
        "data.batch-size": 2, "data.cache-dir": tmp_path / "cache", "training.epochs": 4, "training.log-steps": 1,
        "training.save-steps": 50, "eval.max-prompts": 48, "eval.batch-size": 1, "output-dir": tmp_path / "runs",
    }  # fmt: skip
    command = [sys.executable, "-m", "innerpo", "train", "dpo", *(f"--{k}={v}" for k, v in options.items())]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    (tmp_path / "runs").mkdir()
    with served(tmp_path / "runs") as address, opened(browser, address) as (page, faults):
        text_of(page, "#none", "There are no runs here yet")
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            try:
                page.locator("tr[data-state=training]").wait_for(timeout=120_000)
                text_of(page, "#rows tr", "of 128")
                page.locator("figure.curve .plot svg").first.wait_for(timeout=60_000)
                seen = {page.locator("#rows progress").first.get_attribute("value")}
                page.locator("tr[data-state=finished]", has_text="128 of 128").wait_for(timeout=120_000)
                page.locator("#rows .interval").first.wait_for(timeout=120_000)
            finally:
                _, said = process.communicate()
        assert process.returncode == 0, said
        assert seen != {"128"}
        points_of(page, 128)
        assert faults == []
