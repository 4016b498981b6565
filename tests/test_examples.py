"Instruction data as people have it: each shape written on the spot by somebody else's library, and what is wrong with it said in one line."
import gzip, json, lzma, os
from pathlib import Path
from types import SimpleNamespace
import pandas as pd, pytest, torch, torch.nn.functional as F, zstandard
from hebrewgpt_nb.bundle import save_bundle
from hebrewgpt_nb.core import UserError, check_value, read_jsonl, DataSet
from hebrewgpt_nb.metrics import encode_example, score_answers
from hebrewgpt_nb.sft import in_phases, plan_phases, prepare_examples, read_all, sft
from hebrewgpt_nb.grading import prompt_ids
from hebrewgpt_nb.text.examples import hub_rows, read_examples, read_place, reading_lines
from hebrewgpt_nb.text.hygiene import screen_examples
from hebrewgpt_nb.text.records import Quarantine, write_records
from hebrewgpt_nb.tokenizer import encode_prompt
from conftest import VOCAB, small

ROWS = [dict(instruction=f"שאלה {n}: מי כתב, ומתי?", input=None if n % 3 else f"קטע {n}\nשורה שנייה; ועוד", output=f'רב"ט כתב, "כך", {n}') for n in range(12)]
PLAIN = [(r["instruction"], r["input"] or "", r["output"]) for r in ROWS]
NO_INPUT = [(i, "", o) for i, _, o in PLAIN]
QUICK = dict(steps=1, batch_tokens=256, context=128, rank=2, eval_every=1, save_every=1, device="cpu")

def renamed(**names): return [{names.get(k, k): v for k, v in r.items()} for r in ROWS]
def chats(i, o, role, text, user="user", bot="assistant"): return [{role: user, text: i}, {role: bot, text: o}]

def tables(rows, **how): return lambda path: pd.DataFrame(rows).to_csv(path, index=False, **how)
def lines(rows): return lambda path: path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf8")

MESSAGES = [dict(messages=chats(i, o, "role", "content")) for i, _, o in PLAIN]
NEMOTRON = [dict(input=[dict(role="user", content=i)], output=o, category="chat", system_prompt="") for i, _, o in PLAIN]
TRL = [dict(prompt=[dict(role="user", content=i)], completion=[dict(role="assistant", content=o)]) for i, _, o in PLAIN]
ELI5 = [dict(title=i, selftext=t, answers=dict(text=[o, "אחרת"], score=[3, 1])) for i, t, o in PLAIN]

SHAPES = { # file name -> (what writes it, columns, examples)
    "null.jsonl": (lines(ROWS), "", PLAIN),
    "alpaca.json": (lambda path: path.write_text(json.dumps(ROWS, indent=2), encoding="utf8"), "", PLAIN),
    "pandas.json": (lambda path: pd.DataFrame(ROWS).to_json(path, orient="records"), "", PLAIN),
    "wrapped.json": (lambda path: path.write_text(json.dumps(dict(version="1", data=ROWS))), "", PLAIN),
    "lines.json": (lambda path: pd.DataFrame(ROWS).to_json(path, orient="records", lines=True), "", PLAIN),
    "bom.csv": (tables(renamed(instruction="Question", output="Answer"), encoding="utf-8-sig"), "", PLAIN),
    "other names.csv": (tables(renamed(instruction="body", input="about", output="reply to it")), "instruction=body, input=about, output=reply to it", PLAIN),
    "semicolons.csv": (tables(ROWS, sep=";"), "", PLAIN),
    "hebrew.csv": (tables(renamed(instruction="שאלה", input="הקשר", output="תשובה"), encoding="cp1255"), "", PLAIN),
    "windows.tsv": (tables(ROWS, sep="\t", encoding="cp1255"), "", PLAIN),
    "excel.tsv": (tables(ROWS, sep="\t", encoding="utf-16"), "", PLAIN),
    "pandas.parquet": (lambda path: pd.DataFrame(ROWS).to_parquet(path), "", PLAIN),
    "completion.jsonl": (lines(renamed(instruction="prompt", output="completion")), "", PLAIN),
    "dolly.jsonl": (lines(renamed(input="context", output="response")), "", PLAIN),
    "eli5.jsonl": (lines(ELI5), "", PLAIN),
    "eli5.parquet": (lambda path: pd.DataFrame(ELI5).to_parquet(path), "", PLAIN),
    "nemotron.jsonl": (lines(NEMOTRON), "", NO_INPUT),
    "trl.jsonl": (lines(TRL), "", NO_INPUT),
    "messages.jsonl": (lines(MESSAGES), "", NO_INPUT),
    "messages.parquet": (lambda path: pd.DataFrame(MESSAGES).to_parquet(path), "", NO_INPUT),
    "messages.csv": (tables([dict(messages=json.dumps(m["messages"])) for m in MESSAGES]), "", NO_INPUT),
    "sharegpt.json": (lambda path: path.write_text(json.dumps([dict(conversations=chats(i, o, "from", "value", "human", "gpt")) for i, _, o in PLAIN])), "", NO_INPUT)}

