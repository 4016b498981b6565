"""A GPU that is lent for minutes: `python jobs/gpu.py PART`, a call each, in this order. What is finished is not done again.

right   every path against the CPU's                               6 minutes
fast    training of one billion parameters, best recipe first      9
model   `mini` on 300 million tokens, tuned, evaluated; then `hybrid-119m`, as far as it goes: again until all is there
tuning  adapters on one billion parameters                         3
decode  reading, writing, long contexts

The machine needs PyTorch and transformers; `make carry` gathers what it may lack in build/carry, as wheels. Results are in --out as they come,
few files of 16 MB at most; what a further call needs stays in --work. `--trial` runs the same tiny, on a CPU and on the sample."""
import argparse, io, os, shutil, signal, subprocess, sys, tarfile, time, zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIECE = 16 * 2**20 - 1024 # bytes of a file in --out
STAGES = "hebrewgpt_nb." # of python -m


def options(argv=None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("part", choices=PARTS)
    p.add_argument("--minutes", type=float, default=9., help="of this call; what is not reached is for the next")
    p.add_argument("--out", type=Path, default=os.environ.get("OUT", "runs/gpu/out"), help="what comes back")
    p.add_argument("--work", type=Path, default="runs/gpu", help="runs, with their checkpoints")
    p.add_argument("--data", default="", help="folder with pretrain/, sft/ and eval/; empty: the sample")
    p.add_argument("--carry", type=Path, default="build/carry", help="wheels of packages that the machine lacks")
    p.add_argument("--trial", action="store_true", help="tiny, on a CPU")
    o = p.parse_args(argv)
    o.out.mkdir(parents=True, exist_ok=True)
    o.end, o.device = time.monotonic() + 60 * o.minutes, "cpu" if o.trial else "cuda"
    return o


def left(o) -> float: return o.end - time.monotonic() # seconds

def packages(o, name: str) -> str: # a folder of the wheels' content
    "What was carried, unpacked once."
    folder = (o.work/name).absolute()
    if not folder.exists():
        from packaging import tags, utils
        here = set(tags.sys_tags())
        for wheel in sorted((o.carry/name).glob("*.whl")): # those for another Python stay what they are
            if utils.parse_wheel_filename(wheel.name)[3] & here: zipfile.ZipFile(wheel).extractall(folder)
    return str(folder)

def environment(o, kernels: str) -> dict: # of a process; mamba_ssm lies in a folder of its own
    paths = [str(ROOT), packages(o, "packages"), *([packages(o, "kernels")] if kernels else [])]
    one_size = dict(MAMBA_DETERMINISTIC="1") if kernels == "untuned" else {} # of blocks: trying all takes minutes of compiling
    return os.environ | one_size | dict(PYTHONPATH=os.pathsep.join(paths), HEBREWGPT_QUIET="1", HF_HUB_OFFLINE="1")

def call(o, module: str, kernels: str = "", seconds: float = 1e6, **given) -> int: # exit status; 124: out of time
    "Run a stage in a process of its own, within the time that is left; its last seconds are for writing a checkpoint."
    command = [sys.executable, "-m", STAGES + module, *(str(part) for name, value in given.items() for part in (f"--{name}", value))]
    seconds = min(left(o) - 15, seconds)
    if seconds <= 0: return print(f"{module}: no time is left") or 124
    print(f"[{left(o) / 60:.1f} minutes left]", *command[1:], flush=True)
    process = subprocess.Popen(command, cwd=ROOT, env=environment(o, kernels))
    try: return process.wait(seconds)
    except subprocess.TimeoutExpired: process.send_signal(signal.SIGTERM)
    try: process.wait(12)
    except subprocess.TimeoutExpired: process.kill()
    return 124


def measure(o, only: str, kernels: str = "", minutes: float = 99.) -> int: # exit status
    "Cases of studies.gpu that are not finished; results without mamba_ssm, with it untuned and tuned are in a file each."
    folder = o.work/"cases"/(f"mamba-{kernels}" if kernels else "plain")
    budget = min(left(o) / 60 - .5, minutes)
    if budget <= 0: return print(f"{only}: no time is left") or 124
    status = call(o, "studies.gpu", kernels, 60 * budget + 25, run=folder.absolute(), device=o.device, preset="tiny" if o.trial else "1b",
                  minutes=round(budget, 2), only=only, again=True)
    if (folder/"results.jsonl").exists(): shutil.copy(folder/"results.jsonl", o.out/f"{folder.name}.jsonl")
    return status

def right(o) -> int:
    status = measure(o, "^check (?!.*compiled)", minutes=2)
    status |= measure(o, "^check hybrid (?!.*compiled)", "untuned", minutes=2)
    return status if o.trial else status | measure(o, "^check .*compiled") | measure(o, "^check hybrid .*compiled", "untuned")

def fast(o) -> int:
    best = "plain" if o.trial else "fused optimizer compiled"
    measure(o, f"^ceilings|train 2048 {best}")
    measure(o, f"hybrid train 2048 {best}", "tuned")
    if o.trial: return 0
    status = measure(o, "check hybrid (documents|gradient) bf16$", "tuned")
    measure(o, "hybrid train 2048 (muon|documents|a whole step)", "tuned")
    measure(o, "dense train 16384")
    measure(o, "hybrid train 16384", "tuned")
    measure(o, f"train 2048 (?!{best})") # the ladder
    return status

def tuning(o) -> int: return measure(o, "tune 2048") | measure(o, "hybrid tune 2048", "tuned")

def decode(o) -> int:
    measure(o, "decode 2048|prefill 2048 eager")
    measure(o, "hybrid (decode|prefill) 2048(?!.*compiled)", "tuned")
    if o.trial: return 0
    measure(o, "(decode|prefill) 16384(?!.*compiled)")
    measure(o, "hybrid (decode|prefill) 16384(?!.*compiled)", "tuned")
    measure(o, "dense train (4096|8192)")
    measure(o, "hybrid train (4096|8192)", "tuned")
    return measure(o, "") # whatever is left


SIZES = { # of a stage: as it is meant, and as it is tried
    "tokenizer": (dict(vocab_size=8192), dict(vocab_size=1024)),
    "mini": (dict(preset="mini", steps=4600, batch_tokens=65_536, forward_tokens=65_536, context=512, dropout=0., balance=.3, eval_every=500, save_every=200),
             dict(preset="tiny", steps=4, batch_tokens=512, context=256)),
    "tuned": (dict(steps=400, batch_tokens=16_384, context=512, rank=64, lr=.002, eval_every=25, save_every=50), dict(steps=2, batch_tokens=512, context=256, rank=4)),
    "eval": (dict(examples=400, generations=30), dict(examples=4, generations=2, max_new_tokens=4)),
    "hybrid-119m": (dict(preset="hybrid-119m", steps=1500, batch_tokens=65_536, forward_tokens=32_768, context=1024, dropout=0., balance=.3, eval_every=250, save_every=50),
                    dict(preset="tiny", steps=2, batch_tokens=512, context=64)),
}

def stages(o) -> list[tuple]: # module, folder, parameters
    data, run = o.data or ROOT/"hebrewgpt_nb"/"sample", {name: (o.work/name).absolute() for name in ("data", *SIZES)}
    size = {name: sizes[o.trial] for name, sizes in SIZES.items()}
    train = dict(data=run["data"], tokenizer=run["tokenizer"]/"tokenizer.model", device=o.device, dtype="float32" if o.trial else "bfloat16")
    return [("data", dict(run=run["data"], data=data)),
            ("tokenizer", dict(run=run["tokenizer"], data=run["data"]) | size["tokenizer"]),
            ("pretrain", dict(run=run["mini"]) | train | size["mini"]),
            ("sft", dict(run=run["tuned"], base=run["mini"], data=data, device=o.device, dtype=train["dtype"]) | size["tuned"]),
            ("evaluate", dict(run=run["eval"], base=run["mini"], bundle=run["tuned"], sft=run["tuned"], data=run["data"], tests=Path(data)/"eval", device=o.device) | size["eval"]),
            ("pretrain", dict(run=run["hybrid-119m"]) | train | size["hybrid-119m"])]

def model(o) -> int:
    "Stage after stage; a stage that has finished stands, one that was stopped goes on from its last checkpoint."
    status = 0
    for module, given in stages(o):
        if (given["run"]/"done.json").exists(): continue
        if status := call(o, module, kernels="tuned" if module in ("pretrain", "sft") else "", **given): break
        pack(o.work, o.out)
    pack(o.work, o.out)
    return status

BACK = ("metrics.jsonl", "report.md", "report.json", "*.report.json", "*.outputs.jsonl", "exchanges.json") # of each run

def pack(work: Path, out: Path):
    "Reports of all runs in reports.tar.gz, and the tuned model in bfloat16 in weights.tar, in pieces of 16 MB."
    with tarfile.open(out/"reports.tar.gz", "w:gz") as tar:
        for path in sorted(p for name in BACK for p in work.glob(f"*/**/{name}") if not p.is_relative_to(out)): tar.add(path, path.relative_to(work))
    if not (work/"tuned"/"done.json").exists() or list(out.glob("weights.tar.*")): return
    from hebrewgpt_nb.bundle import load_bundle, save_bundle
    import torch
    net, tok = load_bundle(work/"tuned"/"bundle")
    save_bundle(net.to(torch.bfloat16), tok, work/"weights"/"bundle")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar: tar.add(work/"weights"/"bundle", "bundle")
    whole = buffer.getvalue()
    for n, at in enumerate(range(0, len(whole), PIECE)): (out/f"weights.tar.{n}").write_bytes(whole[at:at + PIECE])


PARTS = dict(right=right, fast=fast, model=model, tuning=tuning, decode=decode)

def main(argv=None) -> int:
    o = options(argv)
    sys.path[:0] = [str(ROOT), packages(o, "packages")]
    return PARTS[o.part](o)

if __name__ == "__main__": sys.exit(main())
