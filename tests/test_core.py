"""Parameters, stages and commands: what a person meets who gives something wrong."""
import contextlib, importlib, inspect, json, os, re, resource, runpy, shutil, signal, subprocess, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pytest, torch, yaml
from conftest import VOCAB, small
from hebrewgpt_nb.bundle import load_bundle, save_bundle
from hebrewgpt_nb.core import (COMMANDS, Dtype, InputPath, NonNegativeInt, PositiveFloat, PositiveInt, RunFolder, UserError, append_line, base_type, check_parameters,
                               check_value, is_locked, kinds_of, lock_folder, plot_label, read_json, read_jsonl, read_stamp, sha256_file, stage, stage_key, work_folder,
                               write_atomic, write_json)
from hebrewgpt_nb.data import prepare_data
from hebrewgpt_nb.generate import generate
from hebrewgpt_nb.jobs import STAGES, read_chain
from hebrewgpt_nb.release import export_hf
from hebrewgpt_nb.sft import add_lora, base_sha, licences_of, save_adapter
from hebrewgpt_nb.text.examples import read_examples
from hebrewgpt_nb.text.records import Quarantine
from hebrewgpt_nb.text.prefixes import Prefixes, save_prefixes
from hebrewgpt_nb.text.records import write_records
from hebrewgpt_nb.text.shards import Shards
from hebrewgpt_nb.tokenizer import train_tokenizer

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


def test_a_stage_that_fails_leaves_no_stamp_of_its_own(tmp_path):
    @stage
    def work(run: str = "x", # where
             seed: int = 0, # how
            ) -> dict:
        "Fail for seed 1."
        if seed: raise RuntimeError("no")
        return {"ok": 1}
    with pytest.raises(RuntimeError): work(run=str(tmp_path/"new"), seed=1)
    assert read_stamp(tmp_path/"new") is None
    work(run=str(tmp_path))
    with pytest.raises(RuntimeError): work(run=str(tmp_path), seed=1)
    assert read_stamp(tmp_path)["key"]["seed"] == 0 and work(run=str(tmp_path)) == {"ok": 1} # what was finished stays so


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

def test_what_is_of_no_use_goes_also_after_a_kill_behind_the_stamp(tmp_path):
    @stage(leftovers="checkpoints/*.pt")
    def work(run: RunFolder = "") -> dict: return {"ok": 1}
    work(run=str(tmp_path))
    for name in ("checkpoints/7.pt", "kept.pt"): write_atomic(tmp_path/name, "") # as if it had died before it could tidy
    assert work(run=str(tmp_path)) == {"ok": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["done.json", "kept.pt"]

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


# --- files are whole or absent, and say why ------------------------------------------------------------------

@contextlib.contextmanager
def little_room(folder, size):
    "A disk of `size` bytes, where root may mount one; else files may not be longer."
    folder.mkdir()
    if not subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode:
        try: yield "No space left on device"
        finally: subprocess.run(["umount", "-l", folder], check=True)
        return
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try: yield "File too large"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)

NOISE = [{"id": str(n), "text": os.urandom(2000).hex()} for n in range(100)]
WRITERS = { # name -> a function of a folder, a model and its tokenizer, that writes more than 4 KB
    "json": lambda d, model, tok: write_json(d/"a.json", NOISE),
    "records": lambda d, model, tok: write_records(d/"a.jsonl", NOISE),
    "packed records": lambda d, model, tok: write_records(d/"a.jsonl.zst", NOISE),
    "bundle": lambda d, model, tok: save_bundle(model, tok, d/"a"),
    "export": lambda d, model, tok: export_hf(model, tok, d/"a"),
    "tokenizer": lambda d, model, tok: train_tokenizer([r["text"][:99] for r in NOISE], d/"a.model", vocab_size=600, kind="plain"),
    "prefixes": lambda d, model, tok: save_prefixes(Prefixes([r["text"] for r in NOISE], np.zeros(1), np.zeros(1)), d/"a.npz"),
    "adapter": lambda d, model, tok: save_adapter(add_lora(model, 16), SimpleNamespace(run=str(d), data="", phase1="", phase2="", licences=[], method="lora", rank=16, mamba=False, lr=1., batch_tokens=1, seed=0), "base", "0" * 64, []),
}

@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_and_leaves_nothing_half(name, tok, tmp_path):
    model, disk = small("A", vocab_size=VOCAB), tmp_path/"disk"
    with little_room(disk, 4096) as reason:
        with pytest.raises(UserError) as said: WRITERS[name](disk, model, tok)
        assert not [p for p in disk.rglob("*") if p.is_file()]
    line = str(said.value)
    assert line.startswith(str(disk)) and reason in line and ".part" not in line and "\n" not in line
    if reason.startswith("No space"): assert re.search(r"MB .*free.*; make room", line)
    if reason.startswith("No space") and name in ("json", "bundle", "export", "tokenizer"): assert re.search(r"[\d.]+ MB are missing", line)

