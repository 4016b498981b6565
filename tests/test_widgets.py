"The panels: what they show is what the library computes, pages where widgets cannot run, and in JupyterLab they change while one types."
import copy, html, itertools, json, os, re, secrets, shutil, socket, subprocess, sys, time
from pathlib import Path
import pytest, torch
from conftest import small
from hebrewgpt_nb import widgets as w
from hebrewgpt_nb.bundle import save_bundle
from hebrewgpt_nb.core import UserError, write_json
from hebrewgpt_nb.generate import tokenize_prompt
from hebrewgpt_nb.metrics import score_each_answer
from hebrewgpt_nb.stock import to_stock
from hebrewgpt_nb.text.mixture import plan_mixture
from hebrewgpt_nb.tokenizer import measure_tokenizer

ROOT = Path(__file__).parents[1]
HOSTILE = "<img src=x onerror=window.hacked=1> &lt;b&gt; \u202e אחת\nשתיים </div>"
MIXED = "בשנת 2024 כתב GPT-4: 3,500.75 ש\"ח\nThe model כתב 12%"

def seen_text(page: str) -> str: # what a reader sees, without tags
    return html.unescape(re.sub("<[^>]*>", "", page))

@pytest.fixture(scope="module")
def bundles(tok, models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("widgets")
    return {name: str(save_bundle(models[name], tok, folder/name)) for name in ("AM", "A")}

# --- what is computed, against what others compute ----------------------------------------------------

@pytest.mark.parametrize("pattern", ["A", "AM"])
def test_attention_is_that_of_the_stock_twin(tok, models, pattern, tmp_path):
    from transformers import AutoModelForCausalLM
    to_stock(models[pattern], tok).save_pretrained(tmp_path)
    twin = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids = tokenize_prompt(models[pattern], tok, "הילד הלך אל הים וראה שם סירה קטנה")
    with torch.no_grad(): theirs = twin(torch.tensor([ids]), output_attentions=True).attentions
    ours = [seen for name, seen in w.see(models[pattern], ids) if name == "attention"]
    theirs = [a for a in theirs if a is not None]
    assert len(ours) == len(theirs) == models[pattern].cfg.blocks.count("A")
    for a, b in zip(ours, theirs): torch.testing.assert_close(a, b[0], rtol=1e-3, atol=1e-5)

@pytest.mark.parametrize("at", [2, 9])
def test_what_is_left_in_a_state_is_measured_in_the_state(models, at):
    "Without what was there after a token, the state at the end lacks the share that is said to be left of it."
    model, tokens = models["M"], torch.arange(20)[None] * 7 % 97
    (_, left), *_ = w.see(model, tokens[0].tolist())
    with torch.no_grad():
        model.hidden(tokens[:, :at + 1], cache=(whole := model.make_cache()))
        before, emptied = whole.layers[0].S.clone(), copy.deepcopy(whole)
        emptied.layers[0].S.zero_()
        for cache in (whole, emptied): model.hidden(tokens[:, at + 1:], cache=cache)
    lacks = whole.layers[0].S - emptied.layers[0].S # (1, H, P, N)
    torch.testing.assert_close(lacks, left[:, -1, at][None, :, None, None] * before, rtol=1e-3, atol=1e-5)

@pytest.mark.parametrize("temperature, top_k, top_p, min_p", [*itertools.product([.5, 1.3], [0, 7], [.6, 1.], [0., .1])])
def test_the_distribution_is_that_of_transformers(temperature, top_k, top_p, min_p):
    from transformers.generation import logits_process as lp
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(3)) * 2
    scores = lp.TemperatureLogitsWarper(temperature)(None, logits)
    if top_k: scores = lp.TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1: scores = lp.TopPLogitsWarper(top_p)(None, scores)
    if min_p: scores = lp.MinPLogitsWarper(min_p)(None, scores)
    before, after = w.before_and_after(logits, temperature, top_k, top_p, min_p)
    torch.testing.assert_close(after, scores.softmax(-1)[0])
    torch.testing.assert_close(before, logits.softmax(-1)[0])
    assert w.entropy(before) == pytest.approx(torch.distributions.Categorical(before).entropy().item() / torch.log(torch.tensor(2.)).item(), rel=1e-4)

