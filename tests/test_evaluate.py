"Evaluation: metrics against plain loops, the same twice, and one clear line for each thing that is wrong."
import json, math, os, subprocess, sys
import numpy as np, pytest, torch
import hebrewgpt_nb.benchmarks as B, hebrewgpt_nb.evaluate as E, hebrewgpt_nb.grading as G, hebrewgpt_nb.metrics as M, hebrewgpt_nb.reports as R, hebrewgpt_nb.tasks as T
from hebrewgpt_nb.benchmarks import item_text
from hebrewgpt_nb.bundle import load_bundle, save_bundle
from hebrewgpt_nb.core import UserError, read_json, read_jsonl, sample_dir, read_stamp
from hebrewgpt_nb.text.records import Quarantine, read_checked, read_records
from hebrewgpt_nb.evaluate import evaluate
from hebrewgpt_nb.grammar.pairs import FRAMES
from hebrewgpt_nb.instructions.choices import letter_choices
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
    few = (sample_dir()/"eval"/"choices.jsonl").read_text(encoding="utf8").split("\n")[:5]
    (folder/"choices_few.jsonl").write_text("\n".join(few) + "\n", encoding="utf8")
    return folder

def arguments(place, run, **changes):
    "A small evaluation in `place`."
    return dict(run=str(place/run), base=str(place/"base"), bundle=str(place/"tuned"), generations=3, max_new_tokens=12, tests=str(place/"choices_few.jsonl"), device="cpu") | changes

def alone(place, path, **changes):
    "The same of one model."
    given = dict(examples=str(place/"tuned"/"test.jsonl"), generations=3, max_new_tokens=12, tests=str(place/"choices_few.jsonl"), device="cpu")
    return E.evaluate_bundle(path, **given | changes)

def measured(place, run, name="base"):
    "What a run found of a model, less what differs each time."
    return {k: v for k, v in read_json(place/run/f"{name}.report.json").items() if k not in ("seconds", "model")}

def loaded(place, name="base"):
    "Model and tokenizer of a bundle in `place`."
    return load_bundle(place/name)

def nats_of(model, ids, start):
    "What the tokens from `start` on cost, one full forward pass for each."
    with torch.no_grad(): return sum(-model(torch.tensor([ids[:i]]))[0, -1].double().log_softmax(-1)[ids[i]].item() for i in range(start, len(ids)))

# --- choices ---------------------------------------------------------------------------------------

def sample_questions(n): return read_checked(sample_dir()/"eval"/"choices.jsonl", G.parse_question)[:n]

def test_choices_are_those_of_a_plain_loop(place):
    model, tok = loaded(place)
    questions = sample_questions(6)
    right = []
    for q, found in zip(questions, B.choose(model, tok, questions)):
        prompt, bare = (G.prompt_ids(tok, B.ask(q, question=asked)) for asked in (True, False))
        answers, without = ([nats_of(model, ids + tok.encode(a), len(ids)) for a in letter_choices(q["choices"])] for ids in (prompt, bare))
        texts = [nats_of(model, prompt + tok.encode(c), len(prompt)) / len(c.encode()) for c in q["choices"]]
        gains = [a - b for a, b in zip(answers, without)]
        expected = {way: costs.index(min(costs)) for way, costs in {"asked": answers, "text alone": texts, "options only": without, "minus prior": gains}.items()}
        assert found == expected
        right += [found[way] == q["answer_index"] for way in ("asked", "text alone")]
        for got, cost in zip(M.choice_scores(model, tok, prompt, letter_choices(q["choices"])), answers): assert abs(got.nats - cost) < 1e-3 * cost
    assert set(right) == {True, False} # else the comparison would be empty

def test_the_right_answer_is_found_where_the_index_points(place):
    model, tok = loaded(place)
    questions = sample_questions(8)
    chosen = [found["asked"] for found in B.choose(model, tok, questions)]
    for step, share in ((0, 1), (1, 0)):
        found = B.measure_questions(model, tok, [q | dict(answer_index=(i + step) % 4) for q, i in zip(questions, chosen)], T.Inputs()).metrics["questions"]
        assert (found["value"], found["unit"], found["n"]) == (share, "share right, chance 0.25", dict(questions=8))

