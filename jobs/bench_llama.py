"""make bench-llama: the dense twin in llama.cpp, the same weights as GGUF in f16 and q8_0, in turn with this engine. Needs `llama-cpp-python` and `gguf`."""
import argparse
from functools import partial
from pathlib import Path
import numpy as np, torch
from hebrewgpt_nb.bench import LONG, Ours, as_markdown, ceilings, cost, decode_of, hebrew_tokens, limit, machine, make_twins, our_api, our_dtypes, prefill_of, race, row, ttft_of
from hebrewgpt_nb.bundle import load_bundle
from hebrewgpt_nb.core import resolve, write_atomic, write_json
from hebrewgpt_nb.model import HebrewGPT, get_preset
from hebrewgpt_nb.tokenizer import Tokenizer

GGUF_NAMES = {"ln1": "attn_norm", "attn.proj": "attn_output", "ln2": "ffn_norm", "mlp.gate": "ffn_gate", "mlp.up": "ffn_up", "mlp.down": "ffn_down"}


def gguf_tensors(model: HebrewGPT) -> dict[str, torch.Tensor]: # as llama.cpp names them
    "The weights of an all-attention model. Its rotary pairs are neighbours, as in llama.cpp, so no row moves; the tied head is the embedding."
    out = {"token_embd.weight": model.tok_emb.weight, "output_norm.weight": model.ln_f.weight}
    for i, block in enumerate(model.blocks):
        out |= {f"blk.{i}.attn_{n}.weight": w for n, w in zip("qkv", block.attn.qkv.weight.chunk(3))}
        out |= {f"blk.{i}.{theirs}.weight": block.get_submodule(ours).weight for ours, theirs in GGUF_NAMES.items()}
    return {name: w.detach().float() for name, w in out.items()}


def write_gguf(model: HebrewGPT, tok: Tokenizer, path: Path, kind: str) -> Path: # f16 or q8_0
    "Write the model for llama.cpp; vectors stay float32."
    import gguf
    c, sp, w = model.cfg, tok.sp, gguf.GGUFWriter(str(path), "llama")
    for name, value in dict(context_length=c.context, embedding_length=c.width, block_count=c.depth, feed_forward_length=c.hidden, head_count=c.heads, head_count_kv=c.heads,
                            layer_norm_rms_eps=c.eps, rope_freq_base=c.rope_theta, rope_dimension_count=c.head_dim, vocab_size=c.vocab_size).items(): getattr(w, f"add_{name}")(value)
    T, ids = gguf.TokenType, range(c.vocab_size)
    w.add_tokenizer_model("llama")
    w.add_token_list([sp.id_to_piece(i).encode() for i in ids]); w.add_token_scores([sp.get_score(i) for i in ids])
    w.add_token_types([T.CONTROL if sp.is_control(i) else T.UNKNOWN if sp.is_unknown(i) else T.BYTE if sp.is_byte(i) else T.NORMAL for i in ids])
    w.add_bos_token_id(tok.bos_id); w.add_eos_token_id(tok.eos_id)
    for name, t in gguf_tensors(model).items():
        data, small = t.numpy(), gguf.GGMLQuantizationType.F16 if kind == "f16" else gguf.GGMLQuantizationType.Q8_0
        if data.ndim > 1: w.add_tensor(name, gguf.quants.quantize(data, small), raw_dtype=small)
        else: w.add_tensor(name, data.astype(np.float32))
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()
    return path


class LlamaCpp:
    "llama.cpp behind the calls of `hebrewgpt_nb.bench`: one context for the scores of all positions, one for those of the last."
    def __init__(self, path: Path, length: int, threads: int):
        from llama_cpp import Llama
        shared = dict(model_path=str(path), n_ctx=length, n_batch=length, n_ubatch=length, n_threads=threads, n_threads_batch=threads, verbose=False)
        self.all, self.one = Llama(**shared, logits_all=True), Llama(**shared)
    def logits(self, tokens):
        self.all.reset(); self.all.eval(tokens[0].tolist())
        return torch.from_numpy(self.all.scores[None, :tokens.shape[1]].copy())
    def cache(self, length): self.one.reset()
    def read(self, tokens, cache): return self.last(tokens, cache)
    def last(self, tokens, cache):
        self.one.eval(tokens[0].tolist())
        return torch.from_numpy(np.ctypeslib.as_array(self.one._ctx.get_logits_ith(-1), shape=(self.one.n_vocab(),)).copy())[None]


def main():
    p = argparse.ArgumentParser(description=__doc__)
    for name, default in dict(run="runs/bench-llama", preset="hybrid-119m", prefill=512, prompt=64, new=64, repeats=5, threads=2).items(): p.add_argument(f"--{name}", type=type(default), default=default)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    run, cfg, top, rows, raw = resolve(a.run), get_preset(a.preset, pattern="A"), ceilings(), [], {}
    folder = make_twins(run/"models", cfg)
    model, tok = load_bundle(folder/"bundle")
    sides = {f"ours {d} eager": Ours(our_api()[0](model, LONG[d]), d) for d in our_dtypes(folder)}
    # bf16 and int8 are the report's names for two bytes and one byte a weight: f16 and q8_0
    sides |= {f"llama.cpp {d} {kind}": LlamaCpp(write_gguf(model, tok, run/f"{kind}.gguf", kind), max(a.prefill, a.prompt + a.new) + 8, a.threads) for d, kind in (("bf16", "f16"), ("int8", "q8_0"))}
    for what, amount, T, work in (("prefill", a.prefill, a.prefill, prefill_of), ("ttft", 1, a.prefill, ttft_of), ("decode", a.new, a.prompt + a.new, partial(decode_of, prompt=a.prompt))):
        work = partial(work, tokens=hebrew_tokens(folder, 1, T))
        raw[what] = race(work, sides, work(sides["ours fp32 eager"])[1], a.repeats)
        seconds = {who: s for who, s in raw[what]["seconds"].items()}
        fastest = lambda side: min((who for who in seconds if who.startswith(side)), key=lambda who: sorted(seconds[who])[a.repeats // 2])
        pairs = {d: (f"ours {d}", f"llama.cpp {d}") for d in ("bf16", "int8") if f"ours {d}" in seconds} | {"best": (fastest("ours"), fastest("llama.cpp"))}
        for d, (o, t) in pairs.items():
            mine = o.split()[1]
            share = cost(what, cfg, a.prompt if what == "decode" else a.prefill, a.new, sides[f"{o} eager"].model) / sorted(seconds[o])[a.repeats // 2] / limit(what, mine, top)
            rows.append(row(what, "dense", d, seconds[o], seconds[t], amount, share, peer="llama.cpp"))
    report = dict(machine=machine(), ceilings=top, rows=rows)
    write_json(run/"report.json", report); write_json(run/"raw.json", raw)
    write_atomic(run/"report.md", as_markdown(report))
    print(as_markdown(report))


if __name__ == "__main__": main()
