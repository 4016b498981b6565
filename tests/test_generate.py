"Generation against full forward passes, transformers' own warpers, and every way to cut a character or a stop string."
import pytest, torch
from hypothesis import given, settings, strategies as st
from transformers.generation.logits_process import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
import hebrewgpt_nb.generate as G
from hebrewgpt_nb.core import UserError
from hebrewgpt_nb.engine.cpu import choose, library
from hebrewgpt_nb.generate import TextStream, candidates, chat_reply, decode_loop, generate, next_logits, penalize_repetition, sample, stream
from hebrewgpt_nb.quantize import quantize_for_decoding
from hebrewgpt_nb.tokenizer import encode_prompt
from conftest import VOCAB, small

# --- the cache changes nothing -----------------------------------------------------------------------

@pytest.mark.parametrize("pattern", ["A", "M", "AM"])
@pytest.mark.parametrize("prompt", ["ש", "בוקר טוב לכולם, " * 4]) # one token and bos; longer than a chunk of the scan
@pytest.mark.parametrize("greedy", [True, False])
def test_cached_choices_are_those_of_full_passes(tok, models, pattern, prompt, greedy):
    model, start = models[pattern], [tok.bos_id, *tok.encode(prompt)]
    controls = torch.tensor([i for i in range(VOCAB) if tok.sp.is_control(i)]) # they would end it
    def recording_sampler(seen):
        g = torch.Generator().manual_seed(3)
        def choose(logits, ids):
            assert ids == start + seen
            seen.append(sample(logits.index_fill(1, controls, -99.), temperature=0 if greedy else 1., generator=g).item())
            return seen[-1]
        return choose
    cached, full = [], []
    list(decode_loop(model, tok, start, 40, recording_sampler(cached), TextStream(tok, start)))
    choose = recording_sampler(full)
    with torch.no_grad():
        for _ in range(40): choose(model(torch.tensor([start + full]))[:, -1], start + full)
    assert cached == full and len(set(full)) > (1 if greedy else 3)

def test_only_the_new_token_goes_in(tok, models, monkeypatch):
    fed = []
    monkeypatch.setattr(G, "next_logits", lambda model, ids, cache: fed.append(len(ids)) or next_logits(model, ids, cache))
    list(stream(models["AM"], tok, "שלום לך", 6, seed=1))
    assert fed[0] == 1 + len(tok.encode("שלום לך")) and set(fed[1:]) <= {1}

# --- stream and generate ----------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("pattern", ["A", "AM"])
def test_pieces_join_to_the_text(tok, models, pattern, seed):
    how = dict(max_new_tokens=40, temperature=1.5, top_p=1., seed=seed, stop=("א", "ה "))
    pieces = list(stream(models[pattern], tok, "שלום", **how))
    text = generate(models[pattern], tok, "שלום", **how)
    assert "".join(pieces) == text and all(pieces) and "\ufffd" not in text and "א" not in text and "ה " not in text

def test_streams_side_by_side_do_not_touch_each_other(tok, models):
    model = models["AM"]
    first, second = (stream(model, tok, p, 20, temperature=1., seed=5) for p in ("שלום", "היום"))
    mixed = ["", ""]
    for a, b in zip(first, second): mixed[0] += a; mixed[1] += b
    for n, (prompt, rest) in enumerate((("שלום", first), ("היום", second))):
        whole = generate(model, tok, prompt, 20, temperature=1., seed=5)
        assert mixed[n] and whole.startswith(mixed[n])

def test_text_comes_before_the_work_is_done(tok, models, monkeypatch):
    passes = []
    monkeypatch.setattr(G, "next_logits", lambda *a: passes.append(1) or next_logits(*a))
    monkeypatch.setattr(G, "sample", lambda *a, **k: torch.tensor([tok.encode("א")[0]]))
    pieces = stream(models["AM"], tok, "שלום", 50)
    assert not passes and next(pieces) == "א" and len(passes) == 1
    assert next(pieces) == "א" and len(passes) == 2

def test_seeds(tok, models):
    texts = [generate(models["AM"], tok, "שלום", 30, temperature=1., seed=s) for s in (1, 1, 2, 3)]
    assert texts[0] == texts[1] and len(set(texts)) == 3

