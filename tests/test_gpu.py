"The GPU benchmark, run tiny on a CPU: what is written, what is not done twice, what a bare machine needs."
import importlib, inspect, json, re, subprocess, sys, tarfile, zipfile
from pathlib import Path
import pytest, torch
import hebrewgpt_nb.studies.gpu as G
from hebrewgpt_nb.core import UserError
from hebrewgpt_nb.studies.gpu import CASES, read_results, run_cases

ROOT = Path(__file__).parent.parent
EAGER = "^(?!.*(compiled|16384))" # without a compiler, which takes minutes on a CPU

@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = tmp_path_factory.mktemp("gpu")
    return run, run_cases(run=str(run), device="cpu", preset="tiny", only=EAGER)

def test_every_case_is_written_as_it_ends(finished):
    run, done = finished
    lines = [json.loads(line) for line in (run/"results.jsonl").read_text().splitlines()]
    assert [r["case"] for r in lines] == [n for n in CASES if re.search(EAGER, n)] == list(done) and len(lines) > 20
    for r in lines:
        assert not r.get("failed") and r["device"] == "cpu" and r["torch"] == torch.__version__ and r["seconds"] >= 0, r
        if r["case"].startswith("check"): assert r["relative_error"] <= r["tolerance"]
        elif "train" in r["case"] or "decode" in r["case"] or "prefill" in r["case"]: assert r["tokens_per_s"] > 0

def test_finished_cases_are_not_repeated(finished, monkeypatch):
    run, done = finished
    monkeypatch.setattr(G, "run_case", lambda *a: pytest.fail("run again"))
    assert run_cases(run=str(run), device="cpu", preset="tiny", only=EAGER) == done

def test_a_case_that_fails_is_written_and_tried_again_only_when_asked(tmp_path, monkeypatch):
    tries = []
    def case(config): tries.append(1); raise torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setitem(CASES, "mine", case)
    go = lambda **given: run_cases(run=str(tmp_path), device="cpu", preset="tiny", only="mine|ceilings", **given)
    assert go()["mine"]["failed"] == "OutOfMemoryError: CUDA out of memory" and "failed" not in go()["ceilings: product and reading"]
    assert len(tries) == 1 and go(again=True) and len(tries) == 2 and len((tmp_path/"results.jsonl").read_text().splitlines()) == 3

def test_a_wrong_path_is_a_failed_check(tmp_path, monkeypatch):
    monkeypatch.setattr(G, "full_logits", None)
    monkeypatch.setitem(G.CHECKS, "scores", lambda model, tokens: model(tokens).detach() * (1 if model.ln_f.weight.dtype == torch.float32 else 1.2))
    done = run_cases(run=str(tmp_path), device="cpu", preset="tiny", only="check dense scores (fp32|bf16)$")
    assert "failed" not in done["check dense scores fp32"] and "away from the plain path" in done["check dense scores bf16"]["failed"]

def test_the_budget_and_a_torn_line(tmp_path):
    assert run_cases(run=str(tmp_path), device="cpu", preset="tiny", minutes=0.) == {} and not (tmp_path/"results.jsonl").exists()
    run_cases(run=str(tmp_path), device="cpu", preset="tiny", only="ceilings")
    with open(tmp_path/"results.jsonl", "a") as f: f.write('{"case": "check de')
    done = run_cases(run=str(tmp_path), device="cpu", preset="tiny", only="check dense scores fp32")
    assert list(read_results(tmp_path/"results.jsonl")) == list(done) == ["ceilings: product and reading", "check dense scores fp32"]

def test_results_of_two_devices_are_not_mixed(finished, monkeypatch):
    monkeypatch.setattr(G, "device_name", lambda config: "NVIDIA H100")
    with pytest.raises(UserError, match="holds results of cpu, tiny; give another run"): run_cases(run=str(finished[0]), device="cpu", preset="tiny")

@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(tmp_path):
    with pytest.raises(UserError, match="no CUDA device is here; --device cpu"): run_cases(run=str(tmp_path))

def test_after_an_error_of_the_device_the_process_begins_anew(tmp_path, monkeypatch):
    def case(config): raise RuntimeError("CUDA error: an illegal memory access")
    started = []
    monkeypatch.setitem(CASES, "mine", case)
    monkeypatch.setattr(G.os, "execv", lambda program, command: started.append(command))
    run_cases(run=str(tmp_path), device="cpu", preset="tiny", only="mine|zzz", minutes=5.)
    [command] = started
    assert command[1:5] == ["-m", "hebrewgpt_nb.studies.gpu", "--run", str(tmp_path)] and command[-2:] == ["--only", "mine|zzz"]
    assert "CUDA error" in read_results(tmp_path/"results.jsonl")["mine"]["failed"] and 0 < float(command[command.index("--minutes") + 1]) <= 5

def test_mfu_is_the_training_loops(monkeypatch):
    from hebrewgpt_nb.training.loop import mfu
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *a: "NVIDIA H100 80GB HBM3")
    cfg = G.get_preset("dense-1b")
    assert G.training_mfu(G.BenchmarkConfig(), cfg, 2048, 42_500)["mfu"] == mfu(42_500, G.forward_flops(cfg, 2048), 989e12)

BARE = """
import sys
sys.modules.update(dict.fromkeys(["sentencepiece", "transformers", "datasets", "tokenizers", "safetensors", "peft", "numpy", "tqdm", "yaml", "pandas", "matplotlib", "papermill", "fastcore", "IPython", "mamba_ssm"])) # None: not to be imported
sys.argv = ["gpu", "--device", "cpu", "--preset", "tiny", "--run", sys.argv[1], "--only", "(check hybrid|train 2048).*(fp32|plain|bf16)$|decode 2048"]
import runpy; runpy.run_module("hebrewgpt_nb.studies.gpu", run_name="__main__")
"""

