"""The words of every question, several wordings of each; tests ask with the first one, which is also the commonest."""

from data.assets.draws import Draws

NAME = ("What is this?", "What does the picture show?", "Name this.", "What do you see?")
CATEGORY = ("What kind of thing is this?", "Which group does this belong to?", "What sort of thing do you see?")
TAGS = ("Name some tags.", "Which words go with this picture?", "Tag this picture.")
DETAILS = ("Say more precisely what this is.", "What is this, and of which kind?")
PRESENCE = ("Is there {a_label} in the picture?", "Can you see {a_label}?", "Does the picture show {a_label}?")
KIND = ("Is there any {label} in the picture?", "Can you see any {label}?", "Does the picture show any {label}?")
COUNT = ("How many times does {label} appear?", "Count the drawings of {label}.")
PLACE = ("Where is the {label}?", "In which part of the picture is the {label}?")
AT = ("What is at the {label}?", "Name the thing at the {label}.")
ALL = ("What is in the picture?", "Name everything in the picture.")
CAPTION = ("Describe the picture.", "Write a caption.", "What is drawn here?")


def with_article(label: str) -> str:
    """Return the label with `a` or `an`; none before a plural."""
    is_plural = label.endswith("s") and not label.endswith(("ss", "us", "is"))
    if is_plural:
        return label
    return f"an {label}" if label[0] in "aeiou" and not label.startswith(("uni", "eu", "one")) else f"a {label}"


def ask(wordings: tuple[str, ...], draws: Draws | None = None, label: str = "") -> str:
    """Return a question: the first wording half of the time, else any; always the first without `draws`."""
    wording = wordings[0] if draws is None or draws.below(2) == 0 else draws.choice(wordings)
    return wording.format(label=label, a_label=with_article(label) if label else "")
