"""The commands, on real files and in real processes."""

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runner import cli
from runner.commands import fetch
from runner.commands.logs import human
from runner.commands.page import Cell, Page
from runner.commands.status import read_overview
from runner.commands.submit import newest_run_of
from runner.contract.batch import BatchPlan
from runner.contract.findings import DataFinding, Level, Place
from runner.contract.layout import Outputs, RunFolder
from runner.contract.models import find_model
from runner.contract.progress import measuring_left, progress_of, read_tail, seconds_left
from runner.contract.record import (
    Attempt,
    Cleared,
    ErrorFacts,
    RunRecord,
    read_record,
    write_record,
)
from runner.contract.states import State
from runner.files.lock import Lock
from runner.training import packaged_model

START = datetime(2026, 11, 23, 22, 10, 5, tzinfo=UTC)
SPEC = b"model: tiny\ndata: rows.jsonl\n"


def make_run(outputs: Path, job: str, number: int, state: State, **facts) -> RunFolder:
    """Write a run folder as the daemon does."""
    run = Outputs(outputs).run(job, f"20261123T2210{number:02d}Z-k3f9")
    run.root.mkdir(parents=True)
    record = RunRecord(
        job=job,
        run_id=run.run_id,
        state=state,
        file_name=f"{job}.yaml",
        sequence=number,
        created_at=START + timedelta(seconds=number),
        spec_sha256="0" * 64,
        **facts,
    )
    write_record(run.record, record)
    return run


@pytest.fixture
def training(tmp_path):
    """A run in the middle of its training, two seconds a step."""
    plan = BatchPlan(per_device_batch_size=8, gradient_accumulation_steps=2)
    run = make_run(
        tmp_path / "outputs",
        "contracts",
        1,
        State.TRAINING,
        batch_plan=plan,
        effective_batch_size=16,
        total_steps=20,
        attempts=(Attempt(number=1, batch_plan=plan, started_at=START),),
    )
    run.attempt(1).mkdir(parents=True)
    lines = [
        {
            "step": step,
            "loss": 3.0 - step / 10,
            "tokens_per_second": 512.0,
            "gpu_memory_bytes": 5 * 1024**3,
            "time": (START + timedelta(seconds=2 * step)).isoformat(),
        }
        for step in range(1, 6)
    ]
    lines.insert(3, {"step": 3, "eval_loss": 2.75, "time": START.isoformat()})
    text = "\n".join(json.dumps(line) for line in lines)
    (run.attempt(1) / "metrics.jsonl").write_text(text + '\n{"step": 6, "lo')
    return run


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    """Run a command in this process."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


COMMANDS = [
    "watch", "submit", "validate", "check", "preview", "plan", "schema", "status", "show", "logs",
    "cancel", "try", "fetch", "demo", "health", "doctor",
    "schedule", "evaluate", "rate", "promote", "rollback", "erase",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_text_carries_an_example(capsys, command):
    """A person who asks for help sees a line to copy."""
    status, out, _ = call(capsys, command, "--help")
    assert status == 0
    assert re.search(rf"Example:\n +runner {command}", out)


def test_the_list_of_commands_is_readable(capsys):
    """On an ordinary terminal no command's sentence is cut."""
    status, out, _ = call(capsys, "--help")
    assert status == 0
    assert "..." not in out.partition("Commands:")[2]


