"Benchmarks: known answers score what they must, others' libraries agree, and what is not sound has no score."
import json, random
import pandas as pd, pytest
from rapidfuzz import fuzz, process
from sacrebleu.metrics import BLEU, CHRF
import hebrewgpt_nb.benchmarks as B, hebrewgpt_nb.constraints as C, hebrewgpt_nb.grading as G, hebrewgpt_nb.references as R
from hebrewgpt_nb.core import UserError, read_jsonl, sample_dir
from hebrewgpt_nb.intervals import figure
from hebrewgpt_nb.grammar.exercises import exercises
from hebrewgpt_nb.instructions.choices import letter_choices
from hebrewgpt_nb.metrics import Scores, choice_scores
from hebrewgpt_nb.model import HebrewGPT, get_preset
from hebrewgpt_nb.tasks import Inputs, count_items, measure, run_task
from hebrewgpt_nb.text.records import Quarantine, read_records, write_records
from hebrewgpt_nb.tokenizer import Tokenizer, train_tokenizer
from conftest import fill

OPEN = sample_dir().with_name("open")
FOLLOW, PROMPTS = ([r["instruction"] for r in read_jsonl(OPEN/"eval"/name)] for name in ("follow.jsonl", "prompts.jsonl"))
LABELS = {k.stem: k for k in B.LABELLINGS}

class Likes:
    "A model that likes what `taste` says, and writes what `says` says."
    def __init__(self, taste=None, says=lambda p: ""): self.taste, self.says = taste, says

@G.score_requests.register(Likes)
def _(model, tok, requests, tick=lambda n: None):
    tick(len(requests))
    return [Scores(nats=-float(model.taste(p, text)), bytes=len(text.encode())) for p, text in requests]

@G.write_texts.register(Likes)
def _(model, tok, prompts, max_new_tokens, tick=lambda n: None):
    tick(len(prompts))
    return [G.Completion(model.says(p), "stop") for p in prompts]

@pytest.fixture(scope="module")
def small(tmp_path_factory):
    "A model and a tokenizer."
    path = tmp_path_factory.mktemp("benchmarks")/"tokenizer.model"
    tok = Tokenizer(train_tokenizer([r["text"] for r in read_records(sample_dir()/"pretrain")], path, vocab_size=1024))
    return fill(HebrewGPT(get_preset("tiny", vocab_size=1024)), 0).eval(), tok

def rows(n, labels, seed=0): # made-up comments without a word of praise or blame
    rng = random.Random(seed)
    return [dict(id=str(i), group="g", cluster=str(i), input=f"דבר {i} {rng.random()}", part=f"חלק {i}", label=rng.choice(labels)) for i in range(n)]

# --- prompts of the project ------------------------------------------------------------------------

def test_the_sets_are_as_large_as_they_say():
    followed = C.read_followed(quarantine=(aside := Quarantine()))
    assert not aside and len(followed) >= 150 and all(1 <= len(f["constraints"]) <= 3 for f in followed)
    opened = B.read_open(Inputs(generations=500))
    assert len(opened) == 200 and [p["showcase"] for p in opened] == [True] * 20 + [False] * 180
    assert len({p["id"] for p in followed + opened}) == len(followed + opened) == len(set(FOLLOW + PROMPTS))

def test_no_prompt_is_in_training():
    "Nor nearly, letter by letter and with its words in another order, in the open set, the sample or the exercises."
    files = [*OPEN.glob("sft/*.jsonl"), *(sample_dir()/"sft").glob("*.jsonl"), OPEN/"eval"/"open.jsonl"]
    shown = [text for f in files for r in read_jsonl(f) for text in ([m["content"] for m in r["messages"]] if "messages" in r else [r["instruction"], r["input"]])]
    shown += [text for e in exercises(200) for text in (e["instruction"], e["input"])]
    short = [t for t in {t.replace("\n", " ").strip()[:120] for t in shown} if len(t.split()) > 1]
    assert len(short) > 8_000
    for scorer in (fuzz.ratio, fuzz.token_sort_ratio):
        alike = process.cdist(FOLLOW + PROMPTS, short, scorer=scorer, score_cutoff=80, dtype="uint8")
        assert alike.max() == 0, [(FOLLOW + PROMPTS)[i] for i in alike.max(1).nonzero()[0]]

# --- constraints -----------------------------------------------------------------------------------

