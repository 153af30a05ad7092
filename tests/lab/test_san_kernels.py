"""SANs on real kernels: what blkiomon finds equals what was done, and what fio and the tools say.

Every stack here is one of the machine of ``make lab``. A stack runs once: what happens to it while
blkiomon watches is recorded, and the tests look at the recording.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import machine
import pytest
import stacks
from machine import Compare, Fio, Live, Load, blkiomon, sh, until
from stacks import PORTALS, Stack

Finding = dict[str, Any]
Json = dict[str, Any]

SIZE_BYTES = 9 << 9
"""Of the reads of fio: udev and multipathd read other sizes when a path comes back."""

IODEPTH = 4

LOAD = {
    "rw": "randread",
    "bs": SIZE_BYTES,
    "iodepth": IODEPTH,
    "rate_iops": 150,
    "time_based": 1,
    "runtime": 1800,
}
"""As a server that has a steady load: it ends when the test says so."""

INTERVAL_S = 2
"""A second is short for an emulated processor that runs target, initiator, fio and blkiomon."""


@pytest.fixture
def compare(request: pytest.FixtureRequest) -> Compare:
    """Compares figures by name, and leaves a line for ``make lab``."""
    return machine.comparison(request.node.name)


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Leaves a line for ``make lab``."""
    return lambda text: machine.note(request.node.name, text)


# --- a stack that is watched ----------------------------------------------------------------------


@dataclass
class Run:
    """What blkiomon showed of a stack under load, and what was done to it meanwhile.

    Attributes:
        stack: device and paths.
        live: its intervals, by path.
        marks: when something was done, in seconds since the epoch.
        load: what fio counted.
        said: output of tools, by name.
    """

    stack: Stack
    live: Live
    marks: dict[str, float] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    load: Load | None = None

    def mark(self, name: str) -> None:
        """Note that something is done now."""
        self.marks[name] = time.time()

    def found(self, kind: str, name: str, since: str) -> list[tuple[int, Finding]]:
        """Findings since a mark, each with the number of intervals that had begun by then."""
        later = [one for one in self.live.intervals() if epoch(one["end"]) > self.marks[since]]
        return [
            (sum(epoch(of["start"]) >= self.marks[since] for of in later[: n + 1]), finding)
            for n, one in enumerate(later)
            for finding in one["findings"]
            if (finding["kind"], finding["name"]) == (kind, name)
        ]

    def await_finding(self, kind: str, name: str, since: str) -> None:
        until(lambda: self.found(kind, name, since), f"{kind} {name}")

    def await_intervals(self, number: int, is_so: Callable[[Json], object]) -> None:
        """Wait for so many intervals in a row, from now on, of which something is true."""
        first = len(self.live.intervals()) + 1

        def are_so() -> bool:
            latest = self.live.intervals()[first:][-number:]
            return len(latest) == number and all(map(is_so, latest))

        until(are_so, f"{number} intervals")


def epoch(stamp: str) -> float:
    """Seconds since the epoch of a time in JSON."""
    return datetime.fromisoformat(stamp[:26].rstrip("Z") + "+00:00").timestamp()


def latest(run: Run) -> Json:
    """The latest interval; an interval without requests before the first."""
    return ([{"devices": []}, *run.live.intervals()])[-1]


def is_calm(interval: Json) -> bool:
    return not interval["findings"]


def requests_of(interval: Json, name: str) -> int:
    return sum(one["requests"] for one in interval["devices"] if one["name"] == name)


@contextmanager
def watched(stack: Stack, by: str = "path", **load: object) -> Iterator[Run]:
    """Watch a stack while fio reads; what is done to it meanwhile is up to the caller."""
    with (
        Live(stack.traced, "--by", by, interval_s=INTERVAL_S) as live,
        Fio(stack.device, **{**LOAD, **load}) as fio,
    ):
        run = Run(stack, live)
        run.mark("start")
        yield run
        run.load = fio.stop()
        live.stop()


