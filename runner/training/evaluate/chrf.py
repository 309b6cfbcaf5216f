"""chrF: how alike two texts are by their letter sequences, from 0 to 1 (Popović, 2015)."""

from __future__ import annotations

from collections import Counter

_ORDER = 6  # letters of the longest sequence, as the paper and every tool since
_BETA = 2.0  # recall counts twice as much as precision, likewise


def chrf(answer: str, reference: str) -> float:
    """Score one answer against the expected one; blanks do not count.

    Precision and recall of sequences of 1 to 6 letters, averaged over the lengths that both texts
    have, then joined; the figures are those of sacrebleu's chrF2.
    """
    said, wanted = "".join(answer.split()), "".join(reference.split())
    if not said and not wanted:
        return 1.0
    precision = recall = 0.0
    orders = 0
    for order in range(1, _ORDER + 1):
        mine, theirs = _sequences(said, order), _sequences(wanted, order)
        if not mine or not theirs:
            break
        shared = (mine & theirs).total()
        precision += shared / mine.total()
        recall += shared / theirs.total()
        orders += 1
    if not orders or not precision + recall:
        return 0.0
    precision, recall = precision / orders, recall / orders
    weight = _BETA**2
    return (1 + weight) * precision * recall / (weight * precision + recall)


def _sequences(text: str, order: int) -> Counter[str]:
    return Counter(text[at : at + order] for at in range(len(text) - order + 1))