def test_groups_make_up_the_whole(place):
    model, tok = loaded(place)
    questions = [q | {"group": "sib" if i % 3 else "theory"} for i, q in enumerate(sample_questions(9))]
    questions[0] |= dict(choices=questions[0]["choices"][:2], answer_index=0)
    questions.append(questions[1] | dict(question="מה? " * 400))
    report = B.measure_questions(model, tok, questions, T.Inputs()).metrics
    for way in ("", " (text alone)", " (minus prior)", " (written)", " (options only)"):
        whole, sib, theory = (report[name + way] for name in ("questions", "questions: sib", "questions: theory"))
        assert math.isclose(9 * whole["value"], 6 * sib["value"] + 3 * theory["value"])
        assert [m["n"] for m in (whole, sib, theory)] == [dict(questions=9, too_long=1), dict(questions=6, too_long=1), dict(questions=3)]
        assert whole["unit"] == f"share right, chance {(8 * .25 + .5) / 9:.2f}" and len(set(whole["items"]["ids"])) == 9
    assert list(report)[0] == "questions" and len(report) == 15

def test_questions_of_which_none_has_a_figure_say_why(place):
    model, tok = loaded(place)
    found = B.measure_questions(model, tok, [q | dict(question="מה? " * 400 + q["question"]) for q in sample_questions(2)], T.Inputs())
    assert found.metrics == {} and found.left_out == {"questions: choice": "all 2 questions are longer than the context", "questions": "no group of them has a figure"}

@pytest.mark.parametrize("line, reason", [
    (b"{", "not JSON"), (b"[1]", "not a JSON object"), (b"\xff", "not UTF-8"), (b"", "not JSON"),
    (dict(question=" "), "no question"), (dict(question=None), "no question"), (dict(choices="אב"), "choices is not a list of texts"), (dict(choices=["א", ""]), "choices is not a list of texts"),
    (dict(choices=["א", "א"]), "different choices"), (dict(choices=["א"]), "different choices"), (dict(choices=[str(i) for i in range(11)]), "different choices"),
    (dict(answer_index=2), "answer_index names no choice"), (dict(answer_index=-1), "answer_index names no choice"), (dict(answer_index=True), "answer_index names no choice"), (dict(answer_index="0"), "answer_index names no choice"),
    (dict(answer_index=None), "answer_index names no choice"), (dict(choices=["א", "\ud83d"]), "choices is not Unicode (half a surrogate pair)")])
def test_a_bad_question_is_counted(tmp_path, line, reason):
    good, path, aside = dict(id="sib-1", question="מה?", choices=["כן", "לא"], answer_index=0), tmp_path/"choices.jsonl", Quarantine()
    bad = line if isinstance(line, bytes) else json.dumps(good | line).encode()
    path.write_bytes(b"\n".join([json.dumps(good).encode(), bad, json.dumps(good).encode()]))
    assert [q["group"] for q in read_checked(path, G.parse_question, aside)] == ["sib", "sib"]
    assert len(aside) == 1 and aside[0]["line"] == 2 and reason in aside[0]["reason"]
    with pytest.warns(UserWarning, match="1 lines put aside"): read_checked(path, G.parse_question)

def test_a_file_without_questions_is_named(place, tmp_path):
    (tmp_path/"choices.jsonl").write_text("")
    with pytest.raises(UserError, match="choices.jsonl: not one good line") as e: alone(place, place/"base", tests=str(tmp_path))
    assert "\n" not in str(e.value)

# --- writing ---------------------------------------------------------------------------------------

