"""Remote shards, against a web server of this machine that does what bad servers do."""

import hashlib
import http.server
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data import remote, shard_cache, shard_file, shards
from data.remote import look_up, public_url
from data.shard_cache import cache_limit
from data.shards import BadShard, ShardSet, open_shards, write_manifest, write_shard

pytestmark = [
    pytest.mark.long,
    # fsspec closes its sessions when they are collected, from another thread, and may come too late.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

Record = tuple[str, dict[str, bytes]]
Answer = Callable[[http.server.BaseHTTPRequestHandler, bytes], None]


def records(shard: int, count: int = 6) -> list[Record]:
    return [(f"{shard}-{i}", {"json": b'{"content": "%d"}' % i, "0.png": os.urandom(3000)}) for i in range(count)]


class Server:
    """Serves a folder; `answers` maps a path to what it does instead, once each, then the truth."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.answers = folder, dict[str, list[Answer]]()
        self.asked: Counter[tuple[str, str]] = Counter()
        self.stop = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, body: bool) -> None:
                path = self.path.partition("?")[0].lstrip("/")
                outer.asked[self.command, path] += 1
                waiting = outer.answers.get(path)
                file = outer.folder / path
                data = file.read_bytes() if file.is_file() else None
                if waiting and body:
                    waiting.pop(0)(self, data or b"")
                elif data is None:
                    self.send_error(404)
                else:
                    send(self, data, body=body)

            def do_GET(self) -> None:
                self.answer(body=True)

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def log_message(self, *_: object) -> None:
                pass

        class Threaded(socketserver.ThreadingMixIn, http.server.HTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Threaded(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.address}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.stop.set()
        self._server.shutdown()
        self._server.server_close()


def send(handler: http.server.BaseHTTPRequestHandler, data: bytes, size: int | None = None, body: bool = True) -> None:
    """The bytes as a good server sends them, or as if they were `size`."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data) if size is None else size))
    handler.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()[:16]}"')
    handler.end_headers()
    if body:
        handler.wfile.write(data)
    if size is not None:
        handler.close_connection = True


def fails(status: int) -> Answer:
    return lambda handler, data: handler.send_error(status)


