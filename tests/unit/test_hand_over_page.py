"""HANDOVER.md and the figures behind it: one command that works, and no form that flatters."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.contract.hand_over_page import hand_over_page, lora_rank, write_hand_over_page
from runner.contract.handed_over import Figures, HandedOver, ServedForm, forms_in
from runner.contract.layout import Outputs
from runner.contract.promotions import promote
from runner.contract.record import read_record, write_record
from runner.training.export.compare import Row, better_base, compared, differences, held_out
from runner.training.export.llama_proof import judge

RECORD = Path(__file__).parents[1] / "data" / "records" / "v2-7-handed-over.json"


def test_the_first_command_serves_what_is_there(tmp_path: Path) -> None:
    """Merged weights come first, with their figures; the adapter's line names its rank."""
    (tmp_path / "run.json").write_bytes(RECORD.read_bytes())
    record = read_record(tmp_path / "run.json")
    page = hand_over_page(record, {"r": 24, "base_model_name_or_path": "org/name"})
    commands = [line.strip() for line in page.splitlines() if line.startswith("    ")]
    current = f"outputs/{record.job}/current"
    assert commands[0].startswith(f"vllm serve {current}/merged --served-model-name")
    assert f"org/name --enable-lora --max-lora-rank 32 --lora-modules {record.job}=" in commands[1]
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
    assert f"ollama create {record.job} -f {path}.Modelfile" in page
    bare = record.but(handed_over=None)
    assert "merged" not in hand_over_page(bare, {}).split("## ")[1].split("\n")[0]


def test_a_gguf_file_is_compared_at_its_own_tokens(tmp_path: Path) -> None:
    """llama.cpp reads fewer rows than merged/ was measured on: both losses are of those rows."""
    (tmp_path / "run.json").write_bytes(RECORD.with_name("v2-8-gguf-ends.json").read_bytes())
    record = read_record(tmp_path / "run.json")
    part = hand_over_page(record, {}).partition("## GGUF")[2]
    assert "On 8 held-out rows its loss is 0.231" in part
    assert "0.230" in part
    made = record.handed_over
    assert made is not None
    assert "0.23 " in forms_in(made)[1] or "0.230" in forms_in(made)[1]


def test_a_small_formats_own_loss_is_not_taken_for_a_lost_adapter() -> None:
    """After a short training a file has lost its adapter only where it is nearer to the base."""
    figures = Figures(kl=0.04, kl_from_base=0.05, kl_to_base=0.09)
    assert judge("q4_k_m", figures) is None
    lost = figures.model_copy(update={"kl": 0.09, "kl_to_base": 0.04})
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
    for figures, within in ((good, True), (bad, False)):
        assert (not differences(reference, figures)) is within
        form = ServedForm(name="merged", path="merged", bytes=1, figures=figures, within=within)
        (said,) = forms_in(HandedOver(forms=(form,), reference=reference, rows=9))
        assert ("NOT" in said) is not within
    assert "left out" in " ".join(differences(reference, bad))


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
    assert better_base(one, other) is is_trained


def test_places_are_spread_and_packed_rows_taken_apart() -> None:
    """Each sequence is read by itself; memory bounds the places, and all rows are among them."""
    packed = {"input_ids": [1, 2, 3, 4, 5], "labels": [-100, 2, -100, 4, 5], "seq_lengths": [2, 3]}
    rows = held_out([packed])
    assert rows == [Row(ids=[1, 2], places=[0]), Row(ids=[3, 4, 5], places=[0, 1])]
    many = [Row(ids=list(range(101)), places=list(range(100))) for _ in range(50)]
    chosen = compared(many, words=128_256)
    assert 400 < sum(map(len, chosen)) <= 523
    assert all(chosen)


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
