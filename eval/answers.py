"""From what a model wrote to the answer that is scored; None where no answer can be read. Nothing is ever guessed.

Scoring an unread answer as a random option, as some harnesses do, hides a broken prompt: here it is wrong, and counted.
"""


def first_line(text: str) -> str | None:
    """The first line that holds anything, without blanks around it.

    Models that were not taught to stop go on with a question of their own on the next line.
    """
    return next((line.strip() for line in text.splitlines() if line.strip()), None)


def yes_no(text: str) -> str | None:
    """ "yes" or "no" if the first word of the first line is one of them, in any case, with punctuation around it."""
    line = first_line(text)
    if line is None:
        return None
    word = line.split()[0].strip(".,;:!?\"'()*").lower()
    return word if word in ("yes", "no") else None
