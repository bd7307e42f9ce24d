"""Which words are English, and which texts are fit to be shown: the filters shared by captions and glosses."""

import re
from pathlib import Path

FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the of in on at to for from with without by and or is are was it its this that as be his her their "
        "into over under up down out off no not one two three four five",
    )
)
# Titles that name a collection, a tool or a person instead of what is drawn; weapons, religion and dated stereotypes.
UNFIT = re.compile(
    r"collection|theme|\bsvg\b|part of|hash\(|http|www|@|copyright|clip ?art|inkscape|librar(y|ies)$|untitled|unnamed"
    r"|logo|\bicon|\btest|symbol[_ ]signs|\beps\b|\bpng\b|converted|creative commons|licen[sc]e|\btux\b|linux|gnome"
    r"|\bguns?\b|rifle|pistol|weapon|\bbombs?\b|grenade|revolver|missile|nude|naked|sex|breast|vagina|penis|nazi"
    r"|swastika|hitler|marijuana|cannabis|heroin|cocaine|drunk|\bwhores?\b|prostitut|stripper|bikini|\brap(e|ist)\b|slave|negro"
    r"|\bsquaw|eskimo|oriental|gyps|\bjews?\b|jewish|muslim|christ\b|jesus|crucifi|islam|allah|moham|suicid|genocid"
    r"|homosexual|lesbian|copulat|coit|genital|\banal\b|\banus|feces|faeces|excre|urin|vulgar|obscen|offensive"
    r"|derogat|disparag|luther king|pantyhose|ethnic slur|torture|terroris|lynch|\bracis|\bwhiteness\b|\bblack person",
    re.IGNORECASE,
)


def read_lexicon(wordnet: Path) -> frozenset[str]:
    """Return every word of WordNet's indexes that stands alone there, lower case.

    Words that only come in phrases stay out: they let foreign ones in (`dente`, `de`).
    """
    words: set[str] = set()
    for part in ("noun", "verb", "adj", "adv"):
        for line in (wordnet / f"index.{part}").read_text(encoding="ascii").splitlines():
            if not line.startswith(" "):
                words.add(line.split(" ", 1)[0])
    return frozenset(words)


def is_english(text: str, lexicon: frozenset[str], share: float = 0.75) -> bool:
    """Say whether enough of the words are English, at least one of them more than a function word."""
    words = re.findall(r"[a-z']+", text.lower())
    known = [word for word in words if word in FUNCTION_WORDS or stems(word) & lexicon]
    content = [word for word in known if word not in FUNCTION_WORDS and len(word) > 2]
    return bool(content) and len(known) >= share * len(words)


def stems(word: str) -> set[str]:
    """Return the word and the forms it may be a plain inflection of."""
    forms = {word}
    for ending in ("s", "es", "ed", "ing", "'s", "d", "er"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            forms.add(word[: -len(ending)])
    return forms | {form + "e" for form in forms if form != word}
