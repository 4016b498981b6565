"Published files in every wrapping and with every fault; stock twins after save and reload."
import json, os, pickle
import pytest, torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
import hebrewgpt_nb.release as R, hebrewgpt_nb.stock as S
from hebrewgpt_nb.core import UserError, read_jsonl, sample_dir
from hebrewgpt_nb.bundle import load_bundle, save_bundle
from hebrewgpt_nb.model import HebrewGPT, count_parameters, get_preset
from hebrewgpt_nb.quantize import quantize_for_decoding
from hebrewgpt_nb.release import export_hf, model_card
from hebrewgpt_nb.sft import add_lora
from hebrewgpt_nb.stock import load_released, to_half_split
from hebrewgpt_nb.tokenizer import Tokenizer, train_tokenizer
from conftest import fill, small

TEXTS = [r["text"] for p in sorted((sample_dir()/"pretrain").glob("*.train.jsonl")) for r in read_jsonl(p)]

@pytest.fixture(scope="session")
def tok(tmp_path_factory): return Tokenizer(train_tokenizer(TEXTS, tmp_path_factory.mktemp("tok")/"tokenizer.model", vocab_size=600))

PATTERNS = {"dense": "A", "hybrid": "AM", "mamba": "M", "mamba first": "MMA"}

@pytest.fixture(scope="session", params=PATTERNS)
def twin(request, tok, tmp_path_factory):
    "A model, its export, and the stock model loaded from there."
    model = small(PATTERNS[request.param], seed=3, vocab_size=600)
    out = export_hf(model, tok, tmp_path_factory.mktemp("hf")/"out")
    return model, out, AutoModelForCausalLM.from_pretrained(out)

# --- twins --------------------------------------------------------------------------------------------

@torch.no_grad()
def gap(model, twin, T):
    tokens = torch.randint(600, (2, T), generator=torch.Generator().manual_seed(T))
    tokens[0, 0] = 0 # the padding token's row is a row like any other
    return (model(tokens) - twin(tokens).logits).abs().max().item()

@pytest.mark.parametrize("T", [1, 2, 31, 32, 33, 63, 64, 65, 96, 100])
def test_twin_gives_the_same_logits(twin, T): assert gap(twin[0], twin[2], T) < 1e-4

def test_twin_is_stock_and_whole(twin):
    assert twin[2].config.rms_norm_eps == twin[0].cfg.eps == 1e-6
    model, out, stock = twin
    assert type(stock).__module__.startswith("transformers.models.") and not list(out.glob("*.py"))
    assert stock.num_parameters() == sum(p.numel() for p in model.parameters())
    assert stock.get_input_embeddings().weight is stock.get_output_embeddings().weight
    c = json.loads((out/"config.json").read_text())
    assert (c["bos_token_id"], c["eos_token_id"], c["pad_token_id"], c["max_position_embeddings"], c["dtype"]) == (2, 3, 0, 256, "float32")
    assert not list(out.parent.glob(".*")) # nothing half made is left

@pytest.mark.parametrize("pattern", ["A", "AM"])
def test_without_the_permutation_the_twin_is_wrong(tok, tmp_path, monkeypatch, pattern):
    model = small(pattern, seed=3, vocab_size=600)
    monkeypatch.setattr(S, "to_half_split", lambda weight, heads: weight)
    assert gap(model, AutoModelForCausalLM.from_pretrained(export_hf(model, tok, tmp_path/"out")), 33) > 1e-2

@pytest.mark.parametrize("start", [1, 31, 33])
@torch.no_grad()
def test_greedy_generation_is_the_same(twin, start):
    model, _, stock = twin
    prompt = torch.randint(7, 600, (1, start), generator=torch.Generator().manual_seed(start))
    cache, ids = model.make_cache(), prompt
    for _ in range(10): ids = torch.cat([ids, model(ids[:, cache.n:], cache=cache)[:, -1:].argmax(-1)], 1)
    made = stock.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=10, do_sample=False, use_cache="A" in model.cfg.blocks, eos_token_id=None) # stock caches count tokens in attention
    assert made.tolist() == ids.tolist()

