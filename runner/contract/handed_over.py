"""Handed over: what was made for serving a run's result, and what each form does on held-out rows.

A form (merged weights, a GGUF file) counts only with its figures: loss and distributions beside
those of the adapter on the base that it was trained on.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel, ConfigDict

from runner.contract.evaluation import Form
from runner.contract.verdict import score_name
from runner.language.speaker import ENGLISH, Speaker

MERGED = "merged"
"""Name of the form with adapter and base as one model, and of its folder."""
ADAPTER_GGUF = "adapter_gguf"
"""Name of the form that is the adapter alone, for llama.cpp."""
MODELFILE = ".Modelfile"
"""End of the name of what Ollama needs beside a GGUF file."""
SERVED_ANSWERS = "-answers.json"
"""End of the name of what a form answered; its beginning is the form's. In the stage's folder."""
_SCORES_SAID = 3  # of those that the job asks for; all of them stand in the record
BASE_GGUF = "BASE.gguf"
"""Stands for the base's own GGUF file, on which a GGUF adapter is served: the box makes none."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Figures(_Part):
    """One form on the held-out rows, beside the adapter on the base that it was trained on."""

    loss: float | None = None
    """Nats per learned token; None: no row is held out, or it was not measured."""
    kl: float | None = None
    """Mean divergence (nats) of its next-token distributions from the adapter's."""
    same_top: float | None = None
    """Share of places at which both find the same token likeliest, 0 to 1."""
    kl_from_base: float | None = None
    """The same divergence, of the base without the adapter from the adapter: what training did."""
    kl_to_base: float | None = None
    """Divergence of this form from the base without the adapter; None: it was not compared."""
    scores: dict[str, float] = {}
    """Of generated answers, those that the job asks for."""
    score_rows: int = 0
    """How many answers were scored."""
    reference_scores: dict[str, float] = {}
    """The adapter's own, on the same answers; none: those of the whole record's ``reference``."""
    rows: int = 0
    """Held-out rows that a GGUF file was asked about: fewer than those of ``merged/``, for each
    takes llama.cpp a while; 0: as many as of the others."""
    reference_loss: float | None = None
    """Of the model that the file was made from, at the same tokens; None: it is the adapter's."""
    ends: float | None = None
    """Share of held-out answers that llama.cpp ends where that model ends them, 0 to 1; None: it
    ends none at the learned place, or was not asked."""
    end_places: int = 0
    """How many answers that model ends."""
    stops: bool | None = None
    """Whether llama.cpp stops at each end token that was learned, when it is made to say it; None:
    it was not asked."""

    @property
    def kept(self) -> float | None:
        """Share of what training changed that this form still has; 1: all of it, 0: the base."""
        if self.kl is None or not self.kl_from_base:
            return None
        return 1 - self.kl / self.kl_from_base


class ServedForm(_Part):
    """One thing that can be served."""

    name: str
    """``merged``, or the format of a GGUF file, or ``adapter_gguf``."""
    path: str
    """Within the run's folder."""
    bytes: int
    files: dict[str, str] = {}
    """sha256 by file name within ``path``."""
    base: Form | None = None
    """Which base the adapter was put into."""
    figures: Figures | None = None
    """None: nothing was measured of it."""
    other: Figures | None = None
    """Of the way that was not taken; None: there was one way only."""
    within: bool | None = None
    """Whether it does what the adapter does, within the tolerance; None: it was not measured."""


class HandedOver(_Part):
    """What the stage made and found."""

    reference: Figures | None = None
    """The adapter on the base that it was trained on."""
    rows: int = 0
    """Held-out rows measured."""
    places: int = 0
    """Learned tokens whose distributions were compared."""
    forms: tuple[ServedForm, ...] = ()
    shortfalls: dict[str, tuple[str, ...]] = {}
    """By form: what it does not do as the adapter does, or why it was not made. They stand among
    the run's own, until the form is made again."""
    seconds: float | None = None
    peak_host_memory_bytes: int | None = None

    def form(self, name: str) -> ServedForm | None:
        """Find a form by its name."""
        return next((one for one in self.forms if one.name == name), None)

    @property
    def sentences(self) -> tuple[str, ...]:
        """All shortfalls, in the order in which the forms were made."""
        return tuple(one for said in self.shortfalls.values() for one in said)

    def after(self, before: HandedOver, *, there: Collection[str]) -> HandedOver:
        """Add what an earlier export made and this one did not make again.

        Args:
            before: what the record has of it.
            there: the paths of its forms that are still in the run's folder.
        """
        renewed = {form.name for form in self.forms}
        kept = [
            form.model_copy(update={"figures": _alone(form.figures, before)})
            for form in before.forms
            if form.name not in renewed and form.path in there
        ]
        known = self if self.reference is not None else before
        said = {**before.shortfalls, **self.shortfalls}
        return self.model_copy(
            update={
                "forms": (*kept, *self.forms),
                "shortfalls": {name: those for name, those in said.items() if those},
                "reference": known.reference,
                "rows": known.rows,
                "places": known.places,
            }
        )


def _alone(figures: Figures | None, made: HandedOver) -> Figures | None:
    """Let a form's figures say by themselves what they were measured on."""
    if figures is None or made.reference is None:
        return figures
    ours = made.reference
    update: dict[str, Any] = {"rows": figures.rows or made.rows}
    if figures.reference_loss is None:
        update["reference_loss"] = ours.loss
    if figures.scores and not figures.reference_scores:
        update["reference_scores"] = ours.scores
    return figures.model_copy(update=update)


def compared_with(figures: Figures | None, reference: Figures | None) -> float | None:
    """Give the loss at the tokens that a form's own loss is of; None: it was not measured."""
    if figures is not None and figures.reference_loss is not None:
        return figures.reference_loss
    return reference.loss if reference is not None else None


def forms_in(made: HandedOver | None, speak: Speaker = ENGLISH) -> list[str]:
    """Say in a sentence each what was made, and what was measured of it."""
    return [_form_in(form, made, speak) for form in made.forms] if made is not None else []


def _form_in(form: ServedForm, made: HandedOver, speak: Speaker) -> str:
    figures, reference = form.figures, made.reference
    base = speak(f"served_base_{form.base}") if form.base else ""
    against = compared_with(figures, reference)
    if form.within is None or figures is None or figures.same_top is None:
        key = "served_unmeasured" if form.within is not False else "served_broken"
        return speak(key, path=form.path, base=base)
    same = speak.percent(figures.same_top)
    key = "served_within" if form.within else "served_beyond"
    if figures.loss is None or against is None:
        said = speak(f"{key}_same", path=form.path, base=base, same=same)
    else:
        said = speak(
            key,
            path=form.path,
            base=base,
            loss=speak.number(figures.loss),
            reference=speak.number(against),
            same=same,
        )
    scores = _scores_in(figures, reference, speak)
    return f"{said} {scores}" if scores else said


def _scores_in(figures: Figures, reference: Figures | None, speak: Speaker) -> str:
    """Say how the answers of a form were scored, beside the adapter's."""
    theirs = figures.reference_scores or (reference.scores if reference else {})
    both = [name for name in figures.scores if name in theirs][:_SCORES_SAID]
    if not both or not figures.score_rows:
        return ""
    each = [
        speak(
            "served_score",
            name=score_name(name, speak),
            score=speak.percent(figures.scores[name]),
            adapter=speak.percent(theirs[name]),
        )
        for name in both
    ]
    return speak("served_scores", count=figures.score_rows, scores=", ".join(each))
