"""Turns a file that cannot be read now into a later look at it, and into no judgement of it."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_adopt import attempt, record_of, run
from test_checkpoints import rot, sealed
from test_space import daemon, live

from runner.contract.checkpoints import MANIFEST, names, newest_verified, sha256_of, verified, whole
from runner.contract.layout import Outputs, RunFolder, StageFolder
from runner.contract.promotions import current_run
from runner.contract.record import RunRecord, write_record
from runner.contract.requests import leave_request, read_requests
from runner.contract.salvage import what_is_whole
from runner.contract.stage_io import EvaluateResult, StageFailure, read_message, write_message
from runner.contract.states import Stage, State
from runner.contract.unread import unread
from runner.daemon.change_run import change
from runner.daemon.daemon import Daemon
from runner.daemon.hashes import StillHashing
from runner.daemon.requests.cancel import cancel
from runner.daemon.stages.adopt import adopt
from runner.daemon.stages.await_answers import (
    CHECKING,
    awaiting_answers,
    rest_seconds,
    unless_cancelled,
)
from runner.daemon.stages.judge_stage import StageEnd, judge_stage
from runner.daemon.stages.outcome import cancelled
from runner.daemon.stages.plans import read_answer
from runner.daemon.stages.resume_point import export_point, resume_point
from runner.daemon.stages.retry import Next
from runner.daemon.stages.space import _free
from runner.daemon.start.look_again import LookAgain
from runner.daemon.start.recover import recover
from runner.daemon.start.take_up import mend_specs, take_up
from runner.errors import DataError, ModelError, Problem, UnreadableError
from runner.exit_codes import ExitCode
from runner.files.unreadable import is_of_storage, says_what_lies_there
from runner.language.speaker import Language, Speaker
from runner.language.translate import in_words_of
from runner.notices.notice import read_notice
from runner.training import __main__ as top
from runner.training.data.columnar_rows import read_parquet
from runner.training.data.findings import Findings
from runner.training.data.unpack import open_bytes

__all__ = ["daemon", "run"]  # fixtures of the neighbours

WEIGHTS = "adapter_model.safetensors"
NOT_NOW = (
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN),
    *(errno.EACCES, errno.EMFILE, errno.ENOMEM),
)
"""A disk, soft mounts, a FUSE that is gone; no right to enter a folder; no more descriptors."""

Fail = Callable[[Path, int], None]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Let every way of opening one path fail, until told number 0."""
    failing: dict[str, int] = {}

    def around(inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any = ".", *more: Any, **named: Any) -> Any:
            number = failing.get(os.fspath(path) if not isinstance(path, int) else "", 0)
            if number:
                raise OSError(number, os.strerror(number), os.fspath(path))
            return inner(path, *more, **named)

        return call

    for owner, name in ((os, "open"), (io, "open"), (os, "scandir"), (os, "listdir")):
        monkeypatch.setattr(owner, name, around(getattr(owner, name)))

    def set_failing(path: Path, number: int) -> None:
        failing[str(path)] = number

    return set_failing


@pytest.mark.parametrize("number", NOT_NOW, ids=errno.errorcode.get)
@pytest.mark.parametrize("where", [".", MANIFEST, WEIGHTS])
def test_what_cannot_be_read_is_neither_whole_nor_damaged(
    run: RunFolder, fail: Fail, where: str, number: int
) -> None:
    """It is said by name; nothing is set aside, and once it can be read it is what it was."""
    sealed(run, 3, 6)
    path = run.checkpoint(6) / where
    fail(path, number)
    for ask in (verified, whole):
        with pytest.raises(UnreadableError) as told:
            ask(run.checkpoint(6))
        assert (told.value.errno, Path(told.value.filename)) == (number, path)
    for go_on in (resume_point, lambda run: export_point(run, "step-00000006")):
        with pytest.raises(UnreadableError):
            go_on(run)
    assert names(run.checkpoints) == ["step-00000006", "step-00000003"]
    assert len(list(run.checkpoints.iterdir())) == 2
    fail(path, 0)
    assert resume_point(run).checkpoint == "step-00000006"


