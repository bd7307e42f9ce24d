"""Expand the committed pieces into the demo's shards, once.

In: `pieces/`, `lists/`. Out: a folder with `train/`, `val/` and `test/`, each a set of shard folders with a manifest.
The folder's name holds a hash of all that it is made from, and it gets that name only when it is complete.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from data.assets.pieces import ASSETS, Pieces
from data.assets.plan import Planned, plan_count, plan_objects
from data.assets.records import (
    Record,
    SceneCanvas,
    clipart_records,
    emoji_records,
    gloss_records,
    is_count,
    presence_records,
    question_record,
    scene_records,
)
from data.assets.scenes import Vocabulary, vocabulary
from data.shards import write_manifest, write_shard

TESTS = ("unseen-style", "held-out-category", "presence", "counting", "location", "caption")
SCENES = {"train": 8000, "val": 100}
RECORDS_PER_SHARD = 4000
REPORT_EVERY = 250
Progress = Callable[[int, int], None]


def demo_folder(cache: Path | None = None, progress: Progress | None = None) -> Path:
    """Return the folder of the demo's shards, expanding them at first use (under a minute on one core).

    Args:
        cache: where the folder is kept; without it $CONCEPTVLM_CACHE, else `~/.cache/conceptvlm`.
        progress: called now and then with the records written and their number in all.

    Raises:
        OSError: the cache cannot be written.
        ValueError: a committed piece is damaged.
    """
    cache = cache_folder() if cache is None else Path(cache)
    folder = cache / f"demo-{content_hash()}"
    if folder.is_dir():
        return folder
    with locked(cache, folder):
        if folder.is_dir():  # another process made it while this one waited for the lock
            return folder
        for left_over in cache.glob(f"{folder.name}.partial*"):
            shutil.rmtree(left_over)
        partial = cache / f"{folder.name}.partial-{os.getpid()}"
        try:
            expand(partial, progress)
            os.replace(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return folder


def cache_folder() -> Path:
    """Return the folder that ConceptVLM keeps expanded data in."""
    named = os.environ.get("CONCEPTVLM_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "conceptvlm"


def content_hash() -> str:
    """Hash what the shards depend on: the checksums of all pieces and lists, and the code that expands them."""
    code = sorted(ASSETS.glob("*.py"))
    digest = hashlib.sha256((ASSETS / "checksums.json").read_bytes())
    for file in code:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


@contextmanager
def locked(cache: Path, folder: Path) -> Iterator[None]:
    """Hold the lock of one expansion, so that processes that start together do the work once.

    Raises:
        OSError: the cache cannot be written; names it and the setting that moves it.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = open(cache / f"{folder.name}.lock", "w")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise OSError(
            f"the demo's data cannot be kept in {cache} ({error.strerror}); "
            "set CONCEPTVLM_CACHE to a folder that can be written"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def expand(folder: Path, progress: Progress | None = None, only: Iterable[str] | None = None) -> None:
    """Write the sets, all or the named ones (`train/emoji`, ...), below `folder`."""
    sets = builders(Pieces())
    names = list(sets) if only is None else list(only)
    total, done = sum(expected()[name]["samples"] for name in names) if progress else 0, 0
    for name in names:

        def counted(records: Iterable[Record]) -> Iterator[Record]:
            nonlocal done
            for record in records:
                if progress is not None and done % REPORT_EVERY == 0:
                    progress(done, total)
                done += 1
                yield record

        write_set(folder / name, counted(sets[name]()))
    if progress is not None:
        progress(done, total)


def expected() -> dict[str, dict[str, Any]]:
    """Return, for each set, its number of samples and the digest of its records as the maintainer's build made them."""
    sets: dict[str, dict[str, Any]] = json.loads((ASSETS / "expected.json").read_text(encoding="utf-8"))
    return sets


def builders(pieces: Pieces) -> dict[str, Callable[[], Iterable[Record]]]:
    """Return, for the name of each set, what makes its records."""
    emoji, clipart = pieces.rows("emoji"), pieces.rows("clipart")
    pictures = pieces.members("emoji") | pieces.members("clipart")
    glosses = pieces.glosses()
    canvas = SceneCanvas(pictures)
    sets: dict[str, Callable[[], Iterable[Record]]] = {}
    for part in ("train", "val"):

        def scenes(part: str = part) -> Iterable[Record]:
            # Validation scenes are new arrangements of training pictures; its emoji are pictures never trained on.
            return scene_records(f"scenes/{part}", plan_scenes(part, vocabulary(emoji, "train")), canvas)

        def captions(part: str = part) -> Iterable[Record]:
            return clipart_records([row for row in clipart if row["split"] == part], pictures)

        def texts(part: str = part) -> Iterable[Record]:
            return gloss_records([row for row in glosses if row["split"] == part])

        def names(part: str = part) -> Iterable[Record]:
            return emoji_records(emoji, part, pictures)

        def presence(part: str = part) -> Iterable[Record]:
            return presence_records(emoji, part, pictures)

        sets |= {
            f"{part}/emoji": names,
            f"{part}/presence": presence,
            f"{part}/scenes": scenes,
            f"{part}/clipart": captions,
            f"{part}/text": texts,
        }
    for test in TESTS:

        def questions(test: str = test) -> Iterable[Record]:
            return (question_record(row, pictures, canvas) for row in pieces.rows(f"test-{test}"))

        sets[f"test/{test}"] = questions
    return sets


def plan_scenes(part: str, known: Vocabulary) -> list[Planned]:
    """Return the recipes of a training or validation set: some to count in, the others to find places in."""
    name = f"scenes/{part}"
    makers = (plan_count if is_count(index) else plan_objects for index in range(SCENES[part]))
    return [make(name, index, known) for index, make in enumerate(makers)]


def write_set(folder: Path, records: Iterable[Record]) -> None:
    """Write records into shards of RECORDS_PER_SHARD, and the manifest."""
    folder.mkdir(parents=True)
    stream, number = iter(records), 0
    while block := list(islice(stream, RECORDS_PER_SHARD)):
        write_shard(folder / f"shard-{number:03d}.tar", block)
        number += 1
    write_manifest(folder)
