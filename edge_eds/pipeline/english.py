"""Is a text English? By its script and its small words; no model, and a doubt counts as English.

Not English are
    letters of which at least 30 % are not Latin (5 letters or more),
    12 words or more of which less than 6 % are among the commonest small words of English,
    6 words or more with at least 3 small words of other European languages, and more than English ones.
Code fences, addresses and words with capitals do not count. Short answers, lists of things and formulas pass.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

MIN_LETTERS = 5
MAX_OTHER_SCRIPT = 0.3
MIN_WORDS_TO_JUDGE = 12
MIN_SMALL_SHARE = 0.06
MIN_WORDS = 6
MIN_FOREIGN = 3
MAX_CHARACTERS = 2000  # of a text are looked at

_SMALL_WORDS = """
    the a an and or but of to in on at for with by from as if so i it is this that you we he she they them their there
    be been being are was were am do does did have has had can could will would should may might must not no your my
    our its his her me us what when where which who why how all any some more most than then one also about into up
    out i'm it's don't can't cannot you're that's sorry
"""
_FOREIGN_WORDS = """
    der das und ist nicht ein eine einen ich sie wir auf mit für von dem den zu zum im auch aber oder wie kann es
    le la les des une est et je vous nous pas pour dans avec sur que qui ce cette au aux du ne plus mais ou
    el los las una y es no puedo para con por en del al se su lo como pero más muy
    il gli che di è non per un con sono della questo posso mi si
    o os um uma não eu você em na com do da ao mais
    de het een van en niet ik dat met voor zijn op te aan
    og det jeg er ikke til som på att och är inte jag
    nie jest się w z na to że
"""
_SMALL = frozenset(_SMALL_WORDS.split())
_FOREIGN = frozenset(_FOREIGN_WORDS.split()) - _SMALL
_FENCE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_ADDRESS = re.compile(r"\S*[@./\\_]\S+")  # of mail, of pages, of files
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


def is_english(text: str) -> bool:
    """Whether the judge's phrases and words can be expected in this text."""
    text = _ADDRESS.sub(" ", _FENCE.sub(" ", text[:MAX_CHARACTERS])).replace("\u2019", "'")
    letters = {char: n for char, n in Counter(text).items() if char.isalpha()}
    n_letters = sum(letters.values())
    if n_letters < MIN_LETTERS:
        return True
    other = sum(
        n for char, n in letters.items() if not (char.isascii() or unicodedata.name(char, "").startswith("LATIN"))
    )
    if other >= MAX_OTHER_SCRIPT * n_letters:
        return False
    words = [word for word in _WORD.findall(text) if word.islower() or word.lower() in _SMALL]  # the others are names
    small = sum(word.lower() in _SMALL for word in words)
    foreign = sum(word.lower() in _FOREIGN for word in words)
    if len(words) >= MIN_WORDS and foreign >= MIN_FOREIGN and foreign > small:
        return False
    # a list of things has no small words, but a comma or a line end after nearly each of them
    listed = 3 * (text.count(",") + text.count("\n")) >= len(words)
    return listed or len(words) < MIN_WORDS_TO_JUDGE or small >= MIN_SMALL_SHARE * len(words)