def test_an_older_one_that_cannot_be_read_holds_up_nobody(run: RunFolder, fail: Fail) -> None:
    """Only what is newer than the newest good one is looked at."""
    sealed(run, 3, 6)
    fail(run.checkpoint(3) / MANIFEST, errno.EIO)
    assert resume_point(run).checkpoint == "step-00000006"


def test_a_file_that_its_folder_does_not_list_is_gone_for_sure(run: RunFolder) -> None:
    """That is damage, as are other bytes, a folder or a link in its place, and a file more."""
    for step, harm in enumerate((Path.unlink, _into_folder, _into_link, _with_one_more), 1):
        sealed(run, step)
        harm(run.checkpoint(step) / WEIGHTS)
        assert not verified(run.checkpoint(step)), harm
    sealed(run, 9)
    (run.checkpoint(9) / MANIFEST).unlink()
    assert not verified(run.checkpoint(9))
    sealed(run, 10)
    rot(run, 10)
    assert not verified(run.checkpoint(10))
    assert not verified(run.checkpoint(11))


def _into_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _into_link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def _with_one_more(path: Path) -> None:
    path.with_name("more").touch()


@pytest.mark.parametrize("where", [MANIFEST, WEIGHTS])
def test_two_answers_that_do_not_agree_are_not_believed(
    run: RunFolder, fail: Fail, where: str
) -> None:
    """A folder that lists a file which is "not there" is a mount that is just going."""
    sealed(run, 3)
    fail(run.checkpoint(3) / where, errno.ENOENT)
    with pytest.raises(UnreadableError):
        verified(run.checkpoint(3))


def test_a_checkpoint_sealed_anew_takes_no_place_unread(run: RunFolder, fail: Fail) -> None:
    """The one that the run has stays, and the attempt keeps its own for a later try."""
    sealed(run, 3)
    again = attempt(run, 1, 3)
    before = (run.checkpoint(3) / MANIFEST).stat().st_ino
    fail(again.checkpoints / "step-00000003" / WEIGHTS, errno.ESTALE)
    with pytest.raises(UnreadableError):
        adopt(run, again, sha256_of)
    assert (run.checkpoint(3) / MANIFEST).stat().st_ino == before
    assert names(again.checkpoints) == ["step-00000003"]
    fail(again.checkpoints / "step-00000003" / WEIGHTS, 0)
    adopt(run, again, sha256_of)
    assert (run.checkpoint(3) / MANIFEST).stat().st_ino != before


def test_adopting_removes_none_where_the_newest_cannot_be_read(run: RunFolder, fail: Fail) -> None:
    """Which one is the best stands in it: until that is known all stay."""
    first = attempt(run, 1, 3, 6, 9, best=3)
    fail(run.checkpoints / "step-00000009" / MANIFEST, errno.EIO)
    adopt(run, first, sha256_of)
    assert len(names(run.checkpoints)) == 3


def test_no_room_is_made_with_what_cannot_be_read(daemon: Daemon, fail: Fail) -> None:
    """The newest good checkpoint of a run that has failed may be the one that is not readable."""
    ended = live(daemon)
    sealed(ended.run, 3, 6, 9)
    record = ended.record.but(state=State.FAILED, next_stage=None)
    write_record(ended.run.record, record)
    fail(ended.run.checkpoint(9) / WEIGHTS, errno.EIO)
    _free(daemon, ended.run, last_resort=True)
    assert len(names(ended.run.checkpoints)) == 3
    fail(ended.run.checkpoint(9) / WEIGHTS, 0)
    _free(daemon, ended.run, last_resort=True)
    assert names(ended.run.checkpoints) == ["step-00000009"]


