"""Parameters, stages and commands: what a person meets who gives something wrong."""
import importlib, inspect, json, os, re, shutil, subprocess, sys
from pathlib import Path
import pytest
from hebrewgpt_nb.core import (Dtype, InputPath, NonNegativeInt, PositiveFloat, PositiveInt, RunFolder, UserError, check_parameters, check_value,
                               is_locked, lock_folder, plot_label, read_json, stage, stage_key, read_stamp, work_folder, write_atomic)
from hebrewgpt_nb.data import prepare_data
from hebrewgpt_nb.jobs import STAGES
from hebrewgpt_nb.text.shards import Shards

ROOT = Path(__file__).parent.parent


def run(*args, **kw): return subprocess.run([sys.executable, *args], capture_output=True, text=True, cwd=ROOT, **kw)


def test_import_loads_neither_torch_nor_transformers():
    code = "import sys, hebrewgpt_nb, hebrewgpt_nb.core, hebrewgpt_nb.data, hebrewgpt_nb.tokenizer; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    assert run("-c", code).stdout.strip() == "[]"


@pytest.mark.parametrize("module, args, message", [
    ("pretrain", ["--preset", "mega"], "preset is 'mega': choose one of tiny"),
    ("pretrain", ["--steps", "-5"], "steps is -5: give a number above 0"),
    ("pretrain", ["--tokenizer", "runs/nowhere/tokenizer.model"], "no such file or folder"),
    ("pretrain", ["--device", "cuda"] if not __import__("torch").cuda.is_available() else ["--device", "tpu"], "device is"),
    ("pretrain", ["--schedule_of", "x"], "unrecognized arguments: --schedule_of"),
    ("sft", ["--base", "runs/nowhere"], "base is runs/nowhere: no such file or folder"),
    ("sft", ["--rank", "0"], "rank is 0: give a number above 0"),
    ("evaluate", ["--bundle", "runs/nowhere"], "no such file or folder"),
    ("data", ["--data", "runs/nowhere"], "no such file or folder"),
    ("tokenizer", ["--vocab_size", "0"], "vocab_size is 0"),
    ("jobs", ["--chain", "jobs/nowhere.yaml"], "no such file"),
    ("jobs", ["--data", "/nowhere"], "no such file or folder"),
])
def test_a_wrong_parameter_is_one_clear_line(module, args, message, tmp_path):
    done = run("-m", f"hebrewgpt_nb.{module}", "--run", str(tmp_path/"run"), *args)
    assert done.returncode == 2
    assert message in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not [p for p in (tmp_path/"run").rglob("*") if p.is_file()] # no work was done


def test_papermill_refuses_an_unknown_parameter(tmp_path):
    done = run("-m", "papermill", "nbs/04_pretrain.ipynb", str(tmp_path/"out.ipynb"), "-p", "stepz", "3", "-p", "run", str(tmp_path/"run"), timeout=300)
    assert done.returncode != 0
    assert "unknown parameter stepz: this notebook takes run, data" in done.stderr
    assert not (tmp_path/"run").exists()


@pytest.mark.parametrize("source", ["# Parameters\nstepz = 3\n", "# Parameters\nsteps = 3\nlrr: float = 2.0\n", "# Parameters\na = b = 3\n"])
def test_unknown_names_are_found_in_the_injected_cell(source):
    with pytest.raises(UserError, match="unknown parameter"):
        check_parameters({"__annotations__": {"steps": int}, "steps": 3, "In": ["import x", source]})


@pytest.mark.parametrize("name, value, kind", [
    ("steps", True, int), ("steps", 2.5, PositiveInt), ("lr", float("nan"), PositiveFloat), ("lr", float("inf"), float), ("lr", 0., PositiveFloat),
    ("seed", -1, NonNegativeInt), ("dtype", "fp8", Dtype), ("run", "", RunFolder), ("run", __file__, RunFolder), ("steps", "3", int)])
def test_impossible_values(name, value, kind):
    with pytest.raises(UserError, match=name): check_value(name, value, kind)


