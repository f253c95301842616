"""A page in headless Chromium: what it asked for, what it complained of, whether it can be read."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

REQUIRED = "TROVE_TESTS_BROWSER"  # set to "required", a missing browser is a failure

# Of all elements with words of their own, not the symbols of models: the contrast with what is behind,
# least first.
CONTRASTS = """
const numbers = text => text.match(/[\\d.]+/g).map(Number);
const part = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
const seen = element => {
  for (let e = element; e; e = e.parentElement) {
    const colour = numbers(getComputedStyle(e).backgroundColor);
    if (colour.length === 3 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
return [...document.querySelectorAll("body *")].filter(e => e.checkVisibility() && !e.matches(".keys b")
    && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).map(e => {
  const style = getComputedStyle(e), svg = e instanceof SVGElement;
  const [a, b] = [light(numbers(svg ? style.fill : style.color)), light(seen(e))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  return [contrast, svg ? "svg" : e.tagName, e.textContent.slice(0, 40)];
}).sort((x, y) => x[0] - y[0]);
"""


def need(*programs: str) -> None:
    """Skip a test, or fail it where a browser is required, if a program is not installed."""
    lacking = [program for program in programs if not shutil.which(program)]
    if lacking:
        give_up = pytest.fail if os.environ.get(REQUIRED) == "required" else pytest.skip
        give_up(
            f"not installed: {', '.join(lacking)} (Debian: chromium chromium-driver poppler-utils)"
        )


class Browser:
    """Headless Chromium, driven by selenium."""

    def __init__(self):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
            options.add_argument(flag)
        options.add_argument("--window-size=1300,1000")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = webdriver.ChromeService(shutil.which("chromedriver"), env={**os.environ})
        self.driver = webdriver.Chrome(options=options, service=service)
        self.page = ""

    def open(self, page: Path) -> None:
        """Load a report and wait until it is shown."""
        self.complaints_and_requests()
        self.page = page.as_uri()
        self.driver.get(self.page)
        wait_for(lambda: self.run("return document.body.dataset.ready"))

    def run(self, script: str, *arguments):
        return self.driver.execute_script(script, *arguments)

    def all_of(self, selector: str) -> list:
        from selenium.webdriver.common.by import By

        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.all_of(selector)]

    def hover(self, element) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.driver).move_to_element(element).perform()

    def look_as(self, theme: str = "", media: str = "") -> None:
        """Have the page shown in a theme, "light" or "dark", or as on a medium, "print"."""
        feature = {"name": "prefers-color-scheme", "value": theme}
        emulated = {"media": media, "features": [feature] if theme else []}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)

    def background(self) -> str:
        return self.run("return getComputedStyle(document.body).backgroundColor")

    def printed(self, folder: Path) -> str:
        """Print the page; return the words on paper."""
        answer = self.driver.execute_cdp_cmd("Page.printToPDF", {})
        path = folder / "page.pdf"
        path.write_bytes(base64.b64decode(answer["data"]))
        command = ["pdftotext", "-layout", str(path), "-"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def complaints_and_requests(self) -> tuple[list, list[str]]:
        """Return what the console showed, and which addresses but the page's own were asked for."""
        events = [
            json.loads(one["message"])["message"] for one in self.driver.get_log("performance")
        ]
        asked = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        foreign = [
            url for url in asked if url != self.page and not url.startswith(("data:", "blob:"))
        ]
        return self.driver.get_log("browser"), foreign


def wait_for(condition, seconds: float = 60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)
    return found
