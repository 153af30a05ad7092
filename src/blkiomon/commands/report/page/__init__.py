"""Self-contained HTML pages: they load nothing, and can be printed.

The scripts and the style are files beside this one: ``data.js`` unpacks and merges the cells of
``cells.py``, ``draw.js`` draws, ``charts.js`` is what pages share, ``report.js`` is the page of a
report and ``compare.js`` that of a comparison.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from blkiomon._version import __version__
from blkiomon.commands.report.cells import MOST_BYTES as MOST_CELLS_BYTES
from blkiomon.commands.report.cells import Array, packed
from blkiomon.console import printable
from blkiomon.formats.units import op_text
from blkiomon.interval.incomplete import Incomplete, in_words

MOST_BYTES = 5_000_000
"""Limit of a page's size."""

LEAST_CELLS_BYTES = 1 << 14
"""Cells are not merged to less: then tables alone make a page large, and they are bounded."""


def fitting(render: Callable[[int], str]) -> str:
    """A page of at most ``MOST_BYTES``.

    Args:
        render: returns the page, with at most so many bytes of cells.
    """
    most = MOST_CELLS_BYTES
    while len((page := render(most)).encode()) > MOST_BYTES and most > LEAST_CELLS_BYTES:
        most //= 2
    return page


def document(title: str, body: Iterable[str], figures: Any, data: Any, script: str) -> str:
    """A page.

    Args:
        title: as plain text; it is the heading, too.
        body: lines of HTML.
        figures: for programs, as JSON in the element ``figures``.
        data: for the script, as JSON in the element ``data``; see ``with_arrays``.
        script: "report" or "compare".
    """
    parts = [_file(f"{name}.js") for name in ("data", "draw", "charts", script)]
    # A page is XML, too: hence CDATA. A browser runs this script and nothing else.
    code = "//<![CDATA[\n" + "\n".join(parts) + "//]]>"
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8"/>',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            '<link rel="icon" href="data:,"/>',
            f"<title>{text(title)}</title>",
            f"<style>{_file('page.css')}</style>",
            "</head>",
            "<body>",
            f"<h1>{text(title)}</h1>",
            *body,
            f"<footer>Made by blkiomon {text(__version__)}.</footer>",
            _json_element("figures", figures),
            _json_element("data", data),
            f"<script>{code}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def with_arrays(head: dict[str, Any], arrays: dict[str, Array]) -> dict[str, Any]:
    """What the script reads of one run: plain values, and arrays in compressed form."""
    return {**head, **packed(arrays)._asdict()}


def _file(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _json_element(name: str, value: Any) -> str:
    # "</script>" and "<!--" would end the element early, "&" is not allowed in XML.
    data = json.dumps(value, separators=(",", ":"), allow_nan=False)
    data = data.replace("<", "\\u003c").replace("&", "\\u0026")
    return f'<script type="application/json" id="{name}">{data}</script>'


def text(value: str) -> str:
    """A name as HTML: it may hold markup, control characters, or bytes that are not UTF-8."""
    return escape(printable(value))


def scoped(scope: str) -> list[str]:
    """A paragraph about which requests are shown; none if all are."""
    return [f'<p id="scope"><b>{text(scope)}</b></p>'] if scope else []


def noted(notes: Iterable[str]) -> list[str]:
    """A paragraph for each note."""
    return [f'<p class="note">{text(note)}</p>' for note in notes]


def incomplete(what: str, found: Sequence[Incomplete]) -> list[str]:
    """A paragraph about what the figures leave out; none if that is little."""
    if not found:
        return []
    return [f'<p class="note"><b>{text(what)}:</b> {text(in_words(found))}.</p>']


def table(
    heads: Sequence[str],
    rows: Iterable[tuple[str, Sequence[str]]],
    kind: str = "",
    name: str = "",
) -> str:
    """A table of HTML.

    Args:
        heads: titles of the columns.
        rows: the CSS class of each row, and its cells as HTML.
        kind: CSS classes, see ``page.css``.
        name: id of the element.
    """
    body = "\n".join(
        f'<tr class="{of_row}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for of_row, cells in rows
    )
    head = "".join(f'<th scope="col">{title}</th>' for title in heads)
    of_name = f' id="{name}"' if name else ""
    return (
        f'<div class="wide"><table class="{kind}"{of_name}><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def swatch(op: str) -> str:
    """An operation beside its colour."""
    return f'<span class="key" style="background: var(--{op})"></span>{op_text(op)}'