def completed(run: Run) -> dict[str, int]:
    """Reads of fio's size that the paths completed without an error, if no other reads fail."""
    found, errors = reads_in(run.live)
    return {"read": found - errors}


def reads_in(live: Live, name: str = "") -> tuple[int, int]:
    """Reads of fio, and the errors of all reads; of all devices by default.

    fio's size tells its reads from others. The kernel may merge reads of adjacent sectors.
    """
    groups = [
        group for one in live.intervals() for group in one["devices"] if name in ("", group["name"])
    ]
    reads = [group["ops"]["read"] for group in groups if "read" in group["ops"]]
    found = 0
    for read in reads:
        bins = read["size_bytes"]["histogram"]
        found += sum(
            n * merged
            for low, high, n in zip(bins["low"], bins["high"], bins["count"], strict=True)
            for merged in range(1, IODEPTH + 1)
            if low <= merged * SIZE_BYTES <= high
        )
    return found, sum(read["errors"] for read in reads)


def compare_on_map(run: Run, compare: Compare) -> None:
    """Compare reads of the map with those of fio. Reads that fail on a path run again on others."""
    assert run.load is not None
    reads, errors = json.loads(run.said["on map"])
    compare({"read": run.load.reads, "errors": 0}, {"read": reads, "errors": errors})
    reads, errors = reads_in(run.live)
    assert reads - errors <= run.load.reads <= reads


def shown_topology() -> dict[str, Json]:
    """Devices of ``blkiomon topology --json``, by name."""
    topology = json.loads(blkiomon("topology", "--json"))
    return {device["name"]: device for device in topology["devices"]}


def shown_by_multipathd() -> dict[str, tuple[str, ...]]:
    """WWID, map, SCSI address and state of each path."""
    lines = sh("multipathd", "show", "paths", "raw", "format", "%d|%w|%m|%i|%o").splitlines()
    return {name: tuple(rest) for name, *rest in (line.split("|") for line in lines)}


def as_multipathd(devices: dict[str, Json]) -> dict[str, tuple[str, ...]]:
    """The same of a topology."""
    return {
        name: (path["wwid"], devices[path["map"]]["alias"], path["hctl"], path["state"])
        for name, path in devices.items()
        if path["kind"] == "path"
    }


# --- iSCSI ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def iscsi() -> Run:
    """A path that is slow for a while, then cut, comes back, is removed and added."""
    with stacks.iscsi() as stack, Live([stack.name]) as on_map:
        tools = {"topology": json.dumps(shown_topology())}
        tools["multipathd"] = json.dumps(shown_by_multipathd())
        path = stack.paths[PORTALS[1]]
        with watched(stack) as run:
            run.said = tools
            run.await_intervals(2, lambda one: one["devices"])
            run.mark("slow")
            stacks.disturb(PORTALS[1], "delay", "20ms")
            run.await_finding("slow_path", path, "slow")
            stacks.disturb(PORTALS[1])
            run.await_intervals(2, is_calm)
            run.mark("cut")
            stacks.disturb(PORTALS[1], "loss", "100%")
            run.await_finding("idle_path", path, "cut")
            run.mark("restored")
            stacks.disturb(PORTALS[1])
            run.await_intervals(1, lambda one: requests_of(one, path) > 20)
            run.mark("removed")
            sh("iscsiadm", "-m", "node", "-p", PORTALS[1], "--logout")
            run.mark("gone")
            run.await_finding("changed", path, "removed")
            run.mark("added")
            sh("iscsiadm", "-m", "node", "-p", PORTALS[1], "--login")
            until(lambda: len(stacks.slaves(stack.device)) == 2, "the path")
            run.mark("back")
            run.said["added"] = {
                stacks.portal_of(name): name for name in stacks.slaves(stack.device)
            }[PORTALS[1]]
            run.await_intervals(3, lambda one: one["devices"])
        on_map.stop()
        run.said["on map"] = json.dumps(reads_in(on_map))
        return run


