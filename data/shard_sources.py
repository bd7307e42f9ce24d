"""What a user calls a source, as the files it stands for: paths, patterns, folders, manifests, URLs, and lists of these.

In: text of a config, trusted with nothing: no variable is expanded, no command is run, no pattern goes on for ever.
Out: the places of shards, in order, with what a manifest says of each.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from math import prod
from pathlib import Path

from braceexpand import braceexpand

from data.manifest import MANIFEST, Entry, read_manifest, shards_in
from data.remote import check_url, is_url, public_url
from data.tar import BadShard

MAX_SHARDS = 1_000_000
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?")


def find_shards(source: str | Path | Sequence[str | Path]) -> list[str | Entry]:
    """The shards of a source, in order: paths or URLs, or entries of a manifest.

    Raises:
        BadShard: names what is missing or not allowed.
    """
    if not isinstance(source, (str, Path)):
        if not source:
            raise BadShard("source []: is an empty list; name at least one shard")
        return [place for part in source for place in find_shards(part)]
    text = str(source)
    if is_url(text):
        return _behind_url(text)
    try:
        return _on_disk(text)
    except (OSError, RuntimeError, ValueError) as error:  # a name too long or with a zero byte, `~` of nobody
        if isinstance(error, BadShard):
            raise
        fault = getattr(error, "strerror", None) or error
        raise BadShard(f"source {text!r:.300}: {fault}; check the path in the data's sources") from None


def _on_disk(text: str) -> list[str | Entry]:
    path = Path(text).expanduser()
    if path.is_dir():
        if (path / MANIFEST).is_file():
            return [*read_manifest(path / MANIFEST)]
        if not (found := shards_in(path)):
            raise BadShard(f"folder {path}: holds no .tar and no {MANIFEST}; give the folder that holds the shards")
        return [str(file) for file in found]
    if path.name.endswith(".json"):
        return [*read_manifest(path)]
    if path.exists() or not re.search(r"[{*?\[]", text):
        return [str(path)]
    return [place for pattern in _braces(text) for place in _matching(Path(pattern).expanduser(), text)]


def _behind_url(text: str) -> list[str | Entry]:
    check_url(text)
    address, mark, query = text.partition("?")
    if address.endswith("/"):
        address += MANIFEST
    if address.endswith(".json"):
        return [*read_manifest(address + mark + query)]
    urls = [url + mark + query for url in _braces(address)] if "{" in address else [text]
    for url in urls:
        check_url(url)
    return [*urls]


def _matching(path: Path, source: str) -> list[str]:
    """The path, or what its wildcards match."""
    if path.exists() or not re.search(r"[*?\[]", str(path)):
        return [str(path)]
    parts = path.parts
    first = next(i for i, part in enumerate(parts) if re.search(r"[*?\[]", part))
    base, pattern = Path(*parts[:first]), str(Path(*parts[first:]))
    try:
        # pathlib's `**` does not follow links, so a link to a folder above cannot make it endless.
        matches = (file for file in base.glob(pattern) if not file.name.startswith("."))
        found = sorted(str(file) for file in islice(matches, MAX_SHARDS + 1) if not file.is_dir())
    except (ValueError, NotImplementedError, RecursionError) as error:
        raise BadShard(f"pattern {source}: {error}; write it like data/*.tar or data/**/*.tar") from None
    if not found:
        raise BadShard(f"pattern {source}: matches no file; check the path in the data's sources")
    return found


def _braces(pattern: str) -> Iterable[str]:
    """What a brace pattern stands for. The count is taken before anything is expanded: `{0..999999999}` is a long list."""
    try:
        if (count := _num_expanded(pattern)) > MAX_SHARDS:
            raise ValueError(f"stands for up to {count:,} files, the limit is {MAX_SHARDS:,}")
        return list(braceexpand(pattern))
    except (ValueError, RecursionError) as error:
        shown = public_url(pattern) if is_url(pattern) else pattern
        raise BadShard(f"pattern {shown:.200}: {error!s:.200}; write it like shard-{{000..007}}.tar") from None


def _num_expanded(pattern: str) -> int:
    """At least as many as the pattern stands for."""
    groups, starts = [[1]], list[int]()
    if len(pattern) > 4096:
        raise ValueError(f"has {len(pattern):,} characters, the limit is 4,096")
    for place, sign in enumerate(pattern):
        if sign == "{":
            groups.append([1])
            starts.append(place + 1)
        elif sign == "," and len(groups) > 1:
            groups[-1].append(1)
        elif sign == "}" and len(groups) > 1:
            alternatives, inner = groups.pop(), pattern[starts.pop() : place]
            match = _RANGE.fullmatch(inner)
            if match:
                span = abs(int(match[2]) - int(match[1])) + 1
                count = -(-span // (int(match[3] or 1) or 1))
            else:
                count = sum(alternatives)
            groups[-1][-1] *= max(1, count)
    return prod(map(sum, groups))
