"""Clicking through the page in a real browser, while a run is being written."""

import os
import socket
import threading
import time

import pytest
from browser import Browser
from small import train_small
from written import row, write_rows, write_run

from anyjepa.board.reporting import Reporter
from anyjepa.board.runs import Runs
from anyjepa.board.serve import address_of, application, listen

uvicorn = pytest.importorskip("uvicorn")
EVIL = "<img src=x onerror=document.title='evil'>"
NAMES = "[...document.querySelectorAll('#runs tbody tr')].map((one) => one.dataset.run).join()"


def serving(folder, opened, reporter):
    """A server and the thread it runs in."""
    app = application(Runs(folder), reporter)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    return server, thread


@pytest.fixture
def board():
    """Serve a folder of runs from a thread; gives the page's address."""
    servers = []

    def start(folder, reporter=None):
        opened = listen("127.0.0.1", 0)
        server, thread = serving(folder, opened, reporter or Reporter())
        servers.append((server, thread))
        return address_of(opened, "127.0.0.1")

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def browser(tmp_path):
    opened = Browser(tmp_path / "browser")
    yield opened
    opened.close()


def length(field, run):
    """How many points the curve of a run has."""
    found = f"document.querySelector('[data-field={field}] path[data-run={run}]')"
    return f"({found}?.getAttribute('d').match(/[ML]/g).length ?? 0)"


def test_from_the_table_to_curves_that_grow_and_to_a_report(several, board, browser, reporter):
    write_run(several / EVIL.replace("/", ""), [row(20, warning=EVIL)], recipe=EVIL)
    write_run(several / "real", [row(20)], fields={"width": 24})
    write_run(several / "growing", [row(20), row(40)], status="training")
    (several / "growing" / ".holder").write_text(f"{os.getpid()} on {socket.gethostname()}")
    browser.go(board(several, reporter))
    assert browser.run("document.querySelectorAll('#runs tbody tr').length") == 6

    browser.click("[data-sort=loss]")
    assert browser.run(NAMES).startswith("second,"), "the highest loss first"
    assert browser.run("document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "descending"
    browser.click("[data-sort=loss]")
    assert browser.run(NAMES).startswith("first,")
    browser.type("#words", "width<60")
    browser.until(f"{NAMES} === 'real,second' || {NAMES} === 'second,real'")
    browser.type("#words", "")
    browser.choose("#state", "imported")
    browser.until(f"{NAMES} === 'sweep/trial-000'")
    browser.choose("#state", "")
    browser.choose("#column", "width")
    browser.until(
        "[...document.querySelectorAll('#runs th')].some((one) => one.textContent.startsWith('Width'))"
    )

    browser.click("#count button")
    browser.until("document.querySelectorAll('#charts figure').length === 0")
    assert "Choose runs" in browser.run("document.querySelector('#nothing').textContent")
    for name in ("second", "growing"):
        browser.click(f"[data-run={name}] input")
    browser.until(f"{length('loss', 'growing')} === 2 && {length('rankme', 'second')} === 2")
    assert browser.run("document.querySelector('#differences').hidden") is False
    differ = browser.run("[...document.querySelectorAll('#options tbody th')].map((one) => one.textContent)")
    assert set(differ) == {"Width", "Seed"}

    write_rows(several / "growing", [row(60), row(80)])
    browser.until(f"{length('loss', 'growing')} === 4")
    assert "training" in browser.run("document.querySelector('#live').textContent")
    browser.click("#log")
    ticks = "[...document.querySelectorAll('[data-field={}] text.end')].map((one) => one.textContent).join()"
    browser.until(f"{ticks.format('loss')}.startsWith('0.1,1,')")
    assert browser.run(ticks.format("learning_rate")).count(",") > 1, "a narrow range has ticks too"
    browser.choose("#along", "time")
    browser.until(
        "document.querySelector('[data-field=loss] svg').textContent.includes('seconds of training')"
    )
    browser.choose("#smooth", "5")
    browser.until("document.querySelectorAll('[data-field=loss] path.raw').length === 2")
    browser.move("[data-field=loss] svg")
    browser.until("!document.querySelector('#tip').hidden")
    assert "growing" in browser.run("document.querySelector('#tip').textContent")

    browser.call("Page.reload")
    time.sleep(0.5)
    browser.until("document.documentElement?.dataset.ready === 'yes'")
    browser.until("document.querySelectorAll('[data-field=loss] path.raw').length === 2")
    assert browser.run("document.querySelector('#along').value") == "time", "a reload keeps the view"

    browser.click("[data-run=real] td.name a")
    browser.until("document.querySelector('#title').textContent === 'real'")
    make_report(browser)
    with browser.inside():
        browser.until("document.body?.textContent === 'made'")
        assert browser.run("self.origin") == "null"
    browser.click("#run a")
    browser.until("!document.querySelector('#overview').hidden")
    assert browser.run("document.title") == "anyjepa board", "a run's name is text"
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.complaints == []


def make_report(browser):
    """Press the button and wait for the report, which is first said to be made."""
    browser.until("document.querySelector('#make-report')")
    browser.click("#make-report")
    browser.until("document.querySelector('#report .making, #report iframe')")
    browser.until("document.querySelector('#report iframe')", 120)


@pytest.mark.slow
def test_a_real_run_and_its_real_report(tmp_path, board, browser):
    train_small(tmp_path / "runs" / "real", "digits", steps=4)
    browser.go(board(tmp_path / "runs", Reporter()) + "#run/real")
    make_report(browser)
    with browser.inside():
        browser.until("document.documentElement?.dataset.ready === 'yes'")
        assert browser.run("document.title") == "i-jepa · anyjepa report"
        assert browser.run("[self.origin, document.querySelectorAll('#masks img').length > 3]") == [
            "null",
            True,
        ]
        assert browser.complaints == []
        refused = "fetch('/api/runs').then(() => 'read', () => 'refused')"
        assert browser.run(refused) == "refused", "a report can read nothing"


def test_a_phone_and_a_hundred_runs(tmp_path, board, browser):
    for number in range(100):
        write_run(tmp_path / "runs" / f"run-{number:03d}", [row(20), row(40)], seed=number)
    browser.call(
        "Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=False
    )
    browser.go(board(tmp_path / "runs"))
    assert browser.run("document.documentElement.scrollWidth <= innerWidth") is True
    spent = browser.run(
        "(() => { const start = performance.now(); table(); return performance.now() - start; })()"
    )
    assert spent < 500, "milliseconds to draw the table anew"
    browser.click("#runs thead input")
    browser.until("document.querySelectorAll('[data-field=loss] path.line').length === 21")
    assert "79 more" in browser.run("document.querySelector('#legend').textContent")
    assert browser.complaints == []


def test_it_says_when_the_board_has_gone(several, browser):
    opened = listen("127.0.0.1", 0)
    server, thread = serving(several, opened, Reporter())
    browser.go(address_of(opened, "127.0.0.1"))
    server.should_exit = True
    thread.join(20)
    browser.until("document.querySelector('#live').textContent.includes('does not answer')")
    assert browser.run("document.querySelectorAll('#runs tbody tr').length") == 3, "what was known stays"
