"""The table of texts: every sentence in every language, filled in alike."""

from __future__ import annotations

import ast
import re
import string
import tomllib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runner.card.answer import Answer, meaning
from runner.card.memory import GpuMemory, Holder
from runner.commands.doctor import print_findings, verdict
from runner.contract.batch import BatchPlan, describe_change
from runner.contract.findings import Level
from runner.contract.fp8_cards import FP8_HINT, fp8_obstacle
from runner.contract.model_kind import kind_problem
from runner.contract.preview import Why
from runner.contract.states import State
from runner.contract.verdict import Figures, Outcome, Verdict, judge, reason_in
from runner.daemon.gpu_guard import decide
from runner.daemon.stages.retry import RULES
from runner.doctor.ask_card import NoCardFacts, judge_no_card_facts
from runner.doctor.disk import Disk, Kind, judge_disk
from runner.doctor.engine import Engine, judge_engine
from runner.doctor.finding import Level as DoctorLevel
from runner.doctor.gpu_memory import judge_gpu_memory
from runner.doctor.host_memory import HostMemory, judge_host_memory
from runner.doctor.judge_card import CardFacts, Product, judge_card
from runner.errors import Problem
from runner.language.speaker import ENGLISH, Language, Speaker, language_of
from runner.language.texts import FILE, table
from runner.language.translate import translated
from runner.training.data.findings import Findings
from runner.training.data.formats import to_conversations
from runner.training.data.growth import Growth
from runner.training.data.rows import read_rows
from runner.words import counted

GERMAN = Speaker(Language.GERMAN)
ROOT = Path(__file__).parents[2] / "runner"


def names(text: str) -> set[str]:
    """List what a sentence wants filled in."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_the_table_is_read_as_toml_has_it() -> None:
    """By a few lines that are quicker; a key that stands twice is refused here."""
    assert table() == tomllib.loads(FILE.read_text(encoding="utf-8"))


def test_every_sentence_stands_in_every_language() -> None:
    """No key lacks a language, none has one too many, and all fill in the same names."""
    wrong = [
        key
        for key, said in table().items()
        if said.keys() != set(Language)
        or not all(said.values())
        or len({frozenset(names(text)) for text in said.values()}) != 1
    ]
    assert wrong == []


def test_german_is_german() -> None:
    """A sentence that reads the same in both languages is a name or a figure, and listed here."""
    same = {
        key for key, said in table().items() if said["en"] == said["de"] and len(said["en"]) > 9
    }
    figures = {"before_to_after", "page_title", "dropped_as", "trigger_submit", "use_python"}
    assert same <= figures


def test_every_text_asked_for_is_there() -> None:
    """A key in the code or the templates that the table lacks would be met by a reader first."""
    asked = set()
    for path in [*ROOT.rglob("*.py"), *ROOT.rglob("*.j2")]:
        text = path.read_text(encoding="utf-8")
        asked |= set(re.findall(r"\b(?:speak|t)\(\s*[\"']([a-z_]+)[\"']", text))
    asked |= {f"head_{state}" for state in State if state is not State.SUCCEEDED}
    asked |= {f"state_{state}" for state in State} | {f"level_{level}" for level in Level}
    asked |= {f"why_{why}" for why in Why} | {f"head_{outcome}" for outcome in Outcome}
    asked |= {f"{outcome}_short" for outcome in Outcome} | {f"{outcome}_use" for outcome in Outcome}
    asked |= {f"outcome_{rule.outcome.replace(' ', '_')}" for rule in RULES.values()}
    assert len(asked) > 100
    assert asked - table().keys() == set()


@pytest.mark.parametrize(
    ("setting", "environment", "language"),
    [
        ("", {}, "en"),
        ("de", {}, "de"),
        ("en", {"LANG": "de_DE.UTF-8"}, "en"),
        ("", {"LANG": "de_AT.UTF-8"}, "de"),
        ("", {"LANG": "de_DE.UTF-8", "LC_ALL": "C.UTF-8"}, "en"),
        ("", {"LANG": "fr_FR.UTF-8"}, "en"),
        ("", {"LC_ALL": "", "LANG": "de"}, "de"),
    ],
)
def test_the_language_is_the_owners_then_the_machines(
    setting: str, environment: dict[str, str], language: str
) -> None:
    """RUNNER_LANGUAGE wins, then LC_ALL, LC_MESSAGES and LANG; what is not spoken is English."""
    assert language_of(setting, environment) == language


def test_numbers_and_times_follow_the_language(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,234.5 is 1.234,5 in German, and a day is written as its readers write it."""
    moment = datetime(2026, 11, 3, 9, 5, tzinfo=UTC)
    assert (ENGLISH.whole(1234567), GERMAN.whole(1234567)) == ("1,234,567", "1.234.567")
    assert (ENGLISH.number(1.5), GERMAN.number(1.5)) == ("1.500", "1,500")
    assert GERMAN.percent(0.41) == "41 %"
    assert GERMAN.time(moment, day=True).startswith("03.11.2026")
    assert ENGLISH.time(moment, day=True).startswith("2026-11-03")


