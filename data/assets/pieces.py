"""Read and write the committed pieces: small `.tar.gz` files of pictures, and lists of one JSON object a line.

Every byte that is committed is named in `checksums.json`, and is checked before it is used.
"""

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parent
MAX_PIECE_BYTES = 2 * 1024 * 1024


def write_piece(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a `.tar.gz` whose bytes depend on the members alone (no time, no owner).

    Raises:
        ValueError: the piece is above 2 MiB.
    """
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=9, mtime=0) as stream:
        stream.write(raw.getvalue())
    data = packed.getvalue()
    if len(data) > MAX_PIECE_BYTES:
        raise ValueError(
            f"{path.name} has {len(data)} bytes, the limit is {MAX_PIECE_BYTES}; split it into more pieces"
        )
    replace_file(path, data)


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one compact JSON object a line."""
    lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    replace_file(path, "".join(lines).encode())


def replace_file(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)


class Pieces:
    """The committed files, read with their checksums verified.

    Args:
        folder: where `checksums.json`, `lists/` and `pieces/` lie.
    """

    def __init__(self, folder: Path = ASSETS) -> None:
        self.folder = folder
        self.checksums: dict[str, str] = json.loads((folder / "checksums.json").read_text(encoding="utf-8"))

    def read(self, name: str) -> bytes:
        """Return one committed file's bytes.

        Raises:
            ValueError: the file's bytes are not the committed ones.
        """
        data = (self.folder / name).read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != self.checksums.get(name):
            raise ValueError(
                f"{self.folder / name} is damaged: SHA-256 {found}, committed {self.checksums.get(name)}; "
                "install the package again, or check the file out again"
            )
        return data

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return the objects of `lists/NAME.jsonl`."""
        return [json.loads(line) for line in self.read(f"lists/{name}.jsonl").decode().splitlines()]

    def members(self, prefix: str) -> dict[str, bytes]:
        """Return name -> bytes of every member of the pieces whose file name starts with `prefix`."""
        out: dict[str, bytes] = {}
        for name in sorted(self.checksums):
            if name.startswith(f"pieces/{prefix}"):
                with tarfile.open(fileobj=io.BytesIO(self.read(name)), mode="r:gz") as archive:
                    for info in archive:
                        stream = archive.extractfile(info)
                        assert stream is not None
                        out[info.name] = stream.read()
        return out

    def glosses(self) -> list[dict[str, Any]]:
        """Return the words and glosses of the text piece."""
        return [json.loads(line) for line in self.members("text")["glosses.jsonl"].decode().splitlines()]
