"""Proof of a GGUF file: llama.cpp's own next tokens beside those of what the file was made from.

At places within held-out answers llama-server is given exactly the tokens that the model was
trained on, and its distribution is compared with that of the same weights in transformers. It is
also looked at whether the adapter works, whether the server builds the prompt that was trained, and
(`end_proof`) whether answers end at the end token that was learned.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.contract.handed_over import ADAPTER_GGUF, SERVED_ANSWERS, Figures
from runner.contract.llama_cpp import LlamaCpp
from runner.contract.models import longest_context, read_config, weight_files
from runner.training.evaluate.measure_answers import Room
from runner.training.export.end_proof import end_ids, judge_end, prove_ends
from runner.training.export.llama_scores import longest_exchange, score, to_score
from runner.training.export.llama_server import Server, ServerError, serve
from runner.training.export.makers import Made, Source
from runner.training.export.where_it_fits import processor_for, unless_memory_runs_out

if TYPE_CHECKING:
    from runner.training.fit.model import Machine

ROWS = 8
PLACES_OF_A_ROW = 12
"""Places compared: 96 at most. Each costs a pass of one token; each row one of its prompt."""
_LIKELIEST = 1024
"""Tokens that the server names at a place; all others count as one."""
TOLERANCE_KL = {"f16": 0.01, "q8_0": 0.03, "q5_k_m": 0.15, "q4_k_m": 0.15, ADAPTER_GGUF: 0.03}
"""Mean divergence in nats that a format may have. Measured on SmolLM2-135M, one trained run, 86
places (docs/measurements.md): f16 0.0011, q8_0 0.0045, q4_k_m 0.066, two to nine times of which
pass, for places are few and models differ. There q5_k_m has 0.159, with one likeliest token in five
another: its rows are no multiple of 256, q5_1 stands in for q5_K, and that file is named. The
adapter's on a base in q8_0 was 0.0036 on another run, 131 places, where q8_0 itself had 0.0034: it
loses what its base does."""
KEPT = 0.5
"""Share of what training changed that must be there: an adapter that is not applied has 0."""
_ANSWER_TOKENS = 256
_SPARE_TOKENS = 16
_LONGEST_CONTEXT = 32768  # where the config does not say what the model reads


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The files that are asked."""

    model: Path
    adapter: Path | None
    log: Path


@dataclass(frozen=True, kw_only=True)
class Place:
    """A learned token of a held-out row, with what the reference says of it."""

    before: tuple[int, ...]
    token: int
    trained: Any
    """Log-probabilities of the whole vocabulary, of the model with the adapter."""
    base: Any
    """The same without the adapter; None: it was not asked."""
    row: int = 0
    """Of which row, as they were read."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question that every run answers for people."""

    question: str
    """As the data has it."""
    messages: list[dict[str, Any]]
    """The conversation, as the template takes it."""
    ids: list[int]
    """Its tokens, as trained."""


def prove(name: str, source: Source, tools: LlamaCpp, proof: Proof) -> Made:
    """Ask llama-server, and judge what it says.

    Raises:
        ServerError: it does not load the file, or does not answer.
    """
    from runner.training.data.tokenizer_folder import load_tokenizer

    tokenizer = load_tokenizer(source.run.adapter)
    ends = end_ids(source.run, tokenizer)
    rows = read_rows(source.run.prepared / "eval", ends=ends)
    places = reference_places(source, rows, merged=proof.adapter is None)
    asked = _questions(source, tokenizer)
    longest = max([len(row[0]) for row in rows] + [len(one.ids) for one in asked] + [1])
    scored = to_score(source)
    most = longest_context(read_config(source.base, source.spec.model)) or _LONGEST_CONTEXT
    exchange = longest_exchange(scored, tokenizer, most=most)
    context = max(longest + _ANSWER_TOKENS, exchange) + _SPARE_TOKENS
    shortfalls: list[str] = []
    worse: list[str] = []
    with serve(tools, proof.model, context=context, log=proof.log, adapter=proof.adapter) as server:
        figures = compare(places, lambda before: server.next_tokens(before, most=_LIKELIEST))
        figures = prove_ends(places, server, ends, figures)
        shortfalls += _prompt_shortfalls(name, server, asked)
        _answer(name, source, server, asked)
        if scored:
            room = Room(context=most)
            figures, worse = score(name, source, server, tokenizer, room=room, figures=figures)
    spelled = tokenizer.convert_ids_to_tokens(sorted(ends))
    said = [one for one in (judge(name, figures), judge_end(name, figures, spelled)) if one]
    said += worse
    return Made(
        figures=figures,
        within=None if figures.kl is None else not said,
        shortfalls=(*said, *shortfalls),
    )