def test_how_a_text_ends_is_known(place):
    model, tok = loaded(place)
    prompt = [tok.bos_id, *tok.encode("שלום")]
    for token, end in ((tok.eos_id, "stop"), (tok.heading_ids[0], "heading"), (tok.pad_id, "heading"), (tok.encode("א")[0], "length")):
        class Stub(torch.nn.Module): # always prefers `token`
            cfg, tok_emb, make_cache = model.cfg, model.tok_emb, model.make_cache
            def hidden(self, tokens, docs=None, cache=None): return torch.zeros(*tokens.shape, model.cfg.width)
            def head(self, h): return torch.nn.functional.one_hot(torch.full(h.shape[:-1], token), 1024).float()
        written = G.complete(Stub(), tok, prompt, 5)
        assert written == G.Completion("אאאאא" if end == "length" else "", end)

@pytest.mark.parametrize("text, finish_reason, reference, fault", [
    ("כן.", "stop", "לא.", None), ("12", "stop", "12", None), ("12", "stop", "שתים עשרה", "not Hebrew"), ("yes", "stop", "yes", None), (" \n", "stop", "כן", "empty"), ("", "length", "כן", "empty"),
    ("כן ###תשובה", "stop", "כן", "writes a heading"), ("", "heading", "כן", "writes a heading"), ("כן ## כותרת", "stop", "כן", None), ("כן וכן", "length", "כן", "did not end")])
def test_the_form_of_an_answer(text, finish_reason, reference, fault): assert G.format_fault(G.Completion(text, finish_reason), reference) == fault

# --- metrics ---------------------------------------------------------------------------------------

def test_texts_are_scored_as_by_a_plain_loop(place):
    model, tok = loaded(place)
    texts = dict(news=["שלום לכולם", "בוקר טוב"], law=["סעיף ראשון: הגדרות."])
    records = [dict(source=s, text=t) for s, ts in texts.items() for t in ts]
    metrics = T.text_metrics(model, tok, records, T.Inputs(context=64)).metrics
    nats, counts = {}, {}
    for s, ts in texts.items():
        ids = [[tok.bos_id, *tok.encode(t), tok.eos_id] for t in ts]
        nats[s], counts[s] = sum(nats_of(model, i, 1) for i in ids), sum(len(i) - 1 for i in ids)
    bits = {s: nats[s] / math.log(2) / sum(len(t.encode()) for t in ts) for s, ts in texts.items()}
    assert math.isclose(metrics["bits per byte"]["value"], sum(bits.values()) / 2, rel_tol=1e-4)
    assert math.isclose(metrics["bits per byte: law"]["value"], bits["law"], rel_tol=1e-4)
    assert math.isclose(metrics["perplexity"]["value"], math.exp(sum(nats.values()) / sum(counts.values())), rel_tol=1e-3)
    assert metrics["perplexity"]["n"] == dict(texts=3, tokens=sum(counts.values())) and metrics["perplexity by word"]["n"]["words"] == 7

def test_examples_are_taken_evenly_and_missing_inputs_named(tmp_path):
    assert T.take_evenly(list(range(100)), 4) == [0, 25, 50, 75] and T.take_evenly([1, 2], 4) == [1, 2]
    (tmp_path/"a.train.jsonl").write_text('{"text": "שלום"}\n')
    with pytest.raises(UserError, match="no validation records"): T.Inputs(data=str(tmp_path)).texts
    (tmp_path/"a.valid.jsonl").write_text('{"text": " "}\n')
    with pytest.raises(UserError, match="hold no text"): T.Inputs(data=str(tmp_path)).texts

def test_continuations_begin_source_after_source():
    texts = dict(news=["אחת שתיים שלוש", "ארבע"], law=["חמש"])
    assert T.first_words(texts, 5, words=2) == ["אחת שתיים", "חמש", "ארבע", "חמש", "אחת שתיים"]

# --- tasks -----------------------------------------------------------------------------------------

