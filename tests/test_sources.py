"Records and where they come from: files, published corpora, mixtures; what must hold, and what a bad file does."
import gzip, json, lzma, os, random, tracemalloc
import datasets, pyarrow as pa, pyarrow.parquet as pq, pytest, yaml, zstandard
from hypothesis import example, given, settings, strategies as st
from hebrewgpt_nb.data import hebrew_strings
from hebrewgpt_nb.grading import parse_question
from hebrewgpt_nb.text import records, sources
from hebrewgpt_nb.core import UserError, real_data_dir
from hebrewgpt_nb.text.prefixes import parse_gold
from hebrewgpt_nb.text.mixture import MIXTURES, check_mixture, read_mixture
from hebrewgpt_nb.text.records import Quarantine, parse_example, read_checked, read_objects, read_records, source_files, write_records
from hebrewgpt_nb.text.sources import GROUPS, SOURCES, group_of, read_source

PACK = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress}

def record(n, source="news"):
    return dict(id=f"{source}-{n}", text=f"ביום {'אבגדהוזחטיכלמנסעפצקרשת'[n % 22]*3} נפתחה התערוכה החדשה במוזיאון העירוני", source=source, license="CC0-1.0")

# -- reading

def read_bad(tmp_path, line):
    (tmp_path/"x.jsonl").write_bytes(b'{"text": "a"}\n' + line + b'\n{"text": "b"}')
    aside = Quarantine()
    assert [r["text"] for r in read_records(tmp_path/"x.jsonl", aside)] == ["a", "b"] # it goes on
    assert [(q["file"], q["line"]) for q in aside] == [(str(tmp_path/"x.jsonl"), 2)]
    return aside[0]["reason"]

def test_not_utf8(tmp_path): assert read_bad(tmp_path, b'{"text": "\xf9\xec\xe5\xed"}').startswith("not UTF-8")
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

HEBREW = "פרק ראשון. הכול בסדר, אמר הנהג, ונסע."
NIQQUD = "בְּרֵאשִׁית בָּרָא אֱלֹהִים אֵת הַשָּׁמַיִם"
@pytest.mark.parametrize("raw, reason", [(HEBREW.encode("cp1255"), "looks like windows-1255: iconv -f windows-1255 -t utf-8"), (NIQQUD.encode("cp1255"), "looks like windows-1255"),
    (("Chapter One: " + HEBREW).encode("cp1255"), "looks like windows-1255"), (HEBREW.encode("utf-16"), "looks like utf-16: iconv -f utf-16 -t utf-8"),
    (b"\xfe\xff" + HEBREW.encode("utf-16-be"), "looks like utf-16"), (HEBREW.encode()[:-4] + b"\xd7", None), ((HEBREW + " — " + HEBREW).encode() + b"\xff", None), ("l'été à Paris".encode("latin-1"), None)])
def test_text_file_in_another_encoding(tmp_path, raw, reason):
    (tmp_path/"book.txt").write_bytes(raw)
    aside = Quarantine()
    assert list(read_records(tmp_path, aside)) == [] and len(aside) == 1
    assert reason in aside[0]["reason"] if reason else aside[0]["reason"] == "not UTF-8"

def test_text_file_beyond_measure_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MAX_LINE", 1000)
    (tmp_path/"he.txt.xz").write_bytes(lzma.compress(b"a" * 50_000_000))
    aside, read = Quarantine(), []
    chunks = records.read_chunks
    monkeypatch.setattr(records, "read_chunks", lambda p: (read.append(1) or c for c in chunks(p)))
    assert list(read_records(tmp_path, aside)) == [] and aside.counts == {"longer than 10 MB": 1} and len(read) == 1