def judge(name: str, figures: Figures) -> str | None:
    """Say in words how a file differs, by its figures; None: it does not, or none were taken."""
    if figures.kl is None:
        return None
    # What a small format loses may be as much as a short training changed: only a file that is
    # nearer to the base than to the trained model has lost its adapter.
    nearer = figures.kl_to_base is None or figures.kl_to_base < figures.kl
    if figures.kept is not None and figures.kept < KEPT and nearer:
        return (
            f"{name}: the adapter does not work in this file: of what training changed, "
            f"{max(0.0, figures.kept):.0%} is there. Do not serve it."
        )
    if figures.kl > TOLERANCE_KL[name]:
        return (
            f"{name}: llama.cpp's next tokens differ by {figures.kl:.3f} nats in the mean, and "
            f"{TOLERANCE_KL[name]:g} is what this format may lose. Take a larger format."
        )
    return None


def compare(places: Sequence[Place], ask: Callable[[Sequence[int]], dict[int, float]]) -> Figures:
    """Compare a server's next tokens with the reference's, at each place.

    Args:
        places: with the reference's log-probabilities.
        ask: gives the likeliest next tokens of a server with their log-probabilities.
    """
    if not places:
        return Figures()
    found = [(place, ask(place.before)) for place in places]
    # A token that the server does not name is less likely than all that it does: no loss is known.
    lost = [-said[place.token] for place, said in found if place.token in said]
    base = [_divergence(p.trained, p.base) for p in places if p.base is not None]
    from_base = [_from_few(p.base, said) for p, said in found if p.base is not None]
    same = [max(said, key=said.__getitem__) == int(place.trained.argmax()) for place, said in found]
    return Figures(
        loss=math.fsum(lost) / len(lost) if len(lost) == len(found) else None,
        kl=math.fsum(_from_few(place.trained, said) for place, said in found) / len(found),
        same_top=sum(same) / len(same),
        kl_from_base=math.fsum(base) / len(base) if base else None,
        kl_to_base=math.fsum(from_base) / len(from_base) if from_base else None,
        rows=len({place.row for place in places}),
        reference_loss=-math.fsum(float(p.trained[p.token]) for p in places) / len(places),
    )


def _from_few(trained: Any, said: dict[int, float]) -> float:
    """Give the divergence of a distribution of which the likeliest tokens are known."""
    total = mass = other = 0.0
    for token, log_probability in said.items():
        own = float(trained[token])
        total += math.exp(own) * (own - log_probability)
        mass += math.exp(own)
        other += math.exp(log_probability)
    rest, other_rest = max(1 - mass, 0.0), max(1 - other, 1e-9)
    return max(0.0, total + (rest * math.log(rest / other_rest) if rest > 0 else 0.0))


def _divergence(one: Any, other: Any) -> float:
    found: float = (one.exp() * (one - other)).sum().item()
    return found


def read_rows(
    folder: Path, *, ends: frozenset[int] = frozenset()
) -> list[tuple[list[int], list[int]]]:
    """Read the first held-out rows: their tokens, and at which places a learned one stands.

    Args:
        folder: of the held-out rows.
        ends: the end tokens that were learned; the place of a row's last one is always there.
    """
    if not (folder / "state.json").is_file():
        return []
    from datasets import load_from_disk

    found = []
    held = load_from_disk(str(folder))
    for row in held.select(range(min(ROWS, len(held)))):
        ids, labels = list(row["input_ids"]), list(row["labels"])
        lengths = row.get("seq_lengths")
        if lengths:  # several examples in one row: each is a conversation of its own
            ids, labels = ids[: lengths[0]], labels[: lengths[0]]
        learned = [at for at, label in enumerate(labels) if label >= 0 and at > 0]
        step = max(1, math.ceil(len(learned) / PLACES_OF_A_ROW))
        if learned:
            last = [at for at in learned if ids[at] in ends][-1:]
            found.append((ids, sorted({*learned[::step], *last})))
    return found