def test_a_run_rests_longer_each_time_and_says_why(daemon: Daemon, fail: Fail) -> None:
    """The file, the error and the mend, in both languages; from the fifth second to ten minutes."""
    waiting = live(daemon)
    daemon.book.runs[waiting.run.run_id] = waiting
    sealed(waiting.run, 3)
    fail(waiting.run.checkpoint(3) / WEIGHTS, errno.EIO)
    for _ in range(2):
        with awaiting_answers(daemon, waiting):
            resume_point(waiting.run)
    told = waiting.record.waiting
    assert told is not None
    where = f"outputs/job/{waiting.run.run_id}/checkpoints/step-00000003"
    assert told.reason == (
        f"{where}/{WEIGHTS} cannot be read now (Input/output error); nothing was changed, and it "
        "is tried again by itself"
    )
    assert told.advice is not None
    assert f"delete the folder {where}/" in told.advice
    german = in_words_of(told.reason, Speaker(Language.GERMAN))
    assert german.startswith(f"{where}/{WEIGHTS} ist gerade nicht lesbar (")
    assert "Sehen Sie nach dem Datenträger" in in_words_of(told.advice, Speaker(Language.GERMAN))
    assert waiting.unread_in_a_row == 2
    assert [rest_seconds(n) for n in (1, 2, 3, 8, 9, 10**6)] == [5, 10, 20, 600, 600, 600]


def test_while_it_is_hashed_again_it_still_says_so(daemon: Daemon, fail: Fail) -> None:
    """Else its answer and its log would change with each try."""
    waiting = live(daemon)
    with awaiting_answers(daemon, waiting):
        raise StillHashing("x")
    assert waiting.record.waiting is not None
    assert waiting.record.waiting.reason == CHECKING
    change(daemon, waiting, waiting=None)
    with awaiting_answers(daemon, waiting):
        raise UnreadableError(errno.EIO, "Input/output error", "x")
    with awaiting_answers(daemon, waiting):
        raise StillHashing("x")
    assert waiting.record.waiting is not None
    assert "cannot be read now" in waiting.record.waiting.reason


def test_a_cancelled_run_waits_for_no_disk(daemon: Daemon, fail: Fail) -> None:
    """It ends at once, and says that what it had trained could not be checked."""
    waiting = live(daemon)
    daemon.book.runs[waiting.run.run_id] = waiting
    sealed(waiting.run, 3)
    fail(waiting.run.checkpoint(3) / WEIGHTS, errno.ENOTCONN)
    with pytest.raises(UnreadableError):
        unless_cancelled(waiting, lambda: resume_point(waiting.run))
    waiting.rests_until = 1e12
    cancel(daemon, waiting, "a command asked for it")
    assert unless_cancelled(waiting, lambda: resume_point(waiting.run)) is None
    assert waiting.record.state is State.CANCELLED
    assert waiting.rests_until == 0.0
    assert waiting.record.error is not None
    assert "could not be checked (Transport endpoint is not connected)" in (
        waiting.record.error.message
    )


def test_what_is_whole_says_that_it_does_not_know(run: RunFolder, fail: Fail) -> None:
    """Of a run whose record is lost: "none can be recovered" would make a person give up."""
    sealed(run, 3)
    fail(run.checkpoint(3) / WEIGHTS, errno.EIO)
    assert "could not be read (Input/output error)" in what_is_whole(run)
    with pytest.raises(UnreadableError):
        newest_verified(run.checkpoints)
    assert "What it had trained is kept" in cancelled("x", run, sha256_of).message


def test_a_result_that_cannot_be_read_is_no_missing_one(run: RunFolder, fail: Fail) -> None:
    """Else hours of work that ended well would be done again."""
    folder = StageFolder(run.root)
    assert read_answer(folder.result, EvaluateResult) == (None, None)
    write_message(folder.result, EvaluateResult(eval_rows=4))
    fail(folder.result, errno.EIO)
    with pytest.raises(UnreadableError):
        read_answer(folder.result, EvaluateResult)
    fail(folder.result, 0)
    found, _ = read_answer(folder.result, EvaluateResult)
    assert found is not None
    assert found.eval_rows == 4