def test_a_task_is_one_entry(place, monkeypatch):
    "Progress, report, table, headlines and page follow from the list."
    def count_letters(model, tok, prompts, inputs, tick):
        tick(len(prompts))
        return T.TaskResult({"letters": G.mean_metric([len(p) for p in prompts], "letters", "higher", "texts")}, dict(seen=prompts))
    own = T.Task("letters", lambda inputs: inputs.prompts, count_letters, ("letters",))
    monkeypatch.setattr(E, "EVALUATED", [*T.TASKS, own])
    result = evaluate(**arguments(place, "toy"))
    rows, progress = {r["metric"]: r for r in read_json(place/"toy"/"report.json")["rows"]}, read_json(place/"toy"/"progress.json")
    assert result["letters"]["better"] == "=" and list(rows["letters"]["cells"]) == ["base", "instruct"] and len(measured(place, "toy")["seen"]) == 3
    assert "| letters " in (place/"toy"/"report.md").read_text(encoding="utf8") and progress["done"] == progress["total"]
    monkeypatch.setattr(E, "EVALUATED", T.TASKS)
    plain, found = json.loads(json.dumps(alone(place, place/"base"))), measured(place, "toy")
    assert plain["metrics"] == {k: v for k, v in found["metrics"].items() if k != "letters"}

def test_the_metrics_are_those_of_the_parts(place):
    "What the list of tasks reports, and in which order, from the functions that it is made of."
    evaluate(**arguments(place, "one"))
    model, tok = loaded(place)
    inputs = T.Inputs(examples=str(place/"tuned"/"test.jsonl"))
    sources, scores = T.by_source(inputs.texts), M.score_texts(model, tok, [t["text"] for t in inputs.texts])
    answers, questions = M.score_answers(model, tok, inputs.test), sample_questions(5)
    right = [float(found["asked"] == q["answer_index"]) for q, found in zip(questions, B.choose(model, tok, questions))]
    metrics = measured(place, "one")["metrics"]
    names = ["bits per byte", *(f"bits per byte: {s}" for s in sources), "perplexity", "perplexity by word", "top-1", "top-5", "answers: perplexity", "answers: bits per byte",
             "repetition", "repetition of answers", "format kept", "pairs", *(f"pairs: {kind}" for kind in FRAMES)]
    assert list(metrics)[:len(names)] == names and {"instructions", "questions", "questions: choice"} <= set(metrics)
    found = [metrics[n]["value"] for n in ("perplexity", "top-5", "answers: perplexity")]
    expected = [scores.perplexity, scores.top5_accuracy, answers.perplexity]
    assert all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(found, expected))
    expected = dict(value=sum(right) / 5, unit="share right, chance 0.25", better="higher", n=dict(questions=5))
    for name in ("questions", "questions: choice"): assert {k: metrics[name][k] for k in expected} == expected
    assert all(m["low"] is None or m["low"] <= m["value"] <= m["high"] for m in metrics.values()) and all(m["n"] and m["items"] for m in metrics.values())

# --- the stage -------------------------------------------------------------------------------------

def test_a_bundle_against_itself_differs_in_nothing(place):
    evaluate(**arguments(place, "self", bundle=str(place/"base"), sft=str(place/"tuned")))
    rows, pairs = read_json(place/"self"/"report.json")["rows"], read_json(place/"self"/"exchanges.json")
    assert measured(place, "self") == measured(place, "self", "instruct")
    assert all(r["cells"]["instruct"] == r["cells"]["base"] | dict(verdict="=") for r in rows if "base" in r["cells"])
    assert pairs and all(e["base"] == e["instruct"] for e in pairs)

def test_the_same_twice_and_all_files(place):
    results = [evaluate(**arguments(place, run)) for run in ("one", "two")]
    assert results[0] == results[1] and list(results[0]) == T.headlines(E.EVALUATED)
    for name in ("report.json", "exchanges.json", "base.outputs.jsonl", "instruct.outputs.jsonl"): assert (place/"one"/name).read_bytes() == (place/"two"/name).read_bytes()
    for name in ("base", "instruct"): assert measured(place, "one", name) == measured(place, "two", name)
    assert measured(place, "one")["metrics"] != measured(place, "one", "instruct")["metrics"]
    seconds = read_json(place/"one"/"base.report.json")["seconds"]
    assert list(seconds)[:2] == ["texts", "answers"] and all(s >= 0 for s in seconds.values()) and f"{seconds['texts']:,.1f}" in (place/"one"/"report.md").read_text(encoding="utf8")
    progress = read_json(place/"one"/"progress.json")
    assert progress["done"] == progress["total"] > 0
    assert read_stamp(place/"one")["result"] == results[0]

