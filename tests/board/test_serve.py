"""The server: every route, and everything that it must refuse."""

import json
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest
from browser import patiently
from written import row, write_rows, write_run

from anyjepa import cli
from anyjepa.board.reporting import Reporter
from anyjepa.board.serve import FILES, address_of, application, listen, loopback, welcome
from anyjepa.core.errors import UserError

pytest.importorskip("starlette")
HOME = "http://127.0.0.1:8127"
EVIL = "<img src=x onerror=alert(1)>"
SECRET = "the owner's secret"


@pytest.fixture
def client(runs, reporter):
    from starlette.testclient import TestClient

    with TestClient(application(runs, reporter), base_url=HOME) as made:
        yield made


@pytest.fixture
def ask(client):
    """Ask for the report of a run as the page does, but for what is said otherwise."""

    def post(run="first", content=None, **headers):
        given = {"origin": HOME, "content-type": "application/json"} | headers
        given = {name.replace("_", "-"): value for name, value in given.items() if value is not None}
        body = json.dumps({"run": run}) if content is None else content
        return client.post("/api/report", content=body, headers=given)

    return post


# ---------------------------------------------------------------- routes


@pytest.mark.parametrize(("path", "kind"), [(path, kind) for path, (_, _, kind) in FILES.items()])
def test_the_page_and_its_files(client, path, kind):
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kind)
    assert len(answer.content) > 500


def test_the_runs_and_that_nothing_changed(client, several):
    answer = client.get("/api/runs")
    assert [one["run"] for one in answer.json()["runs"]] == ["first", "second", "sweep/trial-000"]
    assert answer.json()["folder"] == str(several.resolve())
    assert answer.json()["runs"][0]["making"] == {"state": "", "words": ""}
    tag = {"if-none-match": answer.headers["etag"]}
    same = client.get("/api/runs", headers=tag)
    assert (same.status_code, same.content) == (304, b"")
    write_rows(several / "first", [row(1020)])
    assert client.get("/api/runs", headers=tag).status_code == 200


def test_curves_of_chosen_runs_and_figures_grow_with_the_file(client, several):
    query = {
        "run": ["first", "second", "nowhere"],
        "field": ["loss", "spread"],
        "along": "samples",
        "smooth": 5,
    }
    drawn = client.get("/api/curves", params=query).json()["runs"]
    assert list(drawn) == ["first", "second"]
    assert drawn["second"]["loss"]["x"] == [20 * 64, 40 * 64]
    assert drawn["second"]["loss"]["y"] == [2.0, 2.0]
    assert set(drawn["first"]["spread"]) == {"x", "y", "smooth_x", "smooth_y"}
    with open(several / "second" / "metrics.jsonl", "a") as file:
        file.write(json.dumps(row(60, loss=1.0)) + "\n" + '{"step": 80, "loss"')
    drawn = client.get("/api/curves", params=query).json()["runs"]
    assert drawn["second"]["loss"]["y"] == [2.0, 2.0, 1.0]


@pytest.mark.parametrize(
    "query", [{"along": "wall"}, {"smooth": "-1"}, {"smooth": "x"}, {"smooth": "²"}, {"smooth": "9" * 5000}]
)
def test_curves_asked_for_wrongly(client, query):
    assert client.get("/api/curves", params=query).status_code == 400


def test_one_run_and_its_report(client, several):
    assert client.get("/api/run", params={"run": "sweep/trial-000"}).json()["recipe"] == "t-jepa"
    assert client.get("/report", params={"run": "first"}).status_code == 404
    (several / "first" / "report.html").write_text("<!doctype html><p>the report")
    answer = client.get("/report", params={"run": "first"})
    assert answer.text.endswith("the report")
    assert answer.headers["content-security-policy"].startswith("sandbox allow-scripts; default-src 'none'")
    assert client.get("/api/run", params={"run": "first"}).json()["report"] > 0


def test_a_report_is_made_when_asked_for(client, ask, several):
    assert ask().json()["state"] in ("waiting", "making")
    assert ask("second").status_code == 202

    def states():
        return {one["run"]: one["making"]["state"] for one in client.get("/api/runs").json()["runs"]}

    assert patiently(lambda: states()["first"] == states()["second"] == "made", 30), states()
    assert client.get("/report", params={"run": "second"}).text == "made"
    assert (several / "first" / "report.html").read_text() == "made"


