"""make bench-llama: the dense twin in llama.cpp, the same weights as GGUF in f16 and q8_0, in turn with this engine.

llama.cpp comes prebuilt, as npm's `node-llama-cpp`, and runs in a process of Node where its time is taken (`nbs/release/1_llamacpp.ipynb`)."""
import argparse, statistics, sys, time
from functools import partial
from pathlib import Path
import torch
from hebrewgpt_nb.bench import DTYPES, ceilings, check_sizes, compare, comparison_rows, hebrew_tokens, load_backend
from hebrewgpt_nb.bench import machine_info, make_twins, required_work, time_decode, time_prefill, time_ttft, to_markdown
from hebrewgpt_nb.bundle import load_bundle
from hebrewgpt_nb.core import UserError, resolve, write_atomic, write_json
from hebrewgpt_nb.llamacpp import LlamaProcess, find_missing, write_gguf
from hebrewgpt_nb.model import get_preset

GGUF_KINDS = {"bf16": "f16", "int8": "q8_0"} # a report's name of two bytes and of one byte a weight -> llama.cpp's
TARGETS = {("decode", "dense", d): (1.5, 0.) for d in GGUF_KINDS} | {("prefill", "dense", d): (1.3, 0.) for d in GGUF_KINDS} # at least, at the same bytes a weight


class LlamaCppBackend(LlamaProcess):
    "A model in llama.cpp; `run` gives the seconds that were measured there."
    def __init__(self, path: Path, length: int, threads: int, node: str):
        super().__init__(path, length, threads, node=node)
        if self.ready["threads"] != threads: raise UserError(f"llama.cpp runs on {self.ready['threads']} threads, not on {threads}: give --threads {self.ready['threads']}")
    def run(self, workload: str, tokens: torch.Tensor, prompt: int = 0, logits: bool = False) -> tuple: # seconds, logits if asked for
        made = self.ask(workload, tokens=tokens[0].tolist(), prompt=prompt, logits=logits)
        return made["seconds"], torch.tensor(made["logits"]) if logits else None


def time_workload(backend, workload: str, tokens: torch.Tensor, prompt: int, logits: bool = False) -> tuple: # seconds, logits
    "One call on either side."
    if isinstance(backend, LlamaCppBackend): return backend.run(workload, tokens, prompt, logits)
    timer = dict(prefill=time_prefill, ttft=time_ttft, decode=partial(time_decode, prompt=prompt))[workload]
    seconds, made = timer(backend, tokens)
    return seconds, made[0] if workload == "prefill" else made # one row of tokens


def tell(text: str, begun: float = time.monotonic()):
    "A line of progress, with the minutes since the start."
    print(f"{(time.monotonic() - begun) / 60:4.1f} min  {text}", file=sys.stderr, flush=True)


def measure_llama(folder: Path, variants: dict, top: dict, sizes: dict, repeats: int) -> tuple[list[dict], dict]: # rows, sections
    "Prefill, time to first token and decoding, outputs compared first."
    rows, sections, cfg = [], {}, variants["ours fp32 eager"].model.cfg
    for workload, amount in (("prefill", sizes["prefill"]), ("ttft", 1), ("decode", sizes["new"])):
        T = sizes["prompt"] if workload == "decode" else sizes["prefill"]
        tokens = hebrew_tokens(folder, 1, T + sizes["new"] if workload == "decode" else T)
        tell(f"{workload}: {len(variants)} variants are compared, then timed in {repeats} turns")
        work = partial(time_workload, workload=workload, tokens=tokens, prompt=T)
        expected = work(variants["ours fp32 eager"])[1]
        required = {d: required_work(workload, cfg, T, sizes["new"], variants[f"ours {d} eager"].model) for d in DTYPES}
        sections[workload] = compare(work, variants, expected, repeats, partial(work, logits=True)) | dict(amount=amount, required=required)
        rows += comparison_rows(workload, "dense", sections[workload], top, peer="llama.cpp")
        tell(f"{workload}, seconds: " + ", ".join(f"{who} {statistics.median(s):.3g}" for who, s in sections[workload]["seconds"].items()))
    return rows, sections


def bench_llama(run: str, preset: str, prefill: int, prompt: int, new: int, repeats: int, threads: int, node: str) -> dict: # machine, ceilings, rows
    "Write report.json, report.md and raw.json."
    out, cfg = resolve(run), get_preset(preset, pattern="A")
    if missing := find_missing(node): raise UserError(missing)
    check_sizes(cfg, prefill, prompt, new, repeats)
    torch.set_num_threads(threads)
    tell(f"{preset}, all attention, on {threads} threads: what this machine can do")
    top = ceilings()
    tell("the weights are written: a bundle, and GGUF in " + " and ".join(GGUF_KINDS.values()))
    folder = make_twins(out/"models", cfg)
    model, tok = load_bundle(folder/"bundle")
    variants = {f"ours {d} eager": load_backend("ours", folder, d) for d in DTYPES}
    length = max(prefill, prompt + new) + 8
    for d, kind in GGUF_KINDS.items():
        variants[f"llama.cpp {d} {kind}"] = LlamaCppBackend(write_gguf(model, tok, out/f"{kind}.gguf", kind), length, threads, node)
    rows, sections = measure_llama(folder, variants, top, dict(prefill=prefill, prompt=prompt, new=new), repeats)
    for backend in variants.values():
        if isinstance(backend, LlamaCppBackend): backend.close()
    report = dict(machine=machine_info(), ceilings=top, rows=rows)
    write_json(out/"report.json", report)
    write_json(out/"raw.json", sections)
    write_atomic(out/"report.md", to_markdown(report, TARGETS))
    return report


DEFAULTS = dict(run="runs/bench-llama", preset="hybrid-119m", prefill=512, prompt=64, new=64, repeats=5, threads=2, node="build/llama")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    for name, default in DEFAULTS.items(): p.add_argument(f"--{name}", type=type(default), default=default)
    try: print(to_markdown(bench_llama(**vars(p.parse_args())), TARGETS))
    except UserError as e: print(f"error: {e}", file=sys.stderr); sys.exit(2)


if __name__ == "__main__": main()
