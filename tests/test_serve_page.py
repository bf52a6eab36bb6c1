"""The page of `edge-eds serve`: what is served of it, and, in a headless Chromium, what people do with it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from served import Served, served
from steered_model import steered_model

from edge_eds.apps.server.page import FOLDER, TYPES

FILES = sorted(path.name for path in FOLDER.iterdir())
LONG = 20_000  # tokens: more than any test waits for


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steered_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Served]:
    limits = ("--ctx", LONG + 2000, "--max-tokens", LONG)
    with served(tmp_path_factory.mktemp("server"), model, *limits) as running:
        yield running


# -- the files ----------------------------------------------------------------------------------------------


def test_every_file_is_served_with_its_type(server: Served) -> None:
    """Browsers refuse scripts and styles of another type, with `nosniff` as here."""
    for name in FILES:
        answer = server.http.get(f"/static/{name}")
        assert answer.status_code == 200
        assert answer.content == (FOLDER / name).read_bytes()
        assert answer.headers["content-type"].partition(";")[0] == TYPES[Path(name).suffix]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert server.http.get("/").text == (FOLDER / "index.html").read_text("utf-8")


@pytest.mark.parametrize("name", ["", "nothing.js", "..%2fpage.py", "..%2f..%2f..%2fcli.py", "%00"])
def test_nothing_else_of_the_package_is_served(server: Served, name: str) -> None:
    assert server.http.get(f"/static/{name}").status_code == 404


def test_the_page_refers_to_files_of_its_own_alone() -> None:
    texts = {name: (FOLDER / name).read_text("utf-8") for name in FILES}
    page = texts["index.html"]
    named = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert named and all(name.removeprefix("static/") in FILES for name in named)
    for name, text in texts.items():
        imported = re.findall(r'from "\./([^"]*)"', text)
        assert set(imported) <= set(FILES), name
        assert "://" not in text.replace("http://www.w3.org/2000/svg", ""), name
        assert not re.search(r"@import|url\(|importScripts", text), name


def test_the_page_obeys_its_own_rules() -> None:
    """No inline script or style, which the policy would drop; no text that is read as HTML."""
    page = (FOLDER / "index.html").read_text("utf-8")
    assert not re.search(r"<style|<script(?![^>]* src=)|\son\w+=|\sstyle=", page)
    for name in FILES:
        text = (FOLDER / name).read_text("utf-8")
        assert not re.search(r"(inner|outer)HTML|insertAdjacentHTML|document\.write|\beval\(|DOMParser", text), name


def test_every_field_has_a_label() -> None:
    page = (FOLDER / "index.html").read_text("utf-8")
    fields = re.findall(r'<(?:input|textarea) id="([^"]+)"', page)
    assert len(fields) == 8
    for field in fields:
        assert f'for="{field}"' in page or re.search(rf'<label[^>]*><input id="{field}"', page), field


def test_models_say_what_they_are_steered_by(server: Served) -> None:
    steered, plain = server.http.get("/v1/models").json()["data"]
    assert (steered["eds"]["strength"], plain["eds"]["strength"]) == (1.0, 0.0)
    assert steered["eds"]["layers"] == [2, 3, 4]
    assert steered["eds"]["gate"]["benign"] <= steered["eds"]["gate"]["harmful"]
    assert server.http.get("/v1/models/tiny:plain").json() == plain


# -- in a browser -------------------------------------------------------------------------------------------


class Browser:
    """A Chromium at the page, and what people do there."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def find(self, css: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", css))

    def text(self, css: str) -> str:
        """The text of the last one."""
        return str(self.find(css)[-1].get_property("textContent"))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 60, 0.1).until(lambda _: condition(), what)

    def open(self, url: str) -> None:
        self.driver.get(url)
        self.until(lambda: self.text("#model") or self.text("#problem"), "the page starts")

    def type(self, text: str) -> None:
        self.find("#question")[0].send_keys(text)

    def ask(self, text: str) -> None:
        """Send, and wait for all answers."""
        self.type(f"{text}\n")
        self.rest()

    def rest(self) -> None:
        self.until(lambda: not self.find("body.running"), "the answers end")

    def coloured(self, n_answers: int) -> None:
        """Wait for the energies of this many answers."""
        turns = "JSON.parse(localStorage.getItem('edge-eds.page')).turns"
        read = f"return {turns}.flatMap(turn => Object.values(turn.answers)).filter(answer => answer.reading).length"
        self.until(lambda: self.run(read) == n_answers, "energies are read")

    def click(self, css: str) -> None:
        """On the first one, in the middle of the screen."""
        element = self.find(css)[0]
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def point_at(self, css: str) -> None:
        """With the mouse, at the first one."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).move_to_element(self.find(css)[0]).perform()

    def press(self, keys: str) -> None:
        """Keys, on whatever has the focus."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(keys).perform()

    def set(self, field: str, value: float | str) -> None:
        """As if it was moved or typed."""
        events = "for (const kind of ['input', 'change']) f.dispatchEvent(new Event(kind, {bubbles: true}))"
        self.run(f"const f = document.getElementById(arguments[0]); f.value = arguments[1]; {events}", field, value)

    def problems(self) -> list[str]:
        """What the browser complains of, such as a file that the policy refuses."""
        return [line["message"] for line in self.driver.get_log("browser")]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs the package selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs the programs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for switch in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", f"user-data-dir={tmp_path / 'profile'}",
    ):  # fmt: skip
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield Browser(chrome)
    finally:
        chrome.quit()