def run_name(stack: Stack) -> str:
    """The name by which findings call a LUN."""
    return Path(stack.device).name


def test_iscsi_slow_path_is_named_within_two_intervals(
    iscsi: Run, note: Callable[[str], None]
) -> None:
    path = iscsi.stack.paths[PORTALS[1]]
    after, finding = iscsi.found("slow_path", path, "slow")[0]
    note(f"named {path}/{finding['name']} after at most 2/{after} intervals: {finding['text']}")
    assert after <= 2
    assert finding["lun"] == run_name(iscsi.stack)
    assert finding["target_port"].startswith(PORTALS[1])
    assert finding["d2c_ns"] > 2 * finding["siblings_d2c_ns"]


def test_iscsi_stall_is_shown_while_it_lasts(iscsi: Run, note: Callable[[str], None]) -> None:
    path = iscsi.stack.paths[PORTALS[1]]
    # All requests of the LUN wait for the path, or one does while others use its sibling.
    lun = run_name(iscsi.stack)
    kinds = (("stalled", lun), ("stalled_requests", lun), ("stalled_path", path))
    found = [iscsi.found(kind, name, "cut") for kind, name in kinds]
    stalls = [finding for of_kind in found for _, finding in of_kind]
    stalls.sort(key=lambda finding: float(finding["oldest_ns"]))
    ages_s = [finding["oldest_ns"] / 1e9 for finding in stalls]
    note(f"stalled for {' '.join(f'{age_s:.1f}' for age_s in ages_s)} s: {stalls[0]['text']}")
    # The kernel gives up after a ping of 1 + 2 s and replacement_timeout of 5 s.
    assert len(stalls) >= 3
    assert 5 < ages_s[-1] < 20
    # After just a second, the request of the path is not that old yet.
    assert all(path in one["paths"] for one in stalls if one["paths"])
    assert all(one["paths"] for one in stalls if one["oldest_ns"] > 2e9)


def test_iscsi_failover_and_failback_are_events(iscsi: Run, note: Callable[[str], None]) -> None:
    path = iscsi.stack.paths[PORTALS[1]]
    states = [
        (finding["attribute"], finding["before"], finding["after"])
        for _, finding in iscsi.found("changed", path, "cut")
    ]
    note(f"changes of {path}: " + ", ".join(f"{name} {new}" for name, _, new in states))
    seen = {(name, new) for name, _, new in states}
    assert {("state", "transport-offline"), ("state", "running")} <= seen
    assert {("connection_state", "failed"), ("connection_state", "up")} <= seen
    assert iscsi.found("idle_path", path, "cut")


def test_iscsi_path_that_is_removed_and_added_is_noticed_within_one_interval(
    iscsi: Run, note: Callable[[str], None]
) -> None:
    path = iscsi.stack.paths[PORTALS[1]]
    gone = [at for at, one in iscsi.found("changed", path, "gone") if one["after"] is None]
    new = [
        (at, one["name"])
        for at, one in iscsi.found("changed", iscsi.said["added"], "back")
        if one["before"] is None
    ]
    note(f"gone after at most 1/{gone[0]} intervals, new after at most 1/{new[0][0]}: {new[0][1]}")
    assert gone[0] <= 1
    assert new[0][0] <= 1


def test_iscsi_totals_equal_those_of_fio(iscsi: Run, compare: Compare) -> None:
    compare_on_map(iscsi, compare)


def test_iscsi_topology_equals_what_multipathd_says(iscsi: Run, compare: Compare) -> None:
    devices = json.loads(iscsi.said["topology"])
    found = as_multipathd(devices)
    expected = {name: tuple(of) for name, of in json.loads(iscsi.said["multipathd"]).items()}
    assert found == expected
    compare({"paths": 2}, {"paths": len(found)})


# --- NVMe -----------------------------------------------------------------------------------------


