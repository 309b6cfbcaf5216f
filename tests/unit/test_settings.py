"""Every setting of the box can be set, is explained where it is set, and refused in words."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from runner.contract.settings import Settings
from runner.contract.settings_table import APART, SettingError, read_settings, table, with_folders

REPOSITORY = Path(__file__).parents[2]
FOLDERS = (Path("jobs"), Path("outputs"), Path("models"))


def test_no_setting_is_forgotten() -> None:
    """The table holds each field of Settings; what it leaves out is named."""
    assert {one.name for one in table()} | set(APART) == {one.name for one in fields(Settings)}


def test_each_stands_in_the_example_with_its_default_and_a_sentence() -> None:
    """.env.example explains each setting, and compose.yaml hands it on with the same default."""
    example = (REPOSITORY / ".env.example").read_text()
    compose = (REPOSITORY / "compose.yaml").read_text()
    for one in table():
        found = re.search(rf"^# (.+)\n(?:# .*\n)*{one.variable}=(.*)$", example, re.MULTILINE)
        assert found is not None, one.variable
        assert found[2] == one.default_text
        assert re.search(r"[.:]", found[1]) or len(found[1]) > 20
        assert f"{one.variable}: ${{{one.variable}:-{one.default_text}}}" in compose


def test_what_is_set_arrives() -> None:
    """A value in the environment, or on the command line above it, is what the daemon goes by."""
    values = {
        "settle_seconds": ("3.5", 3.5),
        "min_free_bytes": ("7", 7),
        "device": ("cpu", "cpu"),
        "polling": ("yes", True),
        "look_ahead": ("off", False),
        "trust_remote_code": ("TRUE", True),
        "share_name": ("\\\\server", "\\\\server"),
        "language": ("de", "de"),
    }
    environment = {f"RUNNER_{name.upper()}": text for name, (text, _) in values.items()}
    found = read_settings(environment, ["stall_seconds=900", "settle_seconds=4"])
    settings = with_folders(*FOLDERS, **found)
    assert settings.settle_seconds == 4.0
    assert settings.stall_seconds == 900.0
    for name, (_, value) in list(values.items())[1:]:
        assert getattr(settings, name) == value
    defaults = {one.variable: one.default_text for one in table()}
    assert with_folders(*FOLDERS, **read_settings(defaults)) == with_folders(*FOLDERS)
    assert read_settings({one.variable: "" for one in table()}) == {}


@pytest.mark.parametrize(
    ("name", "bad", "allowed"),
    [
        ("stall_seconds", "ten", "a number above 0"),
        ("stall_seconds", "0", "a number above 0"),
        ("stall_seconds", "-5", "a number above 0"),
        ("stall_seconds", "inf", "a number above 0"),
        ("stall_seconds", "nan", "a number above 0"),
        ("min_free_bytes", "1 GiB", "a whole number"),
        *(("lease_seconds", bad, "a number from 10 to 3600") for bad in ("9.9", "1e300", "60s")),
        ("device", "gpu0", "auto or cpu or cuda"),
        ("language", "fr", "en or de"),
        ("trust_remote_code", "maybe", "true or false"),
        ("polling", "2", "true or false"),
    ],
)
def test_a_bad_value_is_refused_in_words(name: str, bad: str, allowed: str) -> None:
    """The variable, what was found and what is allowed."""
    variable = f"RUNNER_{name.upper()}"
    with pytest.raises(SettingError) as caught:
        read_settings({variable: bad})
    for part in (variable, repr(bad), allowed):
        assert part in caught.value.message
    with pytest.raises(SettingError, match="no_such"):
        read_settings({}, ["no_such=1"])