FIGURES = [
    Figures(),
    Figures(held_out_rows=9),
    Figures(held_out_rows=9, loss_before=2.0),
    *(
        Figures(
            held_out_rows=rows, loss_before=2.0, loss_after=after, change_low=low, change_high=high
        )
        for rows in (1, 1200)
        for after in (1.0, 1.999, 2.0, 2.1, 9.0)
        for low, high in ((None, None), (-1.1, -0.9), (-0.01, 0.01), (0.05, 0.15), (-1.0, 1.0))
    ),
]


@pytest.mark.parametrize("figures", FIGURES)
def test_each_verdict_has_its_reason_in_german(figures: Figures) -> None:
    """A reason kept in English in the record is said in German from the same figures."""
    for zero, changed in ((True, 3), (False, 0), (False, 3), (None, None)):
        verdict = judge(figures, adapter_is_zero=zero, rows_changed=changed)
        german = reason_in(verdict, GERMAN)
        assert german != verdict.reason
        assert reason_in(verdict, ENGLISH) == verdict.reason
        older = Verdict.model_validate({**verdict.model_dump(), "why": None})
        assert reason_in(older, GERMAN) == german


def test_a_verdict_worded_otherwise_stays_as_it_is() -> None:
    """What an older runner said in its own words is not said in others."""
    verdict = Verdict(outcome=Outcome.BETTER, reason="It is fine.", figures=FIGURES[4])
    assert reason_in(verdict, GERMAN) == "It is fine."


def said(key: str, **values: object) -> str:
    """Say a text of the table in English, as its producer does."""
    return table()[key]["en"].format(**values)


@pytest.mark.parametrize("key", [key for key in table() if key.startswith("record_")])
def test_a_sentence_of_the_record_is_recognised_and_said_in_german(key: str) -> None:
    """Names and figures are carried over as they are."""
    values = {name: f"<{name}.1>" for name in names(table()[key]["en"])}
    values |= {name: "the row is empty" for name in ("what", "reason") if name in values}
    german = translated(said(key, **values), GERMAN)
    values |= {name: "die Zeile ist leer" for name in ("what", "reason") if name in values}
    assert german == table()[key]["de"].format(**values)
    assert translated(said(key, **values), ENGLISH) == said(key, **values)


def test_a_sentence_that_is_not_in_the_table_stays_english() -> None:
    """What cannot be said in German is said in English, and the caller is told."""
    assert translated("Something else happened.", GERMAN) is None
    assert translated("x" * 99_999, GERMAN) is None


