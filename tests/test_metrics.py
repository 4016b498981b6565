"Scores against a plain loop over single documents, whatever the packing, the windows and the dtype."
import math
from collections import Counter
from dataclasses import replace
import pytest, torch, torch.nn.functional as F
from hypothesis import given, strategies as st
from hebrewgpt_nb.core import UserError
from hebrewgpt_nb.metrics import Scores, bits_per_byte, choice_scores, pack_rows, repetition_rate, score_answers, score_pieces, score_texts, losses_and_ranks, windows
from hebrewgpt_nb.tokenizer import encode_prompt
from conftest import VOCAB, small

TEXTS = ["שלום", "א", "", "בוקר טוב לכולם. " * 6, "מים", "🙂 漢字 בְּרֵאשִׁית", "הילדים הלכו לבית הספר, ואחר כך שבו הביתה.", "  שני רווחים\n\nושורה", "סוף"]

def plain(model, tok, text, context=10**6):
    "One document, one window after the other: nats, tokens, top-1, top-5."
    ids, sums = [tok.bos_id, *tok.encode(text), tok.eos_id], [0., 0, 0, 0]
    at = 0
    while at < len(ids) - 1:
        x, y = torch.tensor([ids[at:at + context][:len(ids) - 1 - at]]), torch.tensor(ids[at + 1:at + 1 + context])
        with torch.no_grad(): logits = model(x)[0]
        new = (F.cross_entropy(logits, y, reduction="sum").item(), len(y), (logits.argmax(-1) == y).sum().item(), (logits.topk(5).indices == y[:, None]).any(1).sum().item())
        sums = [a + b for a, b in zip(sums, new)]
        at += context
    return sums

# --- texts --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("pattern", ["A", "M", "AM"])
@pytest.mark.parametrize("context", [None, 1, 2, 7, 40])
@pytest.mark.parametrize("batch_tokens", [1, 100, 4096])
def test_packed_scores_are_those_of_a_plain_loop(tok, models, pattern, context, batch_tokens):
    scores = score_texts(models[pattern], tok, TEXTS, context=context, batch_tokens=batch_tokens)
    nats, tokens, top1, top5 = (sum(column) for column in zip(*(plain(models[pattern], tok, t, context or 256) for t in TEXTS)))
    assert scores.nats == pytest.approx(nats, rel=1e-5) and (scores.tokens, scores.top1, scores.top5) == (tokens, top1, top5)
    assert scores.tokens == sum(len(tok.encode(t)) + 1 for t in TEXTS)
    assert (scores.bytes, scores.words, scores.texts, scores.skipped) == (len("".join(TEXTS).encode()), len(" ".join(TEXTS).split()), len(TEXTS), 0)

def test_rows_are_really_shared(tok, models, monkeypatch):
    seen = []
    hidden = type(models["AM"]).hidden
    monkeypatch.setattr(type(models["AM"]), "hidden", lambda self, tokens, docs=None, cache=None: seen.append((tokens.shape, docs)) or hidden(self, tokens, docs, cache))
    score_texts(models["AM"], tok, TEXTS)
    assert len(seen) == 1 and seen[0][1] is not None
    (rows, width), needed = seen[0][0], sum(len(tok.encode(t)) + 1 for t in TEXTS)
    assert rows * width - needed < width # less than a row of padding
    seen.clear()
    score_texts(models["AM"], tok, [TEXTS[3]] * 3)
    assert seen == [((3, len(tok.encode(TEXTS[3])) + 1), None)] # alone in its row: no mask

def test_scores_add_up(tok, models):
    whole, halves = score_texts(models["AM"], tok, TEXTS), score_texts(models["AM"], tok, TEXTS[:4]) + score_texts(models["AM"], tok, TEXTS[4:])
    assert replace(halves, nats=0) == replace(whole, nats=0) and halves.nats == pytest.approx(whole.nats, rel=1e-6)

def test_figures_are_divisions():
    s = Scores(nats=100., tokens=50, bytes=200, words=25, top1=10, top5=20, texts=1)
    assert (s.nats_per_token, s.perplexity, s.word_perplexity) == (2., math.exp(2), math.exp(4))
    assert s.bits_per_byte == pytest.approx(.5 / math.log(2)) and (s.top1_accuracy, s.top5_accuracy) == (.2, .4)

