"""Our models in lmms-eval: its requests in, texts or losses out. Imported by lmms-eval alone (vlm/interop/lmms_eval.py).

The harness hands over all requests at once, and stores nothing before it has all answers; so batching, order and what survives
a kill are our part (kept_answers.py).
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from loguru import logger

from vlm.inference.answer import ModelAnswerer
from vlm.inference.load import load_model
from vlm.interop.answer_journal import AnswerJournal
from vlm.interop.harness_requests import Prompt, prompt_of_messages, prompt_of_text
from vlm.interop.kept_answers import Job, KeptAnswers
from vlm.model_folder import require_model_folder
from vlm.training.progress import progress


@dataclass
class _Rounds:
    """A request of several rounds, in the making."""

    name: str
    doc: Any
    settings: dict[str, Any]
    next_round: Callable[..., Any]
    prompt: Prompt
    said: list[str]
    info: Any = None
    ended: bool = False


class ConceptVLM(lmms):
    """The simple form: a text and pictures. Also rates given answers (loglikelihood, multiple_choice).

    Args:
        pretrained: folder of a trained model.
        device: torch device; None takes the GPU where there is one, one for each process.
        batch_size: the most requests answered side by side; 1, the harness's default, leaves it to `token_budget`.
        token_budget: prompt and answer tokens held at once. Answers depend on neither.
        journal: folder where answers are kept; "off" keeps none. Default: `lmms-eval` beside the model's folder.

    Raises:
        ValueError: no model folder, or an argument that is not known.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | str | None = None,
        token_budget: int = 8192,
        journal: object = None,
        **others: object,
    ) -> None:
        super().__init__()
        if others:
            known = "pretrained, device, batch_size, token_budget, journal"
            raise ValueError(f"unknown model_args {', '.join(sorted(others))}; this model takes {known}")
        folder = Path(str(pretrained))
        require_model_folder(folder)
        self._rank, self._world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        model = load_model(folder, _device(device, self._world_size))
        self._place = model.embed.weight.device
        answerer = ModelAnswerer(model, token_budget=token_budget)
        self._size = 1 if str(batch_size).startswith("auto") else int(batch_size)
        off = str(journal).lower() in ("off", "false")
        place = None if off else Path(str(journal)) if journal else folder.resolve().parent / "lmms-eval"
        kept = AnswerJournal(place, answerer.fingerprint(), self._rank)
        if len(kept):
            logger.info(f"{len(kept):,} answers of earlier runs of this model are in {place}")
        self._answers = KeptAnswers(answerer, kept, self._size if self._size > 1 else None)

    @property
    def device(self) -> Any:
        """Where the model computes; the harness counts its requests there."""
        return self._place

    @property
    def batch_size(self) -> int:
        """For the harness's report."""
        return self._size

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """An answer for each request, in order.

        Raises:
            ValueError: requests that cannot be answered, after all others are: how many, and the first.
        """
        return self._write([self._job(one.args) for one in requests], "answers")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """The answers of all rounds of each request; a round of all requests is answered together."""
        rounds = [self._first_round(one.args) for one in requests]
        number = 0
        while asked := [one for one in rounds if not one.ended]:
            number += 1
            jobs = [Job(one.name, one.settings, partial(_itself, one.prompt)) for one in asked]
            for one, answer in zip(asked, self._write(jobs, f"answers of round {number}"), strict=True):
                one.said.append(answer.text)
                self._go_on(one, number)
        return [one.said for one in rounds]

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """How likely each given answer is, and whether the model would say it.

        For `multiple_choice` it is the loss, of which the harness takes the least; for `loglikelihood` the
        log-probability. Both are sums over the answer's tokens and the end token. The pair comes in a GenerationResult, as the
        harness makes a text of anything else.
        """
        groups: dict[tuple[Any, ...], list[int]] = {}
        for place, one in enumerate(requests):
            # Without the answer, and the function that gives the pictures: it is another object each time.
            groups.setdefault((one.args[0], *one.args[3:]), []).append(place)
        asked = [
            (partial(self._rated_prompt, requests[places[0]].args), [self._given(requests[p].args) for p in places])
            for places in groups.values()
        ]
        with progress("ratings", len(asked)) as show:
            rated = self._answers.rate(asked, show if self._rank == 0 else None)
        found: list[GenerationResult] = [None] * len(requests)
        for places, ratings in zip(groups.values(), rated, strict=True):
            for place, one in zip(places, ratings, strict=True):
                is_loss = not callable(requests[place].args[1])
                found[place] = GenerationResult((-one.logprob if is_loss else one.logprob, one.is_greedy))
        return found

    def _job(self, args: tuple[Any, ...]) -> Job:
        context, settings, doc_to_visual, number, task, split = args
        name = f"{task}/{split}/{number}"
        return Job(name, settings, lambda: prompt_of_text(name, context, doc_to_visual(self._doc(args))))

    def _first_round(self, args: tuple[Any, ...]) -> _Rounds:
        context, settings, doc_to_visual, doc_to_text, number, task, split = args
        name, doc = f"{task}/{split}/{number}", self._doc(args)
        return _Rounds(name, doc, settings, doc_to_text, prompt_of_text(name, context, doc_to_visual(doc)), [])

    def _go_on(self, one: _Rounds, number: int) -> None:
        """Ask the task for the next round."""
        told = one.next_round(one.doc, round_idx=number, previous_output=list(one.said), previous_round_info=one.info)
        visuals, text, one.ended, said, one.info = told
        one.said = list(one.said if said is None else said)
        if not one.ended:
            one.prompt = prompt_of_text(f"{one.name}, round {number + 1}", text, visuals)

    def _rated_prompt(self, args: tuple[Any, ...]) -> Prompt:
        if len(args) == 2:  # a choice by itself, for mutual information
            return prompt_of_text("no context", args[0], None)
        name = "{1}/{2}/{0}".format(*args[-3:])
        return prompt_of_text(name, args[0], args[2](self._doc(args)))

    def _given(self, args: tuple[Any, ...]) -> str:
        """The text that is rated, without the blank that the harness puts before it: our prompts end where it begins."""
        text = args[1](self._doc(args)) if callable(args[1]) else args[1]
        return str(text).removeprefix(" ")

    def _doc(self, args: tuple[Any, ...]) -> Any:
        number, task, split = args[-3:]
        return self.task_dict[task][split][number]

    def _write(self, jobs: Sequence[Job], what: str) -> list[GenerationResult]:
        with progress(what, len(jobs)) as show:
            said = self._answers.write(jobs, show if self._rank == 0 else None)
        if self._answers.unknown:
            names = ", ".join(sorted(self._answers.unknown))
            logger.warning(f"generation_kwargs that mean nothing to this model, left out: {names}")
        return [GenerationResult(str(one.output), TokenCounts(output_tokens=one.tokens)) for one in said]


