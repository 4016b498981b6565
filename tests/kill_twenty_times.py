"""Kill a training run (kill -9) at random instants, some while a checkpoint is being written, and compare it with one that was left alone.

python tests/kill_twenty_times.py [KILLS=20] [STEPS=400] [SEED=0]"""
import json, os, random, subprocess, sys, tempfile, time
from pathlib import Path
import torch
from hebrewgpt_nb.training.checkpoint import Checkpoints
from hebrewgpt_nb.core import read_jsonl
from hebrewgpt_nb.tokenizer import make_tokenizer

ROOT = Path(__file__).parent.parent
TRAIN = "import json, sys; from hebrewgpt_nb.pretrain import train_model; train_model(json.loads(sys.argv[1]))"


def parameters(run, tokenizer, steps):
    "Dropout, Lookahead and SWA on, and an interval that divides none of their periods."
    return dict(run=str(run), data=f"{tokenizer}/data", tokenizer=f"{tokenizer}/tokenizer.model", shards=f"{tokenizer}/shards", preset="tiny", steps=steps, batch_tokens=512, forward_tokens=256,
                context=128, rope_theta=10_000., base="", lr=.02, adam_lr=.005, lr_schedule="wsd", lookahead=5, dropout=.1, mixture="", balance=.5, max_epochs=99., swa=.5, seed=1,
                eval_every=steps, save_every=7, checkpoints="", processes=1, fsdp=False, deterministic=False, compiled=False, optimizer="muon", device="cpu", dtype="float32")


def start(params):
    env = os.environ | dict(OMP_NUM_THREADS="1", HEBREWGPT_QUIET="1", PYTHONPATH=str(ROOT))
    return subprocess.Popen([sys.executable, "-c", TRAIN, json.dumps(params)], cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


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


def trial(folder, tokenizer, kills=20, steps=400, seed=0, **changes):
    "What was killed, and what it came to."
    folder, rng, torn = Path(folder), random.Random(seed), 0
    killed, straight = (parameters(folder/name, tokenizer, steps) | changes for name in ("killed", "straight"))
    for n in range(kills): torn += kill(folder/"killed", killed, rng, while_writing=n % 2 == 1)
    for params in (killed, straight):
        job = start(params)
        _, said = job.communicate()
        assert job.returncode == 0, said
    a, b = ([r | dict(tokens_per_s=0, mfu=0) for r in read_jsonl(folder/name/"metrics.jsonl")] for name in ("killed", "straight"))
    states = [Checkpoints(folder/name/"checkpoints", {}) for name in ("killed", "straight")]
    for s in states: s.key = s.manifest(steps)["key"]
    ends = [s.read(steps) | dict(log="") for s in states]
    return dict(kills=kills, while_writing=torn, steps=len(b), same_log=a == b, same_weights=same(ends[0]["weights"], ends[1]["weights"]), same_state=same(*ends))


if __name__ == "__main__":
    kills, steps, seed = [int(x) for x in sys.argv[1:]] + [20, 400, 0][len(sys.argv) - 1:]
    with tempfile.TemporaryDirectory() as d:
        make_tokenizer(run=f"{d}/tokenizer", vocab_size=700)
        print(trial(d, f"{d}/tokenizer", kills, steps, seed))
