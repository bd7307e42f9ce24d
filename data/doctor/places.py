"""Which shards a path stands for, and what their manifest says of them; no shard is opened.

In: a tar, a folder, a pattern, a manifest. Out: places, in the order in which training reads them.
"""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from braceexpand import braceexpand

from data.doctor.flaws import Flaws
from data.sample import strict_json
from data.shards import MANIFEST


@dataclass(frozen=True)
class Promise:
    """What a manifest says of a shard."""

    manifest: Path
    num_bytes: int
    samples: int
    sha256: str | None  # as hexadecimal digits; None where it is not said


@dataclass(frozen=True)
class Place:
    """A shard, opened by nobody yet."""

    path: Path
    promise: Promise | None = None


def find_shards(sources: Sequence[str | Path], faults: Flaws, warnings: Flaws) -> list[Place]:
    """The shards of all sources, each once.

    Raises:
        ValueError: a source that is not there, or holds no shards.
    """
    places: dict[Path, Place] = {}
    for source in sources:
        for place in _places(str(source), faults, warnings):
            if place.path.absolute() in places:
                warnings.add(place.path, None, "named twice", "is named by two of the paths; it is examined once")
            places.setdefault(place.path.absolute(), place)
    return list(places.values())


def _places(source: str, faults: Flaws, warnings: Flaws) -> list[Place]:
    if "://" in source or source.startswith("pipe:"):
        raise ValueError(f"source {source}: only local files are examined; copy the shards and give their path")
    path = Path(source).expanduser()
    if path.is_dir():
        manifest, found = path / MANIFEST, sorted(path.glob("*.tar"))
        if manifest.is_file():
            places = _from_manifest(manifest, faults)
            named = {place.path for place in places}
            for file in found:
                if file not in named:
                    warnings.add(
                        file, None, "not in the manifest", f"lies in the folder, but {MANIFEST} does not name it"
                    )
            return places
        if not found:
            raise ValueError(f"folder {path}: holds no .tar and no {MANIFEST}; give the folder that holds the shards")
        return [Place(file) for file in found]
    if path.exists():
        return _from_manifest(path, faults) if path.name.endswith(".json") else [Place(path)]
    if "{" in source:
        try:
            paths = [Path(one) for one in braceexpand(str(path))]
        except ValueError as error:
            raise ValueError(f"pattern {source}: {error}; write it like shard-{{000..007}}.tar") from None
        return [Place(one) for one in paths]
    if glob.has_magic(source):
        matched = sorted(glob.glob(str(path)))
        if not matched:
            raise ValueError(f"pattern {source}: no file matches it; put it in quotes, and check the folder")
        return [Place(Path(one)) for one in matched]
    raise ValueError(
        f"{path}: there is no such file or folder; give a tar, a folder of tars, a pattern or a {MANIFEST}"
    )


def _from_manifest(path: Path, faults: Flaws) -> list[Place]:
    """What the manifest names. One that cannot be read is a fault, and the tars beside it are examined without it."""
    try:
        manifest = strict_json(path.read_bytes())
        places = [_entry(path, entry) for entry in manifest["shards"]]
        total = manifest.get("samples")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        faults.add(
            path, None, "bad manifest", f"cannot be read ({error!r}); the tars beside it are examined without it"
        )
        return [Place(file) for file in sorted(path.parent.glob("*.tar"))]
    sums = sum(place.promise.samples for place in places if place.promise is not None)
    if total is not None and total != sums:
        faults.add(path, None, "wrong manifest", f"says {total} samples in all, its shards add up to {sums}")
    names = [place.path.name for place in places]
    for name in sorted({name for name in names if names.count(name) > 1}):
        faults.add(path, None, "wrong manifest", f"names the shard {name!r} twice")
    return list(dict.fromkeys(places))


def _entry(manifest: Path, entry: Any) -> Place:
    name, num_bytes, samples, sha256 = entry["path"], entry["bytes"], entry["samples"], entry.get("sha256")
    if not isinstance(name, str) or type(num_bytes) is not int or type(samples) is not int:
        raise ValueError(f"a shard needs path, bytes and samples, got {entry!r:.120}")
    if sha256 is not None and not isinstance(sha256, str):
        raise ValueError(f"sha256 of {name!r} must be a text, got {sha256!r:.80}")
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError(f"shard {name!r} lies outside the folder; shards lie beside their manifest")
    return Place(manifest.parent / name, Promise(manifest, num_bytes, samples, sha256))