def test_a_stage_that_could_not_read_is_tried_again(run: RunFolder) -> None:
    """It is no try of the run's, however often."""
    record = record_of(run).but(next_stage=Stage.EXPORT, tries={"export": 7})
    end = StageEnd(
        run=run, record=record, stage=Stage.EXPORT, code=ExitCode.UNREADABLE, asked=False
    )
    verdict = judge_stage(end)
    assert verdict.then is Next.REST
    assert verdict.changes["tries"] == {"export": 6}


@pytest.fixture
def stage(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Give a stage's top, with an error in it."""
    folder = run.root / "prepared"
    folder.mkdir()

    def ends(error: BaseException) -> int:
        def raising(*_: Any) -> None:
            raise error

        monkeypatch.setattr(top, "_run", raising)
        return top.main(["prepare", str(folder)])

    return ends


def refused(cause: BaseException, kind: type[DataError] | type[ModelError]) -> BaseException:
    """Refuse an input as readers of it do."""
    try:
        try:
            raise cause
        except OSError:
            raise kind([Problem(message="is cut off or damaged")]) from None
    except (DataError, ModelError) as error:
        return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.EIO, "Input/output error", "/data/x"), ExitCode.UNREADABLE),
        (UnreadableError(errno.EACCES, "Permission denied", "/x"), ExitCode.UNREADABLE),
        (refused(OSError(errno.ESTALE, "Stale file handle"), ModelError), ExitCode.UNREADABLE),
        (refused(OSError(errno.EIO, "Input/output error"), DataError), ExitCode.UNREADABLE),
        (refused(PermissionError(errno.EACCES, "no"), ModelError), ExitCode.BAD_INPUT),
        (refused(FileNotFoundError(errno.ENOENT, "no"), DataError), ExitCode.BAD_INPUT),
        (OSError(errno.ENOSPC, "No space left on device"), ExitCode.DISK_FULL),
        (PermissionError(errno.EACCES, "Permission denied"), ExitCode.UNEXPECTED),
    ],
)
def test_what_a_stage_could_not_read_it_does_not_judge(
    run: RunFolder, stage: Callable[[BaseException], int], error: BaseException, code: ExitCode
) -> None:
    """Whatever was said of the input after a failed read, nobody is told that it is bad."""
    assert stage(error) == code
    told = read_message(StageFolder(run.prepared).result, StageFailure).error
    assert (told.kind == "unreadable") is (code is ExitCode.UNREADABLE)


def test_an_error_without_a_name_says_what_to_look_at(tmp_path: Path) -> None:
    """`read` tells no name."""
    told = unread(OSError(errno.EIO, "Input/output error"), outputs=tmp_path)
    assert told.message == (
        "the disk or share that holds outputs/, models/ or jobs/ failed (Input/output error)"
    )
    german = in_words_of(told.message, Speaker(Language.GERMAN))
    assert german.startswith("der Datenträger oder die Freigabe")


def test_data_that_cannot_be_read_is_no_bad_data(
    tmp_path: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A good Parquet file, a good packed one: their owner is told of no fault of theirs."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": ["a"], "completion": ["b"]}), path)

    def failing(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "ParquetFile", failing)
        with pytest.raises(UnreadableError):
            list(read_parquet(path, "rows.parquet", Findings()))
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"prompt": "a"}\n'))
    with open_bytes(packed, "rows.jsonl.gz") as opened, monkeypatch.context() as patch:
        patch.setattr(gzip.GzipFile, "read", failing)
        with pytest.raises(UnreadableError):
            opened.read()


def test_a_request_that_cannot_be_read_is_left(tmp_path: Path, fail: Fail) -> None:
    """It is carried out once it can be; what is no request is taken away as ever."""
    outputs = Outputs(tmp_path)
    path = leave_request(outputs, "cancel", run_id="x")
    fail(path, errno.EIO)
    assert read_requests(outputs) == []
    fail(path, 0)
    assert [one.verb for one in read_requests(outputs)] == ["cancel"]
    path.write_text("no request")
    assert [one.verb for one in read_requests(outputs)] == [""]


