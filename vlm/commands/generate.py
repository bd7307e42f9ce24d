"""`vlm generate`: put prompts, a folder of pictures or a JSONL file to a trained model (docs/generate.md)."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from vlm.commands.answers_file import write_line
from vlm.commands.arguments import add_model_arguments, add_sampling_arguments, sampling_of
from vlm.commands.requests import MARK

if TYPE_CHECKING:
    from vlm.commands.answers import Answers
    from vlm.commands.answers_file import Record
    from vlm.commands.requests import Asked
    from vlm.inference.generate import Piece
    from vlm.inference.sampling import Sampling
    from vlm.training.progress import Show

MOST = 2**31  # tokens or requests at once: more are a slip of the hand


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add_model_arguments(parser)
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        help=f"what to ask; {MARK} says where a picture stands, else they come first; may be given several times",
    )
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a picture; may be given several times: every prompt is about all of them",
    )
    parser.add_argument(
        "--images", nargs="+", metavar="FOLDER|GLOB", help="ask the prompt about each of these pictures by itself"
    )
    parser.add_argument(
        "--input", metavar="FILE.jsonl", help="requests, one JSON object a line; - reads standard input"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.jsonl",
        help="write the answers there, one JSON object a line; the same command again asks only what is missing",
    )
    parser.add_argument("--json", action="store_true", help="print JSON objects, one a line, instead of bare answers")
    parser.add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        help="print the answer to a single prompt as it comes (default: in a terminal)",
    )
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="requests answered at once (default: 64)")
    parser.add_argument(
        "--token-budget", type=int, default=8192, metavar="N", help="tokens held at once (default: 8192)"
    )
    add_sampling_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print or write the answers. 1 if a request failed; a fault of the arguments or of a single prompt is a ValueError."""
    from vlm.model_folder import require_model_folder

    check_arguments(args)
    require_model_folder(args.model)
    asked = collect(args, sampling_of(args))
    if args.output is not None:
        return write_answers(asked, args)
    if args.input is None and args.images is None and len(asked) == 1:
        return answer_one(asked[0], args)
    return print_answers(asked, args)


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse arguments that do not go together.

    Raises:
        ValueError: names them.
    """
    if args.input is not None:
        for name in ("prompt", "image", "images"):
            if getattr(args, name):
                raise ValueError(f"--{name} has no effect with --input, whose lines say what is asked; leave it out")
        if args.output is not None and args.output.resolve() == Path(args.input).resolve():
            raise ValueError(f"--output {args.output} is the --input; choose another file for the answers")
    elif not args.prompt:
        raise ValueError("nothing is asked; give --prompt, or --input with a file of requests")
    if args.images is not None and (len(args.prompt) > 1 or args.image):
        other = "one --prompt" if len(args.prompt) > 1 else "no --image"
        raise ValueError(f"--images goes with {other}: it asks one prompt about each picture; for more use --input")
    if args.json and args.output is not None:
        raise ValueError("--json has no effect with --output, which writes JSON; leave it out")
    if args.stream and (args.json or args.output or args.input or args.images or len(args.prompt) > 1):
        raise ValueError("--stream prints the bare answer to a single --prompt; leave it out")
    for name in ("batch", "token_budget"):
        if not 1 <= getattr(args, name) <= MOST:
            told = f"--{name.replace('_', '-')} must be at least 1 and at most {MOST}"
            raise ValueError(f"{told}, got {getattr(args, name)}")


def collect(args: argparse.Namespace, sampling: "Sampling") -> "list[Asked]":
    """The requests that the arguments name."""
    from vlm.commands.requests import ask_about_pictures, ask_lines, ask_prompts

    if args.input is not None:
        return ask_lines(args.input, sampling)
    if args.images is not None:
        return ask_about_pictures(args.images, args.prompt[0], sampling)
    return ask_prompts(args.prompt, args.image, sampling)


def answer_one(asked: "Asked", args: argparse.Namespace) -> int:
    """Print the answer to a single prompt, as it comes if that is wanted."""
    from vlm.commands.answers import Answers
    from vlm.commands.requests import contents
    from vlm.inference.load import load_model

    contents(asked)  # what is wrong with it should not wait for the model
    answers = Answers(load_model(args.model, args.device), [asked], args.token_budget, args.batch)
    is_streamed = args.stream if args.stream is not None else sys.stdout.isatty() and not args.json
    for _, record in pieces(answers, is_streamed):
        if record is None:
            continue
        if record["error"] is not None:
            raise ValueError(record["error"])
        if args.json:
            print(write_line(record), end="")
        elif not is_streamed:
            print(record["answer"])
        if record["finish"] == "length" and not args.json:
            told = f"(cut off after {record['answer_tokens']} tokens; raise --max-new-tokens for more)"
            print(told, file=sys.stderr)
    return 0


def pieces(answers: "Answers", is_streamed: bool) -> Iterator["tuple[Piece, Record | None]"]:
    """The pieces of an answer, shown as they come if that is wanted; the line that they make ends, come what may."""
    try:
        for piece, record in answers.pieces():
            if is_streamed:
                print(piece.text, end="\n" if record is not None else "", flush=True)
            yield piece, record
    except KeyboardInterrupt:
        if is_streamed:
            print(flush=True)
        raise


def print_answers(asked: "list[Asked]", args: argparse.Namespace) -> int:
    """Print the answers in the order of the requests, each as soon as those before it are there."""
    from vlm.commands.answers import Answers
    from vlm.inference.load import load_model

    answers = Answers(load_model(args.model, args.device), asked, args.token_budget, args.batch)
    waiting: dict[int, Record] = {}
    num_printed = 0
    with bar(len(asked)) as show:
        for piece, record in answers.pieces():
            if record is None:
                continue
            waiting[piece.index] = record
            while num_printed in waiting:
                print_record(waiting.pop(num_printed), args)
                num_printed += 1
            show(num_printed + len(waiting), len(asked))
    if answers.num_failed:
        print(f"vlm: {answers.num_failed} of {len(asked)} requests failed", file=sys.stderr)
    return 1 if answers.num_failed else 0


def print_record(record: "Record", args: argparse.Namespace) -> None:
    """One line for one request, also where it failed: the lines can be counted off against the requests."""
    if args.json:
        print(write_line(record), end="", flush=True)
        return
    answer = " ".join((record["answer"] or "").splitlines())
    names_requests = args.input is not None or args.images is not None
    print(f"{record['id']}\t{answer}" if names_requests else answer, flush=True)
    if record["error"] is not None:
        print(f"vlm: error: request {record['id']}: {record['error']}", file=sys.stderr)


def write_answers(asked: "list[Asked]", args: argparse.Namespace) -> int:
    """Write the answers to --output, but those that are there."""
    from vlm.commands.answers import Answers
    from vlm.commands.answers_file import AnswersFile, answered, model_key
    from vlm.commands.folders import require_writable
    from vlm.inference.load import load_model

    require_writable(args.output.resolve().parent, "--output")
    key = model_key(args.model)
    done = answered(args.output, asked, key)
    missing = [one for one in asked if str(one.id) not in done]
    # No model is loaded where nothing is asked; what is there may still have to be put in order.
    model = load_model(args.model, args.device) if missing else None
    num_failed = 0
    with bar(len(asked)) as show, AnswersFile(args.output) as file:
        show(len(done), len(asked))
        if model is not None:
            answers = Answers(model, missing, args.token_budget, args.batch, key)
            finished = (record for _, record in answers.pieces() if record is not None)
            for num_done, record in enumerate(finished, start=len(done) + 1):
                file.append(record)
                show(num_done, len(asked))
            num_failed = answers.num_failed
        file.sort(str(one.id) for one in asked)
    if num_failed:
        told = f"{num_failed} of {len(asked)} requests failed; {args.output} says why, and the same command asks"
        print(f"vlm: {told} them again", file=sys.stderr)
    return 1 if num_failed else 0


def bar(total: int) -> "AbstractContextManager[Show]":
    """A progress bar in a terminal, nothing elsewhere."""
    from vlm.training.progress import progress

    return progress("answers", total) if sys.stderr.isatty() else nullcontext(lambda done, total: None)