@pytest.mark.parametrize("constraint, good, bad", [
    (dict(kind="words", least=2, most=3), "אחת שתיים.", "אחת שתיים שלוש ארבע"),
    (dict(kind="sentences", least=2, most=2), "הוא בא. ״מי?״", "הוא בא, והלך."),
    (dict(kind="paragraphs", least=2, most=2), "א ב\n\nג ד", "א ב\nג ד"),
    (dict(kind="items", count=2, style="bulleted"), "הנה:\n- א\n* ב", "- א"),
    (dict(kind="items", count=2, style="numbered"), "1. א\n2) ב", "- א\n- ב"),
    (dict(kind="contains", words=["ספר"]), "קראתי בַּסֵּפֶר", "המספרים"),
    (dict(kind="lacks", words=["חם"]), "לחם טרי", "היה חם"),
    (dict(kind="times", word="גשם", least=2), "גשם, ובגשם", "גשם"),
    (dict(kind="order", words=["א", "ב"]), "א ואז ב", "ב ואז א"),
    (dict(kind="begins", phrase="יום אחד"), "\"יום אחד, בא", "ביום אחד בא"),
    (dict(kind="ends", phrase="סוף"), "בא סוף!", "בסוף"),
    (dict(kind="letters", letters=["ג", "ש"]), "1. גן\n2. שדה", "גן\nבית"),
    (dict(kind="last_sign", sign="?"), "מי?", "מי? אני"),
    (dict(kind="no_signs", signs="0123456789"), "שבע", "7"),
    (dict(kind="quoted"), "„שלום”", "״שלום״ לך"),
    (dict(kind="json", keys=["א"]), "{\"א\": [1]}", "{\"א\": 1, \"ב\": 2}"),
    (dict(kind="one_of", options=["כן", "לא"]), "״לא״.", "לא יודע"),
    (dict(kind="sorted"), "- ארץ\n- ארק", "ב\nא"),
    (dict(kind="title"), "<<ערב>>\nבא", "< <ערב> >"),
    (dict(kind="parts", least=2, most=2), "א\n***\nב", "א\n---\nב"),
    (dict(kind="placeholders", least=1), "ביום [יום]", "ביום []"),
    (dict(kind="language", language="English"), "Good day", "יום טוב"),
    (dict(kind="only_hebrew"), "יום 5", "יום X")])
def test_each_constraint_tells_right_from_wrong(constraint, good, bad):
    assert C.constraint_fault(constraint) is None
    assert C.follows(good, constraint) and not C.follows(bad, constraint)
    assert not any(C.follows(nothing, constraint) for nothing in ("", " \n", "...", "``` ```"))

def test_loose_is_never_below_strict_and_forgives_what_it_says():
    for f in C.read_followed(quarantine=Quarantine())[::5]:
        for answer in (f["example"], f"בשמחה!\n{f['example']}", f"{f['example']}\nבהצלחה.", f"**{f['example']}**", "לא יודע"):
            graded = C.grade(answer, f["constraints"])
            assert all(loose >= strict for strict, loose in zip(graded["strict"], graded["loose"]))
        if "***" not in f["example"]: assert all(C.grade(f"בשמחה!\n{f['example']}\nבהצלחה.", f["constraints"])["loose"])

@pytest.mark.parametrize("change, reason", [
    (dict(instruction=""), "no instruction"), (dict(example=None), "no example"), (dict(constraints=[]), "no constraints"),
    (dict(constraints=[dict(kind="odd")]), "unknown kind"), (dict(constraints=[dict(kind="ends")]), "missing a required argument"),
    (dict(constraints=["words"]), "unknown kind"), (dict(example="אחת שתיים"), "does not keep to it")])
def test_a_bad_prompt_is_put_aside_with_a_reason(tmp_path, change, reason):
    good = dict(id="1", instruction="מילה?", constraints=[dict(kind="words", most=1)], example="כן")
    write_records(tmp_path/"follow.jsonl", [good, good | change])
    assert len(C.read_followed(tmp_path/"follow.jsonl", aside := Quarantine())) == 1
    assert reason in aside[0]["reason"]

# --- others' libraries agree -----------------------------------------------------------------------

def random_words(rng, words="הילד הלך אל בית הספר בבוקר עם אחותו ואמא שלו".split()): return " ".join(rng.choices(words, k=rng.randint(1, 12)))

def test_chrf_and_bleu_are_sacrebleu_s():
    rng = random.Random(0)
    for _ in range(20):
        outputs, golds = ([random_words(rng) for _ in range(9)] for _ in range(2))
        for name, metric in (("chrF", CHRF()), ("BLEU", BLEU())):
            tally = R.translation_tally(name, outputs, golds, map(str, range(9)))
            assert abs(figure(tally) - metric.corpus_score(outputs, [golds]).score) < 1e-9

