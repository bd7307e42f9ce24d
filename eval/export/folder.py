"""A folder that is written whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(place: Path, mark: str) -> Iterator[Path]:
    """A folder to write into, which becomes `place` at the end. An older one with the file `mark` in it is replaced.

    Raises:
        ValueError: `place` holds something else, or cannot be written.
    """
    if place.exists() and not (place / mark).is_file():
        raise ValueError(f"{place} is there and was not written by this command; name another folder, or take it away")
    partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if place.exists():
            shutil.rmtree(place)
        os.replace(partial, place)
    except OSError as error:
        raise ValueError(f"cannot write {place} ({error.strerror or error}); name another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
