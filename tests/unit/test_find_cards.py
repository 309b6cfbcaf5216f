"""RUNNER_GPUS: which cards are meant, and what is refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.card.answer import Answer, Card
from runner.card.find_cards import NamedCard, find_cards
from runner.contract.layout import Outputs
from runner.contract.settings_table import SettingError, read_settings

TWO = Answer(
    driver="580.65.06",
    count=2,
    cards=(
        Card(name="RTX 4090", capability="8.9", uuid="GPU-aa11"),
        Card(name="RTX 3090", capability="8.6", uuid="GPU-bb22"),
    ),
)
LOST = Answer(code=15, text="GPU is lost", driver="580.65.06", count=2)
NO_DRIVER = Answer(code=12, text="NVML Shared Library Not Found")


def found(setting: str, answer: Answer = TWO, given: str = "") -> list[NamedCard]:
    """Find the cards of a setting."""
    environment = {"NVIDIA_VISIBLE_DEVICES": given} if given else {}
    return find_cards(setting, environment, ask=lambda _: answer)


@pytest.mark.parametrize(
    ("setting", "given", "cards"),
    [
        ("", "", []),
        ("all", "", [("0", "GPU-aa11"), ("1", "GPU-bb22")]),
        ("1, 0", "", [("0", "GPU-aa11"), ("1", "GPU-bb22")]),  # the driver's order
        ("1", "", [("1", "GPU-bb22")]),
        ("GPU-bb22", "", [("1", "GPU-bb22")]),
        ("GPU-bb", "", [("1", "GPU-bb22")]),  # as much of it as is needed, as CUDA takes it
        ("2,5", "5,2", [("2", "GPU-aa11"), ("5", "GPU-bb22")]),  # a container's cards by host
        ("all", "2,5", [("2", "GPU-aa11"), ("5", "GPU-bb22")]),
        (
            "0,1",
            "0,1,2",
            [("0", "GPU-aa11"), ("1", "GPU-bb22")],
        ),  # it was given others than it says
        ("5,2", "void", [("2", "GPU-aa11"), ("5", "GPU-bb22")]),  # by CDI: it is not told numbers
        ("0,1", "all", [("0", "GPU-aa11"), ("1", "GPU-bb22")]),
        ("MIG-1234", "", [("MIG-1234", "MIG-1234")]),
    ],
)
def test_which_cards_are_meant(setting: str, given: str, cards: list[tuple[str, str]]) -> None:
    """Numbers are the host's, as `nvidia-smi -L` shows them there."""
    assert [(one.number, one.uuid) for one in found(setting, given=given)] == cards


@pytest.mark.parametrize(
    ("setting", "answer", "given", "says"),
    [
        (
            "0,1,2",
            TWO,
            "",
            "the card 2, which is not there; the driver shows 0 (RTX 4090, GPU-aa11",
        ),
        ("0", TWO, "2,5", "the card 0, which is not there; the driver shows 2 (RTX 4090"),
        ("GPU-cc33", TWO, "", "the card GPU-cc33, which is not there"),
        ("GPU-", TWO, "", "the card GPU-, which is not there"),  # which of the two?
        ("0,GPU-aa11", TWO, "", "the card 0 twice: as 0 and as GPU-aa11"),
        ("GPU-aa11,0", TWO, "", "the card 0 twice: as GPU-aa11 and as 0"),
        ("all", NO_DRIVER, "", "there is no card"),
        ("0,1", Answer(driver="580"), "", "there is no card"),
    ],
)
def test_what_is_not_there_is_refused(setting: str, answer: Answer, given: str, says: str) -> None:
    """It says what was asked for, what there is, and where to change it."""
    with pytest.raises(SettingError, match="RUNNER_GPUS") as caught:
        found(setting, answer, given)
    assert says in caught.value.message
    assert "nvidia-smi -L" in str(caught.value.advice)


@pytest.mark.parametrize(
    "text", ["0,0", "00,0", "one", "0,", ",", "-1", "0;1", "all,0", "GPU-aa/../x y", "0 1", "1.5"]
)
def test_nonsense_is_refused_before_any_driver_is_asked(text: str) -> None:
    """A card named twice, and what is no card's name at all."""
    with pytest.raises(SettingError, match="each once"):
        read_settings({"RUNNER_GPUS": text})


def test_cards_of_a_lost_driver_are_waited_for() -> None:
    """A box whose card is lost at the start has its cards: each is asked for by itself."""
    assert [one.asked_as for one in found("0,1", LOST)] == ["0", "1"]
    assert [one.asked_as for one in found("all", LOST)] == ["0", "1"]
    assert [(one.number, one.asked_as) for one in found("5,2", LOST, "2,5")] == [
        ("2", "0"),
        ("5", "1"),
    ]
    assert [one.asked_as for one in found("all", NO_DRIVER, "3,4,5")] == ["0", "1", "2"]


@pytest.mark.parametrize("code", [18, 3])  # until the machine's restart; a question it refuses
def test_a_driver_that_tells_of_no_card_is_no_wrong_setting(code: int) -> None:
    """The guard says what is wrong with it, and the box stays as with one card."""
    answer = Answer(code=code, text="?", count=2)
    assert [one.asked_as for one in found("0,1", answer)] == ["0", "1"]


def test_a_card_beside_a_lost_one_is_told_by_its_own_answer(tmp_path: Path) -> None:
    """By its number alone it would have the first card's lease, and not its own."""
    outputs = Outputs(tmp_path)
    other = found("0,1", LOST)[1].told_by(Answer(cards=TWO.cards[1:]))
    assert (other.asked_as, other.model) == ("GPU-bb22", "RTX 3090")
    assert other.lease(outputs, other.uuid) == found("1")[0].lease(outputs, "GPU-bb22")
    assert found("0,1", LOST)[0].told_by(LOST) == found("0,1", LOST)[0]


def test_the_first_cards_lease_is_the_one_of_a_box_with_one_card(tmp_path: Path) -> None:
    """`runner try` without the setting meets whoever works on the card that it would take."""
    outputs = Outputs(tmp_path)
    leases = [one.lease(outputs, one.uuid) for one in found("all")]
    assert leases[0] == outputs.gpu_lease
    assert leases[1] != outputs.gpu_lease
    assert found("1")[0].lease(outputs, "GPU-bb22") == leases[1]
