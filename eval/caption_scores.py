"""CIDEr, BLEU, ROUGE-L and METEOR of captions, by the scorers of pycocoevalcap, which all published figures come from.

In: one caption for each picture and several by people. Out: figures over the whole set. They are no means over
pictures: CIDEr weighs words by all references that are given (one picture alone gives 0), BLEU counts over all. So
gather first, then score; and never average over ranks, shards or subsets.
The scorers are pure Python. The tokenizer of the Penn Treebank that precedes them, and METEOR, need Java.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

METRICS = ("CIDEr", "BLEU", "ROUGE-L", "METEOR")
TOKENIZERS = ("ptb", "plain")
_PTB = ("the Penn Treebank tokenizer", 'or ask for tokenizer "plain", whose figures are not comparable')
# What the official wrapper drops. It lists "-LRB-" too, but the tokens are lower-case by then: "-lrb-" stays in captions.
_DROPPED = frozenset(("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", *".?!,:;-", "--", "..."))
_LINE_BREAKS = re.compile(r"[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_PLAIN_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_PLAIN_TOKEN = re.compile(
    r"(?<!\w)(?:[a-z]\.)+(?!\w)"  # u.s.a., and "table a." too
    r"|\b(?:st|mr|mrs|ms|dr|jr|vs|etc)\."
    r"|can(?=not\b)|not\b"
    r"|[^\W_]+(?=n't\b)|n't\b|'(?:s|m|d|re|ve|ll)\b"  # do n't, it 's
    r"|[od]'[^\W_]+"  # o'clock
    r"|[^\W_]+(?:[-.,:/_&][^\W_]+)*"  # t-shirt, 5.5, 10:30
    r"|--+|\.{3}|[!?]{2,}|\S"
)

Captions = Mapping[str, Sequence[str]]


def caption_scores(
    captions: Mapping[str, str],
    references: Captions,
    metrics: Sequence[str] = ("CIDEr", "BLEU", "ROUGE-L"),
    tokenizer: Literal["ptb", "plain"] = "ptb",
) -> dict[str, Any]:
    """Figures over a set of captions.

    Args:
        captions: picture -> the model's caption.
        references: picture -> those of people; the same pictures.
        metrics: of "CIDEr" (CIDEr-D), "BLEU" (1 to 4), "ROUGE-L", "METEOR".
        tokenizer: ptb: Stanford's, in Java; what papers use. plain: ours in Python, after the same rules; where no
            Java is. It agrees on plain captions and differs in rare signs; the result names it, and figures of both
            must not be compared.

    Returns:
        The figures by name ("CIDEr", "BLEU-1", ..., "ROUGE-L", "METEOR"; papers print them times 100), "tokenizer",
        "n", and "by_caption": for each metric the scores of the pictures in the order of `captions`.

    Raises:
        ValueError: no captions, pictures that differ, an unknown name, or Java or pycocoevalcap is missing.
    """
    _check(captions, references, metrics)
    require_scorers(metrics, tokenizer)
    scorers = _import_scorers(metrics)
    names = list(captions)
    said = {name: [captions[name]] for name in names}
    right = {name: list(references[name]) for name in names}
    tokenize = tokenize_ptb if tokenizer == "ptb" else tokenize_plain
    said, right = tokenize(said), tokenize(right)
    result: dict[str, Any] = {}
    by_caption: dict[str, list[float]] = {}
    for metric in metrics:
        figures, each = scorers[metric](right, said)
        if metric == "BLEU":
            result |= {f"BLEU-{n}": float(figure) for n, figure in enumerate(figures, start=1)}
            by_caption |= {f"BLEU-{n}": [float(one) for one in row] for n, row in enumerate(each, start=1)}
        else:
            result[metric] = float(figures)
            by_caption[metric] = [float(one) for one in each]
    return result | {"tokenizer": tokenizer, "n": len(names), "by_caption": by_caption}


def require_scorers(metrics: Sequence[str] = ("CIDEr", "BLEU", "ROUGE-L"), tokenizer: str = "ptb") -> None:
    """Refuse what could not be scored here, before anything is generated.

    Raises:
        ValueError: an unknown tokenizer, or Java or pycocoevalcap is missing.
    """
    if tokenizer not in TOKENIZERS:
        raise ValueError(f"unknown tokenizer {tokenizer!r}; known: {', '.join(TOKENIZERS)}")
    _import_scorers(metrics)
    if tokenizer == "ptb":
        _find_java(*_PTB)


def tokenize_ptb(texts: Captions) -> dict[str, list[str]]:
    """Lower-case Penn Treebank tokens with blanks between, punctuation dropped, by Stanford's tokenizer 3.4.1.

    Raises:
        ValueError: Java or pycocoevalcap, which holds the tokenizer, is missing, or Java fails.
    """
    java = _find_java(*_PTB)
    jar = Path(_module("pycocoevalcap.tokenizer.ptbtokenizer").__file__ or "").with_name("stanford-corenlp-3.4.1.jar")
    lines = [_LINE_BREAKS.sub(" ", text) for some in texts.values() for text in some]
    # Not the package's own wrapper: it writes into the package's folder, which may be read-only.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "captions.txt"
        file.write_bytes("\n".join(lines).encode("utf-8", errors="replace"))
        command = [java, "-Dfile.encoding=UTF-8", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
        done = subprocess.run([*command, "-preserveLines", "-lowerCase", str(file)], capture_output=True, check=False)
    if done.returncode:
        raise ValueError(f"the Penn Treebank tokenizer failed: {done.stderr.decode(errors='replace').strip()[-500:]}")
    found = done.stdout.decode("utf-8", errors="replace").split("\n")
    found += [""] * (len(lines) - len(found))
    kept = iter(" ".join(word for word in line.rstrip().split(" ") if word not in _DROPPED) for line in found)
    return {name: [next(kept) for _ in some] for name, some in texts.items()}


def tokenize_plain(texts: Captions) -> dict[str, list[str]]:
    """Tokens after the treebank's rules, in Python: words whole with inner hyphens, "n't", "'s" and the like apart."""
    dropped = _DROPPED | set('"“”‘—–…')  # which Stanford's writes as the treebank's quotes, dashes and periods
    return {
        name: [
            " ".join(
                _PLAIN_BRACKETS.get(w, w)
                for w in _PLAIN_TOKEN.findall(text.lower().replace("’", "'"))
                if w not in dropped
            )
            for text in some
        ]
        for name, some in texts.items()
    }