def test_f1_is_that_of_plain_counting():
    "An F1 written another way: words crossed out one by one."
    rng = random.Random(1)
    for _ in range(300):
        a, g = random_words(rng), random_words(rng)
        left, both = g.split(), 0
        for word in a.split():
            if word in left:
                left.remove(word)
                both += 1
        assert R.token_f1(a, g) == pytest.approx(2 * both / (len(a.split()) + len(g.split())))
        assert R.exact_match(a, g) <= R.token_f1(a, g) <= 1 and (both == 0 or R.tlnls(a, g) > 0)

def plain_distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, before = [i], row
        for j, y in enumerate(b, 1): row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
    return row[-1]

def test_tlnls_is_that_of_a_plain_loop():
    rng = random.Random(2)
    for _ in range(60):
        a, g = random_words(rng).split(), random_words(rng).split()
        def side(one, other): return sum(max(1 - plain_distance(x, y) / max(len(x), len(y)) for y in other) for x in one) / len(one)
        p, r = side(a, g), side(g, a)
        assert R.tlnls(" ".join(a), " ".join(g)) == pytest.approx(2 * p * r / (p + r) if p + r else 0)

def test_requests_are_scored_as_alone_and_written_as_alone(small):
    model, tok = small
    asked = [dict(instruction="מה?", input=f"שאלה {n}") for n in range(3)] + ["בוקר", "א" * 900]
    texts = ["כן", "לא, ודאי שלא", "אולי מחר בבוקר נצא יחד לדרך ארוכה מאוד ונחזור בערב"]
    requests = [(p, t) for p in asked for t in texts] + [(asked[0], "לבד")]
    found, done = G.score_requests(model, tok, requests, (ticks := []).append), len(requests)
    assert sum(ticks) == done and [f is None for f in found] == [p == "א" * 900 for p, _ in requests]
    for (p, t), f in zip(requests, found):
        if f: assert f.nats == pytest.approx(choice_scores(model, tok, G.prompt_ids(tok, p), [t])[0].nats, rel=1e-4)
    written = G.write_texts(model, tok, asked, 12)
    assert written == [*(G.complete(model, tok, G.prompt_ids(tok, p), 12) for p in asked[:4]), G.TOO_LONG]

# --- known answers ---------------------------------------------------------------------------------

def test_an_oracle_is_always_right():
    inputs = Inputs(limit=50, generations=200)
    gold = {f["instruction"]: f["example"] for f in C.read_followed(quarantine=Quarantine())}
    questions, passages, pairs = B.read_questions(inputs), B.read_passages(inputs), B.read_translations(inputs)
    told = {B.ask(q)["input"]: (letter_choices(q["choices"])[q["answer_index"]], q["choices"][q["answer_index"]]) for q in questions}
    gold |= {B.reading_prompt(q)["input"]: q["answers"][0] for q in passages} | {r["input"]: r["gold"] for r in pairs}
    for kind in B.LABELLINGS: told |= {r["input"]: (r["label"],) for r in B.read_labelled(kind, inputs)}
    def says(p): return told[p["input"]][0] if p.get("input") in told else gold[p.get("input") or p["instruction"]]
    oracle = Likes(lambda p, text: text in told.get(p["input"], ()), says)
    for task in B.BENCHMARKS:
        if task.name == "open prompts": continue
        found = run_task(task, oracle, None, task.read(inputs), inputs)
        assert found.metrics and not found.left_out
        values = {name: m["value"] for name, m in found.metrics.items() if not name.endswith(("(options only)", "(shuffled passage)", "(hypothesis only)"))}
        top = 100 if task.name == "translation" else 1
        assert values == dict.fromkeys(values, pytest.approx(top)), task.name

@pytest.mark.parametrize("stem", LABELS)
def test_who_guesses_labels_is_at_chance_and_who_never_changes_at_the_majority(stem):
    kind, rng = LABELS[stem], random.Random(3)
    items = rows(400, kind.labels)
    found = B.measure_labels(kind, Likes(lambda p, text: rng.random()), None, items, Inputs(), stem).metrics
    for name in (stem, f"{stem} (balanced)", f"{stem} (length-normalised)"): assert found[name]["low"] <= 1 / len(kind.labels) <= found[name]["high"]
    always = B.measure_labels(kind, Likes(lambda p, text: text == kind.labels[0]), None, items, Inputs(), stem).metrics
    share = sum(r["label"] == kind.labels[0] for r in items) / 400
    assert always[stem]["value"] == pytest.approx(share) and always[f"{stem} (balanced)"]["value"] == pytest.approx(1 / len(kind.labels))

