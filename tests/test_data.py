"Records, cleaning and shards: what must hold, and what a bad file does."
import gzip, json, os, subprocess, sys, time
from types import SimpleNamespace
import numpy as np, pytest, zstandard
from hypothesis import example, given, settings, strategies as st
from hebrewgpt_nb import data
from hebrewgpt_nb.core import UserError, read_json
from hebrewgpt_nb.data import (Quarantine, Shards, build_shards, clean_records, clean_text, drop_reason, prepare_data, read_records, text_key, write_records)

os.environ["HEBREWGPT_QUIET"] = "1"
LETTERS = SimpleNamespace(encode=lambda texts: [[ord(c) % 1000 + 2 for c in t] for t in texts], bos_id=0, eos_id=1, vocab_size=1002, sha256="letters")

def record(n, text=None, source="news"):
    return dict(id=f"{source}-{n}", text=text or f"ביום {'אבגדהוזחטיכלמנסעפצקרשת'[n % 22]*3} נפתחה התערוכה החדשה במוזיאון העירוני", source=source, license="CC0-1.0")

# -- cleaning

PARTS = ["&", "amp;", "&lt;", "&gt;", "&quot;", "&#x200f;", "<", ">", "<b>", "</b>", "<br/>", "<p class='x'>", "<!--", "-->", "<script>", "b", "/", "x < 3", " ", "\u00a0", "\t", "\n",
         "\r\n", "\u2028", "\x85", "\u200f", "\u202a", "\u2067", "\u200b", "\ufeff", "\u00ad", "\ufffd", "\x00", "שלום", "ש\u05c1ָ", "\ufb2a", "בית\u05beספר", "צה״ל", "ג׳", "×©×œ×•×", "Ã©",
         "\u037e", "&Atilde;", "&copy;", "e\u0301", "🙂", "&#8362;"]
messy = st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=3)), max_size=12).map("".join)

@settings(max_examples=400, deadline=None)
@given(messy)
@example("&amp" + "\u037e") # NFC makes it a semicolon
@example("<<b>b>" * 3)
def test_cleaning_twice_changes_nothing(text):
    once = clean_text(text)
    assert clean_text(once) == once

@settings(max_examples=400, deadline=None)
@given(messy)
def test_clean_text_is_clean(text):
    clean = clean_text(text)
    assert not data.INVISIBLE.search(clean)
    assert clean == clean.strip() and "\n\n\n" not in clean and "  " not in clean and "\t" not in clean
    clean.encode()

words = st.lists(st.text("אבגדשלםןבְּ\u05be", min_size=1, max_size=6).map(lambda w: "ש" + w), min_size=1, max_size=6)
@settings(max_examples=200, deadline=None)
@given(words, st.sampled_from([" ", "\u00a0", "\t", "\n", "\r\n", "\u2003", "\x85", "\u2028", "&nbsp;", "<br>", "</p><p>", "</td><td>", "</li>\n<li>"]))
def test_words_are_never_joined(ws, gap):
    assert clean_text(gap.join(ws)).split() == [data.normalize(w) for w in ws]

@pytest.mark.parametrize("mark", "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c\u200b\ufeff\u00ad\ufffd")
def test_a_mark_inside_a_word_vanishes(mark):
    assert clean_text(f"בי{mark}ת ספ{mark}ר") == "בית ספר"

@pytest.mark.parametrize("text", ["בֵּית־הַסֵּפֶר", "צה״ל", "ג׳ירפה", "צה\"ל", "אם a<b ו-c>d", "x < 3 && y > 5", "AT&T", "?a=1&copy=2", "מידה של 3×4", "<דובר> שלום", "5 & 6", "׃ ׀ ׆"])
def test_what_must_stay(text): assert clean_text(text) == text

@pytest.mark.parametrize("found, clean", [("צה&quot;ל", 'צה"ל'), ("צה&amp;quot;ל", 'צה"ל'), ("צה&amp;amp;quot;ל", 'צה"ל'), ("א&nbsp;ב", "א ב"), ("&#1513;&#x5DC;", "של"),
    ("ב<a href='x'>ירושלים</a>", "בירושלים"), ("&lt;p&gt;שלום&lt;/p&gt;", "שלום"), ("א<br>ב", "א\nב"), ("<!-- <p>סוד</p> -->גלוי", "גלוי"), ("<script>var a=1</script>שלום", "שלום"),
    ("שלום".encode().decode("latin-1"), "שלום"), ("שלום".encode().decode("cp1252", "replace").replace("\ufffd", "\x9d"), "שלום")])
def test_what_is_repaired(found, clean): assert clean_text(found) == clean

