"""Compare: next-token distributions of a form that is served with those of the trained adapter.

Each held-out row goes through the model alone, without padding. At its learned tokens the loss is
measured, and at as many of them as fit in memory the whole distribution is kept and compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.contract.handed_over import Figures
from runner.errors import RunnerError
from runner.training.evaluate.answers import autocast
from runner.training.fit.model import Machine

_KEPT_BYTES = 256 * 1024**2
"""Of host memory for the distributions: 512 places of Llama 3's 128,256 tokens, in fp32."""
_MOST_ROWS = 200  # an 8B on a card reads them in a minute; more would change the third digit
_AT_ONCE = 256
"""Places whose distributions are in memory at a time, in fp32: 131 MB of Llama 3's tokens, twice. A
row of 8,192 learned tokens at once would take 8 GB of a card that trained it in 12."""
_IGNORED = -100

LOSS_TOLERANCE = 0.02
"""How much higher the loss may be, as a share: rounding to bf16 cost 0.1% in our measurements, the
wrong base 85%."""
KL_TOLERANCE = 0.02  # nats a token; bf16 rounding costs about 0.0005, the wrong base 0.3
KEPT_TOLERANCE = 0.9
"""Share of what training changed that must still be there."""
INACTIVE = 0.5
"""Where less is kept, the form is nearer to the base without the adapter than to the adapter."""
_SAME_LOSS = 0.005  # as a share: less is no difference between two ways of merging
NO_CHANGE = 1e-6  # nats a token: an adapter that does so little does nothing
_LEAST = -1e4
"""Nats: a token that a model excludes (a logit of minus infinity) has this. Its share is 0 as well,
and the divergence stays a number."""


class NoNumbersError(RunnerError):
    """What a model says is no number (NaN): it must neither be served nor compared."""

    kind = "no_numbers"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One held-out sequence: its tokens and the places whose next token is learned."""

    ids: list[int]
    places: list[int]


@dataclass(frozen=True, kw_only=True)
class Read:
    """What a model says of the rows."""

    loss: float
    log_probs: Any
    """At the compared places, one after the other; fp32, on the host."""


def held_out(rows: Any) -> list[Row]:
    """Take the first held-out rows; packed ones are taken apart, for each saw only itself."""
    found: list[Row] = []
    for row in rows:
        ids, labels, at = row["input_ids"], row["labels"], 0
        for length in row.get("seq_lengths") or [len(ids)]:
            wanted = labels[at : at + length]
            places = [one - 1 for one in range(1, length) if wanted[one] != _IGNORED]
            if places:
                found.append(Row(ids=ids[at : at + length], places=places))
            at += length
        if len(found) >= _MOST_ROWS:
            break
    return found[:_MOST_ROWS]


def compared(rows: Sequence[Row], words: int) -> list[set[int]]:
    """Choose places of each row whose distributions are compared, spread over all of them."""
    total = sum(len(row.places) for row in rows)
    most = max(1, _KEPT_BYTES // (4 * words))
    apart = max(1, math.ceil(total / most))
    chosen, number = [], 0
    for row in rows:
        here = set()
        for place in row.places:
            if number % apart == 0:
                here.add(place)
            number += 1
        chosen.append(here)
    return chosen


def read(model: Any, rows: Sequence[Row], machine: Machine, *, words: int) -> Read:
    """Put the rows through a model.

    Raises:
        NoNumbersError: its distributions are none.
    """
    import torch

    total, count, kept = 0.0, 0, []
    with torch.inference_mode(), autocast(machine):
        for row, chosen in zip(rows, compared(rows, words), strict=True):
            ids = torch.tensor([row.ids], device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits[0]
            for begin in range(0, len(row.places), _AT_ONCE):
                places = row.places[begin : begin + _AT_ONCE]
                found = torch.log_softmax(logits[places].float(), dim=-1).clamp_min_(_LEAST)
                if bool(found.isnan().any()):
                    raise NoNumbersError(
                        "the next tokens have no probabilities (NaN)", advice="Do not serve it."
                    )
                wanted = ids[0, [place + 1 for place in places]]
                total -= float(found.gather(1, wanted[:, None]).double().sum())
                count += len(places)
                which = [at for at, place in enumerate(places) if place in chosen]
                if which:
                    kept.append(found[which].cpu())
                del found
            del logits
    return Read(loss=total / max(1, count), log_probs=torch.cat(kept))


def figures(reference: Read, found: Read, base: Read | None = None) -> Figures:
    """Compare what a form says with what the adapter says on the base that it was trained on."""
    kl, same = _distance(reference, found)
    from_base = _distance(reference, base)[0] if base is not None else None
    return Figures(loss=found.loss, kl=kl, same_top=same, kl_from_base=from_base)


def _distance(reference: Read, other: Read) -> tuple[float, float]:
    ours, theirs = reference.log_probs, other.log_probs
    # A form may know more words than the base's config says (padded tables): none of them is said.
    words = min(ours.shape[1], theirs.shape[1])
    total, same = 0.0, 0
    for at in range(0, len(ours), 64):
        p, q = ours[at : at + 64, :words], theirs[at : at + 64, :words]
        total += float((p.exp() * (p - q)).double().sum())
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
    return max(0.0, total / len(ours)), same / len(ours)


def is_within(reference: Figures, found: Figures) -> bool:
    """Whether a form does what the adapter does, within the tolerance."""
    return not differences(reference, found)


def differences(reference: Figures, found: Figures) -> list[str]:
    """Say what a form does otherwise than the adapter, beyond the tolerance."""
    said = []
    if reference.loss and found.loss is not None:
        more = found.loss / reference.loss - 1
        if more > LOSS_TOLERANCE:
            said.append(
                f"its held-out loss is {found.loss:.3f} where the adapter's is "
                f"{reference.loss:.3f} ({more:+.0%}, allowed are {LOSS_TOLERANCE:+.0%})"
            )
    kept = found.kept
    if kept is not None and kept < INACTIVE and not _does_nothing(found):
        said.append("its answers are nearer to the base model's: the adapter seems to be left out")
    elif kept is not None and kept < KEPT_TOLERANCE and not _does_nothing(found):
        said.append(f"{kept:.0%} of what training changed is still there, at least 90% should be")
    elif found.kl is not None and found.kl > KL_TOLERANCE:
        said.append(
            f"its next tokens differ by {found.kl:.3f} nats on average, allowed are {KL_TOLERANCE}"
        )
    return said


def _does_nothing(found: Figures) -> bool:
    return found.kl_from_base is not None and found.kl_from_base < NO_CHANGE


def better_base(reference: Figures, original: Figures, trained: Figures) -> bool:
    """Whether the base as it was trained on serves better than the original; ties go to that.

    The scores that the job asks for decide, then the loss, then which does what the adapter does. A
    difference of less than one answer, or of half a percent of the loss, is none.
    """
    if original.scores and original.score_rows == trained.score_rows > 0:
        names = original.scores.keys() & trained.scores.keys()
        gain = sum(trained.scores[name] - original.scores[name] for name in names)
        if abs(gain) * trained.score_rows >= len(names):
            return gain > 0
    if original.loss is None or trained.loss is None:
        return False
    if abs(trained.loss - original.loss) > _SAME_LOSS * original.loss:
        return trained.loss < original.loss
    return is_within(reference, trained) and not is_within(reference, original)
