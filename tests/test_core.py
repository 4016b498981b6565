"""Parameters, stages and commands: what a person meets who gives something wrong."""
import importlib, inspect, json, os, re, subprocess, sys
from pathlib import Path
import pytest
from hebrewgpt_nb.core import Dtype, InputPath, NonNegativeInt, PositiveFloat, PositiveInt, RunFolder, UserError, check_parameters, check_value, plot_label, stage, stage_key, read_stamp, write_atomic
from hebrewgpt_nb.jobs import STAGES

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
