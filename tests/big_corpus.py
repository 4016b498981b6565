"""Shards of a large synthetic Hebrew corpus, killed midway: speed of each step, memory, cost of the restart.

python tests/big_corpus.py --gb 2 [--workers 0] [--out DIR]
"""
import argparse, random, shutil, signal, subprocess, sys, tempfile, time
from pathlib import Path
import pandas as pd
from hebrewgpt_nb.text.clean import clean_text
from hebrewgpt_nb.core import read_json, read_jsonl, sample_dir
from hebrewgpt_nb.text.shards import ShardWriter, Shards, build_shards, verify_file, text_digest, pack_document
from hebrewgpt_nb.text.records import read_records, write_records
from hebrewgpt_nb.tokenizer import Tokenizer, train_tokenizer

FILES, LIMIT = 8, 2e9 # bytes of memory, all processes together

def sample_texts() -> list[str]: return [r["text"] for f in sorted((sample_dir()/"pretrain").glob("*.train.jsonl")) for r in read_jsonl(f)]

def documents(size: int, n: int): # bytes of text; the file's number
    "Paragraphs of the sample in another order, some of their words exchanged."
    rng, done = random.Random(n), 0
    paragraphs = [p.split() for t in sample_texts() for p in t.split("\n") if p.strip()]
    words = [w for p in paragraphs for w in p]
    for i in range(sys.maxsize):
        chosen = [list(p) for p in rng.sample(paragraphs, min(len(paragraphs), rng.randint(2, 20)))]
        for p in chosen:
            for _ in range(1 + len(p)//8): p[rng.randrange(len(p))] = rng.choice(words)
        text = "\n".join(map(" ".join, chosen))
        yield dict(id=f"{n}-{i}", text=text, source=f"source{n//2}", license="CC0-1.0")
        if (done := done + len(text.encode())) >= size: return

def seconds(fn) -> float:
    begun = time.perf_counter()
    fn()
    return time.perf_counter() - begun

def speeds(file: Path, tokenizer, folder: Path, most: int=24_000_000) -> pd.Series: # MB of text a second
    "Each step alone, on one core, on the beginning of a file."
    texts, kept = [], 0
    def read():
        nonlocal kept
        for r in read_records(file):
            texts.append(r["text"])
            if (kept := kept + len(r["text"].encode())) >= most: return
    took = {"reading, decompressing": seconds(read)}
    mb, few = kept/1e6, texts[:max(1, len(texts)//12)]
    tokenizer.n_threads = 1
    took["digests"] = seconds(lambda: [text_digest(t.encode()) for t in texts])
    ids = []
    took["encoding"] = seconds(lambda: ids.extend(tokenizer.encode(few)))*len(texts)/len(few)
    took["packing"] = seconds(lambda: [pack_document(tokenizer, t, i) for t, i in zip(few, ids)])*len(texts)/len(few)
    rows, part = [pack_document(tokenizer, t, i) for t, i in zip(few, ids)], ShardWriter(folder, "speed-00000", {})
    def write():
        for _ in range(len(texts)//len(few)):
            for k, row in enumerate(rows): part.add(row, k, 1)
            part.flush()
        part.finish()
    took["writing, checksum"] = seconds(write)
    took["verifying"] = seconds(lambda: verify_file(folder/"speed-00000.bin", part.sha.hexdigest()))
    took["clean_text (a stage before)"] = seconds(lambda: list(map(clean_text, few)))*len(texts)/len(few)
    return pd.Series({step: mb/s for step, s in took.items()}, name="MB/s a core")

def tree_peak(pid: int) -> int: # bytes; at least the peak of the sum, as the peaks need not be at one time
    "Peak memory of a process and those it started, added up."
    total = 0
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total = sum(int(l.split()[1])*1024 for l in lines if l.startswith("VmHWM"))
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError): return total # it has just ended
    return total + sum(tree_peak(int(c)) for c in children)

def build(args: list[str], kill_at: float=float("inf"), standing: int=0) -> dict:
    "Build in another process, which is killed after `kill_at` documents; measure it."
    begun, done, peak, reached, looked = time.perf_counter(), 0, 0, 0., 0.
    child = subprocess.Popen([sys.executable, __file__, "--child", *args], stdout=subprocess.PIPE, text=True)
    for line in child.stdout:
        done, now = done + int(line), time.perf_counter()
        if not reached and done >= standing: reached = now - begun
        if now - looked > .05: peak, looked = max(peak, tree_peak(child.pid)), now
        if done >= kill_at: child.send_signal(signal.SIGKILL); break
    status = child.wait()
    assert status == (-signal.SIGKILL if done >= kill_at else 0), status
    return dict(seconds=time.perf_counter() - begun, documents=done, peak=peak, reached=reached)

def child(data: str, out: str, model: str, workers: str, shard_tokens: str):
    "What is killed."
    build_shards(read_records(sorted(Path(data).glob("*.zst"))), out, Tokenizer(model), lambda n: print(n, flush=True), int(workers), int(shard_tokens))

def main(gb: float, workers: int, work: Path):
    data, out = work/"data", work/"shards"
    shutil.rmtree(out, ignore_errors=True)
    made = seconds(lambda: [write_records(data/f"source{n//2}-{n}.train.jsonl.zst", documents(int(gb*1e9/FILES), n)) for n in range(FILES)])
    model = train_tokenizer(sample_texts(), work/"tokenizer.model", vocab_size=2048)
    table = speeds(min(data.glob("*.zst")), Tokenizer(model), work)
    print(table.round(1).to_string(), f"\nslowest of the build: {table[:-1].idxmin()}; slowest of all: {table.idxmin()}", flush=True)
    n, size = 0, 0
    for r in read_records(sorted(data.glob("*.zst"))): n, size = n + 1, size + len(r["text"].encode())
    args = [str(data), str(out), str(model), str(workers), str(min(2**26, int(gb*2**25)))]
    first = build(args, kill_at=n//2)
    standing = sum(read_json(p)["entry"]["documents"] for p in out.glob("*-?????.json"))
    second = build(args, standing=standing)
    verified = seconds(lambda: Shards(out, Tokenizer(model)))
    sources, peak = read_json(out/"index.json")["sources"].values(), max(first["peak"], second["peak"])
    assert (n, size) == tuple(sum(s[k] for s in sources) for k in ("documents", "bytes")), "documents were lost or doubled"
    again = first["documents"] - standing
    print(pd.Series({
        "text, MB": size/1e6, "documents": n, "tokens, millions": sum(s["tokens"] for s in sources)/1e6, "making the corpus, s": made,
        "killed after, s": first["seconds"], "documents then": first["documents"], "of them in finished files": standing,
        "restart: to pass over those, s": second["reached"], "restart: documents encoded twice": again, "restart: about, s": again/first["documents"]*first["seconds"],
        "second run, s": second["seconds"], "both runs, s": first["seconds"] + second["seconds"],
        "MB of text a second, first run": size/1e6*first["documents"]/n/first["seconds"], "verifying on all cores, s": verified,
        "peak memory, all processes, MB": peak/1e6}).round(1).to_string(), flush=True)
    if peak > LIMIT: raise SystemExit(f"peak memory {peak/1e6:.0f} MB is above {LIMIT/1e6:.0f} MB")

if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]: child(*sys.argv[2:])
    else:
        parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
        parser.add_argument("--gb", type=float, default=2, help="GB of text")
        parser.add_argument("--workers", type=int, default=0, help="processes that encode; 0: all cores")
        parser.add_argument("--out", help="folder for corpus and shards, kept; without it a temporary one")
        given = parser.parse_args()
        if given.out: main(given.gb, given.workers, Path(given.out).absolute())
        else:
            with tempfile.TemporaryDirectory() as d: main(given.gb, given.workers, Path(d))