@pytest.mark.slow
def test_people_ask_compare_steer_stop_and_reload(browser: Browser, server: Served) -> None:
    browser.open(server.url)
    browser.set("max-tokens", 12)

    # ask and compare: both are the server's own answers
    browser.ask("hi there")
    body = {"messages": [{"role": "user", "content": "hi there"}], "max_tokens": 12, "eds": {"trace": True}}
    expected = server.http.post("/v1/eds/compare", json=body).json()
    for side in ("plain", "steered"):
        shown = browser.text(f".answer.{side} .text").removeprefix("end of the prompt ")
        assert shown == expected[side]["choices"][0]["message"]["content"]
    assert browser.text(".note") == "The answers differ."
    assert "harmless" in browser.text(".words")
    eds = expected["steered"]["eds"]
    assert len(browser.find(".chart tbody tr")) == sum(len(token["layers"]) for token in eds["tokens"])

    # both answers are coloured from the prompt's end on, and have a bar a token; where steering moved it, one more
    browser.coloured(2)
    for side in ("plain", "steered"):
        answer = expected[side]["choices"][0]["message"]["content"]
        words = [mark.get_property("textContent") for mark in browser.find(f".answer.{side} .token")]
        assert words[0] == "end of the prompt" and "".join(words[1:]) == answer
        reading = server.http.post("/v1/eds/energy", json={"messages": body["messages"], "answer": answer}).json()
        assert len(browser.find(f".answer.{side} .strip .is")) == 1 + len(reading["tokens"])
    assert browser.find(".steered .strip .was") and not browser.find(".plain .strip .was")
    browser.point_at(".steered .token")
    assert "moved by steering" in browser.text(".steered .readout") and "→" in browser.text(".steered .readout")
    assert browser.find(".strip .on")[0].get_dom_attribute("data-offset") == "0"
    browser.point_at("h1")
    assert not browser.find(".on") and "Point at one" in browser.text(".steered .readout")

    # the same with the keys alone: on from one token to the next, at both ends no further, and back to where one was
    browser.run("document.querySelector('.steered .strip').focus()")
    told = []
    for keys in ("\ue014", "\ue014", "\ue012\ue012\ue012", "\ue010\ue014"):  # right, right, left, End and right
        browser.press(keys)
        told.append(browser.text(".steered .readout"))
        assert browser.find(".steered .strip")[0].get_dom_attribute("aria-valuetext") == told[-1]
    assert "end of the prompt" in told[0] and told[0] == told[2] != told[1]
    last = browser.find(".steered .token.on")[-1].get_property("textContent").strip()
    assert f"“{last}”" in told[3] and browser.find(".steered .token")[-1].get_dom_attribute("class") == "token on"
    browser.press("\ue004")  # Tab
    assert not browser.find(".on")

    # move the slider: strength 0 is the plain answer
    browser.set("strength", 0)
    browser.click(".turn:last-child .again")
    browser.rest()
    assert len(browser.find(".turn")) == 1
    assert browser.text(".note") == "Both answers are the same."
    assert browser.text(".words").startswith("Strength 0")

    # a second turn, with Shift+Enter for a new line; stopped while it is made
    browser.set("max-tokens", LONG)
    browser.set("strength", 0.5)
    cancelled = server.metric("edge_eds_answers_total", end="cancelled")
    browser.run("document.getElementById('question').value = ''")
    browser.type("go\ue008\n\ue008on\n")  # the key that is held and released
    browser.until(lambda: len(browser.text(".turn:last-child .steered .text")) > 20, "the answer grows")
    assert "Waits for its turn" in browser.text(".turn:last-child .plain .state")
    browser.type("\ue00c")  # Esc
    browser.rest()
    server.wait_for("edge_eds_answers_total", cancelled + 1, seconds=60, end="cancelled")
    assert browser.text(".turn:last-child .question") == "You: go\non"
    assert browser.text(".turn:last-child .state").startswith("Stopped")

    # reload: everything is as it was, with the colours of the stopped answer, which have been read meanwhile
    browser.coloured(3)
    browser.set("system", "Be brief.")
    browser.type("a draft")
    before = browser.run("return document.getElementById('turns').innerText")
    browser.open(server.url)
    assert browser.run("return document.getElementById('turns').innerText") == before
    fields = "return ['question', 'strength', 'system'].map(id => document.getElementById(id).value)"
    assert browser.run(fields) == ["a draft", "0.5", "Be brief."]

    # clear, and bring back
    browser.click("#clear")
    assert browser.find(".turn") == []
    browser.click("#clear")
    assert len(browser.find(".turn")) == 2
    assert browser.problems() == []