def triples(examples): return [(e["instruction"], e["input"], e["output"]) for e in examples]


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_read_as_it_is(tmp_path, name):
    write, columns, expected = SHAPES[name]
    write(tmp_path/name)
    aside = Quarantine()
    found, = in_phases(read_all(str(tmp_path/name), "", "", aside, columns)) # a single file is one phase
    assert triples(found) == expected and not aside

@pytest.mark.parametrize("pack, suffix", [(gzip.compress, ".gz"), (zstandard.compress, ".zst"), (lzma.compress, ".xz")])
def test_packed_files_are_read_as_what_is_in_them(tmp_path, pack, suffix):
    for name in ("null.jsonl", "alpaca.json", "bom.csv", "windows.tsv", "pandas.parquet"):
        SHAPES[name][0](tmp_path/"plain")
        (tmp_path/(name + suffix)).write_bytes(pack((tmp_path/"plain").read_bytes()))
        assert triples(read_examples(tmp_path/(name + suffix), Quarantine())) == PLAIN

def test_a_nested_folder_of_mixed_kinds_is_tuned_on(tok, tmp_path):
    "And what was read, and what was not, is in the report."
    base = str(save_bundle(small("AM", vocab_size=VOCAB), tok, tmp_path/"base"))
    for n, name in enumerate(["null.jsonl", "alpaca.json", "bom.csv", "windows.tsv", "pandas.parquet", "sharegpt.json"]):
        (folder := tmp_path/"data"/"abc"[n % 3]).mkdir(parents=True, exist_ok=True)
        rows = [{k: v and v.replace("שאלה", f"שאלה {name[0]}").replace("רב", f"סמל {name[0]}") for k, v in r.items()} for r in ROWS]
        if name == "sharegpt.json": (folder/name).write_text(json.dumps([dict(conversations=chats(r["instruction"], r["output"], "from", "value", "human", "gpt")) for r in rows]))
        elif name.endswith("parquet"): pd.DataFrame(rows).to_parquet(folder/name)
        elif name.endswith("sv"): pd.DataFrame(rows).to_csv(folder/name, index=False, sep="," if "csv" in name else "\t", encoding="utf-8-sig" if "bom" in name else "cp1255")
        elif name == "alpaca.json": (folder/name).write_text(json.dumps(rows))
        else: lines(rows)(folder/name)
    (tmp_path/"data"/"README.md").write_text("#")
    result = sft(run=str(tmp_path/"run"), base=base, data=str(tmp_path/"data"), **QUICK)
    assert len(result["phases"]) == 1 and sum(f["examples"] for f in result["data"]["files"]) == 72
    row, = result["phases"]
    assert row["train examples"] + row["valid examples"] + row["test examples"] + row["left out"] == 72
    assert result["data"]["not_read"] == {"of another kind": 1} and len(result["data"]["files"]) == 6
    assert "tsv, windows-1255" in [f["kind"] for f in result["data"]["files"]]


