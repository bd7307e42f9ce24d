"""A conversation of several turns whose history stays in the cache: a turn reads its own tokens alone.

In: what the user says. Out: pieces of the answer. The tokens are those that `sample_row` gives for the same messages, so that
the model reads what it was trained on, in the project's own format or by a chat template. A turn that does not come to its
end, by an error, an interrupt or because its iterator is closed, has never been: the history is then read anew when the
next turn needs it.
"""

from collections.abc import Generator, Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from data.sample import Message, Part
from data.text import Row, join_rows, opening_row, token_row, turn_row
from data.tokenizer import Tokenizer
from vlm.backbone import Cache, Documents
from vlm.inference.decoding import Answer, choose_next, step_hidden
from vlm.inference.generate import Piece, Request, check_request, piece_of
from vlm.inference.pictures import PictureFeatures, answering
from vlm.inference.prompts import embed_prompts, next_time
from vlm.inference.sampling import Sampling
from vlm.model import VisionLanguageModel


class Conversation:
    """A user and the model.

    Args:
        model: its weights must stay as they are.
        system: what the model is told before the first turn; None says nothing.
        max_tokens: tokens that the conversation may come to; None: as many as the model has positions.

    Raises:
        ValueError: the system's text is empty, or does not fit.
    """

    def __init__(self, model: VisionLanguageModel, system: str | None = None, max_tokens: int | None = None) -> None:
        if system == "":
            raise ValueError("the system's text is empty; leave it out (None)")
        self._model = model
        self._pictures = PictureFeatures(model)
        self._max_tokens = model.config.backbone.max_positions if max_tokens is None else max_tokens
        self._rows: list[Row] = []  # how it begins, then each turn with its answer
        # What was said, which a chat template asks for; of the system one message, of each turn two.
        self._messages = [] if system is None else [Message("system", (Part(text=system),))]
        opening = opening_row(system, model.tokenizer)
        self._check(opening, 0)
        self._rows.append(opening)
        self._cache: Cache | None = None
        self._unread = opening  # what the cache does not hold yet; all where there is no cache
        self._speaking: Generator[Piece, None, None] | None = None

    @property
    def row(self) -> Row:
        """All that was said, as the model reads it; without a turn that is still being answered."""
        return join_rows(self._rows)

    @property
    def num_tokens(self) -> int:
        """Tokens of all that was said."""
        return sum(map(len, self._rows))

    @property
    def messages(self) -> tuple[Message, ...]:
        """All that was said, by whom."""
        return tuple(self._messages)

    @property
    def num_turns(self) -> int:
        """Turns of the user that were answered."""
        return len(self._rows) - 1

    def say(
        self, content: Sequence[Part], images: Mapping[str, bytes], sampling: Sampling | None = None
    ) -> Generator[Piece, None, None]:
        """Say something, and hear the answer as it comes; the last piece has the generation, and `index` counts turns.

        The turn counts once its last piece is there. An answer that was cut off is kept as far as its text goes.

        Args:
            content: the parts of this turn.
            images: the pictures that its parts name.
            sampling: None: greedy, 64 tokens at most.

        Raises:
            BadRecord: a picture is missing or cannot be read.
            ValueError: nothing is said, the model takes no pictures, or the conversation would get too long. Like all that
                goes wrong here, it leaves the conversation as it was.
        """
        self._be_silent()
        sampling = sampling or Sampling()
        if not any(part.image is not None or (part.text or "").strip() for part in content):
            raise ValueError("nothing is said in this turn; give a text or a picture")
        tokenizer, time = self._model.tokenizer, next_time(self._rows[-1])
        turn = turn_row(content, images, tokenizer, self._model.layout, time, self._messages)
        # One token more than the answer's: the end, which is added where the answer is cut off.
        self._check(turn, sampling.max_new_tokens + 1)
        check_request(self._model, Request(turn, sampling))
        with answering(self._model, self._pictures):
            self._pictures.prepare([turn])
        self._speaking = self._answer(tuple(content), turn, sampling)
        return self._speaking

    def undo(self) -> None:
        """Forget the last answered turn.

        Raises:
            ValueError: there is none.
        """
        self._be_silent()
        if len(self._rows) == 1:
            raise ValueError("there is no turn to undo; the conversation is at its beginning")
        del self._rows[-1], self._messages[-2:]
        self._forget()

    def reset(self) -> None:
        """Forget all turns; what the system says stays."""
        self._be_silent()
        del self._messages[len(self._messages) - 2 * self.num_turns :]
        del self._rows[1:]
        self._forget()

    def _be_silent(self) -> None:
        """Give up an answer that was not heard to its end; what goes on with its iterator gets no more of it."""
        if self._speaking is not None:
            self._speaking.close()
            self._speaking = None

    def _forget(self) -> None:
        """Read everything anew at the next turn."""
        self._cache, self._unread = None, self.row

    def _check(self, row: Row, new_tokens: int) -> None:
        """Refuse what is too long together with all before it. The end token is one of the new."""
        tokens, time = self.num_tokens + len(row) + new_tokens, next_time(row) + new_tokens
        has = self._model.config.backbone.max_positions
        for count, most, unit, who in (
            (tokens, self._max_tokens, "tokens", "it may"),
            (time, has, "positions", "the model can"),
        ):
            if count > most:
                raise ValueError(
                    f"the conversation would come to {count} {unit} with {len(row) + new_tokens} tokens more, but "
                    f"{who} have {most}; begin anew (reset), undo a turn, or ask for a shorter answer"
                )

    def _answer(self, content: tuple[Part, ...], turn: Row, sampling: Sampling) -> Generator[Piece, None, None]:
        model, index = self._model, self.num_turns
        answer = Answer(model, join_rows([*self._rows, turn]), sampling)
        try:
            with answering(model, self._pictures):
                hidden = self._read(turn)
            while answer.finish is None:
                with answering(model, self._pictures):
                    if answer.ids:
                        assert self._cache is not None
                        hidden = step_hidden(model, self._cache, [answer])
                    told = answer.take(*choose_next(model, hidden, [answer])[0])
                if answer.finish == "error":
                    raise ValueError(answer.error)
                if told and answer.finish is None:
                    yield Piece(index, told)
            self._keep(content, turn, answer)
        except BaseException:  # an interrupt, and the closing of this iterator, too
            self._forget()
            raise
        yield piece_of(index, answer, told)

    def _read(self, turn: Row) -> Float[Tensor, "1 d"]:
        """The vector of the last token, after all that was not read yet and the turn."""
        model = self._model
        packed = embed_prompts(model, [join_rows([self._unread, turn])], self._pictures)
        cache = model.backbone.new_cache(1, self._max_tokens) if self._cache is None else self._cache
        documents = Documents.from_lengths(packed.lengths, packed.x.device)
        hidden = model.backbone.prefill(packed.x, documents, cache, positions=packed.positions).hidden
        self._cache = cache
        return hidden[-1:]

    def _keep(self, content: tuple[Part, ...], turn: Row, answer: Answer) -> None:
        """Make the turn part of the history: the ids of what was heard, and the end token.

        The cache holds all ids but the last. After a stop string of several tokens that is more than was heard, and the
        history must be read anew.
        """
        tokenizer, time = self._model.tokenizer, next_time(turn)
        heard, read = _heard(answer, tokenizer), len(answer.ids) - 1
        rest = token_row([*heard[read:], tokenizer.stop], time + read) if heard[:read] == answer.ids[:read] else None
        self._rows.append(join_rows([turn, token_row([*heard, tokenizer.stop], time)]))
        self._messages += [Message("user", content), Message("assistant", (Part(text=answer.text),))]
        if rest is None:
            self._forget()
        else:
            self._unread = rest


def _heard(answer: Answer, tokenizer: Tokenizer) -> list[int]:
    """The ids of an answer's text: without the end token, or the stop that cut it."""
    ids, size = answer.ids, len(answer.text)
    if answer.finish != "stop":
        return ids[:-1] if answer.finish == "end" else ids
    for count in range(len(ids) - 1, -1, -1):
        text = tokenizer.decode(ids[:count])
        if text == answer.text:
            return ids[:count]
        if len(text) < size:
            break
    return tokenizer.encode(answer.text)  # the stop begins within a token
