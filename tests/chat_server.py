"A server that speaks OpenAI's chat protocol, and breaks it where a test says so."
import itertools, json, re, threading, zlib
from collections import Counter
from contextlib import contextmanager
from hebrewgpt_nb.making import CODE, EXAMPLE, FIELDS, StandIn, sample_reply, serve, tagged, URL
from hebrewgpt_nb.core import read_jsonl, sample_dir

WORDS = sorted({w for e in read_jsonl(sample_dir()/"sft"/"phase2.jsonl") for w in re.findall("[א-ת]{3,}", e["input"])})
KEPT = re.compile(f"({CODE.pattern}|{URL.pattern})", re.S)


def word_for_word(text: str) -> str: # no translation: a Hebrew word for each English one
    "Code, addresses and numbers stay."
    parts = KEPT.split(text)
    return "".join(p if n % 2 else re.sub("[A-Za-z'’]+", lambda m: WORDS[zlib.crc32(f"{m.start()}{m[0]}".encode()) % len(WORDS)], p) for n, p in enumerate(parts))

def reply(body: dict) -> str:
    "A translation if it is asked for, else examples of the sample."
    prompt = body["messages"][-1]["content"]
    found = EXAMPLE.match(prompt.partition("<example>")[2])
    return tagged(dict(zip(FIELDS, map(word_for_word, found.groups())))) if found else sample_reply(body)


class Faulty(StandIn):
    "What the server's `faults` say of the n-th request; it counts the requests of each body."
    def do_POST(self):
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            n = sum(self.server.seen.values())
            self.server.seen[raw] += 1
            self.server.keys.add(self.headers.get("Authorization", ""))
        fault = self.server.faults(n) or ""
        name, _, value = fault.partition(" ")
        body = json.loads(raw)
        if name == "slow": self.server.pause.wait(float(value))
        if name == "cut": return self.cut(40)
        if name == "torn": return self.raw(200, b'{"id": "1", "choices": [{"index": 0, "message": {"role": "assi')
        if name == "odd": return self.raw(200, value.encode())
        if name.isdecimal(): return self.send(int(name), dict(error=dict(message=value)), **({"Retry_After": value} if name == "429" else {}))
        self.answer(body, value if name == "says" else self.server.reply(body))
    def raw(self, status: int, content: bytes, size: int=0):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(size or len(content)))
        self.end_headers()
        self.wfile.write(content)
    def cut(self, size: int):
        self.raw(200, b'{"id": "1", "cho', size)
        self.close_connection = True


class Chat:
    "A running server: its address, and what it was asked."
    def __init__(self, server): self.server, self.address = server, server.address
    @property
    def requests(self) -> int: return sum(self.server.seen.values())
    @property
    def most_often(self) -> int: return max(self.server.seen.values())
    @property
    def keys(self) -> set: return self.server.keys

@contextmanager
def chat(faults=lambda n: None, # number of the request -> "429 1" (seconds), "500", "cut", "torn", "slow 3", "says TEXT", "odd JSON"
         reply=reply):
    "The server, while the `with` lasts."
    with serve(reply, Faulty) as server:
        server.faults, server.seen, server.keys, server.lock, server.pause = faults, Counter(), set(), threading.Lock(), threading.Event()
        try: yield Chat(server)
        finally: server.pause.set()

if __name__ == "__main__": # a server to try a job on
    with chat() as it:
        print(it.address, flush=True)
        threading.Event().wait()
