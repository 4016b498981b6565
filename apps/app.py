"Chat in Hebrew with models in the browser, see two of them side by side, look at tokens and at results."
import os
os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", # read when gradio is imported: the page and the server ask nobody else
               "GRADIO_ANALYTICS_MAX_EVENTS": "1", "GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000000000"} # nor keep a table of all questions, read anew at each
import argparse, asyncio, hmac, json, math, random, re, sys, threading, time
from pathlib import Path
import gradio as gr
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Mount
from hebrewgpt_nb.bundle import find_bundle, load_bundle, read_config, read_sampling
from hebrewgpt_nb.core import UserError, append_line, model_name, pick_device, read_json, resolve
from hebrewgpt_nb.engine.cpu import MATVEC_MAX_ROWS
from hebrewgpt_nb.metrics import repetition_rate
from hebrewgpt_nb.model import count_parameters
from hebrewgpt_nb.serve import Busy, Scheduler, follow, make_api
from hebrewgpt_nb.text.prefixes import WORD, split_words
from hebrewgpt_nb.tokenizer import encode_prompt, readable_pieces

MAX_CHARS, MAX_NEW, MAX_SECONDS, MAX_WAITING, MAX_MESSAGES = 4000, 1000, 60, 64, 100 # of a question, an answer, an answer, the queue, a chat
MAX_BYTES, MAX_SESSIONS, MAX_LOG = 2**20, 64, 2**26 # of a request; of visitors whose page Gradio remembers; of likes or votes, in bytes
PAUSE = .04 # seconds between two states of an answer: showing one takes the processor that writes it
HALF = re.compile("[\ud800-\udfff]") # of a pair of UTF-16: no character
HERE = Path(__file__).parent
WRITING = threading.Lock() # one line after the other
WORDS = json.loads((HERE/"words.json").read_text()) # key -> Hebrew, English
EXAMPLES = ["איך מכינים סלט ירקות ישראלי?", "תן לי שלושה רעיונות לטיול משפחתי בשבת.", "הסבר במשפט אחד מהי פוטוסינתזה.", "כתבי ברכה קצרה ליום הולדת של חברה."]
SENTENCE = "וכשהגענו לבית הספר בשעה 8:30, המורה לימדה אותנו Python: print(\"שלום\")"
WAYS = ("way_auto", "way_one", "way_many", "way_text")
THEME = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]).set(
    button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800", button_primary_background_fill_dark="*primary_700") # white on it can be read
HEAD = f"<script>{(HERE/'page.js').read_text().replace('WORDS', json.dumps(WORDS), 1)}</script>"

LANGUAGE = """<head><script>{ // before Gradio looks for a language
const english = /(^|; )lang=en/.test(document.cookie), language = english ? "en" : "he"
Object.assign(document.documentElement, {lang: language, dir: english ? "ltr" : "rtl"})
Object.defineProperty(navigator, "language", {get: () => language})
Object.defineProperty(navigator, "languages", {get: () => [language]})
}</script>""".encode()

i18n = gr.I18n(**{language: {key: both[n] for key, both in WORDS.items()} for n, language in enumerate(("he", "en"))})

def say(key: str, request, *values) -> str:
    "Words of the server in the language of the page that asked."
    said = WORDS[key][request is not None and request.cookies.get("lang") == "en"]
    return said.format(*(f"{v:,}" if isinstance(v, int) else v for v in values))

# --- models -------------------------------------------------------------------------------------------

class Refusal(Exception):
    "Why a question is not answered: a key of `WORDS`, and the values in it."

class Bot:
    "A loaded model with its tokenizer, and what its bundle says."
    def __init__(self, path: str, device: str="auto", dtype: str="auto", batch: int=MATVEC_MAX_ROWS): # a bundle, or a run that holds one; raises `UserError`
        self.folder, device = find_bundle(path), pick_device(device)
        if dtype == "auto": dtype = None if device == "cuda" else "int8" if count_parameters(read_config(self.folder)) > 50e6 else "float32"
        self.model, self.tok = load_bundle(path, device, dtype)
        file = self.folder/"generation.json" # a folder of `transformers` has none
        self.info = read_json(file)["info"] if file.exists() else {}
        self.sampling, self.context = read_sampling(path), self.model.cfg.context
        self.run = self.folder.parent if self.folder.name == "bundle" else self.folder
        self.name = model_name(path)
        self.scheduler = Scheduler(self.model, self.tok, batch, queue=MAX_WAITING, max_new_tokens=MAX_NEW, max_seconds=MAX_SECONDS, sampling=self.sampling)

    def way(self, chosen: str) -> str:
        "What the model is given: as it was trained is one message alone, unless its bundle says that it learned from several turns."
        return chosen if chosen != "way_auto" else "way_many" if self.info.get("turns", 1) > 1 else "way_one"

    def prompt(self, question: str, earlier: list[dict]=[], way: str="way_one", room: int=1, input: str="") -> tuple[list[int], int]: # ids, exchanges left out
        "The newest exchanges that leave room for an answer (half the context at most), the oldest left out first; raises `Refusal`."
        self.check(question + input)
        earlier, most = earlier if way == "way_many" else [], self.context - min(room, self.context // 2)
        for left_out in range(len(earlier) + 1):
            ids = [self.tok.bos_id, *self.tok.encode(question)] if way == "way_text" else encode_prompt(self.tok, question, input, earlier[left_out:])
            if len(ids) <= most: break
        if len(ids) >= self.context: raise Refusal("no_room", len(ids), self.context - 1)
        return ids, left_out

    def check(self, text: str):
        "Raise `Refusal` for what no model can be asked."
        if not text.strip(): raise Refusal("ask_something")
        if "\ufffd" in text: raise Refusal("broken_character")
        if len(text) > MAX_CHARS: raise Refusal("too_long", len(text), MAX_CHARS)

def load_bots(paths: list[str], device: str, dtype: str, batch: int) -> dict[str, Bot]:
    "The models by name; raises `UserError`."
    bots = {}
    for path in paths:
        bot = Bot(path, device, dtype, batch)
        if bots.setdefault(bot.name, bot) is not bot: raise UserError(f"{path}: there is a {bot.name} already; name each bundle once, and rename one of two folders")
    return bots

NAMES = ("way", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens", "seed", "stop")

def exchanges(talk: list[dict]) -> list[dict]: # instruction and output of each
    "The answered questions of a conversation."
    pairs = zip(talk, talk[1:])
    return [dict(instruction=q["text"], output=a["text"]) for q, a in pairs if (q["role"], a["role"]) == ("user", "assistant") and a["text"]]

def given(bot: Bot, talk: list[dict], index: int, settings: dict, input: str="") -> tuple[list[int], int]:
    "What the model receives for the answer at `index`."
    asked = talk[index - 1]["text"] if index and talk[index - 1]["role"] == "user" else ""
    return bot.prompt(asked, exchanges(talk[:index - 1]), bot.way(settings["way"]), int(settings["max_new_tokens"]), input)

ENDS = dict(stop="done", length="cut", time="late", cancelled="stopped")

class Answer:
    "The answer that the last message of a conversation waits for; whatever keeps it from being written is said in its message."
    def __init__(self, bot: Bot, talk: list[dict], settings: dict, input: str=""): # `settings` by `NAMES`
        last, seed = talk[-1], int(talk[-1].get("seed", -1 if settings["seed"] is None else settings["seed"]))
        if seed < 0: seed = random.randrange(2**31)
        self.begun, self.made, self.seconds, self.ticket = last["text"], last.get("tokens", 0), last.get("seconds", 0), None
        self.m = dict(role="assistant", text=self.begun, state="refused", model=bot.name, seed=seed, way=settings["way"], context=bot.context, limit=MAX_SECONDS)
        try:
            ids, self.m["dropped"] = given(bot, talk, len(talk) - 1, settings, input)
            self.m["alone"] = bot.way(settings["way"]) == "way_one" and len(talk) > 2
            if self.begun: ids = ids + bot.tok.encode(self.begun) # it goes on
            self.is_full = len(ids) + int(settings["max_new_tokens"]) > bot.context
            if len(ids) >= bot.context: self.m["state"] = "full"; return
            sampling = {k: settings[k] for k in NAMES[1:6]} | dict(seed=seed, stop=settings["stop"] or ())
            self.ticket = bot.scheduler.submit(ids, int(settings["max_new_tokens"]), **sampling)
        except Refusal as e: self.m["note"] = list(e.args)
        except Busy: self.m["note"] = ["busy"]
        except UserError as e: self.m["note"] = ["cannot", str(e)]

    @property
    def message(self) -> dict:
        "How far it is."
        t = self.ticket
        if not t: return self.m
        now = t.ended or time.monotonic()
        if t.error: return self.m | dict(note=["cannot", str(t.error)])
        if t.place: return self.m | dict(state="waiting", place=t.place)
        state = "writing" if t.running else "full" if t.reason == "length" and self.is_full else ENDS[t.reason]
        return self.m | dict(text=self.begun + t.text, state=state, tokens=self.made + t.made, seconds=round(self.seconds + now - (t.begun or now), 3))

async def grow(*answers: Answer): # yields their messages
    "Answers side by side as they grow; whoever stops listening cancels them."
    async for _ in follow([a.ticket for a in answers if a.ticket]):
        yield [a.message for a in answers]
        if any(a.ticket.running for a in answers if a.ticket): await asyncio.sleep(PAUSE)

def whole(text: str) -> str:
    "Without halves of characters, which cannot be sent back."
    return HALF.sub("\ufffd", text)

def shorten(text: str, most: int=150) -> str: return text if len(text) <= most else text[:most] + "…"

def pieces_of(bot: Bot, ids: list[int]) -> list[list]: # text, id, bytes, kind
    "Tokens as the page colours them."
    raw = [bot.tok.sp.id_to_piece(i) for i in ids]
    size = [1 if bot.tok.sp.is_byte(i) else len(p.replace("▁", " ").encode()) for i, p in zip(ids, raw)]
    kinds = ["control" if bot.tok.sp.is_control(i) else "" for i in ids]
    marks = ["\u200e" if bot.tok.sp.is_byte(i) and p < "<0x80>" else "" for i, p in zip(ids, raw)] # a Latin letter in bytes runs as it does
    return [[mark + p.replace("▁", " ") + mark, i, n, k] for p, i, n, k, mark in zip(readable_pieces(bot.tok, ids), ids, size, kinds, marks)]

def tokens(text: str, *chosen: Bot) -> dict: # prefixes; sides: name, pieces and counts of each
    "A text as tokenizers cut it, and its prefixes."
    text = whole(text[:MAX_CHARS])
    sides = []
    for bot in {bot.tok.sha256: bot for bot in reversed(chosen)}.values(): # one file is shown once
        ids, words, size = bot.tok.encode(text), len(text.split()), len(text.encode())
        sides.append(dict(name=bot.name, pieces=pieces_of(bot, ids), tokens=len(ids), words=words, bytes=size,
                          per_word=len(ids) / max(words, 1), bytes_per_token=size / max(len(ids), 1)))
    return dict(prefixes=prefixes_of(text), sides=sides)

def prefixes_of(text: str) -> list[list]: # text, None, None, kind
    "A text with the prefixes of its words told apart."
    found, at, matches = [], 0, list(WORD.finditer(text))
    for match, parts in zip(matches, split_words([m[0] for m in matches])):
        found += [[text[at:match.start()], None, None, "plain"]] + [[p, None, None, "prefix"] for p in parts[:-1]] + [[parts[-1], None, None, "plain"]]
        at = match.end()
    return [p for p in [*found, [text[at:], None, None, "plain"]] if p[0]]

# --- two answers, and what people think of answers ---------------------------------------------------

async def figures_of(bots: list[Bot], question: str, input: str, answers: list[dict]) -> list[list]: # key, both values, whose model measured
    "Figures of two answers; the likelihood of each under both models."
    def rate(m): return m.get("tokens", 0) / m["seconds"] if m.get("seconds") else None
    rows = [["tokens_count", *(m.get("tokens", 0) for m in answers)], ["words_count", *(len(m["text"].split()) for m in answers)],
            ["repetition", *(repetition_rate(m["text"]) for m in answers)], ["tokens_per_second", *map(rate, answers)]]
    return rows + [["likelihood", *[await bits(bot, question, input, m["text"]) for m in answers], n] for n, bot in enumerate(bots)]

async def bits(bot: Bot, question: str, input: str, answer: str) -> float | None: # None if it cannot be measured
    "Bits for a byte of an answer to a question, by a model."
    try:
        ids, own = bot.prompt(question, input=input)[0], bot.tok.encode(answer)
        ticket = bot.scheduler.submit(ids + own, 0, top=0, score_prompt=True)
    except (Refusal, UserError): return None
    async for _ in follow([ticket]): pass
    if ticket.error or not own: return None
    return -sum(s.logprob for s in ticket.prompt_scores[len(ids):]) / math.log(2) / len(answer.encode())

def note(log: Path, name: str, **record) -> bool: # whether there was room
    "A line more in one of the files of `log`."
    file = log/f"{name}.jsonl"
    with WRITING:
        if file.exists() and file.stat().st_size > MAX_LOG: return False
        log.mkdir(parents=True, exist_ok=True)
        append_line(file, dict(time=round(time.time()), **record))
    return True

def read_report(file: Path) -> dict | None: # None if it is another kind of report
    "A report as the page shows it."
    name = "/".join(file.parts[-3:-1])
    try: found = read_json(file)
    except UserError as e: return dict(name=name, error=str(e))
    match found:
        case {"rows": [{"metric": _, "cells": _}, *_] as rows}: return dict(name=name, rows=rows)

# --- what the page asks for ----------------------------------------------------------------------------

class Desk:
    "What the page asks for: the models by name, and the folder of what people think of answers."
    def __init__(self, bots: dict, log: Path): self.bots, self.log = bots, log

    async def chat(self, talk, name, *settings): # yields the question's box, and the conversation
        "Answer the question that waits; what was refused is put back into the box."
        if not talk or talk[-1].get("state") != "waiting": yield gr.skip(), gr.skip(); return
        talk = [m | dict(text=whole(m["text"])) for m in talk]
        *before, last = talk
        async for [m] in grow(Answer(self.bots[name], talk, dict(zip(NAMES, settings)))):
            box = gr.skip()
            if m["state"] == "refused" and not m["text"] and before:
                box, before[-1] = before[-1]["text"], before[-1] | dict(text=shorten(before[-1]["text"]))
            yield box, [*before, m]

    def received(self, event: gr.EventData, talk, name, *settings) -> dict | None:
        "The prompt of an answer, token by token."
        index, settings = event._data["index"], dict(zip(NAMES, settings))
        if index >= len(talk): return None
        m, bot = talk[index], self.bots.get(talk[index].get("model"), self.bots[name])
        try: ids, _ = given(bot, talk, index, settings | dict(way=m.get("way") or settings["way"]))
        except Refusal: return None
        return dict(pieces=pieces_of(bot, ids), at=time.time()) # the time: the same prompt can be shown again

    async def compare(self, question, input, blind, *chosen): # yields the pair as shown, and in the end what a vote needs
        "One question, two models or settings: both answers as they grow, then their figures."
        half, question, input = len(chosen) // 2, whole(question), whole(input)
        sides = [(self.bots[c[0]], dict(zip(NAMES, c[1:]))) for c in (chosen[:half], chosen[half:])]
        if blind: random.shuffle(sides)
        names, talk = [bot.name for bot, _ in sides], [dict(role="user", text=question), dict(role="assistant", text="", state="waiting")]
        async for messages in grow(*(Answer(bot, talk, settings, input) for bot, settings in sides)):
            shown = dict(sides=[{k: v for k, v in m.items() if k != "model"} for m in messages], names=None if blind else names)
            yield shown, None
        shown = shown | dict(rows=await figures_of([bot for bot, _ in sides], question, input, messages))
        about = dict(question=question, input=input, blind=blind, sides=[dict(model=n, settings=s, seed=m["seed"], answer=m["text"]) for n, (_, s), m in zip(names, sides, messages)])
        yield shown, (shown, about)

    def like(self, event: gr.EventData, talk, name, *settings):
        "Write down what somebody thinks of an answer."
        index = event._data["index"]
        if index < len(talk) and talk[index]["role"] == "assistant":
            note(self.log, "likes", liked=talk[index].get("liked", 0), settings=dict(zip(NAMES, settings)), talk=[m | dict(text=whole(m["text"])) for m in talk[:index + 1]])

    def vote(self, event: gr.EventData, voting, request: gr.Request): # voting: what is shown, and what a vote is about
        "Write down which answer somebody prefers, and show whose they are."
        if not voting: gr.Warning(say("vote_gone", request)); return gr.skip(), None
        shown, about = voting
        note(self.log, "votes", vote=event._data["vote"], **about)
        return dict(shown, names=[side["model"] for side in about["sides"]], voted=event._data["vote"]), None

    def reports(self) -> list[dict]: # name, and rows of `side_by_side` or an error
        "The evaluation reports in the folders beside the models' runs."
        files = sorted({file for bot in self.bots.values() for file in bot.run.parent.glob("*/report.json")})
        return [r for file in files if (r := read_report(file))]

# --- what is let in -----------------------------------------------------------------------------------

def shown(draw: str, events: tuple=(), **props) -> gr.HTML: # a function of page.js, and what it may tell
    "A part of the page that page.js draws from its value."
    script = f"page.{draw}(element, props, watch, trigger) // {', '.join(map(repr, events))}"
    return gr.HTML(html_template="<div></div>", js_on_load=script, apply_default_css=False, **props)

STATES = ("waiting", "writing", "done", "cut", "full", "late", "stopped", "refused")
FIELDS = dict(role=lambda v: v in ("user", "assistant"), text=lambda v: isinstance(v, str), state=lambda v: v in STATES, way=lambda v: v in WAYS,
              note=lambda v: isinstance(v, list) and len(v) < 5 and isinstance(v[0], str) and v[0] in WORDS and all(type(x) in (int, float, str) for x in v),
              model=lambda v: isinstance(v, str) and len(v) < 200, liked=lambda v: type(v) is int and v in (-1, 0, 1), alone=lambda v: isinstance(v, bool),
              **dict.fromkeys(("place", "seed", "tokens", "seconds", "dropped", "context", "limit"), lambda v: type(v) in (int, float) and 0 <= v < 2**53))

def is_message(m) -> bool:
    "A message of a conversation as the page sends it back."
    return isinstance(m, dict) and {"role", "text"} <= m.keys() <= FIELDS.keys() and all(FIELDS[k](v) for k, v in m.items())

def fits(component, value) -> bool:
    "Whether the page could send this value for a component."
    match component:
        case gr.Textbox(): return isinstance(value, str)
        case gr.Checkbox(): return isinstance(value, bool)
        case gr.Dropdown(): return isinstance(value, str) and value in [v for _, v in component.choices]
        case gr.HTML(): return isinstance(value, list) and len(value) <= MAX_MESSAGES and all(map(is_message, value))
        case gr.Dataset(): return type(value) is int and 0 <= value < len(component.raw_samples)
        case gr.State(): return value is None
        case gr.Number() if value is None: return True # an emptied field
        case gr.Number() | gr.Slider(): return type(value) in (int, float) and component.minimum <= value <= component.maximum
    return True # of an endpoint for programs, which looks for itself

def is_event(listener, data) -> bool:
    "Whether page.js could tell this with an event; what Gradio's own components tell is not read here."
    heard = {name for _, name in listener.targets}
    if heard & {"like", "received"}: return isinstance(data, dict) and data.keys() == {"index"} and type(data["index"]) is int and data["index"] >= 0
    if "vote" in heard: return isinstance(data, dict) and data.keys() == {"vote"} and data["vote"] in ("left", "right", "tie", "bad")
    return True

def in_its_language(send):
    "Sends a page that sets its language and direction before anything else."
    async def sending(message):
        if message["type"] == "http.response.start":
            message["headers"] = [(k, str(int(v) + len(LANGUAGE) - len(b"<head>")).encode() if k == b"content-length" else v) for k, v in message["headers"]]
        else: message = message | dict(body=message["body"].replace(b"<head>", LANGUAGE, 1))
        await send(message)
    return sending

class Door:
    "Lets in what the page itself asks for, and programs at its named endpoints; anything else is refused in one line before Gradio sees it."
    READ = re.compile(r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|login_check)|/(assets|static|svelte)/.+|/gradio_api/(info|startup-events|queue/data|heartbeat/[\w-]+)/?")
    WRITTEN = ("/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/cancel", "/gradio_api/reset", "/login")
    def __init__(self, app, page: gr.Blocks, key: str=""): self.app, self.page, self.key = app, page, key # what programs at /v1 must show
    async def __call__(self, scope, receive, send):
        if scope["type"] != "http": return await self.app(scope, receive, send)
        request, pieces = Request(scope, receive), []
        if request.url.path.startswith("/v1/"): # OpenAI's endpoint has a door of its own
            if hmac.compare_digest(request.headers.get("authorization", "").encode() if self.key else b"", f"Bearer {self.key}".encode() if self.key else b""): return await self.app(scope, receive, send)
            return await JSONResponse(dict(error=dict(message="give --auth's NAME:PASSWORD as the API key", type="invalid_request_error", param=None, code="invalid_api_key")), 401)(scope, receive, send)
        try:
            said = self.closed(request)
            if not said and request.method == "POST":
                async for piece in request.stream():
                    pieces.append(piece)
                    if sum(map(len, pieces)) > MAX_BYTES: break
                said = self.wrong(request.url.path, b"".join(pieces))
        except ClientDisconnect: return
        if said: return await JSONResponse(dict(detail=say(said[0], request, *said[1:])), 400)(scope, receive, send)
        again = iter([dict(type="http.request", body=b"".join(pieces))] if pieces else [])
        async def replay(): return next(again, None) or await receive()
        await self.app(scope, replay, in_its_language(send) if request.url.path == "/" else send)

    def closed(self, request: Request) -> tuple: # a key of `WORDS` and values; empty if it is open
        "Why an address is not served."
        path, is_read = request.url.path, request.method in ("GET", "HEAD")
        if not (self.READ.fullmatch(path) if is_read else request.method == "POST" and path in self.WRITTEN): return ("closed",)
        if path.endswith("/queue/data") and request.query_params.get("session_hash") not in self.page._queue.pending_messages_per_session: return ("nobody_waits",)
        return ()

    def wrong(self, path: str, body: bytes) -> tuple: # as of `closed`
        "What is wrong with a question."
        if len(body) > MAX_BYTES: return "request_too_long", MAX_BYTES
        if path.endswith(("/cancel", "/reset", "/login")): return ()
        try: asked = json.loads(body)
        except (ValueError, RecursionError): return ("no_json",)
        match asked:
            case {"fn_index": int(index), "data": list(data), "session_hash": str(session)} if re.fullmatch(r"[\w-]{1,64}", session, re.ASCII): listener = self.page.fns.get(index)
            case _: listener = None
        if not (listener and listener.fn and len(data) == len(listener.inputs) and is_event(listener, asked.get("event_data"))): return ("no_request",)
        if len(self.page._queue) >= MAX_WAITING: return ("busy",)
        bad = [str(getattr(component, "label", "") or "") for component, value in zip(listener.inputs, data) if not fits(component, value)]
        return ("bad_value", ", ".join(WORDS[key][0] if (key := re.sub(r'.*"key": "(\w+)".*', r"\1", label)) in WORDS else label for label in bad)) if bad else ()

# --- the page -----------------------------------------------------------------------------------------

def model_choice(bots: dict, name: str, key: str) -> gr.Dropdown:
    "One of the models."
    return gr.Dropdown([(f"{name} · {count_parameters(bot.model.cfg) / 1e6:.3g}M", name) for name, bot in bots.items()], value=name, label=i18n(key), elem_classes="ltr")

def sampling_controls(bot: Bot) -> list: # as of `NAMES`
    "All that can be set of an answer."
    def slider(key, least, most, value, step): # a bundle may ask for more than the page lets
        return gr.Slider(least, most, min(max(value, least), most), step=step, label=i18n(key), info=i18n(f"{key}_info"))
    return [gr.Dropdown([(i18n(way), way) for way in WAYS], value=WAYS[0], label=i18n("way")),
            slider("temperature", 0, 2, bot.sampling["temperature"], .05), slider("top_p", .05, 1, bot.sampling["top_p"], .05), slider("top_k", 0, 200, 0, 1),
            slider("min_p", 0, .95, 0, .01), slider("repetition_penalty", .5, 2, 1, .05), slider("max_new_tokens", 1, MAX_NEW, bot.sampling["max_new_tokens"], 1),
            gr.Number(-1, label=i18n("seed"), info=i18n("seed_info"), precision=0, minimum=-1, maximum=2**31 - 1),
            gr.Textbox("", label=i18n("stop_at"), info=i18n("stop_at_info"))]

def build_app(paths: list[str], log: str="runs/app", device: str="auto", dtype: str="auto", batch: int=MATVEC_MAX_ROWS) -> gr.Blocks: # bundles, or runs that hold them; raises `UserError`
    "The page with its four tabs."
    bots = load_bots(paths, device, dtype, batch)
    desk, first, last = Desk(bots, resolve(log)), list(bots)[0], list(bots)[:2][-1]
    with gr.Blocks(title="HebrewGPT", analytics_enabled=False) as app:
        with gr.Row(elem_id="top"):
            gr.HTML("<h1>HebrewGPT</h1>", apply_default_css=False)
            gr.Markdown(i18n("warning"))
            gr.Button(i18n("language"), size="sm").click(None, js="() => page.switchLanguage()", **HIDDEN)
        with gr.Tab(i18n("chat")): chat_tab(app, desk, first)
        with gr.Tab(i18n("compare")): compare_tab(desk, first, last)
        with gr.Tab(i18n("tokens")): tokens_tab(app, desk, first, last)
        with gr.Tab(i18n("results")):
            refresh, found = gr.Button(i18n("refresh"), size="sm", elem_id="refresh"), shown("results", elem_id="results")
            gr.on([app.load, refresh.click], desk.reports, None, found, **HIDDEN)
        serve_programs(bots)
    app.served = {name: bot.scheduler for name, bot in bots.items()} # by OpenAI's endpoint too
    return app.queue(max_size=MAX_WAITING)

HIDDEN = dict(api_visibility="private", show_progress="hidden")
MODEL_WORK = HIDDEN | dict(concurrency_limit=None) # the queue is the scheduler's

def chat_tab(app: gr.Blocks, desk: Desk, first: str):
    "A conversation, the question's box with its buttons, and the settings beside it."
    with gr.Row():
        with gr.Column(scale=3):
            talk = shown("talk", ("write", "like", "received"), value=[], examples=EXAMPLES, elem_id="chat")
            message = gr.Textbox(label=i18n("question"), show_label=False, container=False, placeholder=i18n("write_here"), lines=1, max_lines=6, autofocus=True, elem_id="message")
            with gr.Row(elem_id="buttons"):
                send = gr.Button(i18n("send"), variant="primary", elem_id="send")
                stop, undo, clear, save = (gr.Button(i18n(key), elem_id=key) for key in ("stop", "undo", "clear", "save"))
            prompt = shown("received")
        with gr.Column(scale=1, min_width=290):
            model = model_choice(desk.bots, first, "model")
            with gr.Accordion(i18n("settings"), elem_id="settings"): settings = [model, *sampling_controls(desk.bots[first])]
    asked = dict(fn=desk.chat, inputs=[talk, *settings], outputs=[message, talk], **MODEL_WORK)
    sent = gr.on([send.click, message.submit], None, [message, talk], [message, talk], js="(text, talk) => page.asked(text, talk)", **HIDDEN)
    writing = [sent.then(**asked), talk.write(**asked)]
    app.load(None, None, talk, js="() => [page.kept()]", **HIDDEN)
    for event in writing: event.failure(None, talk, talk, js="talk => [page.stopped(talk)]", **HIDDEN) # no connection, or no room in the queue
    stop.click(None, talk, talk, js="talk => [page.stopped(talk)]", cancels=writing, **HIDDEN)
    undo.click(None, [message, talk], [message, talk], js="(text, talk) => page.undone(text, talk)", cancels=writing, **HIDDEN)
    clear.click(None, None, talk, js="() => [[]]", cancels=writing, **HIDDEN)
    save.click(None, talk, None, js="talk => page.save(talk)", **HIDDEN)
    talk.like(desk.like, [talk, *settings], None, **HIDDEN)
    talk.received(desk.received, [talk, *settings], prompt, **HIDDEN)

def compare_tab(desk: Desk, first: str, last: str):
    "One question, two answers."
    with gr.Row():
        question = gr.Textbox(EXAMPLES[0], label=i18n("question"), lines=1, max_lines=6, elem_id="asked")
        given = gr.Textbox("", label=i18n("input"), placeholder=i18n("input_here"), lines=1, max_lines=8, elem_id="input")
    sides = []
    with gr.Row():
        for key, name in (("side_a", first), ("side_b", last)):
            with gr.Column(min_width=280):
                sides.append(model_choice(desk.bots, name, key))
                with gr.Accordion(i18n("settings"), open=False): sides += sampling_controls(desk.bots[name])
    with gr.Row(elem_id="go"):
        go, halt = gr.Button(i18n("compare"), variant="primary", elem_id="compare"), gr.Button(i18n("stop"), elem_id="halt")
        blind = gr.Checkbox(False, label=i18n("blind"), container=False, scale=2, elem_id="blind")
    both, voting = shown("pair", ("vote",), elem_id="pair"), gr.State()
    gr.Examples(EXAMPLES, question, label=i18n("examples"))
    pair = gr.on([go.click, question.submit], desk.compare, [question, given, blind, *sides], [both, voting], **MODEL_WORK)
    halt.click(None, cancels=[pair], **HIDDEN)
    both.vote(desk.vote, voting, [both, voting], **HIDDEN)

def tokens_tab(app: gr.Blocks, desk: Desk, first: str, last: str):
    "A text as two tokenizers cut it, while it is typed."
    text = gr.Textbox(SENTENCE, label=i18n("text"), lines=3, max_lines=10, elem_id="text")
    with gr.Row(): chosen = [model_choice(desk.bots, name, key) for key, name in (("tokenizer_a", first), ("tokenizer_b", last))]
    cut = shown("tokens", elem_id="tokens")
    cutting = dict(fn=lambda text, a, b: tokens(text, desk.bots[a], desk.bots[b]), inputs=[text, *chosen], outputs=cut, **HIDDEN)
    app.load(**cutting)
    gr.on([field.change for field in (text, *chosen)], trigger_mode="always_last", **cutting)

def serve_programs(bots: dict):
    "Named endpoints for programs, as of `gradio_client`."
    async def ask(question: str, model: str="", seed: int=0, max_new_tokens: int=100, temperature: float=.8, top_p: float=.95) -> str:
        "The answer to a question, as it grows."
        bot = bots.get(model) or next(iter(bots.values()))
        settings = dict(zip(NAMES, ("way_auto", temperature, top_p, 0, 0., 1., max_new_tokens, seed, "")))
        async for [m] in grow(Answer(bot, [dict(role="user", text=whole(question)), dict(role="assistant", text="", state="waiting")], settings)):
            if m["state"] == "refused": raise gr.Error(say(m["note"][0], None, *m["note"][1:]), print_exception=False)
            yield m["text"]
    def cut(text: str, model: str="") -> dict:
        "A text as a model's tokenizer cuts it."
        return tokens(text, bots.get(model) or next(iter(bots.values())))
    gr.api(ask, api_name="ask", concurrency_limit=None)
    gr.api(cut, api_name="tokens")

def serve(bundles: list[str], log: str, device: str, dtype: str, batch: int, auth: str, host: str, port: int, share: bool):
    "Load the models and serve the page until it is stopped; raises `UserError`."
    made = [f"runs/{name}/{part}" for name in ("mini", "demo-data", "demo") for part in ("sft", "pretrain") if (resolve(f"runs/{name}/{part}")/"bundle").exists()]
    if auth and ":" not in auth: raise UserError(f"auth is {auth!r}: give NAME:PASSWORD")
    app = build_app(bundles or ["mini", "mini-base", *made], log, device, dtype, batch)
    try: app.launch(server_name=host, server_port=port, auth=tuple(auth.split(":", 1)) if auth else None, theme=THEME, css=(HERE/"page.css").read_text(), head=HEAD, i18n=i18n, footer_links=[], share=share, ssr_mode=False, app_kwargs=dict(middleware=[Middleware(Door, app, auth)], routes=[Mount("/v1", make_api(app.served))]), state_session_capacity=MAX_SESSIONS, enable_monitoring=False, quiet=True, prevent_thread_lock=True)
    except (OSError, OverflowError) as e: raise UserError(f"cannot serve on {host}:{port} ({e})".replace("\n", " ")) from None
    print(f"http://{host}:{port}", flush=True)
    app.block_thread()

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("bundles", nargs="*", help="bundles, or runs that hold one; the first answers (default: those that come with the workbench, and what was made in runs/)")
    parser.add_argument("--log", default="runs/app", help="folder of likes.jsonl and votes.jsonl (default: %(default)s)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="(default: %(default)s)")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "int8"), help="of the weights; auto: as saved on a GPU, on a CPU int8 for large models, where it is fastest, and float32 for small ones")
    parser.add_argument("--batch", type=int, default=MATVEC_MAX_ROWS, help="answers written at the same time by a model; others wait (default: %(default)s)")
    parser.add_argument("--auth", default="", help="NAME:PASSWORD that visitors must give")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)")
    parser.add_argument("--port", type=int, default=7860, help="(default: %(default)s)")
    parser.add_argument("--share", action="store_true", help="a public address through Gradio's servers")
    try: serve(**vars(parser.parse_args()))
    except UserError as e: sys.exit(print(f"error: {e}", file=sys.stderr) or 2)