def test_a_machine_with_torch_alone(tmp_path):
    done = subprocess.run([sys.executable, "-c", BARE, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    records = read_results(tmp_path/"results.jsonl")
    assert len(records) >= 12 and not [r for r in records.values() if "failed" in r] and "tokens/s" in done.stdout

# --- jobs/gpu.py -------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def job():
    from importlib.util import module_from_spec, spec_from_file_location
    spec = spec_from_file_location("gpu_job", ROOT/"jobs"/"gpu.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

@pytest.mark.parametrize("trial", [[], ["--trial"]], ids=["cuda", "trial"])
@pytest.mark.parametrize("part", ["right", "fast", "model", "tuning", "decode"])
def test_a_part_names_real_cases_and_parameters(job, part, trial, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(job, "call", lambda o, module, kernels="", seconds=0., **given: calls.append((module, kernels, given)) or 0)
    assert job.main([part, "--work", str(tmp_path/"work"), "--out", str(tmp_path/"out"), *trial]) == 0
    for module, kernels, given in calls:
        stage = importlib.import_module(f"hebrewgpt_nb.{module}")
        fn = {"studies.gpu": "run_cases", "data": "prepare_data", "tokenizer": "make_tokenizer"}.get(module, module)
        assert set(given) <= set(inspect.signature(getattr(stage, fn)).parameters)
        if module == "studies.gpu": assert [n for n in CASES if re.search(given["only"], n) and ("hybrid" in n or not kernels)], given["only"]
    if part != "model": assert {kernels for _, kernels, _ in calls} == {"", "untuned" if part == "right" else "tuned"}

def test_the_parts_together_measure_every_case(job, tmp_path, monkeypatch):
    reached = {"": set(), "untuned": set(), "tuned": set()}
    def call(o, module, kernels="", seconds=0., only=None, **given):
        if only: reached[kernels] |= {n for n in CASES if re.search(only, n)} # none named: what is left
        return 0
    monkeypatch.setattr(job, "call", call)
    for part in job.PARTS: job.main([part, "--work", str(tmp_path/"work"), "--out", str(tmp_path/"out")])
    assert set(CASES) - reached[""] == {f"hybrid train {T} fused optimizer compiled" for T in (4096, 8192, 16384)} | {n for n in CASES if re.search("prefill .*compiled", n)}
    assert reached["untuned"] == {n for n in CASES if n.startswith("check hybrid")}
    assert {n for n in CASES if re.search("hybrid (train 2048 fused|train 16384|tune|decode)", n)} <= reached["tuned"]

def test_what_has_finished_is_not_done_again_and_what_stops_ends_the_part(job, tmp_path, monkeypatch):
    done = []
    def call(o, module, *_, run, **given):
        done.append(run.name)
        if run.name == "tuned": return 124
        run.mkdir(parents=True)
        (run/"done.json").write_text("{}")
        (run/"metrics.jsonl").write_text("{}")
        return 0
    monkeypatch.setattr(job, "call", lambda o, module, kernels="", **given: call(o, module, **given))
    given = ["model", "--trial", "--work", str(tmp_path/"work"), "--out", str(tmp_path/"out")]
    assert job.main(given) == 124 and done == ["data", "tokenizer", "mini", "tuned"]
    assert job.main(given) == 124 and done[4:] == ["tuned"]
    with tarfile.open(tmp_path/"out"/"reports.tar.gz") as tar: assert "mini/metrics.jsonl" in tar.getnames()

def test_results_come_back_after_each_call(job, tmp_path, monkeypatch):
    def call(o, module, kernels, seconds, run, minutes, **given):
        assert seconds > 60 * minutes > 0
        run.mkdir(parents=True, exist_ok=True)
        with open(run/"results.jsonl", "a") as f: f.write("{}\n")
        return 0
    monkeypatch.setattr(job, "call", call)
    for name in ("first", "second"): job.main(["right", "--trial", "--work", str(tmp_path/"work"), "--out", str(tmp_path/name)]) # a call's folder begins empty
    assert {p.name: p.read_text() for p in (tmp_path/"second").iterdir()} == {"plain.jsonl": "{}\n{}\n", "mamba-untuned.jsonl": "{}\n{}\n"}

def test_wheels_for_another_python_are_left_alone(job, tmp_path):
    for n, tag in enumerate(("py3-none-any", "cp36-abi3-any", "cp27-cp27m-any")):
        (tmp_path/"carry"/"packages").mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(tmp_path/"carry"/"packages"/f"p{n}-1.0-{tag}.whl", "w") as z: z.writestr(f"p{n}.py", "")
    o = job.options(["right", "--carry", str(tmp_path/"carry"), "--work", str(tmp_path/"work")])
    assert sorted(p.name for p in Path(job.packages(o, "packages")).iterdir()) == ["p0.py"]

def test_a_stage_that_outruns_its_minutes_is_stopped(job, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "STAGES", "")
    o = job.options(["model", "--work", str(tmp_path), "--out", str(tmp_path)])
    assert job.call(o, "timeit", seconds=.5, **{"number": 1, "setup=import time; time.sleep(60)": ""}) == 124
    o.end = 0.
    assert job.call(o, "timeit") == 124

@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_every_check_on_a_gpu(tmp_path):
    assert not [r for r in run_cases(run=str(tmp_path), only="^check").values() if "failed" in r]