def test_the_program_keeps_its_generator_and_the_model_its_mode(tok):
    model = small("AM", vocab_size=VOCAB, dropout=.5)
    quiet, state = generate(model, tok, "שלום", 20), torch.get_rng_state()
    model.train()
    assert generate(model, tok, "שלום", 20) == quiet # no dropout
    assert model.training and all(m.training for m in model.modules()) and torch.equal(state, torch.get_rng_state())
    pieces = stream(model, tok, "שלום", 20)
    next(pieces)
    assert model.training and not torch.is_inference_mode_enabled() # between pieces too

def test_prompt_and_text_fit_the_context(tok, monkeypatch):
    model = small("AM", vocab_size=VOCAB, context=24)
    monkeypatch.setattr(G, "sample", lambda *a, **k: torch.tensor([tok.encode("א")[0]]))
    assert generate(model, tok, [tok.bos_id] * 23, 100) == "א"
    assert generate(model, tok, [tok.bos_id] * 4, 100) == "א" * 20
    assert generate(model, tok, [tok.bos_id] * 4, 7) == "א" * 7

@pytest.mark.parametrize("name", ["eos_id", "bos_id", "pad_id"])
def test_a_control_token_ends_it(tok, models, monkeypatch, name):
    ids = iter([*tok.encode("כן"), getattr(tok, name), *tok.encode("לא")])
    monkeypatch.setattr(G, "sample", lambda *a, **k: torch.tensor([next(ids)]))
    assert generate(models["AM"], tok, "שלום") == "כן"

def test_a_heading_ends_it(tok, models, monkeypatch):
    assert tok.heading_ids
    ids = iter([*tok.encode("כן"), tok.heading_ids[0], *tok.encode("לא")])
    monkeypatch.setattr(G, "sample", lambda *a, **k: torch.tensor([next(ids)]))
    assert "".join(chat_reply(models["AM"], tok, "שאלה")) == "כן"

def test_a_reply_is_a_stream_of_the_prompt(tok, models):
    reply = "".join(chat_reply(models["AM"], tok, "תרגם", "שלום", max_new_tokens=15, seed=2))
    assert reply == generate(models["AM"], tok, encode_prompt(tok, "תרגם", "שלום"), max_new_tokens=15, seed=2)

def test_prompts_of_any_list(tok, models):
    ids = [tok.bos_id, *tok.encode("שלום")]
    assert generate(models["A"], tok, torch.tensor(ids), 9) == generate(models["A"], tok, ids, 9) == generate(models["A"], tok, "שלום", 9)

def test_bfloat16(tok):
    model = small("AM", vocab_size=VOCAB).bfloat16()
    assert generate(model, tok, "שלום", 12, seed=1) == generate(model, tok, "שלום", 12, seed=1)

@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("pattern", ["A", "AM"])
def test_on_a_gpu(tok, models, pattern):
    model = small(pattern, vocab_size=VOCAB).cuda()
    assert generate(model, tok, "שלום", 20, temperature=0) == generate(models[pattern], tok, "שלום", 20, temperature=0)
    assert generate(model, tok, "שלום", 20, seed=4) == generate(model, tok, "שלום", 20, seed=4)

# --- sampling against transformers --------------------------------------------------------------------

@pytest.mark.parametrize("temperature,top_k,top_p", [(1., 0, 1.), (.7, 0, 1.), (1., 5, 1.), (1., 0, .8), (.8, 10, .9), (1.7, 1000, .3), (1., 1, 1.), (1., 0, 1e-6)])
def test_candidates_are_those_of_transformers(temperature, top_k, top_p):
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)) * 3
    theirs = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k: theirs = TopKLogitsWarper(top_k)(None, theirs)
    if top_p < 1: theirs = TopPLogitsWarper(top_p)(None, theirs)
    p, order = candidates(logits, temperature, top_k, top_p)
    torch.testing.assert_close(torch.zeros(4, 50).scatter(1, order, p), theirs.softmax(-1))

