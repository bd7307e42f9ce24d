"""Files behind URLs: looked up and fetched whole, within bounded time, or an error that names the URL and the cause.

In: a URL of an allowed scheme. Out: a file whose size and sha256 were checked. fsspec speaks the protocols; it and the
stores' packages are imported where they are used (extra `[remote]`). Nothing here runs a shell, follows a chain of URLs
(`a::b`) or expands a variable. Messages hold no user name, password or query: those carry credentials.
"""

import errno
import hashlib
import importlib
import os
import queue
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from data.tar import BadShard

SCHEMES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs"}  # and the package that speaks each
CONNECT_TIMEOUT_S = 20.0
STALL_TIMEOUT_S = 60.0  # a transfer in which fewer than MIN_BYTES come in this time has stalled
MIN_BYTES = 1024
RETRY_PAUSES_S = (1.0, 4.0, 16.0)  # before each further try
FINAL_STATUS = range(400, 500)  # the server knows what it does not want; the others may pass
PASSING_STATUS = (408, 425, 429)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://[^\s'\"<>)\]]*")

T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """What a server says of a file without sending it."""

    num_bytes: int | None
    version: str  # changes when the file does; empty if the server does not say


def is_url(source: str) -> bool:
    return "://" in source or source.startswith("pipe:")


def public_url(url: str) -> str:
    """The URL without user, password, query and fragment."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # ill-formed where a password has a slash
    except ValueError:
        return url.split("://", 1)[0] + "://(not a URL)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def check_url(url: str) -> None:
    """Refuse what is not one of the allowed schemes, and name them.

    Raises:
        BadShard: the URL's scheme, and the allowed ones.
    """
    scheme, found, rest = url.partition("://")
    if not found or scheme not in SCHEMES:
        raise BadShard(
            f"source {scheme[:40]}:...: is neither a path nor of an allowed scheme ({', '.join(f'{s}://' for s in SCHEMES)}); "
            "no command is ever run"
        )
    if not urlsplit(url).netloc or not rest.isprintable():
        raise BadShard(f"source {public_url(url)}: is no URL of a file; write it like {scheme}://HOST/folder/000.tar")


def look_up(url: str) -> Found:
    """Size and version of a file.

    Raises:
        BadShard: there is no such file, or the server cannot be asked.
    """
    store = _store(url)

    def ask() -> dict[str, Any]:
        try:
            return store.info(url)
        except FileNotFoundError as error:
            # fsspec says so of any failure of a web server, and keeps the true one as its cause.
            cause = error.__cause__
            raise cause if isinstance(cause, Exception) else error from None

    info = _persist(url, lambda: _watched(ask, lambda: 0))
    size = info.get("size")
    version = next(
        (f"{name} {info[name]}" for name in ("ETag", "etag", "Last-Modified", "md5Hash") if info.get(name)), ""
    )
    version = version or str(info.get("mtime") or info.get("LastModified") or info.get("updated") or "")
    return Found(size if type(size) is int else None, version)


def download(url: str, part: Path, num_bytes: int | None = None, sha256: str | None = None) -> str:
    """Fetch a file whole, and return its sha256. What is wrong or incomplete is fetched anew, a bounded number of times.

    Args:
        url: of the file.
        part: where it is written.
        num_bytes: of the file, if known.
        sha256: of the file, if known.

    Raises:
        BadShard: the URL and why the file cannot be had.
    """
    store = _store(url)

    def fetch() -> str:
        # A name of its own for each try: one that was given up may still write to its file.
        file = part.with_name(f".{part.name}.{os.urandom(4).hex()}.part")
        progress = _progress()
        try:
            _watched(lambda: store.get_file(url, str(file), callback=progress), lambda: progress.value, num_bytes)
            size = file.stat().st_size
            wanted = next(n for n in (num_bytes, progress.size, size) if n is not None)
            if size != wanted:
                raise _Incomplete(f"{size:,} bytes came, it has {wanted:,}")
            with file.open("rb") as data:
                digest = hashlib.file_digest(data, "sha256").hexdigest()
            if sha256 not in (None, digest):
                raise _Incomplete(f"its sha256 is {digest[:16]}..., not {str(sha256)[:16]}...: it is another file")
            os.replace(file, part)
        finally:
            file.unlink(missing_ok=True)
        return digest

    return _persist(url, fetch)


class _Incomplete(Exception):
    """What came is not what was wanted."""


def _progress() -> Any:
    return importlib.import_module("fsspec.callbacks").Callback()


def _store(url: str) -> Any:
    """The file system of a URL.

    Raises:
        BadShard: a package is missing; says which extra brings it.
    """
    check_url(url)
    scheme = url.partition("://")[0]
    try:
        fsspec = importlib.import_module("fsspec")
        options: dict[str, Any] = {"use_listings_cache": False}
        if SCHEMES[scheme] == "aiohttp":
            from aiohttp import ClientTimeout

            # aiohttp gives every transfer five minutes in all if not told otherwise.
            timeout = ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=STALL_TIMEOUT_S)
            options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
            options["headers"] = {"Accept-Encoding": "identity"}
        return fsspec.filesystem(scheme, **options)
    except ImportError:
        raise BadShard(
            f"source {public_url(url)}: {scheme}:// needs the package {SCHEMES[scheme]}; install it by "
            "pip install 'conceptvlm[remote]'"
        ) from None


def _persist(url: str, work: Callable[[], T]) -> T:
    """Do it again after faults that may pass."""
    for pause_s in (*RETRY_PAUSES_S, None):
        try:
            return work()
        except BadShard:
            raise
        except Exception as error:
            if pause_s is None or not _may_pass(error):
                tries = f", {len(RETRY_PAUSES_S) + 1} tries" if pause_s is None else ""
                _fail(url, error, tries)
        time.sleep(pause_s)
    raise AssertionError("the last try returns or raises")


def _may_pass(error: Exception) -> bool:
    status = _status(error)
    if status is not None:
        return status in PASSING_STATUS or status not in FINAL_STATUS
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        return False
    lasting = (FileNotFoundError, PermissionError, ValueError, TypeError)
    return not isinstance(error, lasting) and not type(error).__name__.endswith("CredentialsError")


def _status(error: Exception) -> int | None:
    """The status with which a web server or a store refused."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for name in ("status", "code"):
        if isinstance(value := getattr(error, name, None), int) and 100 <= value < 600:
            return value
    return None


