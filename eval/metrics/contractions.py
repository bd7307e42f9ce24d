"""The contractions that the VQA normalisation restores, as its code lists them (GT-Vision-Lab/VQA; 120 entries).

The list follows two rules and has three exceptions, so the rules are written here rather than the pairs. The four that
begin with a capital are in the official list too, though text is lower-case before it is looked up.
"""

# The spelling without its apostrophe becomes the spelling with it.
_ONE_APOSTROPHE = """
'twas I'm I've ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll
how's isn't it'd it'll ma'am might've mightn't must've mustn't needn't not've o'clock oughtn't shan't should've
shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're
there's they'd they'll they're they've wasn't we've weren't what'll what're what's what've when's where'd where's
where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""

# The spelling that lacks exactly one of its apostrophes becomes the full one.
_MORE_APOSTROPHES = """
'ow's'at I'd've couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've
something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'd've y'all'll you'd've
"""

# The first loses its apostrophe, the others stay: that is how the official list has them.
_EXCEPTIONS = {"somebody'd": "somebodyd", "let's": "let's", "she's": "she's"}


def _drop_one(word: str) -> list[str]:
    return [word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'"]


CONTRACTIONS: dict[str, str] = (
    {word.replace("'", ""): word for word in _ONE_APOSTROPHE.split()}
    | {spelling: word for word in _MORE_APOSTROPHES.split() for spelling in _drop_one(word)}
    | _EXCEPTIONS
)
