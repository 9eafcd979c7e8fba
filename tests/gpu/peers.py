#!/usr/bin/env python3
"""What torch and Triton take for the same cells, for tests/gpu/run bench.

First line out: `ready`, or `absent WHY`. Then for each line `NAME KIND key=value... peers=A,B` of
standard input one line: `cell NAME A=SECONDS B!WHY!`. Peers:
    torch    product: a matrix product (cuBLASLt); weights=fp8: torch._scaled_mm.
             experts: two grouped products (torch._grouped_mm), silu(gate) * up between them; rows
             are already sorted, so without the routing that ours does as well
    flash, cudnn   causal attention by torch's backends of these names
    triton   experts: a fused mixture kernel written here: a program for each tile of an expert's
             rows, products by tl.dot; bf16 weights, or fp8 or 4 bits (a scale in f16 for 32, as
             Q4_0) with bf16 rows
Inputs are random. A captured graph is timed where it can be, as ours is. Weights and rows are far
larger than caches, or each call takes others in turn, as with ours.
"""
import statistics
import sys
import time

ROUNDS = 9
GRAPH_SECONDS = 0.01
DEVICE = "cuda"

try:
    import torch
    import torch.nn.functional as F
    ABSENT = "" if torch.cuda.is_available() else "torch sees no card"
except ImportError as error:
    ABSENT = f"no torch: {error}"


def timed(work, calls_max: int = 64) -> float:
    """Seconds of one call work(index): the median of rounds."""
    for index in range(3):
        work(index)
    torch.cuda.synchronize()
    start = time.monotonic()
    work(0)
    torch.cuda.synchronize()
    once = time.monotonic() - start
    calls = max(1, min(calls_max, int(GRAPH_SECONDS / once)))
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for index in range(calls):
                work(index)
        launch = graph.replay
    except RuntimeError:  # what cannot be captured
        torch.cuda.synchronize()

        def launch():
            for index in range(calls):
                work(index)
    seconds = []
    for _ in range(ROUNDS + 1):
        torch.cuda.synchronize()
        start = time.monotonic()
        launch()
        torch.cuda.synchronize()
        seconds.append((time.monotonic() - start) / calls)
    return statistics.median(seconds[1:])


def random_bf16(*shape):
    return torch.randn(*shape, device=DEVICE, dtype=torch.bfloat16) * 0.02


def of_type(tensor, weights: str):
    if weights == "bf16":
        return tensor
    if weights == "fp8":
        return (tensor * 64).to(torch.float8_e4m3fn)
    raise ValueError(f"no peer has weights of {weights}")


def product(keys: dict) -> float:
    n, k, rows, weights = keys["n"], keys["k"], keys["rows"], keys["weights"]
    weight, row = of_type(random_bf16(n, k), weights), of_type(random_bf16(rows, k), weights)
    if weights == "bf16":
        return timed(lambda _: row @ weight.t())
    one = torch.ones((), device=DEVICE)
    return timed(lambda _: torch._scaled_mm(row, weight.t(), scale_a=one, scale_b=one,
                                            out_dtype=torch.bfloat16))


def routed(keys: dict) -> tuple:
    """(expert of each pair, sorted; the row of each; where each expert's pairs end)"""
    rows, experts, top_k = keys["rows"], keys["experts"], keys["top_k"]
    chosen = torch.rand(rows, experts, device=DEVICE).topk(top_k, dim=1).indices.flatten()
    order = chosen.argsort(stable=True)
    ends = torch.bincount(chosen, minlength=experts).cumsum(0).to(torch.int32)
    return chosen[order].to(torch.int32), (order // top_k).to(torch.int32), ends


def grouped(keys: dict) -> float:
    if keys["weights"] != "bf16":
        raise ValueError("torch's grouped products are measured with bf16 weights alone")
    experts, hidden, ffn = keys["experts"], keys["hidden"], keys["ffn"]
    gate_up, down = random_bf16(experts, hidden, 2 * ffn), random_bf16(experts, ffn, hidden)
    _, row_of, ends = routed(keys)
    rows = random_bf16(keys["rows"], hidden)[row_of.long()]

    def work(_):
        gate, up = torch._grouped_mm(rows, gate_up, offs=ends).chunk(2, dim=1)
        torch._grouped_mm(F.silu(gate) * up, down, offs=ends)
    return timed(work, 16)


def attention(keys: dict, backend: str) -> float:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    wanted = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}[backend]
    rows, size = keys["rows"], keys["head_dim"]
    q = random_bf16(1, keys["heads"], rows, size)
    k, v = (random_bf16(1, keys["kv_heads"], rows, size) for _ in range(2))

    def work(_):
        with sdpa_kernel([wanted]):
            F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return timed(work, 16)