@pytest.mark.parametrize("piece", ["<", "<b ", "<b a=", "&", "&amp;", "&#0", "<!--", "<script>", " ", "\n ", "<b a='", "</p", "<<b>b>"])
def test_hostile_text_does_not_stall(piece):
    begun = time.process_time()
    clean_text(piece * 100_000)
    assert time.process_time() - begun < 5

def test_deeply_nested_markup_is_given_up(): assert clean_text("<" * 50 + "b>" * 50) == ""

# -- reading

def read_bad(tmp_path, line):
    (tmp_path/"x.jsonl").write_bytes(b'{"text": "a"}\n' + line + b'\n{"text": "b"}')
    aside = Quarantine()
    assert [r["text"] for r in read_records(tmp_path/"x.jsonl", aside)] == ["a", "b"] # it goes on
    assert [(q["file"], q["line"]) for q in aside] == [(str(tmp_path/"x.jsonl"), 2)]
    return aside[0]["reason"]

def test_not_utf8(tmp_path): assert read_bad(tmp_path, b'{"text": "\xf9\xec\xe5\xed"}') == "not UTF-8"
def test_not_json(tmp_path): assert read_bad(tmp_path, b'{"text": "a"') == "not JSON"
def test_deep_json(tmp_path): assert read_bad(tmp_path, b"[" * 200_000) == "not JSON"
def test_not_an_object(tmp_path): assert read_bad(tmp_path, b'["a"]') == "not a JSON object"
def test_no_text(tmp_path): assert read_bad(tmp_path, b'{"body": "a"}') == "no text"
def test_text_not_a_string(tmp_path): assert read_bad(tmp_path, b'{"text": ["a"]}') == "text is not a string"
def test_empty_text(tmp_path): assert read_bad(tmp_path, b'{"text": " \\n"}') == "empty text"
def test_half_a_surrogate_pair(tmp_path): assert "surrogate" in read_bad(tmp_path, b'{"text": "\\ud800"}')
def test_empty_line(tmp_path): assert read_bad(tmp_path, b"") == "not JSON"
def test_ten_megabyte_line(tmp_path): assert read_bad(tmp_path, b'{"text": "' + b"a" * 10_000_000 + b'"}') == "longer than 10 MB"

def test_quarantine_keeps_the_start_only(tmp_path):
    (tmp_path/"x.jsonl").write_text("ש" * 500)
    aside = []
    assert list(read_records(tmp_path/"x.jsonl", aside)) == [] and aside[0]["start"] == "ש" * 80

def test_bad_lines_warn_without_a_quarantine(tmp_path):
    (tmp_path/"x.jsonl").write_text('{"text": "a"}\nnope\n')
    with pytest.warns(UserWarning, match="1 lines put aside.*x.jsonl:2"): list(read_records(tmp_path))

def test_missing_fields_are_filled(tmp_path):
    (tmp_path/"news.train.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a", "id": 7, "source": 3}\r\n{"text": "b"}')
    assert list(read_records(tmp_path)) == [dict(id="7", text="a", source="news", license=""), dict(id="news.train.jsonl:2", text="b", source="news", license="")]

def test_text_file_is_one_document(tmp_path):
    (tmp_path/"book.txt").write_text("פרק א\n\nפרק ב", encoding="utf8")
    assert [r["text"] for r in read_records(tmp_path)] == ["פרק א\n\nפרק ב"]

def test_text_file_in_another_encoding(tmp_path):
    (tmp_path/"book.txt").write_bytes("שלום".encode("cp1255"))
    aside = Quarantine()
    assert list(read_records(tmp_path, aside)) == [] and aside.counts == {"not UTF-8": 1}

@pytest.mark.parametrize("name, pack", [("x.jsonl.zst", zstandard.compress), ("x.jsonl.gz", gzip.compress)])
def test_truncated_file_is_named(tmp_path, name, pack):
    whole = pack(b"".join(json.dumps(record(n)).encode() + b"\n" for n in range(500)))
    for cut in (1, 5, len(whole)//2):
        (tmp_path/name).write_bytes(whole[:-cut])
        with pytest.raises(UserError, match=f"{name}: cut short or damaged"): list(read_records(tmp_path/name))

@pytest.mark.parametrize("name", ["x.jsonl.zst", "x.jsonl.gz"])
def test_file_that_is_not_what_its_name_says(tmp_path, name):
    (tmp_path/name).write_bytes(b'{"text": "a"}\n' * 9)
    with pytest.raises(UserError, match=f"{name}: cut short or damaged"): list(read_records(tmp_path/name))

def test_several_zstd_frames(tmp_path):
    (tmp_path/"x.jsonl.zst").write_bytes(zstandard.compress(b'{"text": "a"}\n') + zstandard.compress(b'{"text": "b"}\n'))
    assert [r["text"] for r in read_records(tmp_path)] == ["a", "b"]

def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="none.jsonl: no such file"): list(read_records(tmp_path/"none.jsonl"))

