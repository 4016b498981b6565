"Evaluation: figures against plain loops, the same twice, and one clear line for each thing that is wrong."
import json, math, os, subprocess, sys
import pytest, torch
import hebrewgpt_nb.evaluate as E
from hebrewgpt_nb.bundle import save_bundle
from hebrewgpt_nb.core import UserError, read_json, sample_dir, read_stamp
from hebrewgpt_nb.text.sources import Quarantine, read_records
from hebrewgpt_nb.evaluate import evaluate
from hebrewgpt_nb.model import HebrewGPT, get_preset
from hebrewgpt_nb.tokenizer import Tokenizer, train_tokenizer
from conftest import fill

@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with two bundles that share a tokenizer, and test examples."
    folder = tmp_path_factory.mktemp("evaluate")
    train_tokenizer([r["text"] for r in read_records(sample_dir()/"pretrain")], folder/"tokenizer.model", vocab_size=1024)
    tok = Tokenizer(folder/"tokenizer.model")
    for seed, name in enumerate(("base", "tuned")): save_bundle(fill(HebrewGPT(get_preset("tiny", vocab_size=1024)), seed).eval(), tok, folder/name/"bundle")
    lines = (sample_dir()/"sft"/"phase1.jsonl").read_text(encoding="utf8").split("\n")[:12]
    (folder/"tuned"/"test.jsonl").write_text("\n".join(lines) + "\n", encoding="utf8")
    return folder

def arguments(place, run, **changes):
    "A small evaluation in `place`."
    return dict(run=str(place/run), base=str(place/"base"), bundle=str(place/"tuned"), generations=3, max_new_tokens=12, device="cpu") | changes

def loaded(place, name="base"):
    "Model and tokenizer of a bundle in `place`."
    return E.load_bundle(place/name)

def nats_of(model, ids, start):
    "What the tokens from `start` on cost, one full forward pass for each."
    with torch.no_grad(): return sum(-model(torch.tensor([ids[:i]]))[0, -1].double().log_softmax(-1)[ids[i]].item() for i in range(start, len(ids)))

# --- choices ---------------------------------------------------------------------------------------

def test_choices_are_those_of_a_plain_loop(place):
    model, tok = loaded(place)
    questions = E.read_choices(sample_dir()/"eval"/"choices.jsonl")[:6]
    done = E.answer_choices(model, tok, questions)
    for q, found in zip(questions, done):
        prompt = E.choice_prompt(tok, q)
        answers = [nats_of(model, prompt + tok.encode(a), len(prompt)) for a in E.lettered(q["choices"])]
        texts = [nats_of(model, prompt + tok.encode(c), len(prompt)) / len(c.encode()) for c in q["choices"]]
        assert found == dict(group="choice", chance=.25, answer=int(answers.index(min(answers)) == q["answer_index"]), text=int(texts.index(min(texts)) == q["answer_index"]))
        for got, expected in zip(E.choice_scores(model, tok, prompt, E.lettered(q["choices"])), answers): assert abs(got.nats - expected) < 1e-3 * expected
    assert {d["answer"] for d in done} | {d["text"] for d in done} == {0, 1} # else the comparison would be empty

def test_the_right_answer_is_found_where_the_index_points(place):
    model, tok = loaded(place)
    questions = E.read_choices(sample_dir()/"eval"/"choices.jsonl")[:8]
    chosen = [E.pick(E.choice_scores(model, tok, E.choice_prompt(tok, q), E.lettered(q["choices"])), "nats") for q in questions]
    always = E.choice_accuracy(model, tok, [q | {"answer_index": i} for q, i in zip(questions, chosen)])["all"]
    never = E.choice_accuracy(model, tok, [q | {"answer_index": (i + 1) % 4} for q, i in zip(questions, chosen)])["all"]
    assert (always["accuracy"], never["accuracy"], always["chance"], always["n"]) == (1, 0, .25, 8)

def test_groups_make_up_the_whole(place):
    model, tok = loaded(place)
    questions = [q | {"group": "sib" if i % 3 else "theory"} for i, q in enumerate(E.read_choices(sample_dir()/"eval"/"choices.jsonl")[:9])]
    report = E.choice_accuracy(model, tok, questions)
    assert list(report) == ["all", "sib", "theory"] and (report["sib"]["n"], report["theory"]["n"]) == (6, 3)
    assert math.isclose(9 * report["all"]["accuracy"], 6 * report["sib"]["accuracy"] + 3 * report["theory"]["accuracy"])
    a = report["all"]
    assert math.isclose(a["error"], math.sqrt(a["accuracy"] * (1 - a["accuracy"]) / 9))

def test_a_question_longer_than_the_context_is_counted(place):
    model, tok = loaded(place)
    question = E.read_choices(sample_dir()/"eval"/"choices.jsonl")[0]
    report = E.choice_accuracy(model, tok, [question, question | {"question": "מה? " * 400}])["all"]
    assert (report["n"], report["skipped"]) == (1, 1)
    with pytest.raises(UserError, match="longer than the context"): E.choice_accuracy(model, tok, [question | {"question": "מה? " * 400}])