@pytest.mark.parametrize("e", [dict(instruction="מהי בירת ישראל?", input="", reference="ירושלים."), dict(instruction="סכם.", input="הים כחול.", reference="כחול\nמאוד")])
def test_the_losses_of_tokens_add_up(tok, models, e):
    losses = w.reference_losses(models["AM"], tok, e)
    whole, = score_each_answer(models["AM"], tok, [dict(instruction=e["instruction"], input=e["input"], output=e["reference"])])
    assert losses[0].sum().item() == pytest.approx(whole.nats, rel=1e-5) and losses.shape[1] == whole.tokens
    page = w.loss_page(tok, e, losses)
    assert page.count("<span") == whole.tokens + e["reference"].count("\n") and f"{whole.nats_per_token:.2f} nats a token" in page # a span on each side of a new line

# --- pages --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text", [MIXED, HOSTILE, "🙂 x", "", "\n\n", "א\ud83d"])
def test_a_text_is_shown_whole_and_as_text(tok, text):
    page = w.plain(text.replace("\ud83d", "?"))
    assert seen_text(page).replace("↵", "\n") == text.replace("\ud83d", "?") and "<img" not in page
    page = w.token_page(tok, text)
    assert len(set(re.findall(r"<(\w+)", page)) - {"div", "span"}) == 0
    said = re.match(r"<div>(\d+) tokens, (\d+) words", page)
    assert [int(n) for n in said.groups()] == [len(tok.encode(text)), len(text.split())]

def test_pieces_are_not_boxes_that_turn_digits_round(tok):
    "Each line has its own direction; within it the pieces are plain inline text."
    page = w.token_page(tok, MIXED)
    assert re.findall(r'<div dir="(\w+)"', page) == ["rtl", "ltr"]
    assert not re.search(r"inline-block|<bdi|isolate|flex", page)

def test_the_counts_are_those_of_the_tokenizers_notebook(tok):
    measured = measure_tokenizer(tok, [MIXED])
    assert f": {measured['tokens_per_word']:.2f} tokens a word, {measured['bytes_per_token']:.2f} bytes a token" in w.token_page(tok, MIXED)

def test_the_next_token_follows_the_sliders(bundles):
    panel = w.next_explorer(bundles, "הוא הלך")
    kept = [int(re.search(r"([\d,]+) of 600 pieces", panel.view(**changes))[1]) for changes in (dict(top_p=1.), dict(top_p=1., top_k=5), dict(temperature=0.))]
    assert kept == [600, 5, 1]
    assert panel.view(instruction=True) != panel.view() != panel.view(bundle="A")
    assert "the prompt is empty" in panel.view(text="") and "shorten it" in panel.view(text="שלום " * 400)

def test_heads_that_are_not_there_are_a_line(bundles, tok):
    panel = w.sight_explorer(bundles, "הים")
    assert panel.choices["head"] == ["mean", "all", "0", "1", "2", "3"] and panel.choices["block"] == [0, 1, 2]
    assert "there is no head 3, it has 2" in panel.view(head="3")
    for head in ("mean", "all", "1"): assert "<img alt=" in panel.view(block=1, head=head)

def test_the_picture_runs_as_the_sentence_does(tok, models):
    ids = tokenize_prompt(models["AM"], tok, "הים כחול 25")
    labels = w.piece_labels(tok, ids)
    picture = w.head_figure(w.see(models["AM"], ids)[0][1].mean(0), "attention", labels)
    ax = picture.axes[0]
    assert ax.get_xlim()[0] > ax.get_xlim()[1] and [t.get_text() for t in ax.get_xticklabels()] == labels # the first to the right
    assert all((ax.get_title(), ax.get_xlabel(), ax.get_ylabel()))
    grid = w.heads_figure(torch.ones(5, 3, 3), "state")
    assert [a.get_title() for a in grid.axes] == [f"head {h}" for h in range(5)] and w.as_html(grid).startswith('<img alt="state; head 0; ')

def log_line(step, **more): return json.dumps(dict(step=step, loss=9 / step, tokens=100 * step, tokens_per_s=50, lr=.01) | more) + "\n"

