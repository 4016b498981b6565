"The kernels of a GPU, called as on a GPU, without one: what tests/kernels_on_cpu.py prints."
import importlib.metadata, json, os, subprocess, sys
from pathlib import Path
import pytest
from hebrewgpt_nb.engine.scan import import_part

ROOT = Path(__file__).parent.parent
KERNELS = ROOT/"build"/"kernels" # of `make kernels`
NEEDED = ("triton", "mamba-ssm", "causal-conv1d", "einops")
TOLERANCE = {"fp32": 1e-5, "bf16": .03} # of bfloat16, whose products and outputs are rounded to 8 bits, and of float32

SCANS = ["scan documents", "scan state", "scan documents bf16"]
OTHERS = ["step", "step bf16", "conv", "conv documents", "conv documents bf16"]
MODELS = ["model scores", "model cache", "model documents", "model gradient", "model gradient bf16", "model documents bf16 conv plain"]
WRONG = ["documents not passed", "documents a token late", "B and C exchanged", "heads exchanged", "state transposed", "last state transposed",
         "documents not passed to the convolution"]

def missing_packages(places: list[str]) -> list[str]:
    found = {name: next(iter(importlib.metadata.distributions(name=name, path=places)), None) for name in NEEDED}
    missing = [name for name, package in found.items() if not package]
    if found["triton"] and tuple(map(int, found["triton"].version.split(".")[:2])) < (3, 7): missing.append("triton 3.7, the first whose interpreter runs beside numpy 2.4")
    return missing

@pytest.fixture(scope="module")
def errors(): # case -> output -> relative error
    missing = missing_packages([str(KERNELS), *sys.path])
    if missing: pytest.skip(f"{', '.join(missing)}: not here; `make kernels` installs what a GPU's kernels need without one, in build/kernels (200 MB to load)")
    env = os.environ | dict(PYTHONPATH=os.pathsep.join(map(str, (KERNELS, ROOT))), OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, ROOT/"tests"/"kernels_on_cpu.py"], capture_output=True, text=True, env=env)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1])

def within(errors, case): return {name: error for name, error in errors[case].items() if name != "called" and not error <= TOLERANCE["bf16" if "bf16" in case else "fp32"]}

def test_every_case_is_looked_at(errors):
    assert set(errors) == {*SCANS, *OTHERS, *MODELS, *(f"wrong: {name}" for name in WRONG)}

@pytest.mark.parametrize("case", SCANS)
def test_the_scan_and_its_gradients(errors, case):
    names = "y S dx ddt dA dB dC".split() + (["dS"] if "state" in case else [])
    assert list(errors[case]) == names and not within(errors, case)

@pytest.mark.parametrize("case", OTHERS)
def test_the_step_and_the_convolution(errors, case):
    assert list(errors[case]) == (["y", "S"] if "step" in case else ["y", "dx", "dweight", "dbias"]) and not within(errors, case)

@pytest.mark.parametrize("case", MODELS)
def test_a_hybrid_model_by_the_kernels(errors, case):
    called = dict(conv=21, scan=1, step=20) if "cache" in case else dict(scan=1) if "conv plain" in case else dict(conv=1, scan=1)
    assert errors[case]["called"] == called and not within(errors, case)

@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_is_caught(errors, case):
    [error] = errors[f"wrong: {case}"].values()
    assert error > .1

def test_what_is_missing_is_named(tmp_path):
    (tmp_path/"triton-3.6.0.dist-info").mkdir()
    (tmp_path/"triton-3.6.0.dist-info"/"METADATA").write_text("Metadata-Version: 2.1\nName: triton\nVersion: 3.6.0\n")
    assert missing_packages([str(tmp_path)]) == ["mamba-ssm", "causal-conv1d", "einops", "triton 3.7, the first whose interpreter runs beside numpy 2.4"]

def test_a_package_without_its_compiled_part(tmp_path, monkeypatch):
    "mamba_ssm installed without nvcc: its own `__init__` fails, its Triton modules do not need it."
    package = tmp_path/"half_a_package"
    (package/"ops").mkdir(parents=True)
    (package/"__init__.py").write_text("from .ops import compiled")
    (package/"ops"/"__init__.py").write_text("")
    (package/"ops"/"compiled.py").write_text("import compiled_with_nvcc")
    (package/"ops"/"kernel.py").write_text("from half_a_package.ops import __name__ as above")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert import_part("half_a_package.ops.kernel").above == "half_a_package.ops"
    with pytest.raises(ModuleNotFoundError, match="compiled_with_nvcc"): import_part("half_a_package.ops.compiled")
    with pytest.raises(ModuleNotFoundError, match="compiled_with_nvcc"): import half_a_package
