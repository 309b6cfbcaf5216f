"""HANDOVER.md and the figures behind it: one command that works, and no form that flatters."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.contract.hand_over_page import (
    hand_over_page,
    lora_rank,
    ollama_name,
    write_hand_over_page,
)
from runner.contract.handed_over import Figures, HandedOver, ServedForm, forms_in
from runner.contract.layout import Outputs
from runner.contract.method_choice import MethodChoice
from runner.contract.promotions import promote
from runner.contract.record import RunRecord, read_record, write_record
from runner.training.export import compare
from runner.training.export.compare import (
    NoNumbersError,
    Row,
    better_base,
    compared,
    differences,
    figures,
    held_out,
    read,
)
from runner.training.export.llama_proof import judge


def recorded(made: HandedOver) -> RunRecord:
    """Give a record with these forms."""
    return read_record(RECORD).but(handed_over=made)


RECORD = Path(__file__).parents[1] / "data" / "records" / "v2-7-handed-over.json"


def test_the_first_command_serves_what_is_there(tmp_path: Path) -> None:
    """Merged weights come first, with their figures; the adapter's line names its rank."""
    (tmp_path / "run.json").write_bytes(RECORD.read_bytes())
    record = read_record(tmp_path / "run.json")
    page = hand_over_page(record, {"r": 24, "base_model_name_or_path": "org/name"})
    commands = [line.strip() for line in page.splitlines() if line.startswith("    ")]
    current = f"outputs/{record.job}/current"
    assert commands[0].startswith(f"vllm serve {current}/merged --served-model-name")
    assert record.model is not None
    assert commands[1] == (
        f"vllm serve models/{record.model.id} --served-model-name org/name --enable-lora "
        f"--max-lora-rank 32 --lora-modules {record.job}={current}/adapter"
    )
    assert f"`runner export {record.run_id} --merged`" in page
    assert f"outputs/{record.job}/{record.run_id}/adapter" in hand_over_page(
        record, {}, folder=record.run_id
    )
    assert "0.218" in page
    made = record.handed_over
    assert made is not None
    gguf = ServedForm(name="q8_0", path=f"gguf/{record.job}-q8_0.gguf", bytes=1)
    page = hand_over_page(record.but(handed_over=HandedOver(forms=(*made.forms, gguf))), {})
    assert f"llama-server -m {current}/gguf/{record.job}-q8_0.gguf" in page
    assert f"ollama create {record.job} -f {current}/gguf/{record.job}-q8_0.Modelfile" in page
    assert "--lora outputs" not in page
    alone = ServedForm(name="adapter_gguf", path=f"gguf/{record.job}-adapter_gguf.gguf", bytes=1)
    page = hand_over_page(record.but(handed_over=HandedOver(forms=(alone,))), {})
    path = f"{current}/gguf/{record.job}-adapter_gguf"
    assert f"llama-server -m BASE.gguf --lora {path}.gguf --jinja" in page
    assert page.count("llama-server -m") == 1  # alone it is no model
    assert f"ollama create {record.job} -f {path}.Modelfile" in page
    bare = record.but(handed_over=None)
    assert "merged" not in hand_over_page(bare, {}).split("## ")[1].split("\n")[0]


def test_a_name_that_breaks_out_of_its_line_is_not_taken(tmp_path: Path) -> None:
    """Each indented line of the page is a command that somebody will copy into a shell."""
    (tmp_path / "run.json").write_bytes(RECORD.read_bytes())
    record = read_record(tmp_path / "run.json")
    assert record.model is not None
    for name in ("org/x\n    rm -rf ~", "org/x\u2028y", "org/x\x1b[2J"):
        page = hand_over_page(record, {"base_model_name_or_path": name})
        assert "rm -rf" not in page
        assert page.replace("\n", "").isprintable()
        assert f"vllm serve models/{record.model.id} --served-model-name {record.model.id}" in page
    quoted = hand_over_page(record, {"base_model_name_or_path": "it's $(x)/`y`"})
    line = next(one for one in quoted.splitlines() if "--lora-modules" in one)
    assert shlex.split(line)[4] == "it's $(x)/`y`"


def test_what_was_trained_in_16_bits_is_not_warned_of_4(tmp_path: Path) -> None:
    """Where the box chose, it knows: the adapter is served on what it was trained on."""
    (tmp_path / "run.json").write_bytes(RECORD.read_bytes())
    record = read_record(tmp_path / "run.json")
    for method, is_said in (("lora", False), ("qlora", True)):
        chosen = record.but(method=MethodChoice(method=method, why="fits"))
        assert ("qlora" in hand_over_page(chosen, {})) is is_said


