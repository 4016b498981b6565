"Any model: what a stock twin, other architectures and an endpoint are measured to be, against transformers' own loss and lm-eval."
import json, math, os, subprocess, sys
import pytest, torch
import hebrewgpt_nb.backends as B, hebrewgpt_nb.grading as G, hebrewgpt_nb.metrics as M
from hebrewgpt_nb.bundle import load_bundle, save_bundle
from hebrewgpt_nb.core import UserError, read_json, sample_dir
from hebrewgpt_nb.evaluate import evaluate
from hebrewgpt_nb.grammar.pairs import minimal_pairs
from hebrewgpt_nb.model import HebrewGPT, get_preset
from hebrewgpt_nb.release import export_hf
from hebrewgpt_nb.tasks import prefer_right
from hebrewgpt_nb.text.records import read_records
from hebrewgpt_nb.tokenizer import Tokenizer, train_tokenizer
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from chat_server import chat
from conftest import fill

TEXTS = [r["text"] for r in read_records(sample_dir()/"pretrain")]
ASKED = dict(instruction="מהי בירת איטליה?", input="רומא או מילאנו")

@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A bundle and its exported twin, and a GPT-2 with a tokenizer of bytes and a chat template."
    folder = tmp_path_factory.mktemp("backends")
    tok = Tokenizer(train_tokenizer(TEXTS, folder/"tokenizer.model", vocab_size=700, kind="plain"))
    own = fill(HebrewGPT(get_preset("tiny", vocab_size=700, pattern="A")), 3).eval()
    save_bundle(own, tok, folder/"bundle")
    export_hf(own, tok, folder/"twin")
    (folder/"twin"/"tokenizer.model").unlink() # as others publish theirs
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(TEXTS, vocab_size=500, special_tokens=["<end>"])
    other = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>", pad_token="<end>", clean_up_tokenization_spaces=False)
    other.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
    other.save_pretrained(folder/"gpt2")
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=len(other), n_embd=32, n_layer=2, n_head=2, n_positions=512)).save_pretrained(folder/"gpt2")
    return folder

def loss_of(net, ids: list[int], start: int) -> float: # nats of the tokens from `start` on
    "By transformers' own loss."
    labels = torch.tensor([[-100] * start + ids[start:]])
    with torch.no_grad(): return net(torch.tensor([ids]), labels=labels).loss.item() * (len(ids) - start)

@pytest.mark.parametrize("name", ["twin", "gpt2"])
def test_perplexity_and_bits_per_byte_are_those_of_transformers(place, name):
    (model, tok), net = B.open_any(str(place/name), "cpu"), AutoModelForCausalLM.from_pretrained(place/name).eval()
    theirs, some = AutoTokenizer.from_pretrained(place/name), [t[:200] for t in TEXTS[:4]]
    for text, found in zip(some, M.score_each_text(model, tok, some)):
        first = theirs.eos_token_id if theirs.bos_token_id is None else theirs.bos_token_id
        nats = loss_of(net, [first, *theirs(text, add_special_tokens=False)["input_ids"], theirs.eos_token_id], 1)
        assert found.nats == pytest.approx(nats, rel=1e-4)
        assert found.bits_per_byte == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-4)
        assert found.perplexity == pytest.approx(math.exp(nats / found.tokens), rel=1e-3)

def test_a_bundle_and_its_twin_say_the_same(place):
    (own, tok), (twin, its_tok) = (B.open_any(str(place/name), "cpu") for name in ("bundle", "twin"))
    assert isinstance(own, HebrewGPT) and isinstance(twin, B.StockModel)
    requests = [(text, end) for text in ("שלום", "בוקר אחד", "") for end in (" לכולם", " יצאה הילדה", "א" * 600)]
    for a, b in zip(G.score_requests(own, tok, requests), G.score_requests(twin, its_tok, requests)):
        assert (a is None) == (b is None) and (a is None or a.nats == pytest.approx(b.nats, rel=1e-4))
    prompts = ["שלום", "בוקר אחד יצאה", "א" * 900]
    assert [w.text for w in G.write_texts(own, tok, prompts, 9)] == [w.text for w in G.write_texts(twin, its_tok, prompts, 9)]
    some = minimal_pairs()[::9]
    assert [g["right"] for g in prefer_right(own, tok, some, 256)] == [g["right"] for g in prefer_right(twin, its_tok, some, 256)]