# --- conversations --------------------------------------------------------------------------------------------

TALK = dict(messages=[dict(role="system", content="ענו בקצרה."), dict(role="user", content="מה שלומך?"), dict(role="assistant", content="טוב."),
                      dict(role="user", content="ומה השעה?"), dict(role="assistant", content="שתיים."), dict(role="user", content="תודה")])

def test_turns_stay_together_and_the_system_message_comes_first(tmp_path):
    write_records(tmp_path/"talk.jsonl", [TALK])
    e, = read_examples(tmp_path/"talk.jsonl", Quarantine())
    assert e["earlier"] == [dict(instruction="ענו בקצרה.\n\nמה שלומך?", input="", output="טוב.")] and (e["instruction"], e["output"]) == ("ומה השעה?", "שתיים.")
    write_records(tmp_path/"again.jsonl", [e]) # as test.jsonl holds it
    assert read_examples(tmp_path/"again.jsonl", Quarantine()) == [e]

def test_every_answer_of_a_conversation_costs_what_it_costs_after_what_was_said(tok, tmp_path):
    "The loss, against the whole softmax of torch over the text up to each answer."
    write_records(tmp_path/"talk.jsonl", [TALK])
    e, = read_examples(tmp_path/"talk.jsonl", Quarantine())
    model, nats = small("AM", vocab_size=VOCAB), 0.
    for n, turn in enumerate([*e["earlier"], e]):
        prompt, answer = encode_prompt(tok, turn["instruction"], turn["input"], e["earlier"][:n]), [*tok.encode(turn["output"]), tok.eos_id]
        with torch.no_grad(): logits = model(torch.tensor([prompt + answer]))[0]
        nats += F.cross_entropy(logits[len(prompt) - 1:-1], torch.tensor(answer), reduction="sum").item()
    scores = score_answers(model, tok, [e])
    assert scores.nats == pytest.approx(nats, rel=1e-4) and scores.bytes == len("טוב.שתיים.".encode())
    assert prompt_ids(tok, e) == encode_prompt(tok, e["instruction"], e["input"], e["earlier"]) # evaluation asks with the turns before

def test_a_conversation_longer_than_the_context_keeps_the_turns_that_fit(tok, tmp_path):
    write_records(tmp_path/"talk.jsonl", [dict(messages=[m for k in range(9) for m in chats(f"שאלה {n} {k} ארוכה למדי", f"תשובה {n} {k}", "role", "content")]) for n in range(8)])
    phase, = plan_phases([read_examples(tmp_path/"talk.jsonl", Quarantine())], tok, 128)
    everything = phase.train + phase.valid + phase.test
    assert phase.cut == len(everything) == 8 and not phase.left_out
    assert all(1 < len(e["earlier"]) < 8 and len(encode_example(tok, e)[0]) <= 128 for e in everything)
    base = str(save_bundle(small("AM", vocab_size=VOCAB), tok, tmp_path/"base"))
    sft(run=str(tmp_path/"run"), base=base, data=str(tmp_path/"talk.jsonl"), **QUICK)
    told = json.loads((tmp_path/"run"/"bundle"/"generation.json").read_text())["info"]
    assert 1 < told["turns"] < 9 # what the app goes by

@pytest.mark.parametrize("messages, reason", [
    ([dict(role="tool", content="{}")], "another role"), ([dict(role="assistant", content="שלום")], "begins with an answer"), ([dict(role="user", content="שלום")], "without an answer"),
    ("שלום", "not a list"), ([7], "not an object"), ([dict(role="user", content=7)], "holds no text"), (chats("מה?", " ", "role", "content"), "no instruction or no output"),
    (chats("מה?", "\ud83d", "role", "content"), "half a surrogate pair")])
