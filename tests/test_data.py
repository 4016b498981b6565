"The corpus job: what becomes of each record, and what a bad file or a kill does."
import json, os, random, re, signal, subprocess, sys, time
from collections import Counter
import numpy as np, psutil, pytest
from hebrewgpt_nb.text.clean import clean_text
from hebrewgpt_nb.text.copies import HeldOut, overlap_mask, word_hashes
from hebrewgpt_nb.core import UserError, read_json, sample_dir, sha256_file
from hebrewgpt_nb.data import prepare_data
from hebrewgpt_nb.text.filter import clean_records, drop_reason
from hebrewgpt_nb.text.shards import worker_pool
from hebrewgpt_nb.text.records import read_records, write_records

os.environ["HEBREWGPT_QUIET"] = "1"
WORDS = sorted({w for r in read_records(sorted((sample_dir()/"pretrain").glob("*.jsonl"))) for w in r["text"].split() if w.isalpha()})

def prose(seed, words=60):
    luck = random.Random(seed)
    return "\n".join(" ".join(luck.choices(WORDS, k=12)) + "." for _ in range(words//12))

def record(n, text=None, source="news"):
    return dict(id=f"{source}-{n}", text=text or prose(n), source=source, license="CC0-1.0")

# -- the job

def test_drop_reasons():
    assert drop_reason("הילדים יצאו אל החצר ושיחקו") is None
    assert drop_reason("שלום") == "too little Hebrew"
    assert drop_reason("האוניברסיטה העברית בירושלים") == "fewer than five words" # and does not repeat itself
    assert drop_reason("האוניברסיטה העברית נמצאת בהר הצופים") is None
    assert drop_reason("The children went out to play " * 9 + "הילדים יצאו אל החצר ושיחקו") == "mostly not Hebrew"

def visual(text, whole):
    "Lines, or the letters of each word, as a screen shows them from left to right; digits and Latin letters stay readable."
    def turn(s): return re.sub(r"[A-Za-z0-9]+(?:[.,:/-][A-Za-z0-9]+)*", lambda m: m[0][::-1], s[::-1])
    return "\n".join(turn(line) if whole else " ".join(map(turn, line.split(" "))) for line in text.split("\n"))

@pytest.mark.parametrize("whole", [True, False], ids=["lines", "words"])
def test_hebrew_in_visual_order_is_dropped_and_counted(tmp_path, whole):
    found = sorted(r["text"] for r in read_records(sorted((sample_dir()/"pretrain").glob("*.jsonl"))))
    texts = [f"{text[:150]} (בשנת 1948, לפי ynet.co.il)" for text in found[:80]]
    for niqqud in ("keep", "strip"):
        counts = Counter(reason for *_, reason in clean_records([dict(text=visual(t, whole)) for t in texts], Counter(), niqqud))
        assert counts == {"written backwards": len(texts)} and len(texts) == 80
    half = [f"{t}\n{visual(t, whole)}" for t in texts]
    assert all(drop_reason(clean_text(t)) is None for t in texts) and all(drop_reason(clean_text(t)) for t in half)
    write_records(tmp_path/"in/a.train.jsonl", [record(n) for n in range(9)] + [record(n, visual(texts[n], whole)) for n in range(10, 15)])
    prepare_data(run=str(tmp_path/"out"), data=str(tmp_path/"in"))
    assert read_json(tmp_path/"out/report.json")["sources"]["a"]["dropped"] == {"written backwards": 5}

def test_prepare_counts_everything(tmp_path):
    lines = [json.dumps(record(n)) for n in range(20)] + [json.dumps(record(0)), json.dumps(dict(text="English only, " * 9)), "broken"]
    (tmp_path/"in").mkdir()
    (tmp_path/"in/news.train.jsonl").write_text("\n".join(lines))
    write_records(tmp_path/"in/news.valid.jsonl", [record(3), record(21)])
    totals = prepare_data(run=str(tmp_path/"out"), data=str(tmp_path/"in"))
    report = read_json(tmp_path/"out/report.json")["sources"]["news"]
    assert report["dropped"] == {"in validation": 1, "duplicate": 1, "too little Hebrew": 1} and report["quarantined"] == {"not JSON": 1}
    assert totals["read"] == 25 == totals["train_documents"] + totals["valid_documents"] + totals["dropped"] + totals["quarantined"]
    train, valid = ({r["text"] for r in read_records(tmp_path/f"out/news.{role}.jsonl.zst")} for role in ("train", "valid"))
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
    counts = Counter(), Counter()
    with worker_pool(2) as pool: together = list(clean_records(records, counts[0], pool=pool))
    alone = list(clean_records(records, counts[1]))
    assert [(r, n, why) for r, _, n, why in together] == [(r, n, why) for r, _, n, why in alone] and counts[0] == counts[1]
    assert all((a[1] == b[1]).all() for a, b in zip(together, alone))

def test_one_flat_file_with_parameters_of_its_own(tmp_path):
    write_records(tmp_path/"mine.jsonl", [dict(text="בְּבֹקֶר " + prose(n, 24)) for n in range(30)] + [dict(text=near(prose(0, 24), 6))])
    write_records(tmp_path/"items/quiz.jsonl", [dict(question=prose(5, 24))])
    given = dict(data=str(tmp_path/"mine.jsonl"), evals=str(tmp_path/"items"), niqqud="strip", alike=.6, seed=9)
    totals = prepare_data(run=str(tmp_path/"out"), **given)
    report = read_json(tmp_path/"out/report.json")["sources"]["mine"]
    assert report["dropped"] == {"overlaps what is held out": 1, "nearly a duplicate": 1} and totals["read"] == 31
    assert all(r["text"].startswith("בבקר ") for r in read_records(tmp_path/"out/mine.train.jsonl.zst"))

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
    assert sorted(p.name for p in (tmp_path/"out").iterdir()) == [".work", "progress.json"]
    write_records(tmp_path/"in/b.train.jsonl.zst", [record(n + 100, source="b") for n in range(9)])
    assert prepare_data(run=str(tmp_path/"out"), data=str(tmp_path/"in"))["read"] == 18 and not (tmp_path/"out/.work").exists()

def test_command_line_says_one_line(tmp_path):
    done = subprocess.run([sys.executable, "-m", "hebrewgpt_nb.data", "--run", tmp_path/"out", "--data", tmp_path/"none"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: data is") and done.stderr.count("\n") == 1

# -- copies, and what is held out

def near(text, n):
    "The text with `n` words exchanged."
    luck, words = random.Random(n), text.split(" ")
    for i in luck.sample(range(len(words)), n): words[i] = luck.choice(WORDS)
    return " ".join(words)

def test_near_duplicates_within_and_across_sources(tmp_path):
    write_records(tmp_path/"in/a.train.jsonl", [record(n) for n in range(30)] + [record(99, near(prose(3), 5))])
    write_records(tmp_path/"in/b.train.jsonl", [record(n, near(prose(n), 5), "b") for n in range(5)] + [record(n, source="b") for n in range(50, 60)])
    write_records(tmp_path/"in/b.valid.jsonl", [record(77, near(prose(20), 5), "b")])
    prepare_data(run=str(tmp_path/"out"), data=str(tmp_path/"in"))
    report = read_json(tmp_path/"out/report.json")
    dropped = {s: r["dropped"] for s, r in report["sources"].items()}
    assert dropped["a"].get("nearly a duplicate", 0) + dropped["b"].get("nearly a duplicate", 0) + dropped["b"].get("in validation", 0) == 6
    assert dropped["a"]["in validation"] >= 1 and all(e["likeness"] >= .8 for e in report["examples"]["nearly a duplicate"])
    prepare_data(run=str(tmp_path/"strict"), data=str(tmp_path/"in"), alike=1.)
    assert not any("nearly a duplicate" in r["dropped"] for r in read_json(tmp_path/"strict/report.json")["sources"].values())

def test_training_holds_nothing_of_validation_or_evaluation(tmp_path):
    question = prose(1000, 24).replace("\n", " ")
    quoted = prose(2000).replace("\n", " ").split(". ")[1:3]
    write_records(tmp_path/"in/pretrain/a.train.jsonl", [record(n) for n in range(20)] + [record(21, prose(21) + f"\n{question}\n" + prose(22)), record(23, prose(23) + "\n" + " ".join(quoted)), record(24, f"{question} {question}")])
    write_records(tmp_path/"in/pretrain/a.valid.jsonl", [record(2000, prose(2000).replace("\n", " "))])
    (tmp_path/"in/eval").mkdir()
    (tmp_path/"in/eval/quiz.jsonl").write_text(json.dumps(dict(id="1", question=question, choices=["כן", "לא"], answer_index=0)))
    totals = prepare_data(run=str(tmp_path/"out"), data=str(tmp_path/"in"))
    report = read_json(tmp_path/"out/report.json")["sources"]["a"]
    assert report["cut"] == dict(documents=2, words=24 + 24) and report["dropped"] == {"overlaps what is held out": 1} and totals["words_cut"] == 48
    held, train = HeldOut([question, prose(2000)]), {r["id"]: r["text"] for r in read_records(tmp_path/"out/a.train.jsonl.zst")}
    assert not any(overlap_mask(word_hashes(t), held).any() for t in train.values())
    assert word_hashes(train["news-21"]).tolist() == word_hashes(prose(21) + " " + prose(22)).tolist()

def test_broken_evaluation_items_are_counted(tmp_path):
    write_records(tmp_path/"in/pretrain/a.train.jsonl", [record(n) for n in range(20)])
    (tmp_path/"in/eval").mkdir()
    (tmp_path/"in/eval/quiz.jsonl").write_text("broken\n" + json.dumps(dict(question=prose(0))))
    prepare_data(run=str(tmp_path/"out"), data=str(tmp_path/"in"))
    assert [(q["file"].rsplit("/", 1)[1], q["line"]) for q in map(json.loads, open(tmp_path/"out/quarantine.jsonl"))] == [("quiz.jsonl", 1)]

def test_evaluation_items_may_be_a_file_packed_or_not(tmp_path):
    question = prose(0, 24)
    write_records(tmp_path/"in/a.train.jsonl", [record(n) for n in range(1, 9)] + [record(0, question)])
    write_records(tmp_path/"items/quiz.jsonl", [dict(question=question)])
    write_records(tmp_path/"packed/quiz.jsonl.zst", [dict(question=question)])
    (tmp_path/"words").mkdir()
    (tmp_path/"words/quiz.txt").write_text(question, encoding="utf8")
    for n, evals in enumerate(("items/quiz.jsonl", "items", "packed", "packed/quiz.jsonl.zst", "words")):
        totals = prepare_data(run=str(tmp_path/f"out{n}"), data=str(tmp_path/"in"), evals=str(tmp_path/evals))
        assert totals["dropped"] == 1, evals
    (tmp_path/"none").mkdir()
    with pytest.raises(UserError, match="none: holds no records; expected files"): prepare_data(run=str(tmp_path/"out"), data=str(tmp_path/"in"), evals=str(tmp_path/"none"))

def test_half_a_surrogate_pair_does_not_end_the_job(tmp_path, capsys):
    lines = [record(n) for n in range(9)] + [record(9) | {field: "\ud83d"} for field in ("id", "text", "source", "license")]
    (tmp_path/"in/pretrain").mkdir(parents=True)
    (tmp_path/"in/eval").mkdir()
    (tmp_path/"in/pretrain/a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    (tmp_path/"in/eval/quiz.jsonl").write_text(json.dumps(dict(question="\ud83d")) + "\n" + json.dumps(dict(question=None, choices=[["שלום"]])))
    totals = prepare_data(run=str(tmp_path/"out"), data=str(tmp_path/"in"))
    assert (totals["read"], totals["quarantined"]) == (13, 4)
    assert [(q["file"].rsplit("/", 1)[1], q["line"]) for q in map(json.loads, open(tmp_path/"out/quarantine.jsonl"))] == [("a.jsonl", n) for n in range(10, 14)] + [("quiz.jsonl", 1)]
    said = capsys.readouterr().out
    assert "prepare_data: 5 lines put aside (" in said and "license is not Unicode (half a surrogate pair): 1" in said and "a.jsonl:10" in said

def test_file_whose_name_is_not_unicode_is_cleaned(tmp_path):
    write_records(tmp_path/"a.jsonl", [record(n) for n in range(9)])
    os.mkdir(tmp_path/"in")
    os.rename(tmp_path/"a.jsonl", os.fsencode(tmp_path) + b"/in/\xe7.jsonl")
    assert prepare_data(run=str(tmp_path/"out"), data=str(tmp_path/"in"))["read"] == 9
    assert list(read_json(tmp_path/"out/report.json")["sources"]) == ["\ufffd"]

def test_run_must_not_be_the_folder_of_the_file_that_is_read(tmp_path):
    write_records(tmp_path/"a.train.jsonl.zst", [record(n) for n in range(9)])
    before = (tmp_path/"a.train.jsonl.zst").read_bytes()
    with pytest.raises(UserError, match="give another folder"): prepare_data(run=str(tmp_path), data=str(tmp_path/"a.train.jsonl.zst"))
    assert (tmp_path/"a.train.jsonl.zst").read_bytes() == before

def test_run_must_not_be_a_link_to_the_data(tmp_path):
    write_records(tmp_path/"in/a.train.jsonl.zst", [record(n) for n in range(9)])
    (tmp_path/"link").symlink_to(tmp_path/"in")
    before = (tmp_path/"in/a.train.jsonl.zst").read_bytes()
    with pytest.raises(UserError, match="give another folder"): prepare_data(run=str(tmp_path/"link"), data=str(tmp_path/"in"))
    assert (tmp_path/"in/a.train.jsonl.zst").read_bytes() == before

def test_report_of_another_stage_is_not_taken_for_ours(tmp_path):
    write_records(tmp_path/"in/a.jsonl", [record(n) for n in range(9)])
    (tmp_path/"b.train.jsonl.zst").touch()
    for report in ('{"base": {}}', "[]", '{"sources": 7}', '{"sources": {"../b": {}}}'): # nothing outside the folder is removed
        (tmp_path/"out").mkdir(exist_ok=True)
        (tmp_path/"out/report.json").write_text(report)
        with pytest.raises(UserError, match="report.json: not written by this stage"): prepare_data(run=str(tmp_path/"out"), data=str(tmp_path/"in"))
    assert (tmp_path/"b.train.jsonl.zst").exists()

UNGUARDED = """
import sys
from hebrewgpt_nb.data import prepare_data
prepare_data(run=sys.argv[1], data=sys.argv[2])
"""

@pytest.mark.skipif(os.cpu_count() == 1, reason="one process does it all")
def test_script_without_a_guard_is_told_so(tmp_path):
    write_records(tmp_path/"in/a.jsonl", [record(n, prose(n) * 100) for n in range(90)]) # enough for several processes
    (tmp_path/"mine.py").write_text(UNGUARDED)
    done = subprocess.run([sys.executable, tmp_path/"mine.py", tmp_path/"out", tmp_path/"in"], capture_output=True, text=True, timeout=120)
    assert done.returncode and "FileNotFoundError" not in done.stderr
    assert "error: put what this script does below `if __name__ == '__main__':`" in done.stderr
    assert "UserError: a worker process died: out of memory, or the work was begun in a script outside" in done.stderr.splitlines()[-1]

# -- a kill

def test_killed_and_started_again(tmp_path):
    for s in "abcd": write_records(tmp_path/f"in/{s}.train.jsonl.zst", [record(n, source=s) for n in range(ord(s)*1000, ord(s)*1000 + 400)])
    def job(out): return [sys.executable, "-m", "hebrewgpt_nb.data", "--run", str(tmp_path/out), "--data", str(tmp_path/"in")]
    def files(out): return {p.name: sha256_file(p) for p in (tmp_path/out).iterdir() if p.suffix != ".json"}
    begun = time.monotonic()
    subprocess.run(job("whole"), check=True, capture_output=True)
    lasted, luck = time.monotonic() - begun, random.Random(0)
    for _ in range(5):
        running = subprocess.Popen(job("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(luck.uniform(.5, 1)*lasted)
        running.send_signal(signal.SIGKILL)
        running.wait()
    subprocess.run(job("killed"), check=True, capture_output=True)
    assert files("killed") == files("whole") and len(files("whole")) >= 9

FOREVER = """
import itertools, collections, hebrewgpt_nb.text.filter as d
with d.cleaning_pool(10**9) as pool:
    for n, _ in enumerate(d.clean_records((dict(text="שלום " * 1000) for _ in itertools.count()), collections.Counter(), pool=pool)):
        if n == 500: print("cleaning", flush=True)
"""

def test_a_kill_leaves_no_process_behind():
    running = subprocess.Popen([sys.executable, "-c", FOREVER], stdout=subprocess.PIPE)
    assert running.stdout.readline() == b"cleaning\n"
    children = psutil.Process(running.pid).children(recursive=True)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert (children or os.cpu_count() == 1) and not psutil.wait_procs(children, timeout=10)[1]
