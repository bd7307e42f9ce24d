"""`dataset.json`: which shards a data set has, with their bytes, samples and sha256.

In: a folder of shards, or a manifest. Out: a manifest, or its entries, which always lie below their manifest.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from data.remote import download, is_url, public_url
from data.shard_cache import cache_folder
from data.strict_json import MAX_JSON_BYTES, strict_json
from data.tar import BadShard, scan

MANIFEST = "dataset.json"
FORMAT = "conceptvlm-shards-1"


@dataclass(frozen=True)
class Entry:
    """One shard as its manifest describes it; `sha256` may be empty."""

    place: str = field(repr=False)  # path or URL, which may hold credentials
    num_bytes: int
    samples: int
    sha256: str


def write_manifest(folder: str | Path) -> None:
    """Write the folder's `dataset.json`: its `*.tar` with bytes, samples and sha256."""
    folder = Path(folder)
    shards: list[dict[str, Any]] = []
    for path in shards_in(folder):
        entry = {"path": path.name, "bytes": path.stat().st_size, "samples": len(scan(path)), "sha256": _sha256(path)}
        shards.append(entry)
    samples = sum(shard["samples"] for shard in shards)
    manifest = {"format": FORMAT, "shards": shards, "samples": samples}
    part = folder / f".{MANIFEST}.{os.getpid()}.part"
    try:
        part.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        os.replace(part, folder / MANIFEST)
    finally:
        part.unlink(missing_ok=True)


def verify_manifest(folder: str | Path) -> list[str]:
    """Hold every shard against the manifest, byte for byte; what differs, one line each, none if all is right.

    Raises:
        BadShard: there is no manifest that can be read.
    """
    folder = Path(folder)
    faults, named = [], set[Path]()
    for entry in read_manifest(folder / MANIFEST):
        path = Path(entry.place)
        named.add(path)
        try:
            samples = len(scan(path))
            if (size := path.stat().st_size) != entry.num_bytes:
                faults.append(f"{path}: has {size:,} bytes, {MANIFEST} says {entry.num_bytes:,}")
            elif entry.sha256 and _sha256(path) != entry.sha256:
                faults.append(f"{path}: its sha256 is not the one of {MANIFEST}: bytes have changed")
            if samples != entry.samples:
                faults.append(f"{path}: has {samples} records, {MANIFEST} says {entry.samples}")
        except OSError as error:
            faults.append(f"{path}: {error.strerror}")
        except BadShard as error:
            faults.append(str(error))
    faults += [f"{path}: is not in {MANIFEST}, so it is never read" for path in shards_in(folder) if path not in named]
    return faults


def read_manifest(place: str | Path) -> list[Entry]:
    """The shards of a manifest, on disk or behind a URL.

    Raises:
        BadShard: names the manifest and what is wrong with it.
    """
    name = public_url(str(place)) if is_url(str(place)) else str(place)
    try:
        manifest = strict_json(_fetched(str(place)) if is_url(str(place)) else _read(Path(place)))
        entries = [_entry(place, name, entry) for entry in manifest["shards"]]
    except OSError as error:
        raise BadShard(f"manifest {name}: {error.strerror}; check the path in the data's sources") from None
    except BadShard:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise BadShard(
            f"manifest {name}: cannot be read ({error!r:.200}); write it again with write_manifest"
        ) from None
    if (written := manifest.get("format", FORMAT)) != FORMAT:
        raise BadShard(
            f"manifest {name}: has the format {written!r:.80}, {FORMAT!r} is read; use the version that wrote it"
        )
    places = [entry.place for entry in entries]
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise BadShard(
            f"manifest {name}: names the shard {Path(twice).name!r} twice; write it again with write_manifest"
        )
    return entries


def shards_in(folder: Path) -> list[Path]:
    """The tars of a folder; hidden files, such as those that macOS writes beside others, are none of them."""
    return sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))


def _entry(manifest: str | Path, name: str, entry: Any) -> Entry:
    path, num_bytes, samples, sha256 = entry["path"], entry["bytes"], entry["samples"], entry.get("sha256", "")
    if (
        not isinstance(path, str)
        or type(num_bytes) is not int
        or type(samples) is not int
        or not isinstance(sha256, str)
    ):
        raise TypeError(f"shard {path!r:.80} needs a path, whole numbers as bytes and samples, and a sha256")
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts or is_url(path) or not path.isprintable():
        raise BadShard(f"manifest {name}: shard {path!r} lies outside the folder; shards lie beside their manifest")
    if is_url(str(manifest)):
        base, mark, query = str(manifest).partition("?")
        return Entry(f"{base.rsplit('/', 1)[0]}/{path}{mark}{query}", num_bytes, samples, sha256.lower())
    return Entry(str(Path(manifest).parent / path), num_bytes, samples, sha256.lower())


def _read(path: Path) -> bytes:
    if not path.is_file() and path.exists():
        raise ValueError("it is no regular file")
    with path.open("rb") as file:
        return file.read(MAX_JSON_BYTES + 1)


def _fetched(url: str) -> bytes:
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".manifest.{os.getpid()}-{os.urandom(4).hex()}.part"
    try:
        download(url, part)
        return _read(part)
    finally:
        part.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
