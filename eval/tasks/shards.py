"""Questions from benchmark shards in the record format, and a task made of any of them.

In: a .tar, a folder of them, a brace pattern or a manifest (data/shards.py). Out: a sequence of Questions, read from
the disk when asked for, so that a benchmark with large pictures does not have to fit in memory. Benchmarks that have a name
lie in one folder, each in a folder of its name, as `vlm eval prepare` writes them.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from data.remote import public_url
from data.sample import BadRecord, Question, parse_question
from data.shards import MANIFEST, ShardSet, open_shards
from eval.metrics import best_token_f1, exact_figures, exact_match
from eval.outcome import from_answers
from eval.task import Mode, Task, fault, own_group
from eval.truth import against_answers

BENCHMARKS = "CONCEPTVLM_BENCHMARKS"


class ShardQuestions(Sequence[Question]):
    """The usable records of a shard set, in stored order; `skipped` says which others there are, and why.

    Raises:
        ValueError: not one record is a question that can be put in this mode.
    """

    def __init__(self, shards: ShardSet, mode: Mode, source: str) -> None:
        self._shards = shards
        self._usable: list[int] = []
        skipped: list[str] = []
        for place in range(len(shards)):
            key, members = shards.read(place)
            try:
                reason = fault(parse_question(key, members), mode)
            except BadRecord as error:
                skipped.append(str(error))
                continue
            if reason is None:
                self._usable.append(place)
            else:
                skipped.append(f"record {key!r}: {reason}")
        self.skipped = tuple(skipped)
        if not self._usable:
            first = f"; the first: {skipped[0]}" if skipped else ""
            raise ValueError(f"{source}: none of {len(shards)} records is a question for mode {mode}{first}")

    def __len__(self) -> int:
        return len(self._usable)

    @overload
    def __getitem__(self, index: int) -> Question: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Question]: ...
    def __getitem__(self, index: int | slice) -> Question | Sequence[Question]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return parse_question(*self._shards.read(self._usable[index]))


def read_questions(source: str | Path, mode: Mode) -> ShardQuestions:
    """The questions of `source` that can be put in this mode. A shard that cannot be read is a BadShard error."""
    return ShardQuestions(open_shards(source), mode, str(source))


def require_all_usable(questions: Sequence[Question], source: str | Path, advice: str = "mend the records") -> None:
    """Raise ValueError where records were left out: the first by name, how many more, and what to do."""
    skipped = getattr(questions, "skipped", ())
    if skipped:
        more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
        raise ValueError(f"{source}: {skipped[0]}{more}; {advice}")


def benchmarks_folder() -> Path:
    """Where prepared benchmarks lie: the environment variable CONCEPTVLM_BENCHMARKS, else ./benchmarks."""
    return Path(os.environ.get(BENCHMARKS) or "benchmarks").expanduser()


@dataclass(frozen=True)
class Benchmark:
    """The questions of FOLDER/NAME as `vlm eval prepare NAME` wrote them. Called, it reads them; none is left out."""

    name: str  # of the task and of its folder
    mode: Mode = "generate"

    def __call__(self) -> Sequence[Question]:
        self.require()
        folder = benchmarks_folder() / self.name
        questions = read_questions(folder, self.mode)
        if questions.skipped:
            raise ValueError(
                f"task {self.name}: {len(questions.skipped)} records of {folder} cannot be used, the first: "
                f"{questions.skipped[0]}; a score on the others is none of this benchmark; take the folder away and "
                f"prepare it again: {self.command}"
            )
        return questions

    def require(self) -> None:
        """Refuse, without reading much, where nothing was prepared.

        Raises:
            ValueError: gives the command that prepares it.
        """
        folder = benchmarks_folder() / self.name
        if not (folder / MANIFEST).is_file():
            raise ValueError(
                f"task {self.name} has no shards in {folder}; make them of the official release: {self.command} "
                f"(another place: --benchmarks, or {BENCHMARKS})"
            )

    @property
    def command(self) -> str:
        """What makes the shards."""
        return f"vlm eval prepare {self.name} --from FOLDER"


def shards_task(
    source: str | Path,
    mode: Mode,
    name: str | None = None,
    prompt: str = "{question}",
    max_new_tokens: int = 16,
) -> Task:
    """A task made of any benchmark shards.

    Score, choose: share of questions whose right choice got the highest sum of log-probabilities. Score, generate: word
    F1 of the answer's first line against the answer that fits best; the share of exact matches is in the details.
    Records that share a `group` count as one draw for the interval.

    Args:
        source: a .tar, a folder, a brace pattern or a dataset.json.
        mode: "choose" between the records' choices, or "generate" and compare with their answers.
        name: of the task and of its folder; "shards/<file name>" if not given.
    """
    return Task(
        name=name if name is not None else task_name_of(source, "shards"),
        questions=lambda: read_questions(source, mode),
        source=None if "://" in str(source) else str(Path(source).expanduser().absolute()),
        mode=mode,
        prompt=prompt,
        metric=against_answers(exact_match if mode == "choose" else best_token_f1),
        summary=None if mode == "choose" else from_answers(exact_figures),
        group_by=own_group,
        max_new_tokens=max_new_tokens,
    )


def task_name_of(source: str | Path, kind: str) -> str:
    """KIND/FILE, a name that can be a folder's; of a URL nothing that may be secret."""
    path = Path(public_url(source) if isinstance(source, str) and "://" in source else source)
    stem = path.parent.name if path.name == "dataset.json" else path.name.removesuffix(".tar")
    return f"{kind}/{re.sub(r'[^A-Za-z0-9_]+', '-', stem).strip('-') or 'questions'}"