@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_truncated_file_is_named(tmp_path, suffix):
    whole = PACK[suffix](b"".join(json.dumps(record(n)).encode() + b"\n" for n in range(500)))
    for cut in (1, 5, len(whole)//2):
        (tmp_path/f"x.jsonl{suffix}").write_bytes(whole[:-cut])
        with pytest.raises(UserError, match=f"x.jsonl{suffix}: cut short or damaged"): list(read_records(tmp_path/f"x.jsonl{suffix}"))

@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_file_that_is_not_what_its_name_says(tmp_path, suffix):
    (tmp_path/f"x.jsonl{suffix}").write_bytes(b'{"text": "a"}\n' * 9)
    with pytest.raises(UserError, match=f"x.jsonl{suffix}: cut short or damaged"): list(read_records(tmp_path/f"x.jsonl{suffix}"))

@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_several_packed_parts_in_one_file(tmp_path, suffix):
    (tmp_path/f"x.jsonl{suffix}").write_bytes(PACK[suffix](b'{"text": "a"}\n') + PACK[suffix](b'{"text": "b"}\n'))
    assert [r["text"] for r in read_records(tmp_path)] == ["a", "b"]

STREAM = {".gz": lambda f: gzip.open(f, "wb"), ".xz": lambda f: lzma.open(f, "wb", preset=0), ".zst": lambda f: zstandard.open(f, "wb")}

@pytest.mark.parametrize("suffix, line, MB", [(".gz", b"a", 25), (".xz", b"a", 25), (".zst", b"a", 300), (".zst", b"\n", 300)])
def test_bomb_is_refused_before_it_fills_memory(tmp_path, monkeypatch, suffix, line, MB):
    "A small file that unpacks to much more: one endless line, or empty lines without end."
    if MB < 100: monkeypatch.setattr(records, "MUCH", 10_000_000)
    with STREAM[suffix](tmp_path/f"x.jsonl{suffix}") as f:
        for _ in range(MB): f.write(line * 1_000_000)
    assert os.path.getsize(tmp_path/f"x.jsonl{suffix}") < 40_000
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=f"x.jsonl{suffix}: .* (unpack to a line of more than|lines are bad)") as e: list(read_records(tmp_path, Quarantine()))
        assert tracemalloc.get_traced_memory()[1] < 130_000_000 and "\n" not in str(e.value)
    finally: tracemalloc.stop()

def test_a_file_of_copies_is_no_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MUCH", 100_000)
    for suffix in (".jsonl.gz", ".jsonl.zst"):
        write_records(tmp_path/f"x{suffix}", (record(7) for _ in range(5000)))
        assert os.path.getsize(tmp_path/f"x{suffix}") < 10_000 and sum(1 for _ in read_records(tmp_path/f"x{suffix}")) == 5000

def test_a_file_of_no_records_does_not_fill_the_quarantine(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MAX_ASIDE", 1000)
    (tmp_path/"a.jsonl").write_text("no json\n" * 5000)
    aside = Quarantine()
    with pytest.raises(UserError, match=r"a.jsonl: 1,001 lines are bad \(not JSON\) and 0 good"): list(read_records(tmp_path/"a.jsonl", aside))
    assert len(aside) == 1001
    (tmp_path/"b.jsonl").write_text('{"text": "a"}\nno json\n' * 5000)
    assert len(list(read_records(tmp_path/"b.jsonl", aside := Quarantine()))) == len(aside) == 5000

def test_one_flipped_bit_in_our_zst_is_an_error(tmp_path):
    written, luck = [record(n) for n in range(200)], random.Random(0)
    write_records(tmp_path/"x.jsonl.zst", written)
    whole, other = (tmp_path/"x.jsonl.zst").read_bytes(), 0
    for _ in range(400):
        raw = bytearray(whole)
        raw[luck.randrange(len(raw))] ^= 1 << luck.randrange(8)
        (tmp_path/"x.jsonl.zst").write_bytes(raw)
        try: other += list(read_records(tmp_path/"x.jsonl.zst")) != written
        except UserError: pass
    assert other == 0

@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_empty_packed_file_is_an_error(tmp_path, suffix):
    (tmp_path/f"x.jsonl{suffix}").touch()
    with pytest.raises(UserError, match=f"x.jsonl{suffix}: cut short or damaged \\(it is empty\\); fetch"): list(read_records(tmp_path))
    (tmp_path/f"x.jsonl{suffix}").write_bytes(PACK[suffix](b""))
    assert list(read_records(tmp_path)) == []

@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_second_part_of_a_packed_file_cut_short(tmp_path, suffix):
    first, second = PACK[suffix](b'{"text": "a"}\n'), PACK[suffix](b'{"text": "b"}\n')
    for cut in range(1, len(second), 3):
        (tmp_path/f"x.jsonl{suffix}").write_bytes(first + second[:cut])
        with pytest.raises(UserError, match=f"x.jsonl{suffix}: cut short"): list(read_records(tmp_path))

@pytest.mark.parametrize("log", [27, 28, 31])
def test_zstd_with_a_long_window_is_read(tmp_path, log):
    packer = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=log, enable_ldm=True)).compressobj()
    (tmp_path/"x.jsonl.zst").write_bytes(packer.compress(b'{"text": "a"}\n' * 3) + packer.flush())
    assert len(list(read_records(tmp_path))) == 3

def test_an_error_names_its_own_cause(tmp_path):
    (tmp_path/"x.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd\x00\xf8\x01\x00\x00") # a window of 2 TB
    with pytest.raises(UserError, match="takes more memory than there is") as e: list(read_records(tmp_path))
    assert "fetch" not in str(e.value) and "cut short" not in str(e.value)
    (tmp_path/"x.jsonl.zst").write_bytes(gzip.compress(b'{"text": "a"}'))
    with pytest.raises(UserError, match="it does not begin as .zst does: is it misnamed"): list(read_records(tmp_path))

