"The app as a visitor meets it: a server of its own, Chromium, Hebrew from right to left, and nobody else asked."
import gc, importlib.util, json, os, re, shutil, socket, subprocess, sys, time, urllib.error, urllib.request
from pathlib import Path
import pytest, torch
from hebrewgpt_nb.bundle import SAMPLING, load_bundle, save_bundle
from hebrewgpt_nb.core import UserError, read_jsonl, sample_dir
from hebrewgpt_nb.generate import generate
from hebrewgpt_nb.model import HebrewGPT, count_parameters, get_preset
from hebrewgpt_nb.tokenizer import Tokenizer, encode_prompt, train_tokenizer

gr = pytest.importorskip("gradio", reason="the app needs gradio: pip install -e .[app]")
ROOT = Path(__file__).parents[1]
SCRIPT = ROOT/"apps"/"app.py"
ASK = "מהי בירת ישראל?"
HOSTILE = "<img src=x onerror=window.hacked=1> **א** <script>window.hacked=2</script> $$x^2$$ &lt;b&gt;"
HALF = "שלום \ud83d לך" # half of a smile
LONG = "שאלה " * 500

@pytest.fixture(scope="module")
def app():
    spec = importlib.util.spec_from_file_location("hebrewgpt_app", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    "Two models of random weights that have something to say, as a run folder and as a bundle."
    folder = tmp_path_factory.mktemp("app")
    texts = [r["text"] for p in sorted((sample_dir()/"pretrain").glob("*.train.jsonl")) for r in read_jsonl(p)]
    tok = Tokenizer(train_tokenizer(texts, folder/"tokenizer.model", vocab_size=700))
    def talkative():
        for seed in range(50):
            torch.manual_seed(seed)
            model = HebrewGPT(get_preset("tiny", vocab_size=700)).eval()
            if len(words(generate(model, tok, encode_prompt(tok, ASK), **SAMPLING))) > 15: yield model
    models = talkative()
    save_bundle(next(models), tok, folder/"base"/"bundle", bpb=dict(macro=1.2345))
    return folder/"base", save_bundle(next(models), tok, folder/"instruct")

@pytest.fixture(scope="module")
def bot(app, bundles): return app.Bot(bundles[1])

def expected(bundle, instruction, input="", **sampling):
    model, tok = load_bundle(bundle)
    return generate(model, tok, encode_prompt(tok, instruction, input), **SAMPLING | sampling)

def words(text): return re.findall("[א-ת]+", text)

# --- without a browser --------------------------------------------------------------------------------

def test_a_wrong_bundle_is_one_line_and_exit_2(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, "--base", tmp_path, "--instruct", tmp_path], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith(f"error: {tmp_path}: no bundle there")

def test_without_a_demo_the_error_names_make_demo(app, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="run `make demo` first"): app.serve(None, None, "127.0.0.1", 0)

@pytest.mark.parametrize("runs, chosen", [(["demo"], "demo"), (["demo", "demo-data"], "demo-data")])
def test_the_demo_is_found(app, tmp_path, monkeypatch, runs, chosen):
    monkeypatch.chdir(tmp_path)
    for r in runs: (tmp_path/"runs"/r/"sft"/"bundle").mkdir(parents=True)
    with pytest.raises(UserError, match=f"^runs/{chosen}/pretrain: no bundle there"): app.serve(None, None, "127.0.0.1", 0)

def test_a_busy_port_is_one_line(app, bundles):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(UserError, match=f"^cannot serve on 127.0.0.1:{port} ") as e: app.serve(*bundles, "127.0.0.1", port)
    assert "\n" not in str(e.value)

def test_dollars_are_shown_as_written(app, bundles):
    chats = [c for c in app.build_app(*bundles).blocks.values() if isinstance(c, gr.Chatbot)]
    assert [c.latex_delimiters for c in chats] == [[]] # and in the browser: `HOSTILE` holds a formula

def test_the_page_is_built(app, bundles):
    page = app.build_app(*bundles)
    listeners = [f for f in page.fns.values() if f.fn and f.queue]
    assert isinstance(page, gr.Blocks) and page._queue.max_size == app.MAX_WAITING
    assert [(f.concurrency_id, f.concurrency_limit) for f in listeners if f.concurrency_id in ("base", "instruct")] == [("instruct", 1), ("instruct", 1)]

def test_the_numbers_of_a_model(app, bundles, bot):
    assert "1.234 ביטים לבייט" in app.Bot(bundles[0]).facts() and "ביטים" not in bot.facts()
    assert f"{count_parameters(bot.model.cfg):,} פרמטרים" in bot.facts() # packed for decoding, and counted all the same

@pytest.mark.parametrize("input", ["", "ירושלים היא עיר."])
def test_an_answer_grows_into_what_generate_gives(bot, bundles, input):
    pieces = list(bot.answer(ASK, input, .7, .9, 30, 5))
    assert len(pieces) > 3 and all(b.startswith(a) and a != b for a, b in zip(pieces, pieces[1:]))
    assert pieces[-1] == expected(bundles[1], ASK, input, temperature=.7, top_p=.9, max_new_tokens=30, seed=5)

def test_a_chat_shows_text_and_answers_each_question_alone(bot, bundles):
    before = [dict(role="user", content="א"), dict(role="assistant", content="ב")] * 50
    box, shown = list(bot.chat(HOSTILE, before, 0, 1, 20, 0))[-1]
    assert box == "" and len(shown) == 40 and shown[:-2] == before[-38:]
    assert shown[-2]["content"].startswith("&lt;img src=x onerror") and shown[-2]["content"].endswith("&amp;lt;b&amp;gt;")
    assert words(shown[-1]["content"]) == words(expected(bundles[1], HOSTILE, temperature=0, top_p=1, max_new_tokens=20))

@pytest.mark.parametrize("text, said", [("  ", "כתבו שאלה"), (LONG, "2,500 תווים"), ("צק" * 400, "אסימונים, ויש מקום ל־255")])
def test_what_cannot_be_asked_is_said_in_hebrew(bot, text, said):
    (box, _), (_, shown) = bot.chat(text, [], .8, .95, 10, 0)
    assert box == text and said in shown[-1]["content"] and len(shown[0]["content"]) < 200
    assert [said in t for t in bot.answer(text)] == [True]

def test_half_of_a_surrogate_pair_is_refused_in_one_line(bot):
    said = "בטקסט יש תו שבור (חצי של זוג UTF-16); מחקו אותו ושלחו שוב."
    assert list(bot.answer(HALF)) == list(bot.answer(ASK, HALF)) == [said]
    box, shown = list(bot.chat(HALF, [], .8, .95, 10, 0))[-1]
    assert box == shown[0]["content"] == "שלום \ufffd לך" and shown[1]["content"] == said

def test_the_input_counts_too(bot): assert next(bot.answer(ASK, LONG)).startswith(f"הטקסט ארוך מדי: {len(ASK + LONG):,} תווים")

def test_both_answers_are_to_one_question(app, bot, bundles):
    base = app.Bot(bundles[0])
    shown = list(app.side_by_side(base, bot, ASK, "", 0, 1, 20, 0))
    assert shown[-1] == tuple([*b.answer(ASK, "", 0, 1, 20, 0)][-1] for b in (base, bot))
    assert all(shown[0]) and all(len(old) <= len(new) for before, after in zip(shown, shown[1:]) for old, new in zip(before, after))

def test_limits_of_length_and_time(app, bot, monkeypatch):
    monkeypatch.setattr(app, "MAX_NEW", 3)
    assert 1 <= len(list(bot.answer(ASK, length=10**6, temperature=0))) <= 3
    monkeypatch.setattr(app, "MAX_NEW", 400)
    monkeypatch.setattr(app, "MAX_SECONDS", -1)
    with pytest.warns(UserWarning, match="-1 שניות"): assert len(list(bot.answer(ASK, length=50))) == 1

def test_what_the_model_refuses_is_said(bot): assert list(bot.answer(ASK, top_p=7)) == ["אי אפשר לענות: top_p is 7: give a share above 0, up to 1 (all)"]

# --- by its addresses, without the page ---------------------------------------------------------------

def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free: return free.getsockname()[1]

def call(url, body=None, kind="application/json"): # status and text
    request = urllib.request.Request(url, body if body is None or isinstance(body, bytes) else json.dumps(body).encode(), {"content-type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer: return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e: return e.code, e.read().decode()

def listeners(url): # number -> how many values it takes
    return {d["id"]: len(d["inputs"]) for d in json.loads(call(url + "/config")[1])["dependencies"] if d["backend_fn"]}

def ask(url, number, values, session):
    "Ask as the page does, and wait for the answer."
    status, said = call(f"{url}/gradio_api/queue/join", dict(fn_index=number, data=values, session_hash=session))
    assert status == 200, said
    return json.loads(call(f"{url}/gradio_api/queue/data?session_hash={session}")[1].strip().split("\n\n")[-2].removeprefix("data: "))

@pytest.fixture
def served(app, bundles, monkeypatch):
    "The page served by this process, so that what it holds can be counted."
    pages, port = [], free_port()
    monkeypatch.setattr(gr.Blocks, "block_thread", lambda page: pages.append(page))
    app.serve(*bundles, "127.0.0.1", port)
    yield pages[0], f"http://127.0.0.1:{port}"
    pages[0].close(verbose=False)

def held(kind): return sum(type(o) is kind for o in gc.get_objects())

def test_memory_is_level_after_many_questions(served):
    page, url = served
    number = next(n for n, takes in listeners(url).items() if takes == 6)
    for i in range(70): assert ask(url, number, [ASK, [], 0, 1, 1, 0], f"visitor{i}")["success"]
    gc.collect()
    assert held(gr.state_holder.SessionState) <= 64 and held(gr.queueing.Event) <= 2 and len(page._queue.event_analytics) <= 1
    assert not page._queue.event_ids_to_events and not page.app.iterators

VALUES = [ASK, [], .8, .95, 5, 0]
CHAT = dict(role="user", metadata=None, content=[dict(text="א", type="text")], options=None)

def spoiled(at, value): return VALUES[:at] + [value] + VALUES[at + 1:]

BAD = [*[spoiled(0, v) for v in (None, 7, [], {}, dict(path="/etc/passwd"))],
       *[spoiled(1, v) for v in (None, 7, "א", [7], [CHAT | dict(role="system")], [CHAT | dict(options=[1])], [CHAT | dict(content=[dict(type="file", file=dict(path="/etc/passwd"))])],
                                 [CHAT | dict(content=[dict(text=HALF, type="text")])], [CHAT] * 41)],
       *[spoiled(at, v) for at in (2, 3, 4, 5) for v in ("א", [], {}, True, -5, 1e12, 10**400, float("nan"), float("inf"))], spoiled(2, None),
       VALUES[:2], VALUES + [1], None, "א", {}]

def test_wrong_types_are_refused_in_one_line(server):
    number = next(n for n, takes in listeners(server.url).items() if takes == 6)
    bodies = [dict(fn_index=number, data=data, session_hash="x") for data in BAD]
    bodies += [dict(fn_index=n, data=VALUES, session_hash="x") for n in (99, -1, None, "1", [1])] + [dict(fn_index=n, data=[], session_hash="x") for n, takes in listeners(server.url).items() if takes]
    bodies += [dict(fn_index=number, data=VALUES, session_hash=s) for s in (None, 7, HALF, "", "x" * 100)] + [b"", b"\xff", b"[" * 10**5, b"null", b"[]", b"9" * 2**21]
    for body in bodies:
        status, said = call(f"{server.url}/gradio_api/queue/join", body)
        assert status == 400 and list(json.loads(said)) == ["detail"] and re.fullmatch("[א-ת].*", json.loads(said)["detail"]), (str(body)[:200], said)

def test_half_of_a_surrogate_pair_is_answered_by_the_server_too(server):
    number = next(n for n, takes in listeners(server.url).items() if takes == 6)
    done = ask(server.url, number, spoiled(0, HALF), "half")
    assert done["success"] and "תו שבור" in str(done["output"]["data"][1][-1])

@pytest.mark.parametrize("path", ["upload", "upload/", "component_server", "process_recording", "call/chat", "vibe-edit"])
def test_nothing_is_uploaded(server, path):
    body = b'--B\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\nx\r\n--B--\r\n'
    status, said = call(f"{server.url}/gradio_api/{path}", body, "multipart/form-data; boundary=B")
    assert status == 400 and "הכתובת סגורה" in json.loads(said)["detail"]
    assert [f for f in server.uploads.rglob("*") if f.is_file()] == []

@pytest.mark.parametrize("path", ["gradio_api/file=/etc/passwd", "gradio_api/deep_link?session_hash=x", "gradio_api/call/chat/x", "monitoring/summary", "gradio_api/queue/data?session_hash=nobody"])
def test_what_the_page_does_not_read_is_closed(server, path): assert call(f"{server.url}/{path}")[0] == 400

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
    process = subprocess.Popen([sys.executable, SCRIPT, "--base", bundles[0], "--instruct", bundles[1], "--port", str(port)], env=env, stdout=(folder/"out").open("w"), stderr=subprocess.STDOUT)
    process.url, process.asked, process.out, process.uploads = f"http://127.0.0.1:{port}", folder/"asked", folder/"out", folder/"uploads"
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
    if not path: pytest.skip("no chromium on the PATH: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright: pip install -e .[dev]")
    with api.sync_playwright() as p:
        flags = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
        browser = p.chromium.launch(executable_path=path, args=flags.split())
        yield browser
        browser.close()

@pytest.fixture(params=[1200, 390], ids=["desktop", "phone"])
def page(request, chromium, server):
    "The page at two widths; afterwards: nobody else was asked, and no error was logged."
    page, asked, wrong = chromium.new_page(viewport=dict(width=request.param, height=850), locale="he-IL"), [], []
    page.on("request", lambda r: asked.append(r.url))
    page.on("websocket", lambda w: asked.append(w.url))
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.set_default_timeout(60_000)
    page.goto(server.url)
    page.wait_for_selector("#message textarea")
    yield page
    page.close()
    assert asked and [u for u in asked if not u.startswith((server.url + "/", "data:", "blob:"))] == [] and wrong == []

def say(page, text):
    "Send a question; its bubble and the answer's."
    n = page.locator("#chat [data-testid=bot]").count()
    page.fill("#message textarea", text)
    page.press("#message textarea", "Enter")
    answer = page.locator("#chat [data-testid=bot]").nth(n)
    answer.wait_for()
    return page.locator("#chat [data-testid=user]").nth(n), answer

def until(page, text_of, value, seconds=60):
    "Wait for the Hebrew words of an answer."
    for _ in range(seconds * 10):
        if words(text_of()) == value: return
        page.wait_for_timeout(100)
    assert words(text_of()) == value

def direction(locator): return locator.evaluate("e => getComputedStyle(e).direction")

@pytest.mark.browser
def test_a_hebrew_question_is_answered_from_right_to_left(page, bundles):
    page.evaluate("""() => { window.lengths = new Set();
        new MutationObserver(() => lengths.add(document.querySelector('#chat [data-testid=bot]')?.innerText.length)).observe(document.querySelector('#chat'), {subtree: true, childList: true, characterData: true}) }""")
    asked, answer = say(page, ASK)
    until(page, answer.inner_text, words(expected(bundles[1], ASK)))
    assert asked.inner_text() == ASK and page.input_value("#message textarea") == ""
    assert page.evaluate("lengths.size") > 3 # it was streamed
    for bubble in (asked, answer, answer.locator("xpath=.."), answer.locator(".message-content")): assert direction(bubble) == "rtl"
    assert answer.evaluate("e => getComputedStyle(e).textAlign") == "right"
    page.get_by_role("button", name="ניקוי").click()
    page.get_by_text("כאן תופיע השיחה").wait_for()

@pytest.mark.browser
def test_hostile_text_is_text(page, bundles):
    asked, answer = say(page, HOSTILE)
    until(page, answer.inner_text, words(expected(bundles[1], HOSTILE)))
    assert asked.inner_text() == HOSTILE and page.locator("#chat img, #chat script, #chat b, #chat .katex").count() == 0
    page.get_by_role("tab", name="בסיס מול הוראות").click()
    page.fill("#instruction textarea", HOSTILE)
    page.get_by_role("button", name="השוואה").click()
    until(page, lambda: page.input_value("#instruct textarea"), words(expected(bundles[1], HOSTILE)))
    assert page.evaluate("window.hacked") is None

@pytest.mark.browser
def test_two_answers_side_by_side(page, bundles):
    page.get_by_role("tab", name="בסיס מול הוראות").click()
    page.fill("#instruction textarea", ASK)
    page.fill("#input textarea", "ירושלים.")
    page.get_by_role("button", name="השוואה").click()
    for name, bundle in zip(("base", "instruct"), bundles):
        until(page, lambda: page.input_value(f"#{name} textarea"), words(expected(bundle, ASK, "ירושלים.")))
        assert direction(page.locator(f"#{name} textarea")) == "rtl"
    assert page.input_value("#base textarea") != page.input_value("#instruct textarea")
    base, instruct = page.locator("#base").bounding_box(), page.locator("#instruct").bounding_box()
    assert base["x"] > instruct["x"] if page.viewport_size["width"] > 600 else base["y"] < instruct["y"] # the first is to the right, or above

@pytest.mark.browser
def test_what_was_typed_is_asked_however_late_the_page_draws(page, bundles):
    "On a busy machine: fields that open for the first time keep what is typed at once, and both answers are to it."
    sent = []
    page.on("request", lambda r: sent.append(json.loads(r.post_data)["data"]) if r.url.split("?")[0].endswith("/queue/join") else None)
    page.evaluate("() => { const draw = requestAnimationFrame; window.requestAnimationFrame = f => setTimeout(() => draw(f), 400) }")
    page.get_by_role("tab", name="בסיס מול הוראות").click()
    page.fill("#instruction textarea", HOSTILE)
    page.get_by_text("הגדרות דגימה").click()
    length = page.locator("input[type=number]").nth(2)
    length.fill("30")
    length.press("Tab")
    page.wait_for_timeout(1500)
    page.get_by_role("button", name="השוואה").click()
    page.fill("#instruction textarea", "משהו אחר") # too late for this answer
    for name, bundle in zip(("base", "instruct"), bundles):
        until(page, lambda: page.input_value(f"#{name} textarea"), words(expected(bundle, HOSTILE, max_new_tokens=30)))
    assert sent == [[HOSTILE, "", .8, .95, 30, 0]]

@pytest.mark.browser
def test_an_answer_is_stopped(page, bundles):
    page.get_by_text("הגדרות דגימה").click()
    length = page.locator("input[type=number]").nth(2)
    length.fill("400") # as long as can be
    length.press("Tab")
    page.wait_for_timeout(1000) # the page tells the server in its own time
    page.evaluate("""() => new MutationObserver((_, seen) => {
        if (document.querySelector('#chat [data-testid=bot]')?.innerText.length > 20) { seen.disconnect(); [...document.querySelectorAll('button')].find(b => b.innerText == 'עצירה').click() }
    }).observe(document.querySelector('#chat'), {subtree: true, childList: true, characterData: true})""")
    _, answer = say(page, ASK)
    page.wait_for_timeout(1500)
    begun = answer.inner_text()
    page.wait_for_timeout(1500)
    whole = expected(bundles[1], ASK, max_new_tokens=400)
    assert answer.inner_text() == begun and 20 < len(begun) < len(whole) and words(whole)[:len(words(begun)) - 1] == words(begun)[:-1]

@pytest.mark.browser
def test_a_chat_is_cleared_while_it_answers(page):
    for wait in range(0, 300, 60):
        say(page, ASK)
        page.wait_for_timeout(wait)
        page.get_by_role("button", name="ניקוי").click()
        page.wait_for_timeout(600)
        assert page.locator("#chat [data-testid=bot], #chat [data-testid=user]").count() == 0, wait

@pytest.mark.browser
def test_too_long_is_said_in_the_chat_and_kept_in_the_box(page):
    _, answer = say(page, LONG)
    assert answer.inner_text().startswith("הטקסט ארוך מדי: 2,500 תווים.") and page.input_value("#message textarea") == LONG
    assert page.locator(".toast-body").count() == 0

@pytest.mark.browser
def test_the_whole_page_runs_from_right_to_left(page):
    assert page.evaluate("[document.documentElement.dir, document.documentElement.lang]") == ["rtl", "he"]
    page.get_by_text("הגדרות דגימה").click()
    page.get_by_text("טמפרטורה").wait_for()
    for where in ("h1", "#message", "#message textarea", "#message label span", ".gallery-item", "button[role=tab]"): assert direction(page.locator(where).first) == "rtl", where
    right = page.locator("#message").bounding_box()
    example = page.locator(".gallery-item").first.bounding_box()
    assert abs(right["x"] + right["width"] - example["x"] - example["width"]) < 5
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not re.search(r"[A-Za-z]{3,}", page.inner_text("body").replace("HebrewGPT", "").replace("top-p", "")) # no label was left in English

def test_the_server_asked_nobody(server):
    asked = server.asked.read_text().splitlines()
    assert asked and [a for a in asked if "'127.0.0.1'" not in a and "'localhost'" not in a] == []
    *how, url = server.out.read_text().strip().splitlines()
    assert url == server.url and all(line.startswith("decoding ") for line in how) # nor did it say anything else: no traceback, no warning