# ---- a fused mixture in Triton ----

TILE_ROWS, TILE_OUT, TILE_IN = 16, 64, 128


def four_bits(experts: int, out_count: int, in_count: int) -> tuple:
    """Random (bytes [expert][out][in / 2], scales [expert][out][in / 32]): of TILE_IN columns byte
    j holds column j below and column j + TILE_IN / 2 above."""
    return (torch.randint(0, 256, (experts, out_count, in_count // 2), device=DEVICE,
                          dtype=torch.uint8),
            torch.rand(experts, out_count, in_count // 32, device=DEVICE).half() * 0.01)


def kernels() -> tuple:
    """Compiled late: without triton the other peers still run. Kernels see globals alone."""
    global tl, half
    import triton
    import triton.language as tl

    @triton.jit
    def half(bytes_, scales, column, n, first, HIGH: tl.constexpr, K: tl.constexpr):
        """Half of K columns of a matrix of 4 bits [*][n], widened: [K / 2][columns]"""
        j = tl.arange(0, K // 2)[:, None]
        place = column[None, :].to(tl.int64)
        byte = tl.load(bytes_ + place * (n // 2) + first // 2 + j)
        scale = tl.load(scales + place * (n // 32) + (first + HIGH * (K // 2) + j) // 32)
        value = (byte >> (4 * HIGH)) & 15
        return ((value.to(tl.float32) - 8) * scale.to(tl.float32)).to(tl.bfloat16)

    @triton.jit
    def gate_up_tile(rows, weights, scales, out, tile_expert, tile_first, tile_end, row_of, hidden,
                     ffn, FOUR: tl.constexpr, R: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
        """out[pair][ffn] = silu(gate) * up of one expert's rows; weights [expert][2 ffn][hidden]"""
        tile, column = tl.program_id(0), tl.program_id(1) * N + tl.arange(0, N)
        expert = tl.load(tile_expert + tile).to(tl.int64)
        pair = tl.load(tile_first + tile) + tl.arange(0, R)
        there = pair < tl.load(tile_end + tile)
        row = tl.load(row_of + pair, mask=there, other=0).to(tl.int64)
        gate = tl.zeros((R, N), dtype=tl.float32)
        up = tl.zeros((R, N), dtype=tl.float32)
        base = weights + expert * 2 * ffn * (hidden // 2 if FOUR else hidden)
        scales += expert * 2 * ffn * (hidden // 32)
        for first in range(0, hidden, K):
            if FOUR:
                for HIGH in tl.static_range(2):
                    k = first + HIGH * (K // 2) + tl.arange(0, K // 2)
                    x = tl.load(rows + row[:, None] * hidden + k[None, :], mask=there[:, None],
                                other=0)
                    gate = tl.dot(x, half(base, scales, column, hidden, first, HIGH, K), gate)
                    up = tl.dot(x, half(base, scales, ffn + column, hidden, first, HIGH, K), up)
            else:
                k = first + tl.arange(0, K)
                x = tl.load(rows + row[:, None] * hidden + k[None, :], mask=there[:, None], other=0)
                g = tl.load(base + column[None, :].to(tl.int64) * hidden + k[:, None])
                u = tl.load(base + (ffn + column)[None, :].to(tl.int64) * hidden + k[:, None])
                gate = tl.dot(x, g.to(tl.bfloat16), gate)
                up = tl.dot(x, u.to(tl.bfloat16), up)
        value = gate * tl.sigmoid(gate) * up
        tl.store(out + pair[:, None].to(tl.int64) * ffn + column[None, :], value.to(tl.bfloat16),
                 mask=there[:, None])

    @triton.jit
    def down_tile(pairs, weights, scales, shares, out, tile_expert, tile_first, tile_end, row_of,
                  hidden, ffn, FOUR: tl.constexpr, R: tl.constexpr, N: tl.constexpr,
                  K: tl.constexpr):
        """out[row] += share * pairs[pair] by down; weights [expert][hidden][ffn]"""
        tile, column = tl.program_id(0), tl.program_id(1) * N + tl.arange(0, N)
        expert = tl.load(tile_expert + tile).to(tl.int64)
        pair = tl.load(tile_first + tile) + tl.arange(0, R)
        there = pair < tl.load(tile_end + tile)
        sums = tl.zeros((R, N), dtype=tl.float32)
        base = weights + expert * hidden * (ffn // 2 if FOUR else ffn)
        scales += expert * hidden * (ffn // 32)
        for first in range(0, ffn, K):
            if FOUR:
                for HIGH in tl.static_range(2):
                    k = first + HIGH * (K // 2) + tl.arange(0, K // 2)
                    x = tl.load(pairs + pair[:, None].to(tl.int64) * ffn + k[None, :],
                                mask=there[:, None], other=0)
                    sums = tl.dot(x, half(base, scales, column, ffn, first, HIGH, K), sums)
            else:
                k = first + tl.arange(0, K)
                x = tl.load(pairs + pair[:, None].to(tl.int64) * ffn + k[None, :],
                            mask=there[:, None], other=0)
                w = tl.load(base + column[None, :].to(tl.int64) * ffn + k[:, None])
                sums = tl.dot(x, w.to(tl.bfloat16), sums)
        row = tl.load(row_of + pair, mask=there, other=0).to(tl.int64)
        share = tl.load(shares + pair, mask=there, other=0)
        tl.atomic_add(out + row[:, None] * hidden + column[None, :], sums * share[:, None],
                      mask=there[:, None])

    return gate_up_tile, down_tile


def tiles(ends) -> tuple:
    """(expert, first pair, end) of each tile; made on the host, and not in the time."""
    found, first = [], 0
    for expert, end in enumerate(ends.tolist()):
        found += [(expert, at, end) for at in range(first, end, TILE_ROWS)]
        first = end
    return tuple(torch.tensor(part, device=DEVICE, dtype=torch.int32) for part in zip(*found))


class Mixture:
    """A fused mixture with random weights; run() leaves its output in `out`."""

    def __init__(self, keys: dict):
        self.gate_up_tile, self.down_tile = kernels()
        experts, self.hidden, self.ffn = keys["experts"], keys["hidden"], keys["ffn"]
        self.four = keys["weights"] == "q4_0"
        shapes = (experts, 2 * self.ffn, self.hidden), (experts, self.hidden, self.ffn)
        if self.four:
            (self.gate_up, self.up_scales), (self.down, self.down_scales) = (four_bits(*shape)
                                                                           for shape in shapes)
        else:
            self.gate_up, self.down = (of_type(random_bf16(*shape), keys["weights"])
                                       for shape in shapes)
            self.up_scales, self.down_scales = self.gate_up, self.down  # not looked at
        self.experts_of, self.row_of, ends = routed(keys)
        self.rows, n_pairs = random_bf16(keys["rows"], self.hidden), len(self.row_of)
        self.between = torch.empty(n_pairs, self.ffn, device=DEVICE, dtype=torch.bfloat16)
        self.shares = torch.full((n_pairs,), 1 / keys["top_k"], device=DEVICE)
        self.out = torch.zeros(keys["rows"], self.hidden, device=DEVICE)
        self.where = tiles(ends)

    def run(self, _=0) -> None:
        shape = dict(FOUR=self.four, R=TILE_ROWS, N=TILE_OUT, K=TILE_IN, num_stages=4)
        self.out.zero_()
        self.gate_up_tile[(len(self.where[0]), self.ffn // TILE_OUT)](
            self.rows, self.gate_up, self.up_scales, self.between, *self.where, self.row_of,
            self.hidden, self.ffn, **shape)
        self.down_tile[(len(self.where[0]), self.hidden // TILE_OUT)](
            self.between, self.down, self.down_scales, self.shares, self.out, *self.where,
            self.row_of, self.hidden, self.ffn, **shape)


def fused(keys: dict) -> float:
    return timed(Mixture(keys).run, 16)


def peer(name: str, kind: str, keys: dict) -> float:
    if name in ("flash", "cudnn") and kind == "prefill":
        return attention(keys, name)
    if name == "torch" and kind == "product":
        return product(keys)
    if name == "torch" and kind == "experts":
        return grouped(keys)
    if name == "triton" and kind == "experts":
        return fused(keys)
    raise ValueError(f"{name} has no {kind}")


def answer(line: str) -> str:
    name, kind, *words = line.split()
    texts = dict(word.split("=", 1) for word in words)
    keys = {key: int(text) if text.isdigit() else text for key, text in texts.items()}
    told = []
    for which in texts["peers"].split(","):
        try:
            told.append(f"{which}={peer(which, kind, keys):.9g}")
        except Exception as error:  # of whatever kind: the peer has no figure, and says why
            why = " ".join(f"{type(error).__name__}: {error}".replace("!", ".").split())
            told.append(f"{which}!{why[:200]}!")
        torch.cuda.empty_cache()
    return f"cell {name} {' '.join(told)}"


def main() -> None:
    print(f"absent {ABSENT}" if ABSENT else "ready", flush=True)
    for line in sys.stdin if not ABSENT else ():
        print(answer(line), flush=True)


if __name__ == "__main__":
    main()
