"""The server of `view`: its pages, and everything that it refuses."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from http.client import HTTPConnection

import polars as pl
import pytest
from starlette.testclient import TestClient

from innerpo.cli.verbs import main
from innerpo.errors import UserError
from innerpo.evaluation.facts import PAIRS, RESPONSES, SETS, Scores
from innerpo.view import app as server_app
from innerpo.view.app import make_app
from innerpo.view.pages import ASSETS
from innerpo.view.server import ADDRESS, bind
from view_helpers import CONFIG, drawn_rows, finished, training, write_config, write_log, write_state

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    finished(root / "done")
    training(root / "group" / "busy+1")
    write_config(root / "waiting")
    write_config(tmp_path / "secret", CONFIG + "secret: yes\n")
    (root / "way out").symlink_to(tmp_path / "secret")
    return root


@pytest.fixture
def client(root):
    with TestClient(make_app(root), base_url="http://127.0.0.1:4321", raise_server_exceptions=True) as found:
        yield found


def rows(page):
    return dict(re.findall(r'<tr data-key="([^"]*)" data-state="(\w+)"', page))


# -- pages -------------------------------------------------------------------------------------------------------------


def test_the_list_has_every_run_with_status_progress_and_scores(client):
    page = client.get("/").text
    assert rows(page) == {"done": "finished", "group/busy+1": "training", "waiting": "planned"}
    assert "3 runs: 1 training, 1 planned, 1 finished" in page
    assert '<progress max="8" value="2" aria-label="Steps done"></progress> 2 of 8' in page
    assert "30 s" in page
    assert '0.875 <span class="soft interval">[0.775, 0.975]</span>' in page
    assert 'href="/runs/group/busy%2B1"' in page


def test_the_page_of_a_run(client):
    page = client.get("/runs/group/busy%2B1").text
    assert '<span class="status training">training</span>' in page
    assert "2 of 8" in page
    assert "data: {dataset: &#39;embedded:longer&#39;}" in page  # config.yaml as it stands
    assert "Not scored yet" in page
    assert "0.875 [0.775, 0.975]" in client.get("/runs/done").text


def test_a_root_that_is_a_run_itself(root):
    with TestClient(make_app(root / "done"), base_url="http://127.0.0.1") as client:
        assert rows(client.get("/").text) == {"": "finished"}
        assert "<h1>done</h1>" in client.get("/runs/").text
        assert client.get("/chart.json?run=&key=loss").json()["legend"][0]["label"] == "done"


def test_runs_compared(client):
    page = client.get("/compare?run=done&run=group/busy%2B1&run=gone").text
    assert "There is no run gone any more" in page
    assert "2 runs compared" in page or "Two runs compared" in page
    assert "done: dpo" in page
    assert "The configurations are the same" in page


def test_more_runs_than_are_compared_are_refused(client):
    """Their first forty alone would have means and intervals of another set, without a word."""
    many = "&".join(f"run=r{i}" for i in range(41))
    for page in ("compare", "report", "chart.json"):
        answer = client.get(f"/{page}?{many}")
        assert (answer.status_code, answer.text) == (400, "41 runs are ticked; at most 40 are compared at once")


def test_curves(client):
    drawn = client.get("/chart.json?run=done&run=group/busy%2B1&key=loss").json()
    assert [entry["label"] for entry in drawn["legend"]] == ["done", "group/busy+1"]
    assert [row["y"] for row in drawn_rows(drawn)] == [0.75, 0.5, 0.75, 0.5]
    assert len(client.get("/chart.json?key=loss").json()["legend"]) == 2  # without a choice: those with a log


def test_the_report_is_that_of_the_verb(client, monkeypatch):
    monkeypatch.setattr(server_app, "report_html", lambda runs: f"<p>report of {[run.path for run in runs]}</p>")
    answer = client.get("/report?run=done")
    assert (answer.status_code, answer.text) == (200, "<p>report of ['done']</p>")
    assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"  # the page has its own inside


def test_a_report_that_fails_says_so(client, monkeypatch):
    def fail(error):
        def report(runs):
            raise error

        return report

    monkeypatch.setattr(server_app, "report_html", fail(UserError("done holds no scores")))
    assert client.get("/report?run=done").status_code == 404
    assert "done holds no scores" in client.get("/report?run=done").text
    monkeypatch.setattr(server_app, "report_html", fail(OSError("torn")))
    assert client.get("/report?run=done").status_code == 503
    assert client.get("/report").text == "tick runs in the list first"


def test_scripts_and_styles(client):
    for name in set(ASSETS) - {"vega.js"}:
        answer = client.get(f"/assets/{name}")
        assert answer.status_code == 200
        kind = "text/css" if name.endswith("css") else "text/javascript"
        assert answer.headers["Content-Type"].startswith(kind)
    page = client.get("/").text
    assert set(re.findall(r'(?:src|href)="/assets/([^"]+)"', page)) == set(ASSETS)
    assert not re.findall(r"<script(?![^>]*src=)(?![^>]*application/json)", page)  # the policy would not run it
    for name in ("base.html.j2", "../app.py", "..%2fapp.py", "", "view"):
        assert client.get(f"/assets/{name}").status_code == 404


def test_texts_are_text(root, client):
    folder = finished(root / HOSTILE.replace("/", ""))
    (folder / "config.yaml").write_text(f"method: {{name: '{HOSTILE}'}}\nextra: '{HOSTILE}'\n")
    (folder / "run.json").write_text(f'{{"method": "{HOSTILE}", "steps": 3}}')
    (folder / "headline.json").write_text(f'{{"mean_logp": {{"{HOSTILE}": {{"{HOSTILE}": {{"mean": 0.5}}}}}}}}')
    write_state(folder, phase="failed", error=HOSTILE)
    name = "%3Cscript%3Ealert(1)%3Cscript%3E"
    for address in ("/", f"/runs/{name}", f"/compare?run={name}&run=done", f"/compare?run=done&run={HOSTILE}"):
        text = client.get(address).text
        assert "alert(1)" in text, address
        assert "<script>" not in text
    assert "<script>" not in client.get(f"/chart.json?run={name}&key={HOSTILE}").text


def test_what_did_not_change_is_not_sent_again(root, client):
    first = client.get("/")
    again = client.get("/", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    write_log(root / "group" / "busy+1", [{"step": 3, "loss": 0.25}])
    third = client.get("/", headers={"If-None-Match": first.headers["ETag"]})
    assert third.status_code == 200
    assert third.headers["ETag"] != first.headers["ETag"]


def scored(folder, responses, reference="0f"):
    """A run's scores: ``responses`` are (prompt, log-probability of chosen, of rejected), one token each."""
    rows, pairs = [], []
    for prompt, *logps in responses:
        pairs.append(("test", f"{prompt}/1", prompt, 0, 1))
        for model, strength in (("base", 0.0), ("dpo", 1.0)):
            for i, logp in enumerate(logps):
                value = {"logp": logp if strength else -1.0, "tokens": 1, "characters": 4, "response": i}
                texts = {"model": model, "set": "test", "dataset": "toy", "split": "test", "prompt": prompt}
                unknown = {"inner": float("nan"), "abs_log_ratio": 0.5}
                rows.append(unknown | value | texts | {"strength": strength, "reference": reference})
    sets = [
        {"set": "test", "dataset": "toy", "split": "test", "role": "test", "pairs": len(pairs), "prompts": len(pairs)}
    ]
    blank = {name: "" if kind == pl.String else 0 for name, kind in SETS.items()}
    Scores(
        pl.DataFrame([[row[c] for c in RESPONSES] for row in rows], RESPONSES, orient="row"),
        pl.DataFrame(pairs, PAIRS, orient="row"),
        pl.DataFrame([list((blank | s).values()) for s in sets], SETS, orient="row"),
    ).write(folder)


