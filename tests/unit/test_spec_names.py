"""Which files in the inbox are specs."""

import pytest

from runner.spec.names import is_spec_name, naming_problem


@pytest.mark.parametrize("name", ["contracts.yaml", "A b.YML", "job.json", "v1.2.yaml", "ä.yaml"])
def test_specs_are_known_by_their_ending(name):
    """YAML and JSON files are specs, however their names are written."""
    assert is_spec_name(name)
    assert naming_problem(name) is None


@pytest.mark.parametrize(
    "name",
    [
        ".x.yaml",
        "._contracts.yaml",
        "~$contracts.yaml",
        "contracts.yaml~",
        "contracts.yaml.part",
        "contracts.yaml.tmp",
        ".tmp-0a1b2c.yaml",
        "#contracts.yaml#",
        ".contracts.yaml.swp",
        ".yaml",
        "contracts.yaml.sb-1a2b3c-XyZ",
        "contracts.sync-conflict-20260101-120000-ABCDEF.yaml",
    ],
)
def test_what_editors_and_sync_clients_leave_is_ignored(name):
    """Temporary files are neither specs nor answered."""
    assert not is_spec_name(name)
    assert naming_problem(name) is None


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("x.yaml.txt", "x.yaml"),
        ("My Job.YML.TXT", "My Job.YML"),
        ("job.json.txt", "job.json"),
        ("contracts.ymal", "contracts.yaml"),
        ("x.yaml.", "x.yaml"),
    ],
)
def test_a_near_miss_is_answered_with_the_right_name(name, good):
    """Windows hides endings; the answer says what to rename the file to."""
    problem = naming_problem(name)
    assert problem is not None
    assert f"rename it to {good} " in (problem.hint or "")
    assert not is_spec_name(name)


@pytest.mark.parametrize("name", ["STATUS.txt", "data.jsonl", "README.md", "notes.txt", "x.csv"])
def test_other_files_are_left_alone(name):
    """Data and notes may lie in the inbox."""
    assert not is_spec_name(name)
    assert naming_problem(name) is None


@pytest.mark.parametrize("name", ["job.yaml.docx", "job.yml.doc", "job.yaml.rtf"])
def test_a_document_of_word_is_not_to_be_renamed(name):
    """Its content is none of a spec, whatever it is called."""
    problem = naming_problem(name)
    assert "document of Word" in problem.message
    assert "Notepad" in problem.hint