def test_folder_without_records(tmp_path):
    with pytest.raises(UserError, match="holds no records"): list(read_records(tmp_path))

@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_written_records_come_back(tmp_path, suffix):
    records = [record(n) for n in range(100)]
    assert write_records(tmp_path/f"x{suffix}", records) == 100
    first = (tmp_path/f"x{suffix}").read_bytes()
    assert list(read_records(tmp_path/f"x{suffix}")) == records
    write_records(tmp_path/f"x{suffix}", records)
    assert (tmp_path/f"x{suffix}").read_bytes() == first

def test_failed_write_leaves_the_old_file(tmp_path):
    write_records(tmp_path/"x.jsonl", [record(1)])
    with pytest.raises(ZeroDivisionError): write_records(tmp_path/"x.jsonl", ({"text": str(1/0)} for _ in range(3)))
    assert list(read_records(tmp_path/"x.jsonl")) == [record(1)] and len(list(tmp_path.iterdir())) == 1

# -- the job

def test_drop_reasons():
    assert drop_reason("הילדים יצאו אל החצר ושיחקו") is None
    assert drop_reason("שלום") == "too little Hebrew"
    assert drop_reason("The children went out to play " * 9 + "הילדים יצאו אל החצר ושיחקו") == "mostly not Hebrew"

def test_prepare_counts_everything(tmp_path):
    lines = [json.dumps(record(n)) for n in range(20)] + [json.dumps(record(0)), json.dumps(dict(text="English only, " * 9)), "broken"]
    (tmp_path/"in").mkdir()
    (tmp_path/"in/news.train.jsonl").write_text("\n".join(lines))
    write_records(tmp_path/"in/news.valid.jsonl", [record(3), record(21)])
    totals = prepare_data(run=str(tmp_path/"out"), data=str(tmp_path/"in"))
    report = read_json(tmp_path/"out/report.json")["sources"]["news"]
    assert report["dropped"] == {"in validation": 1, "duplicate": 1, "too little Hebrew": 1} and report["quarantined"] == {"not JSON": 1}
    assert totals["read"] == 25 == totals["train_documents"] + totals["valid_documents"] + totals["dropped"] + totals["quarantined"]
    train, valid = ({text_key(r["text"]) for r in read_records(tmp_path/f"out/news.{role}.jsonl.zst")} for role in ("train", "valid"))
    assert len(train) == 19 and len(valid) == 2 and not train & valid
    assert [q["line"] for q in map(json.loads, open(tmp_path/"out/quarantine.jsonl"))] == [23]

def test_duplicates_across_sources(tmp_path):
    for source in ("a", "b"): write_records(tmp_path/f"in/{source}.train.jsonl", [record(n, source=source) for n in range(10)])
    totals = prepare_data(run=str(tmp_path/"out"), data=str(tmp_path/"in"))
    assert (totals["train_documents"] + totals["valid_documents"], totals["dropped"]) == (10, 10)

def test_a_source_without_validation_gets_some(tmp_path):
    write_records(tmp_path/"in/a.jsonl", [record(n) for n in range(10)])
    totals = prepare_data(run=str(tmp_path/"out"), data=str(tmp_path/"in"))
    assert totals["valid_documents"] >= 1 and totals["train_documents"] >= 8

def test_same_input_same_files(tmp_path):
    for out in "xy": prepare_data(run=str(tmp_path/out))
    names = sorted(p.name for p in (tmp_path/"x").glob("*.zst"))
    assert len(names) == 16 and all((tmp_path/"x"/n).read_bytes() == (tmp_path/"y"/n).read_bytes() for n in names)

def test_run_is_data_again(tmp_path):
    first = prepare_data(run=str(tmp_path/"x"))
    second = prepare_data(run=str(tmp_path/"y"), data=str(tmp_path/"x"))
    assert second["train_words"] == first["train_words"] and second["dropped"] == second["quarantined"] == 0

def test_no_source_of_an_earlier_job_survives(tmp_path):
    prepare_data(run=str(tmp_path/"x"))
    write_records(tmp_path/"in/a.jsonl", [record(n) for n in range(10)])
    prepare_data(run=str(tmp_path/"x"), data=str(tmp_path/"in"))
    assert {p.name.split(".")[0] for p in (tmp_path/"x").glob("*.zst")} == {"a"}

def test_two_processes_give_what_one_gives():
    records = [record(n, text=f"שלום&nbsp;<b>{n}</b> " + "מילים רבות " * 3000) for n in range(40)]
    pool = data.concurrent.futures.ProcessPoolExecutor(2, data.multiprocessing.get_context("spawn"))
    with pool: assert list(clean_records(records, pool)) == list(clean_records(records))

