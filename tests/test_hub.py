"To the Hub and back, by its own client, against a stand-in on this machine that speaks its protocol."
import os, random, re, runpy, subprocess, sys, time
import pytest, torch
from huggingface_hub import RepoCard
from hub_stand_in import Hub
from packaging.requirements import Requirement
from hebrewgpt_nb.core import UserError, read_jsonl, sample_dir
from hebrewgpt_nb.generate import generate
from hebrewgpt_nb.hub import write_space
from hebrewgpt_nb.model import HebrewGPT, get_preset
from hebrewgpt_nb.release import export_hf
from hebrewgpt_nb.tokenizer import Tokenizer, encode_prompt, train_tokenizer

@pytest.fixture
def hub():
    hub = Hub()
    yield hub
    hub.released.set()
    hub.shutdown()

@pytest.fixture
def export(tmp_path):
    folder = tmp_path/"hebrew-tiny"
    (folder/"extra").mkdir(parents=True)
    (folder/"README.md").write_text("---\nlicense: apache-2.0\n---\n# שלום\n")
    (folder/"model.safetensors").write_bytes(random.Random(0).randbytes(300_000))
    (folder/"tokenizer.model").write_bytes(random.Random(1).randbytes(5_000))
    (folder/"extra"/"[a].json").write_text("{}")
    for secret in (".env", ".lock", ".git/config"):
        (folder/secret).parent.mkdir(exist_ok=True)
        (folder/secret).write_text("token")
    return folder

SENT = ["README.md", "extra/[a].json", "model.safetensors", "tokenizer.model"]

def start(hub, tmp_path, call, **env):
    env = hub.env(tmp_path/"home") | env
    code = f"from hebrewgpt_nb.core import UserError\nfrom hebrewgpt_nb.hub import push, pull\ntry: {call}\nexcept UserError as e: raise SystemExit('error: ' + str(e))"
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

def finish(process, code=0):
    said = process.communicate(timeout=120)
    assert process.returncode == code, said
    return said[code]

def contents(folder): return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

def kill_when_arrived(hub, process, files): # when one file has stalled, and these are there
    assert hub.stalled.wait(60)
    until = time.time() + 60
    while not all(file.exists() for file in files): assert time.time() < until and not time.sleep(.05)
    process.kill()
    process.communicate()
    hub.released.set()

def test_nothing_leaves_without_being_asked(hub, export, tmp_path):
    said = finish(start(hub, tmp_path, f"push({str(export)!r}, 'me/tiny')"))
    assert hub.log == [] and "nothing was sent" in said and f"{hub.url}/me/tiny" in said
    assert [line.split()[-1] for line in said.splitlines()[:4]] == SENT and "305,0" in said

def test_a_push_and_a_pull_that_were_killed_end_with_equal_files(hub, export, tmp_path):
    sending = f"push({str(export)!r}, 'me/tiny', send=True)"
    hub.stall_at = 300_000
    process = start(hub, tmp_path, sending)
    assert hub.stalled.wait(60)
    process.kill()
    process.communicate()
    hub.released.set()
    assert hub.repos == {"me/tiny": {}} # no commit of half a folder
    hub.stall_at, arrived = 0, set(hub.large)
    finish(start(hub, tmp_path, sending))
    assert sorted(hub.repos["me/tiny"]) == SENT and "me/tiny is a private model" in hub.log
    assert all(hub.log.count(f"PUT /large/{oid}") == 1 for oid in arrived) # not sent again
    hub.stall_at, hub.log[:] = 300_000, []
    hub.stalled.clear(), hub.released.clear()
    out, pulling = tmp_path/"out", f"pull('me/tiny', {str(tmp_path/'out')!r})"
    kill_when_arrived(hub, start(hub, tmp_path, pulling), [tmp_path/".out.pull"/name for name in SENT if name != "model.safetensors"])
    assert not out.exists() and not (tmp_path/".out.pull"/"model.safetensors").exists()
    arrived = [name for name in SENT if name != "model.safetensors"]
    assert all(f"GET /me/tiny/resolve/{hub.sha('me/tiny')}/{name}" in hub.log for name in arrived) # which is how fetching looks
    hub.stall_at, hub.log[:] = 0, []
    finish(start(hub, tmp_path, pulling))
    assert contents(out) == {name: (export/name).read_bytes() for name in SENT}
    fetched = [line.split("/")[-1] for line in hub.log if line.startswith("GET") and "/resolve/" in line]
    assert {line.split()[0] for line in fetched} == {"model.safetensors"} # and what had arrived was not fetched again
    assert "something is there already" in finish(start(hub, tmp_path, pulling), 1)

