"Minimal pairs: the same for ever, balanced, told apart by who knows the answer and by nobody else; and scored as a plain loop scores them."
import hashlib, math, random, re
from collections import Counter
import pytest, torch
import hebrewgpt_nb.tasks as T
from hebrewgpt_nb.core import UserError, read_jsonl, sample_dir
from hebrewgpt_nb.grammar.pairs import FRAMES, Pair, minimal_pairs, read_frame, share_right
from hebrewgpt_nb.grammar.sentences import SUBJECT_READINGS, VERB_READINGS, faults
from conftest import VOCAB, small

PAIRS = minimal_pairs()
WORDS = re.compile(r"[א-ת]+").findall

def test_the_pairs_are_the_ones_that_were_published():
    "Who changes a pair changes what figures mean: say so in the log, and change this sum."
    said = "\n".join(f"{p.kind}\t{p.good}\t{p.bad}" for p in PAIRS)
    assert hashlib.sha256(said.encode()).hexdigest()[:16] == "5203db6676fb0c44"

def test_there_are_enough_of_each_kind():
    counts = Counter(p.kind for p in PAIRS)
    assert len(PAIRS) >= 500 and len(counts) >= 25 and min(counts.values()) >= 14

def test_a_pair_differs_in_the_words_it_names():
    for p in PAIRS:
        right, wrong = p.words
        assert p.good != p.bad and right in p.good and wrong in p.bad
        assert Counter(WORDS(p.good)) - Counter(WORDS(p.bad)) == Counter(WORDS(right)) - Counter(WORDS(wrong))
        assert p.good[-1] in ".?!" and not re.search(r"[*/_\-]|  ", p.good + p.bad)

def test_no_sentence_is_right_here_and_wrong_there():
    good, bad = {p.good for p in PAIRS}, {p.bad for p in PAIRS}
    assert len(good) == len(bad) == len(PAIRS) and not good & bad

def test_an_oracle_is_always_right_and_a_coin_half_the_time():
    good = {p.good for p in PAIRS}
    assert share_right(PAIRS, lambda s: s not in good) == 1
    coin = random.Random(0)
    assert abs(share_right(PAIRS, lambda s: coin.random()) - .5) < 2 * math.sqrt(.25 / len(PAIRS))

def test_neither_length_nor_frequency_tells():
    seen = Counter(w for f in (sample_dir()/"pretrain").glob("*.train.jsonl") for r in read_jsonl(f) for w in WORDS(r["text"]))
    for cost in (len, lambda s: len(s.split()), lambda s: -sum(math.log(seen[w] + 1) for w in WORDS(s)), lambda s: -sum(map(len, map(set, s)))):
        assert abs(share_right(PAIRS, cost) - .5) < .03

def test_the_lexicon_finds_the_same_ones_wrong():
    "A noun that the lexicon knows and the verb behind it: the right one agrees, and no reading of the wrong one does."
    seen, kinds = 0, ("verb: gender", "verb: number", "verb: person")
    for p in (p for p in PAIRS if p.kind in kinds):
        right, wrong = p.words
        before = WORDS(p.good.partition(f" {right} ")[0])[-1] # the subject, where it is one word
        if not {right, wrong} <= set(VERB_READINGS) or not {before, before.removeprefix("ה")} & set(SUBJECT_READINGS): continue
        assert faults(before, [], right) == [] and faults(before, [], wrong) != [], p
        seen += 1
    assert seen > 25

@pytest.mark.parametrize("line", ["הסל נקרע", "הסל *נקרע/נקרעה *מאוד/קצת", "הסל *נקרע/נקרע", "הסל *נקרע"])
def test_a_line_that_is_no_pair_is_named(line):
    with pytest.raises(UserError, match="write one .right/wrong"): read_frame(line, "x")

# --- as models are asked ---------------------------------------------------------------------------

@pytest.fixture(scope="module")
def model(): return small("A", vocab_size=VOCAB)

def test_pairs_are_scored_as_by_a_plain_loop(model, tok):
    def nats(text):
        ids = [tok.bos_id, *tok.encode(text)]
        with torch.no_grad(): scores = model(torch.tensor([ids]))[0].double().log_softmax(-1)
        return -sum(scores[n, i].item() for n, i in enumerate(ids[1:]))
    some = PAIRS[::23]
    assert [g["right"] for g in T.prefer_right(model, tok, some, 256)] == [float(nats(p.good) < nats(p.bad)) for p in some]

def test_what_is_too_long_is_counted(model, tok):
    long = Pair("long", "שלום " * 60, "שלוש " * 60, ("שלום", "שלוש"))
    found = T.pair_metrics(model, tok, [*PAIRS[:10], long], T.Inputs(context=64))
    assert found.metrics["pairs"]["n"] == dict(pairs=10, too_long=1) and found.left_out == {"pairs: long": "all 1 are longer than 64 tokens"}

def test_kinds_make_up_the_whole(model, tok):
    metrics = T.pair_metrics(model, tok, PAIRS, T.Inputs()).metrics
    kinds = {name: m for name, m in metrics.items() if name != "pairs"}
    assert list(kinds) == [f"pairs: {kind}" for kind in FRAMES]
    assert math.isclose(sum(m["value"] * m["n"]["pairs"] for m in kinds.values()), metrics["pairs"]["value"] * len(PAIRS))
    assert abs(metrics["pairs"]["value"] - .5) < 4 * metrics["pairs"]["error"] # random weights

def test_a_kind_of_few_pairs_counts_in_the_total_alone(model, tok):
    "A share of three pairs is noise."
    some = [p for n, p in enumerate(PAIRS) if n % 6 == 0 or p.kind == "verb: gender"]
    found = T.pair_metrics(model, tok, some, T.Inputs())
    assert list(found.metrics) == ["pairs", "pairs: verb: gender"] and found.metrics["pairs"]["n"] == dict(pairs=len(some))
    assert found.left_out == {"pairs: ": f"{len(FRAMES) - 1} kinds have fewer than 10 and count in the total alone"}