def test_why_a_report_could_not_be_made(several):
    reporter = Reporter([sys.executable, "-c", "import sys; sys.exit('error: it has no encoder yet.')"])
    reporter.ask("first", several / "first")
    assert patiently(lambda: reporter.state("first")["state"] == "failed", 30)
    assert reporter.state("first")["words"] == "it has no encoder yet."
    silent = Reporter([sys.executable, "-c", "pass"])
    silent.ask("first", several / "first")
    assert patiently(lambda: silent.state("first")["state"] == "failed", 30)
    assert silent.state("first")["words"] == "it ended with code 0"


def test_reports_are_made_one_at_a_time_and_none_after_the_end(several):
    reporter = Reporter([sys.executable, "-c", "import time; time.sleep(60)"])
    for name in ("first", "second", "first"):
        reporter.ask(name, several / name)
    assert patiently(lambda: reporter.state("first")["state"] == "making", 10)
    assert reporter.state("second")["state"] == "waiting"
    assert len(reporter.waiting) == 1
    process = reporter.process
    reporter.close()
    assert process.wait(10) != 0
    reporter.ask("third", several / "first")
    assert reporter.state("third")["state"] == ""


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    "name",
    ["../outside", "..", "../../etc", "/etc", "first/../../outside", "%2e%2e/outside",
     "first/checkpoints", "first\0"],
)  # fmt: skip
@pytest.mark.parametrize("route", ["/api/run", "/report"])
def test_no_path_leads_out_of_the_runs(client, tmp_path, route, name):
    write_run(tmp_path / "outside")
    (tmp_path / "outside" / "report.html").write_text(SECRET)
    answer = client.get(route, params={"run": name})
    assert answer.status_code == 404
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    "path",
    ["/../pyproject.toml", "/%2e%2e/outside/report.html", "/report/../../x", "/board.js/../serve.py",
     "/etc/passwd", "//etc/passwd", "/first/config.yaml", "/api", "/docs"],
)  # fmt: skip
def test_there_are_no_other_paths(client, path):
    assert client.get(path).status_code == 404


def test_a_report_that_is_a_link_is_not_shown(client, several, tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    (several / "first" / "report.html").symlink_to(tmp_path / "secret")
    assert client.get("/report", params={"run": "first"}).status_code == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:8127", 200), ("localhost", 200), ("LOCALHOST:1", 200), ("[::1]:8127", 200),
     ("127.9.9.9", 200), ("evil.example", 421), ("evil.example:8127", 421), ("127.0.0.1.evil.example", 421),
     ("localhost.evil.example", 421), ("192.168.1.7", 421), ("", 421), ("localhost@evil.example", 421),
     ("[evil.example]", 421)],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/api/runs", "/report?run=first", "/nowhere"])
def test_only_this_machines_names_are_answered(client, host, status, path):
    answer = client.get(path, headers={"host": host})
    assert answer.status_code in ({421} if status == 421 else {200, 404})
    assert answer.headers["x-content-type-options"] == "nosniff"
    if status == 421:
        assert "first" not in answer.text


def test_names_beyond_loopback_are_addresses_and_the_machines_own(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "lab-7")
    monkeypatch.setattr("socket.getfqdn", lambda: "lab-7.example.org")
    for header in ("10.0.0.5:8127", "[fe80::1]:8127", "lab-7:8127", "LAB-7.example.org", "localhost"):
        assert welcome(header, "0.0.0.0")
    for header in ("evil.example:8127", "lab-8", "10.0.0.5.evil.example", ""):
        assert not welcome(header, "0.0.0.0")
    assert welcome("board.example:80", "board.example")
    assert [loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "10.0.0.5")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://evil.example"}, {"origin": None}, {"origin": "null"}, {"origin": "https://127.0.0.1:8127"},
     {"origin": "http://127.0.0.1:9999"}, {"origin": HOME + ".evil.example"}],
)  # fmt: skip
def test_only_the_page_itself_may_ask_for_a_report(ask, several, reporter, headers):
    assert ask(**headers).status_code == 403
    assert reporter.states == {}


def test_a_form_or_nonsense_asks_for_nothing(ask, client, reporter):
    assert ask(content_type="application/x-www-form-urlencoded").status_code == 415
    assert ask(content_type="text/plain").status_code == 415
    for content in ("", "[]", "{}", "x" * 20_000, '"first"', "[" * 9_000):
        assert ask(content=content).status_code == 400
    assert ask("nowhere").status_code == ask("../outside").status_code == 404
    assert ask(content='{"run": ["first"]}').status_code == 404
    assert client.get("/api/report").status_code == 405
    assert reporter.states == {}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/", "/api/runs", "/api/run?run=first", "/report?run=first", "/api/curves"])
def test_nothing_else_is_written(client, path, method):
    assert client.request(method, path, headers={"origin": HOME}).status_code == 405


