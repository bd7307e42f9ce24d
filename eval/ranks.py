"""Several processes share a task without a word between them: each answers its part and keeps it in a file of its own.

In: RANK and WORLD_SIZE, as torchrun sets them. Out: `predictions.rank-R.jsonl` beside predictions.jsonl, into which rank 0 puts
them when all are there. There is no collective call, so no rank can hang in one while another still generates; a lock on a file
says that its rank is alive. A broken run goes on with any other number of processes.
"""

import fcntl
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eval.predictions import FILE_NAME, Prediction, PredictionWriter, read_predictions, write_predictions

POLL_S = 0.2
PATIENCE_S = 1800.0  # how long a rank that has not begun is waited for: it may be loading a large model


@dataclass(frozen=True)
class Place:
    """Which of how many processes this is."""

    rank: int = 0
    world: int = 1

    @classmethod
    def from_environment(cls) -> "Place":
        """As torchrun says; one process without it.

        Raises:
            ValueError: what it says cannot be.
        """
        texts = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        if not all(text.isdecimal() for text in texts) or int(texts[0]) >= int(texts[1]):
            raise ValueError(f"RANK is {texts[0]!r} and WORLD_SIZE {texts[1]!r}; needed 0 <= RANK < WORLD_SIZE")
        return cls(int(texts[0]), int(texts[1]))

    def owns(self, number: int) -> bool:
        """Whether question `number` of a task is this process's to answer."""
        return number % self.world == self.rank

    @property
    def file_name(self) -> str:
        """Where this process keeps its answers."""
        return FILE_NAME if self.world == 1 else f"predictions.rank-{self.rank}.jsonl"


def parts(folder: Path) -> list[Path]:
    """The files of ranks in a task's folder."""
    return sorted(folder.glob("predictions.rank-*.jsonl"))


def read_all(folder: Path) -> dict[str, Prediction]:
    """What any process of any run has answered, by key."""
    found = read_predictions(folder / FILE_NAME)
    for path in parts(folder):
        found |= read_predictions(path)
    return found


def merge(folder: Path) -> None:
    """Put the ranks' answers into predictions.jsonl; their files go."""
    ranks = parts(folder)
    if ranks:
        write_predictions(folder / FILE_NAME, read_all(folder).values())
        for path in ranks:
            path.unlink(missing_ok=True)


@contextmanager
def writer(folder: Path, place: Place) -> Iterator[PredictionWriter]:
    """This process's file, locked for as long as it is written.

    Raises:
        ValueError: another process writes it.
    """
    path = folder / place.file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{path} is being written by another evaluation; wait for it, or name another --out"
            ) from None
        with PredictionWriter(path) as opened:
            yield opened


def wait_for_all(
    folder: Path,
    place: Place,
    missing: Callable[[Mapping[str, Prediction]], Collection[int]],
    patience_s: float = PATIENCE_S,
) -> None:
    """Rank 0: return when nothing is missing any more, and the ranks' files are merged.

    Args:
        missing: of what is answered: the numbers of the questions that are not.
        patience_s: how long a rank is waited for that holds no lock on its file.

    Raises:
        ValueError: a rank ended, or never began, and has questions left.
    """
    quiet_since = {rank: time.monotonic() for rank in range(place.world)}
    while left := missing(read_all(folder)):
        now = time.monotonic()
        for rank in sorted({number % place.world for number in left}):
            if _is_locked(folder / Place(rank, place.world).file_name):
                quiet_since[rank] = now
            elif now - quiet_since[rank] > patience_s:
                own = sum(number % place.world == rank for number in left)
                raise ValueError(
                    f"rank {rank} has not answered {own} of its questions and has not been at work for {patience_s:.0f} s; "
                    "see its output; the same command goes on where it stopped"
                )
        time.sleep(POLL_S)
    merge(folder)


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
