"""Answer what a harness asks, in chunks, each kept before the next begins; what was answered before is not asked again.

In: jobs, whose prompts are made when needed, so that not all pictures are in memory. Out: answers and ratings in order. An answer
is used again only for the same prompt, pictures, settings and model. Faulty requests are told of at the end, when all others
are kept.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from data.sample import BadRecord
from eval.predictions import Prediction
from vlm.inference.answer import ModelAnswerer
from vlm.inference.generate import MAX_SEQUENCES, Generation, Request, generate
from vlm.inference.sampling import Sampling
from vlm.inference.score import score
from vlm.interop.answer_journal import AnswerJournal
from vlm.interop.harness_requests import Prompt, key_of, sampling_of

CHUNK = 256  # requests between two writes to the disk: several times what is answered side by side
Show = Callable[[int, int], None]  # (done, total)
Some = TypeVar("Some")


@dataclass(frozen=True)
class Job:
    """A request for an answer."""

    name: str
    settings: Mapping[str, Any]  # generation_kwargs
    prompt: Callable[[], Prompt]


@dataclass(frozen=True)
class Rating:
    """What a model thinks of a given answer."""

    logprob: float  # the sum over its tokens and the end token
    is_greedy: bool  # the model would say exactly this


class KeptAnswers:
    """A model and what it answered.

    Args:
        max_sequences: requests answered side by side; None: as `vlm eval` does.

    Attributes:
        unknown: names of settings that mean nothing to this model, met so far.
    """

    def __init__(self, answerer: ModelAnswerer, journal: AnswerJournal, max_sequences: int | None = None) -> None:
        self._answerer, self._journal = answerer, journal
        self._max_sequences = MAX_SEQUENCES if max_sequences is None else max_sequences
        self.unknown: set[str] = set()

    def write(self, jobs: Sequence[Job], show: Show | None = None) -> list[Prediction]:
        """An answer to each job.

        Raises:
            ValueError: jobs that cannot be answered, after all others are: how many, and the first; or a setting that makes
                no sense.
        """
        answers: list[Prediction] = []
        faults: list[str] = []
        repeats: dict[str, int] = {}
        for chunk in _chunks(jobs, CHUNK):
            asked = [self._asked(job, repeats) for job in chunk]
            faults += self._write_new(asked)
            answers += [self._journal[key] for key, _, _ in asked if key in self._journal]
            if show is not None:
                show(len(answers) + len(faults), len(jobs))
        _refuse(faults, len(jobs))
        return answers

    def rate(
        self, groups: Sequence[tuple[Callable[[], Prompt], Sequence[str]]], show: Show | None = None
    ) -> list[list[Rating]]:
        """What the model thinks of each given answer to each prompt.

        Raises:
            ValueError: prompts that cannot be read, after all others are: how many, and the first.
        """
        found: list[list[Rating]] = []
        faults: list[str] = []
        for chunk in _chunks(groups, CHUNK):
            asked = [
                (prompt, self._keys(prompt, listed)) for prompt, listed in ((one(), texts) for one, texts in chunk)
            ]
            new = [(prompt, {k: text for k, text in keys if k not in self._journal}) for prompt, keys in asked]
            faults += self._rate_new([(prompt, missing) for prompt, missing in new if missing])
            for _, keys in asked:
                outputs = [self._journal[key].output for key, _ in keys if key in self._journal]
                found.append([Rating(float(out[0]), bool(out[1])) for out in outputs if isinstance(out, list)])
            if show is not None:
                show(len(found), len(groups))
        _refuse(faults, len(groups))
        return found

    def _asked(self, job: Job, repeats: dict[str, int]) -> tuple[str, Prompt, Sampling]:
        prompt = job.prompt()
        sampling, others = sampling_of(job.settings, job.name)
        self.unknown |= set(others)
        key = self._key(prompt, asdict(sampling))
        if sampling.temperature > 0:  # asked once more, it is another draw
            sampling, _ = sampling_of(job.settings, job.name, seed=repeats.setdefault(key, 0))
            repeats[key] += 1
            key = self._key(prompt, asdict(sampling))
        return key, prompt, sampling

    def _write_new(self, asked: Sequence[tuple[str, Prompt, Sampling]]) -> list[str]:
        """Answer and keep what is not kept yet; gives the faults."""
        new = {key: (prompt, sampling) for key, prompt, sampling in asked if key not in self._journal}
        faults: list[str] = []
        ready: dict[str, Request] = {}
        for key, (prompt, sampling) in new.items():
            try:
                ready[key] = Request(prompt.row(self._answerer.model), sampling)
            except ValueError as error:
                faults.append(str(error))
        kept = []
        for (key, request), said in zip(ready.items(), self._generate(list(ready.values())), strict=True):
            if said.error is not None:
                faults.append(said.error)
            else:
                name = request.row.sample_id
                kept.append(Prediction(name, False, key, said.text, not said.ended, len(said.ids)))
        self._journal.append(kept)
        return faults

    def _rate_new(self, todo: Sequence[tuple[Prompt, Mapping[str, str]]]) -> list[str]:
        """Rate and keep; gives the faults."""
        model, tokenizer = self._answerer.model, self._answerer.model.tokenizer
        if not todo:
            return []
        try:
            rows = [prompt.row(model) for prompt, _ in todo]
            values = score(
                model,
                rows,
                [list(new.values()) for _, new in todo],
                pictures=self._answerer.pictures,
                token_budget=self._answerer.token_budget,
            )
        except BadRecord as error:
            # One of the chunk cannot be read: one by one, the others still are.
            return [str(error)] if len(todo) == 1 else [fault for one in todo for fault in self._rate_new([one])]
        ids = [{key: [*tokenizer.encode(text), tokenizer.end] for key, text in new.items()} for _, new in todo]
        longest = [Sampling(max_new_tokens=max(map(len, one.values()))) for one in ids]
        said = self._generate([Request(row, sampling) for row, sampling in zip(rows, longest, strict=True)])
        faults = [one.error for one in said if one.error is not None]
        self._journal.append(
            [
                Prediction(prompt.name, False, key, [value, float(list(one.ids[: len(listed[key])]) == listed[key])])
                for (prompt, new), row, listed, one in zip(todo, values, ids, said, strict=True)
                if one.error is None
                for key, value in zip(new, row, strict=True)
            ]
        )
        return faults

    def _generate(self, requests: Sequence[Request]) -> list[Generation]:
        return generate(
            self._answerer.model,
            requests,
            pictures=self._answerer.pictures,
            token_budget=self._answerer.token_budget,
            max_sequences=self._max_sequences,
        )

    def _keys(self, prompt: Prompt, texts: Sequence[str]) -> list[tuple[str, str]]:
        return [(self._key(prompt, ["rate", text]), text) for text in texts]

    def _key(self, prompt: Prompt, how: object) -> str:
        return key_of(prompt.identity(), how, self._answerer.fingerprint())


def _refuse(faults: Sequence[str], total: int) -> None:
    if faults:
        raise ValueError(
            f"{len(faults)} of {total} requests could not be answered, so there is no score; the first: {faults[0]}"
        )


def _chunks(listed: Sequence[Some], size: int) -> Iterator[Sequence[Some]]:
    for start in range(0, len(listed), size):
        yield listed[start : start + size]
