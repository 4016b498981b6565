"""The training loop and instruction tuning: killed and resumed, refused, merged."""
import json, math, re, shutil, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pytest, torch, yaml
from safetensors.torch import load_file
from hebrewgpt_nb.bundle import load_bundle
from hebrewgpt_nb.core import UserError, read_json, read_jsonl, write_json
from hebrewgpt_nb.engine.cpu import has_library
from hebrewgpt_nb.engine.fused import kernel_identity
from hebrewgpt_nb.metrics import score_texts
from hebrewgpt_nb.model import HebrewGPT, get_preset
from hebrewgpt_nb.training.optim import make_optimizer, schedule
from hebrewgpt_nb.training.checkpoint import Checkpoints
from hebrewgpt_nb.pretrain import estimate_cost, new_model, pretrain, valid_texts
from hebrewgpt_nb.training.rows import make_batch
from hebrewgpt_nb.training.loop import PEAKS, Training, fit, mfu, peak_flops, product_rate
from hebrewgpt_nb.sft import TARGETS, add_lora, read_examples, sft, split_examples, curriculum
from hebrewgpt_nb.text.records import Quarantine
from hebrewgpt_nb.tokenizer import Tokenizer, make_tokenizer
from kill_twenty_times import parameters, trial

ROOT = Path(__file__).parent.parent
SMALL = dict(steps=24, batch_tokens=512, context=128, save_every=4, eval_every=8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A tokenizer with its shards, and a base model."
    folder = tmp_path_factory.mktemp("made")
    make_tokenizer(run=str(folder/"tokenizer"), vocab_size=700)
    given = dict(data=str(folder/"tokenizer"/"data"), tokenizer=str(folder/"tokenizer"/"tokenizer.model"))
    pretrain(run=str(folder/"base"), **given, **SMALL)
    return folder, given


def fresh():
    model = HebrewGPT(get_preset("tiny", vocab_size=300))
    return Training(model, make_optimizer("muon", model, .02, .01))


def command(module, **params):
    return [sys.executable, "-m", f"hebrewgpt_nb.{module}", *[x for k, v in params.items() for x in (f"--{k}", str(v))]]


def kill_at(run, log, step, args):
    "Start a job and kill -9 it once it has logged `step` steps."
    job = subprocess.Popen(args, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while job.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < step): time.sleep(.02)
    assert job.poll() is None, "the job ended before it could be killed"
    job.kill(); job.wait()


def same_bundle(a, b):
    a, b = load_file(a/"bundle"/"model.safetensors"), load_file(b/"bundle"/"model.safetensors")
    assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def test_a_killed_pretraining_resumes_to_the_same_bits(made, tmp_path):
    "The short version of kill_twenty_times.py."
    found = trial(tmp_path, made[0]/"tokenizer", kills=3, steps=50)
    assert found["same_log"] and found["same_weights"] and found["same_state"] and found["steps"] == 50


def test_a_killed_tuning_resumes_to_the_same_bits(made, tmp_path):
    folder, _ = made
    small = dict(base=str(folder/"base"), steps=8, batch_tokens=256, context=128, eval_every=4, save_every=2, rank=4)
    sft(run=str(tmp_path/"straight"), **small)
    kill_at(tmp_path/"run", tmp_path/"run"/"phase1"/"metrics.jsonl", 5, command("sft", run=tmp_path/"run", **small))
    kill_at(tmp_path/"run", tmp_path/"run"/"phase2"/"metrics.jsonl", 3, command("sft", run=tmp_path/"run", **small))
    subprocess.run(command("sft", run=tmp_path/"run", **small), cwd=ROOT, check=True, capture_output=True)
    same_bundle(tmp_path/"straight", tmp_path/"run")
    phases = [r["phase"] for r in read_jsonl(tmp_path/"run"/"metrics.jsonl")]
    assert phases == sorted(phases) and set(phases) == {1, 2}


def test_a_checkpoint_of_another_run_is_refused(made, tmp_path):
    folder, given = made
    kill_at(tmp_path/"run", tmp_path/"run"/"metrics.jsonl", 10, command("pretrain", run=tmp_path/"run", **given, **SMALL))
    with pytest.raises(UserError, match="lr was 0.02, is 0.01"): pretrain(run=str(tmp_path/"run"), **given, **SMALL, lr=.01)


def test_a_run_goes_on_with_other_kernels_only_if_that_was_chosen(tmp_path, monkeypatch, capsys):
    "Stopped, and resumed where no C compiler is, or the other way."
    row = np.random.default_rng(0).integers(4, 300, (1, 33))
    def train(steps): return fit(fresh(), lambda step: [make_batch(row, 2)], tmp_path, dict(lr=.02), steps, lambda s: 1., save_every=1)
    train(2)
    here, other = kernel_identity(), "PyTorch alone" if has_library() else "C 0123abcd"
    monkeypatch.setattr("hebrewgpt_nb.training.loop.kernel_identity", lambda device: other)
    with pytest.raises(UserError, match=rf"00000002.pt: trained with the kernels {re.escape(here)}, and {other} run here, .* apt install gcc.* HEBREWGPT_KERNELS=any"): train(3)
    monkeypatch.setenv("HEBREWGPT_KERNELS", "any")
    assert train(3).step == 3 and f"trained with the kernels {here}, and {other} run here" in capsys.readouterr().out
    monkeypatch.delenv("HEBREWGPT_KERNELS")
    assert train(4).step == 4 # now it is a run of those
    monkeypatch.undo()
    with pytest.raises(UserError, match=f"trained with the kernels {other}"): train(5)


def interrupted(monkeypatch, **params):
    "A run that trained to its end and was stopped before it had a result."
    def stop(*args): raise KeyboardInterrupt
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr("hebrewgpt_nb.pretrain.finish_training", stop)
        pretrain(**params)


def test_resumed_with_other_validation_data_is_refused(made, tmp_path, monkeypatch):
    given, few = made[1], dict(steps=2, batch_tokens=256, context=64, save_every=2, eval_every=2)
    interrupted(monkeypatch, run=str(tmp_path/"run"), **given, **few)
    data = Path(shutil.copytree(given["data"], tmp_path/"data"))
    for path in sorted(data.glob("*.valid.jsonl.zst"))[1:]: path.unlink()
    with pytest.raises(UserError, match="another configuration .*valid_sha was"): pretrain(run=str(tmp_path/"run"), **given | dict(data=str(data)), **few)
    assert len(pretrain(run=str(tmp_path/"run"), **given, **few)["bpb"]) == 9


def test_a_run_that_diverged_leaves_advice_that_can_be_followed(made, tmp_path, monkeypatch):
    "The weights burst at step 6; followed are the three values that the message names."
    params, way = dict(steps=10, batch_tokens=256, context=64, save_every=1, eval_every=2, **made[1]), []
    with monkeypatch.context() as m:
        m.setattr("hebrewgpt_nb.pretrain.schedule", lambda step, steps, kind: 1. if step < 6 else math.inf)
        for again in range(2): # the same command comes to the same end
            with pytest.raises(UserError, match=r"^step \d: .*give another run and a lower lr, and base=(\S+)/checkpoints/(\d+).pt to go on from the weights of step \d$") as e: pretrain(run=str(tmp_path/"run"), **params)
            way.append(str(e.value))
    assert way[0] == way[1]
    saved, key = Checkpoints(tmp_path/"run"/"checkpoints", {}), None
    for step in saved.steps():
        saved.key = saved.manifest(step)["key"]
        assert step <= 6 and all(w.isfinite().all() for w in saved.read(step)["weights"].values())
    base = re.search(r"base=(\S+)", way[0])[1]
    report = pretrain(run=str(tmp_path/"lower"), base=base, lr=.002, adam_lr=.0005, **params)
    assert report["bpb"]["macro"] < report["uniform_bpb"]["macro"] and read_jsonl(tmp_path/"lower"/"metrics.jsonl")[0]["loss"] < read_jsonl(tmp_path/"run"/"metrics.jsonl")[0]["loss"]


def test_a_manifest_of_a_checkpoint_above_two_gigabytes_is_read(tmp_path):
    saved = Checkpoints(tmp_path, {})
    saved.save(7, {})
    said = read_json(tmp_path/"00000007.json")
    write_json(tmp_path/"00000007.json", said | dict(bytes=3_072_024_179))
    assert saved.manifest(7)["bytes"] == 3_072_024_179


def test_a_failed_second_attempt_takes_nothing_away(made, tmp_path, monkeypatch, capsys):
    run, first = tmp_path/"run", dict(run=str(tmp_path/"run"), steps=2, batch_tokens=256, context=64, save_every=1, eval_every=2, **made[1])
    def files(): return {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and ".next" not in p.parts and "tensorboard" not in p.parts}
    result, before = pretrain(**first), files()
    interrupted(monkeypatch, **first | dict(lr=.01))
    assert files() == before and pretrain(**first) == result and "reuses" in capsys.readouterr().out
    load_bundle(run)
    other = pretrain(**first | dict(lr=.01)) # goes on, ends, and takes the place
    assert "goes on from step 2" in capsys.readouterr().out and other != result and not (run/".next").exists() and not (run/"checkpoints").exists()
    assert read_json(run/"done.json")["key"]["lr"] == .01 and load_bundle(run)


def test_a_torn_checkpoint_is_named_and_the_one_before_it_is_used(tmp_path, capsys):
    saved = Checkpoints(tmp_path, {})
    for step in (3, 6): saved.save(step, dict(step=step))
    (tmp_path/"00000006.pt").write_bytes((tmp_path/"00000006.pt").read_bytes()[:-9])
    assert saved.latest()["step"] == 3 and "00000006.pt: torn or altered" in capsys.readouterr().out
    (tmp_path/"00000003.json").write_bytes(b"half")
    with pytest.raises(UserError, match="no other is there: delete"): saved.latest()


def test_a_shard_altered_meanwhile_stops_the_run_which_goes_on_once_it_is_put_back(made, tmp_path):
    folder, given = made
    shards = Path(shutil.copytree(folder/"tokenizer"/"shards", tmp_path/"shards"))
    train, log, shard = command("pretrain", run=tmp_path/"run", **given, shards=shards, **SMALL), tmp_path/"run"/"metrics.jsonl", shards/"train"/"news-00000.bin"
    job, whole = subprocess.Popen(train, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True), shard.read_bytes()
    while job.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < 9): time.sleep(.01)
    shard.write_bytes(whole[:-2] + b"\0\0")
    said = job.communicate()[1].strip().split("\n")[-1]
    assert job.returncode == 2 and re.match(r"error: .*news-00000.bin: altered since this run began; put the old file back", said), said
    assert "news-00000.bin: altered since it was written" in subprocess.run(train, cwd=ROOT, capture_output=True, text=True).stderr
    shard.write_bytes(whole)
    assert "goes on from step" in subprocess.run(train, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    same_bundle(folder/"base", tmp_path/"run")


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    small = tmp_path/"small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], capture_output=True).returncode: pytest.skip("mounting needs root")
    try:
        row = np.random.default_rng(0).integers(4, 300, (1, 33))
        def train(steps): return fit(fresh(), lambda step: [make_batch(row, 2)], tmp_path/"run", {}, steps, lambda s: 1., save_every=2, checkpoints=small)
        with pytest.raises(UserError, match=r"step \d+: the checkpoint could not be written to .*small \(.*\); that of step \d+ is kept: make room"):
            (small/"other").write_bytes(b"0" * 2**21)
            train(8)
        good = Checkpoints(small, {}).latest()["step"]
        (small/"other").unlink()
        assert good in (2, 4) and train(8).step == 8
    finally: subprocess.run(["umount", small], check=True)


def test_a_mixture_file_is_what_it_holds(made, tmp_path, capsys):
    mine, run = tmp_path/"mine.yaml", dict(run=str(tmp_path/"run"), mixture=str(tmp_path/"mine.yaml"), **made[1], **SMALL)
    mine.write_text("news: 0.5\nlegal: 0.5\n")
    read = pretrain(**run)["mixture"]
    assert {s for s in read if read[s]["tokens"]} == {"news", "legal"} and read["news"]["share"] == .5
    pretrain(**run)
    assert "reuses" in capsys.readouterr().out
    mine.write_text("news: 0.5\npoetry: 0.5\n")
    with pytest.raises(UserError, match="mine.yaml: mixture: unknown source poetry; known are .*news"): pretrain(**run)
    mine.write_text("news: 1\n")
    with pytest.raises(UserError, match="the mixture can give .* take fewer tokens or steps, more text, or a larger max_epochs"): pretrain(**run | dict(max_epochs=1))
    assert pretrain(**run)["mixture"]["news"]["share"] == 1


def test_inputs_may_lie_at_an_address(made, tmp_path):
    folder, given = made
    there = {k: f"file://{v}" for k, v in given.items()}
    pretrain(run=str(tmp_path/"run"), **there, checkpoints=f"file://{tmp_path}/saved", **SMALL)
    same_bundle(folder/"base", tmp_path/"run")


def test_a_base_goes_on_at_a_longer_context(made, tmp_path):
    folder, given = made
    params = parameters(tmp_path, folder/"tokenizer", 2) | dict(base=str(folder/"base"), context=256, rope_theta=40_000.)
    tok, (old, _) = Tokenizer(given["tokenizer"]), load_bundle(folder/"base")
    model = new_model(SimpleNamespace(**params), tok)
    assert (model.cfg.context, model.cfg.rope_theta) == (256, 40_000.) and torch.equal(model.tok_emb.weight, old.tok_emb.weight)
    with pytest.raises(UserError, match="weights do not fit"): new_model(SimpleNamespace(**params | dict(preset="mini")), tok)
    make_tokenizer(run=str(tmp_path/"other"), data=given["data"], vocab_size=650)
    with pytest.raises(UserError, match="made with another tokenizer"): new_model(SimpleNamespace(**params), Tokenizer(tmp_path/"other"/"tokenizer.model"))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_run_killed_on_a_gpu_resumes_to_the_same_bits(made, tmp_path):
    found = trial(tmp_path, made[0]/"tokenizer", kills=3, steps=50, device="cuda", dtype="bfloat16", deterministic=True)
    assert found["same_log"] and found["same_state"]


def test_shards_of_another_tokenizer_are_refused(made, tmp_path):
    folder, given = made
    make_tokenizer(run=str(tmp_path/"other"), data=given["data"], vocab_size=650)
    with pytest.raises(UserError, match="okenizer"):
        pretrain(run=str(tmp_path/"run"), data=given["data"], tokenizer=str(tmp_path/"other"/"tokenizer.model"), shards=str(folder/"tokenizer"/"shards"), **SMALL)


def test_validation_bits_per_byte_are_those_of_the_bundle(made):
    folder, given = made
    model, tok = load_bundle(folder/"base")
    report = read_json(folder/"base"/"done.json")["result"]
    texts = valid_texts(given["data"])["news"]
    assert math.isclose(score_texts(model, tok, texts, context=128).bits_per_byte, report["bpb"]["news"], rel_tol=1e-6)
    assert 1 < report["bpb"]["macro"] < 4


def test_one_document_is_learnt_by_heart(tmp_path):
    "A wiring test: it fails if loss, targets, positions or schedule are wrong."
    torch.manual_seed(0)
    row = np.random.default_rng(0).integers(4, 300, (1, 65))
    fit(fresh(), lambda step: [make_batch(row, 2)], tmp_path, {}, 120, lambda s: 1.)
    assert read_jsonl(tmp_path/"metrics.jsonl")[-1]["loss"] < .02


def test_a_document_is_learnt_by_heart_to_its_last_bit(made, tmp_path):
    "Under 0.05 bits per byte, which it would not reach if loss, mask, positions or schedule were wrong."
    tok, text = Tokenizer(made[1]["tokenizer"]), "הספרייה העירונית נפתחת בשעה תשע, ובימי שישי בשעה עשר. אפשר לשאול בה ספרים, עיתונים ומשחקים, וגם לשבת ולקרוא."
    torch.manual_seed(0)
    model = HebrewGPT(get_preset("tiny", vocab_size=tok.vocab_size))
    document = make_batch(np.array([[tok.bos_id, *tok.encode(text), tok.eos_id]]), tok.bos_id)
    t = fit(Training(model, make_optimizer("muon", model, .02, .01)), lambda step: [document], tmp_path, {}, 80, lambda s: schedule(s, 80))
    assert score_texts(t.model, tok, [text]).bits_per_byte < .05


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_each_optimizer_pretrains_and_is_part_of_the_key(optimizer, made, tmp_path):
    small = dict(steps=8, batch_tokens=512, context=128, save_every=4, eval_every=8)
    report = pretrain(run=str(tmp_path/"run"), optimizer=optimizer, **made[1], **small)
    assert report["bpb"]["macro"] < report["uniform_bpb"]["macro"]
    assert read_json(tmp_path/"run"/"done.json")["key"]["optimizer"] == optimizer


def test_a_rate_that_spoils_the_training_ends_in_a_report_or_one_line(made, tmp_path):
    small = dict(steps=20, batch_tokens=512, context=64, eval_every=5)
    try: report = pretrain(run=str(tmp_path/"run"), lr=5., adam_lr=5., **made[1], **small)
    except UserError as e: assert re.search(r"step \d+: the loss is .*lower lr|training diverged", str(e))
    else: assert report["bpb"]["macro"] > .8 * report["uniform_bpb"]["macro"]


def test_utilisation_is_measured_in_the_dtype_of_the_products():
    from unittest.mock import patch
    with patch("hebrewgpt_nb.training.loop.product_rate", lambda device, dtype: {"float32": 1., "bfloat16": 3.}[dtype]):
        assert (peak_flops("cpu"), peak_flops("cpu", "bfloat16"), peak_flops("cpu", "auto")) == (1., 3., 1.)
        with patch("torch.cuda.get_device_name", return_value="NVIDIA H100 80GB HBM3"):
            assert (peak_flops("cuda", "auto"), peak_flops("cuda", "float32")) == (PEAKS["H100"], 1.)
    with patch("torch.cuda.get_device_name", return_value="NVIDIA L40S"): assert peak_flops("cuda", "bfloat16") == PEAKS["L40S"] != PEAKS["L4"]
    assert mfu(100, 2e9, 6e12) == .1 and product_rate("cpu", "float32", n=128, seconds=0.) > 0


def test_the_runs_of_the_job_files_cost_what_they_say():
    job = lambda name: yaml.safe_load((ROOT/"jobs"/f"{name}.yaml").read_text(encoding="utf8"))
    published, night = estimate_cost(job("8xh100"), PEAKS["H100"], 32_000, dollars=3), estimate_cost(job("g5"), PEAKS["A10G"], dollars=1.5)
    assert published["tokens"] / 1e9 == pytest.approx(9.8, abs=.01) and published["hours"] == pytest.approx(8, abs=1) and published["GB_a_card"] < 80
    assert published["parameters"] == 1_077_495_808 and night["GB_a_card"] < 24


@pytest.mark.parametrize("bad", [0, 17])
def test_nan_stops_with_its_step(bad, tmp_path):
    t, row = fresh(), np.random.default_rng(0).integers(4, 300, (1, 33))
    def batch_at(step):
        if step == bad: t.model.ln_f.weight.data[0] = math.nan
        return [make_batch(row, 2)]
    with pytest.raises(UserError, match=f"step {bad}: the loss is nan, first in batch 1 of 1"):
        fit(t, batch_at, tmp_path, {}, 30, lambda s: 1., save_every=5)
    if bad: assert Checkpoints(tmp_path/"checkpoints", {}).latest()["step"] == 15


def test_early_stopping_keeps_the_best(tmp_path):
    row, scores = np.random.default_rng(0).integers(4, 300, (1, 33)), iter([3., 2., 2.5, 2.6, 9., 9.])
    kept = []
    def evaluate(net):
        kept.append(net.tok_emb.weight.detach().clone())
        return dict(score=next(scores))
    t = fit(fresh(), lambda s: [make_batch(row, 2)], tmp_path, {}, 30, lambda s: 1., evaluate, eval_every=1, patience=2)
    assert t.stopped and t.step == 4 and t.best == 2.
    assert torch.equal(t.model.tok_emb.weight, kept[1])


def test_lora_trains_the_targets_and_nothing_else(made):
    folder, _ = made
    base = load_file(folder/"base"/"bundle"/"model.safetensors")
    model, tok = load_bundle(folder/"base")
    adapted = add_lora(model, rank=4)
    names = {n for n, p in adapted.named_parameters() if p.requires_grad}
    assert names and all(any(f".{t}.lora_" in n for t in TARGETS) for n in names)
    opt = make_optimizer("muon", adapted.base_model.model, .01, .01)
    adapted.base_model.model(torch.tensor([[2, 50, 60]])).logsumexp(-1).sum().backward(); opt.step()
    opt.zero_grad(); adapted.base_model.model(torch.tensor([[2, 50, 60]])).logsumexp(-1).sum().backward(); opt.step()
    merged = adapted.merge_and_unload().state_dict()
    changed = {n for n in base if not torch.equal(base[n], merged[n])}
    assert {n.split(".")[-2] for n in changed} == set(TARGETS)


def test_a_target_that_matches_nothing_is_an_error(monkeypatch):
    import hebrewgpt_nb.sft as m
    monkeypatch.setattr(m, "TARGETS", ["qkv", "proj", "gate", "up", "dwon"])
    with pytest.raises(UserError, match="LoRA matched"): m.add_lora(HebrewGPT(get_preset("tiny")), 4)


def test_bad_examples_are_counted_with_their_place(tmp_path):
    good = json.dumps(dict(instruction="מה השעה?", output="שתיים."), ensure_ascii=False).encode()
    path = tmp_path/"phase1.jsonl"
    path.write_bytes(b"\n".join([good, b"\xff\xfe", b"{", b"[]", b'{"instruction": "x"}', b'{"instruction": true, "output": "y"}', good]) + b"\n")
    aside = Quarantine()
    assert len(read_examples(path, aside)) == 2
    assert [q["line"] for q in aside] == [2, 3, 4, 5, 6]
    path.write_bytes(b"{}\n")
    with pytest.raises(UserError, match="not one good line"): read_examples(path, Quarantine())


def test_what_is_asked_about_stays_on_one_side():
    examples = [dict(instruction=i, input=f"קטע {n}", output="כן", task="qa") for n in range(80) for i in ("שאל", "סכם")]
    parts = split_examples(examples)
    sides = {}
    for name, part in parts.items():
        for e in part: sides.setdefault(e["input"], set()).add(name)
    assert all(len(s) == 1 for s in sides.values()) and sum(map(len, parts.values())) == 160


def test_tasks_without_names_are_ordered_by_their_answers(tmp_path):
    for task, output in (("niqqud", "שלום"), ("translation", "זה משפט ארוך למדי בעברית")):
        (tmp_path/f"{task}.jsonl").write_text("".join(json.dumps(dict(instruction=f"{task} {i}", output=output)) + "\n" for i in range(3)))
    phases = curriculum(str(tmp_path), "", "", Quarantine(), split=True)
    assert [{e["task"] for e in p} for p in phases] == [{"niqqud"}, {"translation"}]
    assert len(curriculum(str(tmp_path), "", "", Quarantine())) == 1 # nobody asked for two

@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_compiled_blocks_learn_the_same(tmp_path):
    how = dict(steps=3, batch_tokens=512, context=128, dropout=0., swa=0., eval_every=3, save_every=3)
    pretrain(run=str(tmp_path/"a"), **how)
    given = dict(tokenizer=str(tmp_path/"a/tokenizer/tokenizer.model"), data=str(tmp_path/"a/tokenizer/data"))
    torch._dynamo.utils.counters.clear()
    pretrain(run=str(tmp_path/"b"), compiled=True, **given, **how)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2 # a block of each kind, or nothing was compiled
    plain, compiled = ([(r["loss"], r.get("bpb")) for r in read_jsonl(tmp_path/run/"metrics.jsonl")] for run in "ab")
    assert len(plain) == 3 and all(a == pytest.approx(b, rel=1e-4) for (a, _), (b, _) in zip(plain, compiled))
    assert compiled[-1][1] == pytest.approx(plain[-1][1], rel=1e-3)