def test_a_conversation_that_is_none_is_put_aside(tmp_path, messages, reason):
    (tmp_path/"talk.jsonl").write_text(json.dumps(TALK) + "\n" + json.dumps(dict(messages=messages)) + "\n")
    aside = Quarantine()
    assert len(read_examples(tmp_path/"talk.jsonl", aside)) == 1
    assert [q["line"] for q in aside] == [2] and reason in aside[0]["reason"]


# --- phases ---------------------------------------------------------------------------------------------------

def test_phases_named_by_files_and_by_records(tmp_path):
    lines(ROWS[:5])(tmp_path/"phase1.easy.jsonl"), tables(ROWS[5:8])(tmp_path/"phase2.csv"), lines([r | dict(phase=1) for r in ROWS[8:]])(tmp_path/"more.jsonl")
    first, second = in_phases(read_examples(tmp_path, Quarantine()))
    assert triples(first) == PLAIN[8:] + PLAIN[:5] and triples(second) == PLAIN[5:8] and "phase" not in first[0]

def test_a_phase_without_data(tok, tmp_path):
    lines(ROWS)(tmp_path/"one.jsonl"), (tmp_path/"none.jsonl").write_text("")
    with pytest.raises(UserError, match="none.jsonl: not one good line .it is empty."): read_all("", str(tmp_path/"one.jsonl"), str(tmp_path/"none.jsonl"), Quarantine())


# --- what is wrong --------------------------------------------------------------------------------------------

def refused(path, *says, **how):
    with pytest.raises(UserError) as e: read_examples(path, Quarantine(), **how)
    assert "\n" not in str(e.value) and all(part in str(e.value) for part in says), str(e.value)

def test_columns_of_other_names_are_named(tmp_path):
    tables(renamed(instruction="a", output="b"))(tmp_path/"x.csv")
    refused(tmp_path/"x.csv", "x.csv: not one good line ({'no instruction or no output': 12}); its columns are a, input, b: name yours, as columns=\"instruction=question,output=reply\"")
    refused(tmp_path/"x.csv", "columns is 'a': write it as instruction=question,output=reply", columns="a")

def test_a_column_that_is_asked_for_must_be_there(tmp_path):
    "Another one is not taken for it; spaces and case do not matter."
    tables([{" Question ": r["instruction"], "Answer (final)": r["output"]} for r in ROWS])(tmp_path/"x.csv")
    refused(tmp_path/"x.csv", "no column Nope in ", "x.csv; its columns are  Question , Answer (final)", columns="instruction=Nope,output=Answer (final)")
    assert triples(read_examples(tmp_path/"x.csv", Quarantine(), "instruction=question,output=ANSWER (final) ")) == NO_INPUT
    assert triples(read_examples(tmp_path/"x.csv", Quarantine(), "output=answer (final)")) == NO_INPUT

def test_in_a_folder_one_file_is_enough(tmp_path):
    "A column that some file has is taken there, and the usual ones elsewhere; one that none has is refused."
    tables([dict(ask=r["instruction"], output=r["output"]) for r in ROWS])(tmp_path/"mine.csv")
    lines([dict(instruction="מי?", output="אני.")] * 2)(tmp_path/"usual.jsonl")
    assert len(read_examples(tmp_path, Quarantine(), "instruction=ask")) == len(ROWS) + 2
    (tmp_path/"mine.csv").unlink()
    lines([dict(instruction="מה?", output="כן.")] * 2)(tmp_path/"more.jsonl")
    with pytest.raises(UserError, match="no column Nope in .* nor in 1 more; its columns are instruction, output"): read_examples(tmp_path, Quarantine(), "instruction=Nope")

def test_empty_answers_are_said_and_numbers_are_texts(tmp_path):
    tables([r | dict(output="") for r in ROWS])(tmp_path/"x.csv")
    with pytest.raises(UserError, match="output is empty in every row") as e: read_examples(tmp_path/"x.csv", Quarantine())
    assert "name yours" not in str(e.value)
    lines([dict(question="כמה?", output=n) for n in (5, 2.5, True)])(tmp_path/"n.jsonl")
    aside = Quarantine()
    assert [e["output"] for e in read_examples(tmp_path/"n.jsonl", aside)] == ["5", "2.5"] and aside.counts == {"a field is not a text": 1}

