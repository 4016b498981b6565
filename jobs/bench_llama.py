"""make bench-llama: the dense twin in llama.cpp, the same weights as GGUF in f16 and q8_0, in turn with this engine.

llama.cpp comes prebuilt, as npm's `node-llama-cpp`; `jobs/llama_server.mjs` runs it in a process of Node and takes its time there. GGUF files are written by `gguf`."""
import argparse, json, shutil, statistics, subprocess, sys, time
from functools import partial
from pathlib import Path
import numpy as np, torch
from hebrewgpt_nb.bench import DTYPES, ceilings, check_sizes, compare, comparison_rows, hebrew_tokens, load_backend
from hebrewgpt_nb.bench import machine_info, make_twins, required_work, time_decode, time_prefill, time_ttft, to_markdown
from hebrewgpt_nb.bundle import load_bundle
from hebrewgpt_nb.core import UserError, resolve, write_atomic, write_json
from hebrewgpt_nb.model import HebrewGPT, ModelConfig, get_preset
from hebrewgpt_nb.tokenizer import Tokenizer

GGUF_NAMES = {"ln1": "attn_norm", "attn.proj": "attn_output", "ln2": "ffn_norm", "mlp.gate": "ffn_gate", "mlp.up": "ffn_up", "mlp.down": "ffn_down"}
GGUF_KINDS = {"bf16": "f16", "int8": "q8_0"} # a report's name of two bytes and of one byte a weight -> llama.cpp's
TARGETS = {("decode", "dense", d): (1.5, 0.) for d in GGUF_KINDS} | {("prefill", "dense", d): (1.3, 0.) for d in GGUF_KINDS} # at least, at the same bytes a weight


def gguf_tensors(model: HebrewGPT) -> dict[str, torch.Tensor]: # as llama.cpp names them
    "The weights of an all-attention model. Its rotary pairs are neighbours, as in llama.cpp, so no row moves; the tied head is the embedding."
    out = {"token_embd.weight": model.tok_emb.weight, "output_norm.weight": model.ln_f.weight}
    for i, block in enumerate(model.blocks):
        out |= {f"blk.{i}.attn_{n}.weight": w for n, w in zip("qkv", block.attn.qkv.weight.chunk(3))}
        out |= {f"blk.{i}.{theirs}.weight": block.get_submodule(ours).weight for ours, theirs in GGUF_NAMES.items()}
    return {name: w.detach().float() for name, w in out.items()}


def gguf_settings(cfg: ModelConfig) -> dict: # method of GGUFWriter -> value
    "The shape of a model, as llama.cpp is told."
    return dict(add_context_length=cfg.context, add_embedding_length=cfg.width, add_block_count=cfg.depth, add_feed_forward_length=cfg.hidden,
                add_head_count=cfg.heads, add_head_count_kv=cfg.heads, add_layer_norm_rms_eps=cfg.eps, add_rope_freq_base=cfg.rope_theta,
                add_rope_dimension_count=cfg.head_dim, add_vocab_size=cfg.vocab_size)


def add_tokenizer(writer, tok: Tokenizer):
    "The pieces of a tokenizer; llama.cpp gets tokens here, never text."
    from gguf import TokenType as T
    sp, ids = tok.sp, range(tok.vocab_size)
    def kind(i): return T.CONTROL if sp.is_control(i) else T.UNKNOWN if sp.is_unknown(i) else T.BYTE if sp.is_byte(i) else T.NORMAL
    writer.add_tokenizer_model("llama")
    writer.add_token_list([sp.id_to_piece(i).encode() for i in ids])
    writer.add_token_scores([sp.get_score(i) for i in ids])
    writer.add_token_types([kind(i) for i in ids])
    writer.add_bos_token_id(tok.bos_id)
    writer.add_eos_token_id(tok.eos_id)


def write_gguf(model: HebrewGPT, tok: Tokenizer, path: Path, kind: str) -> Path: # f16 or q8_0
    "Write the model for llama.cpp; vectors stay float32."
    import gguf
    writer, matrix_type = gguf.GGUFWriter(str(path), "llama"), gguf.GGMLQuantizationType[kind.upper()]
    for method, value in gguf_settings(model.cfg).items(): getattr(writer, method)(value)
    add_tokenizer(writer, tok)
    for name, t in gguf_tensors(model).items():
        if t.ndim > 1: writer.add_tensor(name, gguf.quants.quantize(t.numpy(), matrix_type), raw_dtype=matrix_type)
        else: writer.add_tensor(name, t.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class LlamaCppBackend:
    "A model in llama.cpp, in a process of Node; `run` gives the seconds that were measured there."
    def __init__(self, path: Path, node_folder: Path, length: int, threads: int):
        command = ["node", Path(__file__).with_name("llama_server.mjs"), node_folder, path, str(length), str(threads)]
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        ready = self.answer()
        if ready["threads"] != threads: raise UserError(f"llama.cpp runs on {ready['threads']} threads, not on {threads}: give --threads {ready['threads']}")
    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line: raise UserError("llama.cpp stopped; what it said stands above")
        return json.loads(line)
    def run(self, workload: str, tokens: torch.Tensor, prompt: int = 0, logits: bool = False) -> tuple: # seconds, logits if asked for
        request = dict(workload=workload, tokens=tokens[0].tolist(), prompt=prompt, logits=logits)
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        made = self.answer()
        return made["seconds"], torch.tensor(made["logits"]) if logits else None
    def close(self):
        self.process.stdin.close()
        self.process.wait()


def time_workload(backend, workload: str, tokens: torch.Tensor, prompt: int, logits: bool = False) -> tuple: # seconds, logits
    "One call on either side."
    if isinstance(backend, LlamaCppBackend): return backend.run(workload, tokens, prompt, logits)
    timer = dict(prefill=time_prefill, ttft=time_ttft, decode=partial(time_decode, prompt=prompt))[workload]
    seconds, made = timer(backend, tokens)
    return seconds, made[0] if workload == "prefill" else made # one row of tokens


def find_missing(node_folder: Path) -> str: # empty: nothing
    "What llama.cpp needs and is not there."
    if not shutil.which("node"): return "no `node` here: install Node 20 or later (https://nodejs.org), then `make bench-llama` again"
    if not (node_folder/"node_modules"/"node-llama-cpp").is_dir(): return f"{node_folder}: no node-llama-cpp in it; `make bench-llama` installs it"
    from importlib.util import find_spec
    return "" if find_spec("gguf") else "no Python package `gguf` here; `make bench-llama` installs it"


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
    out, node_folder, cfg = resolve(run), resolve(node), get_preset(preset, pattern="A")
    if missing := find_missing(node_folder): raise UserError(missing)
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
        variants[f"llama.cpp {d} {kind}"] = LlamaCppBackend(write_gguf(model, tok, out/f"{kind}.gguf", kind), node_folder, length, threads)
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
