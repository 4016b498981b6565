"""A teacher and a translator behind an endpoint that fails in every way: what is paid for stays, nothing is asked twice,
what no one should learn from is kept aside, and the key is nowhere."""
import json, os, signal, socket, subprocess, sys, time
from pathlib import Path
import pytest
from hypothesis import given, settings, strategies as st
from hebrewgpt_nb import making
from hebrewgpt_nb.core import UserError, read_json, read_jsonl
from hebrewgpt_nb.making import KINDS, How, make_examples, teacher_requests, translation_fault
from hebrewgpt_nb.sft import curriculum
from hebrewgpt_nb.text.records import Quarantine, write_records
from chat_server import chat, word_for_word

ROOT = Path(__file__).parents[1]
FAST = dict(requests_per_minute=10**6, tokens_per_minute=10**9)
HEBREW = "<example><instruction>שאלה</instruction><input></input><output>{}</output></example>"

def rows(n: int) -> list[dict]:
    names = "Anna Boaz Clara David Esther Frank Gilda Henry Irene Jacob".split()
    return [dict(instruction=f"How many apples does {names[k % 10]} have after buying {k} more?", input="",
                 output=f"{names[k % 10]} had {k + 7} and bought {k}, so now there are {2*k + 7} of them in the {names[(k + 3) % 10]} basket.") for k in range(n)]

@pytest.fixture
def english(tmp_path):
    write_records(tmp_path/"english.jsonl", rows(8))
    return str(tmp_path/"english.jsonl")

def run(place: Path, it, english: str, **more) -> dict:
    return make_examples(run=str(place), base_url=it.address, model="m", english=english, **FAST | dict(count=8, at_once=1) | more)

def at(n: int, fault: str): return lambda k: fault if k == n else None

def contents(place: Path) -> dict: # of the result, without what was measured
    return {p.name: p.read_text(encoding="utf8") for p in sorted([*place.glob("sft/*"), place/"rejected.jsonl"])}

@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    place = tmp_path_factory.mktemp("unbroken")
    write_records(place/"english.jsonl", rows(8))
    with chat() as it: figures = run(place/"run", it, str(place/"english.jsonl"))
    assert (figures["examples"], it.requests) == (8, 8)
    return contents(place/"run")


# --- faults that pass, and faults that do not -------------------------------------------------------------

@pytest.mark.parametrize("fault", ["429 0.4", "500", "503", "cut", "torn", "slow 3"])
def test_a_fault_that_passes_changes_nothing(fault, english, unbroken, tmp_path):
    begun = time.monotonic()
    with chat(at(2, fault)) as it: run(tmp_path/"run", it, english, timeout=.5 if fault[:4] == "slow" else 20.)
    assert it.requests == 9 and contents(tmp_path/"run") == unbroken
    if fault == "429 0.4": assert .4 <= time.monotonic() - begun