def test_a_run_is_followed(tmp_path):
    (run := tmp_path/"pretrain").mkdir()
    log = run/"metrics.jsonl"
    log.write_text(log_line(1) + log_line(2, bpb=2.5, sample="שלום <b>"), encoding="utf8")
    panel = w.run_monitor(tmp_path)
    first = panel.view()
    assert re.sub(r"\d+ s ago", "", panel.view(clock=1)) == re.sub(r"\d+ s ago", "", first)
    assert ">200</td>" in first and ">2.5</td>" in first and "שלום &lt;b&gt;" in first and "not finished" in first
    log.write_text(log.read_text(encoding="utf8") + log_line(3) + log_line(4)[:20], encoding="utf8") # a line that is being written
    assert ">300</td>" in panel.view(clock=2) != first
    write_json(run/"done.json", {})
    assert "finished</td>" in panel.view() and "not finished" not in panel.view()
    (run/".next").mkdir()
    (run/".next"/"metrics.jsonl").write_text(log_line(1))
    assert "not finished" in panel.view() and ">100</td>" in panel.view() # it is done again

def test_a_run_that_has_phases_alone_is_one_run(tmp_path):
    for phase in (1, 2):
        (folder := tmp_path/"a"/"sft"/f"phase{phase}").mkdir(parents=True)
        (folder/"metrics.jsonl").write_text(log_line(1, val_loss=3.) + log_line(2))
    assert list(w.find_runs(tmp_path)) == ["a/sft"]
    assert ">4</td>" in (page := w.run_monitor(tmp_path).view()) and ">400</td>" in page

@pytest.mark.parametrize("x, last", [("step", 4), ("tokens", 400)])
def test_curves_are_the_log(x, last):
    rows = [json.loads(log_line(s, phase=p, val_loss=s * 1.)) for p in (1, 2) for s in (1, 2)]
    fig = w.runs_figure({"ריצה א": rows, "b": [dict(r, lr=.02) for r in rows[:2]]}, x)
    axes = {ax.get_title(): ax for ax in fig.axes}
    assert list(axes) == ["training loss", "validation loss", "learning rate", "speed"] and all(ax.get_xlabel() == x and ax.get_ylabel() for ax in fig.axes)
    a, b = axes["learning rate"].lines
    assert a.get_xdata()[-1] == last and list(a.get_ydata()) == [.01] * 4 and list(b.get_ydata()) == [.02] * 2 and a.get_color() != b.get_color()
    assert [t.get_text() for t in axes["speed"].get_legend().get_texts()] == ["ריצה א", "b"]

def test_answers_of_any_number_of_models(bundles, tmp_path):
    e = dict(instruction=HOSTILE, input="", reference="כן", base="אחת", instruct=HOSTILE, third="3.14 הוא פאי")
    write_json(tmp_path/"exchanges.json", [e, dict(e, reference="לא " * 300)])
    read = w.read_exchanges(tmp_path)
    page = w.exchange_page(read[0])
    assert "<img" not in page and all(f"<b>{name}</b>" in page for name in ("instruction", "reference", "base", "instruct", "third")) and "<b>input</b>" not in page
    browser = w.answer_browser(read, bundles)
    assert "longer than the context" in browser.view(number=2)
    assert seen_text(browser.view(order="AM")) == seen_text(browser.view()) # what is too long comes last

def test_the_dearest_reference_comes_first(bundles, tok, models):
    exchanges = [dict(instruction="א", input="", reference=text) for text in ("שלום", "הים כחול", "2024")]
    costs = [score_each_answer(models["A"], tok, [dict(e, output=e["reference"])])[0].nats_per_token for e in exchanges]
    assert [costs[exchanges.index(e)] for e in w.dearest_first(exchanges, bundles["A"])] == sorted(costs, reverse=True)

@pytest.mark.parametrize("content", [[], {}, [1], [dict(instruction="א")], [dict(instruction="א", input=1, reference="ב")]])
def test_what_are_no_answers_is_one_line(tmp_path, content):
    with pytest.raises(UserError, match="x.json: not saved answers; give"): w.read_exchanges(write_json(tmp_path/"x.json", content))

