"""Views by LUN, path, port, HBA and array: exact sums, and nothing counted twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from intervals import Io, interval_of

from blkiomon import IntervalError, from_bytes, from_dict, merge, to_bytes, to_dict
from blkiomon.interval.devices import text_of
from blkiomon.interval.value import Interval
from blkiomon.interval.views import BY, LeftOut, View
from blkiomon.sources.topology import Array, Device, Topology, Transport

S, MS = 10**9, 10**6


def number(text: str) -> int:
    major, minor = map(int, text.split(":"))
    return major << 20 | minor


def path(name: str, at: str, lun: str, port: int, array: str, wwid: str = "") -> Device:
    via = Transport(protocol="fc", initiator=f"wwpn{port}", target_port=f"port{port}")
    return Device(name, "path", number(at), map=lun, transport=via, array=array, wwid=wwid or lun)


def lun_of(name: str, at: str, alias: str, paths: Iterable[str], array: str) -> Device:
    return Device(name, "multipath", number(at), alias=alias, made_of=tuple(paths), array=array)


ARRAYS = tuple(Array(name, None, None, None, ()) for name in ("one", "two"))
HOST = Topology(
    "host",
    "6.12",
    ARRAYS,
    (
        path("sda", "8:0", "dm-0", 1, "one"),
        path("sdb", "8:16", "dm-0", 2, "one"),
        path("sdc", "8:32", "dm-1", 1, "one"),
        path("sdd", "8:48", "dm-1", 2, "one"),
        path("sde", "8:64", "dm-2", 1, "two"),
        lun_of("dm-0", "253:0", "mpatha", ("sda", "sdb"), "one"),
        lun_of("dm-1", "253:1", "mpathb", ("sdc", "sdd"), "one"),
        lun_of("dm-2", "253:2", "mpathc", ("sde",), "two"),
        Device("dm-3", "lvm", number("253:3"), made_of=("dm-0",)),
        Device("sdf", "disk", number("8:80"), transport=Transport(protocol="sata")),
    ),
)
"""Two arrays, three LUNs, a volume on the first, and a plain disk."""


def ios(device: str, n: int, d2c_ms: int, op: str = "read") -> list[Io]:
    """Requests one after the other, one of which stays in flight."""
    start_ns = S // 10
    step_ns = d2c_ms * MS + MS
    done = [
        Io(number(device), op, 4096 + 512 * k, start_ns + k * step_ns, d2c_ms * MS + k)
        for k in range(n)
    ]
    return [*done, Io(number(device), op, 4096, start_ns + n * step_ns, None)]


ALL = [
    *ios("8:0", 5, 2),
    *ios("8:16", 7, 30),
    *ios("8:16", 3, 40, op="write"),
    *ios("8:32", 4, 3),
    *ios("8:64", 6, 5),
    *ios("253:0", 15, 21),
    *ios("8:80", 2, 1),
    *ios("253:3", 15, 22),
]
"""Of mpatha both paths, the map and its volume were traced; of mpathb one path, of mpathc one."""


def relabelled(labels: Mapping[str, str]) -> Interval:
    """The interval of the same requests, each of another device; those without one left out."""
    numbers = {number(device): number(label) for device, label in labels.items()}
    return interval_of(
        [replace(io, device=numbers[io.device]) for io in ALL if io.device in numbers], 0, S
    )


def known_figures(interval: Interval) -> Any:
    """The figures of all groups, but for those that are not known of several devices together."""
    line = to_dict(interval)
    found = line["total"], line["devices"]
    for of in (line["total"], *line["devices"]):
        for group in (of, *of.get("ops", {}).values()):
            for name in ("max", "busy_ns", "busy_fraction"):
                del group["in_flight"][name]
    return found


@pytest.mark.parametrize(
    ("by", "labels", "names"),
    [
        (
            "lun",
            {"253:0": "253:0", "8:32": "253:1", "8:64": "253:2"},
            {"253:0": "mpatha", "253:1": "mpathb", "253:2": "mpathc"},
        ),
        (
            "path",
            {text: text for text in ("8:0", "8:16", "8:32", "8:64")},
            {"8:0": "sda", "8:16": "sdb"},
        ),
        (
            "port",
            {"8:0": "0:1", "8:16": "0:2", "8:32": "0:1", "8:64": "0:1"},
            {"0:1": "port1", "0:2": "port2"},
        ),
        (
            "hba",
            {"8:0": "0:1", "8:16": "0:2", "8:32": "0:1", "8:64": "0:1"},
            {"0:1": "wwpn1", "0:2": "wwpn2"},
        ),
        (
            "array",
            {"8:0": "0:1", "8:16": "0:1", "8:32": "0:1", "8:64": "0:2"},
            {"0:1": "one", "0:2": "two"},
        ),
    ],
)
def test_view_adds_up_exactly_what_belongs_together(
    by: str, labels: Mapping[str, str], names: Mapping[str, str]
) -> None:
    view = View(HOST, by)
    found = view(interval_of(ALL, 0, S))
    assert found.by == by
    assert known_figures(found) == known_figures(relabelled({**labels, "8:80": "8:80"}))
    assert {text: view.name_of(number(text)) for text in names} == names
    assert view.name_of(number("8:80")) == "sdf"


def test_each_request_of_a_path_counts_in_exactly_one_group() -> None:
    whole = interval_of(ALL, 0, S)
    paths = [whole.device(text).requests for text in ("8:0", "8:16", "8:32", "8:64", "8:80")]
    for by in ("path", "port", "hba", "array"):
        assert View(HOST, by)(whole).total.requests == sum(paths)


def test_view_by_path_has_the_maps_beside_the_totals() -> None:
    whole = interval_of(ALL, 0, S)
    maps = View(HOST, "path")(whole).maps
    assert maps is not None
    assert [text_of(g.device) for g in maps.groups() if g.device and not g.op] == ["253:0"]
    assert maps.device("253:0") == whole.device("253:0")


def test_view_says_what_it_leaves_out() -> None:
    whole = interval_of(ALL, 0, S)
    left_out = {}
    for by in BY[1:]:
        view = View(HOST, by)
        view(whole)
        left_out[by] = [(item.why, item.name) for item in view.left_out]
    maps = ("maps whose paths are added up", "mpatha")
    volumes = ("volumes on traced devices", "dm-3")
    assert left_out == {
        "lun": [
            ("paths of maps that are shown", "sda"),
            ("paths of maps that are shown", "sdb"),
            volumes,
        ],
        "path": [volumes],
        "port": [maps, volumes],
        "hba": [maps, volumes],
        "array": [maps, volumes],
    }


def test_map_counts_for_its_array_where_no_path_was_traced() -> None:
    only_map = interval_of(ios("253:0", 3, 2), 0, S)
    view = View(HOST, "array")
    assert view(only_map).total.requests == 3
    by_port = View(HOST, "port")
    assert by_port(only_map).total.requests == 0
    assert by_port.left_out == [LeftOut("maps without a traced path", "mpatha")]


def test_lun_without_a_map_is_known_by_its_wwid() -> None:
    loose = tuple(
        replace(path(name, at, "", port, "one", "3600"), map=None)
        for name, at, port in (("sda", "8:0", 1), ("sdb", "8:16", 2))
    )
    view = View(Topology(None, None, ARRAYS, loose), "lun")
    found = view(interval_of(ALL, 0, S))
    assert view.name_of(number("0:1")) == "3600"
    assert found.device("0:1").requests == 15
    assert view.about(1) == "2 paths"
    assert View(Topology(None, None, ARRAYS, loose), "port").about(number("253:9")) == ""


def test_map_that_was_traced_stays_the_lun_while_it_is_idle() -> None:
    view = View(HOST, "lun")
    view(interval_of(ALL, 0, S))
    idle = interval_of([Io(number("8:0"), "other", 0, S + MS, MS)], S, 2 * S)
    assert view(idle).total.requests == 0
    assert View(HOST, "lun", [number("253:0")])(idle).total.requests == 0


def test_what_is_unknown_of_several_devices_is_not_guessed() -> None:
    found = View(HOST, "port")(interval_of(ALL, 0, S))
    several, one = found.device("0:1").in_flight, found.device("0:2").in_flight
    assert several is not None and several.busy_ns is None
    assert one is not None and one.busy_ns
    merged = merge([found, found]).device("0:1").in_flight
    assert merged is not None and merged.busy_ns is None


def test_views_merge_as_intervals_do() -> None:
    halves = [interval_of(ALL, 0, S // 2), interval_of(ALL, S // 2, S)]
    whole = interval_of(ALL, 0, S)
    for by in BY[1:]:
        view = View(HOST, by, [d.number for d in HOST.devices if d.number and d.name != "dm-1"])
        merged = merge(map(view, halves))
        assert known_figures(merged) == known_figures(view(whole))
        assert merged.by == by
    with pytest.raises(ValueError, match="different views"):
        merge([whole, View(HOST, "path")(whole)])


def test_view_is_kept_in_json() -> None:
    found = View(HOST, "port")(interval_of(ALL, 0, S))
    line = to_dict(found)
    assert line["by"] == "port"
    assert to_dict(from_dict(line)) == line


LEFT_OUT = ("8:0", "8:16", "253:3")
"""Of the devices in ``ALL``: both paths of mpatha, which was traced, and the volume on it."""


def test_total_by_device_counts_a_request_on_several_devices_once() -> None:
    whole = interval_of(ALL, 0, S)
    found = View(HOST, "lun").count_once(whole)
    rest = relabelled({text: text for text in ("253:0", "8:32", "8:64", "8:80")})
    assert found.not_in_total == tuple(map(number, LEFT_OUT))
    assert known_figures(found)[0] == known_figures(rest)[0]
    assert found.groups()[:-1] == whole.groups()[:-1]
    assert found.percentile(50) == rest.percentile(50)
    assert found.percentile(50, op="read") == rest.percentile(50, op="read")
    assert whole.total.requests == found.total.requests + 30


def test_total_is_that_of_all_devices_where_no_request_is_on_several() -> None:
    plain = interval_of(ios("8:0", 5, 2), 0, S)
    assert View(HOST, "lun").count_once(plain) is plain


def test_total_without_a_device_has_no_requests() -> None:
    whole = replace(interval_of(ALL, 0, S), not_in_total=tuple({io.device for io in ALL}))
    assert (whole.total.requests, whole.total.bytes, whole.percentile(50)) == (0, 0, None)
    assert len(whole.groups()) == len(interval_of(ALL, 0, S).groups())


def test_merged_total_leaves_out_what_either_did() -> None:
    halves = [interval_of(ALL, 0, S // 2), interval_of(ALL, S // 2, S)]
    view = View(HOST, "lun", [d.number for d in HOST.devices if d.number and d.name != "dm-1"])
    merged = merge(map(view.count_once, halves))
    whole = view.count_once(interval_of(ALL, 0, S))
    assert merged.not_in_total == whole.not_in_total
    assert known_figures(merged) == known_figures(whole)


def test_devices_outside_the_total_are_kept_in_json_and_bytes() -> None:
    found = View(HOST, "lun").count_once(interval_of(ALL, 0, S))
    line = to_dict(found)
    assert line["not_in_total"] == [*LEFT_OUT]
    read = from_dict(line)
    assert to_dict(read) == line
    assert read.counts.requests == found.counts.requests
    again = from_bytes(to_bytes(found))
    assert to_dict(again) == line
    assert to_bytes(again) == to_bytes(found)
    with pytest.raises(IntervalError, match="is not the sum"):
        from_dict(line | {"not_in_total": []})
    for wrong in (["sda"], [8], ["8:16777216"]):
        with pytest.raises(IntervalError, match="an item of not_in_total is not a device number"):
            from_dict(line | {"not_in_total": wrong})


def test_numbers_of_groups_stay_when_the_topology_changes() -> None:
    view = View(HOST, "port")
    first = view(interval_of(ALL, 0, S))
    view.update(Topology("host", "6.12", ARRAYS, HOST.devices[1:]))
    second = view(interval_of(ALL, 0, S))
    assert second.device("0:2") == first.device("0:2")
    assert view.name_of(2) == "port2"
