"""Anything may lie under the name of a shard, of its index, or of a record: what comes out is records, or the documented error.

Each example of tar bytes that is accepted is compared with what Python's tarfile reads of it: nothing may be lost or added.
A few seconds in `make test`; five minutes in `make test-slow`.
"""

import io
import json
import os
import resource
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from data import shard_file, shards
from data.member_names import split_name
from data.sample import BadRecord, parse_question, parse_sample
from data.shard_index import index_files, write_index
from data.shards import BadShard, Shard, open_shards
from data.strict_json import strict_json
from data.tar_index import TarIndex

SLOW_BUDGET_S, QUICK_BUDGET_S = 100.0, 2.0  # for each of the three kinds of bytes
EXAMPLE_LIMIT_S = 10.0  # of processor time: what takes longer hangs
MEMORY_LIMIT = 600 * 2**20
# An example of 40 kB that fails is shown at length; a warning of that must not hide what failed.
pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")

Bytes = st.SearchStrategy[bytes]
Draw = st.DrawFn
NAMES = st.one_of(
    st.sampled_from(
        ["a.json", "a.txt", "a.0.png", "b.json", "b.jpg", "b.txt", "c/d.json", "README", ".x.txt", "e.__k__"]
    ),
    st.integers(0, 999).map(lambda n: f"{n}.txt"),
    st.text("ab./_0\\é \n\0", min_size=1, max_size=12),
    st.integers(90, 300).map(lambda n: "n" * n + ".txt"),
)
# Short choices: hypothesis takes long for bytes that it has to invent one by one.
CONTENTS = st.sampled_from([b"{}", b'{"content": "x"}', b"text", b"\xff"]) | st.integers(0, 1100).map(
    lambda n: b"c" * n
)
NUMBERS = [0, 1, 511, 512, 513, 1024, 10**6, 2**26, 2**26 + 1, 2**31, 2**33 - 1, 2**62]
TYPES = [b"0", b"\0", b"1", b"2", b"3", b"5", b"6", b"7", b"g", b"x", b"L", b"K", b"S", b"V", b"Z"]
PAX = ["path", "size", "GNU.sparse.major", "GNU.sparse.map", "hdrcharset", "mtime", "linkpath", "comment", ""]


@st.composite
def tars(draw: Draw) -> bytes:
    """A tar that some writer could have made."""
    file = io.BytesIO()
    form = draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    records = draw(st.lists(st.tuples(NAMES, CONTENTS), min_size=1, max_size=6))
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, data in records:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            try:
                tar.addfile(header, io.BytesIO(data))
            except ValueError:  # the dialect has no place for the name
                continue
    return file.getvalue()


@st.composite
def broken_tars(draw: Draw) -> bytes:
    """A tar, then something done to it, several times."""
    data = bytearray(draw(tars()))
    for _ in range(draw(st.integers(0, 4))):
        blocks = len(data) // 512
        start = 512 * draw(st.integers(0, max(0, blocks - 1)))
        kind = draw(
            st.sampled_from(["byte", "size", "type", "pax", "name", "cut", "splice", "double", "noise", "zeros"])
        )
        if kind == "byte" and data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
        elif kind == "size":
            size = draw(st.sampled_from(NUMBERS) | st.integers(0, 4096))
            octal, binary = b"%011o\0" % min(size, 8**11 - 1), b"\x80" + size.to_bytes(11, "big")
            data[start + 124 : start + 136] = draw(st.sampled_from([octal, binary, b"\xff" * 12, b"-0000000001\0"]))
        elif kind == "type":
            data[start + 156 : start + 157] = draw(st.sampled_from(TYPES))
        elif kind == "name":
            data[start : start + 100] = draw(NAMES).encode()[:100].ljust(100, b"\0")
        elif kind == "pax":
            value = draw(
                st.sampled_from(["../x.txt", "a.txt", "1", "-1", "9" * 30, "1e9", "", "é"]) | st.text(max_size=9)
            )
            header = {draw(st.sampled_from(PAX)): value}
            try:
                made = tarfile.TarInfo._create_pax_generic_header(header, draw(st.sampled_from([b"x", b"g"])), "utf-8")
            except (ValueError, AttributeError):
                continue
            data[start:start] = made
        elif kind == "cut":
            del data[draw(st.integers(0, len(data))) :]
        elif kind == "splice":
            end = start + 512 * draw(st.integers(0, 4))
            del data[start:end]
        elif kind == "double":
            data[start:start] = data[start : start + 512 * draw(st.integers(1, 4))]
        elif kind == "noise":
            data[start : start + 40] = draw(st.binary(min_size=40, max_size=40))
        else:
            data[start : start + 512] = bytes(512)
        if kind in ("size", "type", "name") and len(data) >= start + 512 and draw(st.booleans()):
            data[start + 148 : start + 156] = (
                b" " * 8
            )  # the sum made right again, or most damage would be seen by it alone
            data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    return bytes(data)


