"""Faults of what is handed over: proof, forms, pages, retention, erasing, packing."""

from __future__ import annotations

from mutation import Mutation

_EXPORT, _CONTRACT, _UNIT = "training/export/", "contract/", "tests/unit/"
PAGE = (_UNIT + "test_hand_over_page.py",)
OUTCOME = (_UNIT + "test_export_outcome.py",)
PACK = (_UNIT + "test_pack.py",)
KEPT = (_UNIT + "test_retention.py",)
TIDY = (_UNIT + "test_tidy.py",)
SOCKET = (_UNIT + "test_socket_folder.py",)
MODELFILE = (_UNIT + "test_modelfile.py",)
GGUF = ("tests/integration/test_gguf.py",)
ERASE = ("tests/integration/test_erase.py",)
MERGE = ("tests/integration/test_merge.py",)


def _of(tests: tuple[str, ...], file: str, *faults: tuple[str, str, str]) -> list[Mutation]:
    return [Mutation(what, file, old, new, tests) for what, old, new in faults]


HANDED_OVER = (
    *_of(
        PAGE,
        _EXPORT + "compare.py",
        ("a higher loss passes", "if more > LOSS_TOLERANCE:", "if more > 9:"),
        ("a lost adapter passes", "kept < INACTIVE and", "kept < -9 and"),
        ("half an adapter passes", "kept < KEPT_TOLERANCE and", "kept < -9 and"),
        ("divergence passes", "found.kl > KL_TOLERANCE", "found.kl > 9"),
        ("scores do not decide", "            return gain > 0\n", "            pass\n"),
        ("half an answer decides", "* trained.score_rows >= len(names)", ">= 0"),
        ("a tie of losses goes to either", "_SAME_LOSS * original.loss", "0.0"),
        ("a tie goes to what fails", "and not is_within(reference, original)", "and False"),
        ("a tie goes to NF4", "return is_within(reference, trained) and not", "return not"),
        ("packed rows together", 'row.get("seq_lengths") or [len(ids)]', "[len(ids)]"),
        ("places of the first rows alone", "if number % apart == 0:", "if number < most:"),
    ),
    *_of(
        PAGE,
        _CONTRACT + "handed_over.py",
        ("a failed form is unmeasured", 'if form.within is not False else "served_broken"', ""),
        (
            "a later export forgets",
            "if form.name not in renewed and form.path in there",
            "if False",
        ),
        ("what is gone is named", "and form.path in there", ""),
        ("made again, and the old one named", "form.name not in renewed and", ""),
        ("rows of another export", "figures.rows or made.rows}", "0}"),
        ("old shortfalls stay", "{**before.shortfalls, **self.shortfalls}", "before.shortfalls"),
    ),
    *_of(
        PAGE,
        _CONTRACT + "hand_over_page.py",
        ("rank 17 in 16", "if one >= rank), rank)", "if one >= rank - 1), rank)"),
        ("no link on this disk", 'folder="current" if has_link else run_id', 'folder="current"'),
        ("forms that have gone", "if (run.root / form.path).exists()", "if True"),
        ("a hub's name for vLLM", "shlex.quote(f'models/{model}')", "shlex.quote(base)"),
        ("accents for Ollama", 'encode("ascii", "ignore").decode()', "strip()"),
        ("no warning", "if form.within is False", "if False"),
        ("what failed comes first", "key=lambda way: _BEYOND in way", "key=lambda _: 0"),
    ),
    *_of(
        PAGE,
        _EXPORT + "llama_proof.py",
        ("small formats lose adapters", "figures.kept < KEPT and nearer", "figures.kept < KEPT"),
        ("any file has its adapter", "figures.kept < KEPT and nearer", "False"),
    ),
    *_of(
        GGUF,
        _EXPORT + "llama_proof.py",
        ("any divergence passes", "if figures.kl > TOLERANCE_KL[name]:", "if False:"),
        (
            "unnamed tokens",
            "other_rest = max(1 - mass, 0.0), max(1 - other, 1e-9)",
            "other_rest = 0.0, 1.0",
        ),
    ),
    *_of(
        OUTCOME,
        "daemon/stages/outcome.py",
        ("old shortfalls of forms stay", "gone = set(last) - set(keeps)", "gone = set()"),
        ("a failure forgets", "_before_export(record, keeps=last)", "_before_export(record)"),
        ("failures pile up", "and not one.startswith(EXPORT_FAILED)", ""),
    ),
    *_of(
        PACK,
        "commands/pack.py",
        ("damage is handed on", "_require_as_made(added, record, weights)\n", "pass\n"),
        (
            "the adapter's card beside merged/",
            "read_plain(weights / _CARD,",
            "read_plain(run.adapter / _CARD,",
        ),
        ("a path of this box", "    card = _OWN_FOLDER.sub(", "    _OWN_FOLDER.sub("),
        ("half an archive", "            beside.unlink(missing_ok=True)\n", "            pass\n"),
        ("licence left out", "{front}\\n{head}---", "{front}\\n---"),
        ("a failed run is packed", "record.state is State.SUCCEEDED and weights", "weights"),
    ),
    *_of(
        KEPT,
        _CONTRACT + "retention.py",
        ("rollback's rows", "return self.rollback | one", "return frozenset(one)"),
        (
            "exports without anything in use",
            "job.current is not None and not is_needed",
            "not is_needed",
        ),
        ("approval waits in vain", "or _may_come_into_use(run, job)", ""),
    ),
    *_of(
        TIDY,
        "daemon/tidy.py",
        ("exports of erased runs", "record.erased is not None or _exported", "_exported"),
        ("rows go unnoted", "            self._note_cleared(run)  #", "            pass  #"),
    ),
    *_of(
        TIDY,
        "daemon/stages/space.py",
        ("a short disk takes what cannot be made", "if record.erased is None:", "if True:"),
    ),
    *_of(
        SOCKET,
        "files/socket_folder.py",
        ("a socket in use, unlocked", "            fcntl.flock(held, fcntl.LOCK_EX)\n", ""),
        ("a stranger's folder", "startswith(_PREFIX)", "startswith('')"),
    ),
    *_of(
        MODELFILE,
        _EXPORT + "modelfile.py",
        (
            "two beginnings of a text",
            "removeprefix(bos) if bos else",
            "removeprefix('') if bos else",
        ),
        ("no stop", "for stop in wanted.stops", "for stop in ()"),
        ("quotes break out", "or wanted.system.endswith('\"')", ""),
        ("a template that differs", "return found if all(", "return found if any("),
    ),
    *_of(
        ERASE,
        "daemon/requests/erase.py",
        (
            "spreadsheets stay",
            "rate_names(record.job, record.run_id)",
            "rate_names(record.job, record.run_id)[:1]",
        ),
    ),
    *_of(
        ERASE,
        "daemon/requests/carry_out.py",
        ("begun while it goes", "if daemon.erasing is not None:", "if False:"),
    ),
    *_of(
        ERASE,
        "commands/erase.py",
        (
            "one damaged run keeps all",
            "        except (RunnerError, OSError):\n",
            "        except ZeroDivisionError:\n",
        ),
    ),
    *_of(
        MERGE,
        _EXPORT + "merge.py",
        ("numbers that are none", "if name in plan.changes and not bool", "if False and not bool"),
        (
            "one name of the number format",
            "found |= dict.fromkeys(names, dtype)",
            "found[names[0]] = dtype",
        ),
    ),
    *_of(
        MERGE,
        _EXPORT + "adapter_changes.py",
        ("rsLoRA's scale", 'if config.get("use_rslora") else rank', "if False else rank"),
        ("another rank", '["lora_B"].shape[1]} != {rank}', '["lora_B"].shape[1]} == {-1}'),
        ("what a later PEFT does", "value != DEFAULTS.get(key)", "False"),
        ("a base that was begun otherwise", "value not in _STARTS", "value == 0"),
        ("another head", "            if not is_same:\n", "            if False:\n"),
    ),
)
