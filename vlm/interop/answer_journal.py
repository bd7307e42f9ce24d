"""Answers kept as they come, for a harness that keeps none before its run ends.

In: answers by key; a key names all that an answer hangs on. Out: the answers of all earlier runs of this model, of any number
of ranks. Each process writes a file of its own, so that none waits for another.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from eval.predictions import Prediction, PredictionWriter, read_predictions


class AnswerJournal:
    """A folder with a folder for each model.

    Args:
        folder: None keeps answers for this process alone.
        fingerprint: of the model.
        rank: of this process.

    Raises:
        ValueError: a kept file cannot be read, or nothing can be written there.
    """

    def __init__(self, folder: Path | None, fingerprint: str, rank: int = 0) -> None:
        self._kept: dict[str, Prediction] = {}
        self._path: Path | None = None
        if folder is None:
            return
        place = folder / fingerprint
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"answers cannot be kept in {place} ({error.strerror}); name another folder with journal=FOLDER, "
                "or keep none with journal=off"
            ) from error
        for path in sorted(place.glob("answers-*.jsonl")):
            self._kept |= read_predictions(path)
        self._path = place / f"answers-{rank}-{os.getpid()}.jsonl"

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def __getitem__(self, key: str) -> Prediction:
        return self._kept[key]

    def append(self, answers: Sequence[Prediction]) -> None:
        """Keep answers; they are on the disk when this returns."""
        self._kept |= {one.key: one for one in answers}
        if self._path is not None and answers:
            with PredictionWriter(self._path) as writer:
                writer.append(answers)
