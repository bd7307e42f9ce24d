import json
import logging
from pathlib import Path

import pytest

from data.faults import BY_RULE, NAMED, Fault, FaultLog
from data.quarantine import Quarantine


def fault(index: int, source: str = "a", reason: str = "bad JSON") -> Fault:
    return Fault(source, reason, index, "a.tar", str(index), f"record '{index}' is bad", {"json": "00"})


def test_a_fault_is_counted_once_and_the_first_of_a_kind_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    faults = FaultLog({"a": 500, "b": 500})
    faults.add((fault(1), fault(2), fault(1), fault(1, "b")), {"a": 400, "b": 400})
    assert faults.counts == {("a", "bad JSON"): 2, ("b", "bad JSON"): 1}
    assert faults.keys == {("a", "bad JSON"): ["a.tar, key 1", "a.tar, key 2"], ("b", "bad JSON"): ["a.tar, key 1"]}
    assert [record.args[0] for record in caplog.records] == ["a", "b"]  # type: ignore[index]
    assert "a.tar, key 1" in caplog.text


def test_a_larger_share_than_asked_for_stops_the_run() -> None:
    faults = FaultLog({"a": 5000})
    faults.add(tuple(fault(i) for i in range(9)), {"a": 999})
    faults.add((fault(9),), {"a": 1})
    with pytest.raises(
        ValueError, match=r"11 of 1005 records.*data\.max_faulty, 1\.00%: a: 11 x bad JSON \(such as a\.tar, key 0\)"
    ):
        faults.add((fault(10),), {"a": 5})
    FaultLog({"a": 5000}, 0.5).add(tuple(fault(i) for i in range(900)), {"a": 2000})


def test_a_share_of_nothing_stops_at_the_first_and_tells_where_it_is_listed(tmp_path: Path) -> None:
    faults = FaultLog({"a": 5000}, 0.0)
    faults.add((), {"a": 3})
    faults.quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    with pytest.raises(ValueError, match=rf"max_faulty is 0.*a\.tar, key 7.*{tmp_path}/quarantine\.jsonl"):
        faults.add((fault(7),), {"a": 1})
    assert json.loads((tmp_path / "quarantine.jsonl").read_text())["key"] == "7"


def test_a_source_without_a_usable_record_stops_the_run() -> None:
    with pytest.raises(ValueError, match="source a: none of 3"):
        FaultLog({"a": 3, "b": 100}).add(tuple(fault(i) for i in range(3)), {"a": 7, "b": 50})
    too_long = tuple(fault(i, reason=BY_RULE["drop"]) for i in range(3))
    with pytest.raises(ValueError, match=r"source a: none of 3 .*longer than row_tokens"):
        FaultLog({"a": 3}).add(too_long, {"a": 3})


@pytest.mark.parametrize("rule", ["drop", "cut", "split"])
def test_long_records_are_counted_but_are_no_fault(tmp_path: Path, rule: str, caplog: pytest.LogCaptureFixture) -> None:
    faults = FaultLog({"a": 5000}, 0.0)
    faults.quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    with caplog.at_level(logging.WARNING):
        faults.add(tuple(fault(i, reason=BY_RULE[rule]) for i in range(1900)), {"a": 2000})
    assert faults.counts == {("a", BY_RULE[rule]): 1900}
    assert len(faults.keys["a", BY_RULE[rule]]) == NAMED
    assert len(caplog.records) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_was_cut_may_be_faulty_too() -> None:
    faults = FaultLog({"a": 50})
    faults.add((fault(1, reason=BY_RULE["cut"]), fault(1, reason="corrupt picture")), {"a": 5})
    assert faults.counts == {("a", BY_RULE["cut"]): 1, ("a", "corrupt picture"): 1}
