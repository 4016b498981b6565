"""A job is not a lesson: every stage notebook with every parameter away from its default, on data of one's own,
from a folder of one's own; every file of jobs/ and every target of the Makefile with its sizes shrunk."""
import inspect, json, os, re, shutil, subprocess, sys, time, urllib.request
from pathlib import Path
import nbformat, pandas as pd, pytest, yaml
from conftest import small
from hebrewgpt_nb.bundle import save_bundle
from hebrewgpt_nb.core import read_json, read_jsonl, read_stamp, sample_dir
from hebrewgpt_nb.jobs import STAGES, stage_function
from hebrewgpt_nb.text.records import write_records
from hebrewgpt_nb.text.sources import GROUPS, SOURCES
from hebrewgpt_nb.tokenizer import Tokenizer, train_tokenizer
from chat_server import chat
from hub_stand_in import Hub

ROOT, BIN = Path(__file__).parents[1], Path(sys.executable).parent
PAGE_SIZES = dict(steps=2, batch_tokens=256, forward_tokens=256, context=128, eval_every=1, save_every=1, unlearn=2, seeds=1, width=64,
                  examples=4, generations=2, max_new_tokens=5, prefill=32, prompt=8, new=2, repeats=5, threads=1, count=1, words=5000, n=100,
                  pairs=20, stories=3, prompts=4)