@pytest.mark.parametrize("path", ["/", "/board.js", "/api/runs", "/nowhere", "/report?run=first"])
def test_no_answer_may_be_used_by_another_site(client, path):
    headers = client.get(path).headers
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["referrer-policy"] == "no-referrer"
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "access-control-allow-origin" not in headers
    if path != "/report?run=first":
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy


def test_markup_in_runs_is_data(client, several):
    name = EVIL.replace("/", "")
    write_run(several / name, [row(20, **{EVIL: 1.0}, warning=EVIL)], recipe=EVIL, status=EVIL)
    answer = client.get("/api/runs")
    assert answer.headers["content-type"] == "application/json"
    found = next(one for one in answer.json()["runs"] if one["run"] == name)
    assert found["recipe"] == found["state"] == found["health"]["words"] == EVIL
    assert client.get("/api/curves", params={"run": name, "field": EVIL}).json()["runs"][name][EVIL]["y"] == [
        1.0
    ]


def test_the_page_makes_no_markup_of_strings_and_calls_nobody(client):
    page, script, style = (client.get(path).text for path in ("/", "/board.js", "/board.css"))
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function("):
        assert word not in script
    everything = (page + script + style).replace("http://www.w3.org/2000/svg", "")
    assert "://" not in everything
    assert "<script>" not in page
    assert " style=" not in page


# ---------------------------------------------------------------- as a program


def test_a_port_that_is_taken_and_one_that_is_free():
    first = listen("127.0.0.1", 0)
    port = first.getsockname()[1]
    assert address_of(first, "127.0.0.1") == f"http://127.0.0.1:{port}/"
    with pytest.raises(UserError, match="--port \\(0 takes a free one\\)"):
        listen("127.0.0.1", port)
    first.close()
    with pytest.raises(UserError, match="choose another --port"):
        listen("127.0.0.1", 70_000)
    with pytest.raises(UserError, match="--host"):
        listen("no.such.host.invalid", 0)


def test_the_table_as_json(several, capsys):
    assert cli.main(["board", str(several), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [one["run"] for one in found["runs"]] == ["first", "second", "sweep/trial-000"]


def test_a_folder_that_is_not_there(tmp_path, capsys):
    assert cli.main(["board", str(tmp_path / "nowhere")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_without_the_extra_it_says_how_to_install_it(several, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert cli.main(["board", str(several), "--port", "0", "--no-open"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "pip install 'anyjepa[board]'" in err
    assert cli.main(["board", str(several), "--json"]) == 0, "the table needs no server"


def test_the_program_serves_without_torch_until_it_is_told_to_stop(several):
    import signal
    import subprocess

    program = (
        "import sys; from anyjepa.cli import main; "
        f"code = main(['board', {str(several)!r}, '--port', '0', '--no-open', '--host', '0.0.0.0']); "
        "heavy = [name for name in ('torch', 'sklearn', 'lightning_fabric') if name in sys.modules]; "
        "print(code, heavy, flush=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        said = process.stdout.readline()
        assert said.startswith("3 runs of")
        address = next(word for word in said.split() if word.startswith("http://"))
        answer = patiently(lambda: urllib.request.urlopen(address + "api/runs").read(), 30)
        assert len(json.loads(answer)["runs"]) == 3
        with pytest.raises(urllib.error.HTTPError, match="421"):
            urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "evil.example"}))
        process.send_signal(signal.SIGINT)
        out, complaints = process.communicate(timeout=30)
    finally:
        watchdog.cancel()
        process.kill()
    assert out.strip() == "0 []"
    assert "warning: on 0.0.0.0 everybody" in complaints
    assert "Traceback" not in complaints


def test_many_polls_at_once_agree(runs, reporter, several):
    from starlette.testclient import TestClient

    client, wrong = TestClient(application(runs, reporter), base_url=HOME), []
    query = {"run": "second", "field": "loss"}
    ends = time.monotonic() + 1.0

    def poll():
        seen = 0
        while time.monotonic() < ends:
            drawn = client.get("/api/curves", params={"run": "second", "field": "loss"}).json()["runs"][
                "second"
            ]
            count = len(drawn["loss"]["x"])
            if count < seen or drawn["loss"]["x"] != sorted(set(drawn["loss"]["x"])):
                wrong.append(drawn)
            seen = count

    threads = [threading.Thread(target=poll) for _ in range(4)]
    for thread in threads:
        thread.start()
    for step in range(60, 1000, 20):
        write_rows(several / "second", [row(step)])
        time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert not wrong
    last = client.get("/api/curves", params=query).json()["runs"]["second"]
    assert len(last["loss"]["x"]) == 49
