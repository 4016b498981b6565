"Records and shards: what must hold, and what a bad file does."
import gzip, json, os, subprocess, sys, time
from types import SimpleNamespace
import numpy as np, pytest, zstandard
from hebrewgpt_nb import data
from hebrewgpt_nb.core import UserError, read_json
from hebrewgpt_nb.data import (Quarantine, Shards, build_shards, clean_records, drop_reason, prepare_data, read_records, text_key, write_records)

os.environ["HEBREWGPT_QUIET"] = "1"
LETTERS = SimpleNamespace(encode=lambda texts: [[ord(c) % 1000 + 2 for c in t] for t in texts], bos_id=0, eos_id=1, vocab_size=1002, sha256="letters")

def record(n, text=None, source="news"):
    return dict(id=f"{source}-{n}", text=text or f"ביום {'אבגדהוזחטיכלמנסעפצקרשת'[n % 22]*3} נפתחה התערוכה החדשה במוזיאון העירוני", source=source, license="CC0-1.0")

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