def test_bfloat16_weights_stay_bfloat16(tok, tmp_path):
    model = small("AM", vocab_size=600).bfloat16()
    stock = AutoModelForCausalLM.from_pretrained(export_hf(model, tok, tmp_path/"out"))
    assert stock.dtype == torch.bfloat16 and torch.equal(stock.get_input_embeddings().weight, model.tok_emb.weight)

@pytest.mark.parametrize("dtype, eps", [("float32", 1e-4), ("bfloat16", .02), ("int8", .02)])
def test_a_packed_model_is_counted_saved_and_exported(tok, tmp_path, dtype, eps):
    model, ids = small("AM", vocab_size=600), torch.randint(600, (2, 70), generator=torch.Generator().manual_seed(0))
    packed = quantize_for_decoding(model, dtype)
    assert count_parameters(packed) == count_parameters(model.cfg) == sum(p.numel() for p in model.parameters())
    assert f"{count_parameters(model.cfg):,} parameters" in model_card(packed, tok, "x")
    twin, (loaded, _) = AutoModelForCausalLM.from_pretrained(export_hf(packed, tok, tmp_path/"hf")), load_bundle(save_bundle(packed, tok, tmp_path/"bundle"))
    with torch.no_grad():
        logits = packed(ids)
        for other in (loaded(ids), twin(ids).logits): assert (other - logits).norm() < eps * logits.norm()
    assert loaded.state_dict().keys() == model.state_dict().keys() and {p.dtype for p in loaded.parameters()} == {torch.float32}

def test_half_split_moves_rows_within_a_head_only():
    w = torch.arange(24.)[:, None] # two heads of 12
    assert to_half_split(w, 2)[:12].flatten().tolist() == [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]
    assert set(to_half_split(w, 2)[12:].flatten().tolist()) == set(range(12, 24))

def test_the_published_shapes_have_stock_twins(tok):
    for name in ("dense-1b", "hybrid-119m"):
        with torch.device("meta"): model = HebrewGPT(get_preset(name, vocab_size=600))
        assert R.to_stock(model, tok).num_parameters() == sum(p.numel() for p in model.parameters())

# --- tokenizer and card -----------------------------------------------------------------------------

STRANGE = ["", " ", "   ", "\n", "\n\n\n", "א\nב\r\n", " רווח לפני", "אחרי ", "שני  רווחים", "😀", "👩‍👩‍👧‍👦 🇮🇱", "שָׁלוֹם", 'צה"ל ג\'ירפה צה״ל', "בית־ספר", "\u200f\u200eלימין", "\ufeff", "é ﬁ Ⅳ", "日本語", "\x00\x01\t",
           "a▁b ▁", "<s></s><pad><unk><|answer|><0x0A>", "ההההההההההה", "!!!!!!!!!", "---- ....", "1234567890 3.14", "𝔘𝔫𝔦", "\u2028\xa0\u3000"]

def test_the_fast_tokenizer_gives_our_ids(twin, tok):
    auto = AutoTokenizer.from_pretrained(twin[1])
    g, letters = torch.Generator().manual_seed(0), sorted(set("".join(TEXTS)))
    def noise(): return "".join(letters[i] * n for i, n in zip(torch.randint(len(letters), (12,), generator=g), torch.randint(1, 6, (12,), generator=g)))
    for text in TEXTS[:60] + STRANGE + [noise() for _ in range(300)]:
        ids = tok.encode(text)
        assert auto.encode(text) == ids and auto(text)["input_ids"] == ids, text
        assert auto.decode(ids) == text
    assert (auto.bos_token_id, auto.eos_token_id, auto.pad_token_id, len(auto)) == (2, 3, 0, 600)

def test_the_copied_model_file_is_ours(twin, tok): assert (twin[1]/"tokenizer.model").read_bytes() == tok.path.read_bytes()

def test_the_card_tells_what_the_model_is(twin):
    model, out, _ = twin
    card = (out/"README.md").read_text(encoding="utf8")
    for fact in (f"{sum(p.numel() for p in model.parameters()):,} parameters", f"3: {model.cfg.blocks}", "600 pieces", "256 tokens", "license: unknown", "from_pretrained"): assert fact in card
    assert "{" not in card.replace('{"', "")

def run_card(out, monkeypatch, capsys):
    monkeypatch.chdir(out.parent)
    code = "\n".join(line[4:] for line in (out/"README.md").read_text(encoding="utf8").split("\n") if line.startswith("    "))
    exec(compile(code, "README.md", "exec"), {})
    return capsys.readouterr().out

