"The open set is whole and its held-out part unseen; choice questions are fair; tasks are mixed by weight, the same after an interruption."
import json, random, re
from collections import Counter
import pytest, torch
from hypothesis import given, settings, strategies as st
from rapidfuzz import fuzz, process
from hebrewgpt_nb.bundle import save_bundle
from hebrewgpt_nb.core import UserError, find_input, read_jsonl
from hebrewgpt_nb.grading import parse_question
from hebrewgpt_nb.instructions.choices import CHOICE_WORDINGS, make_choices, parse_qa
from hebrewgpt_nb.instructions.mix import TASKS, draw_epoch, readings
from hebrewgpt_nb.instructions.sets import copy_groups, hold_out, item_texts
from hebrewgpt_nb.sft import ExampleBatches, answer_tokens, curriculum, sft
from hebrewgpt_nb.text.copies import HeldOut, overlap_mask, word_hashes
from hebrewgpt_nb.text.records import Quarantine, read_checked, write_records
from conftest import VOCAB, small

OPEN = find_input("open")
TRAIN = [e for n in (1, 2) for e in read_jsonl(OPEN/"sft"/f"phase{n}.jsonl")]
HELD = read_jsonl(OPEN/"eval"/"open.jsonl")


# --- the open set ------------------------------------------------------------------------------------------------

