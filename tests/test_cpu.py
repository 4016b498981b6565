"The step of one token in C: against PyTorch, for every shape and dtype, and without a compiler."
import copy, ctypes, os, shutil, subprocess, sys, threading
from pathlib import Path
from unittest.mock import patch
import pytest, torch
from hypothesis import given, settings, strategies as st
from peft import LoraConfig, get_peft_model
from hebrewgpt_nb.core import UserError
from hebrewgpt_nb import quantize
from hebrewgpt_nb.engine import cpu, fused
from hebrewgpt_nb.engine.cpu import MIN_MACS, MATVEC_MAX_ROWS, Matrix, Team, gemm, library, linear, matvec
from hebrewgpt_nb.engine.fused import kernel_identity
from hebrewgpt_nb.generate import next_logits
from hebrewgpt_nb.engine.blocks import Linear
from hebrewgpt_nb.quantize import DTYPES, quantize_for_decoding
from conftest import small

compiled = pytest.mark.skipif(not library(), reason="needs a C compiler")

def wild(pattern: str, **changes):
    "A model whose every parameter is random: a vector of ones would hide that it was forgotten."
    torch.manual_seed(1)
    model = small(pattern, **changes).eval()
    for name, p in model.named_parameters():
        if p.ndim == 1 and "A_log" not in name: torch.nn.init.normal_(p, 1., .3)
    return model

def random_weights(n: int, k: int, dtype: torch.dtype, g: torch.Generator): # and the scale of a row, for int8
    if dtype == torch.int8: return torch.randint(-127, 128, (n, k), generator=g, dtype=dtype), torch.rand(n, generator=g)
    return torch.randn(n, k, generator=g).to(dtype), None

def exact(x: torch.Tensor, w: torch.Tensor, scale) -> torch.Tensor: # x @ w.T in float64
    return x.double() @ w.double().T * (1 if scale is None else scale)

@compiled
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 300), st.integers(1, MATVEC_MAX_ROWS + 2), st.sampled_from(list(Matrix.KINDS)),
       st.sampled_from([1e-6, 1., 1e6]), st.integers(0, 99))
def test_products_of_any_shape(n, k, rows, dtype, size, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, k, generator=g) * size
    w, scale = random_weights(n, k, dtype, g)
    right, bound = exact(x, w, scale), exact(x.abs(), w.float().abs(), scale).clamp(min=1e-30)
    assert ((matvec(Matrix.of(w, scale), x) - right).abs() / bound).max() < (1e-3 if dtype == torch.int8 else 1e-5)

@compiled
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 300), st.integers(1, MATVEC_MAX_ROWS + 2), st.sampled_from(list(Matrix.KINDS)), st.integers(0, 99))
def test_a_product_has_the_same_bits_in_any_company(n, k, rows, dtype, seed):
    g = torch.Generator().manual_seed(seed)
    x, (w, scale) = torch.randn(rows, k, generator=g), random_weights(n, k, dtype, g)
    A = Matrix.of(w, scale)
    assert torch.equal(matvec(A, x), torch.cat([matvec(A, row) for row in x.split(1)]))

@compiled
@pytest.mark.parametrize("k", [64, 2752, 30_000])
def test_no_sum_of_int8_overflows(k):
    w, x = torch.full((3, k), 127, dtype=torch.int8), torch.ones(1, k) * 3
    torch.testing.assert_close(matvec(Matrix.of(w, torch.ones(3)), x), torch.full((1, 3), 381. * k), rtol=1e-3, atol=0)

def decoded(model, prompts: list, new: torch.Tensor): # (B, T) -> logits of every step
    caches = [model.make_cache(length=len(p)) for p in prompts]
    with torch.inference_mode():
        for p, cache in zip(prompts, caches): model(torch.tensor([p]), cache=cache, last_only=True)
        cache = model.make_cache(len(prompts), max(map(len, prompts)) + new.shape[1]).fill(caches)
        return torch.cat([model(new[:, i:i + 1], cache=cache) for i in range(new.shape[1])], 1)

@compiled
@pytest.mark.parametrize("pattern", ["A", "M", "AM", "MMA"])
@pytest.mark.parametrize("rows", [1, 3, MATVEC_MAX_ROWS])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_is_what_the_modules_do(pattern, rows, dtype):
    packed, g = quantize_for_decoding(wild(pattern), dtype), torch.Generator().manual_seed(rows)
    prompts = [torch.randint(7, 90, (5 + 3 * i,), generator=g).tolist() for i in range(rows)]
    new = torch.randint(7, 90, (rows, 12), generator=g)
    assert packed.step
    by_c, packed.step = decoded(packed, prompts, new), None
    modules = decoded(packed, prompts, new)
    assert (by_c - modules).norm() < (1e-3 if dtype == "int8" else 1e-5) * modules.norm()