def _fail(url: str, error: Exception, tries: str) -> NoReturn:
    status = _status(error)
    if status == 404 or isinstance(error, FileNotFoundError):
        cause, advice = "there is no such file (404)", "check the URL"
    elif status is not None:
        cause, advice = f"the server answers {status}", "check the URL and the credentials"
    else:
        words = _URL.sub(lambda match: public_url(match[0]), str(error).replace(url, public_url(url)))
        cause = f"{type(error).__name__.lstrip('_')}: {words:.300}".rstrip(": ")
        advice = "check the network and the disk of the cache"
    raise BadShard(f"shard {public_url(url)}: cannot be fetched ({cause}{tries}); {advice}") from None


def _watched(work: Callable[[], T], moved: Callable[[], int], most: int | None = None) -> T:
    """Run in a thread, and give it up when nothing moves: not every store has time-outs of its own.

    Args:
        work: what to do.
        moved: bytes so far.
        most: bytes that may come.
    """
    done: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((work(), None))
        except BaseException as error:
            done.put((None, error))

    threading.Thread(target=run, daemon=True, name="fetch").start()
    seen, since = moved(), time.monotonic()
    while True:
        try:
            result, error = done.get(timeout=min(0.2, STALL_TIMEOUT_S / 4))
        except queue.Empty:
            if most is not None and moved() > most:
                raise _Incomplete(f"more than {most:,} bytes come") from None
            if moved() - seen >= MIN_BYTES:
                seen, since = moved(), time.monotonic()
            elif time.monotonic() - since > STALL_TIMEOUT_S:
                raise TimeoutError(f"nothing came for {STALL_TIMEOUT_S:.3g} s") from None
            continue
        if error is not None:
            raise error
        return result  # type: ignore[return-value]
