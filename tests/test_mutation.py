"""Every kind of file that is read back, altered: each is refused in one line, or read as what it says. `python tests/test_mutation.py 2000` tries more."""
import contextlib, copy, dataclasses, faulthandler, io, json, os, random, resource, shutil, signal, sys, tempfile, time, traceback, warnings
from collections import Counter
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch, yaml
from hebrewgpt_nb.bench import cached_result
from hebrewgpt_nb.bundle import load_bundle, save_bundle
from hebrewgpt_nb.core import UserError, read_json, read_jsonl, sample_dir, sha256_file, stage, write_json
from hebrewgpt_nb.data import CleanedFile, remove_earlier
from hebrewgpt_nb.grading import parse_question
from hebrewgpt_nb.jobs import latest_progress, read_chain, show_result
from hebrewgpt_nb.model import HebrewGPT, get_preset
from hebrewgpt_nb.release import load_released
from hebrewgpt_nb.sft import read_examples
from hebrewgpt_nb.text.filter import clean_file
from hebrewgpt_nb.text.mixture import read_mixture
from hebrewgpt_nb.text.prefixes import CONTEXTS, Prefixes, features, load_prefixes, read_gold, save_prefixes, split_words
from hebrewgpt_nb.text.records import Quarantine, read_checked, read_records, write_records
from hebrewgpt_nb.text.shards import Shards, build_shards
from hebrewgpt_nb.text.sources import read_source
from hebrewgpt_nb.tokenizer import Tokenizer, train_tokenizer
from hebrewgpt_nb.training.checkpoint import Checkpoints
from hebrewgpt_nb.training.loop import Training, resume
from hebrewgpt_nb.training.optim import make_optimizer

CASES, SECONDS = int(os.environ.get("MUTATIONS", 300)), 20 # altered files, and how long one may take
WORDS = "הבית שלנו גדול והגן שלו קטן אבל בערב כולם יושבים בחצר ומדברים על היום שעבר".split()
TEXTS = [" ".join(WORDS[i % len(WORDS)] for i in range(n, n + 30)) for n in range(40)]

class Hang(BaseException): pass

def say_hang(*_): raise Hang(f"more than {SECONDS} s")


# What is read: each maker fills a folder, each reader gives a value that JSON could hold, `says` what the altered files themselves say

def tiny(folder, vocab): # a model with every kind of block
    torch.manual_seed(0)
    return HebrewGPT(get_preset("tiny", vocab_size=vocab, width=16, heads=2, head_dim=8, hidden=24, state=8, mamba_head=8)).eval()

def make_bundle(folder, tok):
    model = tiny(folder, tok.vocab_size)
    for p in model.parameters(): p.data = p.data.half() # smaller files
    save_bundle(model.float(), tok, folder/"b", steps=3)

def load_a_bundle(folder, tok):
    model, its = load_bundle(folder/"b")
    with torch.no_grad(): logits = model(torch.tensor([[its.bos_id, 5, 6]]))
    return dataclasses.asdict(model.cfg), its.sha256, list(logits.shape)

def seal_bundle(folder):
    path = folder/"b"/"generation.json"
    written = json.loads(path.read_text())
    written["sha256"] = {name: sha256_file(folder/"b"/name) for name in written["sha256"]}
    path.write_text(json.dumps(written))

def bundle_says(folder): return json.loads((folder/"b"/"config.json").read_text())

KEY = dict(lr=.02, steps=9)

def make_checkpoints(folder, tok):
    for step in (3, 6): Checkpoints(folder/"c", KEY).save(step, dict(step=step, weights={"a": torch.arange(40.)}, log="{}\n"), 2. - step/10)

def load_checkpoints(folder, tok):
    saved = Checkpoints(folder/"c", KEY)
    state = saved.latest()
    saved.save(9, dict(step=9), None)
    return state and [state["step"], state["weights"]["a"].tolist(), state["log"]]

