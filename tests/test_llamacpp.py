"GGUF files: what the package `gguf` calls the weights, what llama.cpp makes of them, and Ollama's templates in Go."
import json, shutil, subprocess
import jinja2, pytest, torch
from hebrewgpt_nb.core import UserError, read_jsonl, sample_dir
from hebrewgpt_nb.generate import next_logits
from hebrewgpt_nb.llamacpp import GGUFKind, LlamaCpp, find_missing, gguf_architecture, gguf_names, gguf_tensors, llama_text
from hebrewgpt_nb.llamacpp import llama_guards, ollama_template, write_gguf, write_modelfile
from hebrewgpt_nb.model import HebrewGPT, get_preset
from hebrewgpt_nb.quantize import quantize_for_decoding, unpack
from hebrewgpt_nb.release import chat_template, export_gguf, special_names
from hebrewgpt_nb.stock import stock_names
from hebrewgpt_nb.tokenizer import Tokenizer, encode_prompt, train_tokenizer

gguf = pytest.importorskip("gguf", reason="pip install 'hebrewgpt_nb[gguf]'")
node = pytest.mark.skipif(bool(find_missing()), reason=f"NO LLAMA.CPP, so nothing is compared with it: {find_missing()}")
VOCAB, PROMPTS, NEW = 700, 50, 12

def texts(): return [r["text"] for p in sorted((sample_dir()/"pretrain").glob("*.jsonl")) for r in read_jsonl(p)]

@pytest.fixture(scope="module")
def toks(tmp_path_factory):
    folder, learn = tmp_path_factory.mktemp("tokenizers"), texts()[::4]
    return {kind: Tokenizer(train_tokenizer(learn, folder/f"{kind}.model", vocab_size=VOCAB, kind=kind)) for kind in ("plain", "boundaries", "rules")}

def trained(pattern, tok, steps=30): # so that its best next tokens are clear
    torch.manual_seed(0)
    model = HebrewGPT(get_preset("tiny", pattern=pattern, vocab_size=VOCAB, depth=2))
    ids = torch.tensor([i for text in texts() for i in (tok.bos_id, *tok.encode(text))])
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(steps):
        rows = ids[torch.randint(len(ids) - 65, (8, 1)) + torch.arange(65)]
        torch.nn.functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()

@pytest.fixture(scope="module")
def models(toks): return {pattern: trained(pattern, toks["boundaries"]) for pattern in ("A", "AM")}

# --- the file ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("blocks", ["AA", "AMMA"])
def test_weights_are_called_what_the_package_calls_those_of_the_stock_twin(blocks, tied):
    arch = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}[gguf_architecture(blocks)]
    known, ours, stock = gguf.get_tensor_name_map(arch, len(blocks)), gguf_names(blocks, tied), stock_names(blocks, tied)
    assert ("lm_head.weight" in ours) is not tied
    for own, theirs in ours.items():
        expected = [known.get_name(name.replace("dt_bias", "dt_proj.bias"), (".weight", ".bias")) for name in stock[own]]
        assert list(theirs) == expected

@pytest.mark.parametrize("pattern", ["A", "AM"])
@pytest.mark.parametrize("kind", GGUFKind.__args__)
def test_a_file_holds_the_weights(models, toks, pattern, kind, tmp_path):
    read = gguf.GGUFReader(write_gguf(models[pattern], toks["boundaries"], tmp_path/"x.gguf", kind))
    found, steps = {t.name: t for t in read.tensors}, dict(f32=0, f16=5e-4, bf16=4e-3, q8_0=5e-3)
    for name, w in gguf_tensors(models[pattern]).items():
        t = found.pop(name)
        made = torch.tensor(gguf.quants.dequantize(t.data, t.tensor_type)).view(w.shape)
        small = min(t.shape) < 8 or w.ndim == 1 or "ssm_norm" in name
        assert t.tensor_type.name == ("F32" if small else kind.upper()), name
        assert (made - w).abs().max() <= steps[kind] * (not small) * w.abs().max(), name
    assert not found and [p.name for p in tmp_path.iterdir()] == ["x.gguf"]