def test_the_code_in_the_card_runs(twin, monkeypatch, capsys): assert run_card(twin[1], monkeypatch, capsys).startswith("שלום, ")

def test_a_normalising_tokenizer_is_exported_without_a_fast_one(tmp_path, monkeypatch, capsys):
    import sentencepiece
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXTS), model_prefix=str(tmp_path/"nfkc"), vocab_size=600, model_type="bpe", byte_fallback=True, minloglevel=3)
    out = export_hf(small("A", vocab_size=600), Tokenizer(tmp_path/"nfkc.model"), tmp_path/"out")
    assert (out/"tokenizer.model").exists() and not (out/"tokenizer.json").exists()
    assert "`AutoTokenizer` cannot give its ids" in (out/"README.md").read_text(encoding="utf8")
    assert run_card(out, monkeypatch, capsys).startswith("שלום,")

# --- writing ----------------------------------------------------------------------------------------------

def test_an_earlier_export_is_replaced_and_anything_else_left_alone(tok, tmp_path):
    model = small("A", vocab_size=600)
    out = export_hf(model, tok, tmp_path/"out")
    (out/"old.txt").touch()
    assert not (export_hf(model, tok, out)/"old.txt").exists()
    (tmp_path/"mine").mkdir(); (tmp_path/"mine"/"thesis.txt").write_text("x")
    for target in (tmp_path/"mine", tmp_path/"mine"/"thesis.txt"):
        with pytest.raises(UserError, match="choose another folder"): export_hf(model, tok, target)
    assert (tmp_path/"mine"/"thesis.txt").read_text() == "x"

def test_a_failed_export_leaves_the_old_one(tok, tmp_path, monkeypatch):
    model = small("A", vocab_size=600)
    out = export_hf(model, tok, tmp_path/"out")
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    monkeypatch.setattr(R, "model_card", lambda *a: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError): export_hf(small("A", seed=9, vocab_size=600), tok, out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before

# --- published files ----------------------------------------------------------------------------------------

@pytest.fixture
def published(tok, tmp_path):
    "The weights of a dense model with one head of 128, as published, and a function that saves and loads them."
    model = fill(HebrewGPT(get_preset("tiny", pattern="A", width=128, heads=1, head_dim=128, vocab_size=600, context=2048))).eval()
    def load(content, name="model.pt"):
        save_file(content, tmp_path/name) if name.endswith("safetensors") else torch.save(content, tmp_path/name)
        return load_released(tmp_path/name, tok.path)
    return model, dict(model.state_dict()), load

ENVELOPES = {"bare": lambda w: w, "model_state_dict": lambda w: {"model_state_dict": w, "step": 7, "val_loss": 2.5}, "model": lambda w: {"model": w, "optimizer": {"lr": 1e-3}}}

def check_same(model, loaded):
    tokens = torch.randint(600, (1, 40), generator=torch.Generator().manual_seed(0))
    assert not loaded.training and not any(p.is_meta for p in loaded.parameters())
    with torch.no_grad(): assert torch.equal(model(tokens), loaded(tokens))

@pytest.mark.parametrize("envelope", ENVELOPES)
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "_orig_mod.module.", "module._orig_mod."])
@pytest.mark.parametrize("head", [True, False])
def test_every_wrapping(published, envelope, prefix, head):
    model, weights, load = published
    extra = {"rope_cos": torch.ones(9, 64), "rope_sin": torch.ones(9, 64), "blocks.0.attn.rotary_emb.inv_freq": torch.ones(64), "blocks.1.attn.cos": torch.ones(3), "freqs.sin": torch.ones(3)}
    if head: extra["head.weight"] = weights["tok_emb.weight"].clone()
    loaded, tok = load(ENVELOPES[envelope]({prefix + n: w for n, w in (weights | extra).items()}))
    check_same(model, loaded)
    assert loaded.cfg.blocks == "AA" and (loaded.cfg.head_dim, loaded.cfg.context, loaded.cfg.rope_theta) == (128, 2048, 10_000) and tok.vocab_size == 600

def test_safetensors_and_bfloat16(published):
    model, weights, load = published
    check_same(model, load(weights, "model.safetensors")[0])
    loaded, _ = load({n: w.bfloat16() for n, w in weights.items()})
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    check_same(model.bfloat16(), loaded)