def test_a_gguf_file_is_compared_at_its_own_tokens(tmp_path: Path) -> None:
    """llama.cpp reads fewer rows than merged/ was measured on: both losses are of those rows."""
    (tmp_path / "run.json").write_bytes(RECORD.with_name("v2-8-gguf-ends.json").read_bytes())
    record = read_record(tmp_path / "run.json")
    part = hand_over_page(record, {}).partition("## GGUF")[2]
    assert "On 8 held-out rows its loss is 0.231" in part
    assert "that of the weights that it was\nmade from is 0.230" in part
    made = record.handed_over
    assert made is not None
    assert "0.23 " in forms_in(made)[1] or "0.230" in forms_in(made)[1]


def test_a_small_formats_own_loss_is_not_taken_for_a_lost_adapter() -> None:
    """After a short training a file has lost its adapter only where it is nearer to the base."""
    kept = Figures(kl=0.04, kl_from_base=0.05, kl_to_base=0.09)
    assert judge("q4_k_m", kept) is None
    lost = kept.model_copy(update={"kl": 0.09, "kl_to_base": 0.04})
    assert "does not work" in (judge("q4_k_m", lost) or "")


@pytest.mark.parametrize(("rank", "served"), [(4, 8), (16, 16), (17, 32), (512, 512)])
def test_the_rank_is_one_that_vllm_takes(rank: int, served: int) -> None:
    """The next of the values that its option knows."""
    assert lora_rank({"r": rank}) == served


def test_a_form_that_differs_is_said_so() -> None:
    """The sentence of the answer turns round where a form is not what the adapter is."""
    good = Figures(loss=0.22, kl=0.001, same_top=0.99, kl_from_base=0.8)
    bad = Figures(loss=0.4, kl=0.7, same_top=0.7, kl_from_base=0.8)
    reference = Figures(loss=0.22, kl=0.0, same_top=1.0, kl_from_base=0.8)
    for one, within in ((good, True), (bad, False)):
        assert (not differences(reference, one)) is within
        form = ServedForm(name="merged", path="merged", bytes=1, figures=one, within=within)
        (said,) = forms_in(HandedOver(forms=(form,), reference=reference, rows=9))
        assert ("NOT" in said) is not within
    assert "left out" in " ".join(differences(reference, bad))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Figures(loss=0.2203, kl=0.001, kl_from_base=0.8), []),
        (Figures(loss=0.2300, kl=0.001, kl_from_base=0.8), ["its held-out loss is 0.230"]),
        (Figures(loss=0.22, kl=0.15, kl_from_base=0.8), ["81% of what training changed"]),
        (Figures(loss=0.22, kl=0.7, kl_from_base=0.8), ["the adapter seems to be left out"]),
        (Figures(loss=0.22, kl=0.03, kl_from_base=0.8), ["differ by 0.030 nats"]),
        (Figures(loss=0.22, kl=0.03), ["differ by 0.030 nats"]),
        (Figures(loss=0.22, kl=1e-8, kl_from_base=1e-8), []),  # an adapter that does nothing
    ],
)
def test_each_tolerance_holds_by_itself(found: Figures, said: list[str]) -> None:
    """A loss that is too high, a part that is lost, and distributions that differ: each is said."""
    told = differences(Figures(loss=0.22), found)
    assert len(told) == len(said)
    assert all(word in one for word, one in zip(said, told, strict=True))


def test_less_than_one_answer_is_no_difference() -> None:
    """Two scores that moved against each other by the same decide nothing: the loss does."""
    scores = ({"a": 0.50, "b": 0.50}, {"a": 0.52, "b": 0.50})
    one, other = (
        Figures(loss=loss, scores=own, score_rows=30)
        for loss, own in zip((0.20, 0.22), scores, strict=True)
    )
    assert better_base(Figures(loss=0.22), one, other) is False


@pytest.mark.parametrize(
    ("original", "trained", "is_trained"),
    [
        ((0.40, {"in_form": 0.2}), (0.22, {"in_form": 1.0}), True),
        ((0.20, {"in_form": 1.0}), (0.22, {"in_form": 1.0}), False),  # equal scores: the loss
        ((0.2200, {}), (0.2195, {}), False),  # a tie goes to the original
        ((0.2200, {}), (0.2100, {}), True),
        ((0.10, {"in_form": 0.9}), (0.30, {"in_form": 1.0}), True),  # scores come first
    ],
)
def test_the_better_base_is_taken(
    original: tuple[float, dict[str, float]],
    trained: tuple[float, dict[str, float]],
    is_trained: bool,  # noqa: FBT001
) -> None:
    """The scores that the job asks for decide, then the loss; ties go to the original."""
    one, other = (
        Figures(loss=loss, scores=scores, score_rows=30 if scores else 0)
        for loss, scores in (original, trained)
    )
    assert better_base(Figures(loss=0.22), one, other) is is_trained