def seal_checkpoints(folder):
    for path in (folder/"c").glob("*.json"):
        manifest, data = json.loads(path.read_text()), path.with_suffix(".pt")
        path.write_text(json.dumps(manifest | dict(bytes=data.stat().st_size, sha256=sha256_file(data))))

def records(): return [dict(text=t, source="news" if n % 3 else "law") for n, t in enumerate(TEXTS)]

def make_shards(folder, tok): build_shards(records(), folder/"s", tok, workers=1, shard_tokens=900)

def load_shards(folder, tok):
    shards = Shards(folder/"s", tok)
    both = {s: (np.asarray(shards.tokens(s)), shards.starts(s)) for s in shards.sources}
    for tokens, starts in both.values(): assert tokens.max() < tok.vocab_size and starts.max() < len(tokens)
    return {s: [tokens.tolist(), starts.tolist()] for s, (tokens, starts) in both.items()}

def seal_shards(folder):
    path = folder/"s"/"index.json"
    index = json.loads(path.read_text())
    for source, entry in index["sources"].items():
        for n, file in enumerate(entry["files"]):
            stem = folder/"s"/f"{source}-{n:05d}"
            file |= dict(sha256=sha256_file(f"{stem}.bin"), starts_sha256=sha256_file(f"{stem}.starts.npy"))
    path.write_text(json.dumps(index))

def build_again(folder, tok):
    make_shards(folder, tok)
    return load_shards(folder, tok)

@stage
def counting(run: str = "x", # where
             seed: int = 0, # how
            ) -> dict:
    "Count."
    return dict(n=seed + 1, parts=dict(news=[1, 2.5]))

def make_stamp(folder, tok): counting(run=str(folder/"run"), seed=4)
def load_stamp(folder, tok): return counting(run=str(folder/"run"), seed=4)
def stamp_says(folder): return json.loads((folder/"run"/"done.json").read_text())["result"]

def make_tokenizer_file(folder, tok): shutil.copy(tok.path, folder/"tokenizer.model")
def load_tokenizer(folder, tok):
    its = Tokenizer(folder/"tokenizer.model")
    return its.decode(its.encode(TEXTS[0])), its.sha256
def tokenizer_says(folder): return None, sha256_file(folder/"tokenizer.model")

def make_prefix_table(folder, tok):
    words, rng = sorted({*WORDS, "בית", "גן"}), np.random.default_rng(0)
    table = Prefixes(words, range(1, len(words) + 1), np.zeros((len(words), CONTEXTS)))
    n = features(table, [("הבית", ("ה",))]).shape[1]
    table.net = {k: rng.standard_normal(shape, np.float32) for k, shape in dict(mean=n, scale=n, w1=(n, 4), b1=4, w2=4).items()}
    save_prefixes(table, folder/"p.npz")
def load_prefix_table(folder, tok): return split_words(WORDS, load_prefixes(folder/"p.npz"))

def make_mixture(folder, tok): (folder/"m.yaml").write_text(yaml.safe_dump(dict(news=.5, law=.25, wiki=.25)))
def load_mixture(folder, tok): return read_mixture(folder/"m.yaml")
def mixture_says(folder): return yaml.safe_load((folder/"m.yaml").read_text())

def make_chain(folder, tok): (folder/"j.yaml").write_text("00_data:\n  run: '{run}/data'\n  seed: 3\n04_pretrain:\n  run: '{run}/base'\n  steps: 20\n  lr: 0.01\n")
def load_chain(folder, tok): return read_chain(folder/"j.yaml", run="runs/x")

def make_log(folder, tok): (folder/"metrics.jsonl").write_text("".join(json.dumps(dict(step=n, loss=3. - n/10, tokens=100*n)) + "\n" for n in range(1, 6)))
def load_log(folder, tok): return [dict(r) for r in read_jsonl(folder/"metrics.jsonl")]