def papermill(notebook: str, out: Path, params: dict, cwd: Path) -> str: # what the executed notebook shows
    "Run a notebook as a person does, from a folder of theirs; fail with its error."
    out.parent.mkdir(parents=True, exist_ok=True)
    (values := out.with_suffix(".yaml")).write_text(yaml.safe_dump(params, allow_unicode=True), encoding="utf8")
    command = [BIN/"papermill", ROOT/"nbs"/f"{notebook}.ipynb", out, "-f", values, "--kernel", "python3", "--no-progress-bar"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=os.environ | {"HEBREWGPT_QUIET": "1", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = [o for c in nbformat.read(out, 4).cells if c.cell_type == "code" for o in c.outputs]
    return "\n".join(o.get("text", "") or "".join(o.get("data", {}).get("text/html", o.get("data", {}).get("text/plain", ""))) for o in outputs)


# --- data of one's own ------------------------------------------------------------------------------

def sentences() -> list[str]:
    texts = [r["text"] for p in sorted((sample_dir()/"pretrain").glob("*.train.jsonl")) for r in read_jsonl(p)]
    return [s.strip() for t in texts for s in re.split(r"(?<=[.!?])\s+", t) if len(s.split()) > 4]

@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    "Thirty documents in one file, thirty examples, a few questions and a gold segmentation, in a folder outside the project."
    place, some = tmp_path_factory.mktemp("mine"), sentences()
    documents = [dict(text=" ".join(some[4 * n:4 * n + 4]) + f" מסמך מספר {n}.") for n in range(30)]
    (place/"texts").mkdir()
    (place/"texts"/"recipes.jsonl").write_text("".join(json.dumps(d, ensure_ascii=False) + "\n" for d in documents), encoding="utf8")
    examples = [dict(instruction=f"כתבו את המילה הראשונה במשפט מספר {n}.", input=some[150 + n], output=some[150 + n].split()[0] if n % 2 else some[200 + n]) for n in range(30)]
    (place/"asks").mkdir()
    pd.DataFrame(examples[1::2]).rename(columns=dict(instruction="ask")).to_csv(place/"asks"/"short.csv", index=False, encoding="utf-8-sig")
    write_records(place/"asks"/"more"/"long.jsonl.gz", examples[::2])
    (place/"choices_mine.jsonl").write_text((sample_dir()/"eval"/"choices.jsonl").read_text(encoding="utf8").split("\n")[0] + "\n", encoding="utf8")
    (place/"evals").mkdir()
    (place/"evals"/"held.jsonl").write_text(json.dumps(dict(text=documents[3]["text"]), ensure_ascii=False) + "\n", encoding="utf8")
    (place/"gold").mkdir()
    words = [dict(id=str(n), sent_id="1", surface=w, segments=[w], upos=["NOUN"], surface_split=[w]) for n, w in enumerate(some[0].split())]
    words += [dict(id=f"b{n}", sent_id="2", surface=f"ו{w['surface']}", segments=["ו", w["surface"]], upos=["CCONJ", "NOUN"], surface_split=["ו", w["surface"]]) for n, w in enumerate(words)]
    write_records(place/"gold"/"segmentation_mine.jsonl", words)
    (place/"shares.yaml").write_text("recipes: 1.0\n")
    write_records(place/"english.jsonl", [dict(instruction="How many legs do two cats have?", input="", output="Two cats have eight legs together.")])
    return place

def test_every_stage_notebook_runs_with_every_parameter_changed():
    "What is below covers every parameter of every stage notebook."
    for notebook in STAGES:
        defaults = {name: p.default for name, p in inspect.signature(stage_function(notebook)).parameters.items()}
        changed = {name for case, values in CASES.items() if case.split(":")[0] == notebook for name, value in values.items() if value != defaults[name]}
        assert changed == set(defaults), f"{notebook}: not changed by any case: {', '.join(sorted(set(defaults) - changed))}"

CASES = { # {mine}: the folder above; {run}: the runs of the cases before; {endpoint}: of a model that answers
    "00_data": dict(run="{run}/data", data="{mine}/texts", evals="{mine}/evals", niqqud="strip", alike=.7, seed=3),
    "text/7_prefixes": dict(run="{run}/prefixes", data="{run}/data", gold="{mine}/gold"),
    "01_tokenizer": dict(run="{run}/tokenizer", data="{run}/data", vocab_size=600, kind="boundaries", seed=1),
    "04_pretrain:base": dict(run="{run}/base", data="{run}/data", tokenizer="{run}/tokenizer/tokenizer.model", preset="mini", steps=2, batch_tokens=256,
                             forward_tokens=128, context=128, rope_theta=20000., lr=.01, adam_lr=.001, lr_schedule="cosine", dropout=0., seed=2, processes=2, dtype="float32"),
    "04_pretrain": dict(run="{run}/pretrain", data="{run}/data", tokenizer="{run}/tokenizer/tokenizer.model", shards="{run}/tokenizer/shards", preset="mini", steps=3,
                        batch_tokens=512, forward_tokens=256, context=128, rope_theta=20000., base="{run}/base", lr=.5, adam_lr=.1, optimizer="adamw", lr_schedule="restarts", lookahead=2,
                        dropout=.3, mixture="{mine}/shares.yaml", balance=.9, max_epochs=9., swa=.5, seed=5, eval_every=2, save_every=2,
                        checkpoints="{run}/elsewhere", processes=2, fsdp=True, deterministic=True, compiled=False, device="cpu", dtype="bfloat16"),
    "04_pretrain:compiled": dict(run="{run}/compiled", data="{run}/data", tokenizer="{run}/tokenizer/tokenizer.model", steps=1, batch_tokens=256, context=128, compiled=True),
    "05_sft": dict(run="{run}/sft", base="{run}/base", data="{mine}/asks", mixture="even", steps=2, batch_tokens=512, context=128, lr=.5, rank=4, patience=1, eval_every=1, save_every=1, seed=7,
                   columns="instruction=ask", split=True, order="reversed", replay=.5, epochs=3., forward_tokens=256, method="dora", mamba=True, lr2=.1, warmup=.5, unlearn=2, device="cpu", dtype="bfloat16"),
    "05_sft:phases": dict(run="{run}/sft-phases", base="{run}/base", phase1="{mine}/asks/short.csv", phase2="{mine}/asks/more", columns="instruction=ask", steps=1, batch_tokens=512, context=128, lr=.001),
    "06_eval": dict(run="{run}/eval", base="{run}/base", bundle="{run}/sft-phases", data="{run}/data", sft="{run}/sft", examples=3, generations=2,
                    max_new_tokens=8, seed=3, tests="{mine}/choices_mine.jsonl", device="cpu", dtype="bfloat16"),
    "06_eval:alone": dict(run="{run}/eval-alone", model="{run}/sft-phases", beside="{run}/eval", training="{mine}/asks/more", tests="{mine}/choices_mine.jsonl", examples=3, generations=2, max_new_tokens=8),
    "07_release": dict(run="{run}/release", bundle="{run}/base", model_name="mine", license="apache-2.0", data="{run}/data", report="{run}/eval", role="base", dtype="bfloat16", int8=True,
                       gguf="f16", repo="someone/mine", send=True),
    "12_making": dict(run="{run}/making", base_url="{endpoint}", model="m", count=1, price_in=1., price_out=2., budget=9., requests_per_minute=9999, tokens_per_minute=10**8,
                      at_once=2, timeout=30., temperature=.5, limit="max_completion_tokens", license="CC0-1.0", seed=2),
    "12_making:english": dict(run="{run}/translated", base_url="{endpoint}", model="m", english="{mine}/english.jsonl"),
    "09_bench": dict(run="{run}/bench", preset="mini", prefill=32, prompt=8, new=2, rows=1, repeats=6, compiled=True, threads=1, max_seconds=20., only="dense decode", seed=4),
    "studies/4_tokenizers": dict(run="{run}/compare", data="{run}/data", gold="{mine}/gold", kinds="plain boundaries", vocab_size=600, seeds=2, steps=2, batch_tokens=256, context=64,
                                 width=32, lr=.01, adam_lr=.001, processes=2, device="cpu", dtype="float32"),
    "studies/7_tuning": dict(run="{run}/tuning", base="{run}/base", data="{mine}/asks", lora_rates="", full_rates="0.01", orders="shuffled", seeds=2, rank=2, epochs=2., steps=1,
                             batch_tokens=512, context=128, eval_every=2, examples=8, repeats=3, device="cpu", dtype="bfloat16"),
    "studies/10_shares": dict(run="{run}/shares", data="{run}/data", tokenizer="{run}/tokenizer/tokenizer.model", shards="{run}/tokenizer/shards", preset="mini", source="recipes",
                              mixture="{mine}/shares.yaml", shares="1", written="recipes", seeds=2, steps=2, batch_tokens=512, context=256, max_epochs=9., dropout=.1, save_every=1,
                              pairs=7, stories=2, prompts=4, max_new_tokens=8, device="cpu", dtype="bfloat16"),
    "studies/9_mini": dict(run="{run}/mini", data="{mine}", words=2000, n=50, seed=3),
}

@pytest.fixture(scope="module")
def runs(tmp_path_factory): return tmp_path_factory.mktemp("runs")

@pytest.fixture(scope="module")
def hub():
    hub = Hub()
    yield hub
    hub.shutdown()

@pytest.fixture(scope="module")
def endpoint():
    with chat() as server: yield server.address

def filled(values: dict, **names) -> dict:
    return {k: v.format(**names) if isinstance(v, str) else v for k, v in values.items()}

NEEDS_CPP = pytest.mark.skipif(not shutil.which("g++"), reason="compiling blocks needs a C++ compiler")

@pytest.mark.parametrize("case", [pytest.param(c, marks=NEEDS_CPP) if CASES[c].get("compiled") else c for c in CASES])
def test_a_job_on_ones_own_data(case, mine, runs, endpoint, hub, tmp_path, monkeypatch):
    "In the order of CASES: each needs the runs of those before."
    for name, value in hub.env(tmp_path/"home").items(): monkeypatch.setenv(name, value)
    notebook, params = case.split(":")[0], filled(CASES[case], mine=mine, run=runs, endpoint=endpoint)
    shown = papermill(notebook, tmp_path/"out.ipynb", params, cwd=tmp_path)
    assert read_stamp(params["run"])["key"]["run"] == params["run"] # the stage ran with what was given
    assert params["run"] in shown, "it does not say where the result is"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.ipynb", "out.yaml"] # nothing is left in the folder it was called from

def test_what_was_sent_is_what_was_written(runs, hub):
    "The release of the cases above, and its Space."
    for name, repo in (("mine", "someone/mine"), ("space", "spaces/someone/mine")):
        assert hub.repos[repo] == {p.name: p.read_bytes() for p in (runs/"release"/name).iterdir() if not p.name.startswith(".")}

def test_a_job_given_a_base_trains_no_other(mine, runs):
    assert (runs/"sft"/"bundle").is_dir() and (runs/"eval"/"report.json").exists() # of the cases above
    assert not list((runs/"sft").rglob("base")) and not list((runs/"eval").rglob("base"))


# --- jobs/ ------------------------------------------------------------------------------------------

JOBS = sorted(p.name for p in (ROOT/"jobs").glob("*.yaml"))
CHAINS = ["demo.yaml", "demo-data.yaml", "mini.yaml"]

@pytest.fixture(scope="module")
def card_data(tmp_path_factory):
    "A few documents for each row of the card's mixture, under names of listed sources, laid out as shared data is."
    place, some = tmp_path_factory.mktemp("card"), sentences()
    for g, group in enumerate(GROUPS):
        name = next(s.name for s in SOURCES.values() if s.group == group)
        for part, first, count in (("train", 0, 12), ("valid", 12, 2)):
            texts = [" ".join(some[(g * 14 + first + n) % 60 * 4:][:4]) + f" {group} {part} {n}" for n in range(count)]
            write_records(place/"pretrain"/f"{name}.{part}.jsonl.zst", [dict(id=f"{n}", text=t, source=name, license="CC0-1.0") for n, t in enumerate(texts)])
    shutil.copytree(sample_dir()/"sft", place/"sft"), shutil.copytree(sample_dir()/"eval", place/"eval")
    return place

def notebook_of(job: str) -> str: # as its first line prints it
    first = (ROOT/"jobs"/job).read_text(encoding="utf8").split("\n")[0]
    m = re.fullmatch(r"# mkdir -p (\S+) && papermill nbs/(\S+)\.ipynb (\S+) -f jobs/(\S+)", first)
    assert m and m[4] == job and m[3] == f"{m[1]}/{Path(m[2]).name}.ipynb", f"jobs/{job} begins with the command that runs it: {first}"
    return m[2]

def printed_commands() -> list[tuple[str, str]]: # where; a line, with the mkdir of its block before it
    places = [*(ROOT/"jobs").glob("*.yaml"), *(ROOT/"nbs").rglob("*.ipynb"), ROOT/"README.md", *(ROOT/"hebrewgpt_nb").rglob("*.md")]
    def text_of(p): return "\n".join(c.source for c in nbformat.read(p, 4).cells if c.cell_type == "markdown") if p.suffix == ".ipynb" else p.read_text(encoding="utf8")
    found = []
    for place in places:
        for block in map("".join, re.findall(r"```\w*\n(.*?)```|`([^`\n]*papermill [^`]+)`|^# ([^\n]*papermill [^\n]*)$", text_of(place), re.S | re.M)):
            made = " && ".join(re.findall(r"mkdir -p \S+", block))
            found += [(place.name, f"{made} && {line}") for line in re.findall(r"papermill nbs/.*", block)]
    return found

def test_every_printed_papermill_line_runs_from_a_clean_clone():
    "What it names is there, and the folder of its output is made before it, or holds what it reads."
    found = printed_commands()
    assert len(found) >= 18
    for place, line in found:
        notebook, out = re.search(r"papermill (\S+) (\S+)", line).groups()
        files = [notebook, *re.findall(r" -f (\S+)", line)]
        assert all((ROOT/name).is_file() for name in files), f"{place}: {line}"
        made = re.findall(r"mkdir -p (\S+)", line) + re.findall(r"-p (?:data|base|tokenizer) (\S+)", line)
        assert any(Path(out).parent in (p := Path(m), *p.parents) for m in made) or "/" not in out, f"{place}: nothing makes the folder of {out}: {line}"

def shrunk(params: dict) -> dict: # the same names, smaller sizes
    small = {k: min(v, PAGE_SIZES[k]) if k in PAGE_SIZES else v for k, v in params.items()}
    if "batch_tokens" in small: small["batch_tokens"] = max(small["batch_tokens"], 128 * params.get("processes", 1))
    return small | {k: v for k, v in dict(preset="tiny", device="cpu", dtype="float32", vocab_size=600, compiled=False, only="decode", lora_rates="0.001", full_rates="", processes=min(2, params.get("processes", 1))).items() if k in params}

def tuned_base(place: Path) -> str: # a bundle
    "A small model with a tokenizer of the sample."
    path = train_tokenizer(sentences(), place/"tokenizer.model", vocab_size=600)
    return str(save_bundle(small(vocab_size=600), Tokenizer(path), place/"bundle"))

@pytest.mark.parametrize("job", [j for j in JOBS if j not in CHAINS])
def test_a_job_file_with_its_sizes_shrunk(job, mine, card_data, endpoint, tmp_path):
    notebook = notebook_of(job)
    params = shrunk(yaml.safe_load((ROOT/"jobs"/job).read_text(encoding="utf8")))
    at = {k: v.replace("runs/", f"{tmp_path}/runs/", 1) if isinstance(v, str) else v for k, v in params.items()}
    at |= {k: v for k, v in dict(base_url=endpoint, english=str(mine/"english.jsonl")).items() if k in at}
    if notebook == "studies/10_shares": at |= dict(source="wikipedia", mixture="", written="") # of what is there
    if notebook in ("05_sft", "studies/7_tuning"): at["base"], at["data"] = tuned_base(tmp_path), str(sample_dir())
    elif "data" in at: subprocess.run([sys.executable, "-m", "hebrewgpt_nb.data", "--run", at["data"], "--data", str(card_data)], cwd=ROOT, check=True, capture_output=True)
    if "tokenizer" in at: subprocess.run([sys.executable, "-m", "hebrewgpt_nb.tokenizer", "--run", str(Path(at["tokenizer"]).parent), "--data", at["data"], "--vocab_size", "600"], cwd=ROOT, check=True, capture_output=True)
    if "base" in at and "tokenizer" in at: # `longer` goes on from a model of the same shape
        subprocess.run([sys.executable, "-m", "hebrewgpt_nb.pretrain", "--run", at["base"], "--data", at["data"], "--tokenizer", at["tokenizer"], "--steps", "1", "--context", "128"], cwd=ROOT, check=True, capture_output=True)
    papermill(notebook, tmp_path/"out.ipynb", at, cwd=tmp_path)
    assert read_stamp(at["run"])

@pytest.mark.parametrize("chain", CHAINS)
def test_a_chain_with_its_sizes_shrunk(chain, card_data, tmp_path):
    jobs = yaml.safe_load((ROOT/"jobs"/chain).read_text(encoding="utf8"))
    jobs = {notebook: shrunk(params) for notebook, params in jobs.items()}
    for params in jobs.values(): params.update({k: "" for k, v in params.items() if k == "mixture" and str(v).startswith("jobs/")}) # of sources and tasks that are not here
    jobs["05_sft"]["context"] = jobs["04_pretrain"]["context"] = 256 # the examples of the sample are longer than 128
    jobs["04_pretrain"]["batch_tokens"] = jobs["05_sft"]["batch_tokens"] = 512
    (small := tmp_path/chain).write_text(yaml.safe_dump(jobs, allow_unicode=True, sort_keys=False), encoding="utf8")
    data = ["--data", str(card_data)] if chain == "demo-data.yaml" else []
    done = subprocess.run([sys.executable, "-m", "hebrewgpt_nb.jobs", "--chain", str(small), "--run", str(tmp_path/"run"), *data], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "bits per byte" in done.stdout and "instruct:" in done.stdout


# --- the Makefile -----------------------------------------------------------------------------------

def make(target: str, *args: str, **kw):
    "As typed in a shell of its own, also where these tests were themselves started by make."
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")}
    command = ["make", "READY=", f"BIN={BIN}", f"PYTHON={sys.executable}", target, *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env, **kw)

def test_make_names_every_target():
    "Each target is run here or by .ci/run itself."
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT/"Makefile").read_text(), re.M)[1].split()
    assert set(targets) == {"demo", "test", "check", "kernels", "carry"} | {"lab", "app", "bench", "llama", "bench-llama", "gpu", "readme", "clean"}

def test_make_bench(tmp_path):
    sizes = " ".join(f"-p {k} {v}" for k, v in dict(run=tmp_path/"bench", preset="tiny", prefill=32, prompt=8, new=2, repeats=5, compiled=False, only="decode").items())
    done = make("bench", f"ARGS={sizes}", f"RUN={tmp_path/'bench'}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "decode" in done.stdout

def test_make_gpu_on_a_cpu(tmp_path):
    done = make("gpu", "MINUTES=2", f"ARGS=--device cpu --preset tiny --only fp32 --run {tmp_path}")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "check" in done.stdout and "FAILED" not in done.stdout

def answers(command: list[str], address: str, seconds: int=90) -> int: # the HTTP status
    job = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        for _ in range(seconds * 2):
            assert job.poll() is None, job.stdout.read()[-2000:]
            try: return urllib.request.urlopen(address, timeout=5).status
            except OSError: time.sleep(.5)
        raise AssertionError(f"{address} did not answer within {seconds} s")
    finally:
        os.killpg(job.pid, 15)
        job.wait(30)

def test_make_lab_opens_also_as_root():
    "As in the containers of GPU machines."
    assert answers(["make", "READY=", f"BIN={BIN}", "lab", "ARGS=--no-browser --port 8791 --ServerApp.port_retries=0 --IdentityProvider.token=''"], "http://127.0.0.1:8791/api") == 200

def test_make_clean_and_readme_are_the_printed_ones():
    "They change the checkout, so their commands are only read."
    assert make("clean", "-n").stdout.strip() == "rm -rf .venv runs build dist"
    assert [line.rpartition("/")[2] for line in make("readme", "-n").stdout.split("\n")[:2]] == ["nbdev_export", "nbdev_clean"]
