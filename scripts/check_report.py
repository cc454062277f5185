#!/usr/bin/env python3
"""Opens a report in headless Chromium and uses it: `check_report.py REPORT.html SCREENSHOTS`.

At 1280 and 390 pixels of width: no error in the console, nothing wider than the window, every figure is there, a click
on a head of each table sorts it, and the pointer shows values over every panel. Exits with 1 on the first failure.

Needs `pip install playwright` and a Chromium: that of `playwright install chromium`, or of the system on the PATH.
"""

import argparse
import pathlib
import re
import shutil

from playwright.sync_api import sync_playwright

WIDTHS = {"desk": (1280, 900), "telephone": (390, 844)}


def leading(text):
    """The number that a cell begins with; None where there is none."""
    if text.strip().startswith("∞"):
        return float("inf")
    number = re.match(r"\s*[+-]?\d+\.?\d*(e[+-]?\d+)?", text)
    return float(number.group()) if number else None


def check_tables(page):
    for table in page.query_selector_all("table"):
        for index, button in enumerate(table.query_selector_all("th button")):
            cells = lambda: [row.query_selector_all("td")[index].inner_text() for row in table.query_selector_all("tbody tr")]
            before = sorted(cells())
            button.click()
            after = cells()
            assert sorted(after) == before, "sorting lost or changed a cell"
            # Numbers first, then text, then empty cells.
            kinds = [2 if cell.strip() == "–" else int(leading(cell) is None) for cell in after]
            assert kinds == sorted(kinds), f"column {index} is not sorted: {after}"
            numbers = [leading(cell) for cell in after if leading(cell) is not None]
            assert numbers == sorted(numbers), f"column {index} is not sorted: {after}"


def check_figures(page):
    panels = page.query_selector_all("svg.panel")
    assert panels, "no figure"
    for panel in panels:
        panel.scroll_into_view_if_needed()
        box = panel.bounding_box()
        assert box and box["width"] > 100 and box["height"] > 80, f"a panel of size {box}"
        # Marks may be anywhere: look along the middle and the diagonal.
        shares = [(x / 10, y) for x in range(2, 10) for y in (0.5, 1 - x / 10)]
        shown = False
        for x, y in shares:
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
            tip = page.query_selector("#tip")
            if tip.is_visible() and re.search(r"\d", tip.inner_text()):
                shown = True
                break
        assert shown, f"no value under the pointer: {panel.get_attribute('aria-label')}"
    return len(panels)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=pathlib.Path)
    parser.add_argument("screenshots", type=pathlib.Path)
    options = parser.parse_args()
    options.screenshots.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        system = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=system, args=["--no-sandbox"])
        for name, (width, height) in WIDTHS.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            errors = []
            page.on("console", lambda message: message.type in ("error", "warning") and errors.append(message.text))
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(options.report.resolve().as_uri())
            whole = page.evaluate("document.documentElement.scrollWidth")
            assert whole <= width, f"{name}: the page is {whole} pixels wide"
            panels = check_figures(page)
            page.screenshot(path=options.screenshots / f"{name}-pointer.png")
            page.eval_on_selector_all("details", "parts => parts.forEach((part) => part.open = true)")
            check_tables(page)
            page.eval_on_selector_all("details", "parts => parts.forEach((part) => part.open = false)")
            page.screenshot(path=options.screenshots / f"{name}.png", full_page=True)
            assert not errors, f"{name}: {errors}"
            tables = len(page.query_selector_all("table"))
            print(f"{name}: {width} pixels, {tables} tables sorted, values under the pointer of {panels} panels, no error")
        browser.close()


if __name__ == "__main__":
    main()