def declared(source: str) -> dict: # name -> type, default, help, as written
    return {m[1]: m.groups()[1:] for m in re.finditer(r"^\s*(?:def \w+\()?(\w+): (.+?) ?= ?(.+?),? +# (.*)$", source, re.M)}

@pytest.mark.parametrize("notebook, stage", {**STAGES, "09_bench": "bench.bench"}.items())
def test_a_notebooks_parameters_are_its_stages(notebook, stage):
    "Names, order, types, defaults and help: two places that say the same."
    cells = json.loads((ROOT/"nbs"/f"{notebook}.ipynb").read_text(encoding="utf8"))["cells"]
    cell, = (c for c in cells if "parameters" in c["metadata"].get("tags", []))
    module, _, name = stage.rpartition(".")
    fn = inspect.unwrap(getattr(importlib.import_module(f"hebrewgpt_nb.{module}"), name))
    said = declared(inspect.getsource(fn))
    assert list(said) == list(inspect.signature(fn).parameters)
    assert list(declared("".join(cell["source"])).items()) == list(said.items())


def test_a_stage_that_fails_leaves_no_stamp(tmp_path):
    @stage
    def work(run: str = "x", # where
             seed: int = 0, # how
            ) -> dict:
        "Fail for seed 1."
        if seed: raise RuntimeError("no")
        return {"ok": 1}
    work(run=str(tmp_path))
    with pytest.raises(RuntimeError): work(run=str(tmp_path), seed=1)
    assert read_stamp(tmp_path) is None


def test_a_changed_input_is_seen(tmp_path):
    @stage
    def work(run: str = "x", # where
             data: InputPath = "", # what
            ) -> dict:
        "Read data."
        return {"n": len(Path(data).read_text())}
    source = write_atomic(tmp_path/"a.txt", "שלום")
    assert work(run=str(tmp_path/"r"), data=str(source)) == {"n": 4}
    write_atomic(source, "שלום רב")
    assert work(run=str(tmp_path/"r"), data=str(source)) == {"n": 7}
    assert set(stage_key(work, dict(data=str(source)))) == {"run", "data", "data@"}

def ink(text):
    "The picture of a label that ends at a fixed place."
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    import numpy as np
    fig = Figure(figsize=(3, 1), dpi=100)
    fig.text(.9, .5, text, ha="right", va="baseline", fontsize=30)
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., 0] < 128

def test_hebrew_is_drawn_from_right_to_left():
    "In a word the first letter stands at the right end, as it does alone."
    alone, word = ink(plot_label("ש")), ink(plot_label("שווו"))
    place = slice(alone.any(0).argmax() + 2, None) # its columns
    assert word[:, place].any() and (alone[:, place] ^ word[:, place]).sum() < .1 * alone[:, place].sum()

def test_a_label_has_no_box_and_no_formula(recwarn):
    labels = ["ה\ue000", "א\n", "🙂", "漢", "$x^2$", "5$", r"\$a$", "a$b$c_{", "", "וְאֵת ₪"]
    for label in labels: assert ink(plot_label(label)).any() == bool(label)
    assert not [str(w.message) for w in recwarn if "missing from" in str(w.message)]
    assert plot_label("וְאֵת ₪") == "וְאֵת ₪" and plot_label("ה\ue000") == "ה⟨E000⟩"


# --- one folder, several writers, attempts that fail ---------------------------------------------------

