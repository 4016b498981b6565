"Shards and mixtures: what must hold, whenever a build is killed and whatever a file has become."
import json, math, os, random, signal, subprocess, sys, time, warnings
from pathlib import Path
from types import SimpleNamespace
import numpy as np, psutil, pytest
from hypothesis import given, settings, strategies as st
from hebrewgpt_nb.core import UserError, read_json, sha256_file
from hebrewgpt_nb.text.mixture import mix_order, plan_mixture
from hebrewgpt_nb.text.shards import Shards, build_shards

os.environ["HEBREWGPT_QUIET"] = "1"

class Letters:
    "A tokenizer that counts what it encodes, and that a worker can import."
    bos_id, eos_id, vocab_size, sha256, n_threads = 0, 1, 1002, "letters", 1
    def __init__(self): self.encoded = 0
    def encode(self, texts):
        self.encoded += len(texts)
        return [[ord(c) % 1000 + 2 for c in t] for t in texts]

LETTERS = Letters()

def record(n, text=None, source="news"): return dict(id=f"{source}-{n}", text=text or f"מסמך {n}: ביום {n*7 % 31} נפתחה התערוכה", source=source, license="CC0-1.0")
def contents(folder) -> dict: return {p.name: sha256_file(p) for p in Path(folder).iterdir()}
def stream(n: int, length: int=4000): # from one generator, so that it is the same each time
    rng = random.Random(n)
    for i in range(n): yield record(i, f"{i} " + "".join(rng.choices("אבגדהוזחטיכלמנסעפצקרשת ", k=rng.randint(1, length))), source="abc"[i*3//n] if i % 5 else "all")

# -- what stands on the disk

@pytest.fixture
def shards(tmp_path):
    build_shards((record(n, source=s) for s in ("a", "b") for n in range(9)), tmp_path, LETTERS, shard_tokens=120)
    return tmp_path

def test_shards_hold_every_token(shards):
    opened = Shards(shards, LETTERS)
    for source in ("a", "b"):
        assert len(opened.files(source)) > 1
        docs = np.split(np.asarray(opened.tokens(source)), opened.starts(source)[1:])
        assert [list(d) for d in docs] == [[0, *LETTERS.encode([record(n)["text"]])[0], 1] for n in range(9)]
        assert opened.index["sources"][source]["bytes"] == sum(len(record(n)["text"].encode()) for n in range(9))

def test_any_slice_is_that_of_one_array(shards):
    tokens = Shards(shards).tokens("a")
    whole, rng = np.asarray(tokens), random.Random(0)
    for _ in range(300):
        a, b = rng.randint(-len(whole), len(whole)), rng.randint(-len(whole), len(whole))
        assert np.array_equal(tokens[a:b], whole[a:b])

def test_large_vocabulary_takes_32_bits(tmp_path):
    tok = SimpleNamespace(encode=lambda ts: [[70_000] for _ in ts], bos_id=0, eos_id=1, vocab_size=70_001, sha256="x")
    assert build_shards([record(1)], tmp_path, tok)["dtype"] == "uint32" and list(Shards(tmp_path).tokens("news")) == [0, 70_000, 1]

def test_source_names_cannot_leave_the_folder(tmp_path):
    index = build_shards([record(1, source="../../evil/x")], tmp_path/"s", LETTERS)
    assert [p.name for p in tmp_path.iterdir()] == ["s"] and list(index["sources"]) == ["_evil_x"]

def test_no_documents(tmp_path):
    with pytest.raises(UserError, match="no documents"): build_shards([], tmp_path, LETTERS)

def test_ten_megabytes_in_one_document(tmp_path):
    text = "שלום עולם " * 600_000
    assert len(text.encode()) > 10_000_000
    build_shards([record(0), record(1, text), record(2)], tmp_path, LETTERS)
    opened = Shards(tmp_path)
    (a, b), tokens = opened.starts("news")[1:], opened.tokens("news")
    assert len(opened.files("news")) == 1 and b - a == len(text) + 2
    assert np.array_equal(tokens[a + 1:b - 1], LETTERS.encode([text])[0])

# -- files that are not what they were

def test_other_tokenizer(shards):
    with pytest.raises(UserError, match="made with another tokenizer"): Shards(shards, SimpleNamespace(sha256="other"))

@pytest.mark.parametrize("name", ["a-00000.bin", "a-00001.starts.npy", "b-00001.bin"])
def test_altered_truncated_missing(shards, name):
    whole = (shards/name).read_bytes()
    for at in (0, len(whole)//2, len(whole) - 1):
        (shards/name).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
        with pytest.raises(UserError, match=f"{name}: altered"): Shards(shards)
    (shards/name).write_bytes(whole[:-2])
    with pytest.raises(UserError, match=f"{name}: (altered|.* bytes, the index says)"): Shards(shards)
    (shards/name).unlink()
    with pytest.raises(UserError, match=f"{name}: missing"): Shards(shards)

@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"dtype": "uint16", "vocab_size": 9, "tokenizer_sha256": "x", "sources": {"a": {}}}', '{"dtype": "x", "vocab_size": 9, "tokenizer_sha256": "x", "sources": {}}'])
def test_torn_index(shards, index):
    (shards/"index.json").write_text(index)
    with pytest.raises(UserError, match="index.json: not"): Shards(shards)

def test_index_cut_anywhere(shards):
    whole = (shards/"index.json").read_bytes()
    for at in range(0, len(whole) - 2, 37):
        (shards/"index.json").write_bytes(whole[:at])
        with pytest.raises(UserError, match="index.json: not"): Shards(shards)

def test_index_edited(shards):
    index = read_json(shards/"index.json")
    index["sources"]["a"]["tokens"] += 1
    (shards/"index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="index.json: not"): Shards(shards)

def test_missing_index(shards):
    (shards/"index.json").unlink()
    with pytest.raises(UserError, match="no index.json"): Shards(shards)

@pytest.mark.parametrize("suffix", ["bin", "starts.npy", "keys.npy", "json"])
@pytest.mark.parametrize("damage", [lambda b: b[:-3], lambda b: b[:9] + b"#" + b[10:], lambda b: b"[]"])
def test_a_damaged_file_is_made_again(shards, suffix, damage):
    before, path = contents(shards), shards/f"a-00001.{suffix}"
    path.write_bytes(damage(path.read_bytes()))
    build_shards((record(n, source=s) for s in ("a", "b") for n in range(9)), shards, LETTERS, shard_tokens=120)
    assert contents(shards) == before

# -- going on

def test_interrupted_build_has_no_index(shards):
    def broken():
        yield record(1)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): build_shards(broken(), shards, LETTERS)
    with pytest.raises(UserError, match="no index.json"): Shards(shards)

def test_finished_files_are_not_encoded_again(tmp_path):
    first, again, longer = Letters(), Letters(), Letters()
    build_shards(stream(300), tmp_path, first, workers=1, shard_tokens=50_000)
    before = contents(tmp_path)
    build_shards(stream(300), tmp_path, again, workers=1, shard_tokens=50_000)
    build_shards([*stream(300), record(301, source="all")], tmp_path, longer, workers=1, shard_tokens=50_000)
    assert (first.encoded, again.encoded, longer.encoded) == (300, 0, 1)
    assert sum(name not in contents(tmp_path) or contents(tmp_path)[name] != sha for name, sha in before.items()) <= 5 # the last file of `all`, and the index

@pytest.mark.parametrize("change", ["fewer", "another", "inserted", "without a source", "other tokenizer", "other size"])
def test_after_a_change_all_is_as_if_new(tmp_path, change):
    records, tok, size = list(stream(120, 400)), Letters(), 5000
    build_shards(records, tmp_path/"old", tok, shard_tokens=size)
    if change == "fewer": records = records[:70]
    if change == "another": records[50] = record(50, "אחר לגמרי", "a")
    if change == "inserted": records.insert(50, record(500, "נוסף", "b"))
    if change == "without a source": records = [r for r in records if r["source"] != "b"]
    if change == "other tokenizer": tok.sha256, tok.vocab_size = "others", 70_000
    if change == "other size": size = 3000
    for folder in ("old", "new"): build_shards(records, tmp_path/folder, tok, shard_tokens=size)
    assert contents(tmp_path/"old") == contents(tmp_path/"new")

def test_two_processes_give_what_one_gives(tmp_path):
    for workers in (1, 2): build_shards(stream(900, 12_000), tmp_path/str(workers), LETTERS, workers=workers, shard_tokens=2**19)
    assert contents(tmp_path/"1") == contents(tmp_path/"2") and len(contents(tmp_path/"1")) > 30

BUILD = "import sys, test_shards as t; t.build_shards(t.stream(2000, 6000), sys.argv[1], t.LETTERS, lambda n: print(n, flush=True), workers=2, shard_tokens=2**18)"

def start(folder): return subprocess.Popen([sys.executable, "-c", BUILD, str(folder)], cwd=Path(__file__).parent, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

def test_killed_at_ten_instants(tmp_path):
    whole, rng, ends, children = start(tmp_path/"whole"), random.Random(3), [], []
    assert whole.communicate() and whole.returncode == 0
    for part in range(10): # an instant in each tenth of the documents, whatever else the machine does
        build, done, due = start(tmp_path/"killed"), 0, 2000*(part + rng.random())/10
        while done < due: done += int(build.stdout.readline())
        time.sleep(rng.random()/10)
        children += psutil.Process(build.pid).children(recursive=True) if build.poll() is None else []
        build.send_signal(signal.SIGKILL)
        build.communicate(timeout=30) # until its workers, too, have closed stderr
        ends.append(build.returncode)
    last = start(tmp_path/"killed")
    assert last.communicate() and last.returncode == 0
    assert ends.count(-signal.SIGKILL) >= 6 and set(ends) <= {0, -signal.SIGKILL} and contents(tmp_path/"killed") == contents(tmp_path/"whole")
    assert children and not psutil.wait_procs(children, timeout=10)[1], "processes were left behind"

# -- mixtures

names = st.sampled_from("abcdefg")
sources = st.dictionaries(names, st.integers(1, 10**9), min_size=1)
@st.composite
def mixtures(draw):
    tokens = draw(sources)
    shares = {s: draw(st.floats(.01, 100)) for s in tokens if draw(st.booleans())} or {next(iter(tokens)): 1.}
    return tokens, shares, draw(st.integers(1, 3*10**9)), draw(st.floats(.1, 8))

@pytest.mark.filterwarnings("ignore:not read")
@given(mixtures())
@settings(max_examples=300, deadline=None)
def test_plan(mixture):
    tokens, shares, total, epochs = mixture
    caps = {s: int(tokens[s]*epochs) if s in shares else 0 for s in tokens}
    if total > sum(caps.values()):
        with pytest.raises(UserError, match=f"can give {sum(caps.values()):,} tokens"): plan_mixture(tokens, shares, total, epochs)
        total = sum(caps.values())
    if not total: return
    plan = plan_mixture(tokens, shares, total, epochs)
    got = {s: p["tokens"] for s, p in plan.items()}
    assert sum(got.values()) == total
    assert list(plan) == list(tokens) and all(0 <= got[s] <= caps[s] for s in tokens)
    assert math.isclose(sum(p["share"] for p in plan.values()), 1) and math.isclose(sum(p["asked"] for p in plan.values()), 1)
    levels = {s: got[s]/shares[s] for s in shares}
    free = [s for s in shares if got[s] < caps[s]]
    for s in free:
        for t in free: assert abs(got[s] - levels[t]*shares[s]) <= 2*(1 + shares[s]/shares[t]) # proportional, but for rounding
        for t in shares: assert levels[t] <= levels[s] + 2/shares[s] + 2/shares[t] # a capped one has no more than its part

@given(mixtures())
@settings(max_examples=100, deadline=None)
def test_sources_without_a_share_are_named_and_not_read(mixture):
    tokens, shares, *_ = mixture
    unnamed = [s for s in tokens if s not in shares]
    with warnings.catch_warnings(record=True, action="always") as caught: plan = plan_mixture(tokens, shares, 1, max_epochs=1)
    assert [str(w.message) for w in caught] == ([f"not read, since the mixture gives them no share: {', '.join(unnamed)}"] if unnamed else [])
    assert all(plan[s]["tokens"] == 0 and plan[s]["asked"] == 0 for s in unnamed)

@given(st.lists(st.floats(.001, 1), min_size=1, max_size=12), st.integers(200, 3000), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_order_is_the_plan_at_every_row(weights, rows, seed):
    plan = plan_mixture({f"s{i}": 10**9 for i in range(len(weights))}, {f"s{i}": w for i, w in enumerate(weights)}, 10**8)
    order, counts = mix_order(plan, rows, seed), np.arange(1, rows + 1)
    for i, p in enumerate(plan.values()):
        served = np.cumsum(order == i)
        assert abs(served - counts*p["share"]).max() <= 2
        assert abs(served[199:]/counts[199:] - p["share"]).max() <= .01

@pytest.mark.parametrize("asked, said", [
    (dict(shares={"שירה": 1}), "'שירה': there is no such source"), (dict(shares={"news": 1}, max_epochs={"law": 2}), "'law': there is no such source"),
    (dict(shares={"news": -1}), "give a number"), (dict(shares={"news": float("nan")}), "give a number"), (dict(shares={"news": "much"}), "give a number"),
    (dict(shares={"news": 0}), "none is above 0"), (dict(shares={}), "none is above 0"), (dict(shares={"news": 1}, total=0), "ask for one token"), (dict(shares={"news": 1}, max_epochs=0), "can give 0 tokens, not 100")])
def test_impossible_mixtures(asked, said):
    with pytest.raises(UserError, match=said) as e: plan_mixture({"news": 1000}, **dict(total=100) | asked)
    assert "\n" not in str(e.value)