def test_a_mixture_is_what_its_plan_says():
    tokens = {"חדשות <b>": 1000, "law": 3000, "none": 500}
    panel = w.mixture_explorer(tokens)
    shares = {"חדשות <b>": .5, "law": .25, "none": 0.}
    with pytest.warns(UserWarning, match="none"): plan = plan_mixture(tokens, shares, 6000, 4.)
    page = panel.view(**shares | {w.TOTAL: 6000, w.MOST: 4.})
    cells = [[seen_text(c) for c in re.findall("<td.*?</td>", row)][1:] for row in re.findall("<tr>.*?</tr>", page)[1:]]
    assert [row[0] for row in cells] == list(tokens) and [row[4] for row in cells] == [f"{plan[s]['tokens']:,}" for s in tokens]
    assert [row[6] for row in cells] == ["yes" if plan[s]["capped"] else "" for s in tokens] and "<b>" not in page.replace("</b>", "")
    assert "none is above 0" in panel.view(**dict.fromkeys(tokens, 0.)) and "the mixture can give" in panel.view(**{w.TOTAL: 10**6})

# --- panels -------------------------------------------------------------------------------------------

WIDGET = "application/vnd.jupyter.widget-view+json"

def ask(text, n, exact):
    if n > 3: raise UserError(f"n is {n} <b>: give 3 or less")
    return f"{text * n} {exact}"

@pytest.fixture
def panel(monkeypatch):
    monkeypatch.delenv("HEBREWGPT_QUIET", raising=False)
    return w.Panel(ask, dict(text="אב", n=2, exact=False), n=(0, 9, 1))

def test_a_panel_changes_with_its_controls(panel):
    pytest.importorskip("ipywidgets")
    style, controls, shown = panel.live().children
    text, n, exact = controls.children
    assert [type(c).__name__ for c in controls.children] == ["Textarea", "IntSlider", "Checkbox"] and "hebrew" in text._dom_classes
    assert "direction:rtl" in style.value and "אבאב False" in shown.value
    text.value, exact.value = "ג", True
    assert "גג True" in shown.value
    n.value = 5
    assert "<p>n is 5 &lt;b&gt;: give 3 or less</p>" in shown.value
    n.value = 1
    assert "ג True" in shown.value

def test_a_panel_is_a_page_for_those_who_cannot_show_widgets(panel, monkeypatch):
    pytest.importorskip("ipywidgets")
    both = panel._repr_mimebundle_()
    assert WIDGET in both and "אבאב False" in both["text/html"] and "text: <bdi>אב</bdi>; n: <bdi>2</bdi>" in both["text/html"]
    monkeypatch.setattr(w, "find_spec", lambda name: None) # not installed
    assert panel._repr_mimebundle_().keys() == {"text/plain", "text/html"}
    monkeypatch.undo()
    monkeypatch.setenv("HEBREWGPT_QUIET", "1")
    assert panel._repr_mimebundle_() == {"text/plain": "Panel(text, n, exact)", "text/html": both["text/html"]}

def test_an_error_that_is_not_the_users_is_not_hidden(panel):
    with pytest.raises(TypeError): panel.view(n="x")

def test_everything_in_a_folder_is_a_tab(bundles, tmp_path):
    folder = Path(bundles["AM"]).parent
    write_json(tmp_path/"exchanges.json", [dict(instruction="א", input="", reference="ב", base="ג")])
    tabs = w.workbench(folder)
    assert list(tabs.panels) == ["tokens", "next token", "heads"] and "<h4>heads</h4>" in tabs.page()
    assert list(w.workbench(tmp_path).panels) == ["answers: ."]
    with pytest.raises(UserError, match="nothing to show there"): w.workbench(ROOT/"apps")

# --- in JupyterLab ------------------------------------------------------------------------------------

def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free: return free.getsockname()[1]

SETTINGS = {"notebook-extension/tracker": dict(windowingMode="none"), # every cell is in the page
            "apputils-extension/notification": dict(fetchNews="false", checkForUpdates=False)}