@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_json_of_utf_16_is_converted_and_that_is_said(tmp_path, encoding):
    for name in ("null.jsonl", "alpaca.json", "lines.json"):
        SHAPES[name][0](tmp_path/"plain")
        mark = "\ufeff" if encoding == "utf-16-be" else ""
        (tmp_path/name).write_bytes((mark + (tmp_path/"plain").read_text(encoding="utf8")).encode(encoding))
        aside = Quarantine()
        found = read_examples(tmp_path/name, aside)
        assert triples(found) == PLAIN and not aside and found.files[0]["kind"].endswith(", utf-16")

def test_a_mistyped_path_is_no_name_of_the_hub(tmp_path, monkeypatch):
    "Nothing is fetched for a file's name, nor below a folder that is there."
    import datasets
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("it was fetched"))
    monkeypatch.chdir(tmp_path)
    (tmp_path/"d").mkdir()
    for name in ("d/nosuch", "other/rows.jsonl", "other/rows.csv.gz"):
        refused(name, f"{name}: no such file or folder")
        with pytest.raises(UserError, match="no such file or folder"): check_value("data", name, DataSet)

def test_a_file_of_something_else_in_a_folder_is_left_and_said(tmp_path):
    lines(ROWS)(tmp_path/"x.jsonl"), (tmp_path/"dataset_infos.json").write_text('{"builder": "json", "size": 7}')
    assert "not read: 1 file (no columns of examples: builder, size)" in reading_lines(read_examples(tmp_path, Quarantine()))[1]
    (tmp_path/"x.jsonl").unlink()
    refused(tmp_path, "dataset_infos.json: not one good line")

def test_ragged_rows_are_counted(tmp_path):
    (tmp_path/"x.csv").write_text("question,answer\nמה?,זה\nלבד\nא,ב,ג\nא,ב,\n", encoding="utf8")
    aside = Quarantine()
    assert len(read_examples(tmp_path/"x.csv", aside)) == 2 and aside.counts == {"another number of fields than the header has": 2} and [q["line"] for q in aside] == [3, 4]

def test_damaged_files_are_named(tmp_path):
    SHAPES["alpaca.json"][0](tmp_path/"cut.json"), SHAPES["pandas.parquet"][0](tmp_path/"cut.parquet")
    for name, says in (("cut.json", "not whole JSON"), ("cut.parquet", "cannot be read as Parquet")):
        raw = (tmp_path/name).read_bytes()
        (tmp_path/name).write_bytes(raw[:len(raw) * 2 // 3])
        refused(tmp_path/name, f"{name}: {says}", "fetch or make it again")
    (tmp_path/"quote.csv").write_text('question,answer\nמה?,"זה\n', encoding="utf8")
    refused(tmp_path/"quote.csv", "quote.csv: line 2: unexpected end of data", "write each quote twice")
    (tmp_path/"x.xlsx").write_bytes(b"PK")
    refused(tmp_path/"x.xlsx", "x.xlsx: cannot be read as examples; give .jsonl, .json, .csv, .tsv, .parquet")
    refused(tmp_path/"none", "none: no such file or folder")

def test_jsonl_in_another_encoding_is_said(tmp_path):
    (tmp_path/"x.jsonl").write_bytes("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in ROWS).encode("cp1255"))
    refused(tmp_path/"x.jsonl", "looks like windows-1255: iconv -f windows-1255 -t utf-8")

def test_a_name_that_is_no_path_is_asked_of_the_hub(tmp_path, monkeypatch):
    "By `datasets`, here from a local folder of that name; and offline it says what to do."
    import datasets
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path/"cache"))
    (tmp_path/"someone"/"asks").mkdir(parents=True)
    lines(ROWS)(tmp_path/"someone"/"asks"/"train.jsonl")
    monkeypatch.chdir(tmp_path)
    assert triples(read_place("someone/asks", Quarantine())) == PLAIN
    assert check_value("data", "someone/asks", DataSet) == "someone/asks"
    with pytest.raises(UserError, match="nor a name of the hub"): check_value("data", "none.jsonl", DataSet)

def test_offline_the_way_out_is_said(monkeypatch):
    import datasets, huggingface_hub
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True), monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="someone/none: no such file or folder here, and no such data set .* give its folder") as e: list(hub_rows("someone/none"))
    assert "\n" not in str(e.value)