@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_name_stops_at_the_first_request(status, english, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    with chat(lambda n: f"{status} sk-very-secret is no key of ours") as it, pytest.raises(UserError) as e: run(tmp_path/"run", it, english, at_once=4)
    assert it.requests == 1 and f"({status}" in str(e.value) and "secret" not in str(e.value) and "\n" not in str(e.value)

def test_the_key_goes_to_the_endpoint_and_nowhere_else(english, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    with chat(at(1, "400 the request of sk-very-secret is refused")) as it: run(tmp_path/"run", it, english)
    assert it.keys == {"Bearer sk-very-secret"}
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"very-secret" in p.read_bytes()]
    assert "very-secret" not in "".join(capfd.readouterr())
    assert "the endpoint refuses: 400: 'the request of *** is refused'" in read_json(tmp_path/"run"/"report.json")["rejected"]

@pytest.mark.parametrize("fault, said", [("500", "500"), ("429 0.01", "429"), ("cut", "peer closed"), ("torn", "not JSON")])
def test_an_endpoint_that_is_down_ends_the_run_in_one_line(fault, said, english, unbroken, tmp_path, monkeypatch):
    monkeypatch.setattr(making, "RETRIES", 1)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", .01)
    with chat(lambda n: fault if n >= 3 else None) as it:
        with pytest.raises(UserError, match=f"5 requests got no answer with 1 retries each .*{said}.*; 3 answers are kept"): run(tmp_path/"run", it, english)
        assert (asked := it.requests) == 3 + 5*2
        it.server.faults = lambda n: None
        run(tmp_path/"run", it, english)
    assert it.requests - asked == 5 and contents(tmp_path/"run") == unbroken

def test_no_endpoint_at_all_is_one_line(english, tmp_path, monkeypatch):
    monkeypatch.setattr(making, "RETRIES", 0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(UserError, match=f"^{address}/: 2 requests got no answer .*refused"):
            make_examples(run=str(tmp_path/"run"), base_url=address, model="m", english=english)

def test_that_it_asks_again_is_said(english, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", .01)
    with chat(lambda n: "500" if n in (2, 3, 6) else None) as it: run(tmp_path/"run", it, english)
    said = [line for line in capfd.readouterr().out.split("\n") if "did not answer" in line]
    assert said == [f"making: {it.address} did not answer: asks again, {n} of 4 times" for n in (1, 2)] # each once

def test_what_the_endpoint_refuses_is_left_and_asked_again_only_when_asked_for(english, tmp_path):
    with chat(at(3, "400 too long")) as it: figures = run(tmp_path/"run", it, english)
    assert (figures["examples"], figures["rejected"], it.requests) == (7, 1, 8)
    with chat(lambda n: "400 unknown parameter max_tokens") as it, pytest.raises(UserError, match="5 of them in a row .*unknown parameter"): run(tmp_path/"new", it, english)
    assert it.requests == 5


# --- answers that no one should learn from ----------------------------------------------------------------

ANSWERS = {
    "says The answer is forty two.": "not the format",
    "says " + HEBREW.format("There are many apples in it now."): "a number was lost",
    "says": "no answer",
    'odd {"id": "1", "object": "chat.completion", "choices": []}': "no answer",
    'odd {"choices": null, "error": {"message": "overloaded"}}': "no answer",
    'odd []': "no answer",
    'odd {"choices": [{"message": {"role": "assistant", "content": "\\ud83d"}}], "usage": {}}': "not the format",
    "says כמודל שפה איני יכול לסייע בכך.": "refuses",
    "says <example><instruction>שאלה</instruction><input></input><output>תשובה שנק": "cut short"}

@pytest.mark.parametrize("fault", ANSWERS)
def test_a_bad_answer_is_counted_and_kept_aside(fault, english, tmp_path):
    with chat(at(2, fault)) as it: figures = run(tmp_path/"run", it, english)
    assert (figures["examples"], it.requests) == (7, 8)
    aside, = read_jsonl(tmp_path/"run"/"rejected.jsonl")
    assert aside["reason"] == ANSWERS[fault] and read_json(tmp_path/"run"/"report.json")["rejected"] == {ANSWERS[fault]: 1}

@pytest.mark.parametrize("fault, begins", [("says Of course! Here is a translation.", "Of course!"), ("odd {\"id\": \"1\", \"object\": \"chat.completion\", \"choices\": []}", "chat.completion"),
    ('odd {"choices": [{"message": {"role": "assistant", "content": null}}]}', "content"), ("says " + HEBREW.format("There are many apples."), "<example>")])
def test_eight_answers_without_one_that_is_good_end_the_run(fault, begins, tmp_path):
    with chat(lambda n: fault) as it, pytest.raises(UserError) as e: make_examples(run=str(tmp_path/"run"), base_url=it.address, model="m", count=9, **FAST)
    assert it.requests == 8 and "\n" not in str(e.value) and begins in str(e.value) and it.address in str(e.value)
    assert "no example was made" in str(e.value) and "gave 8 answers and none holds a good one" in str(e.value)

def test_a_late_good_answer_is_soon_enough(english, tmp_path):
    with chat(lambda n: "says Of course!" if n < 7 else None) as it: assert run(tmp_path/"run", it, english)["examples"] == 1

def test_a_wrong_language_is_no_translation():
    e = dict(instruction="Name a fruit.", input="", output="An apple is a fruit that grows on trees.")
    french = dict(instruction="Nommez un fruit.", input="", output="La pomme est un fruit qui pousse sur les arbres.")
    arabic = dict(instruction="اذكر فاكهة.", input="", output="التفاحة فاكهة تنمو على الأشجار في الحقول.")
    assert [translation_fault(t, e, "") for t in (e, french, arabic)] == ["too little Hebrew"] * 3

@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["the apple", "costs 3.50", "in 1948", "at https://example.org/a?b=1", "with `x[0] += 1`", "```\nfor i in range(3): pass\n```"]), min_size=2, max_size=6))
def test_code_numbers_and_addresses_survive(parts):
    e = dict(instruction="Say it.", input="", output="\n".join([*parts, "and nothing else"]))
    good = dict(instruction="אמרו זאת.", input="", output=word_for_word(e["output"]))
    assert translation_fault(good, e, "") not in making.SURVIVES
    for lost in ("3.50", "1948", "b=1", "+=", "range"):
        if lost in e["output"]: assert translation_fault(dict(good, output=good["output"].replace(lost, "", 1)), e, "") in making.SURVIVES


# --- what is paid for stays -------------------------------------------------------------------------------