class ConceptVLMChat(ConceptVLM):
    """The chat form: messages, pictures in their places. The harness only generates in this form."""

    is_simple = False

    def _job(self, args: tuple[Any, ...]) -> Job:
        _, doc_to_messages, settings, number, task, split = args
        name = f"{task}/{split}/{number}"
        return Job(name, settings, lambda: prompt_of_messages(name, doc_to_messages(self._doc(args))))

    def _first_round(self, args: tuple[Any, ...]) -> _Rounds:
        _, doc_to_messages, settings, number, task, split = args
        name, doc = f"{task}/{split}/{number}", self._doc(args)
        return _Rounds(name, doc, settings, doc_to_messages, prompt_of_messages(name, doc_to_messages(doc)), [])

    def _go_on(self, one: _Rounds, number: int) -> None:
        told = one.next_round(one.doc, round_idx=number, previous_output=list(one.said), previous_round_info=one.info)
        if not isinstance(told, tuple):  # a task of one round
            one.ended = True
            return
        messages, one.ended, said, one.info = told
        one.said = list(one.said if said is None else said)
        if not one.ended:
            one.prompt = prompt_of_messages(f"{one.name}, round {number + 1}", messages)


def _itself(prompt: Prompt) -> Prompt:
    return prompt


def _device(name: str | None, world_size: int) -> str | None:
    """With several processes, and no device named or only `cuda`: the GPU of this process."""
    import torch

    if world_size > 1 and name in (None, "cuda") and torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
    return name
