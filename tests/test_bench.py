"The report's form, the order of comparing and timing, and peers that are not what they should be."
import json, statistics
import pytest, torch, yaml
from functools import partial
import hebrewgpt_nb.bench as B
from hebrewgpt_nb.bench import bench, check_outputs, check_targets, compare, comparison_rows, hebrew_tokens, load_backend, make_row, make_twins, time_in_turns
from hebrewgpt_nb.bundle import load_bundle
from hebrewgpt_nb.core import UserError, read_json, resolve, stage_key
from hebrewgpt_nb.model import get_preset

KINDS = {"hybrid": "AM", "dense": "A"}

@pytest.fixture(scope="module", params=KINDS)
def twins(request, tmp_path_factory): return make_twins(tmp_path_factory.mktemp("twins")/request.param, get_preset("tiny", pattern=KINDS[request.param]))

@pytest.fixture(scope="module")
def report(tmp_path_factory):
    run = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as m: # a process a figure: one of them is started below
        m.setattr(B, "peak_memory", lambda side, *_: dict(ours=10**8, transformers=2 * 10**8)[side])
        return run, bench(run=str(run), only="hybrid", prefill=24, prompt=8, new=4, rows=1)

def test_the_report_has_its_form(report):
    run, made = report
    assert made == read_json(run/"report.json") and list(made) == ["machine", "ceilings", "rows"]
    assert {r["what"] for r in made["rows"]} == {"prefill", "decode", "train", "ttft", "memory"}
    for r in made["rows"]:
        assert list(r) == ["what", "model", "dtype", "peer", "ours", "theirs", "ratio", "spread", "ceiling_share"]
        assert r["model"] == "hybrid" and r["dtype"] in ("fp32", "bf16", "int8", "best") and r["peer"] == "transformers"
        low, high = r["spread"]
        assert 0 < low <= high and 0 < r["ratio"] and low * .99 <= r["ratio"] * 1.01 or r["spread"][0] <= r["ratio"]
        assert 0 < r["ceiling_share"] < 1.2, r
    assert "Numbers to reach" in (run/"report.md").read_text(encoding="utf8")

def test_every_raw_time_is_kept_and_gives_the_rows(report):
    run, made = report
    for what in ("prefill", "ttft", "decode", "train"):
        section = json.loads((run/"raw"/f"hybrid-{what}.json").read_text())["result"]
        assert all(len(s) == 5 and min(s) > 0 for s in section["seconds"].values())
        r = next(r for r in made["rows"] if (r["what"], r["dtype"]) == (what, "fp32"))
        ours, theirs = (statistics.median(section["seconds"][f"{side} fp32"]) for side in ("ours", "transformers"))
        assert r["ratio"] == pytest.approx(theirs / ours) and r["ours"] == pytest.approx(ours if what == "ttft" else section["amount"] / ours)
        assert set(section["relative_error"]) >= {"ours fp32 eager", "transformers fp32 eager", "transformers bf16 eager"} and not section["failed"]

def test_peak_memory_is_that_of_a_process_of_its_own(report, tmp_path):
    twins = make_twins(tmp_path/"twins", get_preset("tiny"))
    ours, theirs = (B.peak_memory(side, twins, "fp32", "decode", 16, 4, 1) for side in ("ours", "transformers"))
    assert 5e7 < ours < theirs # the peer carries its own library
    assert [r["ratio"] for r in report[1]["rows"] if (r["what"], r["dtype"]) == ("memory", "fp32")] == [2]

def test_a_ratio_above_one_is_better_for_us():
    for what in ("prefill", "decode", "train", "ttft", "memory"):
        assert make_row(what, "hybrid", "fp32", [1., 1., 1.], [2., 2., 2.])["ratio"] == 2 and make_row(what, "hybrid", "fp32", [2.], [1.])["ratio"] == .5
    r = make_row("decode", "dense", "best", [2.] * 5, [8.] * 5, amount=64)
    assert (r["ours"], r["theirs"]) == (32, 8)

def test_targets_need_both_ratio_and_share():
    reached = lambda ratio, share: check_targets([make_row("prefill", "hybrid", "bf16", [1.], [ratio], ceiling_share=share)])[0]["reached"]
    assert [reached(3.1, .61), reached(3.1, .59), reached(2.9, .61)] == [True, False, False]

def test_int8_is_held_against_the_best_of_the_peer():
    seconds = {"ours fp32": [4.], "transformers fp32": [6.], "ours bf16": [3.], "transformers bf16": [5.], "ours int8": [1.]}
    section = dict(seconds=seconds, amount=10, required=dict(fp32=1e9, bf16=5e8, int8=25e7))
    top = {"product fp32": 1e9, "product bf16": 1e9, "read fp32": 1e9, "read sum": 1e9}
    rows = {r["dtype"]: r for r in comparison_rows("decode", "hybrid", section, top)}
    assert (rows["int8"]["ratio"], rows["best"]["ratio"], rows["fp32"]["ratio"]) == (5, 5, 1.5)
    assert rows["fp32"]["ceiling_share"] == .25 and rows["best"]["ceiling_share"] == .25

