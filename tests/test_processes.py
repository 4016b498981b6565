"""One process and two: the same losses, and a checkpoint of one is a checkpoint of the other."""
import re, signal, subprocess, sys, time
from pathlib import Path
import pytest
from safetensors.torch import load_file
from hebrewgpt_nb.training.checkpoint import Checkpoints
from hebrewgpt_nb.core import UserError, read_jsonl
from hebrewgpt_nb.pretrain import pretrain
from hebrewgpt_nb.tokenizer import make_tokenizer
from kill_twenty_times import parameters

ROOT = Path(__file__).parent.parent
STEPS = 50


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")/"tokenizer"
    make_tokenizer(run=str(folder), vocab_size=700)
    return folder


def given(run, tokenizer, **changes): return parameters(run, tokenizer, STEPS) | changes


def stopped_at(step, params):
    "Run as from the command line, send SIGTERM after `step` steps; what it said, and its exit status."
    log = Path(params["run"])/"metrics.jsonl"
    job = subprocess.Popen([sys.executable, "-m", "hebrewgpt_nb.pretrain", *[x for k, v in params.items() for x in (f"--{k}", str(v))]], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while job.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < step): time.sleep(.01)
    assert job.poll() is None, job.stderr.read()
    job.send_signal(signal.SIGTERM)
    return job.communicate(timeout=120)[1], job.returncode


def losses(run): return [r["loss"] for r in read_jsonl(run/"metrics.jsonl")]


def weights(run): return load_file(run/"bundle"/"model.safetensors")


def test_one_process_then_two_or_back_give_the_same_weights_and_say_so(tokenizer, tmp_path, capfd):
    "One process throughout; and two with the model divided, told to stop, then one, told to stop, then two with a copy each. Dropout is on."
    pretrain(**given(tmp_path/"one", tokenizer))
    there = tmp_path/"turns"
    for step, how in ((8, dict(processes=2, fsdp=True)), (25, {})):
        said, status = stopped_at(step, given(there, tokenizer, **how))
        at = int(re.search(r"interrupted: pretrain was asked to stop, and left a checkpoint at step (\d+) of 50", said)[1])
        assert status == 130 and step <= at < 50 and Checkpoints(there/"checkpoints", {}).steps()[-1] == at
    report = pretrain(**given(there, tokenizer, processes=2))
    a, b = losses(tmp_path/"one"), losses(there)
    assert len(a) == len(b) == STEPS and max(abs(x - y) for x, y in zip(a, b)) < 1e-5
    assert report["kept"] in ("last", "averaged")
    one, turns = weights(tmp_path/"one"), weights(there)
    assert max((one[n] - turns[n]).abs().max() for n in one) < 1e-4
    assert re.search(r"pretrain: goes on from step \d+ with 2 processes after 1: sums are rounded in another order", capfd.readouterr().out)


def test_what_stops_one_of_several_is_one_line(tokenizer, tmp_path):
    with pytest.raises(UserError, match="4 rows of 128 do not divide among 3 processes"): pretrain(**given(tmp_path/"a", tokenizer, processes=3))
    (tmp_path/"b"/"checkpoints").mkdir(parents=True)
    Checkpoints(tmp_path/"b"/"checkpoints", {"lr": .5}).save(7, {})
    with pytest.raises(UserError, match="another configuration.*lr was 0.5, is 0.02"): pretrain(**given(tmp_path/"b", tokenizer, processes=2))