def test_the_open_set_is_whole():
    everything = TRAIN + HELD
    assert len({e["id"] for e in everything}) == len(everything)
    for e in everything:
        assert e["license"] == "Apache-2.0" and e["phase"] in (1, 2) and e["task"] in TASKS and e["kind"]
        texts = [m["content"] for m in e["messages"]] if "messages" in e else [e["instruction"], e["output"]]
        assert all(t.strip() == t and t for t in texts)
    for n in (1, 2): assert {e["phase"] for e in read_jsonl(OPEN/"sft"/f"phase{n}.jsonl")} == {n}
    for e in everything:
        if "messages" in e: assert [m["role"] for m in e["messages"]] == ["user", "assistant"] * (len(e["messages"]) // 2)
        else: assert e["input"].strip() != e["output"]
    said = [int(n.replace(",", "")) for n in re.findall(r"\((\d[\d,]*)|its (\d+) choice", (OPEN/"README.md").read_text(encoding="utf8")) for n in n if n]
    assert said == [len(read_jsonl(OPEN/"sft"/"phase1.jsonl")), len(read_jsonl(OPEN/"sft"/"phase2.jsonl")), len(HELD), len(read_checked(OPEN/"eval"/"choices.jsonl", parse_question))]

def test_what_is_held_out_is_what_the_rule_holds_out():
    shuffled = random.Random(1).sample(TRAIN + HELD, len(TRAIN + HELD))
    assert {e["id"] for e in hold_out(shuffled)[1]} == {e["id"] for e in HELD}

def test_training_has_nothing_of_what_is_held_out():
    "Neither a question nor an answer of it, exactly, nor nearly: letter by letter, as rapidfuzz compares."
    for which in (0, 2): # what is asked, and what is answered
        train, held = ([item_texts(e)[which].replace("\n", " ").strip()[:120] for e in some] for some in (TRAIN, HELD))
        held = [t for t in held if len(t.split()) > 7]
        assert len(held) > 100 and not set(train) & set(held)
        alike = process.cdist(held, train, scorer=fuzz.ratio, score_cutoff=80, dtype="uint8").max()
        assert alike == 0, alike
    asked = {(e["instruction"], e["input"]) for e in TRAIN if "output" in e}
    assert not asked & {(e["instruction"], e["input"]) for e in HELD if "output" in e}
    inputs = {e["input"] for e in TRAIN if e.get("input")}
    assert not inputs & {e["input"] for e in HELD if e.get("input")}

def test_no_held_out_answer_is_quoted_in_training():
    held = HeldOut([e["output"] for e in HELD if "output" in e and len(e["output"].split()) > 12])
    quoting = [e["id"] for e in TRAIN if "output" in e and overlap_mask(word_hashes(e["output"]), held).any()]
    assert quoting == []

def test_copies_are_kept_together_whatever_their_order():
    def item(instruction, input="", output="כן"): return dict(instruction=instruction, input=input, output=output)
    passage = "נועה שכחה את המטרייה באוטובוס, ובערב ירד גשם חזק והיא חזרה הביתה רטובה."
    about = [item(f"{word} נועה?", passage, word) for word in ("מה שכחה", "איך חזרה", "מתי חזרה")]
    others = [item(f"ספרו על {n} {what}.", output=f"{n} {what} באו.") for n in ("שני", "שלושה", "ארבעה") for what in ("דובים", "סוסים")]
    examples = random.Random(0).sample(about + others, 9)
    groups = copy_groups(examples)
    assert len({groups[examples.index(e)] for e in about}) == 1 and len(set(groups)) == 7

def test_the_open_set_is_read_by_its_name():
    aside = Quarantine()
    phases = curriculum("open", "", "", aside)
    answered = [[e for e in TRAIN if e["phase"] == n and "output" in e] for n in (1, 2)]
    assert [len(p) for p in phases] >= [len(p) for p in answered]
    assert {e["instruction"] for p in answered for e in p} <= {e["instruction"] for p in phases for e in p}


# --- choice questions --------------------------------------------------------------------------------------------

NAMES, PLACES = "דן רינה גלי נועם תמר יואב שירה עמית".split(), "חיפה עכו צפת לוד יפו ערד אילת רמלה".split()

@st.composite
def qa(draw):
    "A passage, and questions about who, where and how many."
    chosen = draw(st.integers(0, 10_000))
    rng = random.Random(chosen)
    people, places, counts = rng.sample(NAMES, 4), rng.sample(PLACES, 4), rng.sample(range(2, 90), 4)
    context = " ".join(f"{who} נסע אל {where} עם {n} ספרים." for who, where, n in zip(people, places, counts))
    return [dict(context=context, question=q, answers=[a]) for who, where, n in zip(people, places, counts)
            for q, a in ((f"מי נסע אל {where}?", who), (f"לאן נסע {who}?", where), (f"כמה ספרים היו אצל {who}?", f"{n} ספרים"))]

@settings(max_examples=8, deadline=None)
@given(st.lists(qa(), min_size=1, max_size=4), st.integers(0, 5))
def test_made_choice_questions_are_fair(passages, seed):
    questions = [q for some in passages for q in some]
    made = make_choices(questions, seed)
    assert make_choices(questions, seed) == made and len(made) >= .9 * len(questions)
    letters = Counter(e["output"][0] for e in made)
    assert set(letters) <= set("אבגד") and max(letters.values()) - min(letters[x] for x in "אבגד") <= 1
    right = {(q["context"], q["question"]): q["answers"][0] for q in questions}
    for e in made:
        context, question, *options = e["input"].split("\n")
        assert [o[:3] for o in options] == ["א. ", "ב. ", "ג. ", "ד. "] and len({o[3:] for o in options}) == 4
        assert options.count(e["output"]) == 1 and e["output"][3:] == right[context, question]
        assert e["instruction"] in CHOICE_WORDINGS

def test_another_seed_makes_other_choices():
    context = " ".join(f"{who} נסע אל {where}." for who, where in zip(NAMES, PLACES))
    questions = [dict(context=context, question=f"לאן נסע {who}?", answers=[where]) for who, where in zip(NAMES, PLACES)]
    assert len(make_choices(questions, 0)) == 8 and make_choices(questions, 0) != make_choices(questions, 1)

def test_a_list_of_right_answers_gives_no_wrong_one():
    "Others in the sentence of the answer, and other forms of it, may be right too."
    context = "דן, גלי ורינה באו ראשונים. אחר כך בא נועם. עם נועם בא כלב. הכלב נבח."
    asked = [dict(context=context, question=f"מי בא ראשון, {n}?", answers=a) for n, a in enumerate([["דן"], ["גלי"], ["דן כהן", "דן"]])]
    asked += [dict(context=context, question="מי בא אחר כך?", answers=["נועם"])]
    for e in make_choices(asked, options=2):
        options = {o[3:] for o in e["input"].split("\n")[-2:]}
        assert "נועם" in options and len(options) == 2, e

@pytest.mark.parametrize("row, what", [
    (dict(context="קטע", question="מה?", answers=dict(text=[], answer_start=[])), "no answer"),
    (dict(context="קטע", question="מה?", answers=["כן"], answerable=False), "no answer"),
    (dict(instruction="ענו.", input="קטע: שלום לכם.\nשאלה: מה?", output="אין תשובה בקטע."), "no answer"),
    (dict(question="מה?", answers=["כן"]), "no context or no question")])
def test_questions_that_cannot_be_used(row, what): assert parse_qa(row) == what


# --- the mixture -------------------------------------------------------------------------------------------------

@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), st.tuples(st.integers(1, 30), st.floats(0, 2)), min_size=1), st.integers(0, 9))
def test_every_example_of_a_task_is_read_equally_often(of_task, seed):
    tasks = [t for t, (n, _) in of_task.items() for _ in range(n)]
    times = {t: x for t, (_, x) in of_task.items()}
    read = Counter(i for epoch in range(7) for i in draw_epoch(tasks, times, seed, epoch))
    for i, task in enumerate(tasks): assert abs(read[i] - 7 * times[task]) <= 1 + 1e-6

