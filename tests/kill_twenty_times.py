"""Kill jobs (kill -9) at random instants, some while a checkpoint is being written, and before chosen renames, removals and writes; compare each with one that was left alone.

python tests/kill_twenty_times.py [KILLS=40] [AIMED=10] [SEED=0]"""
import json, os, random, shutil, subprocess, sys, tempfile, time
from pathlib import Path
import torch
from hebrewgpt_nb.training.checkpoint import Checkpoints
from hebrewgpt_nb.core import read_json, read_jsonl, read_stamp, sha256_file
from hebrewgpt_nb.pretrain import pretrain
from hebrewgpt_nb.tokenizer import make_tokenizer

ROOT = Path(__file__).parent.parent
TRAIN = "import json, sys; from hebrewgpt_nb.pretrain import train_model; train_model(json.loads(sys.argv[1]))"


def parameters(run, tokenizer, steps):
    "Dropout, Lookahead and SWA on, and an interval that divides none of their periods."
    return dict(run=str(run), data=f"{tokenizer}/data", tokenizer=f"{tokenizer}/tokenizer.model", shards=f"{tokenizer}/shards", preset="tiny", steps=steps, batch_tokens=512, forward_tokens=256,
                context=128, rope_theta=10_000., base="", lr=.02, adam_lr=.005, lr_schedule="wsd", lookahead=5, dropout=.1, mixture="", balance=.5, max_epochs=99., swa=.5, seed=1,
                eval_every=steps, save_every=7, checkpoints="", processes=1, fsdp=False, deterministic=False, compiled=False, optimizer="muon", device="cpu", dtype="float32")


def start(params, code=TRAIN, **env):
    env = os.environ | dict(OMP_NUM_THREADS="1", HEBREWGPT_QUIET="1", PYTHONPATH=str(ROOT)) | env
    return subprocess.Popen([sys.executable, "-c", code, json.dumps(params)], cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(job):
    _, said = job.communicate()
    assert job.returncode == 0, said


def logged(run): return (run/"metrics.jsonl").read_bytes().count(b"\n") if (run/"metrics.jsonl").exists() else 0
def half_written(run): return [p for p in (run/"checkpoints").glob("*.pt") if not p.with_suffix(".json").exists()]


def kill(run, params, rng, while_writing):
    "Start, and kill after a few steps, or as soon as a checkpoint has no manifest yet; whether one was left half written."
    job, saved = start(params), (len(Checkpoints(run/"checkpoints", {}).steps()), logged(run))
    while job.poll() is None and logged(run) in (0, saved[1]): time.sleep(.002) # until it trains
    if while_writing:
        while job.poll() is None and not half_written(run): pass
    else:
        goal = logged(run) + rng.randrange(1, 20)
        while job.poll() is None and logged(run) < goal: time.sleep(.001)
        time.sleep(rng.random() * .02)
    assert job.poll() is None, f"the job ended before it could be killed: {job.stderr.read()}"
    job.kill(); job.wait()
    return bool(half_written(run))


def same(a, b):
    if isinstance(a, torch.Tensor): return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, list | tuple) else a == b


def without_speed(log): return [r | dict(tokens_per_s=0, mfu=0) for r in read_jsonl(log)]


def trial(folder, tokenizer, kills=20, steps=400, seed=0, **changes):
    "What was killed, and what it came to: every tensor of the state at the end, and the log."
    folder, rng, torn = Path(folder), random.Random(seed), 0
    killed, straight = (parameters(folder/name, tokenizer, steps) | changes for name in ("killed", "straight"))
    for n in range(kills): torn += kill(folder/"killed", killed, rng, while_writing=n % 2 == 1)
    for params in (killed, straight): finish(start(params))
    a, b = (without_speed(folder/name/"metrics.jsonl") for name in ("killed", "straight"))
    states = [Checkpoints(folder/name/"checkpoints", {}) for name in ("killed", "straight")]
    for s in states: s.key = s.manifest(steps)["key"]
    ends = [s.read(steps) | dict(log="") for s in states]
    return dict(kills=kills, while_writing=torn, steps=len(b), same_log=a == b, same_weights=same(ends[0]["weights"], ends[1]["weights"]), same_state=same(*ends))


# --- whole stages: what stands in the folder at the end ----------------------------------------------

AUDIT = """
import os, signal, sys
at, path, seen = int(os.environ.get("KILL_BEFORE", 0)), os.environ.get("COUNT_IN", ""), 0
def count(event, args): # each rename, removal and opening for writing, in this process
    global seen
    if event not in ("os.rename", "os.remove", "os.rmdir", "os.truncate") and not (event == "open" and isinstance(args[1], str) and set(args[1]) & set("wa+")): return
    if not str(args[0]).startswith(os.environ["BELOW"]): return
    seen += 1
    if seen == at: os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
"""
DONE = "\nif path:\n  n = seen\n  open(path, 'w').write(str(n))\n"
STAGE = "import json; from hebrewgpt_nb.{module} import {stage}; {stage}(**json.loads(sys.argv[1]))"
SHARDS = """import json
from hebrewgpt_nb.text.shards import build_shards
from hebrewgpt_nb.tokenizer import Tokenizer
p, texts = json.loads(sys.argv[1]), ["שלום עולם, זה מסמך מספר %d. " % n * (1 + n % 40) for n in range(6000)]
build_shards((dict(text=t, source="ab"[n % 2]) for n, t in enumerate(texts)), p["run"], Tokenizer(p["tokenizer"]), workers=1, shard_tokens=60_000)"""


