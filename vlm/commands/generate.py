"""`vlm generate`: answer a prompt about pictures, with a trained model."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.sample import Part
    from data.text import Row
    from vlm.model import VisionLanguageModel

MARK = "{image}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--model", required=True, type=Path, metavar="FOLDER", help="folder of a trained model")
    parser.add_argument(
        "--prompt", required=True, help=f"what to ask; {MARK} says where a picture stands, else they come first"
    )
    parser.add_argument(
        "--image", action="append", default=[], type=Path, metavar="FILE", help="a picture; may be given several times"
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=64, metavar="N", help="length of the answer at most (default: 64)"
    )
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="0 takes the likeliest token each time (default); above 0 draws"
    )
    parser.add_argument(
        "--top-p", type=float, metavar="SHARE", help="draw among the likeliest tokens of this share of probability"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: cuda where there is one)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the answer alone")


def run(args: argparse.Namespace) -> int:
    """Print the answer; every fault of the user's input is a ValueError."""
    from vlm.inference.generate import generate
    from vlm.inference.load import load_model
    from vlm.model_folder import require_model_folder

    require_model_folder(args.model)
    images = {f"{place}{path.suffix.lower() or '.png'}": read_picture(path) for place, path in enumerate(args.image)}
    content = prompt_parts(args.prompt, list(images))
    model = load_model(args.model, args.device)
    row = prompt(model, content, images, dict(zip(images, args.image, strict=True)))
    said = generate(model, [row], args.max_new_tokens, temperature=args.temperature, top_p=args.top_p, seed=args.seed)[
        0
    ]
    if args.json:
        facts = {
            "answer": said.text,
            "ended": said.ended,
            "logprob": sum(said.logprobs),
            "prompt_tokens": len(row),
            "answer_tokens": len(said.ids),
        }
        print(json.dumps(facts, ensure_ascii=False))
    else:
        print(said.text)
        if not said.ended:
            print(f"(cut off after {len(said.ids)} tokens; raise --max-new-tokens for more)", file=sys.stderr)
    return 0


def read_picture(path: Path) -> bytes:
    """The bytes of a picture file.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read the picture {path}: {error.strerror or error}") from error


def prompt_parts(prompt: str, images: Sequence[str]) -> "tuple[Part, ...]":
    """Pictures where the prompt has marks, or else before it.

    Raises:
        ValueError: there are marks, but not one for each picture; or nothing is asked.
    """
    from data.sample import Part

    texts = prompt.split(MARK)
    if len(texts) == 1:
        texts = [""] * len(images) + texts
    if len(texts) != len(images) + 1:
        raise ValueError(
            f"the prompt has {len(texts) - 1} {MARK} marks but {len(images)} pictures were given; "
            "give one --image for each mark"
        )
    if not any(text.strip() for text in texts) and not images:
        raise ValueError("the prompt is empty; ask something with --prompt")
    parts: list[Part] = []
    for place, text in enumerate(texts):
        if text:
            parts.append(Part(text=text))
        if place < len(images):
            parts.append(Part(image=images[place]))
    return tuple(parts)


def prompt(
    model: "VisionLanguageModel", content: "Sequence[Part]", images: Mapping[str, bytes], files: Mapping[str, Path]
) -> "Row":
    """The prompt as the model reads it, every picture tried.

    Raises:
        ValueError: names the file that is no usable picture, or says that the model takes none.
    """
    from data.image import prepare_image
    from data.sample import BadRecord
    from data.text import prompt_row

    if images and model.layout is None:
        raise ValueError("this model has no vision encoder and takes no pictures; leave --image out")
    for name, data in images.items():
        assert model.layout is not None
        try:
            prepare_image(data, model.layout.spec)
        except BadRecord as error:
            raise ValueError(f"{files[name]}: {error}") from error
    return prompt_row(content, images, model.tokenizer, model.layout)
