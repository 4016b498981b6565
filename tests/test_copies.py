"Copies and overlaps: what is found, against plain Python and against every pair compared."
import json, os, random, subprocess, sys, time
import numpy as np, pytest
from rapidfuzz.distance import Indel
from hypothesis import example, given, settings, strategies as st
from hebrewgpt_nb.text.clean import clean_text
from hebrewgpt_nb.text.copies import HeldOut, cut_overlaps, exact_duplicates, join_texts, near_duplicates, ngram_hashes, overlap_mask, parallel_band_keys, similarity, word_hashes
from hebrewgpt_nb.core import sample_dir
from hebrewgpt_nb.data import held_out
from hebrewgpt_nb.text.records import read_records, source_files

os.environ["HEBREWGPT_QUIET"] = "1"
VOCABULARY = "בית ספר ילד הלך אל הים וגם שמש ירח על פני המים שלום רב לכם".split()
few_words = st.lists(st.sampled_from(VOCABULARY[:6]), max_size=40).map(" ".join)
texts_of = st.lists(st.lists(st.sampled_from(VOCABULARY + [".", "\n", "?\n"]), max_size=60).map(" ".join), max_size=5)

def texts_here() -> list[str]:
    "The sample's texts, or those of the real data where it is."
    data = os.environ.get("HEBREWGPT_DATA", "")
    return [r["text"] for s in source_files(data or sample_dir()).values() for f in s["train"] for r in read_records(f)][:: 10 if data else 1]


@pytest.fixture(scope="module")
def originals():
    "Texts of twenty words or more, none like another."
    texts = [w for w in map(word_hashes, texts_here()) if len(w) >= 20]
    copies = {t for t, *_ in near_duplicates(*join_texts(texts))}
    return [w for t, w in enumerate(texts) if t not in copies]

def exchanged(words, share, luck, pot):
    at = luck.permutation(len(words))[:round(share*len(words))]
    copy = words.copy()
    copy[at] = luck.choice(pot, len(at))
    return copy

@pytest.mark.parametrize("seed", range(3))
def test_planted_copies_are_found_and_nothing_else(originals, seed):
    luck, pot = np.random.default_rng(seed), np.concatenate(originals)
    for share in (.1, .4):
        found = near_duplicates(*join_texts(originals + [exchanged(w, share, luck, pot) for w in originals]))
        assert all(t >= len(originals) for t, *_ in found) # no original goes
        assert len(found) >= .95*len(originals) if share == .1 else len(found) <= .01*len(originals)
        assert share == .4 or all(of == t - len(originals) for t, of, _ in found)

