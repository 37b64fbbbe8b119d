"""What an image is called: its second caption, and the concept it is split by."""

import hashlib
import re
from functools import cache
from pathlib import Path

# Beside English: CLDR has a label for every image in each of these.
LANGUAGES = (
    *("de", "es", "fi", "fr", "hi", "hu", "it", "ja", "ko"),
    *("nl", "pl", "pt", "ru", "sv", "th", "uk", "vi", "zh"),
)
SECOND_CAPTIONS = Path(__file__).with_name("second_captions.txt")

# One thing shown as a man, a woman or a person, or turned another way, is nearly the same image: all of
# these must lie in one split, or a model would meet the test images in training.
VARIANT_WORD = re.compile(
    r"(wo)?m[ae]n|person|people|(fe)?male|boy|girl"
    r"|left|right|up|down|(left|right|up|down)wards|(left|right)-facing|(up|down)-(left|right|down)|left-right"
    r"|oncoming"
)
# The same, where the label says it in other words: families by who is in them, clocks by their hands.
VARIANT_LABELS = [
    (r"^family(: |$)", "family"),
    (r"^(kiss|couple with heart)(: |$)", r"\1"),
    (r"holding hands$", "holding hands"),
    (r"^(breast-feeding|.* feeding baby)$", "feeding baby"),
    (r"^(person|man|woman)$", "person"),
    (r"^(child|boy|girl)$", "child"),
    (r"^old(er)? (person|man|woman)$", "old person"),
    (r"^(prince|princess|person with crown)$", "royalty"),
    (r"^mer(person|man|maid)$", "merperson"),
    (r" Claus$", "Claus"),
    (r"^(wo)?men\u2019s room$", "room"),
    (r"o\u2019clock$|-thirty$", "clock time"),
]

FLAG = "flag: "
FLAGS_WITH_THE = re.compile(
    r"Islands$|Republic$|Territory$|Territories$|Emirates$|Union$|Nations$|Kingdom$|States$|"
    r"^(Bahamas|Gambia|Maldives|Netherlands|Philippines|Isle of Man)$"
)
HOURS = ["twelve", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]
CHILDREN = {"boy": "son", "girl": "daughter"}


def concept(label: str) -> str:
    """The thing a label names, without who and which way.

    >>> concept("woman running"), concept("leftwards hand"), concept("man: beard")
    ('running', 'hand', 'beard')
    """
    for pattern, joined in VARIANT_LABELS:
        if match := re.search(pattern, label):
            return match.expand(joined)
    thing = re.sub(r"^(man|woman|person): ", "", label)
    return " ".join(word for word in thing.split() if not VARIANT_WORD.fullmatch(word))


def split_of(concept: str) -> str:
    """80 % of the concepts are "train", 10 % "validation" and 10 % "test", by the SHA-256 of their name."""
    digest = hashlib.sha256(f"fluent-emoji-3d {concept}".encode()).digest()
    return {8: "validation", 9: "test"}.get(int.from_bytes(digest[:8], "big") % 10, "train")


def second_caption(label: str) -> str:
    """A sentence a person might say about the image, where `label` is only its title.

    Raises a KeyError where neither `second_captions.txt` nor a rule knows the label.
    """
    if label.startswith(FLAG):
        return _flag(label.removeprefix(FLAG))
    if label.startswith("family: "):
        return _family(label.removeprefix("family: ").split(", "))
    if match := re.fullmatch(r"(.+?)(?: o\u2019clock|-(thirty))", label):
        hour = HOURS.index(match[1]) or 12
        return f"a round clock that shows {hour}:{'30' if match[2] else '00'}"
    if match := re.fullmatch(r"Japanese (“.+”) button", label):
        return f"a button with Japanese writing for {match[1]}"
    return _written_for(label)


@cache
def _written() -> dict[str, str]:
    lines = SECOND_CAPTIONS.read_text(encoding="utf-8").splitlines()
    pairs = (line.split(" | ") for line in lines if not line.startswith("#"))
    return {label: caption for label, caption in pairs}


def _flag(name: str) -> str:
    the = "the " if FLAGS_WITH_THE.search(name) else ""
    return f"the waving flag of {the}{name.replace(' & ', ' and ')}"


def _family(members: list[str]) -> str:
    """['man', 'woman', 'girl', 'girl'] is "a man and a woman with their two daughters"."""
    parents = [member for member in members if member not in CHILDREN]
    children = [CHILDREN[member] for member in members if member in CHILDREN]
    whose = {"man": "his", "woman": "her"}[parents[0]] if len(parents) == 1 else "their"
    young = (
        f"two {children[0]}s" if len(children) == 2 and len(set(children)) == 1 else " and ".join(children)
    )
    grown = {"man, man": "two men", "woman, woman": "two women"}.get(
        ", ".join(parents), " and ".join(f"a {parent}" for parent in parents)
    )
    return f"{grown} with {whose} {young}"


def _written_for(label: str) -> str:
    """What is written under the label itself, or, for "woman pilot", under "pilot" or "PERSON pilot"."""
    written = _written()
    who = re.search(r"\b(man|woman|person)\b", label)
    crowd = re.search(r"\b(men|women|people)\b", label)
    key = label
    if label not in written and who:
        key = label.replace(who[0], "PERSON", 1)
    elif label not in written and crowd:
        key = label.replace(crowd[0], "PEOPLE", 1)
    caption = written.get(key) or written[key.removeprefix("PERSON ")]
    return caption.replace("PERSON", who[0] if who else "person").replace(
        "PEOPLE", crowd[0] if crowd else "people"
    )