def test_what_is_in_use_is_not_none_because_nobody_can_look(tmp_path: Path, fail: Fail) -> None:
    """A run that goes on from it would begin afresh, and one that erases would take it away."""
    outputs = Outputs(tmp_path)
    history = outputs.promotions("job")
    history.parent.mkdir(parents=True)
    assert current_run(outputs, "job") is None
    history.write_text("")
    fail(history, errno.ESTALE)
    with pytest.raises(UnreadableError):
        current_run(outputs, "job")


def test_a_notice_that_cannot_be_read_is_not_passed_over(tmp_path: Path, fail: Fail) -> None:
    """It is sent later."""
    path = tmp_path / "x.json"
    path.write_text("{}")
    fail(path, errno.EIO)
    with pytest.raises(UnreadableError):
        read_notice(path)


def test_a_spec_that_cannot_be_read_at_the_start_ends_no_run(daemon: Daemon, fail: Fail) -> None:
    """The run is taken up once its own copy can be read; the claimed file is not needed."""
    waiting = live(daemon)
    content = b"model: m\ndata: d.jsonl\n"
    waiting.run.spec.write_bytes(content)
    record: RunRecord = waiting.record.but(spec_sha256=hashlib.sha256(content).hexdigest())
    write_record(waiting.run.record, record)
    fail(waiting.run.spec, errno.EIO)
    found = take_up(daemon, waiting.run, record)
    assert found is not None
    left = [found]
    nowhere: Any = None  # the inbox is not looked at
    mend_specs(daemon, nowhere, left)
    assert left == [found]
    assert "cannot be read or written (Input/output error)" in " ".join(daemon.notes.values())
    assert json.loads(waiting.run.record.read_text())["state"] == "queued"
    fail(waiting.run.spec, 0)
    mend_specs(daemon, nowhere, left)
    assert left == []
    assert waiting.run.run_id in daemon.book.runs
    assert daemon.notes == {}


def test_which_errors_are_whose() -> None:
    """Of the storage, of the file, of its owner."""
    assert says_what_lies_there(FileNotFoundError(errno.ENOENT, ""))
    assert not says_what_lies_there(PermissionError(errno.EACCES, ""))
    assert is_of_storage(OSError(errno.EIO, ""))
    assert not is_of_storage(PermissionError(errno.EACCES, ""))
    assert not is_of_storage(ValueError())


def test_a_server_on_the_internet_is_no_storage() -> None:
    """A library that looks for its hub would else be waited for for ever."""
    import requests

    error = requests.ConnectionError("no hub")
    error.__cause__ = TimeoutError(errno.ETIMEDOUT, "Connection timed out")
    assert not is_of_storage(error)
    assert is_of_storage(error.__cause__)


def test_a_record_that_cannot_be_read_at_the_start_is_looked_at_again(
    daemon: Daemon, fail: Fail
) -> None:
    """Its run is left alone until then, and goes on without a new start of the daemon."""
    waiting = live(daemon)
    content = b"model: m\ndata: d.jsonl\n"
    waiting.run.spec.write_bytes(content)
    spec_sha256 = hashlib.sha256(content).hexdigest()
    write_record(waiting.run.record, waiting.record.but(spec_sha256=spec_sha256, sequence=7))
    fail(waiting.run.record, errno.EIO)
    found = recover(daemon.outputs)
    assert (found.live, found.unreadable) == ([], [waiting.run.run_id])
    daemon.book.left_alone = set(found.unreadable)
    daemon.book.damaged = ["another's", *found.damaged]
    left = LookAgain(daemon, found.again, at=0.0)
    assert left.look(1000.0) == []
    assert daemon.book.damaged == ["another's", *found.damaged]
    fail(waiting.run.record, 0)
    assert left.look(1001.0) == []  # not in each round
    assert daemon.book.runs == {}
    assert left.look(2000.0) == []
    assert list(daemon.book.runs) == [waiting.run.run_id]
    assert daemon.book.damaged == ["another's"]
    assert daemon.book.left_alone == set()
    assert daemon.book.sequence == 7
    assert left.runs == []
