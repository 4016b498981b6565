"Tuning on data of one's own: few examples, one task, long answers, a rate that spoils it, and the notebook as a job."
import json, math, os, shutil, signal, subprocess, sys
from collections import Counter
from pathlib import Path
import nbformat, pytest, torch, torch.nn.functional as F
from peft import PeftModel
from hebrewgpt_nb.bundle import load_bundle, save_bundle
from hebrewgpt_nb.core import UserError, cli, read_jsonl, sample_dir
from hebrewgpt_nb.metrics import Scores
from hebrewgpt_nb.pretrain import pretrain
import hebrewgpt_nb.sft as tuning
from hebrewgpt_nb.release import export_hf
from hebrewgpt_nb.sft import ExampleBatches, Phase, arrange, compare_groups, curriculum, load_adapted, plan_phases, question_of, score_and_answer, sft, split_examples, verdict
from hebrewgpt_nb.text.records import Quarantine, write_records
from hebrewgpt_nb.training.loop import accumulate
from conftest import VOCAB, small

ROOT = Path(__file__).parent.parent
QUICK = dict(steps=2, batch_tokens=256, context=128, rank=2, eval_every=1, save_every=1, device="cpu")


@pytest.fixture(scope="module")
def base(tok, tmp_path_factory):
    return str(save_bundle(small("AM", vocab_size=VOCAB), tok, tmp_path_factory.mktemp("base")/"bundle"))


def examples(count, words, task="mine", input=""):
    return [dict(instruction=f"שאלה מספר {n} של {task}", input=input, output="מילה " * (words - 1) + str(n), task=task) for n in range(count)]


# --- the notebook as a job ------------------------------------------------------------------------------------

def test_a_spoiled_run_on_thirty_examples_ends_and_says_worse(tmp_path):
    "Another folder, thirty examples of one task without inputs, a given base, other sizes, and a rate that spoils it."
    explain = [e for e in read_jsonl(sample_dir()/"sft"/"phase1.jsonl") if e["task"] == "explain"][:30]
    lines = [json.dumps(e, ensure_ascii=False) for e in explain] + ["not json"]
    (tmp_path/"mine.jsonl").write_text("\n".join(lines) + "\n", encoding="utf8")
    pretrain(run=str(tmp_path/"base"), steps=40)
    there = set(p.name for p in tmp_path.iterdir())
    params = dict(run="tuned", base="base", data="mine.jsonl", lr=.5, context=160, batch_tokens=500, steps=12, rank=3, patience=2, eval_every=4, save_every=5, seed=7)
    given = [x for name, value in params.items() for x in ("-p", name, str(value))]
    done = subprocess.run([Path(sys.executable).parent/"papermill", ROOT/"nbs"/"05_sft.ipynb", tmp_path/"out.ipynb", *given], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {p.name for p in tmp_path.iterdir()} - there == {"tuned", "out.ipynb"} # the lessons write elsewhere
    assert not (tmp_path/"tuned"/"base").exists() # and no toy was trained
    outputs = [o for c in nbformat.read(tmp_path/"out.ipynb", 4).cells if c.cell_type == "code" for o in c.outputs]
    plain = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs]
    table, = [t for t in plain if t.split()[:3] == ["test", "examples", "base"] and "\nall" in t][-1:]
    assert "worse" in table and "better" not in table
    assert any("1 lines put aside: not JSON" in t for t in plain) and any("one phase" in t for t in plain)
    asked = read_jsonl(tmp_path/"tuned"/"test.jsonl")
    pages = [o["data"]["text/html"] for o in outputs if "text/html" in o.get("data", {})]
    assert any('dir="rtl"' in page and asked[0]["instruction"] in page and "אחרי הכוונון" in page for page in pages)
    assert any(f"app.py {tmp_path}/tuned {tmp_path}/base" in t for t in plain)
    assert load_bundle(tmp_path/"tuned")[0].cfg.context == 256


