"""The path as a person takes it: papermill with no arguments, a wheel, a chain that is interrupted."""
import json, os, random, shutil, signal, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace
import nbformat, pytest, yaml
from hebrewgpt_nb.core import inputs_of, sample_dir, stage_key, write_json
from hebrewgpt_nb.data import prepare_data
from hebrewgpt_nb.text.records import read_records, write_records
from hebrewgpt_nb.jobs import read_chain, run_notebook, source_sha, is_finished
from hebrewgpt_nb.pretrain import check_training, pretrain
from hebrewgpt_nb.sft import sft
from hebrewgpt_nb.text.shards import Shards
from hebrewgpt_nb.tokenizer import make_tokenizer

ROOT = Path(__file__).parent.parent


def test_papermill_runs_instruction_tuning_without_arguments(tmp_path):
    shutil.rmtree(ROOT/"runs"/"nb"/"sft", ignore_errors=True) # nothing to reuse
    done = subprocess.run([Path(sys.executable).parent/"papermill", "nbs/05_sft.ipynb", tmp_path/"out.ipynb"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    nb = nbformat.read(tmp_path/"out.ipynb", 4)
    assert not [o for c in nb.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "error"]


@pytest.mark.parametrize("sign, status", [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_an_interrupted_chain_goes_on(sign, status, tmp_path):
    chain = tmp_path/"chain.yaml"
    chain.write_text('00_data: {run: "{run}/data"}\n01_tokenizer: {run: "{run}/tokenizer", data: "{run}/data", vocab_size: 700}\n')
    command = [sys.executable, "-m", "hebrewgpt_nb.jobs", "--chain", str(chain), "--run", str(tmp_path/"run")]
    heed = lambda: signal.signal(signal.SIGINT, signal.default_int_handler) # a shell's background job ignores Ctrl-C, and so would this one
    job = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed)
    for line in job.stdout:
        if line.startswith("[2/2]"): break
    while not (tmp_path/"run/tokenizer/progress.json").exists() and job.poll() is None: time.sleep(.02) # until its stage runs: a kernel that is starting ignores Ctrl-C
    os.killpg(job.pid, sign)
    said = job.communicate(timeout=60)[1]
    assert job.returncode == status and (status != 130 or said.strip().splitlines()[-1] == "interrupted: the same command goes on from here"), said
    assert (tmp_path/"run"/"data"/"done.json").exists() and (sign == signal.SIGKILL or not (tmp_path/"run"/"tokenizer"/"done.json").exists()) # a kernel outlives a kill -9 of its parent by a moment, and may end its stage
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0 and "[1/2] 00_data: reused" in again.stdout and "[2/2] 01_tokenizer ..." in again.stdout


def heeding(command):
    "Started as from a terminal: a shell's background job ignores Ctrl-C, and so would this one."
    heed = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed)


def after(job, sees):
    "What a job says of Ctrl-C as soon as something is seen, and how long it takes to end."
    while not sees() and job.poll() is None: time.sleep(.002)
    os.killpg(job.pid, signal.SIGINT)
    begun = time.time()
    return job.communicate(timeout=60)[1], job.returncode, time.time() - begun


def processes_of(pid): # command lines of its children
    return [c.read_bytes() for c in (Path(f"/proc/{child}/cmdline") for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()) if c.exists()]


def test_ctrl_c_while_a_kernel_starts_is_one_line_at_once(tmp_path):
    (tmp_path/"chain.yaml").write_text('00_data: {run: "{run}/data"}\n')
    job = heeding([sys.executable, "-m", "hebrewgpt_nb.jobs", "--chain", str(tmp_path/"chain.yaml"), "--run", str(tmp_path/"run")])
    said, status, seconds = after(job, lambda: any(b"ipykernel" in line for line in processes_of(job.pid)))
    assert (said, status) == ("interrupted: the same command goes on from here\n", 130) and seconds < 5
    assert not (tmp_path/"run"/"data").exists()


@pytest.mark.parametrize("module", ["pretrain", "sft", "evaluate", "bench"])
def test_ctrl_c_while_a_module_is_imported_is_one_line(module, tmp_path):
    job = heeding([sys.executable, "-m", f"hebrewgpt_nb.{module}", "--run", str(tmp_path/"run")])
    said, status, seconds = after(job, lambda: b"libtorch" in Path(f"/proc/{job.pid}/maps").read_bytes())
    assert (said, status) == ("interrupted: nothing was begun yet\n", 130) and not (tmp_path/"run").exists()


def test_a_stage_that_stops_is_one_line(tmp_path):
    chain, empty = tmp_path/"chain.yaml", tmp_path/"empty.jsonl"
    empty.write_text('{"text": "only latin letters here"}\nnot json\n')
    chain.write_text(f'00_data: {{run: "{{run}}/data", data: "{empty}"}}\n')
    done = subprocess.run([sys.executable, "-m", "hebrewgpt_nb.jobs", "--chain", str(chain), "--run", str(tmp_path/"run")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: 00_data stopped: ") and "nothing" in last, last


def test_the_job_files_name_real_parameters():
    for name in ("demo", "demo-data"): assert list(read_chain(f"jobs/{name}.yaml", run="runs/x", data=str(sample_dir())))[0] == "00_data"
    for name in ("laptop", "g5", "h100", "8xh100", "longer"):
        job = yaml.safe_load((ROOT/"jobs"/f"{name}.yaml").read_text(encoding="utf8"))
        params = stage_key(pretrain, {k: v for k, v in job.items() if k not in inputs_of(pretrain)})
        check_training(SimpleNamespace(**params | dict(device="cpu")))


def test_a_notebook_that_fails_after_its_stage_does_not_stand(tmp_path):
    run, out = tmp_path/"data", tmp_path/"00_data.ipynb"
    run_notebook("00_data", {"run": str(run)}, out)
    assert (run/"done.json").exists() and not is_finished("00_data", {"run": str(run)}, out) # only `run_chain` marks a notebook that ended well
    write_json(out.with_suffix(".json"), source_sha("00_data"))
    assert is_finished("00_data", {"run": str(run)}, out)


def test_data_of_ones_own_goes_the_whole_way(tmp_path):
    "A folder laid out like larger data (compressed records, tasks without phases, questions), from cleaning to tuning."
    for part in ("train", "valid"):
        for source in ("news", "howto"): write_records(tmp_path/"data"/"pretrain"/f"{source}.{part}.jsonl.zst", read_records(sample_dir()/"pretrain"/f"{source}.{part}.jsonl"))
    for phase, task in ((1, "short"), (2, "long")):
        lines = [json.loads(line) for line in (sample_dir()/"sft"/f"phase{phase}.jsonl").read_text(encoding="utf8").splitlines()]
        kept = [e | {"task": task} for e in lines if (len(e["output"].split()) <= 3) == (phase == 1)]
        write_records(tmp_path/"data"/"sft"/f"{task}.jsonl", kept)
    prepare_data(run=str(tmp_path/"clean"), data=str(tmp_path/"data"))
    tok = make_tokenizer(run=str(tmp_path/"tok"), data=str(tmp_path/"clean"), vocab_size=600)
    base = pretrain(run=str(tmp_path/"base"), data=str(tmp_path/"clean"), tokenizer=str(tmp_path/"tok"/"tokenizer.model"), steps=20, context=256, batch_tokens=1024)
    assert tok["vocab_size"] == 600 and set(base["bpb"]) == {"news", "howto", "macro"}
    tuned = sft(run=str(tmp_path/"sft"), base=str(tmp_path/"base"), data=str(tmp_path/"data"), split=True, steps=5)
    assert [p["phase"] for p in tuned["phases"]] == [1, 2] and all(p["train examples"] for p in tuned["phases"])


def test_large_data_takes_several_processes_in_a_notebook(tmp_path):
    "A class or function of a notebook cannot be imported by another process."
    luck, words = random.Random(0), [w for r in read_records(sample_dir()/"pretrain") for w in r["text"].split()]
    records = [dict(id=str(n), text=" ".join(luck.choices(words, k=1000)), source="news", license="CC0-1.0") for n in range(1000)]
    for name, some in (("train", records), ("valid", records[:2])): write_records(tmp_path/"in"/f"news.{name}.jsonl", some)
    assert (tmp_path/"in"/"news.train.jsonl").stat().st_size > 2 * 4_000_000 # above what one process does
    run_notebook("00_data", dict(run=str(tmp_path/"clean"), data=str(tmp_path/"in")), tmp_path/"00_data.ipynb")
    run_notebook("01_tokenizer", dict(run=str(tmp_path/"tok"), data=str(tmp_path/"clean"), vocab_size=600), tmp_path/"01_tokenizer.ipynb")
    assert Shards(tmp_path/"tok"/"shards"/"train").index["sources"]["news"]["documents"] == 998


def test_a_wheel_carries_library_and_sample(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)], check=True, cwd=tmp_path)
    wheel, = tmp_path.glob("hebrewgpt_nb-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(tmp_path/"site"), str(wheel)], check=True, cwd=tmp_path)
    code = """
import hebrewgpt_nb, hebrewgpt_nb.data
from hebrewgpt_nb.bundle import load_bundle
print(hebrewgpt_nb.__file__, hebrewgpt_nb.data.prepare_data(run="data")["train_documents"], load_bundle("mini")[1].vocab_size)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tmp_path/"site"), "HEBREWGPT_QUIET": "1"})
    assert done.returncode == 0, done.stderr
    file, documents, pieces = done.stdout.split()[-3:]
    assert file.startswith(str(tmp_path)) and int(documents) > 50 and int(pieces) == 8192
    assert {"sample", "open", "grammar", "mini", "mini-base"} <= {p.name for p in (tmp_path/"site"/"hebrewgpt_nb").iterdir()} and wheel.stat().st_size < 20_000_000


def test_the_sample_is_what_it_says():
    "At least 60 KB of prose and 300 examples, each with what it needs, none twice."
    lines = lambda p: [json.loads(line) for line in p.read_text(encoding="utf8").splitlines()]
    prose = [r for p in sorted((sample_dir()/"pretrain").glob("*.jsonl")) for r in lines(p)]
    assert sum(len(r["text"].encode()) for r in prose) > 60_000 and len({r["text"] for r in prose}) == len(prose) == len({r["id"] for r in prose})
    assert {r["source"] for r in prose} == {"encyclopedic", "legal", "literary", "news", "dialogue", "technical", "howto", "children"}
    examples = [r for p in sorted((sample_dir()/"sft").glob("*.jsonl")) for r in lines(p)]
    assert len(examples) >= 300 and len({(e["instruction"], e["input"]) for e in examples}) == len(examples) and all(e["output"].strip() for e in examples)
    questions = lines(sample_dir()/"eval"/"choices.jsonl")
    assert all(len(set(q["choices"])) == 4 and q["answer_index"] in range(4) for q in questions)
    asked = {e["instruction"] for e in examples} | {e["input"].split("\n")[0] for e in examples}
    assert not asked & {q["question"] for q in questions} # nothing that is evaluated was trained on
