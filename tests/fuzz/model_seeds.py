"""Seeds for the fuzz targets that read model files and steps:
corpus/{gguf,safetensors,packed,arch,step}.

    model_seeds.py

Small and mostly right, so that a change of a few bytes gets far. The shapes are those of
tests/unit/checkpoint.h, the limits those of step_fuzz.c.
"""

import json
import struct
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
PACK = {
    U8: "<B",
    I8: "<b",
    U16: "<H",
    I16: "<h",
    U32: "<I",
    I32: "<i",
    F32: "<f",
    BOOL: "<B",
    U64: "<Q",
    I64: "<q",
    F64: "<d",
}


def write(target: str, name: str, data: bytes) -> None:
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def scalar(kind: int, value) -> bytes:
    return text(value) if kind == STRING else struct.pack(PACK[kind], value)


def key(name: str, kind: int, value, element: int = 0) -> bytes:
    head = text(name) + struct.pack("<I", kind)
    if kind != ARRAY:
        return head + scalar(kind, value)
    return (
        head + struct.pack("<IQ", element, len(value)) + b"".join(scalar(element, v) for v in value)
    )


def gguf(
    keys: list[bytes], tensors: list[tuple[str, int, list[int], int]], align: int = 32
) -> bytes:
    """tensors: name, type, dims (contiguous first), bytes."""
    infos, data = b"", b""
    for name, kind, dims, size in tensors:
        data += bytes(-len(data) % align)
        infos += text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        infos += struct.pack("<IQ", kind, len(data))
        data += bytes(i % 61 for i in range(size))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + infos
    return head + (bytes(-len(head) % align) if data else b"") + data


def llama_keys(experts: int) -> list[bytes]:
    counts = {
        "block_count": 1,
        "embedding_length": 32,
        "attention.head_count": 2,
        "attention.head_count_kv": 1,
        "feed_forward_length": 32,
        "context_length": 64,
        "rope.dimension_count": 16,
    }
    if experts:
        counts |= {"expert_count": experts, "expert_used_count": 1}
    keys = [key("general.architecture", STRING, "llama")]
    keys += [key("llama." + name, U32, value) for name, value in counts.items()]
    keys.append(key("llama.attention.layer_norm_rms_epsilon", F32, 1e-5))
    keys.append(key("llama.rope.freq_base", F32, 1e4))
    keys.append(key("tokenizer.ggml.tokens", ARRAY, ["a", "b", "cd", ""], STRING))
    keys.append(key("tokenizer.ggml.token_type", ARRAY, [1, 1, 1, 3], I32))
    return keys


def llama_tensors(experts: int) -> list[tuple[str, int, list[int], int]]:
    f32, q8, q4_0, q4_1, f16 = 0, 8, 2, 3, 1
    tensors = [
        ("token_embd.weight", q8, [32, 4], 4 * 34),
        ("output_norm.weight", f32, [32], 128),
        ("blk.0.attn_norm.weight", f32, [32], 128),
        ("blk.0.attn_q.weight", q4_0, [32, 32], 32 * 18),
        ("blk.0.attn_k.weight", q4_1, [32, 16], 16 * 20),
        ("blk.0.attn_v.weight", q8, [32, 16], 16 * 34),
        ("blk.0.attn_output.weight", f16, [32, 32], 2048),
        ("blk.0.ffn_norm.weight", f32, [32], 128),
    ]
    if experts:
        tensors.append(("blk.0.ffn_gate_inp.weight", f32, [32, experts], experts * 128))
    for name in ("gate", "up", "down"):
        shape, size = ([32, 32, experts], experts * 576) if experts else ([32, 32], 576)
        tensors.append((f"blk.0.ffn_{name}{'_exps' if experts else ''}.weight", q4_0, shape, size))
    return tensors


def safetensors(header: dict, size: int) -> bytes:
    line = json.dumps(header, separators=(",", ":")).encode()
    line += b" " * (-len(line) % 8)
    return struct.pack("<Q", len(line)) + line + bytes(i % 61 for i in range(size))


