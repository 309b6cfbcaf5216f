"""An adapter is loaded by transformers 4.57 with PEFT 0.17, and its settings by PEFT 0.11.

They lie in an environment of their own, `.venv-older`, made at the first run: small wheels alone,
for torch and what is large come from the environment that runs the tests.

    make test-older
"""

import fcntl
import json
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from runner.contract.checkpoints import MANIFEST, CheckpointFile, Manifest, sha256_of
from runner.contract.layout import Outputs, RunFolder, StageFolder, new_run_id
from runner.contract.models import DEMO_MODEL
from runner.contract.stage_io import ExportPlan, PreparePlan, write_message
from runner.training.data.prepare import prepare
from runner.training.export.export import export

REPOSITORY = Path(__file__).parents[2]
VENV = REPOSITORY / ".venv-older"
PINS = ("transformers==4.57.*", "peft==0.17.*", "tokenizers==0.22.*", "huggingface_hub==0.36.*")
PEFT_0_11 = "peft==0.11.1"
QUESTION = "Your question"
pytestmark = pytest.mark.timeout(1200)  # seconds: each test imports both stacks, some of them twice
SYSTEM = 'Answer "briefly", in German: äöü `now`'


@pytest.fixture(scope="session")
def older():
    """Give the Python of the older environment."""
    python = VENV / "bin" / "python"
    with (REPOSITORY / ".venv-older.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (VENV / ".ready").exists():
            shutil.rmtree(VENV, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
            pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
            subprocess.run([*pip, "--no-deps", *PINS], check=True)
            target = str(VENV / "peft-0.11")
            subprocess.run([*pip, "--no-deps", "--target", target, PEFT_0_11], check=True)
            site = next((VENV / "lib").glob("python*/site-packages"))
            (site / "zz_main.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
            (VENV / ".ready").touch()
    return python


def ask(python, code, *arguments, cwd=None):
    """Run Python code and give what it printed."""
    done = subprocess.run(
        [str(python), "-c", code, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,  # seconds; about 20 on a machine that does nothing else
        env={  # one thread: several of them wait for each other in a loop on a busy machine
            "PATH": "/usr/bin:/bin",
            "HF_HUB_OFFLINE": "1",
            "HOME": str(cwd or "/tmp"),
            "OMP_NUM_THREADS": "1",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


MAKE_ADAPTER = """
import sys, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
base, target = sys.argv[1:]
torch.manual_seed(3)
model = AutoModelForCausalLM.from_pretrained(base)
config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8.0, target_modules="all-linear",
                    init_lora_weights=False)
model = get_peft_model(model, config)
model.save_pretrained(target)
"""


class Bench:
    """A box with the demo's model, in which runs are prepared and exported."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root, self.models = root, root / "models"
        self.base = self.models / DEMO_MODEL
        shutil.copytree(model, self.base)
        self.inbox = root / "jobs"
        self.inbox.mkdir()
        rows = [{"instruction": f"Q{i}?", "output": f"CANARY {i}."} for i in range(20)]
        (self.inbox / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.made = root / "made"
        ask(sys.executable, MAKE_ADAPTER, self.base, self.made, cwd=root)

    def adapter(self, method: str, *, base: str = DEMO_MODEL, system: str | None = None) -> Path:
        """Prepare and export a run; give its adapter/."""
        run: RunFolder = Outputs(self.root / "outputs").run("job", new_run_id())
        run.prepared.mkdir(parents=True)
        spec = {"model": base, "data": "a.jsonl", "method": method}
        run.spec.write_text(json.dumps(spec | ({"system_prompt": system} if system else {})))
        models = {"models_dir": str(self.models)}
        plan = PreparePlan(jobs_dir=str(self.inbox), **models)
        write_message(StageFolder(run.prepared).plan, plan)
        prepare(run.prepared)
        checkpoint = run.checkpoint(1)
        shutil.copytree(self.made, checkpoint)
        files = {
            path.name: CheckpointFile(sha256=sha256_of(path), bytes=path.stat().st_size)
            for path in checkpoint.iterdir()
        }
        manifest = Manifest(step=1, files=files).model_dump(mode="json")
        (checkpoint / MANIFEST).write_text(json.dumps(manifest))
        run.export.mkdir()
        facts = {"model": {"id": base}, "method": method, "environment": {"compute": "bfloat16"}}
        said = ExportPlan(checkpoint=checkpoint.name, facts=facts, **models)
        write_message(StageFolder(run.export).plan, said)
        export(run.export)
        return run.adapter


@pytest.fixture(scope="session")
def bench(tmp_path_factory, tiny_model):
    """Make the box once."""
    return Bench(tmp_path_factory.mktemp("bench"), tiny_model)


def code_of(adapter: Path) -> str:
    """Give the Python that the model card shows."""
    (code,) = re.findall(r"```python\n(.*?)```", (adapter / "README.md").read_text(), re.DOTALL)
    return str(code)


TOKENS = """
import json, sys
import transformers
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GenerationConfig
folder, text = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
talk = [{"role": "user", "content": text}]
print(json.dumps([
    transformers.__version__, type(tokenizer).__name__, tokenizer.eos_token, tokenizer.pad_token,
    tokenizer.apply_chat_template(talk, add_generation_prompt=True),
    tokenizer(text, add_special_tokens=False)["input_ids"],
    GenerationConfig.from_pretrained(folder).eos_token_id,
]))
"""


@pytest.mark.parametrize("name", [None, "PreTrainedTokenizerFast", "LlamaTokenizerFast"])
def test_transformers_4_57_loads_the_tokenizer(name, older, bench):
    """Of a base that transformers 5 wrote, and of one that says an older class: the same ids."""
    base = DEMO_MODEL if name is None else name
    if name is not None and not (bench.models / name).exists():
        shutil.copytree(bench.base, bench.models / name)
        path = bench.models / name / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": name}))
    adapter = bench.adapter("lora", base=base)
    text = "May I build 2.50 m? \n\n  it's §4\nx"
    found = json.loads(ask(older, TOKENS, adapter, text))
    assert found[0].startswith("4.57.")
    assert found[1] == (name or "PreTrainedTokenizerFast")
    assert found[2:4] == ["<|im_end|>", "<|endoftext|>"]
    assert found[6] == [2]
    from transformers import AutoTokenizer

    ours = AutoTokenizer.from_pretrained(bench.base)
    talk = [{"role": "user", "content": text}]
    assert found[4] == ours.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
    assert found[5] == ours(text, add_special_tokens=False)["input_ids"]


def test_peft_0_11_reads_the_settings(older, bench):
    """It refused every file with a key that it did not know."""
    adapter = bench.adapter("lora")
    code = (
        "import json, sys, importlib.util, pathlib\n"
        "source = pathlib.Path(sys.argv[1], 'peft', 'tuners', 'lora', 'config.py').read_text()\n"
        "import re\n"
        "fields = re.findall(r'^    (\\w+): .* = field\\(|^    (\\w+): .* = ', source, re.M)\n"
        "common = ('peft_type', 'auto_mapping', 'base_model_name_or_path', 'revision',\n"
        "          'task_type', 'inference_mode')\n"
        "known = {a or b for a, b in fields} | set(common)\n"
        "config = json.loads(pathlib.Path(sys.argv[2], 'adapter_config.json').read_text())\n"
        "print(sorted(set(config) - known), 'r' in known, 'use_dora' in known)\n"
    )
    assert ask(older, code, VENV / "peft-0.11", adapter) == "[] True True"
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert '"lora_alpha": 8,' in (adapter / "adapter_config.json").read_text()


REFERENCE = """
import json, sys, torch
from peft import PeftModel
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM
base, adapter, prompt = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
model = PeftModel.from_pretrained(model, adapter).eval()
ids = torch.tensor([prompt])
out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8,
    do_sample=False, eos_token_id=2)
words = Tokenizer.from_file(base + "/tokenizer.json")
print(words.decode(out[0, len(prompt):].tolist(), skip_special_tokens=True))
"""


@pytest.mark.parametrize("tools", ["older", "ours"])
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_the_cards_lines_work_from_any_folder(tools, method, older, bench, tmp_path):
    """As written but for the length, in old and new tools: on the base as it was trained."""
    system = SYSTEM if method == "lora" else None
    adapter = bench.adapter(method, system=system)
    python = older if tools == "older" else sys.executable
    code = code_of(adapter)
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in code
    assert str(bench.base) in code
    assert ("BitsAndBytesConfig" in code) == (method == "qlora")
    assert "CANARY" not in (adapter / "README.md").read_text()
    assert "max_new_tokens=200" in code
    code = code.replace("max_new_tokens=200", "max_new_tokens=8")  # a CPU emulates bf16
    code += "print(type(model.base_model.model.model.layers[0].mlp.up_proj.base_layer).__name__)\n"
    answer, _, layer = ask(python, code, cwd=tmp_path).rpartition("\n")
    assert layer == {"lora": "Linear", "qlora": "Linear4bit"}[method]
    if method == "lora":
        from transformers import AutoTokenizer

        talk = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
        prompt = AutoTokenizer.from_pretrained(bench.base).apply_chat_template(
            talk, add_generation_prompt=True, return_dict=False
        )
        wanted = ask(python, REFERENCE, bench.base, adapter, json.dumps(prompt), cwd=tmp_path)
        assert answer.strip() == wanted