def test_two_scored_runs_are_compared_by_pairs(root, client):
    finished(root / "other")
    scored(root / "done", [("a", -1.0, -2.0), ("b", -1.0, -2.0), ("c", -1.0, -2.0)])
    scored(root / "other", [("a", -1.0, -2.0), ("b", -2.0, -1.0), ("c", -2.0, -1.0)])
    address = "/compare?run=done&run=other"
    page = client.get(address).text
    for _ in range(100):
        if "is being computed" not in page:
            break
        time.sleep(0.2)
        page = client.get(address).text
    assert "done less other, paired by prompt" in page
    assert "+0.667" in page  # 3 of 3 less 1 of 3
    scored(root / "other", [("a", -1.0, -2.0)], reference="ff")
    while "is being computed" in (page := client.get(address).text):
        time.sleep(0.1)
    assert "were scored against different base models" in page
    (root / "other" / "scores.parquet").write_bytes(b"PAR1 cut PAR1")
    while "is being computed" in (page := client.get(address).text):
        time.sleep(0.1)
    assert "Paired comparison: cannot read" in page


# -- what is refused ---------------------------------------------------------------------------------------------------

WAYS_OUT = [
    "/runs/../secret", "/runs/%2e%2e/secret", "/runs/..%2fsecret", "/runs/%2e%2e%2fsecret", "/runs/..%5csecret",
    "/runs/done/../../secret", "/runs/done%2f..%2f..%2fsecret", "/runs/%252e%252e%252fsecret", "/runs//etc",
    "/runs/%2fetc", "/runs/way%20out", "/runs/way%20out/config.yaml", "/runs/done%00", "/runs/done/config.yaml",
    "/runs/done/", "/runs/.", "/compare?run=../secret", "/compare?run=%2e%2e%2fsecret", "/compare?run=way%20out",
    "/report?run=../secret", "/report?run=/etc", "/assets/..%2f..%2fapp.py", "/../secret/config.yaml", "/etc/passwd",
    "/%2e%2e/secret",
]  # fmt: skip