def documents() -> Bytes:
    """The JSON of a record, as it should be or nearly."""
    texts = st.sampled_from(["text", "image", "user", "assistant", "0.png", "jpg", "a cat"]) | st.text(max_size=5)
    leaves = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts
    names = st.sampled_from(
        [
            "id",
            "content",
            "messages",
            "type",
            "text",
            "image",
            "role",
            "caption",
            "answers",
            "choices",
            "answer",
            "box",
            "meta",
        ]
    )
    values = st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names | texts, inner, max_size=4),
        max_leaves=12,
    )
    return st.dictionaries(names, values, max_size=5).map(
        lambda value: json.dumps(value).encode("utf-8", "surrogatepass")
    )


@st.composite
def broken_documents(draw: Draw) -> bytes:
    data = bytearray(draw(documents()))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(data)))
        piece = st.sampled_from(
            [b"\\ud800", b"\\u0000", b"NaN", b"1e999", b"-", b"\xff", b"\xed\xa0\x80", b"9" * 5000, b"[" * 2000]
        )
        piece |= st.binary(max_size=4) | st.sampled_from(
            [b'"', b"{", b"}", b"[", b"]", b",", b":", b'"a":1,', b'{"a":' * 300]
        )
        data[place : place + draw(st.integers(0, 3))] = draw(piece)
    return bytes(data)


def told_by_tarfile(data: bytes) -> list[tuple[str, dict[str, bytes]]]:
    records: list[tuple[str, dict[str, bytes]]] = []
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for member in tar:
            split = split_name(member.name)
            if member.isfile() and split is not None:
                if not records or records[-1][0] != split[0]:
                    records.append((split[0], {}))
                content = tar.extractfile(member)
                assert content is not None
                records[-1][1][split[1]] = content.read()
    return records


def parse(key: str, members: dict[str, bytes]) -> None:
    for read in (parse_sample, parse_question):
        try:
            read(key, members)
        except BadRecord as error:
            names(error, repr(key))


def run(strategy: st.SearchStrategy[Any], check: Callable[[Any], None], budget_s: float) -> None:
    """Examples until the time is up; a failure is made small and shown by hypothesis."""
    end, number = time.monotonic() + budget_s, 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def timed(data: Any) -> None:
        start = time.process_time()
        check(data)
        assert time.process_time() - start < EXAMPLE_LIMIT_S, "it hangs"

    while time.monotonic() < end:
        settings = hypothesis.settings(
            max_examples=100 if budget_s > QUICK_BUDGET_S else 20,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        # Another start each time, the same in every run.
        hypothesis.seed(number)(settings(hypothesis.given(strategy)(timed)))()
        number += 1
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY_LIMIT


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCEPTVLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shard_file, "RETRY_PAUSES_S", ())