def test_who_guesses_choices_is_at_chance_in_every_reading():
    rng = random.Random(4)
    questions = [dict(id=str(n), group="g", category="c", passage="", question=f"שאלה {n}", choices=[f"{c}{n}" for c in "אבגד"], answer_index=rng.randrange(4)) for n in range(600)]
    found = B.measure_choices(Likes(lambda p, text: rng.random(), lambda p: rng.choice("אבגד")), None, questions, Inputs(), "q").metrics
    assert len(found) == 5 and all(m["low"] <= .25 <= m["high"] and "chance 0.25" in m["unit"] for m in found.values())
    first = B.measure_choices(Likes(lambda p, text: "א" in text, lambda p: "א."), None, questions, Inputs(), "q").metrics
    share = sum(q["answer_index"] == 0 for q in questions) / 600
    assert first["q"]["value"] == first["q (written)"]["value"] == pytest.approx(share)

def test_the_controls_catch_who_does_not_read():
    "Who knows the answer by its form is as good without the question; who reads is not, with another's passage."
    passages = B.passage_questions(Inputs())
    gold = {"\n".join(letter_choices(q["choices"])): q["choices"][q["answer_index"]] for q in passages}
    def by_form(p, text): return text.split(". ")[-1] == gold["\n".join(p["input"].split("\n")[-4:])]
    form = B.measure_choices(Likes(by_form), None, passages, Inputs(), "q").metrics
    assert form["q"]["value"] == form["q (options only)"]["value"] == form["q (shuffled passage)"]["value"] == 1
    reader = B.measure_choices(Likes(lambda p, text: text.split(". ")[-1] in p["input"].split("\n")[0]), None, passages, Inputs(), "q").metrics
    assert reader["q"]["value"] > reader["q (options only)"]["value"] and reader["q"]["value"] > reader["q (shuffled passage)"]["value"]

def test_inference_from_the_hypothesis_alone_shows_in_its_control():
    kind, inputs = LABELS["nli"], Inputs()
    items = [r | dict(id=f"{r['id']} {n}", input=f"משפט 1: {n}\n{r['part']} {n}", part=f"{r['part']} {n}") for r in B.read_labelled(kind, inputs) for n in range(20)]
    heard, whole = ({r[k]: r["label"] for r in items} for k in ("part", "input"))
    def share(knows, way=""): return B.measure_labels(kind, Likes(knows), None, items, inputs, "nli").metrics[f"nli{way}"]
    assert share(lambda p, text: heard.get(p["input"].split("\n")[-1]) == text, " (hypothesis only)")["value"] == 1
    compares = share(lambda p, text: whole.get(p["input"]) == text, " (hypothesis only)"), share(lambda p, text: whole.get(p["input"]) == text)
    assert compares[0]["value"] < .5 and compares[1]["value"] == 1 and compares[0]["n"] == compares[1]["n"]
    assert not any("only" in name for name in B.measure_labels(LABELS["idioms"], Likes(lambda p, t: 1), None, rows(20, LABELS["idioms"].labels), inputs, "x").metrics)

def test_one_word_answers_buy_no_repetition_rate():
    opened = B.read_open(Inputs(generations=40))
    short, looping = (B.measure_open(Likes(says=lambda p: text), None, opened, Inputs()) for text in ("כן.", "הוא הלך הביתה " * 20))
    assert set(short.left_out) == {"open prompts: loops", "open prompts: repetition"} and short.metrics["open prompts: long enough"]["value"] == 0
    assert looping.metrics["open prompts: loops"]["value"] == 1 and looping.metrics["open prompts: repetition"]["value"] > .9
    assert [o["showcase"] for o in looping.outputs] == [True] * 20 + [False] * 20

# --- audits ----------------------------------------------------------------------------------------

def sentiment_file(folder, flip=False, copies=0):
    turned = {"חיובי": "שלילי", "שלילי": "חיובי"}
    items = [r | dict(label=turned.get(r["label"], r["label"]) if flip else r["label"]) for r in read_jsonl(sample_dir()/"eval"/"sentiment_sample.jsonl")]
    write_records(folder/"sentiment_own.jsonl", items + items[:copies])
    return folder