CONFIG = dict(model_type="hebrew-gpt", hidden_size=128, num_hidden_layers=2, num_attention_heads=4, head_dim=32, intermediate_size=192, max_position_embeddings=512, rope_theta=5000.0, tie_word_embeddings=True)

def test_config_beside_the_weights(published, tmp_path):
    model, weights, load = published
    (tmp_path/"config.json").write_text(json.dumps(CONFIG))
    c = load(weights)[0].cfg
    assert (c.heads, c.head_dim, c.context, c.rope_theta) == (4, 32, 512, 5000)

@pytest.mark.parametrize("change, says", [
    (dict(hidden_size=2048), "hidden_size is 2048 but the weights say 128"), (dict(num_hidden_layers=20), "num_hidden_layers is 20 but"), (dict(num_attention_heads=8), "num_attention_heads is 8 but the weights say 4"),
    (dict(head_dim="x"), "head_dim is 'x'"), (dict(head_dim=-32), "expected a number above 0"), (dict(head_dim=0), "expected a number above 0"), (dict(intermediate_size=5504), "but the weights say 192")], ids=str)
def test_a_config_that_contradicts(published, tmp_path, change, says):
    _, weights, load = published
    (tmp_path/"config.json").write_text(json.dumps(CONFIG | change))
    with one_line("config.json", says): load(weights)

class one_line:
    "Expect a `UserError` of one line that names all of `words`."
    def __init__(self, *words): self.words = words
    def __enter__(self): pass
    def __exit__(self, kind, e, tb):
        assert kind is UserError, f"{kind} instead of a UserError: {e}"
        assert "\n" not in str(e) and len(str(e)) < 500, str(e)
        for word in self.words: assert word in str(e), f"{word!r} is not in: {e}"
        return True

FAULTS = {
    "missing": (lambda w: {n: t for n, t in w.items() if n != "blocks.1.mlp.up.weight"}, "blocks.1.mlp.up.weight missing"),
    "extra": (lambda w: w | {"blocks.0.attn.qkv.bias": torch.ones(384)}, "blocks.0.attn.qkv.bias unexpected"),
    "mamba": (lambda w: w | {"blocks.1.mamba.A_log": torch.ones(4)}, "blocks.1.mamba.A_log unexpected"),
    "a block left out": (lambda w: {n.replace("blocks.1.", "blocks.9."): t for n, t in w.items()}, "blocks.1.ln1.weight missing"),
    "shape": (lambda w: w | {"blocks.0.mlp.down.weight": torch.ones(128, 191)}, "blocks.0.mlp.down.weight is (128, 191), expected (128, 192)"),
    "untied": (lambda w: w | {"head.weight": w["tok_emb.weight"] * 1.001}, "head.weight is not tok_emb.weight"),
    "head of another size": (lambda w: w | {"head.weight": torch.ones(601, 128)}, "head.weight is not tok_emb.weight"),
    "other names": (lambda w: {f"transformer.{n}": t for n, t in w.items()}, "no table tok_emb.weight"),
    "twice": (lambda w: w | {f"module.{n}": t for n, t in w.items()}, "there twice"),
    "whole numbers": (lambda w: {n: t.to(torch.int8) for n, t in w.items()}, "whole numbers"),
    "embedding of another size": (lambda w: w | {"tok_emb.weight": torch.ones(599, 128)}, "600 pieces, but the embedding"),
    "nothing": (lambda w: {}, "holds no table of weights"),
    "no weights": (lambda w: {"step": 7, "model": {"lr": .1}}, "holds no table of weights"),
    "a list": (lambda w: list(w.values()), "holds no table of weights"),
    "a tensor": (lambda w: w["tok_emb.weight"], "holds no table of weights"),
    "width that heads do not make": (lambda w: {"tok_emb.weight": torch.ones(600, 192), "blocks.0.mlp.gate.weight": torch.ones(8, 192)}, "heads 1 of head_dim 128 do not make width 192"),
}

@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_do_not_fit(published, fault):
    _, weights, load = published
    change, says = FAULTS[fault]
    with one_line(says): load(change(weights))