def test_no_file_and_no_folder(tmp_path):
    os.mkfifo(tmp_path/"x.jsonl")
    with pytest.raises(UserError, match="x.jsonl: cannot be read, it is a folder, a pipe or a device; give a file"): list(read_records(tmp_path/"x.jsonl"))
    with pytest.raises(UserError, match="a pipe or a device"): read_checked(tmp_path/"x.jsonl", parse_question) # and does not wait for ever
    with pytest.raises(UserError, match="no such file"): list(read_records("x" * 5000))

def test_file_whose_name_is_not_unicode(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xe7.jsonl", "wb") as f: f.write(b'{"text": "a"}\nbroken\n')
    aside = Quarantine()
    found = list(read_records(tmp_path, aside))
    assert [r["source"] for r in found] == ["\ufffd"] and aside[0]["file"].endswith("/\ufffd.jsonl")
    write_records(tmp_path/"out.jsonl", found + aside)

def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="none.jsonl: no such file"): list(read_records(tmp_path/"none.jsonl"))

def test_folder_without_records(tmp_path):
    with pytest.raises(UserError, match="holds no records"): list(read_records(tmp_path))

def test_roles_of_files(tmp_path):
    for name in ("a.train.jsonl", "a.valid.jsonl.gz", "b.txt.xz"): (tmp_path/"pretrain").mkdir(exist_ok=True); (tmp_path/"pretrain"/name).touch()
    assert {s: [len(r["train"]), len(r["valid"])] for s, r in source_files(tmp_path).items()} == dict(a=[1, 1], b=[1, 0])

def test_objects_go_on_after_a_bad_line(tmp_path):
    (tmp_path/"x.jsonl").write_text('{"a": 1}\n[]\n{"a": 2}\n')
    aside = Quarantine()
    assert list(read_objects(tmp_path/"x.jsonl", aside)) == [dict(a=1), dict(a=2)] and aside.counts == {"not a JSON object": 1}

def test_not_one_good_line(tmp_path):
    (tmp_path/"x.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(UserError, match="x.jsonl: not one good line"): read_checked(tmp_path/"x.jsonl", lambda found: "no b")

# -- any JSON in any field

@pytest.mark.parametrize("field", ["id", "text", "source", "license"])
def test_half_a_surrogate_pair_in_any_field_of_a_record(tmp_path, field):
    reason = read_bad(tmp_path, json.dumps(dict(text="a", id="1") | {field: "שלום \ud83d"}).encode())
    assert reason == f"{field} is not Unicode (half a surrogate pair)"

@pytest.mark.parametrize("field, value", [("instruction", "\ud83d"), ("input", "\ude00 x"), ("output", "\ud83d"), ("task", "\ud83d"),
                                          ("question", "\ud83d"), ("choices", ["a", "\ude00"]), ("category", "\ud83d"), ("id", "\ud83d-1")])
def test_half_a_surrogate_pair_in_any_field_of_an_example_or_a_question(tmp_path, field, value):
    whole = dict(instruction="מה?", input="", output="כן", task="t", question="מה?", choices=["א", "ב"], answer_index=0, category="c", id="q-1")
    (tmp_path/"x.jsonl").write_text(json.dumps(whole) + "\n" + json.dumps(whole | {field: value}), encoding="utf8")
    parse, aside = parse_example if field in ("instruction", "input", "output", "task") else parse_question, Quarantine()
    assert len(read_checked(tmp_path/"x.jsonl", parse, aside)) == 1
    assert [(q["line"], q["reason"]) for q in aside] == [(2, f"{field} is not Unicode (half a surrogate pair)")]

def test_both_halves_of_a_surrogate_pair_are_text(tmp_path):
    (tmp_path/"x.jsonl").write_text('{"text": "\\ud83d\\ude00"}')
    assert [r["text"] for r in read_records(tmp_path)] == ["😀"]

def test_null_is_empty(tmp_path):
    (tmp_path/"news.jsonl").write_text('{"text": "a", "id": null, "source": null, "license": null}\n{"text": null}')
    aside = Quarantine()
    assert list(read_records(tmp_path, aside)) == [dict(id="news.jsonl:1", text="a", source="news", license="")] and aside.counts == {"no text": 1}
    assert parse_example(dict(instruction="מה?", input=None, output="כן", task=None)) == dict(instruction="מה?", input="", output="כן", task="")
    assert parse_example(dict(instruction="מה?", output=None)) == "no instruction or no output"
    assert parse_question(dict(question="מה?", choices=["א", "ב"], answer_index=1, category=None, id=None))["group"] == "all"

ANY_TEXT = st.text(st.characters(exclude_categories=()) | st.sampled_from("\ud83d\ude00\0\n\u2028"), max_size=9) # with halves of pairs
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3), max_leaves=9)
NAMES = st.sampled_from(["id", "text", "source", "license", "instruction", "input", "output", "task", "question", "choices", "answer_index", "category",
                         "title", "context", "qas", "answers", "is_impossible", "label", "tag_ids", "url", "document_hash", "article", "summary",
                         "translation1", "translation2", "original_label", "surface", "segments", "upos"])