@pytest.mark.slow
def test_energies_are_read_only_if_wanted_and_never_in_the_way(browser: Browser, server: Served) -> None:
    browser.open(server.url)
    browser.set("max-tokens", 200)
    browser.click("#more summary")
    browser.click("#colours")
    n_read = server.log.count("/v1/eds/energy")
    browser.ask("hi there")
    browser.ask("hi again")
    assert browser.find(".plain .strip") == [] and server.log.count("/v1/eds/energy") == n_read
    browser.click("#colours")  # now the four answers are read, while the next one is asked for
    browser.set("max-tokens", 5)
    browser.ask("and again")
    states = [pane.get_property("dataset")["state"] for pane in browser.find(".turn:last-child .answer")]
    assert states == ["done", "done"]
    browser.coloured(6)
    assert browser.problems() == []


@pytest.mark.slow
def test_narrow_screens_have_one_column_and_no_sideways_scrolling(browser: Browser, server: Served) -> None:
    browser.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    )
    browser.open(server.url)
    browser.set("max-tokens", 12)
    browser.ask("w" * 200)
    browser.click("#more summary")
    assert browser.run("return document.documentElement.scrollWidth") == 360
    plain, steered = (browser.find(f".answer.{side}")[0].rect for side in ("plain", "steered"))
    assert plain["x"] == steered["x"] and plain["y"] + plain["height"] <= steered["y"]


@pytest.mark.slow
def test_text_is_never_read_as_html(browser: Browser, server: Served) -> None:
    browser.open(server.url)
    browser.set("max-tokens", 1)
    browser.ask("<img src=x onerror=document.title=1><b>bold</b>")
    assert browser.find("#turns img, #turns b") == []
    assert browser.driver.title == "edge-eds"


@pytest.mark.slow
def test_a_key_is_asked_for_and_errors_are_one_line(browser: Browser, tmp_path: Path, model: Path) -> None:
    with served(tmp_path, model, "--api-key", "secret", "--queue", 0, "--max-tokens", 8) as guarded:
        browser.open(guarded.url)
        assert "API key" in browser.text("#problem")
        key = browser.find("#key")[0]
        key.send_keys("wrong\n")
        browser.until(lambda: guarded.log.count(" 401 ") >= 2, "the wrong key is refused")
        key.clear()
        key.send_keys("secret\n")
        browser.until(lambda: browser.text("#model") == "tiny", "the key is taken")
        assert not key.is_displayed()
        # one place and no queue: the second answer waits for the first one, and both for the energies that are read
        browser.ask("hi there")
        browser.ask("hi again")
        assert [pane.get_property("dataset")["state"] for pane in browser.find(".answer")] == ["done"] * 4
        browser.set("question", "word " * 5000)
        browser.ask("")
        for side in ("plain", "steered"):
            line = browser.text(f".turn:last-child .{side} .state")
            assert "tokens" in line and "\n" not in line
    browser.ask("hi again")
    assert "cannot be reached" in browser.text("#problem")
    assert browser.run("return document.getElementById('question').value") == "hi again"


@pytest.mark.slow
def test_a_server_without_energies_gives_one_answer(browser: Browser, tmp_path: Path, model: Path) -> None:
    with served(tmp_path, model, "--energy", "none", "--max-tokens", 5) as unsteered:
        browser.open(unsteered.url)
        assert browser.run("return document.getElementById('strength').disabled")
        browser.ask("hi there")
        (pane,) = browser.find(".answer")
        assert pane.get_property("dataset")["state"] == "done"