def ask(app, target, method="GET", headers=()):
    """One request exactly as it is written, which clients would tidy: status and body."""
    path, _, query = target.partition("?")
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "scheme": "http", "root_path": "",
        "path": re.sub("%([0-9a-fA-F]{2})", lambda m: chr(int(m[1], 16)), path), "raw_path": path.encode(),
        "query_string": query.encode(), "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 4321),
        "headers": [(b"host", b"127.0.0.1:4321"), *((k.encode(), v.encode()) for k, v in headers)],
    }  # fmt: skip
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(m.get("body", b"") for m in sent).decode()


@pytest.mark.parametrize("target", WAYS_OUT)
def test_no_address_leads_out_of_the_folder(root, target):
    status, body = ask(make_app(root), target)
    assert status == 404
    assert "secret" not in body
    assert "root:" not in body


def test_a_curve_of_a_run_elsewhere_is_empty(client):
    assert client.get("/chart.json?run=way%20out&run=../secret").json()["spec"] is None


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"])
def test_only_get_and_head(client, method):
    for path in ("/", "/runs/done", "/nothing"):
        answer = client.request(method, path)
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert client.head("/").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:4321", "127.0.0.1.evil.example", "0.0.0.0", "[::1]", "", "a@127.0.0.1"]
)
def test_another_name_of_this_machine_is_refused(client, host):
    answer = client.get("/", headers={"Host": host})
    assert answer.status_code == 400
    assert "finished" not in answer.text


@pytest.mark.parametrize("host", ["localhost:4321", "127.0.0.1:4321", "127.0.0.1", "LocalHost"])
def test_its_own_names_are_not(client, host):
    assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),  # another port of this machine is another origin
        ({"Origin": "https://127.0.0.1:4321"}, 403),
        ({"Origin": "http://127.0.0.1:4321"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
    ],
)
def test_pages_of_other_origins_are_answered_with_nothing(client, headers, status):
    for path in ("/", "/runs/done", "/chart.json", "/assets/view.js"):
        answer = client.get(path, headers=headers)
        assert answer.status_code == status
        assert "access-control-allow-origin" not in answer.headers