ROWS = st.lists(st.dictionaries(NAMES | ANY_TEXT, JSON | st.just("שלום") | st.just([dict(question="מה?", answers=["x"])]), max_size=9) | JSON, min_size=1, max_size=4)

def every_line_is_read_or_put_aside(read, path, lines):
    aside = Quarantine()
    found = list(read(path, aside))
    assert len(found) + len(aside) == lines and all(q["file"] == str(path) and 1 <= q["line"] <= lines and q["reason"] for q in aside)
    json.dumps([found, aside], ensure_ascii=False).encode()
    return found

@settings(max_examples=80, deadline=None)
@given(rows=ROWS)
@example(rows=[{"text": "a", "\ud83d": 1, "license": float("nan"), "source": "\ud83d"}])
@example(rows=[dict(text="a", id=10**4000, source=dict(a=[None]))])
def test_any_json_is_a_record_or_put_aside(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("any")/"x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    for r in every_line_is_read_or_put_aside(read_records, path, len(rows)): assert all(isinstance(v, str) for v in r.values()) and r["id"] and r["source"] and r["text"]
    for parse in (parse_example, parse_question, parse_gold): every_line_is_read_or_put_aside(lambda p, q: read_objects(p, q, parse), path, len(rows))
    for item in every_line_is_read_or_put_aside(read_objects, path, len(rows)): assert all(isinstance(t, str) for t in hebrew_strings(item))

@pytest.mark.parametrize("depth", [90, 99, 100, 300, 900, 990, 1000, 100_000])
def test_deep_json_is_read_or_put_aside(tmp_path, depth):
    (tmp_path/"x.jsonl").write_text('{"text": "a", "id": ' + "[" * depth + "]" * depth + "}\n" + '{"text": "a", "qas": ' + '{"a":' * depth + "1" + "}" * depth + "}\n")
    found = every_line_is_read_or_put_aside(read_records, tmp_path/"x.jsonl", 2)
    assert len(found) == (2 if depth < 100 else 0)
    for item in every_line_is_read_or_put_aside(read_objects, tmp_path/"x.jsonl", 2): hebrew_strings(item)

@settings(max_examples=60, deadline=None)
@given(row=st.dictionaries(NAMES, JSON | st.just("שלום") | st.just([dict(question="מה?", answers=["x"])]), max_size=9), raw=st.binary(max_size=60))
@example(row=dict(context="א", qas=7), raw=b"\0")
@example(row=dict(context="א", question="ב", answers="[" * 5000), raw=b'{"text": "\xff')
def test_any_row_of_any_source_is_a_record_or_put_aside(tmp_path_factory, row, raw):
    path = tmp_path_factory.mktemp("any")/"x.jsonl"
    path.write_bytes(json.dumps(row).encode() + b"\n" + raw.replace(b"\n", b"") + b"\n")
    for name in SOURCES:
        aside = Quarantine()
        try: found = list(read_source(name, path, quarantine=aside))
        except UserError as e: found = [] if "not one good row" in str(e) else None
        assert len(found) + len(aside) == 2
        json.dumps([found, aside], ensure_ascii=False).encode()

# -- writing

@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_written_records_come_back(tmp_path, suffix):
    written = [record(n) for n in range(100)]
    assert write_records(tmp_path/f"x{suffix}", written) == 100
    first = (tmp_path/f"x{suffix}").read_bytes()
    assert list(read_records(tmp_path/f"x{suffix}")) == written
    write_records(tmp_path/f"x{suffix}", written)
    assert (tmp_path/f"x{suffix}").read_bytes() == first

def test_failed_write_leaves_the_old_file(tmp_path):
    write_records(tmp_path/"x.jsonl", [record(1)])
    with pytest.raises(ZeroDivisionError): write_records(tmp_path/"x.jsonl", ({"text": str(1/0)} for _ in range(3)))
    assert list(read_records(tmp_path/"x.jsonl")) == [record(1)] and len(list(tmp_path.iterdir())) == 1

# -- published corpora, each in its own schema

def jsonl(rows): return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
def table(path, rows): pq.write_table(pa.Table.from_pylist(rows), path)
def texts(name, path, **given): return [r["text"] for r in read_source(name, path, **given)]

WIKI = dict(id="12", url="https://he.wikipedia.org/wiki/x", title="דבורה", text="הדבורה היא חרק מאביק.")
RULING = dict(case_id=1, Type="החלטה", CaseName="פלוני נ' אלמוני", document_hash="f00d", text=" הערעור נדחה.\n")
PAGE = dict(url="https://example.org/a", timestamp="2020-01-01T00:00:00Z", text="ברוכים הבאים לאתר.")
NLI = dict(original_annotator_labels="['neutral']", genre="travel", original_label="Neutral", pairID="5n", promptID=5, sentence1="x", translation1="השוק פתוח עד הערב.", sentence2="y", translation2="השוק זול.")
FEELING = dict(id="s1", text="השירות היה נהדר", tag_ids="Positive", task_name="t", campaign_id=3)
SUMMARY = dict(summary="נפתח גשר.", article="אתמול נחנך בעיר גשר חדש להולכי רגל.")
QA = dict(context="הגן נפתח ב-1950.", qas=[dict(question="מתי נפתח הגן?", id="q1", answers=[dict(text="1950", answer_start=10), dict(text="ב-1950", answer_start=8)], is_impossible=False, wrong_answers=[]),
                                           dict(question="מי פתח אותו?", id="q2", answers=[], is_impossible=True, wrong_answers=[dict(text="1950", answer_start=10)])])
TABLES = [("wikipedia", WIKI, "wikipedia:12", "דבורה\n\nהדבורה היא חרק מאביק."), ("supreme_court", RULING, "supreme_court:f00d", "הערעור נדחה."),
          ("c4", PAGE, "c4:https://example.org/a", PAGE["text"]), ("hedc4", dict(text="טקסט נקי"), "hedc4:x.parquet:1", "טקסט נקי"),
          ("hebnli", NLI, "hebnli:5n", "משפט 1: השוק פתוח עד הערב.\nמשפט 2: השוק זול.\nהיחס: ניטרלי"), ("hebrew_sentiment", FEELING, "hebrew_sentiment:s1", "השירות היה נהדר\nהסנטימנט: חיובי"),
          ("president_comments", dict(text="כל הכבוד", label=0), "president_comments:x.parquet:1", "תגובה: כל הכבוד\nהסנטימנט: חיובי"),
          ("hesum", SUMMARY, "hesum:x.parquet:1", SUMMARY["article"] + "\n\nתקציר: נפתח גשר."),
          ("heq", dict(ID="q9", Title="גן", Context=QA["context"], Question="מתי נפתח הגן?", Answers="[{'text': '1950', 'answer_start': 10}]", Is_Impossible=False), "heq:x.parquet:1", "הגן נפתח ב-1950.\n\nשאלה: מתי נפתח הגן?\nתשובה: 1950"),
          ("cc100", dict(id="0", text="שורה"), "cc100:0", "שורה"), ("benyehuda", dict(ID="3", text="שיר\n\nאת הטקסט לעיל הפיקו מתנדבי פרויקט בן־יהודה באינטרנט. הוא זמין"), "benyehuda:3", "שיר")]

def test_every_source_has_a_test(): assert {name for name, *_ in TABLES} == set(SOURCES)

@pytest.mark.parametrize("name, row, id, text", TABLES, ids=[t[0] for t in TABLES])
def test_rows_of_parquet_and_json_lines(tmp_path, name, row, id, text):
    table(tmp_path/"x.parquet", [row])
    if name == "heq": id = "heq:q9"
    assert list(read_source(name, tmp_path/"x.parquet")) == [dict(id=id, text=text, source=name, license=SOURCES[name].license)]
    for suffix, pack in PACK.items():
        (tmp_path/f"x.jsonl{suffix}").write_bytes(pack(jsonl([row])))
        assert texts(name, tmp_path/f"x.jsonl{suffix}") == [text]

def test_json_lines_named_json(tmp_path): # as C4 is published
    (tmp_path/"c4-iw.tfrecord-00000-of-01024.json.gz").write_bytes(gzip.compress(jsonl([PAGE, dict(PAGE, text="עוד דף")])))
    assert texts("c4", tmp_path) == [PAGE["text"], "עוד דף"]

@pytest.mark.parametrize("indent", [None, 1])
def test_squad_file(tmp_path, indent):
    (tmp_path/"val v1.1.json").write_text(json.dumps(dict(version="v1.1", data=[dict(title="גן", source="Wikipedia", paragraphs=[QA, dict(QA, context=7)])]), ensure_ascii=False, indent=indent))
    aside = Quarantine()
    assert texts("heq", tmp_path, quarantine=aside) == ["הגן נפתח ב-1950.\n\nשאלה: מתי נפתח הגן?\nתשובה: 1950\n\nשאלה: מי פתח אותו?\nתשובה: אין תשובה בקטע."]
    assert [(q["line"], q["reason"]) for q in aside] == [(2, "context: text is not a string")]

@pytest.mark.parametrize("answers, answer", [([dict(text="1950")], "1950"), (dict(text=["1950"], answer_start=[3]), "1950"), ("{'text': ['1950'], 'answer_start': [3]}", "1950"), ("1950", "1950"), (["1950"], "1950"),
                                             ([], None), (None, None), ("[broken", None), ("[]", None), ([dict(text=7)], None), (7, None), ([dict(text=" ")], None)])
def test_forms_of_answers(answers, answer): assert sources.first_answer(dict(answers=answers)) == answer

def test_csv(tmp_path): # as HeDC4 is published; its text holds commas, quotes and line breaks
    (tmp_path/"HeDC4.csv").write_text('text\n"שלום, אמר ""דוד"".\nוהלך"\n\nסוף\n', encoding="utf8")
    assert texts("hedc4", tmp_path/"HeDC4.csv") == ['שלום, אמר "דוד".\nוהלך', "סוף"]

def test_csv_with_a_name_like_a_pattern(tmp_path):
    (tmp_path/"a[1].csv").write_text("text\nשלום\n", encoding="utf8")
    assert texts("hedc4", tmp_path/"a[1].csv") == ["שלום"]

def test_labels_of_the_comments_are_not_inverted(tmp_path):
    (tmp_path/"token_train.tsv").write_text("text\tlabel\nבושה וחרפה\t1\nיישר כוח\t0\nמחפש דירה\t2\nמה\t3\n", encoding="utf8")
    aside = Quarantine()
    assert [t.split(": ")[-1] for t in texts("president_comments", tmp_path, quarantine=aside)] == ["שלילי", "חיובי", "לא קשור לנושא"]
    assert aside.counts == {"label: not one of 0, 1, 2": 1}

@pytest.mark.parametrize("label, word", [("entailment", "נובע"), ("Contradiction", "סותר"), (" neutral ", "ניטרלי")])
def test_relations_in_hebrew(label, word): assert sources.parse_sentence_pair(dict(NLI, original_label=label))["text"].endswith(word)

def test_cc100_documents(tmp_path):
    lines = ["ראשון", "עדיין ראשון", "", "", "  ", "שני", "", "שלישי בקידוד אחר", "", "רביעי"]
    raw = "\n".join(lines[:7]).encode() + "\n".encode() + lines[7].encode("cp1255") + "\n\n".encode() + lines[9].encode()
    for suffix, pack in PACK.items():
        (tmp_path/f"he.txt{suffix}").write_bytes(pack(raw))
        aside = Quarantine()
        assert [(r["id"], r["text"]) for r in read_source("cc100", tmp_path/f"he.txt{suffix}", quarantine=aside)] == [
            (f"cc100:he.txt{suffix}:1", "ראשון\nעדיין ראשון"), (f"cc100:he.txt{suffix}:6", "שני"), (f"cc100:he.txt{suffix}:10", "רביעי")]
        assert [q["line"] for q in aside] == [8] and aside[0]["reason"].startswith("not UTF-8 (looks like windows-1255")

def test_cc100_document_beyond_measure(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MAX_LINE", 100)
    (tmp_path/"he.txt").write_bytes(b"a" * 60 + b"\n" + b"b" * 60 + b"\n" + b"c" * 60 + b"\n\nd")
    aside = Quarantine()
    assert texts("cc100", tmp_path/"he.txt", quarantine=aside) == ["d"] and aside.counts == {"longer than 10 MB": 1}

def dump(tmp_path):
    (tmp_path/"pseudocatalogue.csv").write_text('ID,path,title,authors,translators,original_language,genre,source_edition\n36,/p46/m36,"לאיס""י",פלוני,"","",שירה,""\n'
        '37,/p46/m37,אבד,פלוני,"","",שירה,""\n38,/p46/m38,ישן,פלוני,"","",פרוזה,""\n39,/p46/m39,בניקוד,פלוני,"","",שירה,""\n', encoding="utf8")
    for name, raw in {"txt_stripped/p46/m36": "\n\tשיר / פלוני\n\nשורה\n\n\nאת הטקסט לעיל הפיקו מתנדבי פרויקט בן-יהודה באינטרנט.  הוא זמין תמיד בכתובת הבאה:https://bybe.benyehuda.org/read/36".encode(),
                      "txt/p46/m36": "מנוקד".encode(), "txt_stripped/p46/m38": HEBREW.encode("cp1255"), "txt/p46/m39": "שִׁיר".encode()}.items():
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/f"{name}.txt").write_bytes(raw)
    return tmp_path

def test_ben_yehuda_dump(tmp_path):
    aside = Quarantine()
    assert [(r["id"], r["text"]) for r in read_source("benyehuda", dump(tmp_path), quarantine=aside)] == [("benyehuda:36", "שיר / פלוני\n\nשורה"), ("benyehuda:39", "שִׁיר")]
    assert [(q["line"], q["reason"][:28]) for q in aside] == [(3, "its text file is missing"), (4, "not UTF-8 (looks like window")]

def test_ben_yehuda_folder_of_texts(tmp_path):
    dump(tmp_path)
    assert texts("benyehuda", tmp_path/"txt") == ["מנוקד", "שִׁיר"]

def test_bad_rows_are_numbered(tmp_path):
    table(tmp_path/"x.parquet", [WIKI, dict(WIKI, text=None), dict(WIKI, title=" "), WIKI])
    aside = Quarantine()
    assert len(texts("wikipedia", tmp_path, quarantine=aside)) == 2
    assert [(q["file"], q["line"], q["reason"]) for q in aside] == [(str(tmp_path/"x.parquet"), 2, "text: no text"), (str(tmp_path/"x.parquet"), 3, "title: empty text")]
    with pytest.warns(UserWarning, match="2 lines put aside"): texts("wikipedia", tmp_path)

def test_broken_line_does_not_end_the_job(tmp_path):
    (tmp_path/"x.jsonl").write_bytes(jsonl([PAGE]) + b'\n{"text": "\n' + jsonl([PAGE]))
    aside = Quarantine()
    assert len(texts("c4", tmp_path, quarantine=aside)) == 2 and [(q["line"], q["reason"], q["start"]) for q in aside] == [(2, "not JSON", '{"text": "')]

def test_limit_counts_records(tmp_path):
    table(tmp_path/"x.parquet", [dict(WIKI, text=None), *[dict(WIKI, id=str(n)) for n in range(9)]])
    assert [r["id"] for r in read_source("wikipedia", tmp_path, limit=3, quarantine=[])] == ["wikipedia:0", "wikipedia:1", "wikipedia:2"]

def test_another_corpus_is_not_an_empty_one(tmp_path):
    table(tmp_path/"x.parquet", [dict(content="שלום")])
    with pytest.raises(UserError, match=r"hebnli: not one good row \(\{'translation1: no text': 1\}\); is it in the schema of HebArabNlpProject/HebNLI"): texts("hebnli", tmp_path)

@pytest.mark.parametrize("name", ["x.parquet", "x.csv", "x.json"])
def test_damaged_file_is_named(tmp_path, name):
    (tmp_path/name).write_bytes(b'PAR1"\xff\xfe,,\n{"data": [')
    with pytest.raises(UserError, match=name): texts("heq", tmp_path/name)

@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "jsonl.gz", "jsonl.xz", "jsonl.zst", "txt"])
def test_altered_files_are_named_in_one_line(tmp_path, kind):
    "Bits flipped, bytes lost, bytes put in: rows or one line, never a traceback."
    rows, luck, path = [dict(WIKI, id=str(n)) for n in range(20)], random.Random(kind), tmp_path/f"x.{kind}"
    whole = dict(json=json.dumps(dict(data=[dict(paragraphs=[QA])] * 3)).encode(), csv=("id,title,text\n" + "1,כותרת,\"שלום, עולם\"\n" * 20).encode(), txt=b"a\n\nb").get(kind, jsonl(rows))
    table(tmp_path/"whole", rows)
    whole = (tmp_path/"whole").read_bytes() if kind == "parquet" else PACK.get(path.suffix, bytes)(whole)
    for _ in range(40 if kind in ("csv", "parquet") else 100):
        raw, at = bytearray(whole), luck.randrange(len(whole))
        if luck.random() < .4: raw[at] ^= 1 << luck.randrange(8)
        else: raw[at:at + luck.randrange(30)] = luck.choice([b"", b"\0" * 9, b"\xff\xfe", b"\\ud800", b"[" * 2000, b'"', b"1e999", luck.randbytes(20)])
        path.write_bytes(raw)
        try: json.dumps(list(read_source("heq" if kind == "json" else "wikipedia", path, quarantine=[])), ensure_ascii=False).encode()
        except UserError as e: assert "\n" not in str(e)