def test_what_the_hub_has_besides_is_no_fault_of_a_push(hub, export, tmp_path):
    "A file that was sent once and is here no more, and one that somebody else put there; one that did not arrive is named."
    sending = f"push({str(export)!r}, 'me/tiny', send=True)"
    finish(start(hub, tmp_path, sending))
    (export/"tokenizer.model").unlink()
    (export/"README.md").write_text("# again\n")
    hub.repos["me/tiny"][".gitattributes"] = b"*.safetensors filter=lfs\n"
    finish(start(hub, tmp_path, sending))
    assert hub.repos["me/tiny"]["README.md"] == b"# again\n" and "tokenizer.model" in hub.repos["me/tiny"]
    hub.unlisted = {"model.safetensors"}
    assert "tiny: model.safetensors not as in me/tiny" in finish(start(hub, tmp_path, sending), 1)

def test_what_goes_from_the_hub_in_the_middle_of_a_pull_goes_from_the_folder(hub, tmp_path):
    hub.repos["me/tiny"] = {"README.md": b"# x\n", "old/notes.txt": b"of before", "model.safetensors": bytes(300_000)}
    pulling, hub.stall_at = f"pull('me/tiny', {str(tmp_path/'out')!r})", 300_000
    kill_when_arrived(hub, start(hub, tmp_path, pulling), [tmp_path/".out.pull"/"old"/"notes.txt"])
    hub.stall_at = 0
    del hub.repos["me/tiny"]["old/notes.txt"]
    finish(start(hub, tmp_path, pulling))
    assert contents(tmp_path/"out") == hub.repos["me/tiny"] and not (tmp_path/"out"/"old").exists()

def test_a_file_that_the_hub_has_otherwise_is_named(hub, tmp_path):
    hub.repos["me/tiny"] = {"README.md": b"# x", "model.safetensors": bytes(2000)}
    hub.tree_of["model.safetensors"] = b"1" * 2000 # what is said to be there is not what is given
    said = finish(start(hub, tmp_path, f"pull('me/tiny', {str(tmp_path/'out')!r})"), 1)
    assert "model.safetensors not as in me/tiny" in said and not (tmp_path/"out").exists()

@pytest.mark.parametrize("call, env, said", [
    ("push(FOLDER, 'me/tiny', send=True)", dict(HF_TOKEN="wrong"), "error: .*/me/tiny: .*401.*; check its name, and that `hf auth whoami` may see it"),
    ("push(FOLDER, 'me/tiny', send=True)", dict(HF_HUB_OFFLINE="1"), "error: .*/me/tiny: OfflineModeIsEnabled .*offline mode is enabled.*; the same"),
    ("push(FOLDER, 'me/tiny', send=True)", dict(HF_ENDPOINT="http://127.0.0.1:9"), "error: http://127.0.0.1:9/me/tiny: ConnectError .*; the same"),
    ("pull('me/none', FOLDER + '2')", {}, "error: .*/me/none: .*; check its name"),
    ("push(FOLDER + '/extra', 'me/tiny', send=True)", {}, "error: .*extra: no README.md in it"),
    ("push(FOLDER, 'a/b/c', send=True)", {}, "error: a/b/c: no name for the Hub")])