def test_the_table_of_the_page_is_aligned(place):
    evaluate(**arguments(place, "one"))
    rows = read_json(place/"one"/"report.json")["rows"]
    page = (place/"one"/"report.md").read_text(encoding="utf8")
    for some in (R.measured_here(rows), R.measured_elsewhere(rows)):
        lines = R.side_table(some).split("\n")
        assert len({len(line) for line in lines}) == 1 and len(lines) == len(some) + 2
        assert R.side_table(some) in page
    assert all(name.endswith("*") or "*" not in name for r in rows for name in r["cells"]) and "HebrewGPT-1B*" in page

def test_an_evaluated_bundle_is_what_the_stage_says(place):
    evaluate(**arguments(place, "one"))
    found = json.loads(json.dumps(alone(place, place/"base")))
    assert {k: v for k, v in found.items() if k in measured(place, "one")} == measured(place, "one")
    assert found["outputs"] == read_jsonl(place/"one"/"base.outputs.jsonl")

def test_bad_test_examples_are_shown(place, tmp_path, capsys):
    (tmp_path/"test.jsonl").write_text((place/"tuned"/"test.jsonl").read_text(encoding="utf8") + '{"instruction": "מה?"}\n', encoding="utf8")
    evaluate(**arguments(place, "bad", sft=str(tmp_path)))
    assert measured(place, "bad")["bad_lines"] == {"no instruction or no output": 1}
    assert "evaluate: 1 lines put aside (no instruction or no output: 1); first" in capsys.readouterr().out
    assert "lines put aside: 1 no instruction or no output" in (place/"bad"/"report.md").read_text(encoding="utf8")

def test_per_token_metrics_of_two_tokenizers_are_not_compared():
    few, many = (G.make_metric(p, "per token", "lower", dict(tokens=n)) for p, n in ((20., 100), (10., 150)))
    assert R.compare_metrics(few, many) == "?" and R.compare_metrics(few, few | {"value": 10.}) == "▲"

def test_any_two_bundles_and_any_text(place, tmp_path):
    "A base with another tokenizer and a short context, one short validation text, bfloat16."
    train_tokenizer([r["text"] for r in read_records(sample_dir()/"pretrain")], tmp_path/"tokenizer.model", vocab_size=700)
    save_bundle(fill(HebrewGPT(get_preset("tiny", vocab_size=700, context=32, pattern="A")), 5).eval(), Tokenizer(tmp_path/"tokenizer.model"), tmp_path/"short"/"bundle")
    (tmp_path/"data").mkdir()
    (tmp_path/"data"/"news.valid.jsonl").write_text('{"text": "שלום"}\n', encoding="utf8")
    result = evaluate(**arguments(place, "any", base=str(tmp_path/"short"), data=str(tmp_path/"data"), examples=4, generations=1, max_new_tokens=1, seed=7, dtype="bfloat16"))
    page, found = (place/"any"/"report.md").read_text(encoding="utf8"), {name: measured(place, "any", name) for name in ("base", "instruct")}
    assert "questions" not in result and not any(name.startswith("questions") for name in found["base"]["metrics"]) and "questions" in found["instruct"]["metrics"] and result["perplexity"]["better"] in "?▲▼="
    assert found["base"]["context"] == found["instruct"]["context"] == 32 and found["base"]["metrics"]["bits per byte"]["n"] == dict(sources=1, texts=1, bytes=8)
    assert "- not measured: questions: choice, all 4 questions are longer than the context" in page and "- not measured: questions, no group of them has a figure" in page

