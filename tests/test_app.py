"The app as a visitor meets it: a server of its own, Chromium, Hebrew from right to left, and nobody else asked."
import asyncio, gc, importlib.util, itertools, json, os, re, shutil, socket, subprocess, sys, threading, time, urllib.error, urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
import pytest, torch
from hebrewgpt_nb.bundle import SAMPLING, load_bundle, save_bundle
from hebrewgpt_nb.core import UserError, read_jsonl, sample_dir, write_json
from hebrewgpt_nb.generate import generate
from hebrewgpt_nb.grading import is_hebrew
from hebrewgpt_nb.metrics import choice_scores, repetition_rate
from hebrewgpt_nb.model import HebrewGPT, get_preset
from hebrewgpt_nb.serve import pieces
from hebrewgpt_nb.tokenizer import Tokenizer, encode_prompt, measure_tokenizer, train_tokenizer

gr = pytest.importorskip("gradio", reason="the app needs gradio: pip install -e .[app]")
ROOT = Path(__file__).parents[1]
SCRIPT = ROOT/"apps"/"app.py"
ASK = "מהי בירת ישראל?"
HOSTILE = "<img src=x onerror=window.hacked=1> **א** <script>window.hacked=2</script> $$x^2$$ &lt;b&gt; ![](http://example.com/a.png)"
HALF = "שלום \ud83d לך" # half of a smile
LONG = "שאלה " * 1000
SETTINGS = dict(way="way_auto", temperature=.8, top_p=.95, top_k=0, min_p=0., repetition_penalty=1., max_new_tokens=100, seed=0, stop="")