def make_progress(folder, tok): write_json(folder/"progress.json", dict(what="encoding", done=3, total=9, note="news"))
def load_progress(folder, tok):
    p = latest_progress(folder, 0)
    return p and [p["what"] + "", p["total"] + 0, p["note"] + "", p["done"] + 0]

def make_report(folder, tok): write_json(folder/"report.json", dict(sources=dict(news=dict(read=3)), examples={}, quarantine=[]))
def load_report(folder, tok): remove_earlier(folder)

def make_exchanges(folder, tok):
    write_json(folder/"eval"/"exchanges.json", [dict(instruction="שאלה", input="", reference="כן", base="לא", instruct="כן")]*3)
    (folder/"eval"/"report.md").write_text("# דוח\n", encoding="utf8")
def load_exchanges(folder, tok): show_result(folder, 3.)

def make_published(folder, tok):
    model = HebrewGPT(get_preset("tiny", vocab_size=tok.vocab_size, width=16, heads=2, head_dim=8, hidden=24, pattern="A"))
    torch.save({"model_state_dict": model.state_dict()}, folder/"model.pt")
    write_json(folder/"config.json", dict(hidden_size=16, num_attention_heads=2, head_dim=8, max_position_embeddings=64, rope_theta=10000.))
    shutil.copy(tok.path, folder/"tokenizer.model")
def load_published(folder, tok):
    model, its = load_released(folder/"model.pt", folder/"tokenizer.model")
    with torch.no_grad(): model.float()(torch.tensor([[its.bos_id, 5, 6]]))
    return [model.cfg.context, model.cfg.rope_theta]
def published_says(folder):
    said = json.loads((folder/"config.json").read_text())
    return [2048 if said.get("max_position_embeddings") is None else said["max_position_embeddings"], 10000. if said.get("rope_theta") is None else said["rope_theta"]]

def make_safetensors(folder, tok):
    from safetensors.torch import save_file
    make_published(folder, tok)
    save_file(torch.load(folder/"model.pt")["model_state_dict"], folder/"model.safetensors")
    (folder/"model.pt").unlink()
def load_safetensors(folder, tok):
    model, its = load_released(folder/"model.safetensors", folder/"tokenizer.model")
    with torch.no_grad(): model.float()(torch.tensor([[its.bos_id, 5, 6]]))

def make_records(folder, tok):
    for suffix in ("", ".gz", ".zst"):
        found = [dict(id=n, text=t, license="CC0") for n, t in enumerate(TEXTS[:6])]
        plain = folder/"d"/f"news{len(suffix)}.train.jsonl"
        write_records(f"{plain}{suffix}", found)
def load_records(folder, tok):
    aside = Quarantine()
    return [r["text"].encode().decode() for r in read_records(folder/"d", aside)], dict(aside.counts)

def make_examples(folder, tok): write_records(folder/"phase1.jsonl", [dict(instruction=f"שאלה {n}", input="", output="כן", task="yes") for n in range(6)])
def load_examples(folder, tok): return len(json.dumps(read_examples(folder/"phase1.jsonl", Quarantine())).encode()) > 0

def other_examples(): return [dict(messages=[dict(role="user", content=f'רב"ט {n}'), dict(role="assistant", content="כן, כן")], phase=1 + n % 2, category="yes") for n in range(9)]
def make_other_examples(folder, tok):
    rows = [dict(question=f'רב"ט {n}', answer="כן, כן; כן", context=None) for n in range(9)]
    for name, sep, encoding in (("a.csv", ",", "utf-8-sig"), ("b.csv", ";", "cp1255"), ("c.tsv", "\t", "utf-16")): pd.DataFrame(rows).to_csv(folder/name, sep=sep, encoding=encoding, index=False)
    for name, kept in (("d.parquet", rows), ("e.parquet", other_examples())): pd.DataFrame(kept).to_parquet(folder/name)
    write_json(folder/"f.json", other_examples())
def load_other_examples(folder, tok): return len(json.dumps(read_examples(folder, Quarantine())).encode()) > 0