def truncated(handler: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
    send(handler, data[: len(data) // 2], len(data))


def without_length(handler: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
    """As HTTP/1.0: the end of the connection is the end of the file, whatever is missing. Cut between two members."""
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(data[:4608])
    handler.close_connection = True


def damaged(handler: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
    send(handler, data[:-1] + b"!")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("CONCEPTVLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CONCEPTVLM_CACHE_LIMIT", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(remote, "RETRY_PAUSES_S", (0.01, 0.01, 0.01))
    folder = tmp_path / "served"
    for number in range(3):
        write_shard(folder / f"{number:02d}.tar", records(number))
    server = Server(folder)
    yield server
    server.close()


def everything(opened: ShardSet) -> list[Record]:
    return [opened.read(i) for i in range(len(opened))]


def served(server: Server) -> list[Record]:
    return everything(ShardSet([shards.Shard(path) for path in sorted(server.folder.glob("*.tar"))]))


def copies(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / "shards").glob("*/*.tar"))


def forget() -> None:
    """As a new process."""
    shard_file._open_files.clear()
    shards._loaded.clear()


def test_a_pattern_of_urls_is_read_like_files(server: Server) -> None:
    opened = open_shards(server.url + "/{00..02}.tar")
    assert everything(opened) == served(server)
    assert opened.fingerprint() == open_shards(server.folder).fingerprint()
    assert [shard.name for shard in opened.shards] == [f"{server.url}/{i:02d}.tar" for i in range(3)]


def test_a_remote_manifest_is_held_against_its_shards(server: Server) -> None:
    write_manifest(server.folder)
    assert everything(open_shards(server.url + "/dataset.json")) == served(server)
    assert everything(open_shards(server.url + "/")) == served(server)
    assert server.asked["GET", "00.tar"] == 1
    assert server.asked["HEAD", "00.tar"] == 0  # the manifest knows


def test_a_shard_comes_once_and_its_index_is_kept(server: Server) -> None:
    identities = [shard.identity for shard in open_shards(f"{server.url}/00.tar").shards]
    forget()
    again = open_shards(f"{server.url}/00.tar")
    assert [shard.identity for shard in again.shards] == identities
    assert everything(again) == served(server)[:6]
    assert server.asked["GET", "00.tar"] == 1


def test_a_shard_that_changed_on_the_server_comes_again_when_it_is_opened(server: Server) -> None:
    open_shards(f"{server.url}/00.tar")
    write_shard(server.folder / "00.tar", records(9))
    forget()
    assert everything(open_shards(f"{server.url}/00.tar")) == served(server)[:6]


@pytest.mark.parametrize("source", ["/nowhere.tar", "/{02..04}.tar", "/nowhere/dataset.json", "/nowhere/"])
def test_a_missing_file_is_an_error_at_once(server: Server, source: str) -> None:
    with pytest.raises(BadShard, match=rf"http://{server.address}/\S*(nowhere|03).*404"):
        open_shards(server.url + source)
    assert max(server.asked.values()) == 1


def test_a_refusal_is_not_asked_again(server: Server) -> None:
    server.answers["00.tar"] = [fails(403)] * 4
    with pytest.raises(BadShard, match=r"answers 403.*credentials"):
        open_shards(f"{server.url}/00.tar")
    assert server.asked["GET", "00.tar"] == 1


@pytest.mark.parametrize("fault", [fails(500), fails(503), fails(429), truncated])
def test_two_faults_are_outlived(server: Server, fault: Answer) -> None:
    server.answers["00.tar"] = [fault, fault]
    assert everything(open_shards(f"{server.url}/00.tar")) == served(server)[:6]
    assert server.asked["GET", "00.tar"] == 3


@pytest.mark.parametrize(("fault", "words"), [(fails(500), "answers 500"), (truncated, "Content|payload")])
def test_a_fault_that_stays_is_an_error_that_names_url_and_cause(
    server: Server, fault: Answer, words: str, tmp_path: Path
) -> None:
    server.answers["00.tar"] = [fault] * 10
    with pytest.raises(BadShard, match=rf"(?s){server.url}/00\.tar.*({words}).*4 tries"):
        open_shards(f"{server.url}/00.tar")
    assert server.asked["GET", "00.tar"] == 4
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_a_stalled_server_does_not_hang(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(remote, "STALL_TIMEOUT_S", 0.5)

    def stall(handler: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
        send(handler, data[:2048], len(data))
        handler.wfile.flush()
        server.stop.wait(60)

    server.answers["00.tar"] = [stall]
    start = time.monotonic()
    assert everything(open_shards(f"{server.url}/00.tar")) == served(server)[:6]
    server.answers["01.tar"] = [stall] * 10
    with pytest.raises(BadShard, match=r"01\.tar.*(Timeout|nothing came)"):
        open_shards(f"{server.url}/01.tar")
    assert time.monotonic() - start < 30
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_a_server_that_sends_a_byte_now_and_then_does_not_hang(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "STALL_TIMEOUT_S", 1.0)
    monkeypatch.setattr(remote, "RETRY_PAUSES_S", ())

    def drip(handler: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
        send(handler, b"", len(data))
        while not server.stop.wait(0.1):
            handler.wfile.write(b"x")

    server.answers["00.tar"] = [drip]
    with pytest.raises(BadShard, match="nothing came for 1 s"):
        open_shards(f"{server.url}/00.tar")


def test_a_server_that_does_not_accept_is_an_error(server: Server) -> None:
    server.close()
    with pytest.raises(BadShard, match=rf"{server.address}/00.tar.*tries"):
        open_shards(f"{server.url}/00.tar")


def test_a_body_without_length_that_ends_between_two_members_is_cut_short(server: Server) -> None:
    server.answers["00.tar"] = [without_length] * 10
    with pytest.raises(BadShard, match=rf"{server.url}/00\.tar.*(cut short|bytes came)"):
        open_shards(f"{server.url}/00.tar")


@pytest.mark.parametrize(("field", "value"), [("sha256", "0" * 64), ("bytes", 512), ("samples", 5)])
def test_what_the_manifest_does_not_say_is_refused(server: Server, field: str, value: object) -> None:
    write_manifest(server.folder)
    manifest = json.loads((server.folder / "dataset.json").read_text())
    manifest["shards"][1][field] = value
    (server.folder / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(BadShard, match=r"01\.tar.*(sha256|bytes)"):
        open_shards(server.url + "/dataset.json")


def test_a_damaged_transfer_comes_again_where_a_manifest_has_the_sha256(server: Server) -> None:
    write_manifest(server.folder)
    server.answers["01.tar"] = [damaged]
    assert everything(open_shards(server.url + "/dataset.json")) == served(server)


def test_a_page_with_an_error_is_not_a_tar(server: Server) -> None:
    (server.folder / "03.tar").write_text("<!DOCTYPE html><html>Please log in</html>" * 50)
    with pytest.raises(BadShard, match=rf"{server.url}/03\.tar.*a page.*log-in"):
        open_shards(f"{server.url}/03.tar")


def test_a_bad_tar_is_named_by_its_url(server: Server) -> None:
    data = (server.folder / "00.tar").read_bytes()
    (server.folder / "03.tar").write_bytes(data[:-1024])
    with pytest.raises(BadShard, match=rf"{server.url}/03\.tar: is cut short"):
        open_shards(f"{server.url}/03.tar")


def test_more_than_was_promised_is_not_taken(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(remote, "RETRY_PAUSES_S", ())
    write_manifest(server.folder)

    def flood(handler: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
        send(handler, b"", 2**40)
        while not server.stop.is_set():
            handler.wfile.write(bytes(2**16))

    server.answers["00.tar"] = [flood]
    with pytest.raises(BadShard, match=r"00\.tar.*more than [0-9,]+ bytes"):
        open_shards(server.url + "/dataset.json")


def test_two_buckets_with_the_same_shard_name_do_not_collide(server: Server) -> None:
    for bucket in ("a", "b"):
        write_shard(server.folder / bucket / "00.tar", records(ord(bucket)))
    opened = open_shards([f"{server.url}/a/00.tar", f"{server.url}/b/00.tar"])
    assert opened.read(0)[0].startswith("97-")
    assert opened.read(6)[0].startswith("98-")
    assert everything(open_shards(f"{server.url}/00.tar?v=1")) == served(server)[:6]


def test_processes_that_start_together_fetch_a_shard_once(server: Server) -> None:
    def slow(handler: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
        time.sleep(3.0)
        send(handler, data)

    server.answers["00.tar"] = [slow] * 4
    code = f"from data.shards import open_shards; s = open_shards('{server.url}/00.tar'); print([s.read(i)[0] for i in range(6)])"
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = {process.communicate(timeout=120)[0] for process in processes}
    assert printed == {f"{[f'0-{i}' for i in range(6)]}\n"}
    assert server.asked["GET", "00.tar"] == 1


def test_under_a_limit_of_one_shard_every_record_is_still_read(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    size = (server.folder / "00.tar").stat().st_size
    monkeypatch.setenv("CONCEPTVLM_CACHE_LIMIT", str(size + 100))
    opened = open_shards(server.url + "/{00..02}.tar")
    expected = served(server)
    for _ in range(2):
        for i in (0, 7, 13, 1, 8, 14):
            assert opened.read(i) == expected[i]
            assert len(copies(tmp_path)) == 1
    assert server.asked["GET", "00.tar"] > 2
    forget()
    asked = server.asked["GET", "00.tar"]
    assert len(open_shards(server.url + "/{00..02}.tar")) == 18  # from the indexes alone
    assert server.asked["GET", "00.tar"] == asked


def test_an_open_file_outlives_its_eviction(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened = open_shards(f"{server.url}/00.tar")
    opened.read(0)
    shutil.rmtree(tmp_path / "cache" / "shards")
    assert opened.read(1) == served(server)[1]
    assert server.asked["GET", "00.tar"] == 1
    forget()
    assert opened.read(2) == served(server)[2]
    assert server.asked["GET", "00.tar"] == 2


def test_the_least_recently_opened_goes_first(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    size = (server.folder / "00.tar").stat().st_size
    monkeypatch.setenv("CONCEPTVLM_CACHE_LIMIT", str(2 * size))
    opened = [open_shards(f"{server.url}/{i:02d}.tar") for i in range(2)]
    time.sleep(0.02)
    shard_file._open_files.clear()
    opened[0].read(0)
    open_shards(f"{server.url}/02.tar").read(0)
    assert copies(tmp_path) == ["00.tar", "02.tar"]


def test_a_shard_larger_than_the_limit_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCEPTVLM_CACHE_LIMIT", "1 KB")
    with pytest.raises(BadShard, match=r"CONCEPTVLM_CACHE_LIMIT is 1,000"):
        open_shards(f"{server.url}/00.tar")
    monkeypatch.setenv("CONCEPTVLM_CACHE_LIMIT", "much")
    with pytest.raises(ValueError, match=r"'much'; give bytes"):
        open_shards(f"{server.url}/00.tar")


@pytest.mark.parametrize(
    ("text", "num_bytes"), [("", None), ("5", 5), ("2 GB", 2 * 10**9), ("1.5tb", 1500 * 10**9), ("3k", 3000)]
)
def test_limits_are_read_with_their_units(text: str, num_bytes: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCEPTVLM_CACHE_LIMIT", text)
    assert cache_limit() == num_bytes


def test_a_copy_that_was_damaged_in_its_size_comes_again(server: Server, tmp_path: Path) -> None:
    opened = open_shards(f"{server.url}/00.tar")
    [copy] = (tmp_path / "cache" / "shards").glob("*/*.tar")
    copy.write_bytes(copy.read_bytes()[:-512])
    forget()
    assert opened.read(3) == served(server)[3]


def test_a_shard_that_is_another_when_it_comes_again_is_refused(server: Server, tmp_path: Path) -> None:
    opened = open_shards(f"{server.url}/00.tar")
    shutil.rmtree(tmp_path / "cache" / "shards")
    forget()
    write_shard(server.folder / "00.tar", records(8))
    with pytest.raises(BadShard, match="another file"):
        opened.read(0)


def test_left_overs_of_processes_that_died_are_cleared(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "shards" / "0123"
    folder.mkdir(parents=True)
    (folder / "x.tar.1-00.part").write_bytes(b"half")
    (folder / ".x.tar.1-00.part.00.part").write_bytes(b"half")
    open_shards(f"{server.url}/00.tar")
    assert [path.name for path in folder.iterdir()] == ["lock"]


def test_a_remote_set_can_be_pickled(server: Server) -> None:
    again = pickle.loads(pickle.dumps(open_shards(f"{server.url}/00.tar")))
    assert everything(again) == served(server)[:6]


def read_forked(opened: ShardSet, results: "multiprocessing.Queue[Record]") -> None:
    results.put(opened.read(9))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_worker_fetches_what_was_evicted(server: Server, tmp_path: Path) -> None:
    opened = open_shards(server.url + "/{00..02}.tar")
    shutil.rmtree(tmp_path / "cache" / "shards")
    forget()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    worker = context.Process(target=read_forked, args=(opened, results))
    worker.start()
    assert results.get(timeout=60) == served(server)[9]
    worker.join(timeout=60)


def test_credentials_never_get_into_messages(server: Server) -> None:
    secret = f"http://user:hunter2@{server.address}"
    server.answers["00.tar"] = [truncated] * 10
    server.answers["01.tar"] = [fails(403)] * 10
    for source in ("/00.tar?token=hunter2", "/01.tar?token=hunter2", "/9.tar?token=hunter2", "/d/?token=hunter2"):
        with pytest.raises(BadShard) as caught:
            open_shards(secret + source)
        shown = "".join(map(str, (caught.value, caught.value.__cause__)))
        assert "hunter2" not in shown
        assert "user" not in shown
        assert caught.value.__suppress_context__ or "hunter2" not in repr(caught.value.__context__)
    opened = open_shards(f"{secret}/02.tar?token=hunter2")
    assert "hunter2" not in str((opened.shards[0].name, opened.shards[0].identity, opened.shards[0].path))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@host:80/a/b.tar?x=1#y", "https://host:80/a/b.tar"),
        ("s3://bucket/a@b.tar", "s3://bucket/a@b.tar"),
        ("https://u:p@ss@host/a.tar", "https://host/a.tar"),
        ("https://u:pa/ss@host/a.tar", "https://(not a URL)"),
        ("http://[::1]:8/a.tar", "http://[::1]:8/a.tar"),
    ],
)
def test_a_url_is_shown_without_credentials(url: str, shown: str) -> None:
    assert public_url(url) == shown


@pytest.mark.parametrize(
    "url", ["ftp://h/a.tar", "file:///etc/passwd", "memory://a.tar", "simplecache::http://h/a.tar"]
)
def test_a_scheme_that_is_not_allowed_names_those_that_are(url: str) -> None:
    with pytest.raises(BadShard, match=r"allowed scheme.*http://, https://, s3://, gs://"):
        open_shards(url)


@pytest.mark.parametrize("package", ["s3fs", "gcsfs", "aiohttp"])
def test_a_missing_package_is_one_line_that_names_the_extra(package: str) -> None:
    scheme = {"s3fs": "s3", "gcsfs": "gs", "aiohttp": "https"}[package]
    code = f"""
import sys
sys.modules[{package!r}] = None  # as if it were not installed
from data.shards import open_shards
try:
    open_shards("{scheme}://bucket/a.tar?token=hunter2")
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == (
        f"source {scheme}://bucket/a.tar: {scheme}:// needs the package {package}; install it by "
        "pip install 'conceptvlm[remote]'\n"
    )


def test_a_store_without_time_outs_of_its_own_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    class Sleepy(MemoryFileSystem):
        protocol = "sleepy"

        def info(self, path: str, **_: object) -> dict[str, object]:
            server.stop.wait(60)
            return {}

    fsspec.register_implementation("sleepy", Sleepy, clobber=True)
    monkeypatch.setitem(remote.SCHEMES, "sleepy", "fsspec")
    monkeypatch.setattr(remote, "STALL_TIMEOUT_S", 0.3)
    with pytest.raises(BadShard, match="nothing came"):
        look_up("sleepy://bucket/a.tar")


def test_another_store_of_fsspec_goes_the_same_way(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.setitem(remote.SCHEMES, "memory", "fsspec")
    store = fsspec.filesystem("memory")
    for path in server.folder.glob("*.tar"):
        store.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    assert everything(open_shards("memory://bucket/{00..02}.tar")) == served(server)
    with pytest.raises(BadShard, match=r"memory://bucket/3\.tar.*404"):
        open_shards("memory://bucket/3.tar")


def test_a_bucket_is_read_by_s3fs(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against this server: `get` and `head` of an object are all that is asked of a store."""
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for path in sorted(server.folder.glob("*.tar")):
        (server.folder / "bucket").mkdir(exist_ok=True)
        shutil.copy(path, server.folder / "bucket")
    write_manifest(server.folder / "bucket")
    assert everything(open_shards("s3://bucket/{00..02}.tar")) == served(server)
    assert everything(open_shards("s3://bucket/dataset.json")) == served(server)
    with pytest.raises(BadShard, match=r"s3://bucket/9\.tar.*404"):
        open_shards("s3://bucket/9.tar")


def test_a_cache_that_cannot_be_written_says_which_setting_moves_it(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(BadShard, match="set CONCEPTVLM_CACHE"):
        open_shards(f"{server.url}/00.tar")


def test_a_full_disk_is_an_error_that_leaves_nothing(server: Server, tmp_path: Path) -> None:
    write_shard(server.folder / "big.tar", [("k", {"0.png": bytes(300_000)})])
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # as a disk on which no more has room
from data.shards import open_shards
try:
    open_shards("{server.url}/big.tar")
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert f"{server.url}/big.tar" in done.stdout
    assert "File too large" in done.stdout
    assert server.asked["GET", "big.tar"] <= 1
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_a_shard_of_a_manifest_that_is_gone_is_an_error_at_start(server: Server, tmp_path: Path) -> None:
    write_manifest(server.folder)
    open_shards(server.url + "/dataset.json")
    (server.folder / "01.tar").unlink()
    forget()
    assert len(open_shards(server.url + "/dataset.json")) == 18  # all copies are here
    for copy in (tmp_path / "cache" / "shards").glob("*/*.tar"):
        copy.unlink()
    forget()
    with pytest.raises(BadShard, match=r"01\.tar.*404"):
        open_shards(server.url + "/dataset.json")


def test_ctrl_c_does_not_wait_for_a_transfer(server: Server) -> None:
    def stall(handler: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
        send(handler, b"", len(data))
        server.stop.wait(60)

    server.answers["00.tar"] = [stall]
    code = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from data.shards import open_shards
open_shards("{server.url}/00.tar")
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    while not server.asked["GET", "00.tar"]:
        time.sleep(0.05)
        assert process.poll() is None
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert time.monotonic() - start < 20


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CONCEPTVLM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert shard_cache.cache_folder() == tmp_path / "conceptvlm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert shard_cache.cache_folder() == tmp_path / ".cache" / "conceptvlm"
    monkeypatch.setenv("CONCEPTVLM_CACHE", str(tmp_path / "here"))
    assert shard_cache.cache_folder() == tmp_path / "here"
