"""The web page of the service: one response that needs nothing else from any address.

The files in ``web/`` are joined when the service starts. The policy names the scripts and the style
sheet by their hashes, so that a browser runs nothing else, whatever a model writes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "web"
STYLE = re.compile(r'<link rel="stylesheet" href="([\w-]+\.css)">')
SCRIPT = re.compile(r'<script src="([\w-]+\.js)"></script>')


class Page(NamedTuple):
    """The body of ``GET /``, in UTF-8, and the headers that belong to it."""

    body: bytes
    headers: Mapping[str, str]


@cache
def page() -> Page:
    """Return the page with its style sheet and scripts inlined.

    Source: Content Security Policy Level 3, section 8.4 (hashes of inline elements).
    """
    hashes: dict[str, list[str]] = {"style": [], "script": []}

    def inline(tag: str) -> Callable[[re.Match[str]], str]:
        def replace(match: re.Match[str]) -> str:
            text = "\n" + (FOLDER / match[1]).read_text(encoding="utf-8")
            if f"</{tag}" in text.lower():
                raise ValueError(f"{match[1]} would end its own element: it contains </{tag}")
            hashes[tag].append(_hash(text))
            return f"<{tag}>{text}</{tag}>"

        return replace

    text = (FOLDER / "page.html").read_text(encoding="utf-8")
    text = STYLE.sub(inline("style"), text)
    text = SCRIPT.sub(inline("script"), text)
    return Page(text.encode("utf-8"), _headers(hashes["style"], hashes["script"]))


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _headers(styles: list[str], scripts: list[str]) -> dict[str, str]:
    policy = [
        "default-src 'none'",
        f"script-src {' '.join(scripts)}",
        f"style-src {' '.join(styles)}",
        "connect-src 'self'",
        "img-src data:",  # the icon
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # text cannot become HTML
        "trusted-types 'none'",
    ]
    return {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "; ".join(policy),
        "Cache-Control": "no-cache",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
