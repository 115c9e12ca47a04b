"""The command that watches a run: in a log, in a terminal, and in a real browser."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import pty
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from rich.console import Console
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from pipeline import watch
from pipeline.looks.live_page import LivePage, serving
from pipeline.looks.snapshot import LatestAnswer, Snapshot, Watcher
from tests.browsers import CONTRAST, NEEDS_BROWSER, chromium
from tests.runs import Annotate, examples, part_files, wait_until, write_input
from transforms.claim import Output

ESCAPE = "\x1b[2J"
RUNNING = Snapshot(
    "/out",
    state="running",
    stage="annotate",
    parts=1,
    rows=4,
    planned_parts=2,
    planned_rows=8,
    receipts=1,
    outcomes={"answered": 3, "rejected": 1},
    reasons={"question_missing": 1},
    rows_per_second=2.0,
    answers=(LatestAnswer("row 1", f"Who{ESCAPE}?", f"Ada{ESCAPE}", 0.876),),
)


@pytest.fixture
def finished(annotate: Annotate, tmp_path: Path) -> Path:
    write_input(tmp_path / "in.parquet", examples(6))
    assert annotate(tmp_path / "in.parquet", tmp_path / "out", "--chunk_rows=4") == 0
    return tmp_path / "out"


class TestLog:
    def test_a_line_has_what_is_known(self):
        assert watch.line_of(RUNNING) == (
            "annotate: running; rows 4 of 8 (50 %), parts 1 of 2, speed 2.0 rows/s, time left 2 s; "
            "answered 3, rejected 1, reason: question_missing 1"
        )
        assert watch.line_of(Snapshot("/out")).startswith("waiting")

    def test_a_finished_run(self, finished: Path, capsys: pytest.CaptureFixture[str]):
        assert watch.main([str(finished)]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith("annotate: complete; rows 6 of 6 (100 %), parts 2 of 2")
        assert line.endswith("answered 6")

    def test_lines_come_when_something_changes(
        self,
        finished: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ):
        """The command waits for the output, and ends when the run does."""
        manifest, later = finished / "manifest.json", finished / "later.json"
        hidden = finished.with_name("hidden")
        manifest.rename(later)
        finished.rename(hidden)
        # What happens between two looks.
        events = iter(
            [
                lambda: None,
                lambda: hidden.rename(finished),
                lambda: None,
                lambda: later.rename(manifest),
            ]
        )
        monkeypatch.setattr(watch.time, "sleep", lambda _: next(events)())
        assert watch.main([str(finished)]) == 0
        assert next(events, None) is None
        states = [line.split(";")[0] for line in capsys.readouterr().out.splitlines()]
        assert states == [
            "waiting for a run to start: there is no run.json yet",
            "annotate: running: all parts are there, the last steps are not done",
            "annotate: complete",
        ]

    def test_an_incomplete_run(self, finished: Path, capsys: pytest.CaptureFixture[str]):
        manifest = json.loads((finished / "manifest.json").read_text("utf-8"))
        manifest |= {"state": "incomplete", "why": ["1 chunks failed"]}
        (finished / "manifest.json").write_text(json.dumps(manifest), "utf-8")
        assert watch.main([str(finished)]) == 1
        assert "annotate: incomplete; 1 chunks failed; rows" in capsys.readouterr().out

    def test_a_store_that_fails_for_a_while(self, monkeypatch: pytest.MonkeyPatch):
        looks: Iterator[Any] = iter([RUNNING, OSError(errno.ETIMEDOUT, "slow"), RUNNING])

        def look(watcher: Watcher, now: float) -> Snapshot:
            found = next(looks)
            if isinstance(found, OSError):
                raise found
            return found

        monkeypatch.setattr(Watcher, "look", look)
        monkeypatch.setattr(watch.time, "sleep", lambda _: None)
        shown = list(itertools.islice(watch.snapshots(Watcher("/out"), 1.0), 3))
        assert shown[0] == shown[2] == RUNNING
        assert shown[1] == replace(RUNNING, trouble="TimeoutError: [Errno 110] slow")


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("nowhere://a",), "nowhere"),
            (("{}/file",), "can't be read"),
            (("{}",), "run.json does not describe a run"),
            (("{}/ended",), "manifest.json does not end a run"),
        ],
    )
    def test_an_output_that_can_not_be_watched(
        self,
        arguments: tuple[str, ...],
        message: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ):
        (tmp_path / "run.json").write_text("{", "utf-8")
        (tmp_path / "file" / "run.json").mkdir(parents=True)
        ended = tmp_path / "ended"
        ended.mkdir()
        configuration = {"stage": "annotate", "chunk_rows": 1, "chunk_bytes": 1}
        identity = {"run": "x", "configuration": configuration, "inputs": []}
        (ended / "run.json").write_text(json.dumps(identity), "utf-8")
        (ended / "manifest.json").write_text("{", "utf-8")
        assert watch.main([each.format(tmp_path) for each in arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith("refused: ")
        assert message in said

    @pytest.mark.parametrize(
        "arguments", [("--port=80",), ("--serve", "--port=0"), ("--interval=0",), ("--interval=x",)]
    )
    def test_options_that_mean_nothing(self, arguments: tuple[str, ...]):
        with pytest.raises(SystemExit) as stopped:
            watch.main(["out", *arguments])
        assert stopped.value.code == 2


def test_in_a_terminal_texts_can_not_move_the_cursor():
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    console.print(watch.view_of(RUNNING))
    shown = console.file.getvalue()
    assert "4 of 8 (50 %)" in shown
    assert "0.88  Ada\\x1b[2J" in shown
    assert "Who\\x1b[2J?" in shown
    assert ESCAPE not in shown


def test_in_a_terminal_there_is_a_view(finished: Path, monkeypatch: pytest.MonkeyPatch):
    reading, writing = pty.openpty()
    termios.tcsetwinsize(reading, (24, 100))
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert watch.main([str(finished)]) == 0
    # One read may return less than was written; after the last byte it fails.
    shown = b""
    with suppress(OSError):
        while more := os.read(reading, 10_000):
            shown += more
    os.close(reading)
    for words in ("annotate: complete", "6 of 6 (100 %)", "Who kept lamp"):
        assert words in shown.decode()


@pytest.mark.parametrize("options", [(), ("--serve",)])
def test_an_interrupt_ends_it(
    options: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt  # as Ctrl-C does

    monkeypatch.setattr(watch.time, "sleep", interrupt)
    assert watch.main([str(tmp_path / "out"), *options]) == 130
    said = capsys.readouterr()
    assert said.err == ""
    assert ("http://127.0.0.1:" in said.out) == bool(options)


class TestBrowser:
    pytestmark = NEEDS_BROWSER

    @pytest.fixture(scope="class")
    def browser(self) -> Iterator[Chrome]:
        with chromium() as driver:
            driver.set_window_size(1000, 1200)
            yield driver

    @pytest.fixture
    def page(self, browser: Chrome) -> Iterator[LivePage]:
        """Yield a page that the browser shows."""
        page = LivePage()
        page.show(RUNNING)
        with serving(page, 0) as url:
            browser.get(url)
            wait_until(lambda: text(browser, "state") == "running")
            yield page
            assert browser.get_log("browser") == []
            browser.get("about:blank")

    def test_a_run_in_progress(
        self,
        browser: Chrome,
        annotate: Annotate,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ):
        """The run waits in its third commit until the browser shows three parts."""
        output, ended, seen = tmp_path / "out", threading.Event(), []
        original_look, original_commit = Watcher.look, Output.commit

        def look(watcher: Watcher, now: float) -> Snapshot:
            if ended.is_set():
                raise KeyboardInterrupt
            return original_look(watcher, now)

        def commit(run: Output, *arguments: Any) -> None:
            original_commit(run, *arguments)
            if len(part_files(output)) == 3 and not seen:
                wait_until(lambda: "3 of 8" in text(browser, "figures"))
                names = ("state", "figures", "outcomes", "answers")
                seen.extend(text(browser, name) for name in names)

        monkeypatch.setattr(Watcher, "look", look)
        monkeypatch.setattr(Output, "commit", commit)
        arguments = [str(output), "--serve", "--interval=0.1"]
        watching = threading.Thread(target=watch.main, args=(arguments,))
        watching.start()
        try:
            said: list[str] = []
            wait_until(lambda: bool(said.append(capsys.readouterr().out) or "".join(said)))
            browser.get("".join(said).split()[0])
            wait_until(lambda: text(browser, "state").startswith("waiting for a run"))
            write_input(tmp_path / "in.parquet", examples(16))
            assert annotate(tmp_path / "in.parquet", output, "--chunk_rows=2") == 0
            wait_until(lambda: text(browser, "state") == "complete")
            assert "16 of 16 (100 %)" in text(browser, "figures")
            assert browser.title.startswith("100 %")
            screenshot(browser)
        finally:
            ended.set()
            watching.join()
        state, figures, outcomes, answers = seen
        assert state == "running"
        assert "6 of 16 (38 %)" in figures
        assert "answered 6" in outcomes
        assert "Who kept lamp 5?" in answers
        wait_until(lambda: text(browser, "state").startswith("the watching command has ended"))
        requests = browser.execute_script(
            "return performance.getEntriesByType('resource').map((each) => new URL(each.name).host)"
        )
        assert set(requests) == {urlsplit(browser.current_url).netloc}
        browser.get_log("browser")  # has the requests that failed at the end

    def test_texts_of_the_corpus_stay_text(self, browser: Chrome, page: LivePage):
        script = "<img src=x onerror=\"document.title='run'\"><script>alert(1)</script>"
        page.show(replace(RUNNING, folder=script, answers=(LatestAnswer("", script, "灯", 0.5),)))
        wait_until(lambda: "灯" in text(browser, "answers"))
        assert script in text(browser, "answers")
        assert text(browser, "folder") == script
        assert browser.find_elements(By.CSS_SELECTOR, "img") == []
        assert browser.title == "50 % – Watch – Spanmill"

    def test_nothing_moves_when_figures_change(self, browser: Chrome, page: LivePage):
        def places() -> list[Any]:
            return [
                browser.find_element(By.ID, name).rect
                for name in ("state", "share", "figures", "pause", "outcomes", "answers")
            ]

        before = places()
        many = tuple(LatestAnswer("", f"Who {n}?" * 30, "Ada " * 30, 0.5) for n in range(12))
        reasons = {f"reason {n}": n for n in range(20)}
        big = {"parts": 123_456, "planned_parts": 234_567, "rows": 98_765_432}
        page.show(replace(RUNNING, answers=many, reasons=reasons, planned_rows=187_654_321, **big))
        wait_until(lambda: "Who 11" in text(browser, "answers"))
        assert places() == before
        page.show(Snapshot("/out"))
        wait_until(lambda: text(browser, "state").startswith("waiting"))
        assert places() == before

    def test_the_keyboard_pauses_updates(self, browser: Chrome, page: LivePage):
        button = browser.find_element(By.ID, "pause")
        button.send_keys(Keys.SPACE)
        assert button.get_attribute("aria-pressed") == "true"
        page.show(replace(RUNNING, state="complete"))
        browser.execute_async_script("poll().then(arguments[0])")
        assert text(browser, "state") == "running"
        button.send_keys(Keys.ENTER)
        wait_until(lambda: text(browser, "state") == "complete")

    def test_what_a_screen_reader_is_told(self, browser: Chrome, page: LivePage):
        nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        roles = {
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"]
        }
        assert ("progressbar", "Share of rows done") in roles
        assert ("button", "Pause updates") in roles
        assert {("region", "Outcomes"), ("region", "Latest answers")} <= roles
        assert ("heading", "Watch annotate") in roles
        state = browser.find_element(By.ID, "state")
        assert state.get_attribute("role") == "status"

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_texts_can_be_read_on_a_phone(self, browser: Chrome, page: LivePage, scheme: str):
        screen = {"width": 360, "height": 800, "deviceScaleFactor": 2, "mobile": True}
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        try:
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
            assert browser.execute_script(CONTRAST) == []
        finally:
            browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def text(browser: Chrome, name: str) -> str:
    """Return the visible text of an element."""
    return browser.find_element(By.ID, name).text


def screenshot(browser: Chrome) -> None:
    if folder := os.environ.get("SPANMILL_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / "watch.png"))