def test_what_a_report_does_not_explain_is_refused():
    one = dict(metrics={"perplexity": G.make_metric(2., "per token", "lower", dict(tokens=9))}, left_out={})
    two = dict(metrics=one["metrics"] | {"bits per byte: law": G.make_metric(2., "bits/byte", "lower", dict(bytes=9))}, left_out={})
    with pytest.raises(UserError, match=r"different metrics \(bits per byte: law\)"): E.check_explained(one, two)
    E.check_explained(one | {"left_out": {"bits per byte: law": "no reason"}}, two)

def test_what_is_not_given_is_trained_below_the_run(place):
    evaluate(**arguments(place, "trained", bundle="", examples=4, generations=1))
    assert E.model_context(place/"trained"/"instruct") == 256 and (place/"trained"/"instruct"/"test.jsonl").exists()
    assert measured(place, "trained", "instruct")["metrics"]["answers: perplexity"]["n"]["examples"] == 4

# --- intervals, and any model ----------------------------------------------------------------------

@pytest.mark.parametrize("values", [[1.] * 14 + [0.] * 26, [.1, .5, .9, .3, .7, .2] * 5])
def test_an_interval_is_that_of_scipy(values):
    bootstrap = pytest.importorskip("scipy.stats").bootstrap
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=1).confidence_interval
    metric = G.mean_metric(values, "share", "higher", "questions")
    assert metric["low"] == pytest.approx(theirs.low, abs=.03) and metric["high"] == pytest.approx(theirs.high, abs=.03)

def test_an_oracle_is_above_a_guesser_and_equals_itself():
    right, chance = [1.] * 200, [float(i % 4 == 0) for i in range(200)]
    oracle, guesser = (dict(model=dict(name=n, kind="bundle"), metrics={"m": G.mean_metric(v, "share right", "higher", "questions")}) for n, v in (("oracle", right), ("guesser", chance)))
    rows = R.side_by_side([guesser, oracle, guesser])
    assert [c["verdict"] for c in rows[0]["cells"].values()] == ["", "▲", "="]
    low, value = (rows[0]["cells"]["oracle"][k] for k in ("low", "value"))
    assert value == 1 and .98 < low < 1 and guesser["metrics"]["m"]["low"] < .25 < guesser["metrics"]["m"]["high"]

def test_one_model_beside_others_from_another_folder(place, tmp_path, monkeypatch):
    "A model alone, beside a run of a pair; the same wherever the command is given."
    given = arguments(place, "alone", base="", bundle="", model=str(place/"tuned"), beside=str(place/"one"), sft=str(place/"tuned"))
    evaluate(**arguments(place, "one"))
    result = evaluate(**given)
    cells = next(r["cells"] for r in read_json(place/"alone"/"report.json")["rows"] if r["metric"] == "questions")
    assert list(cells) == [name := f"{place.name}-tuned", "base", "instruct", "HebrewGPT-1B-Instruct*"] and cells["instruct"]["verdict"] == "=" and cells["HebrewGPT-1B-Instruct*"]["verdict"] == ""
    assert result["questions"] == cells[name]["value"] == cells["instruct"]["value"]
    monkeypatch.chdir(tmp_path)
    assert evaluate(**given | dict(run=str(tmp_path/"run"))) == result

def test_what_an_audit_refuses_has_no_score(place, tmp_path):
    "Labels turned round, and questions that the model was tuned on."
    words = [("הצגה מדהימה ומעולה", "שלילי"), ("שירות גרוע ונורא", "חיובי")]
    rows = [dict(id=str(n), text=f"{text} {n} {'אב' * n}", label=label) for n, (text, label) in enumerate(words * 12)]
    for name, label in (("inverted", lambda l: l), ("right", lambda l: dict(שלילי="חיובי", חיובי="שלילי")[l])):
        (tmp_path/name).mkdir()
        (tmp_path/name/"sentiment_films_dev.jsonl").write_text("".join(json.dumps(r | dict(label=label(r["label"]))) + "\n" for r in rows))
    found = {name: alone(place, place/"base", tests=str(tmp_path/name)) for name in ("inverted", "right")}
    assert "sentiment: films" in found["right"]["metrics"] and "sentiment: films" not in found["inverted"]["metrics"]
    assert "inverted" in found["inverted"]["left_out"]["sentiment: films"]
    asked = [dict(instruction="איזו נכונה?", input=item_text(q), output=q["choices"][0]) for q in sample_questions(5)]
    (tmp_path/"learned.jsonl").write_text("".join(json.dumps(e) + "\n" for e in asked))
    known = alone(place, place/"base", training=(str(tmp_path/"learned.jsonl"),))
    assert not any(name.startswith("questions") for name in known["metrics"]) and "refused" in known["left_out"]["questions: choice"]