@pytest.fixture
def lab(tmp_path):
    "JupyterLab on a copy of the notebook, with settings of its own."
    pytest.importorskip("jupyterlab", reason="needs JupyterLab: pip install -e .[dev]")
    (place := tmp_path/"lab").mkdir()
    shutil.copy(ROOT/"nbs"/"08_widgets.ipynb", place)
    for name, values in SETTINGS.items(): write_json(tmp_path/"settings"/"@jupyterlab"/f"{name}.jupyterlab-settings", values)
    own = {f"JUPYTER_{kind}_DIR": str(tmp_path/kind) for kind in ("CONFIG", "DATA", "RUNTIME")} | dict(JUPYTERLAB_SETTINGS_DIR=str(tmp_path/"settings"), PYTHONPATH=str(ROOT))
    env, port, token = {k: v for k, v in os.environ.items() if k != "HEBREWGPT_QUIET"} | own, free_port(), secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={place}", "--ServerApp.ip=127.0.0.1"]
    process = subprocess.Popen(command, env=env, cwd=place, stdout=(tmp_path/"out").open("w"), stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            if f"{url}/lab" in (tmp_path/"out").read_text() or process.poll() is not None: break
            time.sleep(.2)
        assert process.poll() is None, (tmp_path/"out").read_text()
        yield url, f"{url}/lab/tree/08_widgets.ipynb?token={token}"
    finally: process.terminate(); process.wait(30)

@pytest.fixture
def page():
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if not path: pytest.skip("no chromium on the PATH: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright: pip install -e .[dev]")
    with api.sync_playwright() as p:
        flags = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
        browser = p.chromium.launch(executable_path=path, args=flags.split())
        page = browser.new_page(viewport=dict(width=1200, height=900))
        page.set_default_timeout(600_000) # on a busy machine
        yield page
        browser.close()

PLACES = """([box, letters]) => [...letters].map(letter => { // where each letter's glyph begins, the first of its kind
    const walk = document.createTreeWalker(box, NodeFilter.SHOW_TEXT), range = document.createRange();
    while (walk.nextNode()) { const at = walk.currentNode.data.indexOf(letter);
        if (at >= 0) { range.setStart(walk.currentNode, at); range.setEnd(walk.currentNode, at + 1); return range.getBoundingClientRect().x } } })"""

@pytest.mark.browser
def test_jupyterlab_changes_while_one_types(lab, page):
    url, notebook = lab
    asked = []
    page.on("request", lambda r: asked.append(r.url))
    page.goto(notebook)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.get_by_text("(ipykernel) | Idle").wait_for() # cells that are run before there is a kernel are not
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    explorer = page.locator(".jp-OutputArea-output:has(.hebrew)").first
    explorer.locator("textarea").fill("")
    explorer.get_by_text("0 tokens, 0 words").first.wait_for()
    explorer.locator("textarea").press_sequentially("ב־1793 GPT שר") # key by key
    explorer.get_by_text(", 3 words, 13 characters").first.wait_for()
    line = explorer.locator("div[dir=rtl]:has(> span)").first
    line.scroll_into_view_if_needed()
    beth, *digits, resh = page.evaluate(PLACES, [line.element_handle(), "ב1793ר"])
    assert beth > digits[0] and digits == sorted(digits) and digits[0] > resh # Hebrew from the right, the number from its left
    direction = explorer.locator("textarea").evaluate("e => getComputedStyle(e).direction")
    (shots := ROOT/"runs"/"nb"/"screens").mkdir(parents=True, exist_ok=True)
    page.screenshot(path=shots/"tokens.png")
    page.wait_for_function("/\\d/.test([...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].at(-1).innerText)") # all has run
    assert page.get_by_text("Traceback (most recent call last)").count() == 0
    sampler = page.locator(".jp-OutputArea-output:has-text('pieces may be drawn'):has(.hebrew)").first
    sampler.locator(".noUi-handle").first.press("Home") # temperature 0
    sampler.get_by_text("1 of 1,024 pieces may be drawn").wait_for()
    page.screenshot(path=shots/"next.png")
    assert direction == "rtl" and [u for u in asked if not u.startswith((url + "/", "data:", "blob:"))] == []