def cut_and_restore(run: Run) -> None:
    """Cut the path through the first portal until the other takes over; wait for the failback."""
    first, other = (run.stack.paths[portal] for portal in PORTALS)
    run.mark("cut")
    stacks.disturb(PORTALS[0], "loss", "100%")
    until(lambda: requests_of(latest(run), other) > 20, "the failover")
    run.mark("restored")
    stacks.disturb(PORTALS[0])
    until(lambda: requests_of(latest(run), first) > 20, "the failback")
    run.await_intervals(3, lambda one: one["devices"])


@pytest.fixture(scope="module")
def native_nvme() -> Run:
    """The optimized path is slow for a while, and then cut."""
    with stacks.nvme_tcp(is_native=True) as stack:
        said = {"topology": json.dumps(shown_topology()), "tool": shown_by_nvme()}
        with watched(stack) as run:
            run.said = said
            run.await_intervals(2, lambda one: one["devices"])
            run.mark("slow")
            stacks.disturb(PORTALS[0], "delay", "20ms")
            run.await_intervals(4, lambda one: one["devices"])
            cut_and_restore(run)
        return run


def shown_by_nvme() -> str:
    return sh("nvme", "list-subsys", "-o", "json")


def controllers_of(text: str) -> dict[str, tuple[str, str, str]]:
    """Address, transport and state of each controller, as ``nvme list-subsys`` prints them."""
    found: list[Json] = []

    def keep(one: Json) -> Json:
        found.extend([one] if "Address" in one else [])
        return one

    json.loads(text, object_hook=keep)
    return {
        one["Name"]: (address_of(one["Address"]), one["Transport"], one["State"]) for one in found
    }


def address_of(text: str) -> str:
    """``10.0.0.1:4420``, from what nvme prints."""
    parts = dict(part.split("=", 1) for part in text.replace(" ", ",").split(",") if "=" in part)
    return f"{parts['traddr']}:{parts['trsvcid']}"


def as_nvme(devices: dict[str, Json]) -> dict[str, tuple[str, str, str]]:
    """The same of a topology."""
    paths = [device["transport"] | {"state": device["state"]} for device in devices.values()
             if (device["transport"] or {}).get("protocol") == "nvme-tcp"]  # fmt: skip
    return {
        path["host"]: (path["target_port"], path["protocol"].removeprefix("nvme-"), path["state"])
        for path in paths
    }


def test_nvme_topology_equals_what_nvme_says(native_nvme: Run, compare: Compare) -> None:
    devices = json.loads(native_nvme.said["topology"])
    found = as_nvme(devices)
    assert found == controllers_of(native_nvme.said["tool"])
    states = [devices[path]["access_state"] for path in native_nvme.stack.paths.values()]
    assert states == ["optimized", "non-optimized"]
    compare({"paths": 2}, {"paths": len(found)})


def test_nvme_optimized_path_keeps_all_requests_while_it_is_slow(
    native_nvme: Run, note: Callable[[str], None]
) -> None:
    """Under the policy numa the other path is no sibling, and so nothing can be compared."""
    slow, other = (native_nvme.stack.paths[portal] for portal in PORTALS)
    marks = native_nvme.marks
    while_slow = [
        one
        for one in native_nvme.live.intervals()
        if marks["slow"] <= epoch(one["start"]) and epoch(one["end"]) <= marks["cut"]
    ]
    taken = [sum(requests_of(one, name) for one in while_slow) for name in (slow, other)]
    findings = [finding["text"] for one in while_slow for finding in one["findings"]]
    note(f"requests {taken[0]} and 0/{taken[1]}, findings {findings}")
    assert taken[0] > 100
    assert not taken[1]