@pytest.fixture(scope="module")
def app():
    spec = importlib.util.spec_from_file_location("hebrewgpt_app", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.PAUSE = 0 # these models write a whole answer in less
    return module

@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    "Two models of random weights that have something to say, the second with room for long answers, and a report beside them."
    folder = tmp_path_factory.mktemp("app")
    texts = [r["text"] for p in sorted((sample_dir()/"pretrain").glob("*.train.jsonl")) for r in read_jsonl(p)]
    tok = Tokenizer(train_tokenizer(texts, folder/"tokenizer.model", vocab_size=700))
    def talkative(context, **how):
        for seed in itertools.count():
            torch.manual_seed(seed)
            model = HebrewGPT(get_preset("tiny", vocab_size=700, context=context)).eval()
            if len(tok.encode(generate(model, tok, encode_prompt(tok, ASK), **SAMPLING | how))) > 80: return model
    save_bundle(talkative(256), tok, folder/"base"/"bundle")
    save_bundle(talkative(1200, temperature=0, max_new_tokens=300), tok, folder/"instruct"/"bundle")
    cell = dict(value=2., low=None, high=None, n=dict(texts=3), verdict="")
    row = dict(metric="bits per byte", unit="bits/byte", better="lower", cells=dict(base=cell, instruct=cell | dict(value=1.5, low=1.4, high=1.6, verdict="▲")))
    write_json((folder/"eval").mkdir() or folder/"eval"/"report.json", dict(rows=[row]))
    return folder/"instruct", folder/"base"

@pytest.fixture(scope="module")
def desk(app, bundles, tmp_path_factory):
    return app.Desk(app.load_bots(bundles, "auto", "auto", 4), tmp_path_factory.mktemp("log"))

@pytest.fixture(scope="module")
def bot(desk): return next(iter(desk.bots.values()))

def expected(bundle, instruction, input="", **sampling):
    model, tok = load_bundle(bundle)
    return generate(model, tok, encode_prompt(tok, instruction, input), **SAMPLING | sampling)

def words(text): return re.findall("[א-ת]+", text)

def asks(*texts): # questions and answers in turn; the last is a question
    "A conversation that waits for an answer."
    roles = itertools.cycle(("user", "assistant"))
    return [dict(role=role, text=text) for role, text in zip(roles, texts)] + [dict(role="assistant", text="", state="waiting")]

def collect(shown):
    "What an asynchronous generator yields."
    async def all_of(): return [one async for one in shown]
    return asyncio.run(all_of())

def chat(desk, talk, name=None, **settings): # what was yielded
    return collect(desk.chat(talk, name or list(desk.bots)[0], *(SETTINGS | settings).values()))

def answer(desk, talk, name=None, **settings): return chat(desk, talk, name, **settings)[-1][1][-1]

def told(**data): return gr.EventData(None, data)

# --- without a browser --------------------------------------------------------------------------------

def test_a_wrong_bundle_is_one_line_and_exit_2(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith(f"error: {tmp_path}: no bundle there")

WHERE = dict(log="runs/app", device="auto", dtype="auto", batch=4, auth="", host="127.0.0.1", port=0, share=False)

def test_what_comes_along_is_offered_before_what_was_made(app, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/"runs"/"demo"/"sft"/"bundle").mkdir(parents=True)
    def seen(paths, *rest): raise UserError(" ".join(paths))
    monkeypatch.setattr(app, "build_app", seen)
    with pytest.raises(UserError, match="^mini mini-base runs/demo/sft$"): app.serve([], **WHERE)

def test_the_model_that_comes_along_answers_in_hebrew(app, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bots = app.load_bots(["mini", "mini-base"], "auto", "auto", 4)
    assert list(bots) == ["mini", "mini-base"] and sum(f.stat().st_size for bot in bots.values() for f in bot.folder.iterdir()) < 20e6
    text = "".join(pieces(bots["mini"].scheduler.submit(bots["mini"].prompt("ספרו סיפור על חתול.")[0], 40, seed=0)))
    assert is_hebrew(text) and len(text.split()) > 5

def test_a_busy_port_is_one_line(app, bundles):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(UserError, match=f"^cannot serve on 127.0.0.1:{port} ") as e: app.serve(bundles[:1], **WHERE | dict(port=port))
    assert "\n" not in str(e.value)

def test_a_bundle_is_named_once(app, bundles):
    with pytest.raises(UserError, match="instruct already; name each bundle once"): app.load_bots([bundles[0]] * 2, "auto", "auto", 4)

def test_every_word_is_in_both_languages(app):
    said = set(re.findall(r'say\("(\w+)"', (ROOT/"apps"/"page.js").read_text())) | set(re.findall(r'i18n\("(\w+)"\)|Refusal\("(\w+)"', SCRIPT.read_text()))
    used = {key for found in said for key in ([found] if isinstance(found, str) else found) if key}
    assert len(used) > 40 and used <= app.WORDS.keys()
    for key, (hebrew, english) in app.WORDS.items():
        assert re.search("[א-ת]", hebrew) or key == "language" or key.startswith(("top_", "min_")), key
        assert english and (key == "language" or not re.search("[א-ת]", english)) and re.findall(r"{\d}", hebrew) == re.findall(r"{\d}", english), key

def test_an_answer_grows_into_what_generate_gives(desk, bundles):
    shown = [talk[-1] for _, talk in chat(desk, asks(ASK), temperature=.7, top_p=.9, max_new_tokens=30, seed=5)]
    texts = [m["text"] for m in shown]
    assert len(set(texts)) > 3 and all(b.startswith(a) for a, b in zip(texts, texts[1:]))
    assert texts[-1] == expected(bundles[0], ASK, temperature=.7, top_p=.9, max_new_tokens=30, seed=5)
    assert (shown[-1]["state"], shown[-1]["tokens"], shown[-1]["model"]) == ("cut", 30, list(desk.bots)[0]) and shown[-1]["seconds"] > 0

def test_another_answer_has_another_seed(desk):
    first, again = answer(desk, asks(ASK), max_new_tokens=20, seed=7), answer(desk, asks(ASK), max_new_tokens=20, seed=7)
    other = answer(desk, asks(ASK)[:-1] + [dict(role="assistant", text="", state="waiting", seed=first["seed"] + 1)], max_new_tokens=20, seed=7)
    assert first["text"] == again["text"] != other["text"] and other["seed"] == 8
    assert len({answer(desk, asks(ASK), max_new_tokens=2, seed=-1)["seed"] for _ in range(4)}) == 4 # none is set: another each time

def test_a_cut_answer_is_continued(desk, bot):
    first = answer(desk, asks(ASK), temperature=0, max_new_tokens=12)
    more = answer(desk, asks(ASK)[:-1] + [first | dict(state="waiting")], temperature=0, max_new_tokens=10)
    assert first["state"] == "cut" and more["text"].startswith(first["text"]) and more["tokens"] == 22 and more["seconds"] > first["seconds"]
    assert more["text"] == first["text"] + generate(bot.model, bot.tok, encode_prompt(bot.tok, ASK) + bot.tok.encode(first["text"]), max_new_tokens=10, temperature=0)
    full = answer(desk, asks(ASK), temperature=0, max_new_tokens=1000, name=list(desk.bots)[1])
    assert full["state"] in ("full", "done")

def test_a_stop_string_ends_an_answer(desk):
    whole = answer(desk, asks(ASK), temperature=0, max_new_tokens=40)["text"]
    cut = answer(desk, asks(ASK), temperature=0, max_new_tokens=40, stop=whole[10:13])
    assert cut["state"] == "done" and cut["text"] == whole[:whole.index(whole[10:13])]

def test_what_a_model_is_given(bot):
    "The newest exchanges that leave room; a model that learned from one turn is given one, unless one chooses."
    earlier = [dict(instruction=f"שאלה {n}", output="תשובה " * 40) for n in range(9)]
    ids, left_out = bot.prompt(ASK, earlier, "way_many", room=100)
    assert 0 < left_out < 9 and ids == encode_prompt(bot.tok, ASK, earlier=earlier[left_out:])
    assert len(ids) <= bot.context - 100 < len(encode_prompt(bot.tok, ASK, earlier=earlier[left_out - 1:]))
    assert bot.prompt(ASK, earlier, "way_many", room=10**6)[1] > left_out # half of the context at most is kept free
    assert bot.prompt(ASK, earlier, "way_one") == (encode_prompt(bot.tok, ASK), 0)
    assert bot.prompt(ASK, earlier, "way_text") == ([bot.tok.bos_id, *bot.tok.encode(ASK)], 0)
    assert (bot.way("way_auto"), bot.way("way_many")) == ("way_one", "way_many")
    several = SimpleNamespace(info=dict(turns=3))
    assert type(bot).way(several, "way_auto") == "way_many"

def test_what_was_left_out_is_said(desk):
    talk = asks("א", "תשובה " * 200, "ב", "תשובה " * 9, ASK)
    assert answer(desk, talk, way="way_many", max_new_tokens=5, name=list(desk.bots)[1])["dropped"] == 1
    assert answer(desk, talk, max_new_tokens=5) | dict(seconds=0) == answer(desk, talk, way="way_one", max_new_tokens=5) | dict(seconds=0, way="way_auto")
    assert answer(desk, talk, max_new_tokens=5)["alone"] and not answer(desk, asks(ASK), max_new_tokens=5)["alone"]

def test_what_the_model_received_is_shown(desk, bot):
    talk = asks(ASK)[:-1] + [answer(desk, asks(ASK), max_new_tokens=5)]
    shown = desk.received(told(index=1), talk, list(desk.bots)[1], *SETTINGS.values())
    assert [piece[1] for piece in shown["pieces"]] == encode_prompt(bot.tok, ASK)
    assert {piece[0] for piece in shown["pieces"] if piece[3] == "control"} == {"<s>", "<|instruction|>", "<|input|>", "<|answer|>"}
    assert desk.received(told(index=9), talk, list(desk.bots)[1], *SETTINGS.values()) is None

@pytest.mark.parametrize("text, note", [("  ", ["ask_something"]), (LONG, ["too_long", 5000, 4000]), ("צק" * 1100, ["no_room"]), (HALF, ["broken_character"])])
def test_what_cannot_be_asked_is_said(desk, text, note):
    [(box, talk)] = chat(desk, asks(text))
    assert talk[-1]["state"] == "refused" and talk[-1]["note"][:len(note)] == note
    assert box == text.replace("\ud83d", "\ufffd") and len(talk[0]["text"]) < 200 # it is back in the box, and short in the conversation

def test_what_the_model_refuses_is_said(desk):
    assert answer(desk, asks(ASK), top_p=7)["note"] == ["cannot", "top_p is 7: give a share above 0, up to 1 (all)"]

def test_limits_of_length_and_time(app, bot):
    assert bot.scheduler.max_new_tokens == app.MAX_NEW and bot.scheduler.max_seconds == app.MAX_SECONDS and bot.scheduler.queue == app.MAX_WAITING

@pytest.fixture
def slow(app, bot, monkeypatch):
    "The model with one row at a time, and a queue of two."
    one = app.Scheduler(bot.model, bot.tok, 1, queue=2)
    monkeypatch.setattr(bot, "scheduler", one)
    yield one
    one.close()

def test_who_waits_sees_the_place_at_once_and_who_leaves_stops_the_model(app, desk, bot, slow):
    async def three():
        shown, streams = [[], [], []], [desk.chat(asks(ASK), list(desk.bots)[0], *(SETTINGS | dict(temperature=0, max_new_tokens=900)).values()) for _ in range(3)]
        first = streams[0]
        while (await anext(first))[1][-1]["state"] != "writing": pass # it has the only row
        begun = time.monotonic()
        places = [(await anext(s))[1][-1] for s in streams[1:]]
        assert [(m["state"], m["place"]) for m in places] == [("waiting", 1), ("waiting", 2)] and time.monotonic() - begun < 1
        assert (await anext(desk.chat(asks(ASK), list(desk.bots)[0], *SETTINGS.values())))[1][-1]["note"] == ["busy"]
        begun = time.monotonic()
        for s in streams: await s.aclose()
        while slow.batch.rows or slow.waiting: await asyncio.sleep(.01)
        assert time.monotonic() - begun < 1
    asyncio.run(three())

def compare(desk, blind=False, question=ASK, input="", **settings):
    how = tuple((SETTINGS | settings).values())
    return collect(desk.compare(question, input, blind, list(desk.bots)[0], *how, list(desk.bots)[1], *how))

def test_both_answers_are_to_one_question_and_are_measured(desk, bundles):
    *growing, (shown, about) = compare(desk, input="ירושלים.", temperature=0, max_new_tokens=20)
    texts = [m["text"] for m in shown["sides"]]
    assert texts == [expected(b, ASK, "ירושלים.", temperature=0, max_new_tokens=20) for b in bundles]
    assert len(growing) > 3 and all(v is None for _, v in growing) and shown["names"] == list(desk.bots)
    rows = {tuple(row[:1] + row[3:]): row[1:3] for row in shown["rows"]}
    assert rows["tokens_count",] == [m["tokens"] for m in shown["sides"]] and rows["repetition",] == list(map(repetition_rate, texts)) and min(rows["tokens_per_second",]) > 0
    for n, bot in enumerate(desk.bots.values()):
        told_by = [s.bits_per_byte for s in choice_scores(bot.model, bot.tok, encode_prompt(bot.tok, ASK, "ירושלים."), texts)]
        assert rows["likelihood", n] == pytest.approx(told_by, rel=1e-3)

def test_a_blind_vote_names_nobody_before_and_is_written_down(desk):
    for n in range(3):
        *_, (shown, voting) = compare(desk, blind=True, max_new_tokens=4)
        assert not any(name in json.dumps([shown]) for name in desk.bots)
        revealed, forgotten = desk.vote(told(vote="left"), voting, None)
        assert sorted(revealed["names"]) == sorted(desk.bots) and revealed["voted"] == "left" and forgotten is None
        line = read_jsonl(desk.log/"votes.jsonl")[-1]
        assert (line["vote"], line["blind"], line["question"]) == ("left", True, ASK)
        assert [s["model"] for s in line["sides"]] == revealed["names"] and [s["answer"] for s in line["sides"]] == [m["text"] for m in shown["sides"]]
    assert len(read_jsonl(desk.log/"votes.jsonl")) == 3

def test_likes_are_written_down(desk, app, monkeypatch):
    talk = asks(ASK)[:-1] + [dict(role="assistant", text="ירושלים", liked=-1)]
    desk.like(told(index=1), talk, "m", *SETTINGS.values())
    desk.like(told(index=0), talk, "m", *SETTINGS.values()) # a question is not liked
    [line] = read_jsonl(desk.log/"likes.jsonl")
    assert line["liked"] == -1 and line["talk"] == talk and line["settings"] == SETTINGS
    monkeypatch.setattr(app, "MAX_LOG", 10)
    assert not app.note(desk.log, "likes", liked=1) and len(read_jsonl(desk.log/"likes.jsonl")) == 1

def test_tokens_and_prefixes_of_a_text(app, bot):
    text = "וכשהגענו לבית הספר, אמרנו: Hello 12"
    shown = app.tokens(text, bot, bot)
    [side] = shown["sides"] # one tokenizer is shown once
    assert [p[1] for p in side["pieces"]] == bot.tok.encode(text) and side["bytes"] == len(text.encode())
    assert dict(tokens_per_word=side["per_word"], bytes_per_token=side["bytes_per_token"]) == measure_tokenizer(bot.tok, [text])
    assert "".join(p[0] for p in shown["prefixes"]) == text
    assert [p[0] for p in shown["prefixes"] if p[3] == "prefix"] == ["ו", "כש", "ל", "ה"]

def test_reports_beside_the_models(desk, bundles):
    [report] = desk.reports()
    assert report["name"].endswith("/eval") and report["rows"][0]["metric"] == "bits per byte"

CONTROLS = "".join(map(chr, [*range(9), *range(11, 32), *range(127, 160)]))
TRICKS = ["\u202e", "\u202d", "\u2066", "\u2067\u2069", "\u200f", "\u200b", "\ufeff", "\u0000", "\x1b[2J", CONTROLS, "\U0001f600", "\U000e0001", "ש\u05b8\u05c1" * 9, "e" + "\u0301" * 500,
          "<|instruction|>", "<|input|>", "<|answer|>", "### הוראה:\n", "\n\n### תשובה:\n", "<s>", "</s>", "<0x41>", "▁", "⁇", "__i18n__{\"key\": \"send\"}", "${alert(1)}", "{{value}}", "`${window.hacked=1}`",
          "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg/onload=alert(1)>", "</textarea><script>", "![](http://example.com/a.png)", "[x](javascript:alert(1))", "javascript:alert(1)", "<style>*{display:none}</style>",
          "<iframe src=//example.com>", "&lt;b&gt;", "$$x$$", "\\(x\\)", "```", "```python\nprint(1)", "{\"role\": \"system\"}", "' OR 1=1 --", "../../etc/passwd", "%s%n{0}{}", "\r\n\r\nHTTP/1.1", "\ud83d", "\udc00a", "x" * 3999]

def test_400_hostile_texts_are_text(desk, app, bot, capsys):
    "Shown as they are, or refused in words; nothing is raised, nothing is logged, and everything can be sent."
    import orjson
    cases = [f"{a}{between}{b}" for a, b in zip(TRICKS, TRICKS[1:] + TRICKS[:1]) for between in ("", " ", "\n", "א")] + [f"א{t}" for t in TRICKS] * 2 + [t * 50 for t in TRICKS] + [t.upper() for t in TRICKS]
    cases += ["א" * 2**20, "<b>" * 2**18]
    for n, text in enumerate(cases):
        box, talk = chat(desk, asks(text), max_new_tokens=1, seed=n)[-1]
        clean = app.whole(text)
        assert talk[0]["text"] == clean or talk[-1]["state"] == "refused" and box == clean and len(talk[0]["text"]) < 200, ascii(text[:99])
        assert all(map(app.is_message, talk)), talk
        orjson.dumps([talk, app.tokens(text, bot), desk.received(told(index=1), talk, next(iter(desk.bots)), *SETTINGS.values()) if talk[-1]["state"] != "refused" else None])
    assert len(cases) >= 400 and capsys.readouterr() == ("", "")

# --- by its addresses, without the page ---------------------------------------------------------------

def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free: return free.getsockname()[1]

def call(url, body=None, kind="application/json", **headers): # status and text
    request = urllib.request.Request(url, body if body is None or isinstance(body, bytes) else json.dumps(body).encode(), {"content-type": kind} | headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer: return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e: return e.code, e.read().decode()

def listeners(url): # number -> what it takes
    return {d["id"]: d["inputs"] for d in json.loads(call(url + "/config")[1])["dependencies"] if d["backend_fn"]}

def chat_number(url): # the listener that answers
    "A conversation, a model and its settings are taken by it, and the box and the conversation are given back."
    return next(d["id"] for d in json.loads(call(url + "/config")[1])["dependencies"] if d["backend_fn"] and len(d["inputs"]) == 11 and len(d["outputs"]) == 2)

def ask(url, number, values, session):
    "Ask as the page does, and wait for the answer."
    status, said = call(f"{url}/gradio_api/queue/join", dict(fn_index=number, data=values, session_hash=session))
    assert status == 200, said
    events = [json.loads(e.removeprefix("data: ")) for e in call(f"{url}/gradio_api/queue/data?session_hash={session}")[1].strip().split("\n\n")]
    return next(e for e in events if e["msg"] == "process_completed")

def values_of(text=ASK, name="", **settings): return [asks(text), name, *(SETTINGS | dict(max_new_tokens=5) | settings).values()]

@pytest.fixture
def served(app, bundles, monkeypatch, tmp_path):
    "The page served by this process, so that what it holds can be counted."
    pages, port = [], free_port()
    monkeypatch.setattr(gr.Blocks, "block_thread", lambda page: pages.append(page))
    app.serve(list(bundles), **WHERE | dict(port=port, log=str(tmp_path)))
    yield pages[0], f"http://127.0.0.1:{port}"
    pages[0].close(verbose=False)

def held(kind): return sum(type(o) is kind for o in gc.get_objects())

def test_memory_is_level_after_many_questions_and_who_leaves_stops_the_model(served):
    page, url = served
    number, name = chat_number(url), list(page.served)[0]
    for i in range(70): assert ask(url, number, values_of(name=name, max_new_tokens=1), f"visitor{i}")["success"]
    for _ in range(50): # the last ones may still be on their way out
        gc.collect()
        if held(gr.state_holder.SessionState) <= 64: break
        time.sleep(.1)
    assert held(gr.state_holder.SessionState) <= 64 and held(gr.queueing.Event) <= 2 and len(page._queue.event_analytics) <= 1
    assert not page._queue.event_ids_to_events and not page.app.iterators
    call(f"{url}/gradio_api/queue/join", dict(fn_index=number, data=values_of(name=name, temperature=0, max_new_tokens=1000), session_hash="leaver"))
    stream = urllib.request.urlopen(f"{url}/gradio_api/queue/data?session_hash=leaver", timeout=60)
    while b"process_generating" not in stream.readline(): pass
    begun = time.monotonic()
    status, said = call(f"{url}/gradio_api/cancel", dict(session_hash="leaver", fn_index=number, event_id="x"))
    while page.served[name].batch.rows and time.monotonic() < begun + 5: time.sleep(.02)
    assert status == 200 and time.monotonic() - begun < 1
    stream.close()

BAD = [*[(0, v) for v in (None, 7, "א", {}, [7], [dict(role="system", text="א")], [dict(role="user")], [dict(role="user", text=7)], [dict(role="user", text="א", html="<b>")],
                          [dict(role="assistant", text="", state="hacked")], [dict(role="assistant", text="", note=["no such key"])], [dict(role="user", text="א")] * 101)],
       *[(1, v) for v in (None, 7, "", "/etc/passwd", [])], *[(2, v) for v in (None, "way_odd", 1)],
       *[(at, v) for at in range(3, 10) for v in ("א", [], {}, True, -5, 1e12, 10**400, float("nan"), float("inf"))], *[(at, None) for at in range(3, 9)], *[(10, v) for v in (None, 7, [], {})]]

def test_100_wrong_requests_are_refused_in_one_line(server, desk):
    number, values = chat_number(server.url), values_of(name=list(desk.bots)[0])
    bodies = [dict(fn_index=number, data=values[:at] + [v] + values[at + 1:], session_hash="x") for at, v in BAD]
    bodies += [dict(fn_index=number, data=data, session_hash="x") for data in (values[:2], values + [1], None, "א", {})]
    hears = {event: d["id"] for d in json.loads(call(server.url + "/config")[1])["dependencies"] for _, event in d["targets"]}
    bodies += [dict(fn_index=hears["like"], data=values, session_hash="x", event_data=e) for e in (None, 7, "א", dict(index=-1), dict(index="1"), dict(index=True), dict(index=1, more=2), dict(vote="left"))]
    bodies += [dict(fn_index=hears["vote"], data=[None], session_hash="x", event_data=e) for e in (None, "left", dict(vote="me"), dict(vote=["left"]), dict(index=1))]
    bodies += [dict(fn_index=n, data=values, session_hash="x") for n in (99, -1, None, "1", [1])] + [dict(fn_index=n, data=[], session_hash="x") for n, takes in listeners(server.url).items() if takes]
    bodies += [dict(fn_index=number, data=values, session_hash=s) for s in (None, 7, HALF, "", "x" * 100)] + [b"", b"\xff", b"[" * 10**5, b"null", b"[]", b"9" * 2**21]
    assert len(bodies) > 100
    for n, body in enumerate(bodies):
        english = n % 2
        status, said = call(f"{server.url}/gradio_api/queue/join", body, cookie="lang=en" if english else "a=b")
        assert status == 400 and list(json.loads(said)) == ["detail"] and re.fullmatch("[A-Z].*" if english else "[א-ת].*", json.loads(said)["detail"]), (str(body)[:200], said)

def test_half_of_a_surrogate_pair_is_answered_by_the_server_too(server, desk):
    done = ask(server.url, chat_number(server.url), values_of(HALF, list(desk.bots)[0]), "half")
    assert done["success"] and "broken_character" in str(done["output"]["data"][1])

@pytest.mark.parametrize("path", ["upload", "upload/", "component_server", "process_recording", "call/chat", "vibe-edit"])
def test_nothing_is_uploaded(server, path):
    body = b'--B\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\nx\r\n--B--\r\n'
    status, said = call(f"{server.url}/gradio_api/{path}", body, "multipart/form-data; boundary=B")
    assert status == 400 and "הכתובת סגורה" in json.loads(said)["detail"]
    assert [f for f in server.uploads.rglob("*") if f.is_file()] == []

@pytest.mark.parametrize("path", ["gradio_api/file=/etc/passwd", "gradio_api/deep_link?session_hash=x", "gradio_api/call/chat/x", "monitoring/summary", "gradio_api/queue/data?session_hash=nobody"])
def test_what_the_page_does_not_read_is_closed(server, path): assert call(f"{server.url}/{path}")[0] == 400

def test_twenty_at_once_each_get_their_own_answer(server, desk, bundles):
    number, name = chat_number(server.url), list(desk.bots)[0]
    one = lambda n: ask(server.url, number, values_of(name=name, seed=n, max_new_tokens=40), f"client{n}")["output"]["data"][1]
    with ThreadPoolExecutor(20) as pool: answers = [talk[-1]["text"] for talk in pool.map(one, range(20))]
    alone = [expected(bundles[0], ASK, seed=n, max_new_tokens=40) for n in range(20)]
    assert len(set(alone)) == 20 and answers == alone

def test_programs_find_named_endpoints(server, desk, bundles):
    client = pytest.importorskip("gradio_client").Client(server.url, verbose=False)
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/ask", "/tokens"}
    assert client.predict(ASK, seed=3, max_new_tokens=20, api_name="/ask") == expected(bundles[0], ASK, seed=3, max_new_tokens=20)
    assert client.predict("שלום לך", api_name="/tokens")["sides"][0]["words"] == 2
    for bad in ("", LONG):
        with pytest.raises(Exception, match="[א-ת]"): client.predict(bad, api_name="/ask")
    client.close()

def test_openai_s_endpoint_is_in_the_same_process(server, desk, bundles):
    name = list(desk.bots)[0]
    body = dict(model=name, messages=[dict(role="user", content=ASK)], max_tokens=20, seed=3)
    status, said = call(f"{server.url}/v1/chat/completions", body)
    assert status == 200 and json.loads(said)["choices"][0]["message"]["content"] == expected(bundles[0], ASK, seed=3, max_new_tokens=20)
    assert [m["id"] for m in json.loads(call(f"{server.url}/v1/models")[1])["data"]] == list(desk.bots)

def test_a_password_holds_for_page_and_programs(app, bundles, monkeypatch, tmp_path):
    pages, port = [], free_port()
    monkeypatch.setattr(gr.Blocks, "block_thread", lambda page: pages.append(page))
    app.serve(list(bundles), **WHERE | dict(port=port, auth="dana:secret", log=str(tmp_path)))
    url = f"http://127.0.0.1:{port}"
    try:
        assert call(f"{url}/v1/models")[0] == 401 and call(f"{url}/v1/models", authorization="Bearer dana:wrong")[0] == 401
        assert call(f"{url}/v1/models", authorization="Bearer dana:secret")[0] == 200
        assert call(f"{url}/config")[0] == 401
        assert call(f"{url}/gradio_api/queue/join", dict(fn_index=0, data=[], session_hash="x"))[0] in (400, 401)
        assert call(f"{url}/login", b"username=dana&password=wrong", "application/x-www-form-urlencoded")[0] == 400
        assert call(f"{url}/login", b"username=dana&password=secret", "application/x-www-form-urlencoded")[0] == 200
    finally: pages[0].close(verbose=False)
    with pytest.raises(UserError, match="give NAME:PASSWORD"): app.serve(list(bundles), **WHERE | dict(auth="dana"))

# --- in a browser -------------------------------------------------------------------------------------

AUDIT = """import sys
def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        with open({log!r}, "a") as f: f.write(f"{{args[1] if event == 'socket.connect' else args}}\\n")
sys.addaudithook(hook)
"""

@pytest.fixture(scope="module")
def server(bundles, tmp_path_factory):
    "The script on a free port of this machine; whom it asks is written down."
    folder = tmp_path_factory.mktemp("server")
    (folder/"sitecustomize.py").write_text(AUDIT.format(log=str(folder/"asked")))
    port = free_port()
    env = os.environ | dict(GRADIO_TEMP_DIR=str(folder/"uploads"), PYTHONPATH=os.pathsep.join([str(folder), str(ROOT)]), OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1")
    process = subprocess.Popen([sys.executable, SCRIPT, *bundles, "--port", str(port), "--batch", "2", "--log", str(folder/"log")], env=env, stdout=(folder/"out").open("w"), stderr=subprocess.STDOUT)
    process.url, process.asked, process.out, process.uploads, process.log = f"http://127.0.0.1:{port}", folder/"asked", folder/"out", folder/"uploads", folder/"log"
    try:
        for _ in range(240):
            if process.url in process.out.read_text() or process.poll() is not None: break
            time.sleep(.5)
        assert process.poll() is None and process.url in process.out.read_text(), process.out.read_text()
        yield process
    finally: process.terminate(); process.wait(20)

def listening(pid):
    "The addresses, as the kernel writes them, on which a process listens."
    inodes = {m[1] for f in Path(f"/proc/{pid}/fd").iterdir() if f.is_symlink() and (m := re.match(r"socket:\[(\d+)\]", os.readlink(f)))}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]]
    return {row[1] for row in rows if row[3] == "0A" and row[9] in inodes}

@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's /proc")
def test_listens_on_this_machine_alone(server):
    assert listening(server.pid) == {f"0100007F:{int(server.url.rsplit(':')[-1]):04X}"}

def test_what_is_served_names_no_font_of_others(server):
    for path in ("/", "/theme.css"):
        text = urllib.request.urlopen(server.url + path).read().decode()
        assert "system-ui" in text or path == "/"
        assert not re.search(r"fonts\.g|@import|preconnect|@font-face", text)

@pytest.fixture(scope="module")
def chromium():
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if not path: (pytest.fail if os.environ.get("HEBREWGPT_BROWSER") else pytest.skip)("NO BROWSER TESTS: no chromium on the PATH (apt-get install chromium)")
    api = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright: pip install -e .[dev]")
    with api.sync_playwright() as p:
        flags = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
        browser = p.chromium.launch(executable_path=path, args=flags.split())
        yield browser
        browser.close()

@pytest.fixture
def visit(chromium, server):
    "Opens the page in a window of its own; afterwards: nobody else was asked, and no error was logged."
    contexts, asked, wrong = [], [], []
    def open_page(width=1200, height=850, **how):
        contexts.append(chromium.new_context(viewport=dict(width=width, height=height), locale="he-IL", **how))
        page = contexts[-1].new_page()
        page.on("request", lambda r: asked.append(r.url))
        page.on("websocket", lambda w: asked.append(w.url))
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.set_default_timeout(60_000)
        page.goto(server.url)
        page.wait_for_selector("#message textarea")
        return page
    open_page.wrong = wrong
    yield open_page
    for context in contexts: context.close()
    assert asked and [u for u in asked if not u.startswith((server.url + "/", "data:", "blob:"))] == [] and wrong == []

def setting(page, label, value):
    "Type a number into the settings of the chat."
    field = page.locator("#settings .block").filter(has_text=label).last.locator("input[type=number]").first
    field.fill(str(value))
    field.press("Tab")

def say(page, text, ended=True):
    "Send a question; its message and the answer's."
    n = page.locator("article").count()
    page.fill("#message textarea", text)
    page.press("#message textarea", "Enter")
    if ended: page.locator("article").nth(n + 1).locator(".acts").wait_for()
    return page.locator("article").nth(n), page.locator("article").nth(n + 1)

def text_of(article): return article.locator(".text").inner_text()

def tab(page, name): page.get_by_role("tab", name=name).click()

WHERE_IS = """(article, words) => words.map(word => { // where a word stands on the page, left and right
  const walk = document.createTreeWalker(article, NodeFilter.SHOW_TEXT), range = document.createRange()
  for (let node; node = walk.nextNode();) { const at = node.data.indexOf(word); if (at >= 0) { range.setStart(node, at); range.setEnd(node, at + word.length); const r = range.getBoundingClientRect(); return [Math.round(r.left), Math.round(r.right), Math.round(r.top)] } }
})"""

@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 390])
def test_a_hebrew_question_is_answered_from_right_to_left(visit, bundles, width):
    page = visit(width)
    page.evaluate("""() => { window.lengths = new Set();
        new MutationObserver(() => lengths.add(document.querySelector('article.assistant .text')?.innerText.length)).observe(document.querySelector('#chat'), {subtree: true, childList: true, characterData: true}) }""")
    setting(page, "זרע", 0)
    setting(page, "אורך מרבי", 150)
    asked, answer = say(page, ASK)
    assert words(text_of(answer)) == words(expected(bundles[0], ASK, max_new_tokens=150))
    assert text_of(asked) == ASK and page.input_value("#message textarea") == ""
    assert page.evaluate("lengths.size") > 2 # it was streamed: the page shows what there is every 40 ms
    assert re.search(r"\d+ אסימונים · [\d.,]+ לשנייה", answer.inner_text())
    assert [p.evaluate("e => [getComputedStyle(e).direction, e.dir]") for p in asked.locator("p").all()] == [["rtl", "auto"]]
    assert page.evaluate("[document.documentElement.dir, document.documentElement.lang]") == ["rtl", "he"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

@pytest.mark.browser
def test_hebrew_english_numbers_and_code_stand_in_their_order(visit):
    page = visit()
    code = "def area(width):\n    # שטח\n    return width * 2.5"
    asked, _ = say(page, f'המחיר של Python Pro הוא 12.50 ש"ח\nThe word שלום means peace\n{code}\nסוף')
    (he, _, top), (en, en_right, same), (number, number_right, _), (last, last_right, _) = asked.evaluate(WHERE_IS, ["המחיר", "Python Pro", "12.50", 'ש"ח'])
    assert top == same and he > en_right > en > number_right > number > last_right # from right to left, each word by itself from left to right
    the, hello, means = (place[0] for place in asked.evaluate(WHERE_IS, ["The", "שלום", "means"]))
    assert the < hello < means # an English line runs from left to right
    left, right = asked.evaluate("e => { const r = e.querySelector('.text').getBoundingClientRect(); return [r.left, r.right] }")
    assert abs(the - left) < 30 and abs(asked.evaluate(WHERE_IS, ["המחיר"])[0][1] - right) < 30 # each at its own side
    assert asked.locator("pre").inner_text() == code and asked.locator("pre").evaluate("e => [e.dir, getComputedStyle(e).direction, getComputedStyle(e).textAlign]") == ["ltr", "ltr", "left"]
    define, comment, back = (place[0] for place in asked.evaluate(WHERE_IS, ["def", "#", "return"]))
    assert define < back == comment < asked.evaluate(WHERE_IS, ["שטח"])[0][0] # indented, and the comment's Hebrew behind its sign
    for fenced in ("```\nx = 1\n  y\n```", "```python\nx = 1\n  y\n```"): assert say(page, fenced)[0].locator("pre").inner_text() == "x = 1\n  y"
    assert say(page, "פקודת `pip install x` כאן")[0].locator("p code").evaluate("e => [e.innerText, e.dir]") == ["pip install x", "ltr"]

@pytest.mark.browser
def test_another_answer_edit_like_undo_reload_save_and_a_new_chat(visit, server):
    page = visit()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    setting(page, "אורך מרבי", 30)
    _, answer = say(page, ASK)
    first = text_of(answer)
    answer.get_by_label("תשובה אחרת").click()
    page.wait_for_function("first => { const e = document.querySelector('article.assistant'); return e.querySelector('.acts') && e.querySelector('.text').innerText != first }", arg=first)
    answer.get_by_label("העתקה").click()
    assert words(page.evaluate("navigator.clipboard.readText()")) == words(text_of(answer))
    answer.get_by_label("תשובה טובה", exact=True).click()
    page.locator("[aria-pressed=true].like").wait_for()
    answer.get_by_text("מה המודל קיבל").click()
    dialog = page.locator("dialog[open]")
    dialog.wait_for()
    assert words(dialog.inner_text())[-3:-1] == words(ASK)[-2:] and dialog.locator(".piece.control").count() == 4 and direction(dialog.locator(".pieces div").first) == "rtl"
    page.keyboard.press("Escape")
    say(page, "ועוד שאלה")
    assert "לבדה" in page.locator("article").nth(3).inner_text() # the model learned from one turn
    before = page.locator(".log").inner_text()
    page.reload()
    page.locator("article").nth(3).wait_for()
    assert page.locator(".log").inner_text() == before
    with page.expect_download() as saved: page.click("#save")
    messages = json.loads(Path(saved.value.path()).read_text())["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant"] * 2 and messages[0]["content"] == ASK
    page.click("#undo")
    page.locator("article").nth(2).wait_for(state="detached")
    assert page.input_value("#message textarea") == "ועוד שאלה" and page.locator("article").count() == 2
    page.locator("article.user").get_by_label("עריכה").click()
    page.keyboard.press("Control+A")
    page.keyboard.type("שאלה אחרת")
    page.keyboard.press("Enter")
    page.locator("article.assistant .acts").wait_for()
    assert text_of(page.locator("article.user")) == "שאלה אחרת" and page.locator("article").count() == 2
    page.click("#clear")
    page.get_by_text("במה אפשר לעזור?").wait_for()
    [like] = read_jsonl(server.log/"likes.jsonl")
    assert like["liked"] == 1 and [m["role"] for m in like["talk"]] == ["user", "assistant"]

@pytest.mark.browser
def test_an_answer_is_stopped_and_goes_on(visit):
    page = visit()
    setting(page, "טמפרטורה", 0)
    setting(page, "אורך מרבי", 1000)
    page.evaluate("""() => new MutationObserver((_, seen) => {
        if (document.querySelector('article.assistant .text')?.innerText.length > 20) { seen.disconnect(); document.querySelector('#stop').click() }
    }).observe(document.querySelector('#chat'), {subtree: true, childList: true, characterData: true})""")
    _, answer = say(page, ASK)
    answer.get_by_text("נעצרה לפני הסוף").wait_for()
    begun = text_of(answer)
    page.wait_for_timeout(700)
    assert text_of(answer) == begun and len(begun) > 20
    setting(page, "אורך מרבי", 60) # ten may be white space, or letters of which no one is whole
    page.get_by_role("button", name="המשך").click()
    answer.get_by_text("נקטעה באורך המרבי").wait_for()
    assert text_of(answer).startswith(begun) and len(text_of(answer)) > len(begun)

@pytest.mark.browser
def test_who_waits_is_told_so_at_once_and_sees_the_place_in_the_queue(visit, server, desk):
    page, number = visit(), chat_number(server.url)
    for n in range(4): call(f"{server.url}/gradio_api/queue/join", dict(fn_index=number, data=values_of(name=list(desk.bots)[0], temperature=0, max_new_tokens=1000), session_hash=f"long{n}"))
    page.wait_for_timeout(200)
    page.evaluate("""() => { document.addEventListener('keydown', e => { window.begun ??= performance.now() }, true)
        new MutationObserver(() => { if (document.querySelector('article.waiting')) window.seen ??= performance.now() }).observe(document.querySelector('#chat'), {subtree: true, childList: true}) }""")
    _, answer = say(page, ASK, ended=False)
    answer.get_by_text("ממתינים בתור, מקום").wait_for() # the server says it within a second, see above
    assert 0 < page.evaluate("seen - begun") < 1000 # that one waits is seen at once
    for n in range(4): call(f"{server.url}/gradio_api/cancel", dict(session_hash=f"long{n}", fn_index=number, event_id="x"))
    answer.locator(".acts").wait_for() # and is answered

@pytest.mark.browser
def test_hostile_text_is_text(visit):
    page = visit()
    asked, answer = say(page, HOSTILE)
    assert text_of(asked) == HOSTILE and page.locator("article :is(img, script, b, a, .katex)").count() == 0
    for n, trick in enumerate(("\u202eסוף\u202d start", "<|answer|>כן", "${window.hacked=3}", "{{value}}`${window.hacked=4}`", "</script><script>window.hacked=5</script>")):
        assert text_of(say(page, trick)[0]).replace("`", "").strip("\u202e\u202d") == trick.replace("`", "").strip("\u202e\u202d"), trick
    tab(page, "אסימונים")
    page.fill("#text textarea", HOSTILE)
    page.locator("#tokens .pieces").filter(has_text="hacked").first.wait_for()
    tab(page, "השוואה")
    page.fill("#asked textarea", HOSTILE)
    page.click("#compare")
    page.locator("#pair table").wait_for()
    assert page.locator("#pair img, #tokens img").count() == 0 and page.evaluate("window.hacked") is None

@pytest.mark.browser
def test_two_answers_side_by_side_and_a_blind_vote(visit, server, desk):
    page = visit()
    tab(page, "השוואה")
    page.click("#compare")
    page.locator("#pair table").wait_for()
    a, b = (page.locator("#pair section").nth(n) for n in range(2))
    assert a.bounding_box()["x"] > b.bounding_box()["x"] and a.bounding_box()["y"] == b.bounding_box()["y"] # the first is to the right
    assert [section.locator("h3").inner_text() for section in (a, b)] == [f"צד {letter} · {name}" for letter, name in zip("אב", desk.bots)]
    assert page.locator("#pair tr").count() == 7
    page.check("#blind input")
    page.click("#compare")
    page.wait_for_function("names => { const e = document.querySelector('#pair'); return e.querySelector('table') && !names.some(n => e.innerText.includes(n)) }", arg=list(desk.bots))
    page.get_by_role("button", name="ב טובה יותר").click()
    page.get_by_text("ההצבעה נרשמה").wait_for()
    assert sorted(page.locator("#pair h3 bdi").all_inner_texts()) == sorted(desk.bots)
    assert read_jsonl(server.log/"votes.jsonl")[-1]["vote"] == "right"

@pytest.mark.browser
def test_tokens_change_while_one_types_and_results_are_a_table(visit):
    page = visit()
    tab(page, "אסימונים")
    page.fill("#text textarea", "")
    page.locator("#text textarea").press_sequentially("וכשהגענו לבית")
    page.wait_for_function("() => /\\b2\\s+מילים/.test(document.querySelector('#tokens .counts')?.innerText)") # the last letter is there
    page.wait_for_function("() => document.querySelectorAll('#tokens .piece.prefix').length == 3")
    assert page.locator("#tokens section .pieces .c0").first.get_attribute("title").startswith("אסימון ")
    tab(page, "תוצאות")
    page.locator("#results td").first.wait_for()
    assert "bits per byte" in page.inner_text("#results") and "1.5  (1.4–1.6)" in page.inner_text("#results")
    wide = [bar.evaluate("e => e.getBoundingClientRect().width") for bar in page.locator(".track i").all()]
    assert wide[1] / wide[0] == pytest.approx(.75, abs=.02)

@pytest.mark.browser
def test_english_is_one_click_away_and_gradio_s_own_words_are_in_both(visit):
    page = visit()
    for language, direction_, send, error in (("he", "rtl", "שליחה", "שגיאה"), ("en", "ltr", "Send", "Error")):
        assert page.evaluate("[document.documentElement.lang, document.documentElement.dir]") == [language, direction_]
        assert page.inner_text("#send") == send
        others = page.inner_text("body")
        if language == "he": assert not re.search(r"[A-Za-z]{3,}", re.sub(r"HebrewGPT|English|top-[pk]|min-p|Enter|Shift|app\d+-\w+", "", others))
        else: assert not re.search("[א-ת]", re.sub("עברית|" + "|".join(page.locator(".chip").all_inner_texts()), "", others))
        page.route("**/queue/join*", lambda route: route.fulfill(status=400, json=dict(detail="?")))
        say(page, "?", ended=False)
        page.locator(".toast-wrap").get_by_text(error, exact=True).first.wait_for()
        page.unroute("**/queue/join*")
        page.locator("article.stopped").wait_for() # nothing waits for ever
        page.click("#clear")
        page.get_by_role("button", name="English" if language == "he" else "עברית").click()
        page.wait_for_function("was => document.documentElement.lang != was && document.querySelector('#message textarea')", arg=language)
    visit.wrong.clear() # of what was refused

@pytest.mark.browser
def test_on_a_phone_the_question_and_its_buttons_are_above_the_fold(visit):
    page = visit(390, 664, device_scale_factor=2, is_mobile=True, has_touch=True)
    for where in ("#message textarea", "#send", "#stop", "#clear"):
        box = page.locator(where).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["y"] + box["height"] <= 664, where
    say(page, ASK)
    assert page.locator("#send").bounding_box()["y"] < 640 and page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab(page, "השוואה")
    page.click("#compare")
    page.locator("#pair table").wait_for()
    assert page.locator("#pair section").nth(0).bounding_box()["y"] < page.locator("#pair section").nth(1).bounding_box()["y"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

@pytest.mark.browser
def test_by_keyboard_alone_and_with_readable_contrast(visit):
    page = visit()
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA" # one can write at once
    page.keyboard.type(ASK)
    page.keyboard.press("Enter")
    page.locator("article.assistant .acts").wait_for()
    named, reached = lambda: page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText ?? ''"), set()
    for _ in range(60):
        page.keyboard.press("Shift+Tab")
        reached.add(named().strip())
    assert {"עריכה", "תשובה אחרת", "העתקה", "תשובה טובה", "מה המודל קיבל", "English"} <= reached
    shades = page.evaluate("""() => ['.note', '.figures', '.act', '#top p', '#send', '.text p', '#stop', 'button[role=tab]'].flatMap(s => [...document.querySelectorAll(s)].slice(0, 1)).map(e => {
        const shade = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b }
        let at = e; while (at && /rgba\\(0, 0, 0, 0\\)|transparent/.test(getComputedStyle(at).backgroundColor)) at = at.parentElement
        const [a, b] = [shade(getComputedStyle(e).color), shade(at ? getComputedStyle(at).backgroundColor : 'rgb(255,255,255)')].sort((x, y) => y - x)
        return [e.className + e.id, (a + .05) / (b + .05)] })""")
    assert len(shades) > 5 and min(ratio for _, ratio in shades) >= 4.5, shades

def direction(locator): return locator.evaluate("e => getComputedStyle(e).direction")

def test_the_server_asked_nobody(server):
    asked = server.asked.read_text().splitlines()
    assert asked and [a for a in asked if "'127.0.0.1'" not in a and "'localhost'" not in a] == []
    *how, url = server.out.read_text().strip().splitlines()
    assert url == server.url and all(line.startswith("decoding ") for line in how) # nor did it say anything else: no traceback, no warning