def start(place: Path, it, english: str, **more) -> subprocess.Popen:
    given = dict(run=place, base_url=it.address, model="m", english=english, count=8, at_once=2) | FAST | more
    options = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    return subprocess.Popen([sys.executable, "-m", "hebrewgpt_nb.making", *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

def wait_for(it, requests: int, job: subprocess.Popen):
    while it.requests < requests:
        assert job.poll() is None, job.communicate()
        time.sleep(.01)

def test_a_killed_run_asks_nothing_twice(english, unbroken, tmp_path):
    with chat(lambda n: "slow .15") as it:
        job = start(tmp_path/"run", it, english)
        wait_for(it, 5, job)
        job.kill()
        job.communicate()
        there, asked = len(read_jsonl(tmp_path/"run"/"answers.jsonl")), it.requests
        assert 1 <= there < 8 and asked - there <= 2 # those under way
        it.server.faults = lambda n: None
        run(tmp_path/"run", it, english)
    assert it.requests - asked == 8 - there and contents(tmp_path/"run") == unbroken

def test_ctrl_c_keeps_what_was_under_way(english, unbroken, tmp_path):
    with chat(lambda n: "slow .2") as it:
        job = start(tmp_path/"run", it, english)
        wait_for(it, 4, job)
        job.send_signal(signal.SIGINT)
        _, said = job.communicate(timeout=30)
        assert job.returncode == 130 and said == "interrupted: the same command goes on from here\n"
        asked = it.requests
        assert len(read_jsonl(tmp_path/"run"/"answers.jsonl")) == asked < 8
        it.server.faults = lambda n: None
        run(tmp_path/"run", it, english)
    assert (it.requests, it.most_often) == (8, 1) and contents(tmp_path/"run") == unbroken

def test_more_is_asked_for_without_asking_again(english, tmp_path):
    with chat() as it:
        run(tmp_path/"run", it, english, count=3)
        assert it.requests == 3
        assert run(tmp_path/"run", it, english, count=8)["examples"] == 8
        run(tmp_path/"run", it, english, count=8) # reused
        assert (it.requests, it.most_often) == (8, 1)
        run(tmp_path/"run", it, english, count=8, temperature=.5) # another question
        assert it.requests == 16

def test_an_altered_answer_is_named(english, tmp_path):
    with chat() as it:
        run(tmp_path/"run", it, english, count=2)
        answers = tmp_path/"run"/"answers.jsonl"
        answers.write_text(answers.read_text(encoding="utf8").replace('"read": ', '"read": "many", "was": ', 1), encoding="utf8")
        with pytest.raises(UserError, match=r"answers.jsonl:1: .*read is a str"): run(tmp_path/"run", it, english, count=3)


# --- money and pace ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("at_once", [1, 4])
def test_the_budget_is_never_passed(at_once, english, tmp_path):
    prices = dict(price_in=1., price_out=2.)
    with chat() as it:
        some = run(tmp_path/"run", it, english, budget=.003, at_once=at_once, **prices)
        assert some["stopped"] == "the budget" and 0 < some["examples"] < 8 and 0 < some["cost"] <= .003
        all_ = run(tmp_path/"run", it, english, budget=1., **prices)
    assert (all_["examples"], all_["stopped"], it.most_often) == (8, "", 1)
    used = read_jsonl(tmp_path/"run"/"answers.jsonl")
    assert all_["cost"] == pytest.approx(sum(a["read"] + 2*a["written"] for a in used)/1e6)

def test_few_at_once_and_so_many_a_minute(english, tmp_path):
    now, most = [], []
    def slowly(body):
        now.append(1), most.append(len(now))
        time.sleep(.05)
        now.pop()
        return making.tagged(dict(instruction="שאלה", input="", output="תשובה"))
    begun = time.monotonic()
    with chat(reply=slowly) as it, pytest.raises(UserError, match="no example was made"): run(tmp_path/"run", it, english, at_once=3, requests_per_minute=600)
    assert max(most) <= 3 and time.monotonic() - begun >= 7*.1

def test_the_estimate_is_said_before_anything_is_sent(english, tmp_path, capfd):
    with pytest.raises(SystemExit) as e: make_examples(run=str(tmp_path/"run"), base_url="", english=english, count=8, price_in=1000., price_out=1000.)
    said = capfd.readouterr().out
    assert e.value.code == 0 and "nothing was sent" in said and not list((tmp_path/"run").iterdir())
    with chat() as it: run(tmp_path/"run", it, english)
    assert "making: 8 requests" in said and not (tmp_path/"run"/".next").exists()
    report = read_json(tmp_path/"run"/"report.json")
    assert .5 < report["estimate"]["written"]/report["written"] < 2 and report["estimate"]["read"] == report["read"] # the server counts as we guess


def test_another_endpoints_answers_are_not_this_ones(english, tmp_path, capfd):
    "Nor are the stand-in's; the same address with a slash is the same."
    how = dict(model="m", count=1, requests_per_minute=10**6, tokens_per_minute=10**9)
    make_examples(run=str(tmp_path/"run"), **how)
    with chat() as it, chat() as other:
        for address in (it.address, other.address, it.address + "/"): make_examples(run=str(tmp_path/"run"), base_url=address, **how)
        assert it.requests == other.requests >= len(KINDS) and it.most_often == other.most_often == 1
    estimates = [line for line in capfd.readouterr().out.split("\n") if " requests (" in line]
    assert estimates and "(0 more are answered already)" in estimates[0] and sum("(14 more are answered already)" in line for line in estimates) == 1

@pytest.mark.parametrize("job", ["teacher", "translator"])
def test_a_dry_run_of_a_job_says_the_cost_and_ends(job, english, tmp_path):
    "As `-p base_url ''` to papermill, over a finished run, whose result stands."
    with chat() as it: run(tmp_path/"run", it, english)
    command = [Path(sys.executable).parent/"papermill", "nbs/12_making.ipynb", tmp_path/"out.ipynb", "-f", f"jobs/{job}.yaml", "-p", "base_url", ""]
    given = ["-p", "run", tmp_path/"run", *(["-p", "english", english] if job == "translator" else []), "--kernel", "python3", "--no-progress-bar"]
    def files(): return {p: p.read_bytes() for p in (tmp_path/"run").rglob("*") if p.is_file()}
    before = files()
    done = subprocess.run([*command, *given], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    shown = (tmp_path/"out.ipynb").read_text(encoding="utf8")
    assert ("3,500 requests" if job == "teacher" else "8 requests") in shown and "nothing was sent" in shown
    assert files() == before


# --- the teacher ------------------------------------------------------------------------------------------

def test_nothing_leaves_the_machine_without_an_endpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    went, connect, send = [], socket.socket.connect, making.StandIn.do_POST
    monkeypatch.setattr(socket.socket, "connect", lambda s, address: went.append(address) or connect(s, address))
    monkeypatch.setattr(making.StandIn, "do_POST", lambda h: went.append(h.headers["Authorization"]) or send(h))
    figures = make_examples(run=str(tmp_path/"run"), count=1)
    assert figures["examples"] > 10
    assert {w[0] for w in went if isinstance(w, tuple)} == {"127.0.0.1"} and {w for w in went if isinstance(w, str)} == {"Bearer none"}

def test_every_kind_gets_as_many_and_simple_ones_come_first(tmp_path):
    with chat() as it: make_examples(run=str(tmp_path/"run"), base_url=it.address, model="m", count=3, license="CC0-1.0", **FAST)
    found = {phase: read_jsonl(tmp_path/"run"/"sft"/f"phase{phase}.jsonl") for phase in (1, 2)}
    made = [e["kind"] for phase in (1, 2) for e in found[phase]]
    assert {name: made.count(name) for name in KINDS} == dict.fromkeys(KINDS, 3)
    assert all(KINDS[e["kind"]].phase == phase for phase in (1, 2) for e in found[phase])
    assert set(found[1][0]) == {"instruction", "input", "output", "task", "kind", "phase", "source", "license"} and it.most_often == 1
    aside = Quarantine()
    assert [len(phase) for phase in curriculum(str(tmp_path/"run"), "", "", aside)] == [3*6, 3*8] and not aside # 05_sft takes the run as its data

def test_english_sets_are_looked_through_before_anything_is_paid(tmp_path):
    lines = [*rows(2), rows(1)[0], dict(rows(1)[0], input=None, instruction="Another one?"), dict(instruction="Say hi.", output=""), dict(instruction=3, output="x"),
             dict(instruction="List synonyms of big.", output="large"), dict(instruction="Who are you?", output="As an AI, I am nobody.")]
    (tmp_path/"set.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n{torn", encoding="utf8")
    with chat() as it: figures = run(tmp_path/"run", it, str(tmp_path/"set.jsonl"))
    assert (figures["examples"] + figures["rejected"], it.requests) == (3, 3)
    assert read_json(tmp_path/"run"/"report.json")["skipped"] == {"asked twice": 1, "about English itself": 1, "a model speaks": 1, "no instruction or no output": 1, "a field is not a text": 1, "not JSON": 1}

def test_without_the_package_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"pip install 'hebrewgpt_nb\[making\]'"): make_examples(run=str(tmp_path/"run"))

def test_the_first_requests_are_the_same_however_many_follow():
    few, many = ([r.key for r, _ in zip(teacher_requests("story", How("m"), seed=3), range(n))] for n in (3, 90))
    assert many[:3] == few and len(set(many)) == 90