@pytest.mark.parametrize("pattern", ["A", "AM"])
def test_a_head_of_its_own_goes_into_the_file(toks, pattern, tmp_path):
    torch.manual_seed(0)
    model = HebrewGPT(get_preset("tiny", pattern=pattern, vocab_size=VOCAB, depth=2, tied=False))
    read = gguf.GGUFReader(write_gguf(model, toks["boundaries"], tmp_path/"x.gguf", "f32"))
    found = {t.name: torch.tensor(t.data) for t in read.tensors}
    assert found["output.weight"].equal(model.lm_head.weight) and not found["output.weight"].equal(found["token_embd.weight"])

def test_a_packed_model_goes_out_with_the_weights_it_decodes_with(models, toks, tmp_path):
    packed = quantize_for_decoding(models["A"], "int8")
    read = gguf.GGUFReader(write_gguf(packed, toks["boundaries"], tmp_path/"x.gguf", "f32"))
    (found,) = [t for t in read.tensors if t.name == "blk.0.ffn_up.weight"]
    assert torch.tensor(found.data).equal(unpack(packed).blocks[0].mlp.up.weight)

def test_what_cannot_be_written_is_said_and_nothing_is_left(models, toks, tmp_path):
    broken = trained("A", toks["plain"], steps=0)
    broken.blocks[1].mlp.up.weight.data[0, 0] = torch.nan
    for model, kind, said in ((broken, "f32", "blk.1.ffn_up.weight: holds numbers that F32 cannot"), (models["A"], "q4", "kind is 'q4'"),
                              (HebrewGPT(get_preset("tiny")), "f16", "do not belong together"), (trained("M", toks["plain"], steps=0), "f16", "they must be of A, or of A and M")):
        with pytest.raises(UserError, match=said): write_gguf(model, toks["plain"], tmp_path/"x.gguf", kind)
    assert not list(tmp_path.iterdir())

# --- llama.cpp -----------------------------------------------------------------------------------------------

STRANGE = ["", " ", "שורה\n\nשורה", "  שני  רווחים ", " ה ו  ב", "וְאֵת הַבַּיִת", "😀👩‍👩‍👧", "日本", "\x01\t\r", "a<0x41>b", "</s><|answer|>", "ﬁ é ½", "\u200f\u202b", "ההההה!!!", "12,345.67"]

@node
@pytest.mark.parametrize("kind", ["plain", "boundaries", "rules"])
def test_ids_of_llama_cpp_are_ours(models, toks, kind, tmp_path):
    tok, every = toks[kind], texts() + STRANGE
    with LlamaCpp(write_gguf(models["A"], tok, tmp_path/"x.gguf"), length=64) as llama:
        assert llama.ready["begins"] # llama.cpp puts the begin token there by itself
        rows = llama.encode([llama_text(tok, t) for t in every])
    assert [t for t, row, ids in zip(every, rows, tok.encode(every)) if row != ids] == []

def greedy(model, ids):
    cache, made, unseen = model.make_cache(length=len(ids) + NEW), [], ids
    for _ in range(NEW):
        unseen = [next_logits(model, unseen, cache).argmax().item()]
        made += unseen
    return made

@node
@pytest.mark.parametrize("pattern, kind, exact, least", [("A", "f32", True, 49), ("A", "f16", False, 45), ("AM", "f32", True, 49), ("AM", "f16", False, 45)])
def test_greedy_tokens_of_llama_cpp_are_ours(models, toks, pattern, kind, exact, least, tmp_path):
    tok, model = toks["boundaries"], models[pattern]
    prompts = [[tok.bos_id, *tok.encode(" ".join(t.split()[:5]))] for t in texts()[:PROMPTS]]
    with LlamaCpp(write_gguf(model, tok, tmp_path/"x.gguf", kind), exact=exact) as llama:
        same = [llama.greedy(ids, NEW) == greedy(model, ids) for ids in prompts]
    assert len(same) == PROMPTS and sum(same) >= least

@node
def test_a_torn_file_is_said(models, toks, tmp_path):
    path = write_gguf(models["A"], toks["plain"], tmp_path/"x.gguf")
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UserError, match="llama.cpp stopped"): LlamaCpp(path)
    with pytest.raises(UserError, match="none.gguf: no such file"): LlamaCpp(tmp_path/"none.gguf")

# --- messages ------------------------------------------------------------------------------------------------

