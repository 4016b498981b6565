"Chat with a HebrewGPT model in the browser, and see it beside the base it was made from."
import os
os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", # read when gradio is imported: the page and the server ask nobody else
               "GRADIO_ANALYTICS_MAX_EVENTS": "1", "GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000000000"} # nor keep a table of all questions, read anew at each
import argparse, html, json, re, sys, time
from functools import partial
from itertools import zip_longest
import gradio as gr
import torch
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from hebrewgpt_nb.bundle import SAMPLING, find_bundle, load_bundle
from hebrewgpt_nb.core import UserError, read_json, resolve
from hebrewgpt_nb.generate import chat_reply
from hebrewgpt_nb.model import count_parameters
from hebrewgpt_nb.tokenizer import encode_prompt

MAX_CHARS, MAX_NEW, MAX_SECONDS, MAX_WAITING, MAX_MESSAGES = 2000, 400, 60, 16, 40 # of a question, an answer, an answer, the queue, a chat
MAX_BYTES, MAX_SESSIONS = 2**20, 64 # of a request; of visitors whose page Gradio remembers (it would keep 10,000; nothing is in them)
HALF = re.compile("[\ud800-\udfff]") # of a pair of UTF-16: no character
EXAMPLES = ["איך מכינים סלט ירקות ישראלי?", "תן לי שלושה רעיונות לטיול משפחתי בשבת.", "הסבר במשפט אחד מהי פוטוסינתזה.", "כתבי ברכה קצרה ליום הולדת של חברה."]
THEME = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
HEAD = "<script>Object.assign(document.documentElement, {dir: 'rtl', lang: 'he'})</script>"
CSS = """.gradio-container .block:not(#chat), .gradio-container .block:not(#chat) [dir=ltr] { direction: rtl }
.gradio-container .block .slider_input_container, .gradio-container input[type=number] { direction: ltr }
.gradio-container .block > .label svg { margin-inline-end: 6px }
#chat .message { direction: rtl }
#chat .message-content { white-space: pre-wrap; overflow-wrap: anywhere }
#chat .icon-button-wrapper { display: none }
footer { display: none !important }"""

class Bot:
    "A model with its tokenizer, that answers in pieces and never with a stack trace."
    def __init__(self, path: str): # a bundle, or a run that holds one; raises `UserError`
        where = ("cuda",) if torch.cuda.is_available() else ("cpu", "float32") # on a CPU a step is one call of C, with the same scores
        self.model, self.tok = load_bundle(path, *where)
        self.info = read_json(find_bundle(path)/"generation.json").get("info", {})

    def refusal(self, instruction: str, input: str) -> str: # "" if there is none
        "Why a question is not answered, in Hebrew."
        if not instruction.strip(): return "כתבו שאלה או בקשה."
        size = len(instruction) + len(input)
        if HALF.search(instruction + input): return "בטקסט יש תו שבור (חצי של זוג UTF-16); מחקו אותו ושלחו שוב."
        if size > MAX_CHARS: return f"הטקסט ארוך מדי: {size:,} תווים. אפשר לכתוב עד {MAX_CHARS:,}; קצרו אותו ושלחו שוב."
        size, room = len(encode_prompt(self.tok, instruction, input)), self.model.cfg.context - 1
        if size > room: return f"הטקסט ארוך מדי למודל הזה: {size:,} אסימונים, ויש מקום ל־{room:,}. קצרו אותו ושלחו שוב."
        return ""

    def answer(self, instruction, input="", temperature=SAMPLING["temperature"], top_p=SAMPLING["top_p"], length=SAMPLING["max_new_tokens"], seed=0):
        "The answer so far, after each piece; whatever keeps it from being written is said in its place."
        if said := self.refusal(instruction, input): yield said; return
        text, end = "", time.monotonic() + MAX_SECONDS
        try:
            for piece in chat_reply(self.model, self.tok, instruction, input, temperature=temperature, top_p=top_p, max_new_tokens=min(int(length), MAX_NEW), seed=int(seed or 0)):
                yield (text := text + piece)
                if time.monotonic() > end: gr.Warning(f"התשובה נעצרה אחרי {MAX_SECONDS} שניות."); break
        except UserError as e: yield f"אי אפשר לענות: {e}"; return
        if not text: yield "(המודל סיים בלי לכתוב דבר.)"

    def chat(self, message, history, *settings):
        "What the question's box holds, and the conversation so far; each question is answered by itself."
        refused, whole = self.refusal(message, ""), HALF.sub("\ufffd", message)
        shown = whole if len(whole) < 150 or not refused else whole[:150] + "…"
        box, history = whole if refused else "", history[2 - MAX_MESSAGES:] + [bubble("user", shown)]
        yield box, history
        for text in self.answer(message, "", *settings): yield box, history + [bubble("assistant", text)]

    def facts(self) -> str:
        "The model in numbers."
        figures = [f"{count_parameters(self.model):,} פרמטרים", f"הקשר של {self.model.cfg.context:,} אסימונים", f"אוצר של {self.tok.vocab_size:,} אסימונים"]
        bpb = self.info.get("bpb")
        bpb = bpb.get("macro") if isinstance(bpb, dict) else bpb
        return " · ".join(figures if bpb is None else [*figures, f"{bpb:.3f} ביטים לבייט בטקסטים שלא ראה"])