@pytest.mark.skipif(library() is None, reason="no C compiler")
@settings(max_examples=80, deadline=None)
@given(st.floats(.3, 3), st.sampled_from([0, 1, 5, 40, 900]), st.sampled_from([1e-6, .3, .9, .95, 1.]), st.sampled_from([0., .05, .9]), st.sampled_from([1, 2, 50, 700]), st.integers(0, 99))
def test_c_draws_what_transformers_leaves(temperature, top_k, top_p, min_p, size, seed):
    g = torch.Generator().manual_seed(seed)
    logits, u = torch.randn(20, size, generator=g) * 4, torch.rand(20, generator=g)
    logits[0, ::3] = -torch.inf if size > 2 else 0. # banned
    left = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k: left = TopKLogitsWarper(top_k)(None, left)
    if top_p < 1: left = TopPLogitsWarper(top_p)(None, left)
    if min_p: left = MinPLogitsWarper(min_p)(None, left)
    ends = left.double().softmax(-1).cumsum(-1)
    chosen = choose(logits, u, temperature, top_k, top_p, min_p)[:, None]
    assert left.gather(1, chosen).isfinite().all()
    before = torch.cat([torch.zeros(20, 1), ends], 1).gather(1, chosen)
    assert (before <= u[:, None] + 1e-5).all() and (u[:, None] <= ends.gather(1, chosen) + 1e-5).all()

@pytest.mark.skipif(library() is None, reason="no C compiler")
def test_of_equals_c_keeps_as_many_as_are_wanted():
    u = (torch.arange(1000) + .5) / 1000
    for top_k, top_p, kept in ((3, 1., 3), (0, .5, 4), (0, .51, 5), (8, 1., 8), (0, 1., 8), (3, .5, 2)):
        assert choose(torch.zeros(1000, 8), u, 1., top_k, top_p, 0.).unique().tolist() == list(range(kept))
    assert choose(torch.zeros(1, 8).index_fill(1, torch.tensor([5]), 1e-3), torch.tensor([.99]), 1e-50, 0, 1., 0.).item() == 5

def test_penalty_is_that_of_transformers():
    logits, ids = torch.randn(1, 50, generator=torch.Generator().manual_seed(0)), [3, 7, 7, 49]
    torch.testing.assert_close(penalize_repetition(logits, ids, 1.3), RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([ids]), logits.clone()))
    assert penalize_repetition(logits, ids, 1.) is logits

def test_draws_follow_the_probabilities_of_their_row():
    logits = torch.tensor([[2., 1., 0., -1.], [-1., 0., 3., 0.]])
    draws = sample(logits.repeat(4000, 1), 1., generator=torch.Generator().manual_seed(0)).view(4000, 2)
    for row in range(2): torch.testing.assert_close(draws[:, row].bincount(minlength=4) / 4000, logits[row].softmax(-1), atol=.03, rtol=0)
    assert sample(logits, temperature=0).tolist() == [0, 2]

def test_nothing_is_cut_by_default():
    p, _ = candidates(torch.randn(1, 5000, generator=torch.Generator().manual_seed(0)), 1., 0, 1.)
    assert (p > 0).all()

# --- whole characters ---------------------------------------------------------------------------------

def pushes(tok, ids, stop=(), prompt=None):
    "What is shown after each token, and at the end."
    out, shown = TextStream(tok, prompt or [tok.bos_id], stop), [""]
    for i in ids:
        shown.append(shown[-1] + out.push(i))
        if out.done: break
    return shown + [shown[-1] + out.flush()]

@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.one_of(st.sampled_from("שלום 🙂👩‍👩‍👧ְּ\n\u2581\ufffd"), st.characters(exclude_categories=["Cs"])), max_size=20))
def test_every_text_comes_whole_and_on_time(tok, text):
    ids = tok.encode(text)
    shown = pushes(tok, ids)
    assert shown[-1] == text
    for n, s in enumerate(shown[1:-1], 1): # all that is whole, not a character later
        assert text.startswith(s) and (tok.sp.is_byte(ids[n - 1]) or s == tok.decode(ids[:n]))

@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=16))
def test_any_bytes_at_all_are_never_half_a_character(tok, data):
    ids = [tok.sp.piece_to_id(f"<0x{b:02X}>") for b in data]
    assert pushes(tok, ids)[-1] == data.decode("utf-8", "ignore")