PUT_TOGETHER = {
    "record_meant_belongs_under",
    "record_meant_belongs_left",
    "record_export_failed_without_advice",
    "record_merged_not_compared_trained",
    "record_merged_by_processor",
    "record_merged_chosen_by_processor",
    "record_gguf_no_answer",
    "record_the_row_has_no_question",
    "record_there_is_no_column_for_the_answer",
    "record_there_is_no_column_for_the_answer_and",
    "record_there_is_no_column_for_the_question",
    "record_there_is_no_column_for_the_question_and",
    "record_if_it_is_an_excel_file",
    "record_in_one_object_and_the_file_is",
    "record_a_row_is_longer_than_mib_or",
    "record_the_file_is_not_valid_json_from",
    "record_the_file_is_one_object_of",
    "record_a_message_has_no_role_it",
    "record_the_role_of_a_message_is",
    "record_the_file_is_not_valid_csv_from",
    "record_close_the_quote_a_quote_within",
    "record_rows_are_changed",
    "record_rows_are_no_longer_there",
    "record_fetch_it_with",
    "record_did_you_mean_otherwise_fetch_it",
    "record_the_gpu_cannot_be_reached_nvml",
    "record_each_row_is_learned_with_one",
    "record_rows_not_learned_because_says_so",
    "record_row_not_learned_because_says_so",
    "record_rows_not_learned_because_is",
    "record_row_not_learned_because_is",
    "record_rows_with_an_object_or_a",
    "record_row_with_an_object_or_a",
    "record_row_longer_than_tokens_left_out",
    "record_rows_above_the_column_names_not",
    "record_row_above_the_column_names_not",
    "record_row_is_new",
    "record_row_is_changed",
    "record_row_is_no_longer_there",
    "record_the_nvidia_driver_was_updated_while_the",
    "record_bitsandbytes_has_no_library_for_cuda",
    "record_bitsandbytes_has_no_library_for_cuda_it",
    "record_bitsandbytes_has_no_library_for_this_cpu",
    "record_can_be_written_to",
    "record_gpu_in_env_names_a_card_that",
    "record_no_job_could_run_yet_one_thing",
    "record_no_job_could_run_yet_things_stand",
    "record_of_are_free_held_by",
    "record_of_memory_for_this_container_in_the",
    "record_of_memory_for_this_container_in_the_2",
    "record_one_thing_would_make_it_better",
    "record_only_of_are_free_held_by",
    "record_the_computes_it_as_plain_arithmetic_does",
    "record_the_computes_it_wrongly_off_by_in",
    "record_the_model_has_no_layers_named_its",
    "record_the_nvidia_container_toolkit_is_not_set",
    "record_the_nvidia_driver_is_not_installed_or",
    "record_the_nvidia_driver_is_not_loaded_2",
    "record_the_nvidia_driver_was_updated_while_the_2",
    "record_the_test_on_it_ended_with_exit",
    "record_the_test_on_it_ended_with_exit_2",
    "record_the_test_on_it_gave_no_answer",
    "record_the_test_on_it_gave_no_answer_2",
    "record_the_test_on_it_was_ended_by",
    "record_the_test_on_it_was_ended_by_2",
    "record_the_toolkit_s_list_of_devices_is",
    "record_things_would_make_it_better",
    "record_this_model_also_reads_pictures_and_its",
    "record_this_model_also_reads_pictures_and_its_2",
    "record_this_model_also_reads_pictures_and_its_3",
    "record_this_model_also_reads_pictures_and_its_4",
}
"""Sentences that the code puts together of parts: the tests below make them."""


def test_the_sentences_of_the_record_are_those_that_the_code_writes() -> None:
    """A pattern whose English nobody writes any more would silently leave Germans with English."""
    code = " ".join(
        re.sub(r'"\s*f?"', "", path.read_text(encoding="utf-8")) for path in ROOT.rglob("*.py")
    )
    code = re.sub(r"\s+", " ", code)
    gone = []
    for key, text in table().items():
        if key.startswith("record_"):
            literals = [part for part, *_ in string.Formatter().parse(text["en"])]
            longest = max(literals, key=len).strip(" ():")
            if longest[-40:] not in code:  # what comes before may be put together
                gone.append(key)
    assert set(gone) == PUT_TOGETHER


TOLD = {"add", "once", "tell", "BadRowError", "UnlearnableRowError", "Problem"}
"""What takes the words of a refusal; its arguments, and what is named `what` or `hint`."""
PARTS = {
    "the row has two system messages that differ: the column Zz9 and ",
    "the row is emptyone among its messages",
    "with a question that is marked to be learned, which only answers are",
    "with an object or a list as Zz9: it is read as its JSON",
    "Zz9 Cut longer rows into several.",
    "the file is one object of more than Zz9 MiB without a list ",
    "the row is emptyof rows under a known name",
    "a message holds something other than textZz9",
    "the roleZz9 of a message is not known",
    "sheets of Zz9 not read (only the first one is, or the spec's sheet:)",
    "the file is not valid CSV from here on (a quote is not closedthe row is empty)",
    "the model's chat template refuses the rowthe row is empty",
    "Zz9 Or say in the spec which column is which, such as: Zz9",
}
"""Beginnings and ends of a sentence whose whole stands in the table."""