@pytest.mark.parametrize("keep", [0, 1, 3, 100, 5000, -1000, -1])
@pytest.mark.parametrize("name, legacy", [("model.pt", False), ("model.pt", True), ("model.safetensors", False)])
def test_a_torn_file(published, tok, tmp_path, name, legacy, keep):
    path = tmp_path/name
    save_file(published[1], path) if "safe" in name else torch.save(published[1], path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[:keep])
    with one_line(str(path), "torn, or not a file of weights"): load_released(path, tok.path)

@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>404", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", bytes(range(256)) * 9, "שלום".encode(), b"\x80\x02", b"PK\x03\x04" + bytes(500)], ids=lambda b: repr(b[:8]))
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_a_file_that_is_something_else(tok, tmp_path, name, content):
    (tmp_path/name).write_bytes(content)
    with one_line(name, "torn, or not a file of weights"): load_released(tmp_path/name, tok.path)

class Trojan:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.system, (f"touch {self.path}",)

@pytest.mark.parametrize("save, says", [(torch.save, "would run posix.system"), (lambda content, path: path.write_bytes(pickle.dumps(content, 2)), "would run posix.system"),
                                        (lambda content, path: path.write_bytes(pickle.dumps(content, 4)), "not a file of weights")], ids=["torch", "pickle 2", "pickle 4"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_would_run_code_is_not_opened(tok, tmp_path, save, says):
    save({"x": Trojan(tmp_path/"ran")}, tmp_path/"model.pt")
    with one_line("model.pt", says): load_released(tmp_path/"model.pt", tok.path)
    assert not (tmp_path/"ran").exists()

def test_the_trojan_is_one(tmp_path):
    pickle.loads(pickle.dumps(Trojan(tmp_path/"ran")))
    assert (tmp_path/"ran").exists()

def test_missing_files(published, tok, tmp_path):
    with one_line("no.pt", "no such file"): load_released(tmp_path/"no.pt", tok.path)
    torch.save(published[1], tmp_path/"model.pt")
    with one_line("no.model"): load_released(tmp_path/"model.pt", tmp_path/"no.model")

def test_a_bundle_is_not_taken_for_a_published_file(tok, tmp_path):
    from hebrewgpt_nb.bundle import save_bundle
    bundle = save_bundle(small("A", vocab_size=600), tok, tmp_path/"bundle")
    with one_line("config.json", "load_bundle"): load_released(bundle/"model.safetensors", tok.path)

def test_from_a_published_file_to_a_stock_folder(published, tok, tmp_path):
    model, weights, load = published
    loaded, its_tok = load({"model_state_dict": {f"_orig_mod.{n}": w for n, w in weights.items()}})
    assert gap(model, AutoModelForCausalLM.from_pretrained(export_hf(loaded, its_tok, tmp_path/"out")), 65) < 1e-4


# --- stock folders, in ------------------------------------------------------------------------------------------------

def test_what_transformers_saved_comes_back_bit_for_bit(twin, tok, tmp_path):
    model, out, stock = twin
    stock.save_pretrained(tmp_path/"again", max_shard_size="100KB") # by code that no one here wrote, in several files
    (tmp_path/"again"/"tokenizer.model").write_bytes(tok.path.read_bytes())
    assert len(list((tmp_path/"again").glob("*.safetensors"))) > 1
    for folder in (out, tmp_path/"again"):
        back, its_tok = S.load_model(folder)
        assert back.cfg.blocks == model.cfg.blocks and its_tok.sha256 == tok.sha256
        assert back.state_dict().keys() == model.state_dict().keys() and all(torch.equal(w, model.state_dict()[n]) for n, w in back.state_dict().items())
        check_same(model, back)

def test_a_folder_in_bfloat16_comes_back_in_it(tok, tmp_path):
    model = small("AM", vocab_size=600).bfloat16()
    check_same(model, S.import_hf(export_hf(model, tok, tmp_path/"out"))[0])

CHANGES = {"num_key_value_heads": (1, "num_key_value_heads is 1, here 2"), "tie_word_embeddings": (False, "tie_word_embeddings is False, here True"), "hidden_act": ("gelu", "hidden_act is 'gelu', here 'silu'"),
           "attention_bias": (True, "attention_bias is True, here False"), "rope_parameters": (dict(rope_type="linear", factor=2., rope_theta=1e4), "rope_parameters is"), "model_type": ("gpt2", "is a gpt2; read here are llama and bamba"),
           "intermediate_size": (100, "weights do not fit its config|of another shape|not a file of weights"), "num_hidden_layers": (4, "4 weights|missing"), "head_dim": (16, "do not make width")}

@pytest.mark.parametrize("field", CHANGES)
def test_a_stock_model_that_is_none_of_ours_is_refused(tok, tmp_path, field):
    out, (value, says) = export_hf(small("A", vocab_size=600), tok, tmp_path/"out"), CHANGES[field]
    (out/"config.json").write_text(json.dumps(json.loads((out/"config.json").read_text()) | {field: value}))
    with pytest.raises(UserError, match=says) as said: S.load_model(out)
    assert str(out) in str(said.value) and "\n" not in str(said.value)

@pytest.mark.parametrize("what, says", [("torn", "torn, or not a file of weights"), ("no tokenizer", "tokenizer.model: missing"), ("no weights", "not a file of weights"), ("no config", "no table tok_emb.weight"), ("empty config", "no folder of transformers|no bundle")])
def test_a_stock_folder_that_lacks_something_is_one_line(tok, tmp_path, what, says):
    out = export_hf(small("A", vocab_size=600), tok, tmp_path/"out")
    weights = out/"model.safetensors"
    if what == "torn": weights.write_bytes(weights.read_bytes()[:-999])
    else: {"no tokenizer": out/"tokenizer.model", "no weights": weights, "no config": out/"config.json", "empty config": out/"config.json"}[what].unlink()
    if what == "empty config": (out/"config.json").write_text('{"model_type": "x"}')
    with pytest.raises(UserError, match=says) as said: S.load_model(out)
    assert "\n" not in str(said.value)

def test_a_model_of_the_hub(tok, tmp_path, monkeypatch, capsys):
    "From the cache of the standard client, as it would have left it; and a line where there is nothing and no network."
    import huggingface_hub.constants as hub
    model, there = small("AM", vocab_size=600), tmp_path/"models--me--hebrew"
    export_hf(model, tok, there/"snapshots"/"abc")
    (there/"refs").mkdir()
    (there/"refs"/"main").write_text("abc")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    check_same(model, S.load_model("hf://me/hebrew")[0])
    assert "hf://me/hebrew: downloads" in capsys.readouterr().out
    for address in ("hf://me/other", "hf://me/a/b/c"):
        with pytest.raises(UserError, match=f"{address}: cannot be fetched .*; give the folder of a copy"): S.load_model(address)


# --- adapters for stock twins ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("pattern, method, mamba", [("A", "lora", False), ("A", "dora", False), ("A", "rslora", False), ("AM", "lora", True), ("M", "lora", False)])
def test_an_adapter_gives_our_logits_on_the_stock_twin(tok, tmp_path, pattern, method, mamba):
    "Stock peft on the stock model from disk, against our model with the adapter merged."
    model = small(pattern, seed=3, vocab_size=600)
    twin = export_hf(model, tok, tmp_path/"twin")
    adapted = add_lora(model, rank=8, method=method, mamba=mamba)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if p.requires_grad: p.copy_(p + .1 * torch.randn(p.shape, generator=g))
    adapted.save_pretrained(tmp_path/"adapter", save_embedding_layers=False)
    out = R.export_adapter(tmp_path/"adapter", twin, tmp_path/"stock")
    stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(twin), out).eval()
    tokens = torch.randint(600, (2, 70), generator=g)
    with torch.no_grad():
        theirs, ours = stock(tokens).logits, adapted.merge_and_unload().eval()(tokens)
        with stock.disable_adapter(): without = stock(tokens).logits
    assert (theirs - ours).abs().max() < 1e-3 and (theirs - without).abs().max() > .1

def test_an_adapter_of_another_shape_is_refused(tok, tmp_path):
    twin = export_hf(small("M", vocab_size=600), tok, tmp_path/"twin")
    add_lora(small("A", vocab_size=600), rank=2).save_pretrained(tmp_path/"adapter", save_embedding_layers=False)
    with pytest.raises(UserError, match="blocks.0.attn.(qkv|proj): adapted, but the base has no such matrix"): R.export_adapter(tmp_path/"adapter", twin, tmp_path/"stock")