def test_a_full_disk_leaves_what_was_there(tok, tmp_path):
    with little_room(tmp_path/"disk", 2**20) as reason:
        model, out = small("A", vocab_size=VOCAB, depth=1), tmp_path/"disk"/"bundle"
        save_bundle(model, tok, out)
        with pytest.raises(UserError, match=reason): save_bundle(small("A", vocab_size=VOCAB, depth=30), tok, out)
        assert [p.name for p in out.parent.iterdir()] == ["bundle"]
        assert torch.equal(load_bundle(out)[0].tok_emb.weight, model.tok_emb.weight)

@contextlib.contextmanager
def closed_folder(folder):
    "A folder that nobody may write in, root included where it may mount."
    folder.mkdir(exist_ok=True)
    (folder/"settings.ini").touch()
    (folder/"nbs").mkdir()
    bind = ["mount", "--bind", folder, folder], ["mount", "-o", "remount,bind,ro", folder]
    if os.getuid(): folder.chmod(0o555)
    elif any(subprocess.run(command, capture_output=True).returncode for command in bind): pytest.skip("root, but may not mount: nothing is closed to it")
    try: yield folder
    finally:
        if os.getuid(): folder.chmod(0o755)
        else: subprocess.run(["umount", "-l", folder], check=True)

def test_a_read_only_checkout_without_run_is_one_line(tmp_path):
    with closed_folder(tmp_path/"checkout") as checkout:
        done = subprocess.run([sys.executable, "-m", "hebrewgpt_nb.data"], capture_output=True, text=True, cwd=checkout, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    assert re.fullmatch(r"error: \S+checkout/runs\S*: (Read-only file system|Permission denied); give another place, or get the right to this one\n", done.stderr), done.stderr

def test_a_closed_folder_is_one_line_with_the_files_own_name(tmp_path):
    with closed_folder(tmp_path/"checkout") as checkout, pytest.raises(UserError) as said: write_json(checkout/"a.json", {})
    assert re.fullmatch(rf"{checkout}/a.json: (Read-only file system|Permission denied); give another place, or get the right to this one", str(said.value))

@pytest.mark.parametrize("name", WRITERS)
def test_a_place_below_a_file_is_one_line(name, tok, tmp_path):
    (tmp_path/"file").touch()
    with pytest.raises(UserError, match="a file is where a folder should be"): WRITERS[name](tmp_path/"file"/"below", small("A", vocab_size=VOCAB), tok)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]

@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_what_is_written_has_the_mode_of_the_umask(umask, mode, tok, tmp_path):
    model, before = small("A", vocab_size=VOCAB), os.umask(umask)
    try:
        for name, write in WRITERS.items():
            if name != "tokenizer": write(tmp_path/name, model, tok)
    finally: os.umask(before)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) > 15 and {p.stat().st_mode & 0o777 for p in files} == {mode}

def killed_at_rename(number, work):
    "Do `work` in a process that dies before its rename of that number."
    if pid := os.fork(): return os.waitpid(pid, 0)
    rename, done = os.replace, []
    def dying(a, b):
        if ".json" not in str(a): done.append(a) # of folders
        if len(done) == number: os._exit(9)
        return rename(a, b)
    os.replace = dying
    work()
    os._exit(0)

def test_a_bundle_killed_between_the_two_renames_is_found(tok, tmp_path):
    old, new, out = small("A", vocab_size=VOCAB), small("A", seed=1, vocab_size=VOCAB), tmp_path/"run"/"bundle"
    save_bundle(old, tok, out)
    assert killed_at_rename(2, lambda: save_bundle(new, tok, out))[1] == 9 << 8 and not out.exists()
    for place in (out, out.parent): assert torch.equal(load_bundle(place)[0].tok_emb.weight, old.tok_emb.weight)
    assert check_value("base", str(out), InputPath) == str(out) # and a stage takes it
    model = load_bundle(out)[0]
    with pytest.raises(UserError), little_room(tmp_path/"disk", 1): save_bundle(small("A", vocab_size=7), tok, out)
    assert torch.equal(load_bundle(out)[0].tok_emb.weight, model.tok_emb.weight) # a failed attempt takes nothing away
    save_bundle(new, tok, out)
    assert torch.equal(load_bundle(out)[0].tok_emb.weight, new.tok_emb.weight)
    assert [p.name for p in out.parent.iterdir()] == ["bundle"]


# --- what is printed -----------------------------------------------------------------------------------------