def tensor(dtype: str, shape: list[int], begin: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def configs() -> dict[str, dict]:
    llama = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "head_dim": None,
        "hidden_act": "silu",
        "hidden_size": 64,
        "intermediate_size": 96,
        "max_position_embeddings": 512,
        "mlp_bias": False,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
        "vocab_size": 320,
    }
    mixtral = {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "hidden_size": 48,
        "head_dim": 8,
        "intermediate_size": 24,
        "max_position_embeddings": 512,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "vocab_size": 320,
        "rope_theta": 1e6,
    }
    scaled = llama | {
        "rope_parameters": None,
        "rope_theta": 5e5,
        "head_dim": 16,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    }
    linear = llama | {"rope_parameters": {"rope_type": "linear", "factor": 2.0}, "mlp_bias": True}
    mistral = llama | {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": 64,
    }
    group = {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}
    packings = {
        "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
        "rows8": {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "config_groups": {"group_0": group},
        },
        "gptq": {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": 128,
            "sym": True,
            "checkpoint_format": "gptq_v2",
        },
        "awq": {
            "quant_method": "awq",
            "bits": 4,
            "group_size": -1,
            "zero_point": True,
            "version": "gemm",
        },
    }
    packed = {name: llama | {"quantization_config": each} for name, each in packings.items()}
    return packed | {
        "llama": llama,
        "mixtral": mixtral,
        "scaled": scaled,
        "linear": linear,
        "mistral": mistral,
    }


