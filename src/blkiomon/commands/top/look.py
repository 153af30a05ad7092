"""What the user has chosen by keys, which are those of htop where it has them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

RowKey = tuple[str, int]
"""A row: ``array``, ``lun`` or ``device`` and its number, or ``op`` and the key of ``Columns``."""

WORST = "worst"

TREES = ("array", "lun", "path")
"""Views that are trees of arrays, LUNs and paths."""

_KEYS = {
    "\x1b[A": "up", "\x1bOA": "up", "\x1b[B": "down", "\x1bOB": "down",
    "\x1b[5~": "pgup", "\x1b[6~": "pgdn",
    "\x1b[H": "home", "\x1bOH": "home", "\x1b[1~": "home", "\x1b[7~": "home",
    "\x1b[F": "end", "\x1bOF": "end", "\x1b[4~": "end", "\x1b[8~": "end",
    "\x1bOP": "h", "\x1b[11~": "h", "\x1b[[A": "h",
    "\x1bOR": "/", "\x1b[13~": "/", "\x1b[[C": "/",
    "\x1bOS": "/", "\x1b[14~": "/", "\x1b[[D": "/",
    "\x1b[15~": "t", "\x1b[[E": "t", "\x1b[17~": ">", "\x1b[18~": "-", "\x1b[19~": "+",
    "\x1b[21~": "q", "\x1b": "esc", "\r": "enter", "\n": "enter", "\x7f": "back", "\b": "back",
}  # fmt: skip
"""By what the terminal sends: cursor keys, F1, F3 to F8 and F10, and others."""

_SEQUENCE = re.compile(r"\x1b\[\[[A-E]|\x1b\[[0-?]*[ -/]*[@-~]|\x1bO?[^\x1b]|.", re.DOTALL)


def keys_of(text: str) -> list[str]:
    """The keys that were pressed: letters, and words such as ``up``. Unknown ones are left out."""
    found = (_KEYS.get(key, key) for key in _SEQUENCE.findall(text))
    return [key for key in found if not key.startswith("\x1b")]


@dataclass(frozen=True, slots=True)
class Shown:
    """What is on the screen, for keys that depend on it.

    Attributes:
        rows: all rows, also those that do not fit.
        page: how many fit.
        titles: of the sortable columns.
        has_operations: devices have a row for each operation.
    """

    rows: tuple[RowKey, ...] = ()
    page: int = 1
    titles: tuple[str, ...] = (WORST,)
    has_operations: bool = True


@dataclass(frozen=True, slots=True)
class Look:
    """The choices of the user.

    Attributes:
        sort: title of a column.
        has_operations: None: if there are few devices, and no tree.
        by: one of ``interval.views.BY``.
        selected: None: the first row.
        filter: a part of the name of each shown row.
        is_open: ``*`` changed all branches of the tree.
        toggled: branches that were changed since then, see ``shows_below``.
        detail: the row whose latencies are shown in place of the table.
    """

    sort: str = WORST
    has_operations: bool | None = None
    is_whole: bool = False
    is_paused: bool = False
    is_help: bool = False
    by: str = "device"
    selected: RowKey | None = None
    filter: str = ""
    is_typing: bool = False
    is_open: bool = False
    toggled: frozenset[RowKey] = frozenset()
    detail: RowKey | None = None

    def shows_below(self, row: RowKey) -> bool:
        """Whether a branch of the tree is open. By path, branches are open at first."""
        return (row in self.toggled) != (self.is_open != (self.by == "path"))

    def after(self, key: str, shown: Shown | None = None, *, has_tree: bool = False) -> Look:
        """The choices after a key; the same if it has no meaning.

        Args:
            shown: what is on the screen.
            has_tree: the topology is known.
        """
        shown = shown or Shown()
        if key in ("up", "down", "pgup", "pgdn", "home", "end"):
            return self._moved(key, shown)
        if key == "esc":
            return self._back()
        if self.is_typing:
            return self._typed(key)
        sorts = {"l": WORST, "i": "IOPS", "b": "MB/s"}
        if key in sorts:
            return replace(self, sort=sorts[key])
        if key in "<>":
            titles = shown.titles
            at = titles.index(self.sort) if self.sort in titles else 0
            return replace(self, sort=titles[(at + (1 if key == ">" else -1)) % len(titles)])
        if key == "o":
            return replace(self, has_operations=not shown.has_operations)
        if key == "t" and has_tree:
            return replace(
                self,
                by="device" if self.by in TREES else "array",
                selected=None,
                detail=None,
                toggled=frozenset(),
            )
        if key == "*":
            return replace(self, is_open=not self.is_open, toggled=frozenset())
        at_row = self.selected or (shown.rows[0] if shown.rows else None)
        if key == "enter" and at_row is not None:
            of = ("device", at_row[1] >> 3) if at_row[0] == "op" else at_row
            return replace(self, detail=of, selected=at_row)
        if key in "+-= " and self.by in TREES and at_row is not None:
            if key == " " or self.shows_below(at_row) != (key in "+="):
                return replace(self, toggled=self.toggled ^ {at_row}, selected=at_row)
            return self
        if key == "/":
            return replace(self, is_typing=True, detail=None, is_help=False)
        toggles = {"w": "is_whole", "p": "is_paused", " ": "is_paused"}
        toggles |= {"?": "is_help", "h": "is_help"}
        if key not in toggles:
            return self
        return replace(self, **{toggles[key]: not getattr(self, toggles[key])})  # type: ignore[arg-type]

    def _moved(self, key: str, shown: Shown) -> Look:
        if not shown.rows or self.detail is not None:
            return self
        at = shown.rows.index(self.selected) if self.selected in shown.rows else 0
        last = len(shown.rows) - 1
        step = {"up": -1, "down": 1, "pgup": -shown.page, "pgdn": shown.page}
        step |= {"home": -last, "end": last}
        if self.selected is None and key == "down":
            step["down"] = 0  # the first row is selected first
        return replace(self, selected=shown.rows[min(last, max(0, at + step[key]))])

    def _back(self) -> Look:
        """Leave one thing: the help, the latencies of a device, the filter, the selection."""
        if self.is_help:
            return replace(self, is_help=False)
        if self.detail is not None:
            return replace(self, detail=None)
        if self.is_typing or self.filter:
            return replace(self, is_typing=False, filter="")
        return replace(self, selected=None)

    def _typed(self, key: str) -> Look:
        if key == "enter":
            return replace(self, is_typing=False)
        if key == "back":
            return replace(self, filter=self.filter[:-1])
        return replace(self, filter=self.filter + key) if key.isprintable() else self