def test_nvme_failover_is_shown(native_nvme: Run, note: Callable[[str], None]) -> None:
    path = native_nvme.stack.paths[PORTALS[0]]
    stalls = [one for _, one in native_nvme.found("stalled", native_nvme.stack.name, "cut")]
    states = [one["after"] for _, one in native_nvme.found("changed", path, "cut")
              if one["attribute"] == "state"]  # fmt: skip
    note(f"states {' '.join(states)}: {stalls[0]['text']}")
    assert stalls[0]["paths"] == [path]
    assert "connecting" in states and states[-1] == "live"  # 6.1 resets it first


def test_nvme_totals_equal_those_of_fio(native_nvme: Run, compare: Compare) -> None:
    assert native_nvme.load is not None
    compare({"read": native_nvme.load.reads}, completed(native_nvme))


@pytest.fixture(scope="module")
def mapped_nvme() -> Run:
    """The path in use is cut."""
    with stacks.nvme_tcp(is_native=False) as stack:
        said = {"topology": json.dumps(shown_topology()), "tool": shown_by_nvme()}
        with watched(stack) as run:
            run.said = said
            run.await_intervals(3, lambda one: one["devices"])
            cut_and_restore(run)
        return run


def test_nvme_by_device_mapper_stall_is_found_and_reads_equal_those_of_fio(
    mapped_nvme: Run, note: Callable[[str], None], compare: Compare
) -> None:
    devices = json.loads(mapped_nvme.said["topology"])
    assert as_nvme(devices) == controllers_of(mapped_nvme.said["tool"])
    (above,) = [one for one in devices.values() if one["kind"] == "multipath"]
    assert set(above["made_of"]) == set(mapped_nvme.stack.paths.values())
    stalls = mapped_nvme.found("stalled", run_name(mapped_nvme.stack), "cut")
    note(stalls[0][1]["text"])
    assert mapped_nvme.load is not None
    compare({"read": mapped_nvme.load.reads}, completed(mapped_nvme))


# --- Fibre Channel over Ethernet ------------------------------------------------------------------


@pytest.fixture(scope="module")
def fcoe() -> dict[str, Run]:
    """A quiet load on two paths, watched by port and by host port."""
    with stacks.fcoe() as stack:
        said = {"topology": json.dumps(shown_topology())}
        said["multipathd"] = json.dumps(shown_by_multipathd())
        for name, attribute in {
            "initiator": "fc_host/host*/port_name",
            "initiator_state": "fc_host/host*/port_state",
            "target_port": "fc_remote_ports/rport-*/port_name",
            "target_state": "fc_remote_ports/rport-*/port_state",
        }.items():
            values = [stacks.read(path) for path in Path("/sys/class").glob(attribute)]
            said[name] = " ".join(sorted(values))
        runs = {}
        for by in ("port", "hba"):
            with watched(stack, by) as run:
                run.said = said
                run.await_intervals(3, lambda one: one["devices"])
            runs[by] = run
        return runs


def test_fcoe_topology_has_the_ports_of_sysfs(
    fcoe: dict[str, Run], note: Callable[[str], None]
) -> None:
    stack, said = fcoe["port"].stack, fcoe["port"].said
    devices = json.loads(said["topology"])
    expected = {name: tuple(of) for name, of in json.loads(said["multipathd"]).items()}
    assert as_multipathd(devices) == expected
    paths = [devices[path]["transport"] for path in stack.paths.values()]
    assert {path["protocol"] for path in paths} == {"fcoe"}
    assert len({path["target_port"] for path in paths}) == len(paths)
    # The targets' ends are hosts, too, and the initiators are remote ports to them.
    for name in ("target_port", "target_state", "initiator", "initiator_state"):
        assert {path[name] for path in paths} <= set(said[name].split())
    note(" ".join(f"{path['initiator']} to {path['target_port']}" for path in paths))