def template(node: ast.expr) -> str | None:
    """Give a literal's text with a word in each gap; a sentence in a gap that takes one."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else gap(ast.unparse(part))
            for part in node.values
        )
    return None


def gap(expression: str) -> str:
    """Fill in what stands in a gap."""
    if "after" in expression:
        return " (after row 7)"
    if re.search(r"reason|why|what", expression):
        return "the row is empty"
    return "Zz9"


def told(path: Path) -> set[str]:
    """List the sentences that a module says to the owner of the data."""
    found: list[ast.expr] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in TOLD:
                found += [*node.args, *(k.value for k in node.keywords if k.arg != "file")]
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("what", "hint"):
            found.append(node.value)
    texts = {text for node in found if (text := template(node)) is not None}
    return {text for text in texts if " " in text}


def test_no_refusal_of_the_data_stays_english_on_a_german_page() -> None:
    """Whatever a module of the data says of a file or a row, the table says in German, too."""
    modules = sorted((ROOT / "training" / "data").glob("*.py"))
    sentences = {(m.name, text) for m in modules for text in told(m)}
    assert len(sentences) > 100
    missing = {one for one in sentences if translated(one[1], GERMAN) is None}
    assert {text for _, text in missing} - PARTS == set(), missing


ABOUT_MODELS = (
    *(ROOT / "contract" / name for name in ("models.py", "model_kind.py")),
    *(ROOT / "training" / "fit" / f"{name}.py" for name in ("adapter_layers", "base_config")),
    *(ROOT / "training" / "fit" / f"{name}.py" for name in ("language_part", "set_up_check")),
)
"""Modules that refuse a base model."""
PARTS_OF_MODELS = {
    "this model rewrites one text into another (encoder-decoder, Zz9); only models",
    "this model also reads pictures (Zz9), and its language part cannot be trained ",
    "the experts of this model (Doge) are chosen by the words of a whole text at once: ",
    "an adapter on Zz9 would never be trained: the model takes the weights of these layers past it",
    "Did you mean Zz9? Or write Zz9.",
    "the model has no Zz9 named Zz9; its layers are Zz9",
}
"""Beginnings of a sentence whose whole stands in the table, or one with a word chosen in it."""


@pytest.mark.parametrize("path", ABOUT_MODELS, ids=lambda path: path.stem)
def test_no_refusal_of_a_model_stays_english_on_a_german_page(path: Path) -> None:
    """Whatever is said of a base model before or as it is loaded, the table says in German."""
    sentences = told(path)
    assert sentences
    missing = {text for text in sentences if translated(text, GERMAN) is None}
    assert missing - PARTS_OF_MODELS == set()


OF_TRAINING = (
    *(ROOT / "training" / "fit" / f"{n}.py" for n in ("start_adapter", "train", "fast_path")),
    *(ROOT / "training" / "fit" / f"{n}.py" for n in ("callbacks", "checkpoint")),
    ROOT / "daemon" / "stages" / "space.py",
    ROOT / "forecast" / "what_fits.py",
)
"""Modules that say why a training cannot begin, does not fit, or ended."""
_CARRIERS = {"StageError", "ErrorFacts", "Problem"}
_NAMES = {"what", "hint", "message", "advice", "why"}


def sentences_of(node: ast.expr | None) -> set[str]:
    """Give the literals that an expression may come to, each whole."""
    if isinstance(node, ast.IfExp):
        return sentences_of(node.body) | sentences_of(node.orelse)
    if isinstance(node, ast.List):
        return set().union(*map(sentences_of, node.elts))
    text = template(node) if node is not None else None
    return {text} if text and " " in text else set()


def said_of_training(path: Path) -> set[str]:
    """List what a module puts into an error, its advice, or the reason of a slower way."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in _CARRIERS:
                given = [*node.args, *(k.value for k in node.keywords if k.arg in _NAMES)]
                found |= set().union(*map(sentences_of, given))
            if ast.unparse(node.func).startswith("ways."):
                found |= set().union(*map(sentences_of, node.args))
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in _NAMES:
            found |= sentences_of(node.value)
        elif isinstance(node, ast.Yield) or (
            isinstance(node, ast.FunctionDef) and node.name in ("_obstacle", "_exact_because")
        ):
            returned = [n.value for n in ast.walk(node) if isinstance(n, ast.Return | ast.Yield)]
            found |= set().union(*map(sentences_of, returned))
    return found