# --- the same before faster -----------------------------------------------------------------------------

WORK = dict(prefill=B.time_prefill, ttft=B.time_ttft, decode=partial(B.time_decode, prompt=8), train=B.time_gradient)

@pytest.mark.parametrize("what", WORK)
def test_both_sides_compute_the_same(twins, what):
    tokens = hebrew_tokens(twins, 1, 40) # the prompt of decode ends within a chunk
    train = what == "train"
    ours, theirs = (WORK[what](load_backend(side, twins, train=train), tokens)[1] for side in ("ours", "transformers"))
    assert ours.shape == theirs.shape and check_outputs("transformers fp32 eager", theirs, ours, "fp32") < 2e-5

@pytest.mark.parametrize("what", WORK)
def test_an_altered_peer_stops_it_before_a_clock_is_started(twins, what):
    side = load_backend("transformers", twins, train=what == "train")
    with torch.no_grad(): side.model.model.layers[0].input_layernorm.weight.mul_(1.5)
    tokens, calls = hebrew_tokens(twins, 1, 24), []
    ours = load_backend("ours", twins, train=what == "train")
    def work(side): calls.append(side); return 1., None
    probe = partial(WORK[what], tokens=tokens)
    with pytest.raises(UserError) as e: compare(work, {"ours fp32 eager": ours, "transformers fp32 eager": side}, probe(ours)[1], 5, probe)
    assert not calls and "\n" not in str(e.value) and str(e.value).startswith("transformers fp32 eager: its outputs are ") and str(e.value).endswith("nothing was timed")

def test_the_stage_stops_at_an_altered_export(tmp_path, monkeypatch):
    def altered(folder, cfg, seed):
        made = make_twins(folder, cfg, seed)
        from safetensors.torch import load_file, save_file
        weights = load_file(made/"hf"/"model.safetensors")
        save_file({n: w * 1.02 if "down_proj" in n else w for n, w in weights.items()}, made/"hf"/"model.safetensors", metadata={"format": "pt"})
        return made
    monkeypatch.setattr(B, "make_twins", altered)
    with pytest.raises(UserError, match="transformers fp32 eager: its outputs are"): bench(run=str(tmp_path/"run"), only="dense prefill", prefill=24, prompt=8, new=4)
    assert not (tmp_path/"run"/"report.json").exists()

def test_a_peer_that_cannot_be_compiled_is_left_out_by_name(twins, capsys):
    ours, stock, broken = load_backend("ours", twins), load_backend("transformers", twins), load_backend("transformers", twins)
    broken.call = lambda **kw: (_ for _ in ()).throw(RuntimeError("no compiler here\nat all"))
    probe = partial(B.time_prefill, tokens=hebrew_tokens(twins, 1, 24))
    made = compare(probe, {"ours fp32 eager": ours, "transformers fp32 eager": stock, "transformers fp32 compiled": broken}, probe(ours)[1], 5)
    assert made["failed"] == {"transformers fp32 compiled": "RuntimeError: no compiler here"} and made["mode"]["transformers fp32"] == "eager"
    assert "transformers fp32 compiled is left out" in capsys.readouterr().out
    broken.call = broken.model
    ours.model.forward = broken.call # an error of ours is never left out
    with pytest.raises(Exception): compare(probe, {"ours fp32 eager": ours}, None, 5)

def test_the_compiled_peer_is_tried_with_a_static_cache(tmp_path, monkeypatch):
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **kw: real(model, backend="eager", **kw)) # traced, not compiled to C++, which takes a minute
    made = B.measure("decode", make_twins(tmp_path/"twins", get_preset("tiny")), {"product fp32": 1e12, "product bf16": 1e12, "read fp32": 1e12, "read bf16": 1e12}, prefill=16, prompt=8, new=4, rows=1, repeats=5, compiled=True, max_seconds=40.)
    assert not made["failed"] and {"transformers fp32 compiled", "transformers bf16 compiled"} <= set(made["trial"])

def test_the_fastest_variant_goes_on_and_turns_alternate():
    order, cost = [], {"ours fp32 eager": 3., "transformers fp32 eager": 2., "transformers fp32 compiled": 1.}
    def work(side): order.append(side); return cost[side], torch.ones(3)
    made = compare(work, {name: name for name in cost}, torch.ones(3), 5)
    assert made["mode"] == {"ours fp32": "eager", "transformers fp32": "compiled"} and made["seconds"]["transformers fp32"] == [1.] * 5
    assert order[-10:] == ["ours fp32 eager", "transformers fp32 compiled"] * 5