def test_an_instruction_is_put_into_the_models_own_chat(place):
    model, tok = B.open_any(str(place/"gpt2"), "cpu")
    assert B.chat_text(tok, ASKED) == "[user] מהי בירת איטליה?\n\nקלט:\nרומא או מילאנו\n[assistant] "
    ids = [*tok("[user] מהי בירת איטליה?\n\nקלט:\nרומא או מילאנו\n[assistant] ")["input_ids"]]
    found, = G.score_requests(model, tok, [(ASKED, "רומא")])
    assert found.nats == pytest.approx(loss_of(model.net, [tok.eos_token_id, *ids, *tok("רומא")["input_ids"]], len(ids) + 1), rel=1e-4)
    answer, = M.score_examples(model, tok, [ASKED | dict(output="רומא")])
    assert answer.tokens == found.tokens + 1

def test_the_stage_measures_a_model_of_others(place, tmp_path):
    few = (sample_dir()/"eval"/"choices.jsonl").read_text(encoding="utf8").split("\n")[:4]
    (tmp_path/"choices_few.jsonl").write_text("\n".join(few) + "\n", encoding="utf8")
    result = evaluate(run=str(tmp_path/"run"), model=str(place/"gpt2"), tests=str(tmp_path), generations=2, max_new_tokens=8, examples=5, device="cpu")
    report = read_json(tmp_path/"run"/"model.report.json")
    assert report["model"]["kind"] == "transformers" and {"perplexity", "questions", "pairs"} <= set(result)
    assert report["metrics"]["bits per byte"]["value"] > 0 and "left out" in report["left_out"]["answers"]
    page = (tmp_path/"run"/"report.md").read_text(encoding="utf8")
    assert f" {place.name}-gpt2 |" in page and "- not measured: format kept, left out: there are no test examples" in page and "learned from: a score" not in page
    outputs = (tmp_path/"run"/"model.outputs.jsonl").read_text(encoding="utf8").splitlines()
    assert {json.loads(line)["task"] for line in outputs} >= {"questions", "instructions", "open prompts"}

def test_an_endpoint_is_measured_on_what_it_writes(place, tmp_path):
    with chat(reply=lambda body: "תשובה קצרה.") as server:
        result = evaluate(run=str(tmp_path/"run"), model=f"{server.address}#m", generations=3, examples=3, max_new_tokens=8)
        asked = server.requests
    report = read_json(tmp_path/"run"/"model.report.json")
    assert report["model"]["kind"] == "endpoint" and asked > 5 and "instructions" in result
    assert all(name in report["left_out"] for name in ("texts", "questions", "pairs")) and "perplexity" not in report["metrics"]

def test_a_request_without_an_answer_is_a_counted_failure(monkeypatch):
    monkeypatch.setattr("hebrewgpt_nb.making.RETRIES", 0)
    with chat(lambda n: "400 no" if n == 1 else None, reply=lambda body: "כן.") as server:
        model = B.Endpoint(server.address, "m", at_once=1)
        found = G.write_texts(model, None, [ASKED] * 3, 8)
    assert [w.finish_reason for w in found] == ["stop", "no answer", "stop"] and len(model.missed) == 1
    assert G.format_fault(found[1], "כן") == "empty"

@pytest.mark.parametrize("fault, message", [("401 no", "the key in OPENAI_API_KEY is refused"), ("400 no", "gave no answer 5 times in a row"), ("404 no", "no such address or model")])
def test_an_endpoint_that_never_answers_is_one_line(monkeypatch, fault, message):
    monkeypatch.setattr("hebrewgpt_nb.making.RETRIES", 0)
    with chat(lambda n: fault) as server, pytest.raises(UserError, match=message) as e: G.write_texts(B.Endpoint(server.address, "m", at_once=1), None, [ASKED] * 9, 8)
    assert "\n" not in str(e.value)

CODE = """from pathlib import Path
Path(__file__).with_name("ran").touch()
from transformers import PretrainedConfig
class Evil(PretrainedConfig): model_type = "evil"
"""

@pytest.mark.parametrize("command", ["hebrewgpt_nb.release --run OUT --bundle", "hebrewgpt_nb.evaluate --run OUT --model"])
def test_code_in_a_folder_is_never_run(tmp_path, command):
    "Nor where whoever is asked says yes: transformers would ask."
    place = tmp_path/"evil"
    place.mkdir()
    (place/"evil.py").write_text(CODE)
    (place/"config.json").write_text(json.dumps(dict(model_type="evil", auto_map=dict(AutoConfig="evil.Evil"))))
    (place/"model.safetensors").touch()
    if "release" in command: (place/"tokenizer.model").touch()
    words = [sys.executable, "-m", *command.replace("OUT", str(tmp_path/"out")).split(), str(place)]
    done = subprocess.run(words, input="y\n" * 9, capture_output=True, text=True, cwd=tmp_path, env=os.environ | dict(HF_MODULES_CACHE=str(tmp_path/"cache")))
    assert done.returncode and "Traceback" not in done.stderr and str(place) in done.stderr
    assert not list(tmp_path.rglob("ran"))