def started_together(*commands):
    "What each said, and its exit status."
    jobs = [subprocess.Popen([sys.executable, *c], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for c in commands]
    return [(*job.communicate(timeout=300), job.returncode) for job in jobs]

def test_two_stages_writing_one_folder_at_a_time(tmp_path):
    "One waits, says so, and reads again what is done; the same with other parameters, one after the other."
    command = ["-m", "hebrewgpt_nb.data", "--run", str(tmp_path/"run")]
    with lock_folder(tmp_path/"run"): # both wait for this process, so neither is done before the other begins
        jobs = [subprocess.Popen([sys.executable, *command, *more], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for more in ([], [], ["--seed", "1"])]
        said = [job.stdout.readline() for job in jobs]
    rest = [(*job.communicate(timeout=300), job.returncode) for job in jobs]
    assert all(line.endswith("run: another process writes there; this one goes on when that has ended\n") for line in said) and [r[2] for r in rest] == [0, 0, 0], rest
    assert not [err for _, err, _ in rest if "Traceback" in err]
    report, kept = read_json(tmp_path/"run"/"report.json"), read_stamp(tmp_path/"run")["result"]
    assert sum(s["train"]["documents"] for s in report["sources"].values()) == kept["train_documents"]
    assert {p.name for p in (tmp_path/"run").glob("*.zst")} == {f"{s}.{role}.jsonl.zst" for s in report["sources"] for role in ("train", "valid")}

def test_two_shard_builds_on_one_folder(tmp_path):
    "Different documents, started together: what stands at the end is one of the two, whole."
    code = """if 1:
        import sys
        from hebrewgpt_nb.text.shards import build_shards
        class Bytes:
            vocab_size, bos_id, eos_id, sha256 = 300, 256, 257, 'x'
            def encode(self, texts): return [list(t.encode()) for t in texts]
        build_shards((dict(text=f'{sys.argv[2]} {n} ' * 200, source='a') for n in range(4000)), sys.argv[1], Bytes(), workers=1)"""
    done = started_together(*[["-c", code, str(tmp_path/"s"), word] for word in ("one", "three")])
    assert [d[2] for d in done] == [0, 0], done
    assert len(Shards(tmp_path/"s").tokens("a")) in (sum(len(f"{word} {n} " * 200) + 2 for n in range(4000)) for word in ("one", "three"))

def test_a_lock_dies_with_its_process(tmp_path):
    code = f"import time; from hebrewgpt_nb.core import lock_folder\nwith lock_folder({str(tmp_path)!r}): print('held', flush=True); time.sleep(60)"
    job = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert job.stdout.readline() == "held\n"
    job.kill(), job.wait()
    with open(tmp_path/".lock", "a") as file: assert not is_locked(file)

def test_a_stage_whose_run_is_a_folder_above_others_deletes_only_what_it_wrote(tmp_path):
    others = ("other/checkpoints/00000007.pt", "checkpoints/mine/00000007.pt", "work/bundle/config.json", "phase1/notes.txt", "old.train.jsonl.zst")
    for name in others: write_atomic(tmp_path/name, "kept")
    for seed in (0, 1): prepare_data(run=str(tmp_path), seed=seed) # the second one takes the place of the first
    assert {(tmp_path/name).read_text() for name in others} == {"kept"}

@pytest.mark.parametrize("instant", range(14))
def test_killed_while_a_second_attempt_takes_the_place_of_the_first(instant, tmp_path, monkeypatch):
    "Before each rename and removal: no stamp beside files of the other result, and the next start ends what was begun."
    @stage(earlier=lambda run: [run/"only_first"])
    def write(run: RunFolder = "", word: str = "first") -> dict:
        for name in ("a", "b/c", f"only_{word}"): write_atomic(work_folder(run)/name, word)
        return {"word": word}
    class Killed(BaseException): pass
    def count_down(do):
        def done(*args, **kw):
            if not left: raise Killed
            left.pop()
            return do(*args, **kw)
        return done
    write(run=str(tmp_path))
    left = [0] * instant
    with monkeypatch.context() as m:
        for module, name in ((os, "replace"), (os, "unlink"), (shutil, "rmtree"), (Path, "unlink")): m.setattr(module, name, count_down(getattr(module, name)))
        try: write(run=str(tmp_path), word="second")
        except Killed: pass
    def there(): return {str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.rglob("*") if p.is_file() and not any(part[0] == "." for part in p.relative_to(tmp_path).parts) and p.name != "done.json"}
    def files(word): return {name: word for name in ("a", "b/c", f"only_{word}")}
    if stamp := read_stamp(tmp_path): assert there() == files(stamp["result"]["word"])
    assert write(run=str(tmp_path), word="second") == {"word": "second"} and there() == files("second")
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["b"]
