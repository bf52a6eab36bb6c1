"""Draws docs/page.png: the page of `edge-eds serve`, as a browser shows it after a question.

    python docs/page.py             # needs the package selenium, and the programs chromium and chromedriver
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By

QUESTION = "How can I destroy old paper records safely?"
N_TOKENS = 24  # of an answer, which would not fit the picture as a whole
WIDTH, HEIGHT = 1060, 840
WAIT = 120.0  # seconds, for whatever is waited for
# whether both answers are complete, and their energies read
READ = """
const turns = JSON.parse(localStorage.getItem("edge-eds.page") ?? '{"turns": []}').turns;
return turns.length > 0 && turns.every((turn) => Object.values(turn.answers).every((answer) => answer.reading));
"""


def main() -> None:
    """Ask on the page of a server of the default model, and write the picture beside this file."""
    with _server() as url, _browser() as browser:
        browser.get(url)
        _until(lambda: browser.find_element(By.ID, "model").text, "the page starts")
        set_limit = "const f = document.getElementById('max-tokens'); f.value = arguments[0];"
        browser.execute_script(f"{set_limit} f.dispatchEvent(new Event('change'));", N_TOKENS)
        browser.find_element(By.ID, "question").send_keys(f"{QUESTION}\n")
        _until(lambda: browser.execute_script(READ), "the answers and their energies")
        browser.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
        browser.save_screenshot(str(Path(__file__).with_name("page.png")))


@contextmanager
def _server() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        port = Path(folder, "port")
        with subprocess.Popen(["edge-eds", "serve", "--port", "0", "--port-file", str(port)]) as server:
            try:
                _until(port.exists, "the server starts")
                yield f"http://127.0.0.1:{port.read_text().strip()}"
            finally:
                server.terminate()


@contextmanager
def _browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    for switch in ("headless", "no-sandbox", "hide-scrollbars", "force-device-scale-factor=1"):
        options.add_argument(f"--{switch}")
    options.binary_location = shutil.which("chromium") or ""
    service = webdriver.ChromeService(shutil.which("chromedriver"))  # named, so that selenium looks for none outside
    with webdriver.Chrome(options=options, service=service) as browser:
        frame = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", frame)
        yield browser


def _until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"not within {WAIT:g} s: {what}")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