@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.tuples(st.binary(max_size=5), st.sampled_from(["שלום", " עולם", "."])), max_size=5))
def test_a_broken_character_does_not_eat_what_follows(tok, parts):
    assert not any(map(tok.sp.is_byte, tok.encode("שלום עולם.")))
    ids, expected = [], ""
    for data, word in parts:
        ids += [tok.sp.piece_to_id(f"<0x{b:02X}>") for b in data] + tok.encode(word)
        expected += data.decode("utf-8", "ignore") + word
    assert pushes(tok, ids)[-1] == expected

@pytest.mark.parametrize("char", ["é", "漢", "🙂"]) # 2, 3 and 4 bytes
def test_bytes_wait_for_the_last(tok, char):
    ids = [tok.sp.piece_to_id(f"<0x{b:02X}>") for b in char.encode()]
    for n in range(len(ids)): assert pushes(tok, ids[:n])[-1] == ""
    assert pushes(tok, ids)[-2] == char

def test_a_prompt_that_ends_inside_a_character_is_not_finished_by_half(tok):
    smile = [tok.sp.piece_to_id(f"<0x{b:02X}>") for b in "🙂".encode()]
    assert pushes(tok, smile[2:] + tok.encode("כן"), prompt=[tok.bos_id, *smile[:2]])[-1] == "כן"

# --- stop strings ---------------------------------------------------------------------------------------

def until(text, stop):
    "The reference: read letter by letter, stop at the first stop string that is complete."
    for n in range(1, len(text) + 1):
        if hits := [s for s in stop if text[:n].endswith(s)]: return text[:n - max(map(len, hits))]
    return text

letters = st.text(alphabet="אבג🙂 ", max_size=24)

@settings(max_examples=400, deadline=None)
@given(text=letters, stop=st.lists(st.text(alphabet="אבג🙂 ", min_size=1, max_size=4), max_size=3))
def test_stop_strings_wherever_they_fall(tok, text, stop):
    shown = pushes(tok, tok.encode(text), stop)
    assert shown[-1] == until(text, stop)
    assert all(shown[-1].startswith(s) for s in shown) # nothing is taken back

@settings(max_examples=100, deadline=None)
@given(text=letters, stop=st.lists(st.text(alphabet="אבג🙂 ", min_size=1, max_size=4), min_size=1, max_size=3))
def test_no_more_is_held_back_than_must_be(tok, text, stop):
    ids = tok.encode(text)
    for n, s in enumerate(pushes(tok, ids, stop)[1:-1], 1):
        whole = pushes(tok, ids[:n])[-1]
        held = max((k for t in stop for k in range(1, len(t)) if whole.endswith(t[:k])), default=0)
        assert s == until(whole, stop) or s == whole[:len(whole) - held]

def test_a_stop_string_over_many_tokens(tok, models, monkeypatch):
    text = "שלום לכולם ### סוף ### ועוד"
    stop = " ### סוף"
    assert len(tok.encode(stop)) > 3
    for stops in (stop, [stop], ("אין כזה", stop)):
        ids = iter(tok.encode(text))
        monkeypatch.setattr(G, "sample", lambda *a, **k: torch.tensor([next(ids)]))
        assert generate(models["AM"], tok, "א", stop=stops) == "שלום לכולם"

# --- bad input ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments,message", [
    (dict(prompt=""), "the prompt is empty"), (dict(prompt=[]), "the prompt is empty"),
    (dict(prompt=[2, VOCAB]), f"token {VOCAB} is outside the model's vocabulary of {VOCAB}"), (dict(prompt=[2, -1]), "token -1 is outside"),
    (dict(prompt=[2] * 256), "the prompt is 256 tokens, the context 256: shorten it to 255"), (dict(prompt="שלום " * 9999), "shorten it to 255"),
    (dict(max_new_tokens=0), "max_new_tokens is 0"), (dict(max_new_tokens=-3), "max_new_tokens is -3"), (dict(max_new_tokens=2.5), "max_new_tokens is 2.5"),
    (dict(temperature=-1), "temperature is -1"), (dict(temperature=float("nan")), "temperature is nan"), (dict(temperature=float("inf")), "temperature is inf"),
    (dict(top_p=0), "top_p is 0"), (dict(top_p=1.1), "top_p is 1.1"), (dict(top_k=-1), "top_k is -1"), (dict(repetition_penalty=0), "repetition_penalty is 0"),
    (dict(min_p=-.1), "min_p is -0.1"), (dict(min_p=1), "min_p is 1"), (dict(stop=[""]), "stop is"), (dict(stop=[None]), "stop is")])