def test_unknown_format(tmp_path):
    (tmp_path/"x.pdf").touch()
    with pytest.raises(UserError, match="x.pdf: cannot be read; expected .parquet"): read_source("c4", tmp_path/"x.pdf")
    with pytest.raises(UserError, match="none: no such file"): read_source("c4", tmp_path/"none")

@pytest.mark.parametrize("name, near", [("wikipedai", "did you mean wikipedia\\?"), ("SupremeCourt", "did you mean supreme_court\\?"), ("zzz", "known are benyehuda, supreme_court, c4")])
def test_unknown_source(name, near):
    with pytest.raises(UserError, match=f"{name}: no such source; {near}"): read_source(name)

@pytest.mark.parametrize("name", ["benyehuda", "cc100"])
def test_source_with_an_address_says_it(name):
    with pytest.raises(UserError, match=f"fetch {SOURCES[name].url}"): read_source(name)

@pytest.mark.parametrize("name", [s.name for s in SOURCES.values() if s.hub])
def test_hub_is_streamed(monkeypatch, capsys, name):
    asked, row = [], next(t[1] for t in TABLES if t[0] == name)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or iter([row, {}, row]))
    aside, source = Quarantine(), SOURCES[name]
    assert len(list(read_source(name, quarantine=aside))) == 2 and [(q["file"], q["line"]) for q in aside] == [(source.hub, 2)]
    assert asked == [((source.hub, source.config or None), dict(split="train", streaming=True, **source.options))]
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and source.hub in out and source.license in out