def fuzz_tars(tmp_path: Path, budget_s: float) -> None:
    path, numbers = tmp_path / "a.tar", iter(range(10**9))

    def check(data: bytes) -> None:
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        # Another time for each: two files of one size in one tick of the clock look alike to the memory of this process.
        shards._loaded.clear()
        shard_file._open_files.clear()
        mtime_ns = next(numbers)
        os.utime(path, ns=(mtime_ns, mtime_ns))
        try:
            opened = open_shards(path)
        except BadShard as error:
            names(error, str(path))
            return
        records = [opened.read(i) for i in range(len(opened))]
        assert records == told_by_tarfile(data)
        for key, members in records:
            parse(key, members)

    run(st.one_of(broken_tars(), broken_tars(), broken_tars(), st.binary(max_size=600)), check, budget_s)


def fuzz_documents(budget_s: float) -> None:
    def check(data: bytes) -> None:
        parse("k", {"json": data, "0.png": b"x"})
        parse("k", {"jpg": b"x", "txt": data, "json": data})
        try:
            value = strict_json(data)
        except ValueError:
            return
        assert json.dumps(value) == json.dumps(json.loads(data))
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")

    run(broken_documents() | st.binary(max_size=200), check, budget_s)


def fuzz_indexes(tmp_path: Path, budget_s: float) -> None:
    path = tmp_path / "b.tar"
    shards.write_shard(path, [(f"k{i}", {"json": b"{}", "txt": b"t" * i, "0.png": b"p" * 600}) for i in range(12)])
    shard, stamp = Shard(path), path.stat()
    records = [shard.read(i) for i in range(12)]
    file, size = index_files(path)[0], stamp.st_size
    whole, arrays = file.read_bytes(), shard._index.arrays()

    def read() -> list[tuple[str, dict[str, bytes]]] | None:
        shards._loaded.clear()
        try:
            opened = Shard(path)
            return [opened.read(i) for i in range(len(opened))]
        except BadShard as error:
            return names(error, str(path))

    def check_damaged(edits: list[tuple[int, int, bytes]]) -> None:
        data = bytearray(whole)
        for place, num_bytes, piece in edits:
            data[place : place + num_bytes] = piece
        file.write_bytes(data)
        assert read() == records

    def check_forged(edits: list[tuple[str, int, int]]) -> None:
        changed = {name: array.copy() for name, array in arrays.items()}
        for name, place, value in edits:
            view = changed[name].view(np.uint8)
            view[place % len(view)] = value
        index = object.__new__(TarIndex)
        try:
            index.__setstate__(changed)
            write_index(index, file, path, size, stamp.st_mtime_ns)  # all its checksums are right
        except (ValueError, IndexError, UnicodeError):
            return
        found = read()
        assert found is not None
        assert all(len(data) <= size for _, members in found for data in members.values())

    places = st.integers(0, len(whole))
    damages = st.lists(st.tuples(places, st.integers(0, 9), st.binary(max_size=9)), min_size=1, max_size=4)
    run(damages, check_damaged, budget_s / 2)
    values = st.tuples(st.sampled_from(sorted(arrays)), st.integers(0, 2000), st.integers(0, 255))
    run(st.lists(values, min_size=1, max_size=4), check_forged, budget_s / 2)


def names(error: Exception, name: str) -> None:
    """The message of an error names what it is about, and is no page."""
    if name not in str(error) or len(str(error)) > 4000:
        raise AssertionError(f"an error that does not help: {error}") from error


@pytest.mark.long
def test_tar_bytes_give_records_or_a_bad_shard(tmp_path: Path) -> None:
    fuzz_tars(tmp_path, QUICK_BUDGET_S)


@pytest.mark.long
def test_json_bytes_give_a_record_or_a_bad_record() -> None:
    fuzz_documents(QUICK_BUDGET_S)


@pytest.mark.long
def test_index_bytes_never_lead_outside_the_tar(tmp_path: Path) -> None:
    fuzz_indexes(tmp_path, QUICK_BUDGET_S)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_five_minutes_of_bytes_find_nothing_else(tmp_path: Path) -> None:
    fuzz_tars(tmp_path, SLOW_BUDGET_S)
    fuzz_documents(SLOW_BUDGET_S)
    fuzz_indexes(tmp_path, SLOW_BUDGET_S)