@pytest.mark.parametrize("kind", ["words lost", "words added", "cut short", "punctuation and points"])
def test_other_changes(originals, kind):
    luck, pot = np.random.default_rng(0), np.concatenate(originals)
    def change(w):
        at = np.sort(luck.permutation(len(w))[:len(w)//10])
        return np.delete(w, at) if kind == "words lost" else np.insert(w, at, luck.choice(pot, len(at))) if kind == "words added" else w[:len(w) - len(w)//10] if kind == "cut short" else w
    found = near_duplicates(*join_texts(originals + [change(w) for w in originals]))
    assert len(found) >= .95*len(originals) and all(t >= len(originals) for t, *_ in found)

def changed(words, kind, alike, luck, pot):
    "A copy that is about `alike` like the original, by one kind of change."
    if kind == "replacement": return exchanged(words, 1 - alike, luck, pot)
    share = 2*(1 - alike)/(2 - alike if kind == "deletion" else alike)
    at = np.sort(luck.permutation(len(words))[:round(share*len(words))])
    return np.delete(words, at) if kind == "deletion" else np.insert(words, at, luck.choice(pot, len(at)))

@pytest.mark.parametrize("kind", ["replacement", "insertion", "deletion"])
def test_near_duplicates_of_every_kind_are_found_from_the_threshold_on(originals, kind):
    luck, pot, n, copies, missed = np.random.default_rng(3), np.concatenate(originals), len(originals), 0, 0
    for low, high in ((.8, 1), (.8, 1), (.8, .83), (.7, .8)):
        planted = [changed(w, kind, luck.uniform(low, high), luck, pot) for w in originals]
        true = {n + t for t, (w, c) in enumerate(zip(originals, planted)) if similarity(w, c) >= .8}
        found = {t for t, *_ in near_duplicates(*join_texts(originals + planted))}
        assert found <= true # no pair below the threshold, no original
        copies, missed = copies + len(true), missed + len(true - found)
    assert copies > 2*n and missed <= .02*copies

@pytest.mark.parametrize("kind", ["replacement", "insertion", "deletion"])
def test_long_texts_are_as_alike_in_pieces_as_whole(kind):
    luck = np.random.default_rng(4)
    words = luck.integers(5_000, size=12_000, dtype=np.uint32)
    other = np.roll(changed(words, kind, .85, luck, words), 500) # and its end stands first
    whole = Indel.normalized_similarity(words.tolist(), other.tolist())
    assert whole - .01 <= similarity(words, other) <= whole + 1e-9 and similarity(words, luck.permutation(words), .8) == 0

def test_two_texts_of_200_000_words_are_compared_in_bounded_time():
    luck = np.random.default_rng(5)
    words = luck.integers(30_000, size=200_000, dtype=np.uint32)
    def seconds(n):
        other, begun = changed(words[:n], "replacement", .85, luck, words), time.process_time()
        assert similarity(words[:n], other, .8) == pytest.approx(.85, abs=.005)
        return time.process_time() - begun
    assert seconds(200_000) < 24*seconds(25_000) # 8 by the length, 64 by its square
    for strange in (luck.permutation(words), words[::-1], np.resize(words[:7], 200_000)): assert similarity(words, strange, .8) == 0

def test_no_pair_compared_in_earnest_would_say_more(originals):
    luck, some = np.random.default_rng(1), originals[:60]
    texts = [exchanged(w, s, luck, np.concatenate(some)) for w in some for s in (0, .05, .15, .25)]
    kept, copies = [], set()
    for t, w in enumerate(texts):
        if any(similarity(texts[k], w, .8) for k in kept): copies.add(t)
        else: kept.append(t)
    found = {t for t, *_ in near_duplicates(*join_texts(texts))}
    assert len(found ^ copies) <= .02*len(texts)

def longest_common(a, b):
    row = [0]*(len(b) + 1)
    for x in a:
        before = row[:]
        for j, y in enumerate(b): row[j + 1] = before[j] + 1 if x == y else max(row[j], before[j + 1])
    return row[-1]

@settings(max_examples=100, deadline=None)
@given(few_words, few_words, st.sampled_from([0, .5, .8, .95]))
def test_likeness_is_the_longest_common_row(a, b, least):
    a, b = word_hashes(a), word_hashes(b)
    true = 2*longest_common(a.tolist(), b.tolist())/(len(a) + len(b)) if len(a) + len(b) else 1.
    assert similarity(a, b, least) == pytest.approx(true if true >= least else 0.)

@settings(max_examples=100, deadline=None)
@given(st.lists(few_words, max_size=12))
def test_copies_point_to_what_is_kept(texts):
    words, starts = join_texts([word_hashes(t) for t in texts])
    found = near_duplicates(words, starts)
    copies, kept = {t for t, *_ in found}, set(range(len(texts))) - {t for t, *_ in found}
    assert all(of in kept and of < t and like >= .8 for t, of, like in found)
    plain = [" ".join(t.split()) for t in texts]
    assert copies >= {i for i, t in enumerate(plain) if t and t in plain[:i]} and not copies & {i for i, t in enumerate(plain) if not t}
    assert len(set(plain[i] for i in kept if plain[i])) == sum(bool(plain[i]) for i in kept)

@given(few_words, st.integers(1, 15))
def test_grams_are_equal_just_where_words_are(text, n):
    words = text.split()
    plain, found = [tuple(words[i:i + n]) for i in range(len(words) - n + 1)], ngram_hashes(word_hashes(text), n).tolist()
    assert len(plain) == len(found) and len(set(plain)) == len(set(found)) == len(set(zip(plain, found)))

def test_portions_change_nothing(originals):
    words, starts = join_texts(originals)
    for chunk_words in (1, 997): np.testing.assert_array_equal(parallel_band_keys(words, starts, np.arange(len(originals)), chunk_words), parallel_band_keys(words, starts, np.arange(len(originals))))

def test_the_same_in_every_process():
    code = "import numpy as np; from hebrewgpt_nb.text.copies import *; w = word_hashes('הילדים הלכו אל הים ושבו משם עם ערב וגם למחרת'); print(w.tolist(), band_keys(w, np.array([len(w)])).tolist())"
    said = {subprocess.run([sys.executable, "-c", code], env=os.environ | dict(PYTHONHASHSEED=seed), capture_output=True, text=True, check=True).stdout for seed in "123"}
    assert len(said) == 1 and said.pop().strip()

def test_nothing_at_all():
    assert near_duplicates(np.empty(0, np.uint32), np.array([0])) == [] and near_duplicates(np.empty(0, np.uint32), np.array([0, 0, 0])) == []
    assert exact_duplicates(np.empty(0, np.uint32), np.array([0, 0])).tolist() == [0]
    assert len(HeldOut([])) == 0 and cut_overlaps("שלום", HeldOut([])) == ("שלום", 0)

# -- what is held out

def plain_mask(words, held): # lists of words; the definition, in plain Python
    mask = [False]*len(words)
    for other in held:
        if (n := min(13, len(other))) < 8: continue
        known = {tuple(other[i:i + n]) for i in range(len(other) - n + 1)}
        for i in range(len(words) - n + 1):
            if tuple(words[i:i + n]) in known: mask[i:i + n] = [True]*n
    return mask

@settings(max_examples=200, deadline=None)
@given(st.lists(few_words, max_size=4), few_words)
def test_overlaps_are_those_of_the_definition(held, text):
    assert overlap_mask(word_hashes(text), HeldOut(held)).tolist() == plain_mask(text.split(), [h.split() for h in held])

@settings(max_examples=200, deadline=None)
@given(texts_of, texts_of)
@example(held=[" ".join(VOCABULARY)], texts=["\n".join(VOCABULARY) + "\n" + " ".join(VOCABULARY*3)[::-1]])
def test_nothing_held_out_is_left(held, texts):
    known = HeldOut(held)
    for text in texts:
        left, went = cut_overlaps(text, known)
        assert not overlap_mask(word_hashes(left), known).any() and cut_overlaps(left, known)[1] == 0
        assert len(word_hashes(left)) + went == len(word_hashes(text)) and (left == "" or 2*len(word_hashes(left)) >= len(word_hashes(text)))
        if not overlap_mask(word_hashes(text), known).any(): assert went == 0
        rest = iter(word_hashes(text).tolist())
        assert all(w in rest for w in word_hashes(left).tolist()) # in their order

def test_points_and_quotes_hide_nothing():
    question = "בְּאֵיזוֹ שָׁנָה נִפְתְּחָה תַּחֲנַת הָרַכֶּבֶת הָרִאשׁוֹנָה בִּירוּשָׁלַיִם, וּמִי הָיָה הַקַּבְּלָן שֶׁבָּנָה אוֹתָהּ?"
    assert overlap_mask(word_hashes('"באיזו" שנה נפתחה תחנת־הרכבת הראשונה בירושלים ומי היה הקבלן שבנה אותה'), HeldOut([clean_text(question)])).all()

ITEM = "באיזו שנה פגש {} לראשונה את המורה של אחותו הקטנה, ומה אמר לה אז על הספר?"
ODD = ["ג‘ון", "ג’ון", "ד“ר כהן", "מנכ„ל הבנק", "&quot;היזם&quot;", "היזם &#8211; הבן", "אבאאאאא", "הילד?????", "ר\u05f3 דוד", "<b>דוד</b>", "‘הגיבור’", "בי\u200fת הספר"]

@pytest.mark.parametrize("around", ["{}", "שלום לכולם.\n{}\nתודה", "כתוב שם: “{}” ולא יותר.", "זה ‘קצת {}", "<p>{}</p>"])
def test_copies_of_evaluation_items_with_curly_signs_entities_and_letter_runs(tmp_path, around):
    items = [ITEM.format(odd) for odd in ODD]
    (tmp_path/"quiz.jsonl").write_text("\n".join(json.dumps(dict(id="1", question=item)) for item in items))
    held = held_out([], tmp_path, [])
    for item in items:
        page, question = (word_hashes(clean_text(text)) for text in (around.format(item), item))
        assert overlap_mask(page, held).sum() >= len(question), item