def test_null_is_empty_and_what_is_put_aside_is_said(tmp_path, capsys):
    rows = [e | dict(input=None) for e in examples(6, 1)] + [e | dict(task=None) for e in examples(6, 1)] + [dict(instruction="מה?", output=None), dict(instruction="\ud83d", output="כן")]
    (tmp_path/"mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    aside = Quarantine()
    (found,) = curriculum(str(tmp_path), "", "", aside)
    assert len(found) == 12 and all(e["input"] == "" and e["task"] == "mine" for e in found)
    said = capsys.readouterr().out
    assert said.startswith("sft: 2 lines put aside (no instruction or no output: 1, instruction is not Unicode (half a surrogate pair): 1); first ") and said.endswith("mine.jsonl:13\n")


# --- data of every shape ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("data, phases", [
    (examples(30, 1), 1), # all answers short
    (examples(30, 40), 1), # all long
    (examples(30, 1, "short") + examples(30, 12, "long"), 2),
    ([e | dict(phase=1) for e in examples(30, 12, "first")] + [e | dict(phase=2) for e in examples(30, 1, "second")], 2),
    (examples(30, 1, "short") + examples(2, 12, "long"), 1), # too few to be a phase
    (examples(30, 1, "short") + examples(30, 400, "long"), 1), # none of the long ones fits
    (examples(3, 1), 1), # the least that can be split
    (examples(30, 1, input="קטע אחד") + examples(2, 1, "other"), 1)]) # all about one passage
def test_any_data_is_tuned_on_or_named(base, tmp_path, data, phases):
    write_records(tmp_path/"data.jsonl", data)
    result = sft(run=str(tmp_path/"run"), base=base, data=str(tmp_path/"data.jsonl"), split=True, **QUICK)
    assert len(result["phases"]) == phases
    used = sum(row[f"{part} examples"] for row in result["phases"] for part in ("train", "valid", "test"))
    assert used + sum(row["left out"] for row in result["phases"]) + sum(result["data"]["dropped"].values()) == len(data)
    assert all(row[f"{part} examples"] for row in result["phases"] for part in ("train", "valid", "test"))
    test_set = read_jsonl(tmp_path/"run"/"test.jsonl")
    before, _ = score_and_answer(base, test_set, test_set[:1], max_new_tokens=2)
    after, _ = score_and_answer(tmp_path/"run", test_set, test_set[:1], max_new_tokens=2)
    assert compare_groups(test_set, before, after)["all"]["test examples"] == len(test_set)


@pytest.mark.parametrize("data, message", [
    (examples(2, 1), "about 2 different questions: give at least 3"),
    (examples(1, 1), "about 1 different questions: give at least 3"),
    (examples(1, 1) * 9, "about 1 different questions: give at least 3"),
    (examples(40, 1, input="קטע אחד"), "about 1 different questions: give at least 3"),
    (examples(20, 900), "no example is left of 20: 20 longer than context 128; raise context")])
def test_too_little_is_said_before_training(base, tmp_path, data, message):
    write_records(tmp_path/"data.jsonl", data)
    with pytest.raises(UserError, match=message): sft(run=str(tmp_path/"run"), base=base, data=str(tmp_path/"data.jsonl"), **QUICK)
    assert not (tmp_path/"run"/"phase1").exists()


def test_sizes_that_cannot_be_are_named(base, tmp_path):
    for wrong, message in ((dict(context=512, batch_tokens=512), "context is 512"), (dict(batch_tokens=100), "batch_tokens is 100"), (dict(phase1=base), "phase1 and phase2 go together")):
        with pytest.raises(UserError, match=message): sft(run=str(tmp_path/"run"), base=base, **QUICK | wrong)


def test_phases_as_they_were_given(base, tmp_path):
    write_records(tmp_path/"first.jsonl", examples(15, 30, "long"))
    write_records(tmp_path/"second.jsonl", examples(15, 1, "short"))
    phases = curriculum("", str(tmp_path/"first.jsonl"), str(tmp_path/"second.jsonl"), Quarantine())
    assert [{e["task"] for e in phase} for phase in phases] == [{"long"}, {"short"}]