def test_one_label_alone_is_refused_where_there_are_enough_items(): # a sample of few may be so by chance
    kind = LABELS["idioms"]
    for n, refused in ((49, False), (50, True)):
        items = [r | dict(label="ציורי") for r in rows(n, kind.labels)]
        found = B.run_groups("idioms", lambda *a: B.measure_labels(kind, *a), Likes(lambda p, t: 1), None, items, Inputs())
        assert ("have the same right answer" in str(found.left_out)) is refused

@pytest.mark.parametrize("made, why", [(dict(flip=True), "the labels are inverted"), (dict(copies=2), "2 of 17 items repeat another")])
def test_unsound_labels_have_no_score(tmp_path, small, made, why):
    inputs = Inputs(tests=str(sentiment_file(tmp_path, **made)), generations=2, max_new_tokens=4, long_tokens=4)
    report = measure(*small, inputs, tasks=B.BENCHMARKS)
    assert not [name for name in report["metrics"] if name.startswith("sentiment")]
    assert why in report["left_out"]["sentiment: own"] and "refused" in report["left_out"]["sentiment: own"]

def test_who_was_trained_on_the_test_has_no_score(tmp_path, small):
    planted = read_jsonl(sample_dir()/"eval"/"sentiment_sample.jsonl")[3]["text"]
    write_records(tmp_path/"train.jsonl", [dict(instruction="מה דעתכם?", input=f"תגובה: {planted}", output="חיובי"), dict(instruction=FOLLOW[7], input="", output="טוב")])
    pd.DataFrame(read_jsonl(tmp_path/"train.jsonl")).to_csv(tmp_path/"train.csv", index=False)
    kind, other = LABELS["sentiment"], str(sample_dir()/"sft")
    for training, refused in (((), False), ((other,), False), ((str(tmp_path/"train.jsonl"),), True), ((other, str(tmp_path/"train.csv")), True)):
        inputs = Inputs(training=training, generations=20)
        found = run_task(next(t for t in B.BENCHMARKS if t.name == "sentiment"), Likes(lambda p, t: len(t)), None, B.read_labelled(kind, inputs), inputs)
        assert bool(found.metrics) is not refused and ("items are in" in str(found.left_out)) is refused
        followed = run_task(B.BENCHMARKS[0], Likes(), None, B.followed_items(inputs), inputs)
        assert ("items are in" in str(followed.left_out)) is refused

@pytest.mark.parametrize("name, row, reason", [
    ("qa_x.jsonl", dict(context="קטע", question="מה?", answers=[]), "no answer"),
    ("nli_x.jsonl", dict(premise="א", hypothesis="ב"), "label is None"),
    ("multiple_choice_x.jsonl", dict(question="מה?", choices=["א", "ב"]), "answer_index names no choice"),
    ("multiple_choice_x.jsonl", dict(question="מה?", choices=["א", "ב\ud800"], answer_index=0), "choices is not Unicode (half a surrogate pair)"),
    ("translation_x.jsonl", dict(he="שלום"), "no he or no en")])
def test_an_item_without_gold_is_put_aside(tmp_path, name, row, reason):
    stem = name.split("_x")[0]
    good = read_jsonl(sample_dir()/"eval"/("choices.jsonl" if stem == "multiple_choice" else f"{stem}_sample.jsonl"))[0]
    (tmp_path/name).write_text("\n".join(json.dumps(r) for r in (good, row)), encoding="utf8")
    inputs = Inputs(tests=str(tmp_path))
    for task in B.BENCHMARKS: task.read(inputs)
    assert inputs.quarantine and all(reason in q["reason"] for q in inputs.quarantine)

def test_a_file_of_no_task_is_one_clear_line(tmp_path):
    write_records(tmp_path/"poems.jsonl", [dict(text="שיר")])
    with pytest.raises(UserError, match="poems.jsonl: unknown task; begin its name with one of"): B.BENCHMARKS[3].read(Inputs(tests=str(tmp_path/"poems.jsonl")))
    with pytest.raises(UserError, match="holds no file of a task; begin a name with one of"): B.BENCHMARKS[3].read(Inputs(tests=str(tmp_path)))

# --- a model of the project ------------------------------------------------------------------------

def test_a_small_model_is_measured_on_everything(small, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path) # from another folder it is the same
    inputs, ticks = Inputs(limit=4, generations=4, max_new_tokens=8, long_tokens=8), []
    report = measure(*small, inputs, ticks.append, tasks=B.BENCHMARKS)
    assert sum(ticks) == count_items(inputs, B.BENCHMARKS)
    for task in B.BENCHMARKS: assert any(name.startswith(task.name) for name in [*report["metrics"], *report["left_out"]])
    json.dumps(report["metrics"])