def side_by_side(base: Bot, instruct: Bot, *asked): # as of `Bot.answer`
    "Both answers so far, to one question: two events of one click run one after the other, and the second reads the fields anew."
    shown = "", ""
    for texts in zip_longest(base.answer(*asked), instruct.answer(*asked)):
        yield (shown := tuple(new or old for new, old in zip(texts, shown)))

def bubble(role: str, text: str) -> dict:
    "A message whose text is shown as it is: without Markdown Gradio still takes `<b>` for HTML."
    return dict(role=role, content=html.escape(text, quote=False))

def is_message(message) -> bool:
    "A message of a chat as the page sends it back: text and nothing else."
    match message:
        case {"role": "user" | "assistant", "content": [{"type": "text", "text": str(text), **more}], **rest}: return not (more or any(rest.values()) or HALF.search(text))
    return False

def fits(component, value) -> bool:
    "Whether the page could send this value for a component."
    if isinstance(component, gr.Textbox): return isinstance(value, str)
    if isinstance(component, gr.Chatbot): return isinstance(value, list) and len(value) <= MAX_MESSAGES and all(map(is_message, value))
    if isinstance(component, gr.Dataset): return type(value) is int and 0 <= value < len(component.raw_samples)
    if value is None: return isinstance(component, gr.Number) # an emptied field
    return type(value) in (int, float) and component.minimum <= value <= component.maximum

class Door:
    "Lets in what the page itself asks for; anything else is refused in one line before Gradio sees it."
    READ = re.compile(r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)|/(assets|static|svelte)/.+|/gradio_api/(info|startup-events|queue/data|heartbeat/[\w-]+)/?")
    WRITTEN = ("/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/cancel", "/gradio_api/reset")
    def __init__(self, app, page: gr.Blocks): self.app, self.page = app, page
    async def __call__(self, scope, receive, send):
        if scope["type"] != "http": return await self.app(scope, receive, send)
        request, pieces = Request(scope, receive), []
        try:
            said = self.closed(request)
            if not said and request.method == "POST":
                async for piece in request.stream():
                    pieces.append(piece)
                    if sum(map(len, pieces)) > MAX_BYTES: break
                said = self.wrong(request.url.path, b"".join(pieces))
        except ClientDisconnect: return
        if said: return await JSONResponse(dict(detail=said), 400)(scope, receive, send)
        again = iter([dict(type="http.request", body=b"".join(pieces))] if pieces else [])
        async def replay(): return next(again, None) or await receive()
        await self.app(scope, replay, send)

    def closed(self, request: Request) -> str: # "" if it is open
        "Why an address is not served."
        path, is_read = request.url.path, request.method in ("GET", "HEAD")
        if not (self.READ.fullmatch(path) if is_read else request.method == "POST" and path in self.WRITTEN): return "הכתובת סגורה: כאן שואלים ומקבלים תשובה, ואין מעלים קבצים."
        if path.endswith("/queue/data") and request.query_params.get("session_hash") not in self.page._queue.pending_messages_per_session: return "אין שאלה שמחכים לתשובה עליה."
        return ""

    def wrong(self, path: str, body: bytes) -> str: # "" if nothing
        "What is wrong with a question."
        if len(body) > MAX_BYTES: return f"הבקשה ארוכה מדי: אפשר לשלוח עד {MAX_BYTES:,} בתים."
        if path.endswith(("/cancel", "/reset")): return ""
        try: asked = json.loads(body)
        except (ValueError, RecursionError): return "הבקשה אינה JSON תקין."
        match asked:
            case {"fn_index": int(index), "data": list(data), "session_hash": str(session)} if re.fullmatch(r"[\w-]{1,64}", session, re.ASCII): listener = self.page.fns.get(index)
            case _: listener = None
        if not (listener and listener.fn and len(data) == len(listener.inputs)): return "הבקשה אינה בנויה כבקשה של הדף הזה."
        if len(self.page._queue) >= MAX_WAITING: return "יש עכשיו עומס; נסו שוב בעוד רגע."
        bad = [component.label or "" for component, value in zip(listener.inputs, data) if not fits(component, value)]
        return f"ערך שאי אפשר לקבל: {', '.join(bad)}." if bad else ""