def test_nothing_left(tmp_path):
    write_records(tmp_path/"in/a.jsonl", [dict(text="English " * 20)])
    with pytest.raises(UserError, match="nothing is left to train on; of 1 records 0 were unreadable and 1 dropped"): prepare_data(run=str(tmp_path/"out"), data=str(tmp_path/"in"))
    assert not (tmp_path/"out/done.json").exists()

def test_run_must_not_be_data(tmp_path):
    write_records(tmp_path/"a.jsonl", [record(1)])
    with pytest.raises(UserError, match="run and data are both"): prepare_data(run=str(tmp_path), data=str(tmp_path))
    assert (tmp_path/"a.jsonl").exists()

def test_truncated_corpus_leaves_no_half_files(tmp_path):
    write_records(tmp_path/"in/a.train.jsonl", [record(n) for n in range(9)])
    write_records(tmp_path/"in/b.train.jsonl.zst", [record(n, source="b") for n in range(9)])
    whole = (tmp_path/"in/b.train.jsonl.zst").read_bytes()
    (tmp_path/"in/b.train.jsonl.zst").write_bytes(whole[:-9])
    with pytest.raises(UserError, match="b.train.jsonl.zst: cut short"): prepare_data(run=str(tmp_path/"out"), data=str(tmp_path/"in"))
    assert [p.name for p in (tmp_path/"out").iterdir()] == ["progress.json"]

def test_command_line_says_one_line(tmp_path):
    done = subprocess.run([sys.executable, "-m", "hebrewgpt_nb.data", "--run", tmp_path/"out", "--data", tmp_path/"none"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: data is") and done.stderr.count("\n") == 1

# -- shards

@pytest.fixture
def shards(tmp_path):
    build_shards((record(n, source=s) for s in ("a", "b") for n in range(9)), tmp_path, LETTERS)
    return tmp_path

def test_shards_hold_every_token(shards):
    opened = Shards(shards, LETTERS)
    for source in ("a", "b"):
        docs = np.split(opened.tokens(source), opened.starts(source)[1:])
        assert [list(d) for d in docs] == [[0, *LETTERS.encode([record(n)["text"]])[0], 1] for n in range(9)]
        assert opened.index["sources"][source]["bytes"] == sum(len(record(n)["text"].encode()) for n in range(9))

def test_large_vocabulary_takes_32_bits(tmp_path):
    tok = SimpleNamespace(encode=lambda ts: [[70_000] for _ in ts], bos_id=0, eos_id=1, vocab_size=70_001, sha256="x")
    assert build_shards([record(1)], tmp_path, tok)["dtype"] == "uint32" and list(Shards(tmp_path).tokens("news")) == [0, 70_000, 1]

def test_source_names_cannot_leave_the_folder(tmp_path):
    index = build_shards([record(1, source="../../evil/x")], tmp_path/"s", LETTERS)
    assert [p.name for p in tmp_path.iterdir()] == ["s"] and list(index["sources"]) == ["_evil_x"]

def test_no_documents(tmp_path):
    with pytest.raises(UserError, match="no documents"): build_shards([], tmp_path, LETTERS)

def test_interrupted_build_has_no_index(shards):
    def broken():
        yield record(1)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): build_shards(broken(), shards, LETTERS)
    with pytest.raises(UserError, match="no index.json"): Shards(shards)

def test_other_tokenizer(shards):
    with pytest.raises(UserError, match="made with another tokenizer"): Shards(shards, SimpleNamespace(sha256="other"))

@pytest.mark.parametrize("name", ["a.bin", "a.starts.npy"])
def test_altered_file_is_named(shards, name):
    raw = bytearray((shards/name).read_bytes())
    raw[-1] ^= 1
    (shards/name).write_bytes(raw)
    with pytest.raises(UserError, match=f"{name}: altered"): Shards(shards)

def test_truncated_file_of_tokens(shards):
    (shards/"b.bin").write_bytes((shards/"b.bin").read_bytes()[:-2])
    with pytest.raises(UserError, match="b.bin: .* bytes, the index says"): Shards(shards)

def test_missing_file_of_tokens(shards):
    (shards/"b.bin").unlink()
    with pytest.raises(UserError, match="b.bin: missing"): Shards(shards)

@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"dtype": "uint16", "vocab_size": 9, "tokenizer_sha256": "x", "sources": {"a": {}}}', '{"dtype": "x", "vocab_size": 9, "tokenizer_sha256": "x", "sources": {}}'])
def test_torn_index(shards, index):
    (shards/"index.json").write_text(index)
    with pytest.raises(UserError, match="index.json: not"): Shards(shards)