def stages(tokenizer, base, first):
    "Kind of job -> its code, its parameters, and what lies in its folder before."
    given = dict(data=f"{tokenizer}/data", tokenizer=f"{tokenizer}/tokenizer.model")
    small = dict(preset="tiny", steps=24, batch_tokens=512, context=128, save_every=3, eval_every=6, swa=.5, lookahead=5)
    tuned = dict(base=str(base), steps=8, batch_tokens=256, context=128, eval_every=4, save_every=2, rank=4)
    pretraining = STAGE.format(module="pretrain", stage="pretrain")
    return dict(pretrain=(pretraining, given | small, None), again=(pretraining, given | small | dict(lr=.01), first),
                sft=(STAGE.format(module="sft", stage="sft"), tuned, None), shards=(SHARDS, dict(tokenizer=given["tokenizer"]), None))


def outcome(folder):
    "All that a job leaves, but for speeds and times; nothing half done may be there."
    found = {}
    for p in sorted(Path(folder).rglob("*")):
        name = str(p.relative_to(folder))
        if not p.is_file() or p.name in (".lock", ".training.lock", "progress.json") or "tensorboard" in p.parts: continue
        if p.name == "metrics.jsonl": found[name] = without_speed(p)
        elif p.name == "done.json": found[name] = read_json(p)["result"]
        else: found[name] = sha256_file(p)
    return found


def begin(kind, folder, before, code, params, **env):
    if before and not folder.exists(): shutil.copytree(before, folder)
    return start(params | dict(run=str(folder)), AUDIT + code + DONE, BELOW=str(folder), **env)


def whole(folder):
    "Whatever the instant of a kill: a stamp stands beside the weights that it speaks of."
    if (folder/"bundle").exists() and (stamp := read_stamp(folder)):
        said = read_json(folder/"bundle"/"generation.json")["info"]
        assert said.get("bpb", 0) == stamp["result"].get("bpb", 0), f"{folder}: the stamp is of another bundle"


def kill_stage(kind, folder, job, rng, kills, aimed):
    "Kills at random instants in one folder, and aimed ones each in a folder of its own; which ended otherwise than the one left alone."
    code, params, before = job
    finish(begin(kind, folder/"straight", before, code, params, COUNT_IN=f"{folder}/count"))
    expected, total, wrong, hit = outcome(folder/"straight"), int((folder/"count").read_text()), [], 0
    begun, run = time.time(), folder/"timed"
    finish(begin(kind, run, before, code, params))
    seconds = time.time() - begun
    while hit < kills: # what is killed may have ended before
        run = folder/f"random{hit}"
        for _ in range(min(5, kills - hit)):
            job = begin(kind, run, before, code, params)
            time.sleep(seconds * rng.uniform(.3, 1.))
            hit += job.poll() is None
            job.kill(), job.wait(), whole(run)
        finish(begin(kind, run, before, code, params))
        wrong += [run.name] * (outcome(run) != expected)
    for n in range(aimed):
        run, at = folder/f"aimed{n}", 1 + (n * total + rng.randrange(total)) // aimed
        job = begin(kind, run, before, code, params, KILL_BEFORE=str(at))
        assert job.wait() == -9, f"{kind}: not killed before operation {at} of {total}"
        whole(run)
        finish(begin(kind, run, before, code, params))
        wrong += [f"before operation {at} of {total}"] * (outcome(run) != expected)
    return dict(kind=kind, random=kills, aimed=aimed, operations=total, different=wrong)


def kill_stages(folder, kills=40, aimed=10, seed=0):
    "Kills over pretraining, a second attempt in the folder of a finished one, tuning and shards."
    folder, rng = Path(folder), random.Random(seed)
    make_tokenizer(run=f"{folder}/tokenizer", vocab_size=700)
    jobs = stages(folder/"tokenizer", folder/"base", folder/"base")
    pretrain(run=str(folder/"base"), **jobs["pretrain"][1])
    for n, (kind, job) in enumerate(jobs.items()):
        (folder/kind).mkdir()
        yield kill_stage(kind, folder/kind, job, rng, *(total // len(jobs) + (n < total % len(jobs)) for total in (kills, aimed)))


if __name__ == "__main__":
    kills, aimed, seed = [int(x) for x in sys.argv[1:]] + [40, 10, 0][len(sys.argv) - 1:]
    with tempfile.TemporaryDirectory() as d:
        for found in kill_stages(d, kills, aimed, seed): print(found, flush=True)
        print(trial(d, f"{d}/tokenizer", kills=min(kills, 20), steps=400, seed=seed))
