"""Strategies of hypothesis; the fuzzer uses ``intervals`` without hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st
from intervals import BIDIRECTIONAL, DM3, HUNG, READ, SDB, WRITE, Io

from blkiomon.engine import layout

IOS = st.builds(
    Io,
    device=st.sampled_from([SDB, DM3, HUNG, 0, 2**32 - 1]),
    op=st.sampled_from(layout.OPS),
    size=st.sampled_from([0, 512, 4096]) | st.integers(0, 2**32 - 1),
    issue_ns=st.integers(-(10**9), 4 * 10**9),
    d2c_ns=st.none() | st.integers(0, 200) | st.integers(0, 3 * 10**9) | st.integers(0, 2**57),
    error=st.booleans(),
    q2d_ns=st.none() | st.integers(0, 10**9) | st.integers(0, 2**57),
    pid=st.none() | st.integers(1, 5),
    direction=st.sampled_from([None, READ, WRITE, BIDIRECTIONAL]),
)
"""Any request."""