@pytest.mark.parametrize(
    ("original", "trained", "is_trained"),
    [
        (0.3, 0.0005, True),
        (0.3, 0.2, False),  # neither is the adapter
        (0.001, 0.0005, False),
    ],
)
def test_at_the_same_loss_the_form_that_is_the_adapter_is_taken(
    original: float,
    trained: float,
    is_trained: bool,  # noqa: FBT001
) -> None:
    """Few rows and short answers may give two models the same loss, of which one lost much."""
    one, other = (Figures(loss=0.22, kl=kl, kl_from_base=0.8) for kl in (original, trained))
    assert better_base(Figures(loss=0.22, kl_from_base=0.8), one, other) is is_trained


def test_what_failed_its_test_is_never_called_unmeasured() -> None:
    """Without a loss (a token that the server does not name), or without any figure at all."""
    reference = Figures(loss=0.22, same_top=1.0)
    cases = {
        "does NOT do": Figures(kl=3.0, same_top=0.1, rows=8),
        "do not serve it": None,
    }
    for said, one in cases.items():
        form = ServedForm(name="q8_0", path="x.gguf", bytes=1, figures=one, within=False)
        made = HandedOver(forms=(form,), reference=reference, rows=9)
        assert said in forms_in(made)[0]
        assert "**It does not do what the adapter does" in hand_over_page(recorded(made), {})
    good = form.model_copy(update={"figures": cases["does NOT do"], "within": True})
    made = HandedOver(forms=(good,), reference=reference)
    assert "NOT" not in forms_in(made)[0]
    assert "On 8 held-out rows 10.0% of its next tokens are the same" in hand_over_page(
        recorded(made), {}
    )
    both = HandedOver(forms=(form, good.model_copy(update={"name": "q5_k_m"})))
    page = hand_over_page(recorded(both), {})
    assert page.index("GGUF (q5_k_m)") < page.index("GGUF (q8_0)")  # the first is what people take
    unmeasured = form.model_copy(update={"figures": None, "within": None})
    made = HandedOver(forms=(unmeasured,))
    assert "not measured" in forms_in(made)[0]
    assert "**" not in hand_over_page(recorded(made), {})


def test_a_later_export_keeps_what_it_did_not_make_again() -> None:
    """Forms that are still there, with what they were measured on; their shortfalls go and stay."""
    old = HandedOver(
        forms=(
            ServedForm(
                name="merged",
                path="merged",
                bytes=1,
                figures=Figures(loss=0.2, scores={"a": 1.0}),
                within=True,
            ),
            ServedForm(name="q8_0", path="gguf/q8", bytes=1),
            ServedForm(name="f16", path="gguf/f16", bytes=1),
        ),
        shortfalls={"merged": ("m differs.",), "q8_0": ("q differs.",), "q4_k_m": ("no tools.",)},
        reference=Figures(loss=0.19, scores={"a": 0.9}),
        rows=200,
        places=7,
    )
    new = HandedOver(
        forms=(ServedForm(name="q8_0", path="gguf/q8", bytes=2),),
        shortfalls={"q8_0": (), "q5_k_m": ("no.",)},
    )
    found = new.after(old, there={"merged", "gguf/q8"})
    assert [(one.name, one.bytes) for one in found.forms] == [("merged", 1), ("q8_0", 2)]
    assert found.sentences == ("m differs.", "no tools.", "no.")
    assert (found.reference, found.rows, found.places) == (old.reference, 200, 7)
    again = HandedOver(forms=(), reference=Figures(loss=0.3), rows=8).after(found, there={"merged"})
    merged = again.form("merged")
    assert merged is not None
    assert merged.figures is not None
    assert (merged.figures.rows, merged.figures.reference_loss) == (200, 0.19)
    assert merged.figures.reference_scores == {"a": 0.9}
    assert again.rows == 8


@pytest.mark.parametrize(
    ("job", "name"),
    [
        ("contracts", "contracts"),
        ("verträge", "vertrage"),
        ("договор", "model"),
        ("a_b.c-1", "a_b.c-1"),
    ],
)
def test_ollama_gets_a_name_that_it_takes(job: str, name: str) -> None:
    """Letters beyond Latin ones are none in a model's name there."""
    assert ollama_name(job) == name


def test_places_are_spread_and_packed_rows_taken_apart() -> None:
    """Each sequence is read by itself; memory bounds the places, and all rows are among them."""
    packed = {"input_ids": [1, 2, 3, 4, 5], "labels": [-100, 2, -100, 4, 5], "seq_lengths": [2, 3]}
    rows = held_out([packed])
    assert rows == [Row(ids=[1, 2], places=[0]), Row(ids=[3, 4, 5], places=[0, 1])]
    many = [Row(ids=list(range(101)), places=list(range(100))) for _ in range(50)]
    chosen = compared(many, words=128_256)
    assert 400 < sum(map(len, chosen)) <= 523
    assert all(chosen)
    one = {"input_ids": [1, 2], "labels": [-100, 2]}
    assert len(held_out([one, *[packed] * 150])) == 200  # as many as are read, within a packed row