def test_every_answer_has_the_headers(client):
    for path, headers in (
        ("/", {}),
        ("/chart.json", {}),
        ("/nothing", {}),
        ("/", {"Host": "x"}),
        ("/", {"Origin": "null"}),
    ):
        found = client.get(path, headers=headers).headers
        assert "default-src 'none'; script-src 'self'" in found["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in found["Content-Security-Policy"]
        assert found["X-Content-Type-Options"] == "nosniff"
        assert found["Cross-Origin-Resource-Policy"] == "same-origin"
        assert found["Referrer-Policy"] == "no-referrer"


# -- folders that change meanwhile -------------------------------------------------------------------------------------


def test_runs_appear_change_and_vanish(root, client):
    write_config(root / "new")
    assert rows(client.get("/").text)["new"] == "planned"
    write_log(root / "new", torn='{"step": 3, "lo')
    assert rows(client.get("/").text)["new"] == "training"
    assert "the last line is not complete yet" in client.get("/").text
    (root / "new" / "config.yaml").write_text("method: {name: dpo")
    for address in ("/", "/runs/new", "/compare?run=new&run=done"):
        assert client.get(address).status_code == 200
    assert "config.yaml cannot be read" in client.get("/runs/new").text
    (root / "new" / "scores.parquet").write_bytes(b"PAR1 cut off")
    assert "scores.parquet cannot be read: it is not a whole parquet file" in client.get("/runs/new").text
    shutil.rmtree(root / "new")
    assert "new" not in rows(client.get("/").text)
    assert client.get("/runs/new").status_code == 404
    assert client.get("/compare?run=new&run=done").status_code == 200
    assert client.get("/chart.json?run=new").json()["spec"] is None
    shutil.rmtree(root)
    assert "There are no runs here yet" in client.get("/").text


def test_a_folder_that_may_not_be_read_is_passed_over(root, client):
    if os.geteuid() == 0:
        (root / "done" / "run.json").unlink()
        (root / "done" / "run.json").mkdir()
    else:
        (root / "done" / "run.json").chmod(0)
    answer = client.get("/runs/done")
    assert answer.status_code == 200
    assert "run.json" in answer.text


def test_nothing_is_written(root, client):
    def seen():
        return sorted((str(p), p.lstat().st_mtime_ns) for p in root.rglob("*"))

    before = seen()
    for address in ("/", "/runs/done", "/compare?run=done", "/chart.json?key=loss"):
        client.get(address)
    assert seen() == before


# -- the verb ----------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_none_and_ports_that_cannot_be_had(tmp_path, capsys):
    assert main(["view", str(tmp_path / "no")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main(["view", str(tmp_path), "--port=70000"]) == 2
    assert "port must lie between 0 and 65535" in capsys.readouterr().err
    with bind(0) as taken:
        assert taken.getsockname()[0] == ADDRESS == "127.0.0.1"
        assert main(["view", str(tmp_path), f"--port={taken.getsockname()[1]}"]) == 2
    assert "cannot listen on port" in capsys.readouterr().err


@pytest.mark.parametrize("how", [signal.SIGINT])
def test_the_command_serves_until_ctrl_c_and_ends_with_0(root, how):
    command = [sys.executable, "-W", "error", "-m", "innerpo", "view", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            address = running.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
            port = int(address.rstrip("/").rpartition(":")[2])
            link = HTTPConnection("127.0.0.1", port)  # sends addresses as they are written; stays open
            with closing(link):
                for target in ("/runs/..%2f..%2fsecret", "/../secret/config.yaml"):
                    link.request("GET", target)
                    answer = link.getresponse()
                    assert (answer.status, b"secret" in answer.read()) == (404, False)
                started = time.monotonic()
                running.send_signal(how)
                assert running.wait(10) == 0
                assert time.monotonic() - started < 5
            assert "Traceback" not in running.stderr.read()
        finally:
            running.kill()


def test_the_server_needs_no_torch():
    heavy = "'torch', 'transformers', 'polars', 'altair'"
    code = f"import innerpo.view.app, sys; print(*[m for m in ({heavy}) if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