class Lossy:
    "A tokenizer that loses digits."
    def __init__(self, tok): self.tok = tok
    def __getattr__(self, name): return getattr(self.tok, name)
    def decode(self, ids): return "".join(c for c in self.tok.decode(ids) if not c.isdigit())


def test_answers_that_a_tokenizer_alters_are_left_out_and_counted(tok):
    altered, kept = examples(5, 1, "digits"), [e | {"output": "מילה"} for e in examples(12, 1, "words")]
    phase, = plan_phases([altered + kept], Lossy(tok), 128)
    assert phase.left_out == {"the tokenizer does not give the answer back": 5}
    assert phase.train + phase.valid + phase.test and all(e["task"] == "words" for e in phase.train + phase.valid + phase.test)


# --- splitting and comparing -------------------------------------------------------------------------------------

def test_an_example_keeps_its_part_when_others_come():
    few, many = split_examples(examples(200, 1)), split_examples(examples(400, 1))
    for name in few: assert {question_of(e) for e in few[name]} <= {question_of(e) for e in many[name]}


@pytest.mark.parametrize("seed", range(8))
def test_what_one_phase_tests_the_other_does_not_train_on(tok, seed):
    "Two tasks about few and partly the same passages: what had to be moved in the first phase keeps its part in the second."
    about = lambda numbers, task: [dict(instruction=task, input=f"קטע {seed} {n}", output="כן", task=task) for n in numbers]
    first, second = plan_phases([about(range(15), "כותרת"), about(range(5, 20), "סיכום")], tok, 128)
    for one, other in ((first, second), (second, first)):
        assert not {question_of(e) for e in one.test} & {question_of(e) for e in other.train + other.valid}


