"""Language of a text, by its letters and its most frequent words.

It tells the languages of the table and the scripts below apart, in texts of a few sentences. It
cannot tell relatives apart that the table does not have (Afrikaans is taken for Dutch, Swiss German
for German), nor parts of a text in another language; where it is not sure it says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from runner.training.checks.thresholds import LANGUAGE_HITS, LANGUAGE_WORDS

NAMES = (
    *("", "English", "German", "French", "Spanish", "Italian", "Portuguese", "Dutch", "Polish"),
    *(
        "Swedish",
        "Danish or Norwegian",
        "Catalan",
        "Turkish",
        "Cyrillic script",
        "Greek",
        "Arabic script",
        "Hebrew",
        "Chinese",
    ),
    *("Japanese", "Korean", "Thai", "an Indian script"),
)
"""A language's number is its place here; 0: not known."""

_FREQUENT = {
    "English": "the of and to in is that for it as was with be by on not or are from at this which "
    "have an has you if any shall such may your can will were been their there these all must",
    "German": "der die das und in den von zu mit sich des auf für ist im dem nicht ein eine als "
    "auch es an werden aus er hat dass sie nach wird bei einer um am sind noch wie einem über "
    "einen oder so zum haben nur durch vor bis wenn kann dieser dürfen muss darf ihre ihr",
    "French": "le la les de des du et un une est dans que qui pour pas sur par plus avec ne ce il "
    "au aux sont cette ou se son sa ses être nous vous leur mais tout fait été ces lui même doit",
    "Spanish": "el la los las de del y en un una que es por con para su se no al lo como más pero "
    "sus le ha este esta entre cuando muy sin sobre también hasta hay donde puede debe son fue ser",
    "Italian": "il lo la gli le di del della dei delle e è un una che in per non con si da al alla "
    "come più nel nella sono anche ma suo sua questo questa essere o ha dal dalla deve può",
    "Portuguese": "o os as de do da dos das e em um uma que é por com para não se no na nos nas ao "
    "à como mais mas seu sua ou ser são foi pelo pela entre também quando muito deve pode",
    "Dutch": "de het een en van in is dat op te zijn met voor niet aan er om ook als bij maar uit "
    "door naar dan nog wel worden wordt deze dit heeft kan over of zich die tot werd moet hun",
    "Polish": "i w na z do się nie to że jest o jak po od za przez dla przy oraz ale są który "
    "która które być lub może tym tego jego czy już tylko także został należy ich co by",
    "Swedish": "och i att det som en på är av för med till den har de inte om ett vi men var jag "
    "från kan när så eller man ska vid efter också under sig detta skall där",
    "Danish or Norwegian": "og ikke er til af fra hvis også efter etter skal et at være må jeg "
    "hvor blev ble den det som på med kan har for de en i eller når dette disse man ved",
    "Catalan": "el la els les i de del dels un una que és per amb no al com més però aquest "
    "aquesta són ha fins també hi si pel pels es seu seva ser sense quan ha on molt cada",
    "Turkish": "ve bir bu için ile da de olarak olan gibi daha çok en ne kadar sonra ancak veya "
    "ya her o ise göre değil tarafından üzerinde olduğu var ki",
}
_LANGUAGES_OF: dict[str, tuple[int, ...]] = {}
for _name, _words in _FREQUENT.items():
    for _word in dict.fromkeys(_words.split()):
        _LANGUAGES_OF[_word] = (*_LANGUAGES_OF.get(_word, ()), NAMES.index(_name))
_KNOWN = frozenset(_LANGUAGES_OF)

_SCRIPTS = {
    "Japanese": "\u3040-\u30ff",  # kana; before Chinese, whose characters it uses as well
    "Korean": "\uac00-\ud7af",
    "Chinese": "\u4e00-\u9fff",
    "Cyrillic script": "\u0400-\u04ff",
    "Greek": "\u0370-\u03ff",
    "Arabic script": "\u0600-\u06ff",
    "Hebrew": "\u0590-\u05ff",
    "Thai": "\u0e00-\u0e7f",
    "an Indian script": "\u0900-\u0d7f",
}
_SCRIPT = [(NAMES.index(n), re.compile(f"[{span}]")) for n, span in _SCRIPTS.items()]
_FOREIGN = re.compile("[\u0370-\u1fff\u3040-\ud7af]")
_START = 2000  # characters that are looked at
_WORDS = 120  # the same in words: more tell nothing new
_SCRIPT_SHARE = 0.3  # of a text's characters; a quotation has fewer
_KANA_SHARE = 0.05  # Japanese mixes kana among Chinese characters
_LEAD = 1.5  # times the hits of the next language


def language(text: str, words: Sequence[str]) -> int:
    """Give the number of a text's language; 0: not sure.

    Args:
        text: the text.
        words: its words in small letters, parted at blanks.
    """
    if not _is_western(text) and _FOREIGN.search(text) and (script := _script(text[:_START])):
        return script
    if len(words) < LANGUAGE_WORDS.value:
        return 0
    hits = [0] * len(NAMES)
    for word in _KNOWN.intersection(words[:_WORDS]):
        for number in _LANGUAGES_OF[word]:
            hits[number] += 1
    best = max(hits)
    found = hits.index(best)
    hits[found] = 0
    return found if best >= LANGUAGE_HITS.value and best >= _LEAD * max(hits) else 0


def _is_western(text: str) -> bool:
    """Tell text without letters of another script, ten times as fast as the pattern does."""
    for encoding in ("latin-1", "cp1252"):  # the first is ten times as fast, and most often right
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            continue
        return True
    return False


def _script(text: str) -> int:
    """Tell a script that most of a text is written in."""
    letters = sum(map(str.isalpha, text))
    for number, pattern in _SCRIPT:
        share = _KANA_SHARE if NAMES[number] == "Japanese" else _SCRIPT_SHARE
        if len(pattern.findall(text)) > share * letters:
            return number
    return 0