@pytest.mark.parametrize("line, reason", [
    (b"{", "not JSON"), (b"[1]", "not a JSON object"), (b"\xff", "not UTF-8"), (b"", "not JSON"),
    (dict(question=" "), "no question"), (dict(question=None), "no question"), (dict(choices="אב"), "choices is not a list of texts"), (dict(choices=["א", ""]), "choices is not a list of texts"),
    (dict(choices=["א", "א"]), "different choices"), (dict(choices=["א"]), "different choices"), (dict(choices=[str(i) for i in range(11)]), "different choices"),
    (dict(answer_index=2), "answer_index names no choice"), (dict(answer_index=-1), "answer_index names no choice"), (dict(answer_index=True), "answer_index names no choice"), (dict(answer_index="0"), "answer_index names no choice")])
def test_a_bad_question_is_counted(tmp_path, line, reason):
    good, path, aside = dict(id="sib-1", question="מה?", choices=["כן", "לא"], answer_index=0), tmp_path/"choices.jsonl", Quarantine()
    bad = line if isinstance(line, bytes) else json.dumps(good | line).encode()
    path.write_bytes(b"\n".join([json.dumps(good).encode(), bad, json.dumps(good).encode()]))
    assert [q["group"] for q in E.read_choices(path, aside)] == ["sib", "sib"]
    assert len(aside) == 1 and aside[0]["line"] == 2 and reason in aside[0]["reason"]
    with pytest.warns(UserWarning, match="1 lines put aside"): E.read_choices(path)

def test_a_file_without_questions_is_named(tmp_path):
    (tmp_path/"choices.jsonl").write_text("")
    with pytest.raises(UserError, match="not one good line"): E.read_choices(tmp_path/"choices.jsonl")
    with pytest.raises(UserError, match="none.jsonl"): E.read_choices(tmp_path/"none.jsonl")
    with pytest.raises(UserError, match="holds 2 files"):
        (tmp_path/"multiple_choice_dev.jsonl").write_text("")
        E.find_choices(str(tmp_path))

# --- writing ---------------------------------------------------------------------------------------

def test_how_a_text_ends_is_known(place):
    model, tok = loaded(place)
    prompt = [tok.bos_id, *tok.encode("שלום")]
    for token, end in ((tok.eos_id, "end"), (tok.heading_ids[0], "heading"), (tok.pad_id, "heading"), (tok.encode("א")[0], "limit")):
        class Stub(torch.nn.Module): # always prefers `token`
            cfg, tok_emb, make_cache = model.cfg, model.tok_emb, model.make_cache
            def hidden(self, tokens, docs=None, cache=None): return torch.zeros(*tokens.shape, model.cfg.width)
            def head(self, h): return torch.nn.functional.one_hot(torch.full(h.shape[:-1], token), 1024).float()
        written = E.write(Stub(), tok, prompt, 5)
        assert written == E.Written("אאאאא" if end == "limit" else "", end)

@pytest.mark.parametrize("text, end, reference, fault", [
    ("כן.", "end", "לא.", None), ("12", "end", "12", None), ("12", "end", "שתים עשרה", "not Hebrew"), ("yes", "end", "yes", None), (" \n", "end", "כן", "empty"), ("", "limit", "כן", "empty"),
    ("כן ###תשובה", "end", "כן", "writes a heading"), ("", "heading", "כן", "writes a heading"), ("כן ## כותרת", "end", "כן", None), ("כן וכן", "limit", "כן", "does not end")])
def test_the_form_of_an_answer(text, end, reference, fault): assert E.format_fault(E.Written(text, end), reference) == fault

# --- figures ---------------------------------------------------------------------------------------

def test_texts_are_scored_as_by_a_plain_loop(place):
    model, tok = loaded(place)
    texts = dict(news=["שלום לכולם", "בוקר טוב"], law=["סעיף ראשון: הגדרות."])
    figures = E.text_figures(model, tok, texts, context=64)
    nats, counts = {}, {}
    for s, ts in texts.items():
        ids = [[tok.bos_id, *tok.encode(t), tok.eos_id] for t in ts]
        nats[s], counts[s] = sum(nats_of(model, i, 1) for i in ids), sum(len(i) - 1 for i in ids)
    bits = {s: nats[s] / math.log(2) / sum(len(t.encode()) for t in ts) for s, ts in texts.items()}
    assert math.isclose(figures["bits per byte"]["value"], sum(bits.values()) / 2, rel_tol=1e-4)
    assert math.isclose(figures["bits per byte: law"]["value"], bits["law"], rel_tol=1e-4)
    assert math.isclose(figures["perplexity"]["value"], math.exp(sum(nats.values()) / sum(counts.values())), rel_tol=1e-3)
    assert figures["perplexity"]["n"] == dict(texts=3, tokens=sum(counts.values())) and figures["perplexity by word"]["n"]["words"] == 7