def build_app(base: str, instruct: str) -> gr.Blocks: # two bundles, or runs that hold them; raises `UserError`
    "The page: a chat, and two answers side by side."
    base, instruct = Bot(base), Bot(instruct)
    alone = dict(concurrency_limit=1, api_visibility="private") # one answer at a time from each model
    with gr.Blocks(title="HebrewGPT", analytics_enabled=False) as app:
        gr.Markdown(f"# HebrewGPT\nמודל שפה עברי, שאומן כולו במחברות של הפרויקט. הוא טועה ואף ממציא: אל תסמכו על תשובותיו.\n\n**מודל ההוראות:** {instruct.facts()}  \n**מודל הבסיס:** {base.facts()}", rtl=True)
        settings = [gr.Slider(0, 2, SAMPLING["temperature"], step=.05, label="טמפרטורה", info="0: תמיד הסביר ביותר", render=False),
                    gr.Slider(.05, 1, SAMPLING["top_p"], step=.05, label="top-p", info="מכמה מן ההסתברות בוחרים", render=False),
                    gr.Slider(1, MAX_NEW, SAMPLING["max_new_tokens"], step=1, label="אורך מרבי", info="באסימונים", render=False),
                    gr.Number(0, label="זרע", info="אותו זרע, אותה תשובה", precision=0, minimum=0, maximum=2**31 - 1, render=False)]
        with gr.Tab("שיחה"):
            chatbot = gr.Chatbot(label="שיחה", show_label=False, rtl=True, render_markdown=False, sanitize_html=True, latex_delimiters=[], height=420, buttons=[], feedback_options=None, elem_id="chat", placeholder="כאן תופיע השיחה")
            message = gr.Textbox(label="שאלה או בקשה", placeholder="כתבו כאן ולחצו Enter", rtl=True, lines=1, max_lines=6, elem_id="message")
            with gr.Row():
                send, stop, clear = gr.Button("שליחה", variant="primary", min_width=80), gr.Button("עצירה", min_width=80), gr.Button("ניקוי", min_width=80)
            gr.Markdown("המודל עונה על כל הודעה לבדה, ואינו זוכר את ההודעות שלפניה.", rtl=True)
            gr.Examples(EXAMPLES, message, label="שאלות לדוגמה")
            talk = gr.on([send.click, message.submit], instruct.chat, [message, chatbot, *settings], [message, chatbot], concurrency_id="instruct", show_progress="hidden", **alone)
            stop.click(None, cancels=[talk])
            clear.click(None, cancels=[talk]).then(lambda: [], None, chatbot, queue=False, api_visibility="private")
        with gr.Tab("בסיס מול הוראות"):
            gr.Markdown("שני המודלים מקבלים אותה בקשה באותן הגדרות: מודל הבסיס למד רק להמשיך טקסט, ומודל ההוראות למד גם לענות.", rtl=True)
            instruction = gr.Textbox(EXAMPLES[0], label="הוראה", placeholder="מה לעשות?", rtl=True, lines=1, max_lines=6, elem_id="instruction")
            given = gr.Textbox(label="קלט (לא חובה)", placeholder="טקסט שההוראה מדברת עליו", rtl=True, lines=2, max_lines=8, elem_id="input")
            with gr.Row():
                compare, halt = gr.Button("השוואה", variant="primary", min_width=80), gr.Button("עצירה", min_width=80)
            with gr.Row():
                columns = [gr.Textbox(label=label, rtl=True, lines=8, max_lines=20, min_width=260, interactive=False, elem_id=name) for label, name in (("מודל הבסיס", "base"), ("מודל ההוראות", "instruct"))]
            both = gr.on([compare.click, instruction.submit], partial(side_by_side, base, instruct), [instruction, given, *settings], columns, concurrency_id="instruct", show_progress="hidden", **alone)
            halt.click(None, cancels=[both])
        with gr.Accordion("הגדרות דגימה (לשתי הלשוניות)", open=False), gr.Row():
            for setting in settings: setting.render()
        for field in (instruction, given, *settings): # when a tab or an accordion first opens, Gradio sets its fields, a frame later, to the values it knows: let it know what was typed by then
            field.change(None, field, field, js="typed => typed", queue=False, api_visibility="private")
    return app.queue(max_size=MAX_WAITING, api_open=False)

def serve(base: str, instruct: str, host: str, port: int):
    "Load the models and serve the page until it is stopped; raises `UserError`."
    run = next((r for r in ("runs/demo-data", "runs/demo") if (resolve(r)/"sft"/"bundle").exists()), None)
    if not run and not (base and instruct): raise UserError("no model in runs/demo: run `make demo` first, or give --base and --instruct")
    app = build_app(base or f"{run}/pretrain", instruct or f"{run}/sft")
    try: app.launch(server_name=host, server_port=port, theme=THEME, css=CSS, head=HEAD, footer_links=[], share=False, ssr_mode=False, app_kwargs=dict(middleware=[Middleware(Door, app)]), state_session_capacity=MAX_SESSIONS, enable_monitoring=False, quiet=True, prevent_thread_lock=True)
    except (OSError, OverflowError) as e: raise UserError(f"cannot serve on {host}:{port} ({e})".replace("\n", " ")) from None
    print(f"http://{host}:{port}", flush=True)
    app.block_thread()

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--base", help="bundle of the base model, or a run that holds one (default: of the demo)")
    parser.add_argument("--instruct", help="bundle of the instruct model, or a run that holds one (default: of the demo)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)")
    parser.add_argument("--port", type=int, default=7860, help="(default: %(default)s)")
    try: serve(**vars(parser.parse_args()))
    except UserError as e: sys.exit(print(f"error: {e}", file=sys.stderr) or 2)