@pytest.mark.parametrize("path", OF_TRAINING, ids=lambda path: path.stem)
def test_nothing_said_of_a_training_stays_english_on_a_german_page(path: Path) -> None:
    """Whatever ends a training, or makes it slower than it was asked to be, is said in German."""
    sentences = {text for text in said_of_training(path) if not SETTING.fullmatch(text)}
    assert len(sentences) >= 2, "the list lost its sentences"
    missing = {text for text in sentences if translated(text, GERMAN) is None}
    assert missing - {"Any of these helps: Zz9."} == set()  # a list, which the next test reads


SETTING = re.compile(r"[a-z][a-z_.]*: \w+")
"""A line of a spec, which is the same in every language."""


def test_what_would_fit_instead_is_a_list_in_german() -> None:
    """Each way by itself: lines of a spec as they are written, the rest in German."""
    english = (
        "Any of these helps: to end what else uses the GPU (python3: 9.0 GiB); method: qlora; "
        "lora.r: 8; training.max_length: 512 (rows longer than that: 3 of 90); "
        "a card with 48 GiB; a smaller model."
    )
    assert translated(english, GERMAN) == (
        "Eines davon hilft: beenden, was die Grafikkarte sonst noch benutzt (python3: 9.0 GiB); "
        "method: qlora; lora.r: 8; training.max_length: 512 (längere Zeilen: 3 von 90); "
        "eine Grafikkarte mit 48 GiB; ein kleineres Modell."
    )


def test_why_a_model_cannot_be_trained_is_said_in_german() -> None:
    """Real kinds of model, each refused in whole sentences: no English word is left."""
    configs = {
        "T5ForConditionalGeneration": {"is_encoder_decoder": True},
        "WhisperForConditionalGeneration": {},
        "Qwen2VLForConditionalGeneration": {"vision_config": {"depth": 2}},
        "MllamaForConditionalGeneration": {"vision_config": {"depth": 2}},
        "BertForMaskedLM": {"model_type": "bert"},
        "DogeForCausalLM": {"is_moe": True},
        "LlamaForSequenceClassification": {},
        "LlamaForCausalLM": {"quantization_config": {"quant_method": "gptq"}},
    }
    for name, config in configs.items():
        problem = kind_problem("m", {"architectures": [name], **config}, method="lora")
        assert problem is not None, name
        assert translated(str(problem), GERMAN) is not None, str(problem)


DOCTOR = sorted((ROOT / "doctor").glob("*.py"))
FINDS = {"Finding", "finding", "_finding", "_docker"}
"""What takes a finding's sentence."""
CHOSEN = {
    "Zz9 Zz9.",
    "The runner of Zz9 Zz9.",
    "The test on it Zz9Zz9",
    "Only Zz9Zz9",
    "The Zz9 computes it as plain arithmetic does: Zz9.",
    "The Zz9 computes it wrongly: Zz9.",
    "Only Zz9 are free of Zz9.",
    "Zz9; Zz9 GiB are advised.",
    "the row is empty.",
    "the row is empty; nothing starts with less than Zz9.",
}
"""Sentences with parts chosen elsewhere: `test_the_doctor_speaks_german` makes them."""


COMMAND = re.compile(r"(sudo|docker|df|du|findmnt|lspci|nvidia-smi|unset|echo|ps|free|runner) ")


def said_by_doctor(path: Path) -> set[str]:
    """List the sentences and the remarks behind commands of one of the doctor's modules."""
    found: list[ast.expr] = []
    parts: set[ast.AST] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts |= set(ast.walk(node)) - {node}
        if node in parts:
            continue
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in FINDS:
            found += [*node.args, *(k.value for k in node.keywords if k.arg != "fix")]
        elif isinstance(node, ast.Assign):
            name = ast.unparse(node.targets[0])
            if name == "what" or name.startswith("_WHY"):
                found += node.value.values if isinstance(node.value, ast.Dict) else [node.value]
        elif isinstance(node, ast.Constant | ast.JoinedStr):
            text = template(node) or ""
            if "    # " in text:
                found += [ast.Constant(line.partition("    # ")[2]) for line in text.splitlines()]
    texts = {text for node in found if (text := template(node))}
    return {text for text in texts if " " in text and not COMMAND.match(text)}