def make_choices(folder, tok): write_records(folder/"choices.jsonl", [dict(id=str(n), question="מה?", choices=["א", "ב"], answer_index=1, category="x") for n in range(6)])
def load_choices(folder, tok): return len(json.dumps(read_checked(folder/"choices.jsonl", parse_question, Quarantine()))) > 0

def make_gold(folder, tok): (folder/"segmentation_x.jsonl").write_text("".join(json.dumps(dict(surface="והבית", segments=["ו", "ה", "בית"], upos=["CCONJ", "DET", "NOUN"])) + "\n" for _ in range(4)))
def load_gold(folder, tok): return len(read_gold(folder)["x"])

def make_squad(folder, tok): write_json(folder/"heq.json", dict(data=[dict(paragraphs=[dict(context=TEXTS[0], qas=[dict(id="1", question="מה גדול?", answers=[dict(text="הבית")])])]*3)]))
def load_squad(folder, tok): return [r["text"].encode().decode() for r in read_source("heq", folder/"heq.json", quarantine=[])]

CLEANING = dict(niqqud="keep")
def make_cleaned(folder, tok):
    write_records(folder/"news.train.jsonl", [dict(text=t) for t in TEXTS])
    clean_file(folder/"news.train.jsonl", folder/"work", CLEANING)
def load_cleaned(folder, tok):
    done = clean_file(folder/"news.train.jsonl", folder/"work", CLEANING)
    f = CleanedFile("news", "train", folder/"work", folder/"news.train.jsonl", done)
    assert all(len(q["reason"]) for q in done["quarantine"])
    return [len(f.words(n)) for n in range(len(f.lengths))], [r["text"] for _, r in f.records()], sum(done["dropped"].values())

def make_bench(folder, tok): cached_result(folder/"raw.json", dict(shape=[2, 3]), lambda: dict(seconds=.5))
def load_bench(folder, tok): return cached_result(folder/"raw.json", dict(shape=[2, 3]), lambda: dict(seconds=.7))


@dataclasses.dataclass
class Subject:
    "A kind of file."
    make: object # (folder, tok): writes them
    load: object # (folder, tok) -> value
    seal: object = None # of the altered files, before they are read; None: the old seal stays
    says: object = None # folder -> what `load` shall give of the altered files; None: what it gave before, or nothing is known
    sealed: bool = False # an altered value is refused, so what loads is what was there
    only: str = "" # files to alter: a pattern

SUBJECTS = {
    "bundle": Subject(make_bundle, load_a_bundle, sealed=True),
    "bundle sealed anew": Subject(make_bundle, load_a_bundle, seal_bundle, says=lambda folder: bundle_says(folder)),
    "config sealed anew": Subject(make_bundle, load_a_bundle, seal_bundle, says=lambda folder: bundle_says(folder), only="config.json"),
    "checkpoint": Subject(make_checkpoints, load_checkpoints),
    "checkpoint sealed anew": Subject(make_checkpoints, load_checkpoints, seal_checkpoints),
    "shards": Subject(make_shards, load_shards, sealed=True),
    "shards sealed anew": Subject(make_shards, load_shards, seal_shards),
    "shards built again": Subject(make_shards, build_again, sealed=True),
    "stamp": Subject(make_stamp, load_stamp, says=stamp_says),
    "tokenizer": Subject(make_tokenizer_file, load_tokenizer, says=tokenizer_says),
    "prefixes": Subject(make_prefix_table, load_prefix_table),
    "mixture": Subject(make_mixture, load_mixture, says=mixture_says),
    "chain of jobs": Subject(make_chain, load_chain),
    "log": Subject(make_log, load_log),
    "progress": Subject(make_progress, load_progress),
    "data report": Subject(make_report, load_report),
    "exchanges": Subject(make_exchanges, load_exchanges),
    "published weights": Subject(make_published, load_published, says=published_says),
    "safetensors": Subject(make_safetensors, load_safetensors),
    "records": Subject(make_records, load_records),
    "examples": Subject(make_examples, load_examples),
    "examples of other kinds": Subject(make_other_examples, load_other_examples),
    "choices": Subject(make_choices, load_choices),
    "segmented words": Subject(make_gold, load_gold),
    "paragraphs": Subject(make_squad, load_squad),
    "cleaned file": Subject(make_cleaned, load_cleaned),
    "bench": Subject(make_bench, load_bench),
}