@compiled
def test_shapes_that_divide_into_nothing():
    model = wild("AM", width=60, heads=3, head_dim=20, hidden=77, state=18, mamba_head=24, conv=3)
    packed, new = quantize_for_decoding(model, "float32"), torch.randint(7, 90, (2, 9))
    by_c, packed.step = decoded(packed, [[8, 9], [10, 11, 12]], new), None
    torch.testing.assert_close(by_c, decoded(packed, [[8, 9], [10, 11, 12]], new), rtol=1e-4, atol=1e-4)

@compiled
def test_threads_do_not_touch_each_other():
    packed, new = quantize_for_decoding(wild("AM"), "int8"), torch.randint(7, 90, (1, 60))
    alone, found = decoded(packed, [[8, 9, 10]], new), [None] * 4
    def work(i): found[i] = decoded(packed, [[8, 9, 10]], new)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    for one in found: torch.testing.assert_close(one, alone, rtol=1e-5, atol=1e-5)

@compiled
def test_a_full_cache_is_said():
    packed = quantize_for_decoding(wild("AM"), "int8")
    cache = packed.make_cache(length=3)
    with torch.inference_mode():
        packed(torch.tensor([[8, 9, 10]]), cache=cache)
        with pytest.raises(UserError, match="holds 3 tokens and is full"): packed(torch.tensor([[8]]), cache=cache)

@compiled
@pytest.mark.parametrize("where", ["blocks.0.mlp.down.weight", "blocks.1.mamba.D", "ln_f.weight"])
def test_ruined_weights_are_said(where):
    model = wild("AM")
    packed = quantize_for_decoding(model, "float32")
    cache = packed.make_cache(length=9)
    next_logits(packed, [8, 9], cache)
    weights = {**dict(packed.named_parameters()), **dict(packed.named_buffers())}
    with torch.no_grad(): weights[where].fill_(float("nan"))
    with pytest.raises(UserError, match="the scores are not numbers"): next_logits(packed, [8], cache)

@compiled
def test_a_copy_has_weights_of_its_own():
    packed = quantize_for_decoding(wild("AM"), "int8")
    other, new = copy.deepcopy(packed), torch.randint(7, 90, (1, 5))
    assert other.step is None and quantize_for_decoding(other, "int8").step
    torch.testing.assert_close(decoded(quantize_for_decoding(other, "int8"), [[8, 9]], new), decoded(packed, [[8, 9]], new))