@pytest.mark.parametrize("path", DOCTOR, ids=lambda path: path.stem)
def test_nothing_that_the_doctor_says_stays_english(path: Path) -> None:
    """Every sentence, its reason, and the remark behind a command."""
    missing = {text for text in said_by_doctor(path) if translated(text, GERMAN) is None}
    assert missing - CHOSEN == set()


def test_the_doctor_speaks_german(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    """A page with what is put together of parts: no sentence and no remark is left in English."""
    gib = 1024**3
    holder = Holder(pid=7, name="python3", held_bytes=9 * gib)
    card = GpuMemory(
        name="RTX", total_bytes=24 * gib, free_bytes=gib // 4, flops=None, holders=(holder,)
    )
    found = [
        judge_gpu_memory(card),
        judge_gpu_memory(replace(card, holders=())),
        judge_gpu_memory(replace(card, free_bytes=10 * gib)),
        judge_host_memory(HostMemory(total_bytes=64 * gib, available_bytes=gib)),
        judge_host_memory(
            HostMemory(total_bytes=64 * gib, available_bytes=9 * gib, limit_bytes=8 * gib)
        ),
        judge_host_memory(HostMemory(total_bytes=64 * gib, available_bytes=60 * gib)),
        *(
            judge_disk(
                Disk(
                    folders=("jobs", "outputs"),
                    path="/box",
                    kind=kind,
                    free_bytes=free * gib,
                    needed_bytes=10 * gib,
                )
            )
            for kind in Kind
            for free in (5, 20, 900)
        ),
        *(
            judge_no_card_facts(NoCardFacts(ended=ended, said=said))
            for ended in (
                "gave no answer in 60 s",
                "was ended by SIGKILL",
                "ended with exit code 1",
            )
            for said in ("", "CUDA error")
        ),
        *judge_card(_facts(1e-4), card_answers=False),
        *judge_card(_facts(9.0), card_answers=False),
        *judge_engine(Engine(version="29", image="box", services=())),
    ]
    for one in found:
        for text in (one.what, one.why, *(f.partition("    # ")[2] for f in one.fix.splitlines())):
            assert not text or translated(text, GERMAN) is not None, text
    monkeypatch.setenv("RUNNER_LANGUAGE", "de")
    print_findings(found)
    page = capsys.readouterr().out
    assert "Dinge stehen im Weg" in page
    assert "Grafikspeicher" in page
    for runs in (
        [],
        [found[2]],
        [found[2]] * 2,
        [found[0]],
        [replace(found[0], level=DoctorLevel.UNKNOWN)],
    ):
        assert translated(verdict(runs)[0], GERMAN) is not None


def _facts(error: float) -> CardFacts:
    product = Product(compute="float32", forward_error=error, gradient_error=0.0, one_row_error=0.0)
    return CardFacts(torch="2.13", bitsandbytes="0.50", library="libbnb_cpu.so", product=product)


def test_a_refusal_is_said_in_german_with_its_places() -> None:
    """Lines, what was found and how to fix it: a whole list of problems, and no English word."""
    problems = [
        Problem(
            message="the line is not valid JSON",
            file="a.jsonl",
            line=3,
            lines=(3, 4, 9),
            count=40,
            hint="Compare the line with the others: a comma, a quote or a bracket is missing or "
            "left over.",
        ),
        Problem(
            message="the row has no answer: 'output' is missing or empty",
            file="a.jsonl",
            line=12,
            hint="Write the answer, or delete the row.",
        ),
        Problem(
            message="the model is not on this box",
            field="model",
            found="org/x",
            hint="Fetch it with: runner fetch org/x",
        ),
    ]
    assert translated("\n".join(map(str, problems)), GERMAN) == (
        "a.jsonl, Zeilen 3, 4, 9 und 37 weiteren: die Zeile ist kein gültiges JSON\n"
        "    Abhilfe: Vergleichen Sie die Zeile mit den anderen: Ein Komma, ein Anführungszeichen "
        "oder eine Klammer fehlt oder ist zu viel.\n"
        "a.jsonl, Zeile 12: die Zeile hat keine Antwort: 'output' fehlt oder ist leer\n"
        "    Abhilfe: Schreiben Sie die Antwort, oder löschen Sie die Zeile.\n"
        "model: das Modell ist nicht auf dieser Box\n"
        "    Gefunden: org/x\n"
        "    Abhilfe: Holen Sie es mit: runner fetch org/x"
    )


def test_what_the_guard_says_of_the_card_is_said_in_german() -> None:
    """A lost card holds the queue: STATUS.txt says why, whatever the driver answered."""
    answers = [Answer(code=code) for code in range(1, 30)]
    verdicts = [meaning(answer, expected=True) for answer in answers]
    quiet = {"stage_said": "", "lost_seconds": 0.0, "patience_seconds": 60.0}
    problems = {decide(verdict, **quiet).problem for verdict in verdicts} - {""}
    assert len(problems) > 8
    assert [problem for problem in problems if translated(problem, GERMAN) is None] == []


def test_notes_of_the_rows_are_said_in_german() -> None:
    """How many rows, why and where: one row and several, as findings and growth say it."""
    notes = []
    for lines in ([4], [4, 7, 9]):
        findings = Findings()
        for line in lines:
            for sentence in (
                "not learned, because weight says so (0 or false)",
                "not learned, because label is false",
                "not learned, because every answer is marked as only to be read",
                "with an object or a list as context: it is read as its JSON",
                "above the column names not read",
                "longer than 512 tokens left out",
            ):
                findings.note(sentence, "a.jsonl", line)
        notes += findings.notes
    notes += [Growth(new=n, changed=n, gone=n, rows=60).sentence() for n in (1, 2)]
    assert len(notes) == 14
    german = [translated(note, GERMAN) for note in notes]
    assert None not in german
    assert (
        "1 Zeile nicht gelernt, weil weight es so sagt (0 oder false): a.jsonl, Zeile 4" in german
    )
    assert "3 Zeilen mit mehr als 512 Token ausgelassen: a.jsonl, Zeilen 4, 7 und 9" in german


def test_what_the_readers_say_is_said_in_german(tmp_path: Path) -> None:
    """Broken files of several kinds: what is said of each, with the place, has a German form."""
    files = {
        "a.jsonl": b'{"question": "Q", "answer": \n',
        "b.json": b'[{"question": "Q", "answer": "A"}, {"question": ',
        "c.csv": b'question,answer\na,"b\n',
        "d.jsonl": b'{"messages": [{"content": "x"}]}\n'
        b'{"messages": [{"role": "boss", "content": "x"}]}',
        "e.csv": b"question,answer\n\xe4,b\n",
        "f.jsonl": b"\x1f\x8b",
        "g.jsonl": b"PK\x03\x04",
        "h.jsonl": b"",
        "i.csv": b"Frage,Foo\na,b\n",
    }
    said = []
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        findings = Findings()
        rows = read_rows(tmp_path / name, shown_as=name, findings=findings)
        to_conversations(rows, data_format="auto", system_prompt=None, findings=findings)
        assert findings.problems, name
        said += [str(problem) for problem in findings.problems]
    assert [text for text in said if translated(text, GERMAN) is None] == []


@pytest.mark.parametrize(
    ("why", "german"),
    [
        ("layer 3's gradient was off by 0.3", "der Gradient von Schicht 3 wich um 0,3 ab"),
        ("the head was off by nan", "der Kopf des Modells wich um nan ab"),
        (
            "this model has weights that are not in 4 bits",
            "dieses Modell hat Gewichte, die nicht in 4 Bit vorliegen",
        ),
        (
            "this model has a product of 1,000 × 64, no multiples of 16",
            "dieses Modell hat ein Produkt von 1.000 × 64, keine Vielfachen von 16",
        ),
    ],
)
def test_why_fp8_was_not_used_is_german_to_its_last_word(why: str, german: str) -> None:
    """No English half sentence stands within a German one."""
    told = f"speed: fp8 was asked for and not used: {why}. It was trained in 16 bits."
    said = translated(told, Speaker(Language.GERMAN))
    assert said is not None
    assert f"nicht benutzt: {german}. Trainiert" in said


def plan(**more: Any) -> BatchPlan:
    """Make a plan of 8 rows a step."""
    size = more.pop("size", 4)
    return BatchPlan(per_device_batch_size=size, gradient_accumulation_steps=8 // size, **more)


PLANS = [
    *(plan(size=size) for size in (8, 4, 2, 1)),
    *(plan(tokens_per_pass=tokens) for tokens in (16_384, 8192, 5000)),
    plan(size=1, activation_checkpointing=True),
    plan(size=1, activation_checkpointing=True, activation_offloading=True),
    *(plan(tokens_per_pass=8192, layers_kept=layers) for layers in (16, 8, 0)),
    plan(tokens_per_pass=4096, layers_kept=0, activation_offloading=True),
]


@pytest.mark.parametrize("before", PLANS, ids=str)
def test_every_change_of_a_plan_is_said_in_german(before: BatchPlan) -> None:
    """Also where the record lacks the plan before it: of an attempt that made it smaller."""
    for after in PLANS:
        if after != before:
            english = describe_change(before, after)
            assert translated(english, GERMAN) == describe_change(before, after, GERMAN)
    assert translated("halved: a secret, same effective batch 8", GERMAN) is None


def test_numbers_within_sentences_are_german_and_names_are_not() -> None:
    """1,000.5 is 1.000,5; a version, a model's name and a file's stay as they are."""
    for english, german in (
        ("1,000", "1.000"),
        ("0.3", "0,3"),
        ("12.5 GiB of 1,024", "12,5 GiB of 1.024"),
        ("2.13.0", "2.13.0"),
        ("Llama-3.1-8B, rows 1, 2 and 3", "Llama-3.1-8B, rows 1, 2 and 3"),
        ("a1.5.csv v1.5x", "a1.5.csv v1.5x"),
    ):
        assert GERMAN.numerals(english) == german
        assert ENGLISH.numerals(english) == english


def test_why_a_card_has_no_fp8_is_said_in_german() -> None:
    """The refusal and its advice; a compute capability is no decimal number."""
    for english in (fp8_obstacle(None, None), fp8_obstacle("RTX 3090", "8.6"), FP8_HINT):
        assert english is not None
        assert translated(english, GERMAN) not in (None, english)
    assert "(RTX 3090, Compute Capability 8.6)" in str(
        translated(str(fp8_obstacle("RTX 3090", "8.6")), GERMAN)
    )


_COUNTED = re.compile(
    r"(?:^|[^{}\w])\{count\} (?:(?:more|held-out|learned|expected|old|new|earlier|further) )?"
    r"(?:rows|steps|files|tokens|runs|pairs|attempts|cards|minutes|hours|layers|examples|days|jobs"
    r"|models|weights|characters|lines|columns|copies|boxes|things|items|problems|questions"
    r"|answers|times|points|places|notices|schedules|checkpoints|adapters|rates)\b"
)
_NEVER_ONE = {
    "thinned": "some hundred points, else none is left out",
    "finding_many_epochs": "of all rows, where one alone has worse findings",
    "cards_several": "of several cards",
    "office_each_card": "of several cards",
    "more_places": "of several places",
    "cli_to_tokens": "a bar of the histogram, of 64 tokens at least",
    "cli_on_several": "of several cards",
    "cli_cards_at_once": "of several cards",
}


def test_one_is_said_in_the_singular() -> None:
    """No "1 rows" in either language: what counts has a sentence for one, or is never one.

    Sentences of the record (``record_…``) are recognised, and come from the code: see below.
    """
    texts = table()
    plural = {key for key, said in texts.items() if _COUNTED.search(said["en"])}
    plural = {key for key in plural if not key.startswith("record_")}
    assert {key for key in plural if f"{key}_one" not in texts} == set(_NEVER_ONE)
    for key in plural - set(_NEVER_ONE):
        one = texts[f"{key}_one"]
        assert not re.search(r"\b1 (?:\w+-?\w* )?(?:rows|steps|pairs|layers)\b", one["en"])


def test_what_commands_count_has_its_singular() -> None:
    """One row, and thousands apart."""
    found = [counted(number, "row") for number in (0, 1, 2, 2000)]
    assert found == ["0 rows", "1 row", "2 rows", "2,000 rows"]


def test_nothing_that_may_be_one_is_counted_by_hand() -> None:
    """A command's own sentence takes `counted`, so that nobody reads "1 rows"."""
    by_hand = re.compile(
        r"(?<!/)\{(?:len\(\w+\)|\w+(?:\.\w+)*)(?::,)?\} (?:rows|steps|pairs|files)\b"
    )
    found = {
        f"{path.name}: {match[0]}"
        for path in (ROOT / "commands").glob("*.py")
        for match in by_hand.finditer(path.read_text(encoding="utf-8"))
    }
    assert found == {"pack.py: {len(names)} files"}  # never one: the card is among them