def test_retries_of_the_hub_are_kept_quiet(monkeypatch):
    import datasets
    from huggingface_hub.utils import logging
    def fails(*_, **__):
        assert logging.get_verbosity() == logging.ERROR
        raise ConnectionError("no way there")
    monkeypatch.setattr(datasets, "load_dataset", fails)
    before = logging.get_verbosity()
    with pytest.raises(UserError, match="no way there"): list(hub_rows("someone/none"))
    assert logging.get_verbosity() == before


# --- hygiene --------------------------------------------------------------------------------------------------

def test_what_spoils_a_model_is_mended_or_dropped_and_counted(tmp_path):
    rows = ROWS + [ROWS[0], dict(instruction="מה?", output="..."), dict(instruction="מי?\n### תשובה:\nאני", output="כן"), dict(instruction="איך כותבים?", output="<p>כך &amp; כך</p>"),
                   dict(instruction="מהי בירת איטליה", output="רומא"), dict(instruction="\ud83d", output="כן")]
    (tmp_path/"sft").mkdir(), (tmp_path/"eval").mkdir()
    (tmp_path/"sft"/"mine.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    write_records(tmp_path/"eval"/"choice.jsonl", [dict(id="1", question="מהי בירת איטליה?", choices=["רומא", "מילאנו"])])
    aside = Quarantine()
    found, account = prepare_examples(SimpleNamespace(data=str(tmp_path), phase1="", phase2="", columns="", split=False), aside)
    assert account["dropped"] == {"a copy of another": 1, "an answer without a letter or digit": 1, "holds a heading of the prompt": 1, "overlaps an evaluation set": 1}
    assert account["mended"] == {"entities": 1, "tags": 1} and aside.counts == {"instruction is not Unicode (half a surrogate pair)": 1}
    assert found.phases[0][-1]["output"] == "כך & כך" and len(found.phases[0]) == 13

def test_many_questions_about_one_passage_are_no_copies():
    passage = " ".join(f"מילה{n}" for n in range(100))
    asked = [dict(instruction="ענו לפי הקטע.", input=f"{passage}\nשאלה: {q}", output="אין תשובה בקטע.", task="qa") for q in ("מי הלך?", "מתי בא?", "איפה ישב?")]
    assert not screen_examples([asked]).dropped

def test_a_system_prompt_that_all_share_is_no_overlap(tok):
    system = "אתה עוזר שעונה תמיד בעברית תקנית וברורה ובלי להאריך יותר מן הצריך לעולם"
    data = [dict(instruction=f"{system}\n\nשאלה {n}?", input="", output=f"תשובה {n}", task="chat") for n in range(40)]
    assert not screen_examples([data], tested=[f"{system} שאלה אחרת"]).dropped
    phase, = plan_phases([data], tok, 256)
    assert not phase.left_out

def test_the_test_part_is_not_learned_in_other_words(tok):
    passage = [" ".join(f"מילה{n}ב{k}" for n in range(20)) for k in range(60)]
    data = [dict(instruction=do, input=text, output="כן", task=do) for text0 in passage for do, text in (("סכמו", text0), ("הסבירו", f"הקטע: {text0}"))]
    phase, = plan_phases([data], tok, 256)
    tested = {e["input"].removeprefix("הקטע: ") for e in phase.test}
    assert phase.left_out["overlaps the test part"] > 0 and not tested & {e["input"].removeprefix("הקטע: ") for e in phase.train + phase.valid}
