"""The optimizer against PyTorch's own, and in two processes against one."""
import copy
import pytest, torch, torch.distributed as dist, torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from hebrewgpt_nb.core import UserError
from hebrewgpt_nb.model import HebrewGPT, get_preset
from hebrewgpt_nb.training.optim import OPTIMIZERS, Muon, is_matrix, make_optimizer, orthogonalize, orthogonalize_all, to_full_tensor

SHAPES = [(24, 40), (40, 24), (16, 16), (24, 40), (24, 40), (96, 32)]


def matrices(seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=g) for s in SHAPES]


def steps(net, opt, n=7):
    "A few steps on fixed tokens; every process has the whole batch."
    tokens = torch.randint(97, (3, 17), generator=torch.Generator().manual_seed(1))
    for _ in range(n):
        torch.nn.functional.cross_entropy(net(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        opt.step(); opt.zero_grad()


def fresh():
    torch.manual_seed(0)
    return HebrewGPT(get_preset("tiny", vocab_size=97))


def in_two(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.set_num_threads(1)
    turned = orthogonalize_all(matrices())
    net = fresh()
    steps(net, make_optimizer("muon", net, .02, .005, lookahead=5))
    divided = fresh()
    for block in divided.blocks: fully_shard(block, mesh=init_device_mesh("cpu", (2,)))
    fully_shard(divided, mesh=init_device_mesh("cpu", (2,)))
    steps(divided, make_optimizer("muon", divided, .02, .005, lookahead=5))
    made = dict(turned=turned, net=net.state_dict(), divided={n: to_full_tensor(p).detach() for n, p in divided.named_parameters()})
    torch.save(made, f"{folder}/{rank}.pt")
    dist.barrier(); dist.destroy_process_group()


def test_two_processes_share_the_work_and_agree_with_one(tmp_path):
    mp.spawn(in_two, (str(tmp_path),), nprocs=2)
    net, turned = fresh(), orthogonalize_all(matrices())
    steps(net, make_optimizer("muon", net, .02, .005, lookahead=5))
    for rank in (0, 1):
        made = torch.load(tmp_path/f"{rank}.pt", weights_only=True)
        assert all(torch.equal(a, b) for a, b in zip(turned, made["turned"]))
        for name, p in net.named_parameters():
            torch.testing.assert_close(made["net"][name], p.detach(), rtol=0, atol=1e-6)
            torch.testing.assert_close(made["divided"][name], p.detach(), rtol=0, atol=1e-4) # its gradients were averaged


def test_the_same_operations_give_the_update_of_torch():
    ours = [torch.nn.Parameter(m) for m in matrices(1)]
    theirs = [torch.nn.Parameter(m) for m in matrices(1)]
    o, t = Muon(ours, lr=.03, weight_decay=.1, dtype=torch.bfloat16), torch.optim.Muon(theirs, lr=.03, weight_decay=.1)
    for seed in range(4):
        for p, q, g in zip(ours, theirs, matrices(seed + 2)): p.grad, q.grad = g.clone(), g.clone()
        o.step(); t.step()
        for p, q in zip(ours, theirs): assert torch.equal(p, q)


def test_a_stack_is_worked_on_as_each_alone():
    stack = torch.randn(5, 48, 80, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.bfloat16):
        apart = torch.stack([orthogonalize(m, dtype=dtype) for m in stack]).float()
        torch.testing.assert_close(orthogonalize(stack, dtype=dtype).float(), apart, rtol=0, atol=1e-6 if dtype == torch.float32 else .02)


def test_what_goes_to_adamw_is_no_matrix_of_a_block():
    names = {n.split(".", 2)[-1] for n, p in fresh().named_parameters() if not is_matrix(n, p)}
    assert names == {"weight", "ln1.weight", "ln2.weight", "mamba.A_log", "mamba.D", "mamba.conv1d.bias", "mamba.conv1d.weight", "mamba.dt_bias", "mamba.norm.weight"}


@pytest.mark.parametrize("weight_decay", [0., .1])
def test_adamw_is_that_of_torch_bit_for_bit(weight_decay):
    "Vectors have no weight decay; with none at all it is AdamW as it comes."
    ours, theirs = fresh(), fresh()
    vectors = [p for p in theirs.parameters() if p.dim() < 2]
    groups = [dict(params=[p for p in theirs.parameters() if p.dim() > 1]), dict(params=vectors, weight_decay=0.)]
    params = groups if weight_decay else theirs.parameters()
    steps(ours, make_optimizer("adamw", ours, adam_lr=.01, weight_decay=weight_decay))
    steps(theirs, torch.optim.AdamW(params, lr=.01, betas=(.9, .95), eps=1e-10, weight_decay=weight_decay))
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True): assert torch.equal(p, q), name


def test_adamw_takes_the_options_of_torch():
    ours, theirs = fresh(), fresh()
    how = dict(betas=(.9, .999), eps=1e-8, foreach=True)
    steps(ours, make_optimizer("adamw", ours, adam_lr=.01, weight_decay=0., **how))
    steps(theirs, torch.optim.AdamW(theirs.parameters(), lr=.01, weight_decay=0., **how))
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True): assert torch.equal(p, q)


def test_muon_and_adamw_each_move_their_own():
    "After one step what is no matrix is where torch's AdamW takes it, to the bit; matrices go the way of torch's Muon, up to what bfloat16 rounds."
    start, ours, theirs = fresh(), fresh(), fresh()
    rest = [p for n, p in theirs.named_parameters() if not is_matrix(n, p)]
    steps(ours, make_optimizer("muon", ours, .02, .005, weight_decay=0., qkv_parts=1), n=1)
    steps(theirs, torch.optim.AdamW(rest, lr=.005, betas=(.9, .95), eps=1e-10, weight_decay=0.), n=1)
    steps(muon := fresh(), torch.optim.Muon([p for n, p in muon.named_parameters() if is_matrix(n, p)], lr=.02, weight_decay=0.), n=1)
    for (name, p), q, r, s in zip(ours.named_parameters(), theirs.parameters(), muon.parameters(), start.parameters(), strict=True):
        if is_matrix(name, p): assert torch.cosine_similarity((p - s).flatten(), (r - s).flatten(), 0) > .97, name
        else: assert torch.equal(p, q), name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_factor_scales_the_peaks_and_a_state_goes_on(name):
    net, twin = fresh(), fresh()
    opt, other = (make_optimizer(name, m, .02, .005, lookahead=3) for m in (net, twin))
    opt.set_lr(.5)
    assert [g["lr"] for g in opt.param_groups] == [.5 * g["initial_lr"] for g in opt.param_groups]
    steps(net, opt, n=4)
    twin.load_state_dict(net.state_dict()); other.load_state_dict(copy.deepcopy(opt.state_dict()))
    steps(net, opt, n=4); steps(twin, other, n=4)
    for p, q in zip(net.parameters(), twin.parameters()): assert torch.equal(p, q)


def test_an_unknown_optimizer_is_one_line():
    with pytest.raises(UserError, match="optimizer is 'lion': choose one of muon, adamw"): make_optimizer("lion", fresh())