def reference_places(
    source: Source, rows: Sequence[tuple[list[int], list[int]]], *, merged: bool
) -> list[Place]:
    """Compute what transformers says at each place, with the adapter and without it.

    Args:
        source: of the form.
        rows: tokens and places.
        merged: the form is the whole model, whose own folder is the reference.

    Raises:
        ServerError: neither the card nor the machine's memory has room for the model in 16 bits.
    """
    if not rows:
        return []
    from runner.training.fit.model import find_machine

    machine = find_machine(source.plan.device)
    found = unless_memory_runs_out(lambda: _places_on(machine, source, rows, merged=merged))
    if found is not None:
        return found
    whole = sum(file.stat().st_size for file in weight_files(source.base, source.spec.model))
    processor, why = processor_for(whole)
    if processor is None:
        raise ServerError(f"{why[:1].upper()}{why[1:]}.", advice="Close other programs.")
    return _places_on(processor, source, rows, merged=merged)


def _places_on(
    machine: Machine,
    source: Source,
    rows: Sequence[tuple[list[int], list[int]]],
    *,
    merged: bool,
) -> list[Place]:
    from runner.training.fit.memory import let_go
    from runner.training.fit.model import load_base

    trust = source.plan.trust_remote_code

    def load(folder: Path) -> Any:
        return load_base(
            folder, method="lora", machine=machine, trust_remote_code=trust, whole=True
        ).eval()

    base = load(source.base)
    without = list(_log_probabilities(base, rows))
    if merged and source.model is not None:
        del base
        let_go()
        trained = list(_log_probabilities(load(source.model), rows))
    else:
        from peft import PeftModel

        adapted = PeftModel.from_pretrained(base, source.adapter).eval()
        trained = list(_log_probabilities(adapted, rows))
    let_go()
    return [
        Place(before=tuple(ids[:at]), token=ids[at], trained=own, base=other, row=row)
        for (row, ids, at), own, other in zip(
            ((row, ids, at) for row, (ids, places) in enumerate(rows) for at in places),
            trained,
            without,
            strict=True,
        )
    ]


def _log_probabilities(model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> Iterator[Any]:
    """Give the log-probabilities of the next token before each place."""
    import torch

    with torch.inference_mode():
        for ids, places in rows:
            inputs = torch.tensor([ids[: places[-1]]], device=model.device)
            logits = model(input_ids=inputs, use_cache=False).logits[0]
            for at in places:
                yield logits[at - 1].float().log_softmax(-1).cpu()


def _questions(source: Source, tokenizer: Any) -> list[Asked]:
    """Read the questions that every run answers for people, with their tokens as trained."""
    from runner.training.data.control_tokens import Readers
    from runner.training.data.questions import ALWAYS, ASKED, read_questions
    from runner.training.data.system_message import fold_system, renders_system
    from runner.training.evaluate.answers import prompt_ids

    questions = [one for one in read_questions(source.run.prepared) if one.part == ASKED][:ALWAYS]
    if not questions:
        return []
    folds = not renders_system(Readers(tokenizer).usual)
    conversations = [
        list(fold_system(one.messages) if folds else one.messages) for one in questions
    ]
    ids = prompt_ids(tokenizer, conversations)
    return [
        Asked(question=str(one.messages[-1]["content"]), messages=messages, ids=own)
        for one, messages, own in zip(questions, conversations, ids, strict=True)
    ]


def _prompt_shortfalls(name: str, server: Server, asked: Sequence[Asked]) -> Iterator[str]:
    """Say where the server's own chat interface builds another prompt than training did."""
    other = sum(server.prompt(one.messages) != one.ids for one in asked)
    if other:
        said = (
            f"{name}: llama-server builds another prompt than training did, for {other} of "
            f"{len(asked)} questions: send it the prompt as tokens or text (POST /completion)."
        )
        if len(asked) == 1:
            said = (
                f"{name}: llama-server builds another prompt than training did, for the only "
                "question: send it the prompt as tokens or text (POST /completion)."
            )
        yield said


def _answer(name: str, source: Source, server: Server, asked: Sequence[Asked]) -> None:
    """Answer the questions for the report, into the stage's folder, which `erase` removes."""
    found = [
        {"question": one.question, "answer": server.answer(one.ids, most=_ANSWER_TOKENS).text}
        for one in asked
    ]
    target = source.run.hand_over / f"{name}{SERVED_ANSWERS}"
    target.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