# How a file is altered: (rng, path) -> what was done

def flip(rng, path):
    raw = bytearray(path.read_bytes() or b"x")
    for _ in range(rng.choice((1, 1, 4, 60))): raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)

def flip_early(rng, path): # headers
    raw = bytearray(path.read_bytes() or b"x")
    raw[rng.randrange(min(len(raw), 64))] = rng.randrange(256)
    path.write_bytes(raw)

def cut(rng, path): os.truncate(path, rng.randrange(max(1, path.stat().st_size)))
def empty(rng, path): os.truncate(path, 0)
def extend(rng, path): path.write_bytes(path.read_bytes() + rng.randbytes(rng.choice((1, 40, 5000))))
def blank(rng, path):
    raw = bytearray(path.read_bytes())
    at = rng.randrange(max(1, len(raw)))
    raw[at:at + 64] = bytes(len(raw[at:at + 64]))
    path.write_bytes(raw)
def swap(rng, path):
    others = [p for p in path.parent.rglob("*") if p.is_file() and p != path]
    path.write_bytes(rng.choice(others).read_bytes() if others else rng.randbytes(99))
def utf16(rng, path): path.write_bytes(path.read_bytes().decode("utf8", "replace").encode("utf-16"))

def in_its_place(make):
    def change(rng, path):
        path.unlink()
        make(path)
    change.__name__ = make.__name__
    return change

def fifo(path): os.mkfifo(path)
def folder(path): path.mkdir()
def device(path): path.symlink_to("/dev/zero")
def nowhere(path): path.symlink_to("/nowhere/at/all")
def circle(path): path.symlink_to(path)
def missing(path): pass
def unreadable_link(path): path.symlink_to(path.parent)

def odd_neighbour(rng, path):
    other = path.with_name(rng.choice(("²²².json", "00000099.json", "-1.json", "x.pt", "²²².pt", "99999999999999999999.json", ".part", "a\nb.json", "\udcff.json")))
    if rng.random() < .3: os.mkfifo(other)
    else: other.write_bytes(path.read_bytes() if rng.random() < .5 else b"[]")

BYTES = [flip, flip, flip_early, cut, cut, empty, extend, blank, swap, utf16, odd_neighbour,
         *map(in_its_place, (fifo, folder, device, nowhere, circle, missing, unreadable_link))]

def deep(n): return "[" * n + "]" * n

VALUES = [None, True, False, -1, 0, 1, 2, 7, 60_000, 1_000_000, 2**31, 2**63, 10**30, -10**30, .5, -0., 1e-300, 1e300, float("nan"), float("inf"),
          "", "א", "1", "../../x", "a/b", "x\0y", "NaN", [], {}, [1], {"a": 1}, [[]]*3, "half", "deep", "deeper", "digits", "long"]
RAW = {"half": '"\\ud800"', "deep": deep(700), "deeper": deep(200_000), "digits": "9" * 5000, "long": '"' + "א" * 100_000 + '"'}

def places(found, at=()): # every path in a JSON value
    yield at
    for k, child in found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else (): yield from places(child, (*at, k))

def put(found, at, value):
    if not at: return value
    found = copy.copy(found)
    found[at[0]] = put(found[at[0]], at[1:], value)
    return found