def test_a_uniform_model_pays_log2_of_the_vocabulary(tok):
    model = small("AM", vocab_size=VOCAB)
    torch.nn.init.zeros_(model.tok_emb.weight)
    scores = score_texts(model, tok, TEXTS)
    assert scores.nats / math.log(2) == pytest.approx(scores.tokens * math.log2(VOCAB), rel=1e-6)
    assert bits_per_byte(model, tok, TEXTS) == pytest.approx(scores.tokens * math.log2(VOCAB) / scores.bytes, rel=1e-6)
    assert (scores.top1, scores.top5) == (0, len(TEXTS)) # of equal scores the lowest ids come first: 0 to 4, where only eos (3) stands

def test_progress_counts_texts(tok, models):
    done = []
    score_texts(models["A"], tok, TEXTS, context=5, batch_tokens=20, progress=done.append)
    assert sum(done) == len(TEXTS) and len(done) > 3

def test_mode_comes_back_and_dropout_is_off(tok):
    model = small("AM", vocab_size=VOCAB, dropout=.5)
    quiet = score_texts(model, tok, TEXTS)
    model.train()
    assert score_texts(model, tok, TEXTS) == quiet and all(m.training for m in model.modules())
    with torch.no_grad(): model.ln_f.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="NaN or infinity"): score_texts(model, tok, TEXTS)
    assert model.training and not torch.is_inference_mode_enabled()

def test_bfloat16_is_close(tok, models):
    assert score_texts(small("AM", vocab_size=VOCAB).bfloat16(), tok, TEXTS).nats == pytest.approx(score_texts(models["AM"], tok, TEXTS).nats, rel=.05)

@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(tok, models):
    scores, cpu = score_texts(small("AM", vocab_size=VOCAB).cuda(), tok, TEXTS), score_texts(models["AM"], tok, TEXTS)
    assert scores.nats == pytest.approx(cpu.nats, rel=1e-3) and scores.tokens == cpu.tokens

def test_nothing_to_score(tok, models):
    assert score_texts(models["A"], tok, []) == Scores()
    with pytest.raises(UserError, match="no bytes were scored"): bits_per_byte(models["A"], tok, [])
    with pytest.raises(UserError, match="no tokens were scored"): Scores().perplexity
    assert score_texts(models["A"], tok, [""]).tokens == 1 # the end

class Lossy:
    "A tokenizer that loses the points."
    bos_id, eos_id = 2, 3
    def __init__(self, tok): self.tok = tok
    def encode(self, texts): return self.tok.encode([t.replace("ְ", "") for t in texts])
    def decode(self, ids): return self.tok.decode(ids)

def test_bad_input_is_named(tok, models):
    with pytest.raises(UserError, match="text 1 is not what its tokens decode to"): score_texts(models["A"], Lossy(tok), ["שלום", "שְלום"])
    with pytest.raises(UserError, match="give a list of texts"): score_texts(models["A"], tok, "שלום")
    with pytest.raises(UserError, match="outside the model's vocabulary of 97"): score_texts(small("A"), tok, TEXTS)

# --- the parts ----------------------------------------------------------------------------------------------

@given(lengths=st.lists(st.integers(1, 30), max_size=60), spare=st.integers(0, 20))
def test_every_piece_is_in_one_row_that_holds_it(lengths, spare):
    size = max(lengths, default=1) + spare
    rows = pack_rows(lengths, size)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    fills = sorted(sum(lengths[i] for i in row) for row in rows)
    assert all(f <= size for f in fills) and (len(fills) < 2 or fills[0] + fills[1] > size)

@given(n=st.integers(0, 40), context=st.integers(1, 45))
def test_windows_score_each_token_once(n, context):
    ids = list(range(n + 2))
    cut = windows(ids, context)
    assert [t for _, targets in cut for t in targets] == ids[1:]
    assert all(len(x) == len(y) <= context and [i + 1 for i in x] == y for x, y in cut)

def test_the_head_in_parts_is_the_head(models):
    g = torch.Generator().manual_seed(0)
    n = 2**24 // VOCAB + 1000 # more than one part
    h, t = torch.randn(n, 64, generator=g), torch.randint(VOCAB, (n,), generator=g)
    with torch.no_grad(): nats, rank = losses_and_ranks(models["A"], h, t)
    some = torch.randint(n, (500,), generator=g)
    with torch.no_grad(): logits = models["A"].head(h[some])
    torch.testing.assert_close(nats[some], F.cross_entropy(logits, t[some], reduction="none"), atol=1e-4, rtol=1e-5)
    assert torch.equal(rank[some], (logits.argsort(descending=True, stable=True) == t[some, None]).int().argmax(1).float())

