"""Stands in for `python -m runner.training` in the daemon's tests: ends as the data file asks.

The real stages need torch and minutes; what is tested here is what the daemon makes of each way a
child can end, kill -9 included, in seconds. The real stages under the real daemon are tested in
test_whole_path. The "data" of these tests is a JSON object: stage → list of ways to end, one for
each try ("train lora": of those in 16 bits); a way is "ok", an exit code ("bare CODE": its result
holds the error alone), "hang" (until asked to stop), "stubborn" (even then), "eat" (all the memory
there is), "held CODE" (once the file ``go`` lies in its folder), "plain WAY" (the fast path failed
in the middle), or "train N then WAY" to leave N steps first. Beside the
stages it may hold ``lengths`` (of the prepared rows), ``fast`` (the model is one for the fast
path), ``peak`` (bytes of GPU memory that an attempt took), ``adapter`` (the hash of its
weights, which are empty), ``measured`` (fields of the evaluate stage's result),
``prepared`` (a list: fields of the prepare stage's, one entry for each try) and
``losses`` (of the held-out rows, by learning rate, for the rates stage).

Hundreds of these processes are started: what takes a third of a second to import (pydantic, the
spec) is imported by the stage that needs it, which few do.
"""

import ctypes
import faulthandler
import hashlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

from runner.contract.layout import RunFolder, StageFolder, checkpoint_name
from runner.exit_codes import ExitCode

PR_SET_PDEATHSIG = 1
TOTAL_STEPS = 8


def checkpoint(folder: StageFolder, step: int) -> str:
    """Leave a checkpoint that the contract verifies."""
    final = folder.checkpoints / checkpoint_name(step)
    if not final.exists():
        beside = folder.checkpoints / f".tmp-{step}"
        beside.mkdir(parents=True, exist_ok=True)
        (beside / "state").write_bytes(b"x")
        file = {"sha256": hashlib.sha256(b"x").hexdigest(), "bytes": 1}
        manifest = {"step": step, "files": {"state": file}}
        (beside / "manifest.json").write_text(json.dumps(manifest))
        beside.rename(final)
    return final.name


def smaller_plan(plan: dict, lengths: list[int]) -> dict | None:
    """Give the plan that the real stage proposes when memory ran out."""
    from runner.contract.batch import BatchPlan, smaller

    less = smaller(BatchPlan.model_validate(plan["batch_plan"]), lengths=lengths)
    return less and less.model_dump()


def first_data_file(run: RunFolder) -> str:
    """Give the first file that the spec names; nearly all specs here say it in one plain line."""
    text = run.spec.read_bytes()
    plain = re.findall(rb"^data: ([\w./ -]+)$", text, re.MULTILINE)
    if len(plain) == 1:
        return plain[0].decode().strip()
    from runner.spec.read_spec import read_spec

    return read_spec(text, file_name="x.yaml").data[0]


def train(folder: StageFolder, plan: dict, steps: int) -> dict:
    """Leave the lines and the checkpoint of some steps."""
    first = int((plan["resume_from"] or "step-0").rpartition("-")[2]) + 1
    last = min(plan["total_steps"], first + steps - 1)
    with folder.metrics.open("a") as metrics:
        for step in range(first, last + 1):
            metrics.write(
                json.dumps({"step": step, "loss": 3.0 - step / 10, "time": time.time()}) + "\n"
            )
    name = checkpoint(folder, last) if last >= first else plan["resume_from"]
    return {
        "outcome": "succeeded",
        "batch_plan": plan["batch_plan"],
        "first_step": first,
        "last_step": last,
        "checkpoint": name,
        "best_checkpoint": name,
        "best_eval_loss": 1.5,
    }


def stand_by_if_asked() -> None:
    """Wait to be told the stage, as the real one does."""
    if len(sys.argv) != 2:
        return
    from runner.contract.standing_by import STAND_BY
    from runner.training import stand_by

    if sys.argv[1:] == [STAND_BY]:
        stand_by.IMPORTED = ()
        stand_by.stand_by()
        print("stood by", flush=True)


