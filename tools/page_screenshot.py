#!/usr/bin/env python3
"""Use the page of a running service in Chromium, and take a picture of it.

    fairtale serve runs/quickstart/checkpoint_best.pt --cpu &
    python tools/page_screenshot.py http://127.0.0.1:8000 --say quickstart "Once upon a time" \\
        --output docs/serving_page.png

Needs `pip install playwright` and a Chromium in PATH.
"""

import argparse
import shutil
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome")


def main() -> int:
    """Send the texts of the command line to the models, and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="address of the service")
    parser.add_argument("--output", required=True, metavar="FILE", help="the picture, as PNG")
    parser.add_argument(
        "--say",
        nargs=2,
        action="append",
        default=[],
        metavar=("MODEL", "TEXT"),
        help="write a text to a model and wait for its answer; may be repeated",
    )
    parser.add_argument(
        "--set",
        nargs=2,
        action="append",
        default=[],
        metavar=("LABEL", "VALUE"),
        help="change a setting of the models, as Temperature 0.5; may be repeated",
    )
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--dark", action="store_true", help="in dark colours")
    args = parser.parse_args()
    browser = next((path for path in map(shutil.which, NAMES) if path), None)
    if browser is None:
        print(f"error: no browser in PATH; install one of {', '.join(NAMES)}", file=sys.stderr)
        return 2
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(
            viewport={"width": args.width, "height": args.height},
            color_scheme="dark" if args.dark else "light",
        )
        page.goto(args.url)
        field = page.locator("#field")
        for model, text in args.say:
            page.locator("#model").select_option(model)
            page.locator("#show-settings").click()
            for label, value in args.set:
                page.locator("#settings").get_by_label(label).fill(value)
            page.locator("#close-settings").click()
            field.fill(text)
            field.press("Enter")
            page.locator("#stop").wait_for(state="hidden", timeout=300_000)
        page.mouse.move(args.width / 2, args.height - 5)
        page.screenshot(path=args.output)
        chromium.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