@compiled
@pytest.mark.parametrize("kind", ["meta", torch.bfloat16, torch.float64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_step_reads_where_weights_were(kind, dtype):
    packed = quantize_for_decoding(wild("AM"), dtype)
    assert packed.step and packed.to(kind).step is None

WITHOUT = """
import torch
from hebrewgpt_nb.model import HebrewGPT, get_preset
from hebrewgpt_nb.quantize import quantize_for_decoding
torch.manual_seed(0)
model, tokens = HebrewGPT(get_preset("tiny")).eval(), torch.arange(8, 20)[None]
for dtype in ("int8", "bfloat16", "float32"):
    packed = quantize_for_decoding(model, dtype)
    assert packed.step is None
    cache = packed.make_cache()
    with torch.inference_mode():
        by_one = torch.cat([packed(tokens[:, i:i + 1], cache=cache) for i in range(12)], 1)
        assert (by_one - model(tokens)).norm() < .05 * model(tokens).norm()
"""

@pytest.mark.parametrize("cc", ["/no/such/compiler", "false"])
def test_without_a_compiler(cc, tmp_path):
    made = subprocess.run([sys.executable, "-c", WITHOUT], env=os.environ | dict(CC=cc, XDG_CACHE_HOME=str(tmp_path)), capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("decoding in C FALLBACK") == 1 and "install a C compiler" in made.stdout

TWICE = "int twice(int x) { return 2*x; }"

@pytest.fixture
def made(tmp_path, monkeypatch):
    "A compiled library, in a cache of its own."
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu.announce.cache_clear()
    return cpu.compile_c(TWICE)

@compiled
@pytest.mark.parametrize("harm", ["cut", "emptied", "a byte altered", "no checksum", "another checksum"])
def test_a_cut_or_altered_library_is_made_again(harm, made):
    whole, sums = made.read_bytes(), made.with_suffix(".sha256")
    if "checksum" not in harm: made.write_bytes({"cut": whole[:len(whole)//2], "emptied": b"", "a byte altered": whole[:700] + b"x" + whole[701:]}[harm])
    elif harm == "no checksum": sums.unlink(missing_ok=True)
    else: sums.write_text("0" * 64)
    before = made.stat().st_ino
    assert cpu.compile_c(TWICE) == made and made.read_bytes() == whole and made.stat().st_ino != before # not mended in place: another process may run it
    assert cpu.load_c.__wrapped__(TWICE).twice(21) == 42 and len(list(made.parent.iterdir())) == 2
    now = made.stat().st_ino
    assert cpu.compile_c(TWICE) == made and made.stat().st_ino == now # once is enough

@compiled
def test_a_library_killed_halfway_is_made_again(made, monkeypatch):
    "Between its move and that of its checksum, with an older checksum there."
    moves = os.replace
    def once(a, b): moves(a, b); raise KeyboardInterrupt
    made.write_bytes(b"another")
    monkeypatch.setattr(os, "replace", once)
    with pytest.raises(KeyboardInterrupt): cpu.compile_c(TWICE)
    monkeypatch.setattr(os, "replace", moves)
    assert cpu.load_c.__wrapped__(TWICE).twice(21) == 42

@compiled
def test_a_library_that_others_can_write_is_not_loaded(made, capsys):
    made.chmod(0o777)
    before = made.stat().st_ino
    assert cpu.compile_c(TWICE).stat().st_ino != before and not made.stat().st_mode & 0o022
    made.parent.chmod(0o777) # ours: closed again
    cpu.compile_c(TWICE)
    assert not made.parent.stat().st_mode & 0o022

@compiled
@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")
def test_a_library_of_another_user_is_not_loaded(made, capsys):
    os.chown(made, 54321, 54321)
    cpu.compile_c(TWICE)
    assert made.stat().st_uid == 0
    os.chown(made.parent, 54321, 54321)
    assert cpu.load_c.__wrapped__(TWICE) is None
    assert f"FALLBACK: {made.parent} belongs to another user" in capsys.readouterr().out

def executable(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path

@compiled
@pytest.mark.parametrize("kind", ["several words", "a name with a space", "version not UTF-8"])
def test_any_command_that_compiles_is_a_compiler(kind, tmp_path, monkeypatch):
    cc = next(filter(shutil.which, ("cc", "gcc", "clang")))
    odd = executable(tmp_path/"odd", f"[ \"$1\" = --version ] && printf 'gcc \\377\\376' && exit\nexec {cc} \"$@\"")
    spaced = executable(tmp_path/"my cc", f"exec {cc} \"$@\"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", {"several words": f"env -u NOTHING {cc}", "a name with a space": f"'{spaced}'", "version not UTF-8": str(odd)}[kind])
    assert cpu.load_c.__wrapped__(TWICE).twice(21) == 42

@pytest.mark.parametrize("env, reason", [
    (dict(CC="'gcc"), "CC is \"'gcc\": No closing quotation"), (dict(CC="/no/such/gcc"), "No such file or directory: '/no/such/gcc'"),
    (dict(XDG_CACHE_HOME="/dev/null/x"), "Not a directory: '/dev/null/x/hebrewgpt_nb'"), (dict(), "Could not determine home directory")])
def test_why_there_are_no_kernels_is_said(env, reason, tmp_path, monkeypatch, capsys):
    "Without a home, as a container's user id may be, it is a line like any other; it names training."
    def nobody(uid): raise KeyError(uid)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    for name in ("HOME", "XDG_CACHE_HOME", "CC"): monkeypatch.delenv(name, raising=False)
    if env: monkeypatch.setenv("HOME", str(tmp_path))
    if "CC" not in env: monkeypatch.setenv("CC", "echo") # answers --version on any machine
    for name, value in env.items(): monkeypatch.setenv(name, value)
    cpu.announce.cache_clear()
    assert cpu.load_c.__wrapped__(TWICE) is None
    said, = capsys.readouterr().out.splitlines()
    assert said.startswith("training and decoding in C FALLBACK: ") and reason in said and "install a C compiler" in said

@compiled
def test_kernels_have_a_name_by_what_they_compute(monkeypatch):
    "Another text that computes the same is the same kernel; sums in another order, of a product or of a scan, are another one."
    before = kernel_identity()
    monkeypatch.setitem(cpu.C_CODE, "norm", cpu.C_CODE["norm"] + "/* the same */")
    assert kernel_identity() == before and before.startswith("C ")
    for fragment, was, new in (("sizes", "KC = 384", "KC = 256"), ("real", "1.52527338e-5f", "1.5e-5f")):
        with monkeypatch.context() as m:
            m.setitem(cpu.C_CODE, fragment, cpu.C_CODE[fragment].replace(was, new))
            assert kernel_identity() != before and kernel_identity().startswith("C ")
    monkeypatch.setattr(cpu, "load_c", lambda source: None)
    assert kernel_identity() == f"PyTorch alone ({torch.backends.cpu.get_cpu_capability()})"

def transposed(t: torch.Tensor) -> torch.Tensor: return t.T.contiguous().T

@compiled
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 150), st.integers(1, 900), st.integers(1, 110), st.sampled_from(list(Matrix.KINDS)),
       st.booleans(), st.booleans(), st.integers(1, 4), st.integers(0, 99))
def test_products_of_many_rows(n, k, rows, dtype, turn_w, turn_x, threads, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, k, generator=g)
    w, scale = random_weights(n, k, dtype, g)
    right, bound = exact(x, w, scale), exact(x.abs(), w.float().abs(), scale)
    was = torch.get_num_threads()
    torch.set_num_threads(threads)
    A = Matrix.of(transposed(w) if turn_w and dtype == torch.float32 else w, scale)
    try: y = gemm(A, transposed(x) if turn_x else x)
    finally: torch.set_num_threads(was)
    assert ((y - right).abs() / bound.clamp(min=1e-30)).max() < 1e-5
    last = gemm(Matrix.of(w, scale), x[-1:].contiguous()) # what a row gives depends on no other row
    assert torch.equal(y[-1:], last)

@compiled
def test_what_is_no_number_stays_none():
    x, w = torch.randn(100, 900), torch.randn(50, 900)
    x[7, 500], w[3, 2] = float("nan"), float("inf")
    y = gemm(Matrix.of(w), x)
    assert y[7].isnan().all() and not y[:, 3].isfinite().any() and y.isnan().sum() == 50 and y.isfinite().sum() == 99 * 49

@compiled
@pytest.mark.parametrize("dtype", Matrix.KINDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_no_row_hides_what_is_no_number(dtype, bad):
    w, scale = random_weights(50, 90, dtype, torch.Generator().manual_seed(0))
    w[w == 0] = 1
    x = torch.randn(4, 90)
    x[2, 70] = bad
    y = matvec(Matrix.of(w, scale), x)
    assert not y[2].isfinite().any() and y[[0, 1, 3]].isfinite().all()

def cells_of_fragments() -> list[str]:
    "The exported cells that hold a fragment of the C source."
    texts = [Path(module.__file__).read_text(encoding="utf8") for module in (cpu, fused)]
    cells = [cell for text in texts for cell in text.split("\n# %% ")]
    return ["# %% " + cell for cell in cells if "\nC_CODE[" in cell]

@compiled
def test_a_cell_run_twice_replaces_its_fragment(capfd):
    cells, source = cells_of_fragments(), cpu.join_fragments(*cpu.C_CODE.items())
    assert len(cells) == len(cpu.C_CODE) > 20
    space = vars(cpu) | vars(fused) | dict(C_CODE=dict(cpu.C_CODE))
    for cell in cells:
        for _ in range(2): exec(cell, space)
    again = cpu.join_fragments(*space["C_CODE"].items())
    assert again == source and cpu.load_c(again).gemm and "FALLBACK" not in capfd.readouterr().out

@compiled
def test_an_edited_fragment_is_another_library(monkeypatch):
    "The hash of the library follows the text, and so does what it computes."
    before, x, y = library(), torch.ones(1, 4), torch.empty(1, 4)
    sizes = ctypes.c_float(0), ctypes.c_int64(4), ctypes.c_int64(1)
    def norm():
        library().norm(cpu.data_pointer(x), cpu.data_pointer(x), *sizes, cpu.data_pointer(y))
        return y[0, 0].item()
    assert norm() == 1
    monkeypatch.setitem(cpu.C_CODE, "norm", cpu.C_CODE["norm"].replace("yb[i] = xb[i]", "yb[i] = 3 * xb[i]"))
    assert norm() == 3 and library() is not before
    monkeypatch.undo()
    assert norm() == 1 and library() is before

@compiled
def test_a_wrong_fragment_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = cpu.join_fragments(("good", "int a;\n"), ("bad", "\nint b\n"))
    with pytest.raises(subprocess.CalledProcessError) as e: cpu.compile_c(source)
    assert "bad:" in e.value.stderr and "good:" not in e.value.stderr
    assert not list(tmp_path.rglob("*.so"))

@compiled
@pytest.mark.parametrize("layout", ["plain", "strided", "expanded", "adapter"])
def test_a_layer_learns_as_pytorch_s_does(layout):
    torch.manual_seed(0)
    layer = Linear(512, 1024)
    x = {"plain": torch.randn(2, 80, 512), "strided": torch.randn(512, 80, 2).mT.permute(1, 2, 0), "expanded": torch.randn(1, 80, 512).expand(2, 80, 512)}.get(layout, torch.randn(2, 80, 512)).requires_grad_()
    assert x.numel() * 1024 > MIN_MACS
    def learned(net):
        y = net(x)
        return y, *torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum() + y.sum(), (x, *[p for p in net.parameters() if p.requires_grad]))
    net = layer
    if layout == "adapter":
        net = get_peft_model(torch.nn.Sequential(layer), LoraConfig(r=4, target_modules=["0"], init_lora_weights=False))
    with pytest.MonkeyPatch.context() as m:
        called = []
        m.setattr("hebrewgpt_nb.engine.cpu.gemm", lambda *args: called.append(1) or gemm(*args))
        mine = learned(net)
        assert called
        m.setattr("hebrewgpt_nb.engine.blocks.linear", torch.nn.functional.linear)
        for a, b in zip(mine, learned(net)): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * b.abs().max().item())

def test_where_pytorch_is_asked():
    "Other dtypes, autocast, little work: the sums are those of F.linear, to the bit."
    x, w = torch.randn(200, 512), torch.randn(1024, 512)
    with torch.autocast("cpu", torch.bfloat16): assert linear(x, w).dtype == torch.bfloat16
    assert torch.equal(linear(x.double(), w.double()), torch.nn.functional.linear(x.double(), w.double()))
    assert torch.equal(linear(x[:5], w), torch.nn.functional.linear(x[:5], w)) and linear(x[:0], w).shape == (0, 1024)

@compiled
def test_a_default_dtype_or_device_changes_no_buffer():
    x, w = torch.randn(40, 60), torch.randn(50, 60)
    right = gemm(Matrix.of(w), x)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"): y = gemm(Matrix.of(w), x)
    finally: torch.set_default_dtype(torch.float32)
    assert torch.equal(y, right)

def test_threads_spin_no_longer_than_the_package_asks():
    "Unless somebody has asked for another number."
    for given, expected in [({}, "10000"), (dict(GOMP_SPINCOUNT="77"), "77")]:
        env = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"} | given
        code = "import os, sys, hebrewgpt_nb; assert 'torch' not in sys.modules; print(os.environ['GOMP_SPINCOUNT'])"
        assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stdout.split() == [expected]

@settings(max_examples=100)
@given(most=st.integers(1, 70), data=st.data())
def test_a_team_finds_the_quickest_size(most, data):
    "Whatever the others take, and again when all is otherwise."
    team, sizes = Team(most), [most >> i for i in range(most.bit_length())]
    for _ in range(2):
        seconds = dict(zip(sizes, data.draw(st.permutations([10. + i for i in range(len(sizes))]))))
        seconds[data.draw(st.sampled_from(sizes))] = 4.
        taken = []
        for _ in range(6000):
            taken.append(team.size)
            team.note(seconds[team.size])
        assert set(taken) <= set(sizes) and taken[-1000:].count(min(seconds, key=seconds.get)) > 900

@compiled
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_is_the_same_whatever_its_team(dtype):
    "To the last bit; and the team learns how long its steps take."
    model = quantize_for_decoding(wild("AM"), dtype)
    was = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for rows in (1, 3, 16):
            said = {}
            for size in (4, 2, 1):
                cache, team = model.make_cache(rows, 8), model.step.team(rows)
                with patch.object(team, "note", side_effect=lambda seconds, team=team, size=size: setattr(team, "size", size)) as note:
                    team.size = size
                    said[size] = torch.stack([next_logits(model, [[i + n] for i in range(rows)], cache) for n in range(5)])
                assert note.call_count == 5
            assert said[4].equal(said[2]) and said[4].equal(said[1])
    finally: torch.set_num_threads(was)

@compiled
def test_a_step_takes_the_threads_of_its_team():
    model, taken = quantize_for_decoding(wild("AM"), "int8"), []
    was = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with patch.object(quantize, "call_step", side_effect=lambda *args: taken.append(cpu.thread_count().value)):
            for _ in range(12): model.step(torch.zeros(1, 1, model.cfg.width), None, model.make_cache(1, 8))
    finally: torch.set_num_threads(was)
    assert taken == [4] * 4 + [2] * 4 + [1] * 4