def main() -> int:  # noqa: PLR0915 - each way of ending is a few lines of its own
    """Run one stage."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    stand_by_if_asked()
    stage, folder = sys.argv[1], StageFolder(Path(sys.argv[2]))
    run = RunFolder.containing(folder.root)
    plan = json.loads(folder.plan.read_bytes())
    script_at = run.root / "script.json"
    if stage == "prepare":
        data = first_data_file(run)
        try:
            script_at.write_bytes((Path(plan["jobs_dir"]) / data).read_bytes())
        except FileNotFoundError:
            message = f"{data}: there is no such file"
            folder.result.write_text(
                json.dumps({"error": {"kind": "bad_data", "message": message}})
            )
            return ExitCode.BAD_INPUT
    script = json.loads(script_at.read_text())
    tries_at = run.root / f"tries-{stage}"
    tries = int(tries_at.read_text()) if tries_at.exists() else 0
    tries_at.write_text(str(tries + 1))
    ways = script.get(f"{stage} {plan.get('method')}", script.get(stage, ["ok"]))
    way = str(ways[min(tries, len(ways) - 1)])
    (folder.root / "environment.json").write_text(json.dumps(dict(os.environ)))
    results = {
        "prepare": {"total_steps": TOTAL_STEPS, "train_rows": 10, "fast": "fast" in script},
        "export": {"files": {"adapter_model.safetensors": script.get("adapter", "0" * 64)}},
        "evaluate": {
            "eval_loss_before": 3.0,
            "eval_loss_after": 1.5,
            "eval_rows": 40,
            "change_low": -1.7,
            "change_high": -1.3,
            **script.get("measured", {}),
        },
        "hand-over": {
            "handed_over": {
                "forms": script.get("forms", []),
                "reference": {"loss": 0.217, "kl": 0.0, "same_top": 1.0},
                "rows": 30,
            }
        },
    }
    more = script.get("prepared", [{}])
    results["prepare"] |= more[min(tries, len(more) - 1)]
    if stage == "prepare" and "losses" in script:
        results["prepare"]["eval_rows"] = 40
    if stage in ("train", "rates"):
        steps = plan["total_steps"] if way == "ok" else 0
        if way.startswith("train "):
            _, count, _, way = way.split(" ", 3)
            steps = int(count)
        results[stage] = train(folder, plan, steps)
        if stage == "rates":
            losses = script["losses"][f"{plan['learning_rate']:g}"]
            if losses is not None:  # else the held-out rows are gone
                results["rates"]["held_out"] = {"sums": losses, "tokens": [1] * len(losses)}
        if way == str(int(ExitCode.OUT_OF_GPU_MEMORY)):
            results[stage]["next_batch_plan"] = smaller_plan(plan, script.get("lengths", []))
        results[stage]["peak_gpu_memory_bytes"] = script.get("peak")
    if stage == "prepare":
        if "bad_rows" in script:
            run.bad_rows.write_text("\n".join(script["bad_rows"]) + "\n")
        content = script_at.read_bytes()
        results["prepare"]["data"] = [
            {
                "path": data,
                "sha256": hashlib.sha256(content).hexdigest(),
                "bytes": len(content),
                "rows": 10,
            }
        ]
    if stage == "prepare" and "lengths" in script:
        (folder.root / "lengths.json").write_text(json.dumps(script["lengths"]))
    if stage == "export":
        run.adapter.mkdir(exist_ok=True)
        (run.adapter / "adapter_model.safetensors").touch()
    if stage == "hand-over" and way == "ok":
        for form in script.get("forms", []):
            (run.root / form["path"]).mkdir(parents=True, exist_ok=True)
    if way in ("hang", "stubborn"):
        from runner.contract.stage_io import STACK_SIGNAL

        faulthandler.register(STACK_SIGNAL)
        asked = []
        signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
        (folder.root / "hanging").touch()
        while not asked or way == "stubborn":
            signal.pause()
        return ExitCode.INTERRUPTED
    if way.startswith("held "):
        (folder.root / "hanging").touch()
        while not (folder.root / "go").exists():
            time.sleep(0.02)
        way = way.removeprefix("held ")
    if way.startswith("plain "):
        told = {"batch_plan": plan["batch_plan"], "left_fast_path": True}
        folder.smaller_plan.write_text(json.dumps(told))
        way = way.removeprefix("plain ")
    if way == "eat":
        bytearray(2 * 2**30).replace(b"\0", b"\1")  # where a limit ends this, none of it is left
    code = 0 if way == "ok" else int(way.removeprefix("bare "))
    if code < 0:
        os.kill(os.getpid(), -code)
    if code in (ExitCode.OK, ExitCode.OUT_OF_GPU_MEMORY) and not way.startswith("bare "):
        folder.result.write_text(json.dumps(results[stage]))
    else:
        error = {"kind": "stand-in", "message": f"the stand-in ended with {code}"}
        folder.result.write_text(json.dumps({"error": error}))
    return code


if __name__ == "__main__":
    sys.exit(main())
