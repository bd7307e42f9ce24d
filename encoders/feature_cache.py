"""Features of a frozen encoder, kept on disk, so that each picture is encoded once.

On disk: FOLDER/<first 16 of the encoder's key>/ with `vectors.bin` (fp16, all pictures one after another),
`index.jsonl` (a head line, then one line for each picture, or each crop of one) and `lock`. Vectors reach the disk before
the line that names them, so a line in the index is always true; after a crash the writer cuts off what no line names.
Many processes may read, one writes.
"""

import fcntl
import json
import os
import warnings
from collections.abc import Callable, Iterable, KeysView, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from encoders.encode_all import encode_all
from encoders.protocol import Features

FP16_MAX = 65504.0


@dataclass(frozen=True)
class _Entry:
    start: int  # in values, not bytes
    count: int  # vectors
    grid: tuple[int, int]


class FeatureCache:
    """`feature_key in cache`, `read`, `write`. Can be pickled; a copy in another process reads what is flushed."""

    def __init__(self, folder: Path, encoder_key: str) -> None:
        """
        Args:
            folder: shared by all encoders; made when missing.
            encoder_key: `encoders.protocol.encoder_key(encoder)`, or an encoder's own `weights_key()`.
        """
        self.root, self.encoder_key = Path(folder), encoder_key
        self.folder = self.root / encoder_key[:16]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"cannot make the feature cache {self.folder}: {error}; choose a folder that can be written"
            ) from error
        self.width = 0  # of one vector; 0 until the first picture is written
        self._entries: dict[str, _Entry] = {}
        self._index_end = 0  # bytes of the index read so far
        self._map: np.ndarray | None = None
        self._pending: list[tuple[str, _Entry]] = []
        self._writer: BinaryIO | None = None
        self._lock: BinaryIO | None = None
        self.refresh()

    def __reduce__(self) -> tuple[type["FeatureCache"], tuple[Path, str]]:
        return FeatureCache, (self.root, self.encoder_key)

    def __contains__(self, feature_key: object) -> bool:
        return feature_key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def keys(self) -> KeysView[str]:
        """All feature keys present when last opened, refreshed or written."""
        return self._entries.keys()

    def grid(self, feature_key: str) -> tuple[int, int]:
        """Rows and columns of a picture's vectors."""
        return self._entries[feature_key].grid

    def refresh(self) -> None:
        """Read what another process has added to the index."""
        path = self.folder / "index.jsonl"
        if not path.exists():
            return
        with path.open("rb") as index:
            index.seek(self._index_end)
            added = index.read()
        vectors = self.folder / "vectors.bin"
        stored = vectors.stat().st_size // 2 if vectors.exists() else 0  # values
        for line in added.splitlines(keepends=True):
            try:
                record = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break  # the writer is in the middle of it, or was
            if self._index_end == 0:
                self._read_head(record, path)
            else:
                key, start, count, rows, columns = record
                if start + count * self.width > stored:
                    break
                self._entries[key] = _Entry(start, count, (rows, columns))
            self._index_end += len(line)

    def _read_head(self, head: dict[str, object], path: Path) -> None:
        if head.get("encoder") != self.encoder_key:
            raise ValueError(
                f"{path} belongs to another encoder ({head.get('encoder')}); "
                f"delete {self.folder} or choose another folder"
            )
        self.width = int(str(head["width"]))

    def read(self, feature_keys: Sequence[str]) -> list[Float[Tensor, "_ w"]]:
        """Float32 vectors on the CPU, one tensor for each key."""
        return self.features(feature_keys).split()

    def features(self, feature_keys: Sequence[str]) -> Features:
        """Float32 vectors on the CPU with their grids, in the order of the keys."""
        if self._pending:
            self.flush()
        if any(key not in self._entries for key in feature_keys):
            self.refresh()
        missing = [key for key in feature_keys if key not in self._entries]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(feature_keys)} pictures are not in the feature cache {self.folder} "
                f"(first: {missing[0]}); run encoders.fill over the data's pictures first"
            )
        entries = [self._entries[key] for key in feature_keys]
        out = torch.empty(sum(entry.count for entry in entries), self.width)
        flat, place = out.numpy().reshape(-1), 0
        needed = max((entry.start + entry.count * self.width for entry in entries), default=0)
        if needed and (self._map is None or len(self._map) < needed):
            self._map = np.memmap(self.folder / "vectors.bin", dtype=np.float16, mode="r")
        for entry in entries:
            size = entry.count * self.width
            if size and self._map is not None:
                flat[place : place + size] = self._map[entry.start : entry.start + size]
            place += size
        grids = torch.tensor([entry.grid for entry in entries], dtype=torch.int64)
        return Features(out, grids.view(-1, 2))

    def lock(self, wait: bool = False) -> None:
        """Become the one writer. The lock ends with `close()` or with the process, so it is never stale.

        Raises:
            ValueError: another process writes and `wait` is False, or the folder cannot be written.
        """
        if self._lock is not None:
            return
        try:
            held = (self.folder / "lock").open("ab")
            try:
                fcntl.flock(held, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.close()
                raise ValueError(
                    f"another process is writing the feature cache {self.folder}; wait for it, or choose another folder"
                ) from None
            self._lock = held
            self.refresh()
            # What a crash left behind: vectors without a line, or half a line.
            extent = max((entry.start + entry.count * self.width for entry in self._entries.values()), default=0)
            for name, end in (("vectors.bin", extent * 2), ("index.jsonl", self._index_end)):
                (self.folder / name).touch()
                os.truncate(self.folder / name, end)
            self._writer = (self.folder / "vectors.bin").open("ab")
            self._end = extent
        except OSError as error:
            self.close()
            raise ValueError(
                f"cannot write the feature cache {self.folder}: {error}; choose a folder that can be written"
            ) from error

    def wait(self) -> None:
        """Return once no other process writes. Without a time-out: the lock of a process ends with it."""
        path = self.folder / "lock"
        if path.exists():
            with path.open("rb") as shared:
                fcntl.flock(shared, fcntl.LOCK_SH)
        self.refresh()

    def write(self, feature_key: str, vectors: Float[Tensor, "p w"], grid: tuple[int, int]) -> None:
        """Append one picture, unless its key is present. It can be read at once here, and elsewhere after `flush()`."""
        self.lock()
        assert self._writer is not None
        if feature_key in self._entries:
            return
        count, width = vectors.shape
        if grid[0] * grid[1] != count or (self.width and width != self.width):
            raise ValueError(
                f"{feature_key}: got {count} vectors of width {width} for a grid of {grid}; this cache needs "
                f"rows x columns vectors of width {self.width or width}"
            )
        values = vectors.detach().float().cpu().numpy()
        # Written so that a NaN fails the test too.
        if count and not float(np.abs(values).max()) <= FP16_MAX:
            raise ValueError(
                f"{feature_key}: the vectors reach {float(np.abs(values).max())}, which the cache's fp16 cannot hold "
                f"(limit {FP16_MAX:.0f}); use another layer, or train without the cache"
            )
        self.width = width
        self._writer.write(values.astype(np.float16).tobytes())
        entry = _Entry(self._end, count, grid)
        self._end += count * width
        self._entries[feature_key] = entry
        self._pending.append((feature_key, entry))

    def flush(self) -> None:
        """Bring all that was written to the disk, vectors before their lines."""
        if self._writer is None or not self._pending:
            return
        lines = [json.dumps([key, entry.start, entry.count, *entry.grid]) for key, entry in self._pending]
        if self._index_end == 0:
            lines.insert(0, json.dumps({"encoder": self.encoder_key, "width": self.width, "dtype": "float16"}))
        text = "".join(line + "\n" for line in lines).encode()
        try:
            self._writer.flush()
            os.fsync(self._writer.fileno())
            with (self.folder / "index.jsonl").open("ab") as index:
                index.write(text)
                index.flush()
                os.fsync(index.fileno())
        except OSError as error:
            raise ValueError(f"cannot write the feature cache {self.folder}: {error}; is its disk full?") from error
        self._index_end += len(text)
        self._pending.clear()

    def close(self) -> None:
        """Flush and let another process write. Reading goes on; so may writing, after taking the lock again."""
        try:
            self.flush()
        finally:
            for held in (self._writer, self._lock):
                if held is not None:
                    held.close()
            self._writer = self._lock = None


@runtime_checkable
class CachedPicture(Protocol):
    """What is needed of a picture; `data.text.Picture` is one."""

    @property
    def feature_key(self) -> str:
        """Names the picture and its augmentation."""


def fill(
    cache: FeatureCache,
    encoder: Any,
    pictures: Iterable[CachedPicture],
    prepare: Callable[[Any], UInt8[Tensor, "3 H W"]],
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Encode every picture whose key the cache lacks; may be stopped and run again.

    Several processes may call it at once: one works, the others wait and then find everything there.

    Args:
        cache: opened with this encoder's key.
        encoder: a VisionEncoder with its weights; runs in eval(), without gradients, on its own device. Where it has
            `folded()`, the faster copy which that gives is used.
        pictures: equal keys are encoded once.
        prepare: decodes one picture by the encoder's spec; runs in threads. A BadRecord it raises skips the
            picture, and a warning at the end counts and names these.
        batch_size: pictures encoded together.
        progress: called after every batch with (pictures done, pictures to do); those already present count as neither.

    Returns:
        How many pictures were encoded.
    """
    # By key: a picture that many records share is encoded once.
    absent = {picture.feature_key: picture for picture in pictures if picture.feature_key not in cache}
    if not absent:
        return 0
    cache.lock(wait=True)
    was_training = encoder.training
    try:
        absent = {key: picture for key, picture in absent.items() if key not in cache}
        encoder.eval()
        frozen = encoder.folded() if hasattr(encoder, "folded") else encoder
        skipped: dict[str, str] = {}
        done = 0
        for batch in encode_all(frozen, absent.items(), prepare, batch_size):
            for key, vectors in batch.vectors.items():
                cache.write(key, vectors, batch.grids[key])
            cache.flush()
            skipped |= batch.skipped
            done += len(batch.vectors) + len(batch.skipped)
            if progress is not None:
                progress(done, len(absent))
    finally:
        encoder.train(was_training)
        cache.close()
    if skipped:
        first = "; ".join(f"{key}: {fault}" for key, fault in list(skipped.items())[:3])
        warnings.warn(f"{len(skipped)} of {done} pictures could not be prepared: {first}", stacklevel=2)
    return done - len(skipped)