def test_an_older_report_is_still_read(place, tmp_path):
    "One with the row `choices`, which is `questions` now."
    own = alone(place, place/"base")
    older = own | dict(metrics={name.replace("questions", "choices"): m for name, m in own["metrics"].items()})
    R.save_report(tmp_path/"older", "base", older)
    beside = [R.read_report(p) for p in R.find_reports(str(tmp_path/"older"))]
    rows = E.write_reports(tmp_path, dict(model=E.named("model", own)), [b | dict(model=b["model"] | dict(name="older")) for b in beside])
    cells = {r["metric"]: r["cells"] for r in rows}
    assert list(cells["choices"]) == ["older"] and list(cells["questions"]) == ["model", "HebrewGPT-1B-Instruct*"] and cells["pairs"]["older"]["verdict"] == "="
    assert "| choices" in R.side_table(R.measured_here(rows)) and "| questions" in R.side_table(R.measured_elsewhere(rows))

@pytest.mark.parametrize("content, message", [("{", "not valid JSON"), ('{"model": {"name": "a"}}', "missing"), ("[]", "expected dict")])
def test_a_report_that_is_none_is_named(place, tmp_path, content, message):
    (tmp_path/"a.report.json").write_text(content)
    with pytest.raises(UserError, match="a.report.json") as e: evaluate(**arguments(place, "beside", beside=str(tmp_path)))
    assert message in str(e.value) and "\n" not in str(e.value)

@pytest.mark.parametrize("changes, message", [
    (dict(base="runs/nowhere"), "base is runs/nowhere: no such file or folder"), (dict(sft="PLACE/base"), "no test.jsonl there"),
    (dict(bundle="PLACE/base"), "holds no test.jsonl"), (dict(base="PLACE"), "no bundle there"), (dict(generations=0), "generations is 0"), (dict(examples=0), "examples is 0"),
    (dict(model="runs/nowhere"), "model is runs/nowhere: no such file or folder"), (dict(model="http://localhost:1/v1"), "give its name behind a #"), (dict(tests="PLACE/tuned/test.jsonl"), "unknown task"),
    (dict(beside="PLACE/base"), "holds no report"), (dict(tests="PLACE/none.jsonl"), "none.jsonl"), (dict(tests="PLACE/tuned"), "holds no file of a task"), (dict(choices="PLACE/choices_few.jsonl"), "unknown parameter choices"), (dict(data="PLACE/none"), "no such file or folder"), (dict(device="gpu"), "choose one of auto, cpu, cuda")])
def test_wrong_parameters_are_one_line(place, changes, message):
    given = {k: v.replace("PLACE", str(place)) if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises(UserError) as e: evaluate(**arguments(place, "wrong", **given))
    assert message in str(e.value) and "\n" not in str(e.value)

@pytest.mark.parametrize("args, message", [(["--steps", "3"], "unrecognized arguments: --steps 3"), (["--base", "runs/nowhere"], "error: base is runs/nowhere: no such file or folder")])
def test_the_command_line_names_what_is_wrong(place, args, message):
    done = subprocess.run([sys.executable, "-m", "hebrewgpt_nb.evaluate", "--run", str(place/"cli"), *args], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 2 and message in done.stderr.strip().split("\n")[-1] and "Traceback" not in done.stderr
