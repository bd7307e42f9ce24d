"""`vlm chat`: talk with a trained model in the terminal, about pictures or not (docs/generate.md).

Lines come from standard input: a message, or a command such as `/image cat.png`. Answers go to standard output as they
come, what is wrong to standard error. Without a terminal no prompt is shown, so that a file of lines can be piped in.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlm.commands.arguments import add_model_arguments, add_sampling_arguments, sampling_of

if TYPE_CHECKING:
    from data.sample import Part
    from vlm.inference.generate import Generation
    from vlm.inference.sampling import Sampling
    from vlm.model import VisionLanguageModel

HELP = """\
/image PATH  put a picture before the next message, or where it says {image}; several are possible
/undo        forget the last message and its answer, or the picture that waits for the next one
/reset       forget all
/info        how much of the model's memory is used
/quit        leave (also Ctrl-D); Ctrl-C stops an answer
A message that starts with / needs a space before it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add_model_arguments(parser)
    parser.add_argument("--system", metavar="TEXT", help="what the model is told before the first message")
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="length of the whole talk at most (default: what the model can)"
    )
    add_sampling_arguments(parser, max_new_tokens=512)


def run(args: argparse.Namespace) -> int:
    """Talk until the user leaves."""
    from vlm.commands.requests import require_characters
    from vlm.inference.load import load_model
    from vlm.model_folder import require_model_folder

    require_model_folder(args.model)
    if args.system is not None:
        require_characters(args.system, "--system")
    sampling = sampling_of(args)
    chat = Chat(load_model(args.model, args.device), sampling, args.system, args.max_tokens)
    for line in lines():
        try:
            if not chat.take(line):
                break
        except ValueError as error:
            print(f"vlm: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    return 0


def lines() -> Iterator[str]:
    """What the user enters, until the end of it. Ctrl-C drops a line that is being typed."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    import readline  # noqa: F401  arrow keys and history for input()

    print("/help lists the commands", file=sys.stderr)
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n(/quit or Ctrl-D to leave)")


class Chat:
    """A conversation, and the pictures that go with its next message."""

    def __init__(
        self, model: "VisionLanguageModel", sampling: "Sampling", system: str | None, max_tokens: int | None
    ) -> None:
        from vlm.inference.conversation import Conversation

        most = model.config.backbone.max_positions
        if max_tokens is not None and max_tokens > most:
            raise ValueError(
                f"--max-tokens is {max_tokens}, but the model has {most} positions; give less, or leave it out"
            )
        if max_tokens is not None:
            needed = _least_tokens(model, system)
            if max_tokens < needed:
                raise ValueError(
                    f"--max-tokens is {max_tokens}, but the shortest message and an answer of one token need {needed}; "
                    "give more, or leave it out"
                )
        self._model, self._sampling = model, sampling
        self._conversation = Conversation(model, system=system, max_tokens=max_tokens)
        self._max_tokens = most if max_tokens is None else max_tokens
        self._images: dict[str, bytes] = {}
        self._num_asked = 0

    def take(self, line: str) -> bool:
        """Do what a line says; False when the user leaves.

        Raises:
            ValueError: it cannot be done; the conversation is as it was.
        """
        if not line.startswith("/"):
            if line.strip():
                self._say(line.strip())
            return True
        name, _, rest = line.strip().partition(" ")
        if name == "/image":
            self._attach(rest.strip())
        elif rest:
            raise ValueError(f"{name} stands alone, got {rest!r}; /help lists the commands")
        elif name == "/undo":
            self._undo()
        elif name == "/reset":
            self._conversation.reset()
            self._images = {}
        elif name == "/help":
            print(f"{HELP}\n{self._used()}", flush=True)
        elif name == "/info":
            print(self._used(), flush=True)
        elif name != "/quit":
            raise ValueError(f"unknown command {name}; /help lists the commands")
        return name != "/quit"

    def _attach(self, text: str) -> None:
        from vlm.commands.requests import picture_fault, read_picture

        if not text:
            raise ValueError("/image needs the path of a picture")
        if self._model.layout is None:
            raise ValueError("this model has no vision encoder and takes no pictures")
        # A file dragged into a terminal comes in quotes or with its spaces marked.
        is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        path = Path(os.path.expanduser(text[1:-1] if is_quoted else text.replace("\\ ", " ")))
        if fault := picture_fault([path]):
            raise ValueError(fault)
        self._images[f"{len(self._images)}{path.suffix.lower() or '.png'}"] = read_picture(path)

    def _undo(self) -> None:
        if self._images:
            self._images.popitem()
        else:
            self._conversation.undo()

    def _say(self, text: str) -> None:
        from vlm.commands.requests import prompt_parts

        content = prompt_parts(text, list(self._images))
        # Another seed for each message: the same question asked again after /undo gets another draw.
        seed = (self._sampling.seed + self._num_asked) % 2**63
        room = self._room(content)
        sampling = replace(self._sampling, seed=seed, max_new_tokens=min(self._sampling.max_new_tokens, room))
        self._num_asked += 1
        said: Generation | None = None
        try:
            for piece in self._conversation.say(content, self._images, sampling):
                print(piece.text, end="", flush=True)
                said = piece.generation
        except KeyboardInterrupt:
            print(flush=True)
            print("(stopped; the message and its answer are forgotten)", file=sys.stderr, flush=True)
            return
        print(flush=True)
        self._images = {}
        if said is not None and said.finish == "length":
            is_full = sampling.max_new_tokens == room
            more = "the talk has no more room: /reset begins anew" if is_full else "raise --max-new-tokens for more"
            print(f"(cut off after {len(said.ids)} tokens; {more})", file=sys.stderr, flush=True)

    def _room(self, content: "Sequence[Part]") -> int:
        """Tokens that an answer to this message may have.

        Raises:
            ValueError: none.
        """
        from data.text import turn_row
        from vlm.inference.prompts import next_time

        model, used = self._model, self._conversation.num_tokens
        said = self._conversation.messages
        turn = turn_row(content, self._images, model.tokenizer, model.layout, next_time(self._conversation.row), said)
        # Positions end too; a picture may take fewer of them than it has tokens. The end token needs one of both.
        room = min(self._max_tokens - used - len(turn), model.config.backbone.max_positions - next_time(turn)) - 1
        if room < 1:
            way = "/reset begins anew, /undo forgets the last message" if self._conversation.num_turns else "say less"
            raise ValueError(
                f"the talk has {used} tokens and may have {self._max_tokens}, which leaves no room for an answer to a "
                f"message of {len(turn)}; {way}"
            )
        return room

    def _used(self) -> str:
        return f"({self._conversation.num_tokens:,} tokens of {self._max_tokens:,} used)"


def _least_tokens(model: "VisionLanguageModel", system: str | None) -> int:
    """What a talk needs: its opening, the shortest message, an answer of one token and its end."""
    from data.sample import Message, Part
    from data.text import opening_row, turn_row

    said = [Message("system", (Part(text=system),))] if system else []
    shortest = turn_row((Part(text="?"),), {}, model.tokenizer, model.layout, 0, said)
    return len(opening_row(system or None, model.tokenizer)) + len(shortest) + 2
