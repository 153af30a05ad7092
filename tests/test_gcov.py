"""Which lines of Cython ran, computed from gcov's counts of the generated C."""

from __future__ import annotations

from tools.gcov import cython_counts, ranges

COMMENT = """\
  /* "src/blkiomon/engine/pairing.pxi":{}
 *     text            # <<<<<<<<<<<<<<
*/
"""


def counted(source: str, **ran: int) -> list[tuple[str, int, int]]:
    """``ran``: how often the line with that text ran."""
    numbers = {
        text: n for n, line in enumerate(source.splitlines(), 1) for text in ran if text in line
    }
    return list(cython_counts(source, {numbers[text]: count for text, count in ran.items()}))


def test_line_ran_as_often_as_the_first_c_it_was_made_into() -> None:
    source = COMMENT.format(7) + "  first();\n  second();\n" + COMMENT.format(9) + "  third();\n"
    assert counted(source, first=3, second=2, third=0) == [
        ("src/blkiomon/engine/pairing.pxi", 7, 3),
        ("src/blkiomon/engine/pairing.pxi", 9, 0),
    ]


def test_line_did_not_run_if_only_the_label_after_it_did() -> None:
    source = COMMENT.format(7) + "  /*else*/ {\n    evict();\n  }\n  __pyx_L10:;\n  decref();\n"
    assert counted(source, evict=0, __pyx_L10=9, decref=9) == [
        ("src/blkiomon/engine/pairing.pxi", 7, 0)
    ]


def test_label_before_a_line_does_not_count() -> None:
    source = COMMENT.format(7) + "  __pyx_L3_except:;\n  handle();\n"
    assert counted(source, __pyx_L3_except=4, handle=0) == [
        ("src/blkiomon/engine/pairing.pxi", 7, 0)
    ]


def test_c_without_a_cython_line_does_not_count() -> None:
    section = "/* #### Code section: utility_code_def ### */\n  helper();\n"
    others = (
        COMMENT.format(7).replace("src/blkiomon/engine/pairing.pxi", "View.MemoryView")
        + "  view();\n"
    )
    assert counted(others + section, view=5, helper=5) == []


def test_neighbouring_lines_are_a_range() -> None:
    assert ranges([9, 3, 5, 4]) == "3-5, 9"
