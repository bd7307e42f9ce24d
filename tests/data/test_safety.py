"""One test for each kind of damaged or hostile input that a data set can hold: no code runs, nothing hangs, nothing is
lost without a word.

More of the same, in depth: tests/data/test_shards.py (tars cut at every block, damaged headers), test_shard_index.py (hostile
indexes), test_remote.py (servers), test_manifest.py, test_shard_sources.py (patterns), test_sample.py (records),
test_fuzz.py, and for pictures test_image.py (cut at every length, damaged bytes, huge sizes) and test_image_header.py.
"""

import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from PIL import Image

from data import remote
from data.image import ImageSpec, decode, prepare_image
from data.sample import MAX_TEXT_BYTES, BadRecord, parse_question, parse_sample
from data.shards import BadShard, Shard, open_shards, write_shard
from data.strict_json import MAX_JSON_BYTES
from data.tar import MAX_MEMBER_BYTES, looks_merged

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # fsspec closes sessions late
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
Members = list[tuple[str, bytes]]
SPEC = ImageSpec(size_px=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCEPTVLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "RETRY_PAUSES_S", (0.01,))
    monkeypatch.setattr(remote, "STALL_TIMEOUT_S", 0.5)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def stored(path: Path, members: Members, mode: str = "w", kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size, header.type, header.linkname = len(data), kind, "/etc/passwd"
            tar.addfile(header, io.BytesIO(data))
    return path


def refusal(path: str | Path) -> str:
    with pytest.raises(BadShard) as caught:
        open_shards(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def dropped(members: dict[str, bytes]) -> BadRecord:
    """The fault of a record; it names the record, and has a reason to count it by."""
    with pytest.raises(BadRecord, match="'k'") as caught:
        parse_sample("k", members)
    assert len(str(caught.value)) < 2000
    assert caught.value.reason
    return caught.value


def picture(kind: str = "JPEG", size: tuple[int, int] = (40, 30), mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").convert(mode).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("name", ["a.pkl", "a.pyd", "a.pickle", "a.pth", "a.meta.pkl", "a.x.pkl.gz", "a.npy"])
def test_a_pickle_is_bytes_and_never_runs(tmp_path: Path, name: str) -> None:
    class Runs:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    data = pickle.dumps(Runs())
    data = gzip.compress(data) if name.endswith(".gz") else data
    stored(tmp_path / "a.tar", [("a.json", b'{"content": "x"}'), (name, data)])
    key, members = open_shards(tmp_path / "a.tar").read(0)
    assert members[name[2:]] == data
    assert parse_sample(key, members).images == {}
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("where", ["source", "manifest", "list"])
def test_a_pipe_url_runs_no_shell(tmp_path: Path, where: str) -> None:
    url = f"pipe:touch {tmp_path / 'ran'}; cat {tmp_path}/a.tar"
    source: str | list[str] = url
    if where == "manifest":
        entry = {"path": url, "bytes": 1, "samples": 1, "sha256": ""}
        (tmp_path / "dataset.json").write_text(json.dumps({"shards": [entry], "samples": 1}))
        source = str(tmp_path)
    with pytest.raises(BadShard, match="pipe:"):
        open_shards([url] if where == "list" else source)
    assert not (tmp_path / "ran").exists()


def test_a_rewriting_environment_changes_no_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOPEN_REWRITE", f"ftp://=pipe:touch {tmp_path / 'ran'} ")
    monkeypatch.setenv("WDS_REWRITE", f"ftp://=pipe:touch {tmp_path / 'ran'} ")
    assert "allowed scheme" in refusal("ftp://bucket/a.tar")
    assert not (tmp_path / "ran").exists()


def test_the_environment_is_not_expanded_in_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_shard(tmp_path / "secret" / "a.tar", [("k", {"txt": b"x"})])
    monkeypatch.setenv("WDS_X", "secret")
    monkeypatch.setenv("X", "secret")
    for source in ("${X}/a.tar", "$X/a.tar"):
        assert "not expanded" in refusal(source)


def test_a_bucket_without_its_package_says_which_extra_brings_it() -> None:
    code = """
import sys
sys.modules["s3fs"] = None  # as if it were not installed
from data.shards import open_shards
try:
    open_shards("s3://bucket/a.tar")
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert "conceptvlm[remote]" in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("source", ["", "/"])
def test_a_folder_without_tars_is_an_error_at_once(tmp_path: Path, source: str) -> None:
    (tmp_path / "a.tar.part").write_bytes(b"")
    assert "holds no .tar" in refusal(str(tmp_path) + source)


@pytest.mark.parametrize("name", ["../../etc/passwd.txt", "a/../../b.txt", "/abs/a.txt", "..txt/../a.txt"])
def test_a_name_that_leaves_the_folder_refuses_the_shard(tmp_path: Path, name: str) -> None:
    assert "leaves the folder" in refusal(stored(tmp_path / "a.tar", [(name, b"x")]))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_a_link_or_a_device_refuses_the_shard(tmp_path: Path, kind: bytes) -> None:
    message = refusal(stored(tmp_path / "a.tar", [("a.txt", b"")], kind=kind))
    assert "'a.txt' is a link or a device" in message
    assert "dereference" in message


@pytest.mark.parametrize("extension", ["__bad__", "__key__", "__URL__"])
def test_an_extension_that_readers_keep_for_themselves_refuses_the_shard(tmp_path: Path, extension: str) -> None:
    assert "begins with __" in refusal(stored(tmp_path / "a.tar", [(f"a.{extension}", b"x")]))


def test_names_with_dots_are_one_record_and_the_doctor_can_say_so(tmp_path: Path) -> None:
    members = [("img.01.jpg", b"1"), ("img.02.jpg", b"2")]
    shard = Shard(stored(tmp_path / "a.tar", members))
    assert [shard.read(i) for i in range(len(shard))] == [("img", {"01.jpg": b"1", "02.jpg": b"2"})]
    assert looks_merged(shard.members(0))
    assert looks_merged(["v2.jpg", "v2.txt"])
    assert not looks_merged(["0.jpg", "1.jpg", "json"])
    assert not looks_merged(["jpg", "txt", "json"])
    # Not one of the two pictures is trained on as if it were the only one.
    assert "2 pictures" in str(dropped({"01.jpg": b"1", "02.jpg": b"2", "txt": b"x"}))


def test_keys_that_take_turns_refuse_the_shard(tmp_path: Path) -> None:
    members = [(name, b"x") for name in ("a.jpg", "b.jpg", "a.txt", "b.txt")]
    assert "side by side" in refusal(stored(tmp_path / "a.tar", members))


def test_a_key_that_comes_again_refuses_the_shard(tmp_path: Path) -> None:
    members = [(name, b"x") for name in ("a.txt", "b.txt", "c.txt", "a.txt")]
    assert "'a' comes again" in refusal(stored(tmp_path / "a.tar", members))


def test_a_member_that_comes_twice_refuses_the_shard(tmp_path: Path) -> None:
    assert "'a.TXT' comes twice" in refusal(stored(tmp_path / "a.tar", [("a.txt", b"1"), ("a.TXT", b"2")]))


def ten(path: Path) -> bytes:
    write_shard(path, [(f"{i}", {"txt": b"x" * 600}) for i in range(10)])
    return path.read_bytes()


def test_a_tar_cut_in_a_member_refuses_the_shard(tmp_path: Path) -> None:
    data = ten(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(data[:5600])
    assert "cut short inside member '3.txt'" in refusal(tmp_path / "a.tar")


def test_a_tar_cut_between_members_refuses_the_shard(tmp_path: Path) -> None:
    data = ten(tmp_path / "a.tar")
    for end in (4 * 1536, 4 * 1536 + 512):
        (tmp_path / "a.tar").write_bytes(data[:end])
        assert "cut short" in refusal(tmp_path / "a.tar")


def test_an_empty_file_refuses_the_shard(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"")
    assert "is empty" in refusal(tmp_path / "a.tar")


@pytest.mark.parametrize("page", [b"<html>no", b"\n<!DOCTYPE html>", b"<?xml version='1.0'?><Error><Code>AccessDenied"])
def test_a_page_of_a_server_refuses_the_shard(tmp_path: Path, page: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(page * 100)
    assert "is a page (HTML or XML)" in refusal(tmp_path / "a.tar")


@pytest.fixture
def address() -> Iterator[str]:
    """A server that knows `/stalled.tar` and nothing else, and never sends it."""
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            if self.path != "/stalled.tar":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", "10240")
            self.end_headers()
            if self.command == "GET":
                stop.wait(60)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    stop.set()
    server.shutdown()
    server.server_close()


def test_a_missing_file_of_a_server_is_an_error_at_start(address: str) -> None:
    assert "no such file (404)" in refusal(f"{address}/a.tar")


def test_a_stalled_server_is_an_error_after_a_bounded_time(address: str) -> None:
    start = time.monotonic()
    message = refusal(f"{address}/stalled.tar")
    assert time.monotonic() - start < 20
    assert f"{address}/stalled.tar" in message
    assert "2 tries" in message


@pytest.mark.parametrize("data", [picture()[:900], b"garbage" * 100, b""], ids=["half", "garbage", "empty"])
def test_a_picture_that_is_none_is_a_bad_record(data: bytes) -> None:
    with pytest.raises(BadRecord):
        prepare_image(data, SPEC)


@pytest.mark.parametrize("members", [{"jpg": b"x"}, {}, {"cls": b"3"}, {"jpg": b"x", "txt.gz": b"x"}])
def test_a_record_without_text_is_dropped_and_counted_as_missing(members: dict[str, bytes]) -> None:
    assert dropped(members).reason == "missing member"


def test_a_record_without_its_picture_is_dropped_and_counted_as_missing() -> None:
    fields = {"content": [{"type": "image", "image": "0.jpg"}, {"type": "text", "text": "x"}]}
    assert dropped({"json": json.dumps(fields).encode()}).reason == "missing member"


def test_text_that_is_not_utf_8_is_dropped() -> None:
    assert dropped({"jpg": b"x", "txt": b"caf\xe9"}).reason == "bad text"
    assert dropped({"json": b'{"content": "caf\xe9"}'}).reason == "bad JSON"


@pytest.mark.parametrize(
    "text",
    [
        b"[1]",
        b'"x"',
        b"3",
        b'{"content": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1, "a": 2}',
        b'{"content": "a"} {}',
        b"",
        b"{",
    ],
)
def test_json_that_readers_understand_differently_is_dropped(text: bytes) -> None:
    assert dropped({"json": text}).reason == "bad JSON"


@pytest.mark.parametrize("opened", [b"[", b'{"a":'])
def test_json_that_is_nested_without_end_is_dropped(opened: bytes) -> None:
    assert "nested" in str(dropped({"json": b'{"content": "x", "meta": ' + opened * 1_000_000}))
    closed = opened * 200 + b"1" + (b"]" if opened == b"[" else b"}") * 200
    assert "nested" in str(dropped({"json": b'{"content": "x", "meta": ' + closed + b"}"}))


def test_a_number_of_five_thousand_digits_is_dropped() -> None:
    assert dropped({"json": b'{"content": "x", "n": ' + b"9" * 5000 + b"}"}).reason == "bad JSON"


def test_many_keys_with_one_twice_are_dropped_in_a_moment() -> None:
    keys = b",".join(b'"%d":0' % i for i in range(300_000))
    start = time.process_time()
    assert "twice" in str(dropped({"json": b"{" + keys + b',"299999":0}'}))
    assert time.process_time() - start < 10


def test_members_beyond_their_limit_are_never_read(tmp_path: Path) -> None:
    with (tmp_path / "a.tar").open("wb") as file:  # a text of 200 MB, without its bytes on the disk
        header = tarfile.TarInfo("a.txt")
        header.size = 200 * 10**6
        file.write(header.tobuf())
        file.truncate(512 + 200 * 10**6 + 10240)
    assert f"limit is {MAX_MEMBER_BYTES:,}" in refusal(tmp_path / "a.tar")
    assert "limit" in str(dropped({"json": b" " * (MAX_JSON_BYTES + 1)}))
    assert "limit" in str(dropped({"jpg": b"x", "txt": b"x" * (MAX_TEXT_BYTES + 1)}))


def test_a_packed_member_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    assert dropped({"jpg": b"x", "txt.gz": bomb, "json.gz": bomb, "jpg.gz": bomb}).reason == "missing member"


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_packed_tar_is_refused(tmp_path: Path, mode: str) -> None:
    assert "is compressed" in refusal(stored(tmp_path / "a.tar", [("a.txt", b"x")], mode))


def bomb(side: int) -> bytes:
    """A PNG of one colour: a few kilobytes that claim and hold side x side pixels."""
    row = zlib.compressobj(9)
    packed = b"".join(row.compress(bytes(side + 1)) for _ in range(side)) + row.flush()

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9000, 13000])
def test_a_picture_that_unpacks_to_gigabytes_is_refused_by_its_header(side: int) -> None:
    data = bomb(side)
    assert len(data) < 500_000
    start = time.process_time()
    with pytest.raises(BadRecord, match="pixels"):
        decode(data)
    assert time.process_time() - start < 1


def test_a_drawing_program_named_jpg_starts_no_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(BadRecord):
        decode(page)
    assert not (tmp_path / "ran").exists()


def test_a_jpeg_in_printing_colours_becomes_red_green_and_blue() -> None:
    red = Image.new("RGB", (40, 30), (200, 30, 40))
    file = io.BytesIO()
    red.convert("CMYK").save(file, "JPEG", quality=95)
    pixels = prepare_image(file.getvalue(), SPEC)
    assert pixels.shape == (3, 32, 32)
    middle = pixels[:, 16, 16].tolist()
    assert all(abs(got - true) < 40 for got, true in zip(middle, (200, 30, 40), strict=True)), middle


def test_a_pipe_or_a_folder_in_place_of_a_tar_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    assert "not a regular file" in refusal(tmp_path / "a.tar")
    (tmp_path / "b.tar").mkdir()
    with pytest.raises(BadShard, match="is a folder"):
        Shard(tmp_path / "b.tar")
    os.mkfifo(tmp_path / "dataset.json")
    assert "no regular file" in refusal(tmp_path / "dataset.json")


def test_a_sparse_file_of_a_terabyte_of_zeros_is_refused_at_once(tmp_path: Path) -> None:
    data = ten(tmp_path / "a.tar")
    os.truncate(tmp_path / "a.tar", 2**40)
    start = time.process_time()
    assert "behind its end" in refusal(tmp_path / "a.tar")
    assert time.process_time() - start < 1
    assert len(data) < 20_000


def test_extended_headers_that_mislead_refuse_the_shard(tmp_path: Path) -> None:
    def with_pax(records: dict[str, str], kind: str = "pax_headers") -> Path:
        with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            header = tarfile.TarInfo("a.txt")
            header.size = 1
            if kind == "global":
                tar.pax_headers = records
                tar.fileobj.write(tarfile.TarInfo.create_pax_global_header(records))  # type: ignore[union-attr]
                tar.offset = tar.fileobj.tell()  # type: ignore[union-attr]
            else:
                header.pax_headers = records
            tar.addfile(header, io.BytesIO(b"x"))
        return tmp_path / "a.tar"

    assert "sparse" in refusal(with_pax({"GNU.sparse.major": "1", "GNU.sparse.name": "b.txt"}))
    assert "one name or size" in refusal(with_pax({"path": "b.txt"}, "global"))
    assert "a size is" in refusal(with_pax({"size": "-1"}))
    assert "a size is" in refusal(with_pax({"size": "9" * 5000}))
    assert len(open_shards(with_pax({"comment": "harmless"}, "global"))) == 1


def test_a_record_with_many_members_is_indexed_in_a_moment(tmp_path: Path) -> None:
    with (tmp_path / "a.tar").open("wb") as file:
        for i in range(20_000):
            file.write(tarfile.TarInfo(f"k.{i}.png").tobuf(tarfile.USTAR_FORMAT))
        file.write(bytes(1024))
    start = time.process_time()
    shard = Shard(tmp_path / "a.tar")
    assert time.process_time() - start < 10
    key, members = shard.read(0)
    assert len(members) == 20_000
    assert len(str(dropped({**members, "txt": b"x"}))) < 2000
    with pytest.raises(BadRecord):
        parse_question(key, members)
