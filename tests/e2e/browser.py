"""A real browser for tests: Debian's chromium, headless, driven by selenium; it tells what it asked for and logged."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import axe_core_python
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.e2e.peers import until

AXE = Path(axe_core_python.__file__).with_name("axe.min.js")


class Browser:
    """One browser, with a profile of its own."""

    def __init__(self, driver: webdriver.Chrome, folder: Path) -> None:
        self.driver = driver
        self.folder = folder

    def open(self, url: str) -> None:
        self.driver.get(url)

    def find(self, selector: str) -> WebElement:
        """Return the first element, once it is there."""
        return self.all(selector)[0]

    def all(self, selector: str) -> list[WebElement]:
        until(lambda: self.driver.find_elements(By.CSS_SELECTOR, selector), selector)
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str = "body") -> str:
        return self.find(selector).text

    def shows(self, text: str, selector: str = "body") -> None:
        """Wait until the page shows a text."""
        until(lambda: text in self.text(selector), f"{text!r} on the page")

    def size(self, width: int, height: int = 900) -> None:
        """Have a viewport of a size, which may be less than a window can have."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def colours(self, scheme: str) -> None:
        """Prefer ``dark`` or ``light``."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def shot(self, path: Path) -> None:
        """Save a picture of the viewport."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(path))

    def complaints(self) -> list[str]:
        """Return what was logged since the last call: errors of the console, violations of the policy."""
        return [each["message"] for each in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def axe(self, rule: str = "") -> list[str]:
        """Return what axe finds serious, or worse.

        Args:
            rule: the only rule to check; empty: all.
        """
        self.driver.execute_script(AXE.read_text("utf-8"))
        options = {"resultTypes": ["violations"], **({"runOnly": [rule]} if rule else {})}
        found: dict[str, Any] = self.driver.execute_async_script(
            "axe.run(document, arguments[0]).then(arguments[1])", options
        )
        return [
            f"{one['id']}: {one['help']}: {[node['html'][:200] for node in one['nodes']][:3]}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the viewport."""
        script = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.driver.execute_script(script))

    def asked(self) -> set[str]:
        """Return the hosts that pages asked since the last call."""
        found = set()
        for entry in self.driver.get_log("performance"):  # type: ignore[no-untyped-call]
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                parts = urlsplit(message["params"]["request"]["url"])
                if parts.scheme not in ("data", "blob", "chrome"):
                    found.add(parts.hostname or "")
        return found


def missing() -> str:
    """Return what is missing for a browser; empty where nothing is."""
    return ", ".join(name for name in ("chromium", "chromedriver") if shutil.which(name) is None)


@contextmanager
def browser(folder: Path, *, script: bool = True) -> Iterator[Browser]:
    """Start a browser.

    Args:
        folder: where its profile and its downloads go.
        script: whether it runs JavaScript.
    """
    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    downloads = folder / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
        "--disable-component-update", "--no-first-run", "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}",
    ):  # fmt: skip
        options.add_argument(argument)
    prefs = {"download.default_directory": str(downloads), "download.prompt_for_download": False}
    if not script:
        prefs["profile.managed_default_content_settings.javascript"] = 2
    options.add_experimental_option("prefs", prefs)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver") or ""))
    driver.set_script_timeout(60)
    try:
        yield Browser(driver, folder)
    finally:
        driver.quit()