def test_a_terminal_without_hebrew_gets_the_last_table(tmp_path):
    write_atomic(tmp_path/"run"/"eval"/"report.md", "# בסיס\n| bpb | 1.5 |\n")
    write_json(tmp_path/"run"/"eval"/"exchanges.json", [dict(instruction="מה?", input="", base="כן", instruct="לא")])
    code = f"from hebrewgpt_nb.jobs import show_result; show_result({str(tmp_path/'run')!r}, 60)"
    for env in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        done = run("-c", code, env=os.environ | env)
        assert done.returncode == 0 and "# ????\n| bpb | 1.5 |" in done.stdout and "Done in 1.0 minutes" in done.stdout, done.stderr

DOOR = sorted(p.stem for p in (ROOT/"hebrewgpt_nb").glob("[a-z]*.py") if p.stem != "harness") # which is lm-eval's command

@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
@pytest.mark.parametrize("module", DOOR)
def test_a_module_that_is_run_says_what_it_is(module, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    try: runpy.run_module(f"hebrewgpt_nb.{module}", run_name="__main__", alter_sys=True)
    except SystemExit as e: assert not e.code
    said = capsys.readouterr().out
    if module in COMMANDS: assert said.startswith(f"usage: python -m hebrewgpt_nb.{module} ")
    else: assert said.startswith(f"hebrewgpt_nb.{module}: ") and "python -m hebrewgpt_nb." in said and said.count("\n") == 1


# --- odd values ----------------------------------------------------------------------------------------------

ODD = [-1, 0, 1, 10**22, 2**63, 10**400, -10**400, 1.5, -0., 1e-320, 1e300, float("inf"), float("nan"), True, None, [], {}, {"date": None}, b"x", "", " ", "x", "3", "1e3", "1e-3", "nan",
       "yes", "maybe", "nosuch://", "s3://", "://", "א" * 5000, "a/" * 2500, "a" * 300, "\0", "\ud800", "a\nb", "~nobody/x", "~", "/", ".", "..", "/dev/null", "/dev/null/x", "/proc/none/x", "*", "["]

def value_or_line(name, value, kind):
    "What a parameter takes a value for; None if it is refused in one line that says what to write."
    try: taken = check_value(name, value, kind)
    except UserError as e: assert re.match(rf"{name} is .+: .+", str(e)) and "\n" not in str(e) and len(str(e)) < 400, str(e)
    else:
        assert type(taken) is base_type(kind)
        return taken

@pytest.mark.parametrize("stage", STAGES.values())
def test_every_parameter_takes_any_value_or_says_what_to_write(stage):
    module, _, name = stage.rpartition(".")
    fn = getattr(importlib.import_module(f"hebrewgpt_nb.{module}"), name)
    for parameter, kind in kinds_of(fn).items():
        for value in ODD: value_or_line(parameter, value, kind)
        default = inspect.signature(fn).parameters[parameter].default
        assert value_or_line(parameter, default, kind) == default

@pytest.mark.parametrize("name, value, kind, taken", [
    ("lr", "1e-3", PositiveFloat, 1e-3), ("fsdp", "yes", bool, True), ("compiled", "No", bool, False), ("lr", 1, PositiveFloat, 1.)])
def test_what_yaml_and_papermill_write_is_taken(name, value, kind, taken): assert check_value(name, value, kind) == taken

@pytest.mark.parametrize("given, message", [
    (dict(fsdp="maybe"), "fsdp is 'maybe': write true or false"), (dict(lr="fast"), "lr is 'fast': write a number, as 0.001"), (dict(steps="1e3"), "steps is '1e3': write a whole number, as 3"),
    (dict(seed=10**22), "seed is 10000000000000000000000: give 2,147,483,647 or less"), (dict(lr=1e300), "lr is 1e+300: give 1e+30 or less"),
    (dict(checkpoints="nosuch://x"), "checkpoints is nosuch://x: no such kind of storage"), (dict(checkpoints="a" * 5000), "File name too long; give a shorter path"),
    (dict(run="a/" * 2500), "(5,000 characters): File name too long; give a shorter path"), (dict(run="s3://bucket/run"), "run is s3://bucket/run: give a folder of this machine"),
    (dict(balance=1e8), "balance is 100000000.0: give 0, all sources alike, to 1"), (dict(run="a\nb"), "run is 'a\\nb': it holds a character that no name can have"), (dict(context=1), "context is 1: give 2 or more"), (dict(base="/dev/null/x"), "base is /dev/null/x: no such file or folder"), (dict(preset=3), "preset is 3: choose one of tiny"),
])
def test_odd_values_of_pretraining_are_one_line(given, message, tmp_path):
    from hebrewgpt_nb.pretrain import pretrain
    with pytest.raises(UserError) as said: pretrain(**dict(run=str(tmp_path/"run")) | given)
    assert message in str(said.value) and "\n" not in str(said.value)
    assert not (tmp_path/"run"/"tokenizer").exists() # nothing was done before

@pytest.mark.parametrize("chain, message", [
    ('04_pretrain: {run: "{run}/{date}"}', "a chain fills in {run} and {data}; write date out"), ("04_pretrain: {run: {date}}", "run is {'date': None}: write a text, in quotes"),
    ("04_pretrain: {lr: 1e-3}", ""), ("04_pretrain: {fsdp: maybe}", "fsdp is 'maybe': write true or false"), ("04_pretrain: {1: 2}", "unknown parameter 1"),
    (f"04_pretrain: {{seed: {'9' * 5000}}}", "not a YAML file")])
def test_odd_values_in_a_chain_are_one_line(chain, message, tmp_path):
    path = write_atomic(tmp_path/"chain.yaml", chain)
    if not message: assert read_chain(path)
    if not message: return
    with pytest.raises(UserError) as said: read_chain(path)
    assert message in str(said.value) and "\n" not in str(said.value)

def test_a_model_without_room_says_so(tok):
    with pytest.raises(UserError, match="the model's context is 1: no token has room"): generate(small("A", vocab_size=VOCAB, context=1), tok, "שלום")

def test_a_lack_of_memory_is_one_line(tmp_path):
    @stage
    def work(run: str = "x", # where
             rows: int = 1, # how many
            ) -> dict:
        "Make rows."
        return {"n": len(torch.empty(rows, 2**20 * rows))}
    assert work(run=str(tmp_path)) == {"n": 1}
    with pytest.raises(UserError, match=r"the memory is too small \(\d+ bytes were asked for\): make the batch"): work(run=str(tmp_path), rows=2**15)

def test_a_torn_log_goes_on_with_whole_lines(tmp_path):
    log = write_atomic(tmp_path/"results.jsonl", '{"n": 1}\n{"n"')
    append_line(log, {"n": 2})
    assert read_jsonl(log) == [{"n": 1}, {"n": 2}]
    with little_room(tmp_path/"disk", 4096) as reason:
        with pytest.raises(UserError, match=reason):
            for n in range(4096): append_line(tmp_path/"disk"/"log.jsonl", {"n": n})
        assert [r["n"] for r in read_jsonl(tmp_path/"disk"/"log.jsonl")] == list(range(n))

def test_an_adapter_folder_says_what_it_belongs_to(tok, tmp_path):
    model = small("A", vocab_size=VOCAB)
    base, adapted = save_bundle(model, tok, tmp_path/"base"), add_lora(model, 4)
    with torch.no_grad(): [p.normal_(std=.1) for p in adapted.parameters() if p.requires_grad]
    mine = write_atomic(tmp_path/"mine.jsonl", json.dumps(dict(instruction="מה?", output="כן", license="CC0-1.0")) + "\n")
    report = [{"phase": 1, "train examples": 7, "steps": 3, "val_loss": 1.25}]
    save_adapter(adapted, SimpleNamespace(run=str(tmp_path/"run"), data=str(mine), phase1="", phase2="", licences=licences_of(read_examples(mine, Quarantine()).files), method="lora", rank=4, mamba=False, lr=.005, batch_tokens=64, seed=0), str(base), base_sha(base), report)
    card = (tmp_path/"run"/"adapter"/"README.md").read_text(encoding="utf8")
    assert "More Information Needed" not in card and sha256_file(base/"model.safetensors") in card
    head = yaml.safe_load(card.split("---")[1])
    assert head == dict(base_model=str(base), library_name="peft", language="he", license="CC0-1.0", tags=["lora"])
    for fact in (f"| examples | {mine}; licences: CC0-1.0 |", "rank 4, alpha 8", "1: 7 examples, 3 steps, 1.250 nats a token"): assert fact in card
    assert read_json(tmp_path/"run"/"adapter"/"adapter_config.json")["base_model_name_or_path"] == str(base)
    how = {}
    exec("\n".join(line[4:] for line in card.splitlines() if line.startswith("    ")).replace('"adapter"', repr(str(tmp_path/"run"/"adapter"))), how) # as the card says
    ids = torch.tensor([tok.encode("שלום עולם")])
    assert torch.allclose(how["model"].eval()(ids), adapted.merge_and_unload().eval()(ids), atol=1e-5)

@pytest.mark.parametrize("given, message", [
    (dict(prefill=512), "prefill + new is 512 + 8 = 520 tokens, more than the model's context of 256"), (dict(prompt=510), "prompt + new is 510 + 8 = 518 tokens"),
    (dict(threads=10**6), "threads is 1000000: give 0, for as many as torch takes, to 1024"), (dict(new=0), "new is 0: give a number above 0"), (dict(only="x"), "only is 'x': no section is called so")])
def test_sizes_that_cannot_be_measured_say_which_sum_is_too_long(given, message, tmp_path):
    from hebrewgpt_nb.bench import bench
    with pytest.raises(UserError) as said: bench(run=str(tmp_path), **given)
    assert message in str(said.value)