def test_a_dtype_that_the_peer_cannot_run_in_time_is_held_against_its_best(tmp_path, monkeypatch, capsys):
    real = B.ceilings
    monkeypatch.setattr(B, "ceilings", lambda: real(megabytes=8) | {"product bf16": 1e5}) # as on a processor without its instructions
    rows = {r["dtype"]: r for r in bench(run=str(tmp_path/"run"), only="dense prefill", prefill=24, prompt=8, new=4)["rows"]}
    assert "transformers bf16 eager is left out: a call takes" in capsys.readouterr().out
    raw = read_json(tmp_path/"run"/"raw"/"dense-prefill.json")["result"]
    assert list(raw["failed"]) == ["transformers bf16 eager"] and "ours bf16" in raw["seconds"]
    assert rows["bf16"]["theirs"] == rows["fp32"]["theirs"] and "Not measured: prefill hybrid bf16" in (tmp_path/"run"/"report.md").read_text()

@pytest.mark.parametrize("given, says", [(dict(repeats=4), "repeats is 4"), (dict(preset="dense-296m", only="hybrid"), "they are dense, and prefill"), (dict(only="x"), "no section"),
    (dict(prefill=250), r"prefill \+ new is 250 \+ 8 = 258 tokens, more than the model's context of 256"), (dict(prompt=250), r"prompt \+ new is 250 \+ 8"), (dict(new=0), "give a number above 0")], ids=str)
def test_what_cannot_be_measured(tmp_path, given, says):
    with pytest.raises(UserError, match=says): bench(run=str(tmp_path/"run"), **given)

def test_a_section_is_not_measured_twice(report, monkeypatch):
    run, made = report
    monkeypatch.setattr(B, "measure", lambda *a, **k: pytest.fail("measured again"))
    assert bench(run=str(run), only="hybrid train", prefill=24, prompt=8, new=4, rows=1)["rows"] == [r for r in made["rows"] if r["what"] == "train"]

def test_the_job_file_names_real_parameters():
    job = yaml.safe_load(resolve("jobs/bench.yaml").read_text(encoding="utf8"))
    key = stage_key(bench, job)
    assert (key["preset"], key["threads"], key["only"], key["compiled"]) == ("hybrid-119m", 2, "", True) and set(job) == set(key) - {"seed"}

def test_turns_alternate_and_the_first_is_not_counted():
    order = []
    seconds = time_in_turns({"a": lambda: order.append("a") or 1., "b": lambda: order.append("b") or 2.}, repeats=3, clock=lambda form: form())
    assert order == ["a", "b"] * 4 and seconds == {"a": [1.] * 3, "b": [2.] * 3}

def test_what_cannot_end_in_time_gives_a_report_without_rows(tmp_path, capsys):
    made = bench(run=str(tmp_path/"run"), only="dense train", prefill=24, prompt=8, new=4, rows=1, max_seconds=1e-9)
    assert made["rows"] == [] and "transformers fp32 eager is left out" in capsys.readouterr().out
    assert "train dense best" in (tmp_path/"run"/"report.md").read_text()

# --- llama.cpp ---------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def job():
    from importlib.util import module_from_spec, spec_from_file_location
    spec = spec_from_file_location("bench_llama", resolve("jobs/bench_llama.py"))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def test_what_llama_cpp_needs_is_said_in_one_line(job, tmp_path, monkeypatch):
    given = job.DEFAULTS | dict(run=str(tmp_path/"run"), preset="tiny", node=str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UserError, match="^no `node` here: install Node 20 or later"): job.bench_llama(**given)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/node")
    with pytest.raises(UserError, match="no node-llama-cpp in it; `make llama` installs it"): job.bench_llama(**given)
    assert not (tmp_path/"run").exists()

def test_llama_cpp_side_by_side(job, tmp_path):
    if missing := job.find_missing("build/llama"): pytest.skip(missing)
    given = dict(preset="tiny", prefill=24, prompt=8, new=4, threads=1)
    report = job.bench_llama(**job.DEFAULTS | given | dict(run=str(tmp_path/"run")))
    assert {(r["what"], r["dtype"]) for r in report["rows"]} >= {("prefill", "bf16"), ("ttft", "int8"), ("decode", "best")}
    assert {r["peer"] for r in report["rows"]} == {"llama.cpp"} and all(r["ratio"] > 0 for r in report["rows"])
    errors = read_json(tmp_path/"run"/"raw.json")["decode"]["relative_error"]
    assert errors["llama.cpp bf16 f16"] < 2e-3 and errors["llama.cpp int8 q8_0"] < 3e-2