def test_what_goes_wrong_is_one_line(hub, export, tmp_path, call, env, said):
    last = finish(start(hub, tmp_path, call.replace("FOLDER", repr(str(export))), **env), 1)
    assert re.match(said, last.splitlines()[-1]), last
    assert "Traceback" not in last and hub.repos == {}

def test_a_space_goes_there_as_one(hub, export, tmp_path):
    finish(start(hub, tmp_path, f"push({str(export)!r}, 'me/tiny', kind='space', private=False, send=True)"))
    assert "spaces/me/tiny is a public space" in hub.log and sorted(hub.repos["spaces/me/tiny"]) == SENT

# --- a Space -------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def space(tmp_path_factory):
    folder = tmp_path_factory.mktemp("space")
    texts = [r["text"] for p in sorted((sample_dir()/"pretrain").glob("*.train.jsonl")) for r in read_jsonl(p)][::8]
    tok = Tokenizer(train_tokenizer(texts, folder/"tokenizer.model", vocab_size=600))
    model = HebrewGPT(get_preset("tiny", pattern="A", vocab_size=600, context=256)).eval()
    torch.manual_seed(0)
    for p in model.parameters(): torch.nn.init.normal_(p, mean=float(p.dim() == 1), std=.3 if p.dim() == 1 else p.shape[-1]**-.5)
    others = [i for i in range(600) if tok.sp.is_control(i) or tok.sp.is_unknown(i) or tok.sp.is_byte(i)]
    model.tok_emb.weight.data[others] = 0 # it writes whole letters, which both sides show alike
    stock = export_hf(model, tok, folder/"stock", license="apache-2.0")
    return model, tok, stock, write_space(stock, folder/"space", "me/hebrew-tiny")

def test_a_space_says_what_it_needs(space):
    *_, folder = space
    card = RepoCard.load(folder/"README.md").data.to_dict()
    assert card["sdk"] == "gradio" and card["models"] == ["me/hebrew-tiny"] and card["license"] == "apache-2.0"
    assert (folder/card["app_file"]).is_file() and {p.name for p in folder.iterdir()} == {"app.py", "requirements.txt", "README.md"}
    lines = (folder/"requirements.txt").read_text().splitlines()
    assert [Requirement(line).name for line in lines] == ["torch", "transformers"] and all("==" in line for line in lines)

def test_a_space_answers_as_the_model_does(space, monkeypatch):
    from gradio_client import Client
    model, tok, stock, folder = space
    monkeypatch.setenv("MODEL", str(stock))
    app = runpy.run_path(str(folder/"app.py"))
    app["model"].generation_config.do_sample = False
    app["reply"].__globals__["NEW"] = 12
    question, ids = "מי כתב את התקווה?", encode_prompt(tok, "מי כתב את התקווה?")
    ours = generate(model, tok, ids, 12, temperature=0)
    *_, said = app["reply"](question, [])
    long = [dict(role=role, content=[dict(type="text", text="שלום " * 40)]) for role in ("user", "assistant")] * 3
    *_, behind = app["reply"](question, long) # turns that the context cannot hold are left out
    assert said.strip() == ours.strip() != "" and isinstance(behind, str)
    _, url, _ = app["demo"].launch(prevent_thread_lock=True, quiet=True)
    try: assert Client(url, verbose=False).predict(question, api_name="/chat").strip() == ours.strip()
    finally: app["demo"].close()

def test_a_space_is_for_exports_that_can_be_talked_to(space, tmp_path):
    *_, stock, folder = space
    with pytest.raises(UserError, match="no README.md, config.json, tokenizer.json in it"): write_space(folder.parent, tmp_path/"x", "me/x")
    with pytest.raises(UserError, match="holds something that is no Space"): write_space(stock, folder.parent, "me/x")
    with pytest.raises(UserError, match="give it as user/x"): write_space(stock, tmp_path/"x", "x")
    assert write_space(stock, folder, "me/hebrew-tiny") == folder # again