def _check(captions: Mapping[str, str], references: Captions, metrics: Sequence[str]) -> None:
    if not captions:
        raise ValueError("caption scores of no captions are not defined")
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown or not metrics:
        raise ValueError(f"unknown caption metric {', '.join(map(repr, unknown))}; known: {', '.join(METRICS)}")
    odd = set(captions) ^ set(references)
    if odd:
        raise ValueError(f"captions and references must be of the same pictures; {len(odd)} are not, like {min(odd)!r}")
    bare = next((name for name, some in references.items() if not some), None)
    if bare is not None:
        raise ValueError(f"picture {bare!r} has no reference caption")


def _module(name: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"caption scores need pycocoevalcap ({error}); pip install 'conceptvlm[eval]'") from error


def _find_java(what: str, instead: str) -> str:
    java = shutil.which("java")
    if java is None:
        raise ValueError(
            f"{what} needs Java, and there is no `java`; install one (Debian: default-jre-headless), {instead}"
        )
    return java


Scorer = Callable[[dict[str, list[str]], dict[str, list[str]]], tuple[Any, Any]]


def _import_scorers(metrics: Sequence[str]) -> dict[str, Scorer]:
    scorers: dict[str, Scorer] = {
        "CIDEr": lambda right, said: _module("pycocoevalcap.cider.cider").Cider().compute_score(right, said),
        "BLEU": lambda right, said: _module("pycocoevalcap.bleu.bleu").Bleu(4).compute_score(right, said, verbose=0),
        "ROUGE-L": lambda right, said: _module("pycocoevalcap.rouge.rouge").Rouge().compute_score(right, said),
        "METEOR": _meteor,
    }
    _module("pycocoevalcap.cider.cider")
    if "METEOR" in metrics:
        _find_java("METEOR", "or leave METEOR out")
    return scorers


def _meteor(right: dict[str, list[str]], said: dict[str, list[str]]) -> tuple[Any, Any]:
    meteor = _module("pycocoevalcap.meteor.meteor").Meteor()
    try:
        return meteor.compute_score(right, said)
    finally:
        process = meteor.meteor_p
        for pipe in (process.stdout, process.stderr):
            pipe.close()
        del meteor  # its own end closes the input and waits for Java