@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(500, 10**6), st.integers(0, 50)), min_size=1))
def test_an_epoch_follows_the_weights_and_reads_nothing_more_than_twice(of_task):
    tokens, weights = {t: n for t, (n, _) in of_task.items()}, {t: w for t, (_, w) in of_task.items()}
    if not any(weights.values()): return
    times = readings(tokens, weights)
    assert all(0 <= x <= 2 for x in times.values()) and {t for t in tokens if times[t]} == {t for t in tokens if weights[t]}
    free = [t for t in tokens if 0 < times[t] < 2] # those that had enough
    for t in free: # have as much as their weight says, to a token
        for other in free: assert abs(times[t] * tokens[t] * weights[other] - times[other] * tokens[other] * weights[t]) <= weights[t] + weights[other]

def test_labels_do_not_drown_answers_and_an_interruption_changes_nothing(tok):
    labels = [dict(instruction=f"מה הרגש של {n}?", input="", output="טוב", task="sentiment") for n in range(300)]
    stories = [dict(instruction=f"ספרו על {n}.", input="", output=f"היה היה {n} ילד קטן בכפר רחוק", task="stories") for n in range(40)]
    weights = dict(sentiment=1., stories=9.)
    def batches(): return ExampleBatches(tok, labels + stories, 64, 4, seed=3, weights=weights)
    whole, resumed = batches(), batches()
    for step in (11, 4): # a run that goes on there has drawn nothing before
        for a, b in zip(whole(step), resumed(step)): assert torch.equal(a.tokens, b.tokens) and torch.equal(a.targets, b.targets)
    drawn = [i for epoch in range(5) for step in whole.steps(epoch) for row in step for i in row]
    read = answer_tokens([whole.tasks[i] for i in drawn], [whole.pieces[i] for i in drawn])
    there = answer_tokens(whole.tasks, whole.pieces)
    assert there["stories"] < 2.5 * there["sentiment"] and read["stories"] / 5 <= 2 * there["stories"]
    assert read["stories"] > 3 * read["sentiment"] # nearer to nine to one; a task is read twice at most

def test_a_task_without_a_weight_is_named_before_training(tok, tmp_path):
    base = str(save_bundle(small("AM", vocab_size=VOCAB), tok, tmp_path/"base"))
    write_records(tmp_path/"data.jsonl", [dict(instruction=f"שאלה {n}", output=str(n), task="mine") for n in range(30)])
    quick = dict(base=base, data=str(tmp_path/"data.jsonl"), steps=1, batch_tokens=128, context=128, rank=2, device="cpu")
    with pytest.raises(UserError, match="mixture tasks: gives no weight to mine"): sft(run=str(tmp_path/"run"), mixture="tasks", **quick)
    assert not (tmp_path/"run"/"phase1").exists()
    with pytest.raises(UserError, match="mixture"): sft(run=str(tmp_path/"run"), mixture="no such file", **quick)
    (tmp_path/"mine.yaml").write_text("mine: 2\n")
    assert sft(run=str(tmp_path/"run"), mixture=str(tmp_path/"mine.yaml"), **quick)["phases"][0]["steps"] == 1