def change_value(rng, found): # a JSON value -> JSON text
    at, found = rng.choice(list(places(found))), copy.deepcopy(found)
    how, parent = rng.random(), found
    for k in at[:-1]: parent = parent[k]
    if at and how < .12: del parent[at[-1]]
    elif at and how < .17 and isinstance(parent, dict): parent[rng.choice(("extra", "", "א", "eps", "__class__"))] = rng.choice(VALUES[:20])
    elif how < .25 and len(others := list(places(found))) > 1: # a value from elsewhere
        value = found
        for k in rng.choice(others[1:]): value = value[k]
        found = put(found, at, copy.deepcopy(value))
    elif how < .4 and at and isinstance(old := parent[at[-1]], (int, float)) and not isinstance(old, bool):
        parent[at[-1]] = rng.choice((old + 1, old - 1, old * 2, old / 2, old * 1000, -old, float(old)))
    else: found = put(found, at, rng.choice(VALUES))
    text = json.dumps(found, ensure_ascii=False)
    for mark, raw in RAW.items(): text = text.replace(f'"{mark}"', raw)
    return text

def change_json(rng, path): path.write_text(change_value(rng, json.loads(path.read_text(encoding="utf8"))), encoding="utf8")

def change_line(rng, path):
    lines = path.read_text(encoding="utf8").split("\n")[:-1]
    n = rng.randrange(len(lines))
    lines[n] = change_value(rng, json.loads(lines[n]))
    path.write_text("\n".join(lines) + "\n", encoding="utf8")

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
YAML = [BOMB, "&a [*a]\n", "a: &a {b: *a}\n", "!!python/object/apply:os.getcwd []\n", "? [1, 2]\n: 3\n", "2024-13-45: 1\n", "news: 2024-13-45\n", "news: !!int ''\n",
        "news: !!bool x\n", "\tnews: 1\n", deep(3000), "{" * 3000, "news: 1:99:99\nlaw: .inf\n", "--- 1\n--- 2\n", "%YAML 9\n", "news: !!float '1_'\n", "news: " + "9" * 5000 + "\n",
        "<<: 3\n", "<<: [a]\n", "news: !!timestamp x\n", "!!set {a, b}\n", "null: null\n", "1: 1.0\n", "news: *x\n", "\0", "'" * 99, "news: !!binary '=='\n", "news: !!omap [1]\n", "= : 1\n"]
def change_yaml(rng, path):
    if rng.random() < .5: path.write_text(rng.choice(YAML))
    else: path.write_text(change_value(rng, yaml.safe_load(path.read_text(encoding="utf8"))), encoding="utf8")

STRUCTURED = {".json": change_json, ".jsonl": change_line, ".yaml": change_yaml}


# One case

@dataclasses.dataclass
class Outcome:
    subject: str
    file: str
    how: str
    kind: str # refused, loaded, or what went wrong
    said: str = ""

def plain(value): return json.loads(json.dumps(value))

def compare(subject, folder, value, before): # why what was loaded is wrong, or ""
    if subject.sealed and value != before: return "loaded another value under the old seal"
    if not subject.says: return ""
    try: says = plain(subject.says(folder))
    except Exception as e: return f"loaded what cannot be read ({type(e).__name__})"
    if isinstance(says, dict) and isinstance(value, list): value = value[0] # a bundle's config
    if isinstance(says, list) and says and says[0] is None: says, value = says[1:], value[1:]
    return "" if says == value else f"loaded {str(value)[:200]}, the file says {str(says)[:200]}"

def attempt(subject, folder, tok, before): # kind, what was said
    quiet = io.StringIO()
    signal.signal(signal.SIGALRM, say_hang)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    faulthandler.dump_traceback_later(12 * SECONDS, exit=True) # where not even an alarm is heard
    try:
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if subject.seal and all(p.is_file() or p.is_dir() for p in folder.rglob("*")):
                with contextlib.suppress(Exception): subject.seal(folder) # where there is nothing to seal the old seal stands
            value = plain(subject.load(folder, tok))
        quiet.getvalue().encode() # what was printed can be
        wrong = compare(subject, folder, value, before)
        return ("WRONG VALUE", wrong) if wrong else ("loaded", "")
    except UserError as e:
        said = str(e)
        try: said.encode()
        except UnicodeEncodeError: return "UNPRINTABLE", repr(said)
        return ("MANY LINES", said) if "\n" in said.strip() or len(said) > 2000 else ("refused", said)
    except Hang as e: return "HANG", str(e)
    except Exception as e:
        where = traceback.extract_tb(e.__traceback__)[-1]
        return f"TRACEBACK {type(e).__name__}", f"{Path(where.filename).name}:{where.lineno} {str(e)[:150]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()