def test_no_connection_is_one_line(monkeypatch):
    def offline(*a, **k): raise ConnectionError("Couldn't reach the Hub\nmore")
    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match=r"wikimedia/wikipedia: cannot be streamed \(Couldn't reach the Hub\); check the connection"): next(read_source("wikipedia"))

def test_from_publisher_to_records(tmp_path):
    table(tmp_path/"w.parquet", [WIKI])
    write_records(tmp_path/"out/wikipedia.train.jsonl.zst", read_source("wikipedia", tmp_path/"w.parquet"))
    assert list(read_records(tmp_path/"out")) == list(read_source("wikipedia", tmp_path/"w.parquet"))

def test_registry_is_complete():
    for s in SOURCES.values(): assert s.group in GROUPS and s.license and s.description and bool(s.hub or s.url) and group_of(s.name) == s.group
    assert {s.group for s in SOURCES.values()} == set(GROUPS) == set(MIXTURES["card"])

# -- mixtures

def test_known_mixtures_are_whole():
    for shares in MIXTURES.values(): assert check_mixture(shares) == shares

def test_every_name_of_the_shared_mixture_is_a_source():
    if not (data := real_data_dir()): pytest.skip("no shared data here")
    assert set(MIXTURES["shared"]) <= set(source_files(data)) # more may have come; `plan_mixture` names what gets no share

