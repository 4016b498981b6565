"The ladder for a GPU, climbed tiny on a CPU: what is written, what is not done twice, what a bare machine needs."
import json, re, subprocess, sys
from pathlib import Path
import pytest, torch
import hebrewgpt_nb.studies.gpu as G
from hebrewgpt_nb.core import UserError
from hebrewgpt_nb.studies.gpu import RUNGS, climb, read_ladder

ROOT = Path(__file__).parent.parent
EAGER = "^(?!.*(compiled|16384))" # without a compiler, which takes minutes on a CPU

@pytest.fixture(scope="module")
def climbed(tmp_path_factory):
    run = tmp_path_factory.mktemp("gpu")
    return run, climb(run=str(run), device="cpu", preset="tiny", only=EAGER)

def test_every_rung_is_written_as_it_is_reached(climbed):
    run, done = climbed
    lines = [json.loads(line) for line in (run/"ladder.jsonl").read_text().splitlines()]
    assert [r["rung"] for r in lines] == [n for n in RUNGS if re.search(EAGER, n)] == list(done) and len(lines) > 20
    for r in lines:
        assert not r.get("failed") and r["device"] == "cpu" and r["torch"] == torch.__version__ and r["seconds"] >= 0, r
        if r["rung"].startswith("check"): assert r["distance"] <= r["within"]
        elif "train" in r["rung"] or "decode" in r["rung"] or "prefill" in r["rung"]: assert r["tokens_per_s"] > 0

def test_finished_rungs_are_not_repeated(climbed, monkeypatch):
    run, done = climbed
    monkeypatch.setattr(G, "try_rung", lambda *a: pytest.fail("climbed again"))
    assert climb(run=str(run), device="cpu", preset="tiny", only=EAGER) == done

def test_a_rung_that_fails_is_written_and_tried_again_only_when_asked(tmp_path, monkeypatch):
    tries = []
    def rung(place): tries.append(1); raise torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setitem(RUNGS, "mine", rung)
    go = lambda **given: climb(run=str(tmp_path), device="cpu", preset="tiny", only="mine|ceilings", **given)
    assert go()["mine"]["failed"] == "OutOfMemoryError: CUDA out of memory" and "failed" not in go()["ceilings: product and reading"]
    assert len(tries) == 1 and go(again=True) and len(tries) == 2 and len((tmp_path/"ladder.jsonl").read_text().splitlines()) == 3

def test_a_wrong_path_is_a_failed_check(tmp_path, monkeypatch):
    monkeypatch.setattr(G, "forward_scores", None)
    monkeypatch.setitem(G.QUESTIONS, "scores", lambda model, tokens: model(tokens).detach() * (1 if model.ln_f.weight.dtype == torch.float32 else 1.2))
    done = climb(run=str(tmp_path), device="cpu", preset="tiny", only="check dense scores (fp32|bf16)$")
    assert "failed" not in done["check dense scores fp32"] and "away from the plain path" in done["check dense scores bf16"]["failed"]

def test_the_budget_and_a_torn_line(tmp_path):
    assert climb(run=str(tmp_path), device="cpu", preset="tiny", minutes=0.) == {} and not (tmp_path/"ladder.jsonl").exists()
    climb(run=str(tmp_path), device="cpu", preset="tiny", only="ceilings")
    with open(tmp_path/"ladder.jsonl", "a") as f: f.write('{"rung": "check de')
    done = climb(run=str(tmp_path), device="cpu", preset="tiny", only="check dense scores fp32")
    assert list(read_ladder(tmp_path/"ladder.jsonl")) == list(done) == ["ceilings: product and reading", "check dense scores fp32"]

def test_ladders_of_two_devices_are_not_mixed(climbed, monkeypatch):
    monkeypatch.setattr(G, "device_name", lambda place: "NVIDIA H100")
    with pytest.raises(UserError, match="holds rungs of cpu, tiny; give another run"): climb(run=str(climbed[0]), device="cpu", preset="tiny")

@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(tmp_path):
    with pytest.raises(UserError, match="no CUDA device is here; --device cpu"): climb(run=str(tmp_path))

BARE = """
import sys
sys.modules.update(dict.fromkeys(["sentencepiece", "transformers", "datasets", "tokenizers", "safetensors", "peft", "numpy", "tqdm", "yaml", "pandas", "matplotlib", "papermill", "fastcore", "IPython", "mamba_ssm"])) # None: not to be imported
sys.argv = ["gpu", "--device", "cpu", "--preset", "tiny", "--run", sys.argv[1], "--only", "(check hybrid|train 2048).*(fp32|plain|bf16)$|decode 2048"]
import runpy; runpy.run_module("hebrewgpt_nb.studies.gpu", run_name="__main__")
"""

def test_a_machine_with_torch_alone(tmp_path):
    done = subprocess.run([sys.executable, "-c", BARE, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    records = read_ladder(tmp_path/"ladder.jsonl")
    assert len(records) >= 12 and not [r for r in records.values() if "failed" in r] and "tokens/s" in done.stdout

@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_every_check_on_a_gpu(tmp_path):
    assert not [r for r in climb(run=str(tmp_path), only="^check").values() if "failed" in r]