def test_a_folder_that_is_no_model_is_one_line(place, tmp_path):
    (tmp_path/"config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match="cannot read a causal model") as e: B.open_any(str(tmp_path))
    assert "\n" not in str(e.value)

def test_a_tokenizer_that_loses_text_has_no_bits_per_byte(place):
    model, tok = B.open_any(str(place/"gpt2"), "cpu")
    tok.add_tokens(["ש"])
    class Lossy:
        bos_token_id = eos_token_id = 0
        def __call__(self, text, **options): return tok("".join(c for c in text if c < "א"), **options)
        def decode(self, ids, **options): return tok.decode(ids, **options)
    with pytest.raises(G.NotMeasured, match="does not give 'שלום' back"): M.score_each_text(model, Lossy(), ["שלום"])

# --- lm-eval ---------------------------------------------------------------------------------------

def test_what_ships_is_opened_by_its_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, tok = B.open_any("mini")
    assert B.describe(model, "mini")["parameters"] == 5_716_784 and tok.vocab_size == 8192

def test_lm_eval_finds_the_same_of_the_twin_by_its_own_model(place):
    "Its HFLM on the twin, our adapter on the bundle, and ours without it: pairs and texts."
    pytest.importorskip("lm_eval")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from hebrewgpt_nb.harness import HarnessModel, write_tasks
    from hebrewgpt_nb.tasks import Inputs
    (place/"texts").mkdir()
    (place/"texts"/"news.valid.jsonl").write_text("".join(json.dumps(dict(text=t[:150].strip())) + "\n" for t in TEXTS[:6]))
    write_tasks(place/"tasks", Inputs(limit=5, data=str(place/"texts")))
    manager, found = TaskManager(include_path=str(place/"tasks"), include_defaults=False), []
    # a text that it scores whole gets a BOS from it, beside the tokenizer's own
    for lm in (HFLM(pretrained=str(place/"twin"), device="cpu", batch_size=8, add_bos_token=False), HarnessModel(place/"bundle", device="cpu")):
        report = simple_evaluate(lm, tasks=["hebrew_pairs", "hebrew_texts"], task_manager=manager, bootstrap_iters=0, limit=60)
        rows = {name: [s["filtered_resps"] for s in sorted(report["samples"][name], key=lambda s: s["doc_id"])] for name in ("hebrew_pairs", "hebrew_texts")}
        found.append((report["results"]["hebrew_pairs"]["acc,none"], report["results"]["hebrew_texts"]["bits_per_byte,none"], rows))
    (acc, bits, rows), (own_acc, own_bits, own_rows) = found
    own, tok = load_bundle(place/"bundle")
    graded = prefer_right(own, tok, minimal_pairs()[:60], 256)
    assert acc == own_acc == pytest.approx(sum(g["right"] for g in graded) / len(graded)) and bits == pytest.approx(own_bits, rel=1e-4)
    for theirs, ours in zip(rows["hebrew_pairs"], own_rows["hebrew_pairs"]):
        for a, b in zip(theirs, ours): assert float(a[0]) == pytest.approx(float(b[0]), rel=1e-4)

@pytest.mark.parametrize("kind, pattern", [("plain", "A"), ("rules", "AM")])
def test_lm_eval_asks_the_twin_in_a_chat_as_the_bundle_is_asked(tmp_path, kind, pattern):
    "Questions with an input, by its HFLM and the export's own chat template, and by our adapter on the bundle."
    pytest.importorskip("lm_eval")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from hebrewgpt_nb.harness import HarnessModel, write_tasks
    from hebrewgpt_nb.tasks import Inputs
    tok = Tokenizer(train_tokenizer(TEXTS, tmp_path/"tokenizer.model", vocab_size=700, kind=kind))
    own = fill(HebrewGPT(get_preset("tiny", vocab_size=700, pattern=pattern)), 3).eval()
    save_bundle(own, tok, tmp_path/"bundle")
    export_hf(own, tok, tmp_path/"twin")
    task, = [n for n in write_tasks(tmp_path/"tasks", Inputs(limit=6)) if n.endswith("questions_choice")]
    manager, found = TaskManager(include_path=str(tmp_path/"tasks"), include_defaults=False), []
    for lm in (HFLM(pretrained=str(tmp_path/"twin"), device="cpu", batch_size=4), HarnessModel(tmp_path/"bundle", device="cpu")):
        samples = simple_evaluate(lm, tasks=[task], task_manager=manager, bootstrap_iters=0, limit=6, apply_chat_template=True)["samples"][task]
        found.append([float(r[0]) for s in sorted(samples, key=lambda s: s["doc_id"]) for r in s["filtered_resps"]])
    assert len(found[0]) >= 12 and found[0] == pytest.approx(found[1], rel=1e-4)