def test_the_shared_mixture_names_no_group(): assert all(group_of(name) == name for name in MIXTURES["shared"])

@pytest.mark.parametrize("shares, reason", [(dict(a=.5, b=.4), "sum to 0.9, not 1"), (dict(a=.5, b=.50001), "sum to 1.00001, not 1"), (dict(a=1.5, b=-.5), "share of a is 1.5"), (dict(a=1., b=0), "share of b is 0"),
    (dict(a=1.1, b=-.1), "share of a is 1.1"), (dict(a=-.5, b=1), "share of a is -0.5"), (dict(a="1"), "share of a is '1'"), (dict(a=True), "share of a is True"), (dict(a=float("nan")), "share of a is nan"), ({}, "not a mixture"), (["a"], "not a mixture"), (None, "not a mixture")])
def test_what_is_no_mixture(shares, reason):
    with pytest.raises(UserError, match=reason): check_mixture(shares)

def test_nearly_one_is_one(): assert check_mixture(dict(a=1/3, b=1/3, c=.3333334)) and check_mixture({str(n): .1 for n in range(10)})

def test_unknown_name_in_a_mixture():
    with pytest.raises(UserError, match="unknown source poems; known are news, legal"): check_mixture(dict(poems=1), ["news", "legal"])
    with pytest.raises(UserError, match="unknown source benyehuda"): read_mixture("card", ["news"])