def one_case(seed, name, made, before, tok, place):
    rng, subject, folder = random.Random(seed), SUBJECTS[name], place/"case"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made, folder)
    files = sorted(p for p in folder.rglob(subject.only or "*") if p.is_file())
    path = rng.choice(files)
    how = rng.choice(BYTES) if path.suffix not in STRUCTURED or rng.random() < .3 else STRUCTURED[path.suffix]
    how(rng, path)
    outcome = Outcome(name, path.name, f"{how.__name__} (seed {seed})", *attempt(subject, folder, tok, before))
    return outcome

def run_cases(count, tok, place, first=0, only="", tell=lambda outcome: None):
    names, made, before, case, outcomes = [n for n in SUBJECTS if only in n], place/"made", {}, place/"case", []
    for name in names: # made where it will be read: some keys hold the path
        case.mkdir()
        SUBJECTS[name].make(case, tok)
        shutil.copytree(case, made/name)
        with contextlib.redirect_stdout(io.StringIO()): before[name] = plain(SUBJECTS[name].load(case, tok))
        shutil.rmtree(case)
    for n in range(first, first + count):
        name = names[n % len(names)]
        outcomes.append(one_case(n, name, made/name, before[name], tok, place))
        tell(outcomes[-1])
    return outcomes

@contextlib.contextmanager
def bounded_memory(more=1 << 30): # bytes beyond what the process has
    "What would read /dev/zero to its end is a MemoryError."
    pd.DataFrame(dict(a=["x"])).to_parquet(table := io.BytesIO())
    pd.read_parquet(table) # its allocator takes a GB of addresses when it is first used
    had, pages = resource.getrlimit(resource.RLIMIT_AS), int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, had[1]))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_AS, had)

def counts(outcomes): return dict(Counter(o.kind for o in outcomes))
def is_good(o): return o.kind in ("refused", "loaded")


def test_forged_or_odd_files(tok, tmp_path):
    "0 hangs, 0 tracebacks, and nothing loaded but what the files say."
    with bounded_memory(): outcomes = run_cases(CASES, tok, tmp_path)
    bad = [o for o in outcomes if not is_good(o)]
    assert not bad, f"{counts(outcomes)}\n" + "\n".join(map(str, bad[:20]))
    assert counts(outcomes)["refused"] > CASES/3 and counts(outcomes)["loaded"] > CASES/20 # altered they were, and not all for nothing


# The faults that were found, one by one

def refuses(load, *says): # and quickly
    with pytest.raises(UserError) as e: load()
    assert "\n" not in str(e.value) and all(part in str(e.value) for part in says), e.value

@pytest.mark.parametrize("changes, says", [
    (dict(depth=1_000_000), "depth is 1000000: give 1 or more, at most"), (dict(depth=4000), "holds 2 blocks, its config says 4000"),
    (dict(heads=4, head_dim=8), "heads 4 of head_dim 8 do not make width"), (dict(width=float("nan")), "width is a float, expected int"),
    (dict(eps=float("nan")), "eps is nan"), (dict(eps=0.), "eps is 0.0"), (dict(rope_theta=1e300), "rope_theta is 1e+300"), (dict(chunk=2**40), "chunk is"),
    (dict(extra=1), "missing or unknown: extra"), (dict(eps=...), "missing or unknown: eps"), (dict(pattern="AX"), "letters A and M"), (dict(hidden=2**20), "weights do not fit")], ids=str)
