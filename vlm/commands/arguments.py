"""Arguments that the commands which answer share: the model, and how its tokens are chosen (vlm/inference/sampling.py)."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlm.inference.sampling import Sampling

FIELDS = ("max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "stop", "seed")  # of Sampling


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and where it runs."""
    parser.add_argument("--model", required=True, type=Path, metavar="FOLDER", help="folder of a trained model")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: cuda where there is one)")


def add_sampling_arguments(parser: argparse.ArgumentParser, max_new_tokens: int = 64) -> None:
    """How an answer is drawn and where it ends.

    Args:
        max_new_tokens: the default.
    """
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--max-new-tokens",
        type=int,
        default=max_new_tokens,
        metavar="N",
        help=f"length of an answer at most (default: {max_new_tokens})",
    )
    group.add_argument(
        "--temperature", type=float, default=0.0, help="0 takes the likeliest token each time (default); above 0 draws"
    )
    group.add_argument("--top-k", type=int, metavar="N", help="draw among the N likeliest tokens")
    group.add_argument(
        "--top-p", type=float, metavar="SHARE", help="draw among the likeliest tokens of this share of probability"
    )
    group.add_argument(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="above 1 makes tokens that were there before less likely (default: 1)",
    )
    group.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end the answer before this text; may be given several times",
    )
    group.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")


def sampling_of(args: argparse.Namespace) -> "Sampling":
    """What the arguments say.

    Raises:
        ValueError: a value that makes no sense.
    """
    from vlm.inference.sampling import Sampling

    return Sampling(**{name: getattr(args, name) for name in FIELDS if name != "stop"}, stop=tuple(args.stop))