def test_bad_arguments_are_one_line_at_the_call(tok, models, arguments, message):
    with pytest.raises(UserError) as e: stream(models["AM"], tok, **{"prompt": "שלום"} | arguments) # not at the first piece
    assert message in str(e.value) and "\n" not in str(e.value)

def test_a_foreign_tokenizer(tok):
    with pytest.raises(UserError, match="do not belong together"): generate(small("A", vocab_size=500), tok, "שלום")

@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0, .8])
def test_ruined_weights(tok, value, temperature):
    model = small("AM", vocab_size=VOCAB)
    with torch.no_grad(): model.blocks[1].mlp.down.weight[3, 3] = value
    with pytest.raises(UserError, match="NaN or infinity"): generate(model, tok, "שלום", temperature=temperature)

# --- several prompts at once ------------------------------------------------------------------------------------

UNEQUAL = ["ש", "בוקר טוב לכולם, " * 4, "היום", "שלום לך"]

@pytest.mark.parametrize("pattern", ["A", "M", "AM"])
@pytest.mark.parametrize("how", [dict(temperature=0), dict(temperature=1., seed=3, min_p=.01, stop=("א",)), dict(temperature=.8, seed=1, repetition_penalty=1.2)], ids=str)
def test_together_is_one_by_one(tok, models, pattern, how):
    together = generate(models[pattern], tok, UNEQUAL, 30, **how)
    assert together == [generate(models[pattern], tok, p, 30, **how) for p in UNEQUAL] and any(together)

@pytest.mark.parametrize("pattern", ["A", "M", "AM"])
@pytest.mark.parametrize("dtype, eps", [(None, 1e-4), ("float32", 1e-4), ("bfloat16", .05), ("int8", .1)]) # of the norm of the scores, of a model whose every weight is wild
@torch.no_grad()
def test_scores_of_unequal_rows_are_those_of_full_passes(pattern, dtype, eps):
    model = small(pattern)
    ready = model if dtype is None else quantize_for_decoding(model, dtype)
    rows, steps = [torch.randint(97, (1, n), generator=torch.Generator().manual_seed(n)) for n in (40, 1, 17, 40, 33)], 12
    ones = [ready.make_cache(length=n.shape[1]) for n in rows]
    for row, one in zip(rows, ones): ready(row[:, :-steps] if row.shape[1] > steps else row[:, :1], cache=one)
    begun = [one.n for one in ones]
    joint = ready.make_cache(len(rows), 80).fill(ones)
    tokens = torch.randint(97, (len(rows), steps), generator=torch.Generator().manual_seed(0))
    together = torch.cat([ready(tokens[:, i:i + 1], cache=joint) for i in range(steps)], 1)
    for row, n, new, mine in zip(rows, begun, tokens, together):
        full = model(torch.cat([row[:, :n], new[None]], 1))[0, n:]
        assert (mine - full).norm() < eps * full.norm()

def test_rows_end_each_in_its_own_time(tok, monkeypatch):
    model = small("AM", vocab_size=VOCAB, context=24)
    monkeypatch.setattr(G, "sample", lambda *a, **k: torch.tensor([tok.encode("א")[0]]))
    assert generate(model, tok, [[tok.bos_id] * 23, [tok.bos_id] * 4, [tok.bos_id] * 9], 16) == ["א", "א" * 16, "א" * 15]

def test_one_bad_prompt_is_named(tok, models):
    with pytest.raises(UserError, match="the prompt is empty"): generate(models["AM"], tok, ["שלום", ""])
    with pytest.raises(UserError, match="the context 256: shorten it"): generate(models["AM"], tok, ["שלום", [2] * 256])

@pytest.mark.parametrize("min_p", [0., .02, .3, .99])
@pytest.mark.parametrize("top_p", [1., .7])
def test_min_p_is_that_of_transformers(min_p, top_p):
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)) * 3
    theirs = TopPLogitsWarper(top_p)(None, logits) if top_p < 1 else logits
    if min_p: theirs = MinPLogitsWarper(min_p)(None, theirs)
    p, order = candidates(logits, 1., 0, top_p, min_p)
    torch.testing.assert_close(torch.zeros(4, 50).scatter(1, order, p), theirs.softmax(-1))