@pytest.mark.parametrize("dumps", [yaml.safe_dump, json.dumps])
def test_mixture_file(tmp_path, dumps):
    (tmp_path/"mix").write_text(dumps(dict(news=.25, legal=.75)))
    assert read_mixture(tmp_path/"mix") == dict(news=.25, legal=.75)

@pytest.mark.parametrize("text", ["news: [", "news: .5\n", "7", "", "a: b: c"])
def test_bad_mixture_file_is_named(tmp_path, text):
    (tmp_path/"mix.yaml").write_text(text)
    with pytest.raises(UserError, match="mix.yaml: ") as e: read_mixture(tmp_path/"mix.yaml")
    assert "\n" not in str(e.value)

@pytest.mark.parametrize("shares, got", [(dict(c4=1.), dict(c4=.25, hedc4=.75)), (dict(c4=.5, hedc4=.5), dict(c4=.5, hedc4=.5)), (dict(c4=.6, wikipedia=.4), dict(c4=.15, hedc4=.45, wikipedia=.4)), (dict(hedc4=1.), dict(hedc4=1.))])
def test_a_source_does_not_hide_the_group_of_its_name(tmp_path, shares, got):
    from hebrewgpt_nb.training.rows import named_shares # torch takes seconds
    (tmp_path/"mix").write_text(json.dumps(shares))
    found = named_shares(dict(c4=100, hedc4=300, wikipedia=50), str(tmp_path/"mix"))
    assert {s: share for s, share in found.items() if share} == pytest.approx(got)