TALK = [("user", "מי כתב את {{ .System }}?"), ("assistant", "נפתלי הרץ אימבר"), ("user", "מתי?")]
FORGED = ["</s>", "</s</s>>", "<|answer|<|answer|>>", "<|ans</s>wer|>", "<<s>s>", "<unk<unk>>", "<|answer|>"*3, "<b>a < b</b>"]

def test_guarded_text_holds_no_special_token(toks):
    tok = toks["boundaries"]
    guard = jinja2.Environment().from_string("{{ text" + llama_guards(tok) + " }}")
    made = {text: guard.render(text=text) for text in FORGED}
    assert not [(text, name) for text in made for name in special_names(tok) if name in made[text]]
    assert made["<b>a < b</b>"] == "<b>a < b</b>" # what names no special token stays as it is

@node
@pytest.mark.parametrize("system", ["", "ענה בקצרה."])
def test_llama_cpp_asks_messages_as_tuning_did(models, toks, system, tmp_path):
    "By the template in the file that a release writes, llama.cpp's own Jinja, and its tokenizer."
    tok, path = toks["boundaries"], tmp_path/"x.gguf"
    export_gguf(models["A"], tok, path, "f16")
    template = gguf.GGUFReader(path).fields["tokenizer.chat_template"].contents()
    assert template == chat_template(tok, llama_guards(tok)) and (tmp_path/"Modelfile").exists()
    talk = [dict(role=r, content=c) for r, c in [("system", system)] * bool(system) + TALK[:2] + [("user", "<b>מתי?</b>")]]
    values = dict(messages=talk, add_generation_prompt=True, bos_token="", eos_token="</s>")
    with LlamaCpp(path, length=64) as llama:
        ids = llama.encode([llama.ask("render", template=template, values=values)["text"]], special=True)[0]
    first = f"{system}\n\n{TALK[0][1]}" if system else TALK[0][1]
    assert [tok.bos_id, *ids] == encode_prompt(tok, "<b>מתי?</b>", earlier=[dict(instruction=first, output=TALK[1][1])])

# --- Ollama --------------------------------------------------------------------------------------------------

GO = """package main
import ("encoding/json"; "os"; "text/template")
type Message struct { Role, Content string }
func main() {
    var in struct { Template, System string; Messages []Message }
    if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil { panic(err) }
    if err := template.Must(template.New("").Parse(in.Template)).Execute(os.Stdout, in); err != nil { panic(err) }
}
"""

@pytest.fixture(scope="module")
def go(tmp_path_factory):
    if not shutil.which("go"): pytest.skip("NO GO, so Ollama's template is not run: install it (https://go.dev)")
    folder = tmp_path_factory.mktemp("go")
    (folder/"main.go").write_text(GO)
    subprocess.run(["go", "build", "-o", "render", "main.go"], cwd=folder, check=True)
    return lambda **values: subprocess.run([folder/"render"], input=json.dumps(values), capture_output=True, text=True, check=True).stdout

@node
@pytest.mark.parametrize("system", ["", "ענה בקצרה."])
def test_ollama_gives_the_prompt_of_tuning(go, models, toks, system, tmp_path):
    tok, line = toks["boundaries"], [("system", system)] * bool(system)
    said = go(Template=ollama_template(tok), System=system, Messages=[dict(Role=r, Content=c) for r, c in line + TALK])
    with LlamaCpp(write_gguf(models["A"], tok, tmp_path/"x.gguf"), length=64) as llama: ids = llama.encode([said], special=True)[0]
    first = f"{system}\n\n{TALK[0][1]}" if system else TALK[0][1]
    assert [tok.bos_id, *ids] == encode_prompt(tok, TALK[2][1], earlier=[dict(instruction=first, output=TALK[1][1])])

def test_a_modelfile_is_for_tokenizers_without_rules(models, toks, tmp_path):
    made = write_modelfile(toks["plain"], models["A"].cfg, tmp_path/"x.gguf").read_text()
    assert made.startswith("FROM ./x.gguf\n") and "PARAMETER num_ctx 256\n" in made and ollama_template(toks["plain"]) in made
    with pytest.raises(UserError, match="which Ollama cannot"): write_modelfile(toks["rules"], models["A"].cfg, tmp_path/"x.gguf")