def test_examples_are_spread_and_missing_inputs_named(tmp_path):
    assert E.spread(list(range(100)), 4) == [0, 25, 50, 75] and E.spread([1, 2], 4) == [1, 2]
    (tmp_path/"a.train.jsonl").write_text('{"text": "שלום"}\n')
    with pytest.raises(UserError, match="no validation records"): E.read_inputs(data=str(tmp_path))

# --- the stage -------------------------------------------------------------------------------------

def test_a_bundle_against_itself_differs_in_nothing(place):
    evaluate(**arguments(place, "self", bundle=str(place/"base"), sft=str(place/"tuned")))
    report, pairs = read_json(place/"self"/"report.json"), read_json(place/"self"/"exchanges.json")
    assert report["base"] == report["instruct"] and all(r["better"] == "=" and r["base"] == r["instruct"] for r in report["rows"])
    assert pairs and all(e["base"] == e["instruct"] for e in pairs)

def test_the_same_twice_and_all_files(place):
    results = [evaluate(**arguments(place, run)) for run in ("one", "two")]
    assert results[0] == results[1] and set(results[0]) == set(E.HEADLINES)
    for name in ("report.json", "report.md", "exchanges.json"): assert (place/"one"/name).read_bytes() == (place/"two"/name).read_bytes()
    report = read_json(place/"one"/"report.json")
    assert report["base"]["figures"] != report["instruct"]["figures"]
    assert all(r["n"] for r in report["rows"]) and {r["figure"] for r in report["rows"] if r["base_error"] is None} >= {"bits per byte", "perplexity"}
    progress = read_json(place/"one"/"progress.json")
    assert progress["done"] == progress["total"] > 0
    assert read_stamp(place/"one")["result"] == results[0]

def test_the_table_of_the_page_is_aligned(place):
    evaluate(**arguments(place, "one"))
    rows = read_json(place/"one"/"report.json")["rows"]
    lines = E.format_table(rows).split("\n")
    assert len({len(line) for line in lines}) == 1 and len(lines) == len(rows) + 2
    assert E.format_table(rows) in (place/"one"/"report.md").read_text(encoding="utf8")

def test_an_evaluated_bundle_is_what_the_stage_says(place):
    evaluate(**arguments(place, "one"))
    alone = E.evaluate_bundle(place/"base", examples=str(place/"tuned"/"test.jsonl"), generations=3, max_new_tokens=12, device="cpu")
    assert json.loads(json.dumps(alone)) == read_json(place/"one"/"report.json")["base"]

def test_bad_test_examples_are_shown(place, tmp_path):
    (tmp_path/"test.jsonl").write_text((place/"tuned"/"test.jsonl").read_text(encoding="utf8") + '{"instruction": "מה?"}\n', encoding="utf8")
    evaluate(**arguments(place, "bad", sft=str(tmp_path)))
    assert read_json(place/"bad"/"report.json")["base"]["bad_lines"] == {"no instruction or no output": 1}
    assert "Lines put aside: 1 no instruction or no output" in (place/"bad"/"report.md").read_text(encoding="utf8")

def test_per_token_figures_of_two_tokenizers_are_not_compared():
    few, many = (E.figure(p, "per token", "lower", dict(tokens=n)) for p, n in ((20., 100), (10., 150)))
    assert E.verdict(few, many) == "?" and E.verdict(few, few | {"value": 10.}) == "▲"

@pytest.mark.parametrize("changes, message", [
    (dict(bundle=""), "bundle is empty"), (dict(base="runs/nowhere"), "base is runs/nowhere: no such file or folder"), (dict(sft="PLACE/base"), "no test.jsonl there"),
    (dict(bundle="PLACE/base"), "holds no test.jsonl"), (dict(base="PLACE"), "no bundle there"), (dict(generations=0), "generations is 0"), (dict(examples=0), "examples is 0"),
    (dict(choices="PLACE/none.jsonl"), "none.jsonl"), (dict(data="PLACE/none"), "no such file or folder"), (dict(device="gpu"), "choose one of auto, cpu, cuda")])
def test_wrong_parameters_are_one_line(place, changes, message):
    given = {k: v.replace("PLACE", str(place)) if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises(UserError) as e: evaluate(**arguments(place, "wrong", **given))
    assert message in str(e.value) and "\n" not in str(e.value)

@pytest.mark.parametrize("args, message", [(["--steps", "3"], "unrecognized arguments: --steps 3"), (["--base", "runs/nowhere"], "error: base is runs/nowhere: no such file or folder")])
def test_the_command_line_names_what_is_wrong(place, args, message):
    done = subprocess.run([sys.executable, "-m", "hebrewgpt_nb.evaluate", "--run", str(place/"cli"), *args], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 2 and message in done.stderr.strip().split("\n")[-1] and "Traceback" not in done.stderr