def test_a_piece_costs_the_same_among_others(tok, models):
    pieces = [([2, 5 + i, *range(9, 9 + i)], [-100, 7, *range(10, 10 + i)]) for i in range(20)]
    together = score_pieces(models["AM"], pieces)
    for piece, scored in zip(pieces, together): torch.testing.assert_close(scored, score_pieces(models["AM"], [piece])[0], atol=1e-3, rtol=1e-4)

# --- answers and choices ---------------------------------------------------------------------------------------

EXAMPLES = [dict(instruction="מהי בירת איטליה?", input="", output="רומא"), dict(instruction="תרגם לאנגלית.", input="שלום", output="Hello, 🙂"),
            dict(instruction="ספר", input="", output="היה היה ילד.\nסוף"), dict(instruction="שתוק", input="", output="")]

@pytest.mark.parametrize("pattern", ["A", "AM"])
@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_only_the_answer_and_its_end_count(tok, models, pattern, batch_tokens):
    scores, nats, tokens = score_answers(models[pattern], tok, EXAMPLES, batch_tokens=batch_tokens), 0, 0
    for e in EXAMPLES:
        prompt, answer = encode_prompt(tok, e["instruction"], e["input"]), [*tok.encode(e["output"]), tok.eos_id]
        with torch.no_grad(): logits = models[pattern](torch.tensor([prompt + answer[:-1]]))[0, len(prompt) - 1:]
        nats, tokens = nats + F.cross_entropy(logits, torch.tensor(answer), reduction="sum").item(), tokens + len(answer)
    assert scores.nats == pytest.approx(nats, rel=1e-5)
    assert (scores.tokens, scores.bytes, scores.texts, scores.skipped) == (tokens, sum(len(e["output"].encode()) for e in EXAMPLES), 4, 0)

def test_long_examples_are_counted_not_cut(tok, models):
    long = dict(instruction="ספר", output="היה היה ")
    exact = len(encode_prompt(tok, "ספר")) + len(tok.encode("היה היה "))
    assert score_answers(models["A"], tok, [long], context=exact).skipped == 0
    done = []
    scores = score_answers(models["A"], tok, [long, EXAMPLES[3]], context=exact - 1, progress=done.append)
    assert (scores.skipped, scores.texts, scores.bytes, sum(done)) == (1, 1, 0, 1)

@pytest.mark.parametrize("pattern", ["A", "AM"])
def test_choices_are_conditional_likelihoods(tok, models, pattern):
    prompt, choices = encode_prompt(tok, "מהי בירת איטליה?"), ["רומא", "תל אביב", "א", "Rome 🙂"]
    before = list(prompt)
    scores = choice_scores(models[pattern], tok, prompt, choices)
    assert prompt == before and len(scores) == 4
    for choice, s in zip(choices, scores):
        ids = tok.encode(choice)
        with torch.no_grad(): logp = models[pattern](torch.tensor([prompt + ids]))[0].log_softmax(-1)
        assert -s.nats == pytest.approx(sum(logp[len(prompt) - 1 + k, i].item() for k, i in enumerate(ids)), rel=1e-5)
        assert (s.tokens, s.bytes) == (len(ids), len(choice.encode()))
    assert [s.nats for s in choice_scores(models[pattern], tok, torch.tensor(prompt), choices)] == [s.nats for s in scores]

@pytest.mark.parametrize("choices,message", [([], "choices is empty"), (["א", ""], "choices is empty"), (["א " * 400], "the context is 256: shorten")])
def test_bad_choices(tok, models, choices, message):
    with pytest.raises(UserError, match=message): choice_scores(models["A"], tok, [2, 9], choices)

# --- repetition ----------------------------------------------------------------------------------------------

@given(words=st.lists(st.sampled_from(["כן", "לא", "אולי"]), max_size=40))
def test_repetition_counts_all_but_the_first(words):
    grams = Counter(tuple(words[i:i + 4]) for i in range(len(words) - 3))
    expected = sum(n - 1 for n in grams.values()) / sum(grams.values()) if grams else 0
    assert repetition_rate("  ".join(words)) == pytest.approx(expected)