def test_commands_that_only_read_never_import_torch(training, tmp_path):
    """Status, show, logs, schema and watch's help load neither torch nor its family."""
    outputs = str(training.root.parent.parent)
    calls = [
        ["status", "--outputs-dir", outputs],
        ["show", "contracts", "--outputs-dir", outputs],
        ["schema"],
        ["watch", "--help"],
    ]
    script = (
        "import sys\nfrom runner import cli\n"
        f"for words in {calls!r}:\n"
        "    try: cli.main(words)\n"
        "    except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_status_tells_progress_loss_speed_memory_and_eta(capsys, training):
    """The running job's bar comes with all the figures; a line half written is left out."""
    outputs = str(training.root.parent.parent)
    status, out, _ = call(capsys, "status", "--outputs-dir", outputs)
    assert status == 0
    for part in ("contracts", "5/20 steps", "25%", "ETA", "loss 2.5", "512 tokens/s", "5.0 GiB"):
        assert part in out
    _, out, _ = call(capsys, "status", "--json", "--outputs-dir", outputs)
    (running,) = json.loads(out)["running"]
    assert running["progress"]["step"] == 5
    assert running["progress"]["eval_loss"] == 2.75


def test_eta_is_the_median_step_times_the_steps_left():
    """One slow step (an evaluation between) does not spoil the forecast."""
    times = [0, 2, 4, 6, 30, 32]
    steps = [{"step": n, "loss": 1.0, "time": float(t)} for n, t in enumerate(times, start=1)]
    assert seconds_left(steps, 16, clock=32.0) == pytest.approx(20.0)
    assert seconds_left(steps, 16, clock=33.0) == pytest.approx(19.0)
    assert seconds_left(steps, 6, clock=1e9) == 0.0
    assert seconds_left(steps[:1], 16, clock=32.0) is None


def test_eta_counts_the_measurements_that_are_still_to_come(training):
    """At the pace and price of those seen; before the first one, as it was forecast."""
    lines = [{"step": n, "loss": 1.0, "time": 2.0 * n} for n in range(1, 9)]
    assert measuring_left(lines, 8, 40) == 0.0
    assert measuring_left(lines, 8, 40, forecast=50.0) == pytest.approx(40.0)
    lines.insert(4, {"step": 4, "eval_loss": 2.0, "time": 8.0 + 3.0})
    assert measuring_left(lines[:6], 5, 40, forecast=50.0) == pytest.approx(9 * 3.0)
    lines.append({"step": 8, "eval_loss": 1.9, "time": 16.0 + 5.0})
    assert measuring_left(lines, 8, 40) == pytest.approx(8 * 5.0)
    assert measuring_left(lines, 8, 10) == pytest.approx(5.0)  # the last step is measured, too
    assert measuring_left(lines, 40, 40) == 0.0
    assert measuring_left([], 0, None) == 0.0
    record = read_record(training.record)
    steps = [line for line in lines if "loss" in line]
    plain = progress_of(steps, record, clock=16.0).eta_seconds
    assert plain == pytest.approx(12 * 2.0)
    known = record.model_copy(update={"forecast": {"measuring_seconds": 10.0}})
    assert progress_of(steps, known, clock=16.0).eta_seconds == pytest.approx(24.0 + 6.0)
    assert progress_of(lines, known, clock=16.0).eta_seconds == pytest.approx(24.0 + 3 * 5.0)


def test_status_orders_the_queue_by_priority_then_claim(tmp_path):
    """The queue is shown in the order in which it will be worked off."""
    outputs = tmp_path / "outputs"
    make_run(outputs, "late", 3, State.QUEUED)
    make_run(outputs, "early", 1, State.PREPARING)
    make_run(outputs, "urgent", 2, State.QUEUED, priority=5)
    assert [s.record.job for s in read_overview(Outputs(outputs)).queue] == [
        "urgent",
        "early",
        "late",
    ]


def test_status_names_a_damaged_record(capsys, tmp_path):
    """A record that cannot be read is told, and the others are still shown."""
    outputs = tmp_path / "outputs"
    make_run(outputs, "good", 1, State.SUCCEEDED)
    bad = make_run(outputs, "bad", 2, State.SUCCEEDED)
    bad.record.write_text("{")
    _, out, _ = call(capsys, "status", "--outputs-dir", str(outputs))
    assert "good" in out
    assert f"bad/{bad.run_id}: its record cannot be read" in out


@pytest.mark.parametrize("colors", [True, False])
def test_the_last_column_has_its_title_too(colors):
    """`runner status` says since when an adapter is in use, and `runner schedule` what was last."""
    page = Page(width=80, colors=colors)
    row = [Cell(text="contracts"), Cell(text="2026-11-28")]
    plain = [
        re.sub(r"\x1b\[\d+m", "", line) for line in page.table("In use", ("job", "since"), [row])
    ]
    assert plain[2:] == ["job        since", "contracts  2026-11-28"]


def test_status_of_a_box_that_never_ran_is_empty(capsys, tmp_path):
    """No outputs folder is no error, and the folder that was looked at is named."""
    status, out, _ = call(capsys, "status", "--outputs-dir", str(tmp_path / "none"))
    first, second = out.strip().splitlines()[:2]
    assert (status, first) == (0, "Nothing is training.")
    assert second.startswith(f"No daemon watches the box of {tmp_path}/none.")


def test_show_tells_what_was_removed_with_time(capsys, tmp_path):
    """Before somebody asks for another evaluation: the rows are gone, and why."""
    make_run(
        tmp_path, "job", 1, State.SUCCEEDED, cleared=Cleared(at=datetime(2026, 3, 4, tzinfo=UTC))
    )
    make_run(tmp_path, "other", 1, State.SUCCEEDED)
    _, out, _ = call(capsys, "show", "job", "--outputs-dir", str(tmp_path))
    assert "the copy of its data, 2026-03-04, because its job has newer runs" in " ".join(
        out.split()
    )
    assert "newer runs" not in call(capsys, "show", "other", "--outputs-dir", str(tmp_path))[1]


def test_show_tells_error_and_advice_with_control_characters_escaped(capsys, tmp_path):
    """What came from a shared folder cannot drive the terminal."""
    error = ErrorFacts(kind="bad_data", message="no \x1b[2Jfile\u202e", advice="copy it")
    make_run(tmp_path, "job", 1, State.REJECTED, error=error)
    _, out, _ = call(capsys, "show", "job", "--outputs-dir", str(tmp_path))
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "no \\x1b[2Jfile\\u202e" in out
    assert "copy it" in out


@pytest.mark.parametrize(
    ("forecast", "words"),
    [
        ({"gpu": None, "gpu_memory_bytes": 2**30}, None),  # on a CPU there is no such memory
        ({"gpu": "RTX", "gpu_memory_bytes": 11 * 2**30}, "11.0 GiB forecast"),
        (
            {
                "gpu": "RTX",
                "gpu_memory_bytes": 11 * 2**30,
                "limit_bytes": 24 * 2**30,
                "measured_gpu_memory_bytes": 10 * 2**30,
            },
            "11.0 GiB forecast of 24.0 GiB, 10.0 GiB measured",
        ),
    ],
)
def test_show_puts_the_measured_peak_beside_the_forecast(capsys, tmp_path, forecast, words):
    """A person sees how good the forecast was."""
    make_run(tmp_path, "job", 1, State.SUCCEEDED, forecast=forecast)
    _, out, _ = call(capsys, "show", "job", "--outputs-dir", str(tmp_path))
    assert words in out if words else "GPU memory" not in out


def test_show_names_the_advice_about_the_data(capsys, tmp_path):
    """Advice is said with its lines; what is only information is counted, and where it lies."""
    places = tuple(Place(file="a.jsonl", line=line) for line in (4, 9))
    found = [
        DataFinding(check="x", level=Level.ADVISE, count=5, message="Copies.", places=places),
        DataFinding(check="y", level=Level.INFORM, count=5, message="A fact."),
        DataFinding(check="hardest_answers", level=Level.INFORM, count=5, message="The hardest."),
    ]
    make_run(tmp_path, "job", 1, State.SUCCEEDED, findings=found)
    _, out, _ = call(capsys, "show", "job", "--outputs-dir", str(tmp_path))
    assert "Copies. (a.jsonl, lines 4 and 9, …)" in out
    assert "1 more fact about it: report.html" in out
    assert "A fact." not in out
    assert "The hardest." in out  # a wrong label is among them


def test_show_finds_a_run_by_job_id_or_its_end(capsys, tmp_path):
    """A job's name means its newest run; an unknown one is answered with what there is."""
    make_run(tmp_path, "job", 1, State.SUCCEEDED)
    newest = make_run(tmp_path, "job", 2, State.SUCCEEDED)
    for name in ("job", newest.run_id, newest.run_id[9:], f"job/{newest.run_id}"):
        _, out, _ = call(capsys, "show", name, "--json", "--outputs-dir", str(tmp_path))
        assert json.loads(out)["run_id"] == newest.run_id
    status, _, err = call(capsys, "show", "k3f9", "--outputs-dir", str(tmp_path))
    assert (status, "fits 2 runs" in err) == (1, True)
    status, _, err = call(capsys, "show", "nothing", "--outputs-dir", str(tmp_path))
    assert (status, "Jobs with runs here: job" in err) == (1, True)


def test_logs_follow_ends_with_the_run(tmp_path):
    """`logs -f` prints what comes while the run is under way, and leaves when it has ended."""
    run = make_run(tmp_path, "job", 1, State.TRAINING)
    run.log.write_text('{"time": "t1", "level": "info", "event": "claimed", "place": 1}\n')
    follower = subprocess.Popen(
        [sys.executable, "-m", "runner.cli", "logs", "job", "-f", "--outputs-dir", str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout is not None
    assert follower.stdout.readline() == "t1 claimed place=1\n"
    with run.log.open("a") as file:
        file.write('{"time": "t2", "level": "error", "event": "failed"}\n')
    record = RunRecord.model_validate(json.loads(run.record.read_text()))
    write_record(run.record, record.but(state=State.FAILED))
    out, _ = follower.communicate(timeout=30)
    assert (out, follower.returncode) == ("t2 error: failed\n", 0)


def test_logs_of_a_stage(capsys, tmp_path):
    """A stage's own log is shown, the newest attempt's for train; a wrong name is refused."""
    run = make_run(tmp_path, "job", 1, State.FAILED)
    for number in (1, 2):
        run.attempt(number).mkdir(parents=True)
        (run.attempt(number) / "train.log").write_text(f"attempt {number}\x07\n")
    words = ["logs", "job", "--outputs-dir", str(tmp_path), "--stage"]
    assert call(capsys, *words, "train")[:2] == (0, "attempt 2\\x07\n")
    assert call(capsys, *words, "prepare")[0] == 1
    assert call(capsys, *words, "nonsense")[0] == 2


def test_submit_brings_the_data_along(capsys, tmp_path):
    """Spec and data arrive whole in the inbox; other data of the same name is never replaced."""
    home, inbox = tmp_path / "home", tmp_path / "jobs"
    home.mkdir()
    inbox.mkdir()
    (home / "job.yaml").write_bytes(SPEC)
    (home / "rows.jsonl").write_text("{}\n")
    words = ["submit", str(home / "job.yaml"), "--jobs-dir", str(inbox), "--json"]
    status, out, _ = call(capsys, *words)
    assert (status, json.loads(out)["data_copied"]) == (0, ["rows.jsonl"])
    assert sorted(p.name for p in inbox.iterdir()) == ["job.yaml", "rows.jsonl"]
    assert (inbox / "job.yaml").read_bytes() == SPEC
    assert call(capsys, *words)[0] == 1  # it still waits
    (inbox / "job.yaml").unlink()
    (home / "rows.jsonl").write_text("{} \n")
    status, _, err = call(capsys, *words)
    assert (status, "--replace-data" in err) == (1, True)
    assert not (inbox / "job.yaml").exists()
    assert call(capsys, *words, "--replace-data")[0] == 0
    assert (inbox / "rows.jsonl").read_text() == "{} \n"


@pytest.mark.parametrize("named", ["data/*.jsonl", "data/", "data"])
def test_patterns_and_folders_are_validated_and_submitted(capsys, tmp_path, named):
    """All files that they name are looked at and brought; what they do not name stays."""
    home, inbox = tmp_path / "home", tmp_path / "jobs"
    (home / "data").mkdir(parents=True)
    inbox.mkdir()
    spec = home / "job.yaml"
    spec.write_text(f"model: tiny\ndata: {named}\n")
    words = ["submit", str(spec), "--jobs-dir", str(inbox), "--json"]
    status, _, err = call(capsys, *words)
    assert (status, "names no file" in err) == (1, True)
    _, out, _ = call(capsys, "validate", str(spec), "--models-dir", str(tmp_path))
    assert "names no file beside the spec" in out
    for name in ("a.jsonl", "b.jsonl"):
        (home / "data" / name).write_text("{}\n")
    (home / "data" / "notes.txt").write_text("x")
    _, out, _ = call(capsys, "validate", str(spec), "--models-dir", str(tmp_path))
    assert "data" not in out.replace(str(tmp_path), "")
    status, out, _ = call(capsys, *words)
    assert (status, json.loads(out)["data_copied"]) == (0, ["data/a.jsonl", "data/b.jsonl"])
    assert sorted(p.name for p in (inbox / "data").iterdir()) == ["a.jsonl", "b.jsonl"]


def test_submit_does_not_learn_what_others_left_in_the_inbox(capsys, tmp_path):
    """A pattern that means one file here and two there is refused, with the other's name."""
    home, inbox = tmp_path / "home", tmp_path / "jobs"
    for folder, name in ((home, "a.jsonl"), (inbox, "theirs.jsonl")):
        (folder / "data").mkdir(parents=True)
        (folder / "data" / name).write_text("{}\n")
    (home / "job.yaml").write_text("model: tiny\ndata: data/*.jsonl\n")
    words = ["submit", str(home / "job.yaml"), "--jobs-dir", str(inbox)]
    status, _, err = call(capsys, *words)
    assert (status, "data/theirs.jsonl" in err) == (1, True)
    assert not (inbox / "job.yaml").exists()
    (home / "data" / "a.jsonl").unlink()  # whoever means those that lie there may have them
    assert call(capsys, *words)[0] == 0


def test_a_name_with_a_star_is_brought_once(capsys, tmp_path):
    """A file may be called like a pattern that names it."""
    home, inbox = tmp_path / "home", tmp_path / "jobs"
    home.mkdir()
    inbox.mkdir()
    (home / "a*.jsonl").write_text("{}\n")
    (home / "job.yaml").write_text("model: tiny\ndata: 'a*.jsonl'\n")
    status, _, err = call(capsys, "submit", str(home / "job.yaml"), "--jobs-dir", str(inbox))
    assert status == 0, err
    assert (inbox / "a*.jsonl").read_text() == "{}\n"


def test_validate_tells_links_and_pipes_from_files(capsys, tmp_path):
    """What the run would refuse is refused here, and not called empty."""
    (tmp_path / "a.jsonl").write_text("{}\n")
    (tmp_path / "l.jsonl").symlink_to("a.jsonl")
    os.mkfifo(tmp_path / "p.jsonl")
    (tmp_path / "job.yaml").write_text("model: tiny\ndata: [l.jsonl, p.jsonl]\n")
    _, out, _ = call(capsys, "validate", str(tmp_path / "job.yaml"), "--models-dir", str(tmp_path))
    assert "'l.jsonl' is a link" in out
    assert "'p.jsonl' is no file" in out


def test_submit_refuses_a_bad_spec_and_a_missing_inbox(capsys, tmp_path):
    """Nothing is dropped that would be rejected."""
    spec = tmp_path / "job.yaml"
    spec.write_text("model: tiny\ndata: rows.jsonl\nlearning_rat: 1\n")
    inbox = tmp_path / "jobs"
    inbox.mkdir()
    status, _, err = call(capsys, "submit", str(spec), "--jobs-dir", str(inbox))
    assert (status, "learning_rat" in err) == (1, True)
    assert list(inbox.iterdir()) == []
    spec.write_bytes(SPEC)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    assert call(capsys, "submit", str(spec), "--jobs-dir", str(tmp_path / "none"))[0] == 1
    spec.rename(tmp_path / "job.yaml.txt")
    status, _, err = call(
        capsys, "submit", str(tmp_path / "job.yaml.txt"), "--jobs-dir", str(inbox)
    )
    assert (status, "rename it to job.yaml" in err) == (1, True)
    assert list(inbox.iterdir()) == []


def test_a_spec_that_was_moved_still_finds_its_data(capsys, tmp_path):
    """A rejected spec can be looked at where it lies: its data is where it was dropped."""
    for folder in ("rejected", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / ".runner-inbox").write_text("x")
    (tmp_path / "data" / "rows.jsonl").write_text("{}\n")
    spec = tmp_path / "rejected" / "job--20261123T221001Z-k3f9.yaml"
    spec.write_text("model: tiny\ndata: data/rows.jsonl\n")
    _, out, _ = call(capsys, "validate", str(spec), "--models-dir", str(tmp_path))
    assert "the model is not on this box" in out
    assert "rows.jsonl" not in out


def test_a_submitted_run_is_found_by_name_and_by_being_new(tmp_path):
    """`submit --wait` follows the run of this drop, not of an earlier one."""
    make_run(tmp_path, "job", 1, State.SUCCEEDED)
    outputs = Outputs(tmp_path)
    before = {run_id for _, run_id in outputs.run_names()}
    assert newest_run_of(outputs, "job.yaml", before) is None
    assert newest_run_of(outputs, "job.yaml", ()) is not None
    assert newest_run_of(outputs, "other.yaml", ()) is None


def test_validate_names_every_problem_with_its_line(capsys, tmp_path):
    """Spec, missing model and missing data: all told, exit 1, JSON for scripts."""
    spec = tmp_path / "job.yaml"
    spec.write_text("model: tiny\ndata: rows.jsonl\nmethd: lora\n")
    status, out, _ = call(capsys, "validate", str(spec), "--json")
    (answer,) = json.loads(out)
    assert (status, answer["ok"]) == (1, False)
    assert any(problem["line"] == 3 for problem in answer["problems"])
    spec.write_bytes(SPEC)
    status, out, _ = call(capsys, "validate", str(spec), "--models-dir", str(tmp_path))
    assert status == 1
    assert "rows.jsonl" in out
    assert "tiny" in out
    assert call(capsys, "validate", str(spec), "--spec-only")[0] == 0


@pytest.mark.parametrize(("cap", "ok"), [("0.4", False), ("2", True)])
def test_validate_refuses_a_cap_below_the_weights(capsys, tiny_model, tmp_path, cap, ok):
    """The numbers are told: the cap, what the weights take, and a cap that would do."""
    (tmp_path / "rows.jsonl").write_text('{"text": "x"}\n')
    spec = tmp_path / "job.yaml"
    spec.write_text(f"model: tiny\ndata: rows.jsonl\nlimits: {{gpu_memory_gib: {cap}}}\n")
    words = ("validate", str(spec), "--models-dir", str(tiny_model.parent), "--json")
    status, out, _ = call(capsys, *words)
    (answer,) = json.loads(out)
    assert (status, answer["ok"]) == (0 if ok else 1, ok)
    for problem in answer["problems"]:
        assert (problem["field"], problem["found"]) == ("limits.gpu_memory_gib", "0.4")
        assert (
            "the cap is 0.4 GiB, but the model's weights alone take 0.1 GiB" in problem["message"]
        )
        assert "give at least 1" in problem["hint"]


def test_schema_is_json(capsys):
    """Editors get every field."""
    _, out, _ = call(capsys, "schema")
    assert {"model", "data", "training", "limits"} <= set(json.loads(out)["properties"])


def test_cancel_leaves_a_request(capsys, tmp_path):
    """Cancel writes no record: it asks the daemon; a run that has ended is not asked about."""
    run = make_run(tmp_path, "job", 1, State.TRAINING)
    before = run.record.read_bytes()
    assert call(capsys, "cancel", "job", "--outputs-dir", str(tmp_path))[0] == 0
    (request,) = Outputs(tmp_path).requests.iterdir()
    assert run.run_id in request.read_text()
    assert run.record.read_bytes() == before
    make_run(tmp_path, "job", 2, State.SUCCEEDED)
    assert call(capsys, "cancel", "job", "--outputs-dir", str(tmp_path))[0] == 1


def test_fetch_refuses_what_is_no_hub_id(capsys, tmp_path):
    """A name that climbs out of models/ never reaches the hub's client."""
    for name in ("../x", "a/../../b", "model", "a/b/c"):
        status, _, err = call(capsys, "fetch", name, "--models-dir", str(tmp_path))
        assert (status, "is no hub id" in err) == (1, True)


def test_a_running_daemon_is_noticed_by_its_lock(tmp_path):
    """The lock decides, not the file: a daemon that died does not count."""
    outputs = Outputs(tmp_path)
    assert not Lock.is_held(outputs.lock)
    outputs.private.mkdir()
    script = (
        "import fcntl, os, sys\n"
        f"d = os.open({str(outputs.lock)!r}, os.O_RDWR | os.O_CREAT)\n"
        "fcntl.flock(d, fcntl.LOCK_EX)\nprint('held', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert Lock.is_held(outputs.lock)
    assert not Lock.is_held(outputs.lock)


def test_what_is_no_event_is_shown_as_it_is():
    """A line that a library wrote stays readable, and drives no terminal."""
    assert human("plain\x1b") == "plain\\x1b"


def test_the_tail_of_a_long_metrics_file_is_whole_lines(tmp_path):
    """A status of a run with a million steps reads only the end of its metrics."""
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {n}, "loss": 1.0}}\n' for n in range(10_000)))
    lines = read_tail(path, limit=1000)
    assert lines[-1]["step"] == 9999
    assert len(lines) < 40
    record = RunRecord.model_validate(
        {
            "job": "j", "run_id": "r", "state": "training", "file_name": "j.yaml",
            "created_at": START, "spec_sha256": "", "total_steps": 20_000,
        }
    )  # fmt: skip
    assert progress_of(lines, record).share == pytest.approx(0.5, abs=0.001)


def test_help_is_quick_and_status_is_small():
    """The command line itself stays light: the daemon's idle size begins here."""
    # VmHWM belongs to this program alone; ru_maxrss would remember the size of the forking parent.
    script = (
        "import runner.cli\nprint(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, env=os.environ
    )
    assert int(run.stdout) < 60 * 1024  # KiB


def run_command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own: it loads torch."""
    words = [sys.executable, "-m", "runner.cli", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_preview_shows_the_rows_that_a_run_would_train_on(tiny_model, tmp_path):
    """Exactly the answer and its end token are learned; the spec's own faults are told."""
    rows = [{"instruction": f"What is {n} plus 1?", "output": f"It is {n + 1}."} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = tmp_path / "job.yaml"
    spec.write_text(f"model: {tiny_model.name}\ndata: rows.jsonl\n")
    words = ["preview", spec, "--models-dir", tiny_model.parent, "-n", "1"]
    shown = run_command(*words, "--json")
    assert shown.returncode == 0, shown.stderr
    (row,) = json.loads(shown.stdout)
    number = row["row"]
    learned = [part["text"] for part in row["parts"] if part["learned"]]
    assert learned == [f"It is {number + 1}.<|im_end|>"]
    assert f"What is {number} plus 1?" in row["parts"][0]["text"]
    assert sum(token.get("count", 1) for token in row["shown"]) == row["tokens"]
    chosen = run_command("preview", spec, "--models-dir", tiny_model.parent, "--json")
    assert json.loads(chosen.stdout)[0]["why"][0] == "first"
    assert {why for one in json.loads(chosen.stdout) for why in one["why"]} == {
        "first",
        "longest",
        "shortest",
        "random",
    }
    (tmp_path / "rows.jsonl").write_text('{"instruction": "no answer"}\n')
    refused = run_command(*words)
    assert refused.returncode == 1
    assert "rows.jsonl" in refused.stderr


def test_check_names_what_is_wrong_with_the_data(tiny_model, tmp_path):
    """Findings come with lines, words and what to do; only what stops the job gives exit 1."""
    rows = [{"instruction": f"What is {n} plus 1?", "output": f"It is {n + 1}."} for n in range(40)]
    rows += [rows[3], {"instruction": "What is 41 plus 1?", "output": "TODO", "stars": 2}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = tmp_path / "job.yaml"
    fields = f"model: {tiny_model.name}\ndata: rows.jsonl\n"
    spec.write_text(fields)
    words = ["check", spec, "--models-dir", tiny_model.parent]
    shown = run_command(*words)
    assert shown.returncode == 0, shown.stderr
    said = " ".join(shown.stdout.split())
    assert "only a placeholder (TODO, n/a, dashes or dots): 1 of 42 rows." in said
    assert "rows.jsonl, line 42 → Write the answers, or delete these rows." in said
    assert "Columns not read: stars" in said
    assert "The job can run. 3 things would make the result better (!)." in said
    assert "columns not read: stars" in json.loads(run_command(*words, "--json").stdout)["notes"]
    spec.write_text(fields + "checks:\n  exact_duplicates: stop\n  placeholder_answers: ignore\n")
    stopped = run_command(*words, "--json")
    assert stopped.returncode == 1
    found = json.loads(stopped.stdout)
    assert found["could_run"] is False
    first = found["findings"][0]
    assert (first["check"], first["level"], first["count"]) == ("exact_duplicates", "stop", 1)
    assert first["places"] == [{"file": "rows.jsonl", "line": 41, "unit": "line"}]
    assert "placeholder_answers" not in {one["check"] for one in found["findings"]}
    preview = run_command("preview", spec, "--models-dir", tiny_model.parent)
    assert (preview.returncode, first["message"].rstrip(".") in preview.stderr) == (1, True)
    (tmp_path / "rows.jsonl").write_text('{"instruction": "no answer"}\n')
    bad = run_command(*words)
    assert (bad.returncode, "The row has no answer" in bad.stdout) == (1, True), bad.stdout


def test_try_answers_with_base_and_adapter(tiny_model, tmp_path):
    """A fresh adapter changes nothing, so both answers are the same; without one it is refused."""
    run = make_run(tmp_path, "job", 1, State.SUCCEEDED)
    run.spec.write_text(f"model: {tiny_model.name}\ndata: rows.jsonl\n")
    words = ["try", "job", "--outputs-dir", tmp_path, "--models-dir", tiny_model.parent]
    words += ["-q", "What is a permit?", "--max-new-tokens", "4", "--device", "cpu", "--json"]
    refused = run_command(*words)
    assert (refused.returncode, "has no adapter" in refused.stderr) == (1, True)
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from runner.spec.read_spec import read_spec\n"
        "from runner.training.fit.model import add_adapter, find_machine, load_base\n"
        "from transformers import AutoTokenizer\n"
        "model, run = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "spec = read_spec((run / 'spec.yaml').read_bytes(), file_name='job.yaml')\n"
        "base = load_base(model, method='qlora', machine=find_machine('cpu'))\n"
        "add_adapter(base, spec).save_pretrained(run / 'adapter')\n"
        "AutoTokenizer.from_pretrained(model).save_pretrained(run / 'adapter')\n"
    )
    subprocess.run([sys.executable, "-c", script, tiny_model, run.root], check=True)
    answered = run_command(*words)
    assert answered.returncode == 0, answered.stderr
    (answer,) = json.loads(answered.stdout)
    assert answer["question"] == "What is a permit?"
    assert answer["base"] == answer["adapter"]


def test_a_broken_model_is_fetched_anew(capsys, monkeypatch, tiny_model, tmp_path):
    """Fetch mends what its advice is given for; a whole model is left alone.

    The package's model is written by `make demo`, which takes half a minute: a small one stands in.
    """

    def copy(target):
        return shutil.copytree(tiny_model, target)

    monkeypatch.setattr(fetch, "quieten", lambda: None)  # it would change this process
    monkeypatch.setattr(packaged_model, "prepare_demo_model", copy)
    broken = tmp_path / "smollm2-135m-instruct"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    words = ["fetch", "demo", "--models-dir", str(tmp_path)]
    status, out, err = call(capsys, *words)
    assert (status, "is ready" in out, err) == (0, True, "")
    assert find_model(tmp_path, broken.name) == broken
    assert [path.name for path in tmp_path.iterdir()] == [broken.name]
    assert "was there" in call(capsys, *words)[1]


def test_fetch_without_a_network_says_so(tmp_path):
    """The hub out of reach is an answer, not a traceback, and leaves no half model."""
    address = {"HF_ENDPOINT": "http://127.0.0.1:9"}  # the discard port: nobody listens
    words = [sys.executable, "-m", "runner.cli", "fetch", "a/b", "--models-dir", str(tmp_path)]
    run = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, **address}
    )
    assert run.returncode == 1
    assert "could not be fetched" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "a").exists()
