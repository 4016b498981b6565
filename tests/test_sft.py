"Tuning on data of one's own: few examples, one task, long answers, a rate that spoils it, and the notebook as a job."
import json, math, subprocess, sys
from collections import Counter
from pathlib import Path
import nbformat, pytest, torch
from hebrewgpt_nb.bundle import load_bundle, save_bundle
from hebrewgpt_nb.core import UserError, read_jsonl, sample_dir
from hebrewgpt_nb.metrics import Scores
from hebrewgpt_nb.pretrain import pretrain
from hebrewgpt_nb.sft import compare_groups, curriculum, plan_phases, question_of, score_and_answer, sft, split_examples, verdict
from hebrewgpt_nb.text.records import Quarantine, write_records
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
    assert any(f"--base {tmp_path}/base --instruct {tmp_path}/tuned" in t for t in plain)
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