@pytest.mark.parametrize("by", ["port", "hba"])
def test_fcoe_views_add_up_to_the_total_of_fio(
    fcoe: dict[str, Run], compare: Compare, by: str
) -> None:
    run = fcoe[by]
    assert run.load is not None
    ends = {"port": "target_port", "hba": "initiator"}
    groups = {group["name"] for one in run.live.intervals() for group in one["devices"]}
    devices = json.loads(fcoe["port"].said["topology"])
    paths = [devices[path]["transport"] for path in run.stack.paths.values()]
    assert groups == {path[ends[by]] for path in paths}
    compare({"read": run.load.reads}, completed(run))


# --- ALUA groups ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alua() -> Run:
    """The groups change places, then a path in use goes offline, and comes back."""
    with stacks.tcm_loop() as stack, Live([stack.name, *stack.paths.values()]) as all_devices:
        said = {"topology": json.dumps(shown_topology())}
        said["multipathd"] = json.dumps(shown_by_multipathd())
        last = list(stack.paths.values())[-1]
        state = stacks.BLOCK / last / "device/access_state"
        with watched(stack) as run:
            run.said = said
            run.await_intervals(3, lambda one: one["devices"])
            run.said["before"] = stacks.read(state)
            stacks.swap_groups(stack.paths.values())
            until(lambda: stacks.read(state) != run.said["before"], "the other group")
            run.mark("swapped")
            run.said["after"] = stacks.read(state)
            run.await_finding("changed", last, "swapped")
            until(lambda: requests_of(latest(run), last) > 20, "the other paths")
            run.mark("offline")
            (stacks.BLOCK / last / "device/state").write_text("offline\n")
            run.await_finding("changed", last, "offline")
            until(lambda: shown_by_multipathd()[last][-1] == "offline", "multipathd")
            run.said["offline"] = json.dumps([shown_topology()[last], shown_by_multipathd()[last]])
            run.said["tree"] = blkiomon("topology")
            (stacks.BLOCK / last / "device/state").write_text("running\n")
            run.await_intervals(3, lambda one: one["devices"])
        all_devices.stop()
        of_map = all_devices.name_of(stack.name)
        run.said["on map"] = json.dumps(reads_in(all_devices, of_map))
        requests = requests_of(all_devices.interval, of_map)
        run.said["totals"] = json.dumps([requests, all_devices.total["requests"]])
        return run


def test_alua_topology_equals_what_multipathd_says(alua: Run, compare: Compare) -> None:
    devices = json.loads(alua.said["topology"])
    expected = {name: tuple(of) for name, of in json.loads(alua.said["multipathd"]).items()}
    assert as_multipathd(devices) == expected
    states = [devices[path]["access_state"] for path in alua.stack.paths.values()]
    compare(
        {"active/optimized": 2, "active/non-optimized": 2},
        {state: states.count(state) for state in states},
    )


def test_alua_change_is_noticed_within_one_interval(alua: Run, note: Callable[[str], None]) -> None:
    last = list(alua.stack.paths.values())[-1]
    at, finding = next(
        (at, one)
        for at, one in alua.found("changed", last, "swapped")
        if one["attribute"] == "access_state"
    )
    note(f"noticed after at most 1/{at} intervals: {finding['text']}")
    assert at <= 1
    assert (finding["before"], finding["after"]) == (alua.said["before"], alua.said["after"])


def test_alua_path_that_is_offline_is_shown(alua: Run, note: Callable[[str], None]) -> None:
    last = list(alua.stack.paths.values())[-1]
    at, finding = alua.found("changed", last, "offline")[0]
    note(f"noticed after at most 1/{at} intervals: {finding['text']}")
    device, shown = json.loads(alua.said["offline"])
    assert device["state"] == shown[-1] == "offline"
    (line,) = [one for one in alua.said["tree"].splitlines() if one.split()[:1] == [last]]
    assert line.endswith("offline")
    assert at <= 1


def test_alua_totals_equal_those_of_fio(alua: Run, compare: Compare) -> None:
    compare_on_map(alua, compare)
    of_map, total = json.loads(alua.said["totals"])
    compare({"requests": of_map}, {"requests": total})