def test_a_forged_config(tok, tmp_path, changes, says):
    "Sealed anew or not, it is refused; under the old seal every change is."
    make_bundle(tmp_path, tok)
    path = tmp_path/"b"/"config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
    refuses(lambda: load_bundle(tmp_path/"b"), "config.json: its checksum is not the one")
    seal_bundle(tmp_path)
    refuses(lambda: load_bundle(tmp_path/"b"), says)

@pytest.mark.parametrize("changes", [dict(eps=1e-5), dict(rope_theta=20_000.), dict(chunk=8), dict(context=64)], ids=str)
def test_another_value_is_refused_under_the_old_seal(tok, tmp_path, changes):
    make_bundle(tmp_path, tok)
    path = tmp_path/"b"/"config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    refuses(lambda: load_bundle(tmp_path/"b"), "config.json: its checksum is not the one")
    seal_bundle(tmp_path)
    assert dataclasses.asdict(load_bundle(tmp_path/"b")[0].cfg).items() >= changes.items() # sealed anew, it is another model that can be

@pytest.mark.parametrize("text, says", [("[]", "its content is a list"), (deep(100_000), "nested too deep"), (deep(100), "nested deeper than"), ('{"a": "\\ud800"}', "surrogates"), ("9" * 5000, "digits")])
@pytest.mark.parametrize("name", ["generation.json", "config.json"])
def test_a_forged_json(tok, tmp_path, name, text, says):
    make_bundle(tmp_path, tok)
    (tmp_path/"b"/name).write_text(text)
    if name == "config.json": seal_bundle(tmp_path)
    refuses(lambda: load_bundle(tmp_path/"b"), name, says)

def test_an_index_with_token_60000(tok, tmp_path):
    make_shards(tmp_path, tok)
    path = tmp_path/"s"/"news-00000.bin"
    tokens = np.fromfile(path, np.uint16)
    tokens[5] = 60_000
    tokens.tofile(path)
    seal_shards(tmp_path)
    refuses(lambda: Shards(tmp_path/"s", tok), "news-00000.bin: holds token 60000 of a vocabulary of 600")

def test_odd_names_among_the_checkpoints(tmp_path):
    make_checkpoints(tmp_path, None)
    for name in ("²²².json", "²²².pt", "x.pt", "-1.json", "1.json", "00000006.json.bak"): (tmp_path/"c"/name).write_text("[]")
    assert load_checkpoints(tmp_path, None)[0] == 6 # and saves the next
    assert {"²²².json", "x.pt"} <= {p.name for p in (tmp_path/"c").iterdir()} # what is not ours stays

def test_a_checkpoint_of_something_else(tmp_path):
    model = tiny(tmp_path, 40)
    t = Training(model, make_optimizer("adamw", model, adam_lr=.1))
    saved = Checkpoints(tmp_path, KEY)
    for state in (dict(step=3), dict(log=3), t.state_dict() | dict(log="", weights={}), t.state_dict() | dict(log=[])):
        saved.save(3, state)
        refuses(lambda: resume(saved, t, tmp_path/"metrics.jsonl"), "not the checkpoints of such a run" if "log" not in state or state["log"] == "" else "log is a")

if __name__ == "__main__":
    torch.set_num_threads(1)
    place, begun = Path(tempfile.mkdtemp()), time.monotonic()
    path = train_tokenizer([r["text"] for p in sorted((sample_dir()/"pretrain").glob("*.train.jsonl")) for r in read_jsonl(p)], place/"tokenizer.model", vocab_size=600)
    tell = lambda o: is_good(o) or print(o.subject, o.file, o.how, o.kind, o.said, sep=" | ", flush=True)
    with bounded_memory(): found = run_cases(int(sys.argv[1]), Tokenizer(path), place, int((sys.argv[2:] or "0")[0]), (sys.argv[3:] or [""])[0], tell)
    print(counts(found), f"{time.monotonic() - begun:.0f} s")
