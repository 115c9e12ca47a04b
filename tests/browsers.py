"""A real headless Chromium. Tests that need it are skipped, and say so, where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

NEEDS_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="no browser: apt-get install chromium chromium-driver"
    ),
]

CONTRAST = """
const channel = (value) => {
  value /= 255;
  return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
};
const light = (colour) => {
  const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(channel);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (element) => {
  const colour = getComputedStyle(element).backgroundColor;
  const isClear = /rgba\\(.*, 0\\)/.test(colour);
  return isClear && element.parentElement ? ground(element.parentElement) : colour;
};
const selected = 'p, dt, dd, th, td, a, mark, button, figcaption, caption, summary, h1, h2';
return [...document.querySelectorAll(selected)]
  .filter((element) => element.textContent.trim() && element.getClientRects().length)
  .map((element) => {
    const lights = [light(getComputedStyle(element).color), light(ground(element))];
    const [a, b] = lights.sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), element.tagName + ' ' + element.className];
  })
  .filter(([ratio]) => ratio < 4.5);
"""
"""Visible texts whose contrast is below that of WCAG AA."""


@contextmanager
def chromium() -> Iterator[Chrome]:
    """Run a browser that keeps what its console says."""
    options = Options()
    options.binary_location = str(CHROMIUM)
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()