def packed() -> dict[str, bytes]:
    """A matrix in each layout of packed_fuzz.c, after the byte that picks it."""
    eight = {
        "a.weight": tensor("F8_E4M3", [4, 128], 8, 520),
        "a.weight_scale_inv": tensor("F32", [2, 1], 0, 8),
    }
    row = {
        "a.weight": tensor("F8_E4M3", [2, 40], 0, 80),
        "a.weight_scale": tensor("BF16", [2, 1], 80, 84),
    }
    gptq = {
        "a.qweight": tensor("I32", [8, 8], 0, 256),
        "a.qzeros": tensor("I32", [2, 1], 256, 264),
        "a.g_idx": tensor("I32", [64], 264, 520),
        "a.scales": tensor("F16", [2, 8], 520, 552),
    }
    symmetric = {
        "a.qweight": tensor("I32", [4, 8], 0, 128),
        "a.qzeros": tensor("I32", [1, 1], 128, 132),
        "a.scales": tensor("F32", [1, 8], 132, 164),
    }
    awq = {
        "a.qweight": tensor("I32", [64, 1], 0, 256),
        "a.qzeros": tensor("I32", [1, 1], 256, 260),
        "a.scales": tensor("F16", [1, 8], 260, 276),
    }
    in_order = b"".join(struct.pack("<i", i // 32) for i in range(64))
    plain = safetensors(gptq, 552)
    ordered = plain[:-288] + in_order + plain[-32:]
    return {
        "blocks": b"\1" + safetensors(eight, 520),
        "rows": b"\0" + safetensors(row, 84),
        "gptq": b"\2" + ordered,
        "symmetric": b"\3" + safetensors(symmetric, 128)
        + struct.pack("<I8f", 0x88888888, *[0.5] * 8),
        "awq": b"\4" + safetensors(awq, 276),
    }


SLOTS, ROWS, OPEN_TOKENS, BLOCKS, SLOT_BLOCKS = 3, 4, 64, 6, 3
HISTORY, LAST, NONE = 0, 1, 0xFFFFFFFF


def sampling(
    temperature=0.0,
    top_p=1.0,
    top_k=0,
    n_logprobs=0,
    seed=1,
    min_p=0.0,
    penalties=(0.0, 0.0, 0.0),
    min_tokens=0,
    n_biases=0,
    n_holds=0,
) -> bytes:
    """penalties: repetition, presence, frequency."""
    return struct.pack(
        "<ffIIffffIIIIQ",
        *(temperature, top_p, top_k, n_logprobs, min_p, *penalties),
        *(min_tokens, n_biases, n_holds, 0, seed),
    )


def row(slot, first, n, source=HISTORY, samples=0, n_blocks=0, blocks_first=0) -> bytes:
    return struct.pack("<8IQ", slot, first, n, source, samples, n_blocks, blocks_first, NONE, 0)


def step(
    number, closes=(), opens=(), copies=(), rows=(), tokens=(), blocks=(), entries=()
) -> bytes:
    """opens: slot, n_tokens, tokens_first, n_blocks, blocks_first, sampling (, cached_tokens,
    output_tokens, entries_first, behind_blocks). entries: id, value.

    Arrays are as long as given.
    """
    body, offsets, head_size = b"", [], 88
    parts = [
        b"".join(struct.pack("<I", c) for c in closes),
        b"".join(struct.pack("<10I", *o[:5], 0, *(o[6:] + (0,) * 4)[:4]) + o[5] for o in opens),
        b"".join(struct.pack("<2I", *c) for c in copies),
        b"".join(rows),
        b"".join(struct.pack("<I", t) for t in tokens),
        b"".join(struct.pack("<I", b) for b in blocks),
        b"".join(struct.pack("<If", *e) for e in entries),
    ]
    for part in parts:
        offsets.append(head_size + len(body))
        body += part + bytes(-len(part) % 8)
    counts = [len(each) for each in (closes, opens, copies, rows, tokens, blocks, entries)]
    head = struct.pack("<IIQQQ14I", 4, head_size + len(body), number, 1, 0, *counts, *offsets)
    return head + body


def steps() -> dict[str, bytes]:
    start = step(
        1,
        opens=[(0, 5, 0, 1, 0, sampling()), (2, 18, 5, 0, 0, sampling(0.8, 0.9, 5, 3, 7))],
        rows=[row(0, 0, 5, samples=1), row(2, 0, 8, n_blocks=1, blocks_first=1)],
        tokens=[i % 40 for i in range(23)],
        blocks=[4, 1],
    )
    more = step(
        2,
        copies=[(4, 5)],
        blocks=[3],
        rows=[row(0, 5, 1, LAST, 1), row(2, 8, 10, n_blocks=1, samples=1)],
    )
    swap = step(
        3,
        closes=[0],
        opens=[(0, 7, 0, 1, 0, sampling(n_logprobs=20))],
        tokens=range(7),
        blocks=[2],
        rows=[row(2, 18, 1, HISTORY, 1), row(0, 0, 3, samples=1), row(0, 3, 4, samples=1)],
    )
    share = step(
        1,
        closes=[2],
        opens=[(2, 20, 0, 1, 0, sampling(), 16)],
        tokens=range(20),
        blocks=[1, 3],
        rows=[row(2, 16, 4, n_blocks=1, blocks_first=1, samples=1)],
    )
    every_way = sampling(
        *(0.9, 0.8, 10, 2, 5), 0.02, (1.3, 0.5, -0.25), min_tokens=4, n_biases=2, n_holds=1
    )
    penalties = step(
        1,
        opens=[(1, 9, 0, 1, 0, every_way, 0, 3, 1), (0, 2, 1, 1, 1, every_way)],
        tokens=range(9),
        blocks=[1, 3],
        rows=[row(1, 0, 9, samples=1), row(0, 0, 2, samples=1)],
        entries=[(7, -3.0), (2, 1.5), (8, 100.0), (3, 0.0)],
    )
    penalties += step(2, rows=[row(1, 9, 1, LAST, 1), row(0, 2, 1, LAST, 1)])
    # Position 30 reads 19 and on: block 0 need not be there.
    behind = step(
        1,
        opens=[(1, 40, 0, 2, 0, sampling(), 30, 0, 0, 1)],
        tokens=range(40),
        blocks=[5, 2],
        rows=[row(1, 30, 10, samples=1)],
    )
    behind += step(2, rows=[row(1, 40, 1, LAST, 1)]) + step(3, rows=[row(1, 41, 1, LAST, 1)])
    close = step(4, closes=[0, 2])
    return {
        "penalties": penalties,
        "behind": behind,
        "start": start,
        "two": start + more,
        "four": start + more + swap + close,
        "share": start + share,
        "empty": step(1),
    }


def main() -> None:
    write("gguf", "llama", gguf(llama_keys(0), llama_tensors(0)))
    write("gguf", "mixture", gguf(llama_keys(2), llama_tensors(2)))
    kinds = [key(f"k{kind}", kind, "text" if kind == STRING else 1) for kind in PACK | {STRING: ""}]
    lists = [key(f"l{kind}", ARRAY, [1, 0], kind) for kind in PACK]
    write(
        "gguf",
        "kinds",
        gguf(kinds + lists + [key("general.alignment", U32, 64)], [("t", 30, [8, 2], 32)], 64),
    )
    write("gguf", "empty", gguf([], []))
    write(
        "safetensors",
        "three",
        safetensors(
            {
                "__metadata__": {"format": "pt"},
                "b": tensor("F32", [2, 3], 0, 24),
                "a": tensor("BF16", [4], 24, 32),
                "s": tensor("I64", [], 32, 40),
            },
            40,
        ),
    )
    write(
        "safetensors",
        "types",
        safetensors(
            {
                "x": tensor("F16", [2, 2], 0, 8),
                "y": tensor("U8", [1, 1, 1, 4], 8, 12),
                "z": tensor("BOOL", [4], 12, 16),
            },
            16,
        ),
    )
    write("safetensors", "empty", safetensors({}, 0))
    for name, data in packed().items():
        write("packed", name, data)
    for name, config in configs().items():
        write("arch", name + ".json", json.dumps(config, indent=1).encode())
    for name, data in steps().items():
        write("step", name, data)


if __name__ == "__main__":
    main()