class _Says:
    """A model of four words that says what it is given."""

    device = "cpu"

    def __init__(self, logits: Any) -> None:
        self.logits = logits

    def __call__(self, *, input_ids: Any, use_cache: bool) -> Any:
        assert not use_cache
        return SimpleNamespace(logits=self.logits[None, : input_ids.shape[1]])


def test_places_are_read_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long answers of a large vocabulary do not fit a card at once; the figures are the same."""
    import torch

    machine: Any = SimpleNamespace(device="cpu", compute="float32")
    logits = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
    rows = [Row(ids=[0, 1, 2, 3, 0, 1, 2, 3, 0], places=[1, 2, 4, 5, 7])]
    whole = read(_Says(logits), rows, machine, words=4)
    wanted = torch.tensor([2, 3, 1, 2, 0])
    loss = torch.nn.functional.cross_entropy(logits[rows[0].places], wanted)
    assert whole.loss == pytest.approx(float(loss), rel=1e-6)
    assert torch.equal(whole.log_probs, logits[rows[0].places].log_softmax(-1))
    monkeypatch.setattr(compare, "_AT_ONCE", 2)
    parts = read(_Says(logits), rows, machine, words=4)
    assert parts.loss == pytest.approx(whole.loss)
    assert torch.equal(parts.log_probs, whole.log_probs)


def read_one(logits: Any, rows: list[Row], machine: Any) -> compare.Read:
    """Read the first row alone."""
    return read(_Says(logits), rows[:1], machine, words=logits.shape[1])


@pytest.mark.parametrize("which", ["the form", "the adapter's base"])
def test_a_table_with_words_that_nobody_says_is_no_difference(which: str) -> None:
    """Tables are padded to a round number, with words of no probability; one of two may be."""
    import torch

    machine: Any = SimpleNamespace(device="cpu", compute="float32")
    rows = [Row(ids=[0, 1, 2], places=[0, 1])]
    plain = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    padded = torch.cat([plain, torch.full((3, 2), -torch.inf)], dim=1)
    ours, theirs = (plain, padded) if which == "the form" else (padded, plain)
    found = figures(read_one(ours, rows, machine), read_one(theirs, rows, machine))
    assert found.kl == pytest.approx(0.0, abs=1e-6)
    assert found.same_top == 1.0


def test_words_that_a_model_excludes_have_a_divergence() -> None:
    """A logit of minus infinity is no fault, and NaN is one, in whichever place it stands."""
    import torch

    machine: Any = SimpleNamespace(device="cpu", compute="float32")
    rows = [Row(ids=[0, 1, 2], places=[0, 1])]
    logits = torch.zeros(3, 4)
    logits[:, 3] = -torch.inf
    found = read(_Says(logits), rows, machine, words=4)
    both = figures(found, found, found)
    assert (both.kl, both.same_top) == (0.0, 1.0)
    assert found.loss == pytest.approx(math.log(3))
    less = logits.clone()
    less[:, 2] = -torch.inf  # says half and half where the other says a third each
    narrow = figures(read_one(less, rows, machine), read_one(logits, rows, machine))
    assert narrow.kl == pytest.approx(math.log(3 / 2))
    logits[1, 2] = torch.nan
    with pytest.raises(NoNumbersError):
        read(_Says(logits), rows, machine, words=4)


def test_a_form_that_has_gone_is_not_named(tmp_path: Path) -> None:
    """After a rollback far back merged weights may be gone: the page leads to the adapter."""
    outputs = Outputs(tmp_path)
    record = read_record(RECORD)
    run = outputs.run(record.job, record.run_id)
    run.merged.mkdir(parents=True)
    write_record(run.record, record)
    promote(outputs, run, why="better", by="anna")
    page = tmp_path / record.job / "HANDOVER.md"
    write_hand_over_page(outputs, record.job)
    assert "current/merged" in page.read_text()
    run.merged.rmdir()
    write_hand_over_page(outputs, record.job)
    assert "current/merged" not in page.read_text()
    assert "current/adapter" in page.read_text()
    outputs.current(record.job).unlink()  # a disk without links
    outputs.current_text(record.job).write_text(record.run_id)
    write_hand_over_page(outputs, record.job)
    assert f"outputs/{record.job}/{record.run_id}/adapter" in page.read_text()
    assert "current" not in page.read_text()