@pytest.mark.parametrize("count", [3, 4, 7, 16, 24, 30, 60])
def test_no_part_is_empty_however_few(count):
    for offset in range(0, 400, 40):
        data = [dict(instruction=str(n + offset), input="", output="א") for n in range(count)]
        sizes = Counter({name: len(part) for name, part in split_examples(data).items()})
        assert sum(sizes.values()) == count and min(sizes.values()) >= max(1, min(3, count // 8))


@pytest.mark.parametrize("n", [2, 3, 5, 9, 10, 11, 12, 20, 31, 100, 1000])
def test_the_verdict_is_that_of_student(n):
    "The threshold leaves 95 % of the t distribution between its two sides, by integration."
    low, high = 0., 20.
    for _ in range(40): # the difference, in standard errors, at which chance is excluded
        middle = (low + high) / 2
        low, high = (middle, high) if verdict(middle, 1., n) == "no difference" else (low, middle)
    x = torch.linspace(-low, low, 200_001, dtype=torch.float64)
    mass = torch.trapezoid(torch.distributions.StudentT(torch.tensor(n - 1., dtype=torch.float64)).log_prob(x).exp(), x)
    assert mass.item() == pytest.approx(.95, abs=.004)


def test_a_hopeless_model_is_still_compared():
    spoiled, fine = [Scores(nats=9000. + n, tokens=5) for n in range(5)], [Scores(nats=10. + n, tokens=5) for n in range(5)]
    row = compare_groups([dict(phase=1, task="a")] * 5, fine, spoiled)["all"]
    assert row["verdict"] == "worse" and row["tuned perplexity"] == math.inf


# --- what a step learns ----------------------------------------------------------------------------------------------

@pytest.fixture
def uneven(tok):
    "Examples whose answers have one word, or thirty: a mean of means would weigh their tokens differently."
    return ExampleBatches(tok, examples(20, 1, "short") + examples(6, 30, "long"), context=160, rows=99)

def gradient(batches):
    model = small("AM", vocab_size=VOCAB)
    loss, scored = accumulate(model, batches)
    return torch.cat([p.grad.flatten() for p in model.parameters()]), loss, scored

def near(a, b): return (a - b).norm() < 1e-4 * b.norm()

def test_micro_batches_learn_what_one_batch_does(uneven):
    whole, loss, scored = gradient(uneven(0))
    uneven.per_pass = 1
    parts = uneven(0)
    each = [int((b.targets >= 0).sum()) for b in parts]
    assert len(parts) > 3 and max(each) > 1.5 * min(each) # rows of unequal weight
    in_parts, loss_in_parts, scored_in_parts = gradient(parts)
    assert near(in_parts, whole) and loss_in_parts == pytest.approx(loss, rel=1e-5) and scored_in_parts == scored == sum(each)
    equal_rows = sum(gradient([b])[0] for b in parts) / len(parts) # the mistake: a mean of the means of rows
    assert not near(equal_rows, whole)

def test_packed_examples_learn_what_they_would_alone(tok, uneven):
    packed, loss, scored = gradient(uneven(0))
    model, total, count = small("AM", vocab_size=VOCAB), 0., 0
    for inputs, targets in uneven.pieces: # by the loss of PyTorch, one example at a time
        logits, targets = model(torch.tensor([inputs]))[0], torch.tensor(targets)
        total, count = total + F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum"), count + int((targets != -100).sum())
    (total / count).backward()
    assert count == scored and near(torch.cat([p.grad.flatten() for p in model.parameters()]), packed)

@pytest.mark.parametrize("forward_tokens", [64, 160, 512])
def test_every_forward_pass_has_something_to_learn_and_room_for_it(tok, forward_tokens):
    data = examples(300, 1, "short") + examples(40, 60, "long")
    batches = ExampleBatches(tok, data, 160, rows=3, forward_tokens=forward_tokens)
    seen = 0
    for step in range(len(batches.steps(0))):
        for b in batches(step):
            assert ((b.targets >= 0).sum(1) > 0).all() and b.tokens.numel() <= max(160, forward_tokens)
            seen += int((b.targets == tok.eos_id).sum())
    assert seen == len(data) # each example once in an epoch


# --- how a model is tuned ----------------------------------------------------------------------------------------------

DATA = examples(24, 1, "short") + examples(24, 12, "long")
IDS = torch.randint(10, VOCAB, (1, 40), generator=torch.Generator().manual_seed(0))

@pytest.fixture
def data(tmp_path): # parameters
    for n, some in enumerate((DATA[:24], DATA[24:]), 1): write_records(tmp_path/f"phase{n}.jsonl", some)
    return dict(phase1=str(tmp_path/"phase1.jsonl"), phase2=str(tmp_path/"phase2.jsonl"))

def logits(path):
    with torch.no_grad(): return load_bundle(path)[0](IDS)

@pytest.mark.parametrize("method, mamba, dtype", [("lora", False, "float32"), ("lora", True, "bfloat16"), ("rslora", True, "float32"), ("dora", False, "float32"), ("full", False, "float32")])
def test_each_method_goes_on_to_the_same_bits_and_is_merged(base, data, tmp_path, monkeypatch, method, mamba, dtype):
    how = QUICK | dict(base=base, **data, steps=3, save_every=10, method=method, mamba=mamba, lr=.02, dtype=dtype)
    straight = sft(run=str(tmp_path/"straight"), **how)
    calls, real = [], tuning.schedule
    def stop_in_phase_2(*args):
        calls.append(args)
        if len(calls) == 5: os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)
    with monkeypatch.context() as m:
        m.setattr(tuning, "schedule", stop_in_phase_2)
        with pytest.raises(KeyboardInterrupt, match="step 2 of 3"): sft(run=str(tmp_path/"run"), **how)
    resumed = sft(run=str(tmp_path/"run"), **how)
    assert resumed["phases"] == straight["phases"] and [row["steps"] for row in resumed["phases"]] == [3, 3]
    assert torch.equal(logits(tmp_path/"run"), logits(tmp_path/"straight"))
    assert (logits(tmp_path/"run") - logits(base)).abs().max() > .01
    changed = {n.split(".")[-2] for (n, w), b in zip(load_bundle(tmp_path/"run")[0].state_dict().items(), load_bundle(base)[0].state_dict().values()) if not torch.equal(w, b)}
    assert changed == {"full": changed | {"tok_emb", "ln1", "conv1d"}}.get(method, {*tuning.TARGETS, *tuning.MAMBA_TARGETS * mamba})
    assert (tmp_path/"run"/"adapter").exists() == (method != "full")
    if method == "full": return
    with torch.no_grad(): stock = PeftModel.from_pretrained(load_bundle(base)[0], str(tmp_path/"run"/"adapter")).eval()(IDS)
    assert (stock - logits(tmp_path/"run")).abs().max() < 1e-4

def test_frozen_matrices_in_bfloat16_change_no_bit(base, data, tmp_path, monkeypatch):
    how = QUICK | dict(base=base, **data, steps=3, lr=.02, dtype="bfloat16")
    sft(run=str(tmp_path/"halved"), **how)
    monkeypatch.setattr(tuning, "halve_frozen", lambda model: None)
    sft(run=str(tmp_path/"whole"), **how)
    assert torch.equal(logits(tmp_path/"halved"), logits(tmp_path/"whole"))

def test_a_base_in_bfloat16_stays_in_bfloat16(tok, data, tmp_path):
    base = save_bundle(small("AM", vocab_size=VOCAB).bfloat16(), tok, tmp_path/"half")
    for method in ("lora", "full"):
        sft(run=str(tmp_path/method), base=str(base), **QUICK | data | dict(method=method, steps=1))
        assert {p.dtype for p in load_bundle(tmp_path/method)[0].parameters()} == {torch.bfloat16}

def test_mamba_adapters_on_a_model_without_mamba_are_refused(tok, data, tmp_path):
    dense = save_bundle(small("A", vocab_size=VOCAB), tok, tmp_path/"dense")
    with pytest.raises(UserError, match="mamba is true, but the base has no Mamba-2 block"): sft(run=str(tmp_path/"run"), base=str(dense), **data, mamba=True, **QUICK)


# --- bases ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["stock folder", "model.pt", "folder of model.pt"])
def test_what_others_publish_is_a_base(tok, data, tmp_path, kind):
    model = small("A" if kind != "stock folder" else "AM", vocab_size=VOCAB)
    if kind == "stock folder": given = export_hf(model, tok, tmp_path/"given")
    else:
        (given := tmp_path/"given").mkdir()
        torch.save({"model_state_dict": {f"_orig_mod.{n}": w for n, w in model.state_dict().items()}}, given/"model.pt")
        (given/"tokenizer.model").write_bytes(tok.path.read_bytes())
        (given/"config.json").write_text(json.dumps(dict(model_type="hebrew-gpt", hidden_size=64, head_dim=32, max_position_embeddings=256)))
        given = given/"model.pt" if kind == "model.pt" else given
    for steps in (1, 2): # the second attempt grows aside, and names where it will lie
        result = sft(run=str(tmp_path/"run"), base=str(given), **QUICK | data | dict(steps=steps))
        assert result["base"] == f"{tmp_path}/run/base" and not (tmp_path/"run"/".next").exists()
        with torch.no_grad(): assert torch.equal(logits(result["base"]), model(IDS))
        with torch.no_grad(): assert torch.equal(load_adapted(tmp_path/"run"/"adapter")[0](IDS), logits(tmp_path/"run"))

def test_an_adapter_for_another_base_is_refused(base, tok, data, tmp_path):
    sft(run=str(tmp_path/"run"), base=base, **QUICK | data)
    other = save_bundle(small("AM", seed=1, vocab_size=VOCAB), tok, tmp_path/"other")
    with pytest.raises(UserError, match=f"adapter: made for {base}, and the weights of {other} are others"): load_adapted(tmp_path/"run"/"adapter", other)

def test_from_full_to_adapters_and_back(base, data, tmp_path):
    "A second attempt by another method leaves nothing of the first."
    for method in ("lora", "full", "lora"):
        sft(run=str(tmp_path/"run"), base=base, **QUICK | data | dict(method=method))
        assert (tmp_path/"run"/"adapter").exists() == (method == "lora")


# --- the curriculum ------------------------------------------------------------------------------------------------------

def phases():
    return [Phase(examples(40, 1, "short"), examples(8, 1, "short valid"), examples(5, 1, "short test"), {}),
            Phase(examples(60, 9, "long"), examples(6, 9, "long valid"), examples(7, 9, "long test"), {"odd": 1})]

def keys(some): return sorted(e["instruction"] for e in some)

def test_the_controls_train_on_the_same_examples():
    simple, turned, mixed = phases(), arrange(phases(), "reversed"), arrange(phases(), "shuffled", seed=1)
    assert arrange(phases()) == simple and turned == simple[::-1]
    assert [p.counts() for p in mixed] == [p.counts() for p in simple] and [p.test for p in mixed] == [p.test for p in simple]
    for part in ("train", "valid"): assert keys(sum((getattr(p, part) for p in mixed), [])) == keys(sum((getattr(p, part) for p in simple), []))
    shares = [sum(e["task"] == "short" for e in p.train) / len(p.train) for p in mixed]
    assert all(.2 < share < .6 for share in shares) # 40 of 100 are short
    assert arrange(phases(), "shuffled", seed=1) == mixed != arrange(phases(), "shuffled", seed=2)

@pytest.mark.parametrize("order", ["simple", "reversed"])
@pytest.mark.parametrize("replay", [0., .25, 1.])
def test_replay_brings_examples_of_the_phase_before_again(order, replay):
    plain, (first, second) = arrange(phases(), order), arrange(phases(), order, replay)
    again = second.train[len(plain[1].train):]
    assert first == plain[0] and second.valid == plain[1].valid and len(again) == round(replay * len(first.train))
    assert len(set(keys(again))) == len(again) and set(keys(again)) <= set(keys(first.train))

@pytest.mark.parametrize("epochs, steps, expected", [(1., 99, 1.), (1.5, 99, 1.5), (9., 2, None)])
def test_a_phase_is_so_many_passes_long_and_no_more_than_its_steps(base, data, tmp_path, epochs, steps, expected):
    result = sft(run=str(tmp_path/"run"), base=base, **QUICK | data | dict(epochs=epochs, steps=steps, eval_every=99, save_every=99))
    for row in result["phases"]:
        if expected: assert row["epochs"] == pytest.approx(expected, abs=.3) and row["steps"] < steps
        else: assert row["steps"] == steps

def test_each_phase_has_its_rate_and_warms_up(base, data, tmp_path):
    sft(run=str(tmp_path/"run"), base=base, **QUICK | data | dict(lr=.02, lr2=.004, warmup=.5, steps=8, eval_every=99, save_every=99))
    for number, peak in ((1, .02), (2, .004)):
        rates = [row["lr"] for row in read_jsonl(tmp_path/"run"/f"phase{number}"/"metrics.jsonl")]
        assert rates.index(max(rates)) in (2, 3, 4) and .5 * peak < max(rates) <= peak and rates[0] < .4 * peak


# --- how it ends ---------------------------------------------------------------------------------------------------------

def test_the_command_ends_in_figures_and_in_what_to_do_with_them(base, data, tmp_path, capsys):
    given = QUICK | dict(run=tmp_path/"run", base=base, **data)
    result = cli(sft, [x for k, v in given.items() for x in (f"--{k}", str(v))])
    *_, ways, last = capsys.readouterr().out.strip().split("\n")
    assert last.startswith(f"{tmp_path}/run: ") and "finished" not in last
    assert f"trained {result['trained']}" in last and f"end_loss {result['end_loss']:,.4g}" in last and f"base_loss {result['base_loss']:,.4g}" in last
    said = "\n".join(tuning.ways_on(str(tmp_path/"run"), result["base"]))
    assert f"apps/app.py {tmp_path}/run {base}" in said and ways in said

def test_an_adapter_of_a_copied_base_says_what_it_is_for(tmp_path):
    "Of a folder of transformers, the copy in run/base; and how stock peft comes to it."
    (tmp_path/"llama").mkdir()
    (tmp_path/"llama"/"config.json").write_text('{"model_type": "llama"}')
    given = str(tmp_path/"llama")
    _, adapter, stock, *_ = tuning.ways_on(str(tmp_path/"run"), f"{tmp_path}/run/base", "lora", given)
    assert f"on {tmp_path}/run/base, the copy of {given}" in adapter and f"release.export_adapter('{tmp_path}/run/adapter', '{given}', " in stock
    for base, method, asked in ((given, "lora", given), ("runs/toy", "lora", ""), (f"{tmp_path}/run/base", "full", given)):
        assert not any("export_adapter" in line for line in tuning.ways_on(str(tmp_path/"run"), base, method, asked))

def test_the_losses_are_those_of_the_bundles(base, data, tmp_path):
    "The base's, and the tuned model's at the end, on the validation answers of each phase."
    result = sft(run=str(tmp_path/"run"), base=base, **QUICK | data | dict(steps=3, lr=.02))
    planned = plan_phases([DATA[:24], DATA[24:]], load_bundle(base)[1], 128)
    for name, path in (("base_loss", base), ("end_loss", tmp_path/"run")):
        model, its_tok = load_bundle(path)
        for row, phase in zip(result["phases"], planned):
            assert row[name] == pytest.approx(tuning.score_answers(model, its_tok, phase.valid, 128).nats_per_token, rel=1e-4)
    assert result["phases"][1]["val_loss"] == pytest.approx(result["phases"][1]["end_loss"], rel=1e-4) # its best is kept

def test_an_attempt_that_was_left_is_named_to_whom_it_stands_in_the_way(base, data, tmp_path, monkeypatch):
    "A finished run, a second attempt that was stopped, and a third with other parameters."
    run, how = tmp_path/"run", QUICK | data | dict(run=str(tmp_path/"run"), base=base)
    first = sft(**how)
    with monkeypatch.context() as m:
        m.setattr(tuning, "schedule", lambda *args: os.kill(os.getpid(), signal.SIGTERM) or 1.)
        with pytest.raises(KeyboardInterrupt): sft(**how | dict(lr=.01))
    with pytest.raises(UserError, match=rf"\(lr was 0.01, is 0.02\): choose another run, or delete {run}/.next to start over"): sft(**how | dict(lr=.02))
    assert sft(**how) == first # which still stands
    shutil.rmtree(run/".next")
    assert sft(**how | dict(lr=.02))["steps"] == first["steps"] and not (run/".next").exists()

@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_ships_can_be_tuned(tmp_path, method):
    "Its weights are in eight bits, in which nothing is learned."
    data = tmp_path/"few.jsonl"
    data.write_text("".join(json.dumps(dict(instruction=f"אמרו {n}", input="", output=f"{n} ועוד {n}")) + "\n" for n in range(40)))
    sft(run=str(tmp_path/"run"), base="mini-base", data=str(data), method=method, steps=3, batch_tokens=512, context=128, device="cpu", dtype="float32")
    (base, tok), (tuned, _) = load_bundle(tmp_path/"run"/"base"), load_bundle(tmp_path/"run")
    before, after = base.state_dict(), tuned.state_dict()
    learned = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"blocks.0.attn.qkv.weight", "blocks.1.mlp.up.weight"} <= learned
    ids = torch.tensor([tok.encode("הילדה הלכה לגן")])
    assert torch.allclose(base(ids), load_bundle("mini-base", dtype="float32")[0](ids), atol=1e-4)
