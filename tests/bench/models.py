#!/usr/bin/python3
"""Writes checkpoints with random weights and real shapes, as GGUF files: models.py [NAME...]

    --folder DIR     where they go and stay (default: ~/.cache/galerne-bench)
    --python PYTHON  an interpreter that has the package `gguf`; without it, and if this one has
                     it not either, a private environment with it is made in the folder
    --seed N         another seed, another file (default: 1)

NAME is SHAPE-TYPE; none named: all but those of shape c, which are large. Types: q8_0 q4_0 q4_1
bf16. Shapes:
    a     a mixture as Mixtral: hidden 1024, 16 layers, 16/4 heads, 8 experts top-2, ffn 3584
    b     dense as Mistral: hidden 2048, 22 layers, 32/4 heads, ffn 5632
    c     the layers of Mixtral-8x7B, 8 of its 32 (q4_0: 6.8 GB)
    tiny  for tests
All matrices are of the type; norms and routers are F32. The vocabulary is synthetic and valid: it
encodes any text. Values are random, never zero throughout, and of a size that keeps the stream of
activations of order 1. The same name and seed give the same bytes. A file that is there is kept: it
gets its name only when it is complete. Prints the path of each.
"""
import argparse
import itertools
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

VERSION = 1  # of what is written: part of the file's name
GGUF_PACKAGE = "gguf==0.17.1"
FOLDER = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "galerne-bench"
TYPES = ["q8_0", "q4_0", "q4_1", "bf16"]


@dataclass(frozen=True)
class Shape:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    experts: int = 0
    top_k: int = 0
    head_dim: int = 64
    vocab: int = 32000


SHAPES = {
    "a": Shape(1024, 16, 16, 4, 3584, experts=8, top_k=2),
    "b": Shape(2048, 22, 32, 4, 5632),
    "c": Shape(4096, 8, 32, 8, 14336, experts=8, top_k=2, head_dim=128),
    "tiny": Shape(64, 2, 4, 2, 96, experts=4, top_k=2, head_dim=16, vocab=600),
}


def split(name: str) -> tuple:
    """(shape, type) of a model's name."""
    shape, _, kind = name.partition("-")
    if shape not in SHAPES or kind not in TYPES:
        raise ValueError(f"no model is called {name}: expected SHAPE-TYPE with a shape of "
                         f"{' '.join(SHAPES)} and a type of {' '.join(TYPES)}")
    return shape, kind


def is_mixture(name: str) -> bool:
    """Whether its feed-forward blocks are experts; of a name that is not here they are not."""
    shape = SHAPES.get(name.partition("-")[0])
    return bool(shape and shape.experts)


def path_of(folder: Path, name: str, seed: int = 1) -> Path:
    return Path(folder) / f"{name}-seed{seed}-v{VERSION}.gguf"


def tensors(shape: Shape, kind: str) -> list:
    """(name, shape, type) of each, in the file's order; the last dimension is contiguous."""
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    stack = (shape.experts,) if shape.experts else ()
    suffix = "_exps" if shape.experts else ""
    rows = [("token_embd", (shape.vocab, shape.hidden), kind)]
    for layer in range(shape.layers):
        of_layer = [("attn_norm", (shape.hidden,), "f32"),
                    ("attn_q", (q, shape.hidden), kind),
                    ("attn_k", (kv, shape.hidden), kind),
                    ("attn_v", (kv, shape.hidden), kind),
                    ("attn_output", (shape.hidden, q), kind),
                    ("ffn_norm", (shape.hidden,), "f32"),
                    ("ffn_gate" + suffix, stack + (shape.ffn, shape.hidden), kind),
                    ("ffn_up" + suffix, stack + (shape.ffn, shape.hidden), kind),
                    ("ffn_down" + suffix, stack + (shape.hidden, shape.ffn), kind)]
        if shape.experts:
            of_layer.insert(6, ("ffn_gate_inp", (shape.experts, shape.hidden), "f32"))
        rows += [(f"blk.{layer}.{name}", *rest) for name, *rest in of_layer]
    rows += [("output_norm", (shape.hidden,), "f32"), ("output", (shape.vocab, shape.hidden), kind)]
    return [(f"{name}.weight", dims, kind) for name, dims, kind in rows]


def vocabulary(count: int) -> tuple:
    """(tokens, scores, types): three special ones, the 256 bytes, then pieces of letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = ["▁"] + [start + "".join(word) for n in (1, 2, 3)
                      for word in itertools.product(letters, repeat=n) for start in ("", "▁")]
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    types = [2, 3, 3] + [6] * 256
    scores = [0.0] * len(tokens)
    for i, piece in enumerate(pieces[: count - len(tokens)]):
        tokens.append(piece)
        types.append(1)
        scores.append(-float(i))
    assert len(tokens) == count
    return tokens, scores, types


def random_bytes(rng, count: int):
    import numpy as np
    words = rng.integers(0, 1 << 64, size=-(-count // 8), dtype=np.uint64)
    return words.view(np.uint8)[:count]


def values(rng, kind: str, dims: tuple):
    """A tensor as its file has it: bytes [..., bytes of a row], or f32. Variance 1 / columns."""
    import numpy as np
    rows, columns = int(np.prod(dims[:-1])), dims[-1]
    std = columns ** -0.5
    if kind == "f32":
        if len(dims) == 1:  # a norm: about one
            return (0.75 + 0.5 * rng.random(dims, dtype=np.float32))
        return rng.standard_normal(dims, dtype=np.float32) * np.float32(std)
    if kind == "bf16":
        # Uniform in +-sqrt(3) std; half a step of rounding down is of no consequence.
        wide = rng.random((rows, columns), dtype=np.float32)
        wide -= np.float32(0.5)
        wide *= np.float32(std * 12 ** 0.5)
        high = (wide.view(np.uint32) >> 16).astype(np.uint16)
        return high.view(np.uint8).reshape(*dims[:-1], columns * 2)
    n_blocks = rows * columns // 32
    # A quant's standard deviation, and the bytes of quants and in all.
    deviation, quants, head = {"q8_0": (73.3, 32, 2), "q4_0": (4.61, 16, 2),
                               "q4_1": (4.61, 16, 4)}[kind]
    blocks = np.empty((n_blocks, head + quants), np.uint8)
    blocks[:, head:] = random_bytes(rng, n_blocks * quants).reshape(n_blocks, quants)
    if kind == "q8_0":  # no quantiser writes -128
        np.maximum(blocks[:, head:].view(np.int8), -127, out=blocks[:, head:].view(np.int8))
    scales = (0.5 + rng.random(n_blocks, dtype=np.float32)) * np.float32(std / deviation)
    blocks[:, :2] = scales.astype(np.float16).reshape(-1, 1).view(np.uint8)
    if kind == "q4_1":
        minima = scales * np.float32(-7.5)
        blocks[:, 2:4] = minima.astype(np.float16).reshape(-1, 1).view(np.uint8)
    return blocks.reshape(*dims[:-1], columns // 32 * (head + quants))


def keys_write(writer, shape: Shape) -> None:
    writer.add_block_count(shape.layers)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_context_length(32768)
    writer.add_vocab_size(shape.vocab)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.top_k)
    tokens, scores, types = vocabulary(shape.vocab)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def write(path: Path, name: str, seed: int) -> None:
    import gguf
    import numpy as np
    shape_name, kind = split(name)
    table = tensors(SHAPES[shape_name], kind)
    part = path.with_suffix(f".part{os.getpid()}")
    writer = gguf.GGUFWriter(part, "llama")
    keys_write(writer, SHAPES[shape_name])
    sizes = gguf.GGML_QUANT_SIZES
    for tensor, dims, of_type in table:
        dtype = gguf.GGMLQuantizationType[of_type.upper()]
        block, block_bytes = sizes[dtype]
        writer.add_tensor_info(tensor, dims, np.dtype(np.float32),
                               int(np.prod(dims)) // block * block_bytes, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for index, (_, dims, of_type) in enumerate(table):
        rng = np.random.Generator(np.random.SFC64([seed, index, VERSION]))
        writer.write_tensor_data(values(rng, of_type, dims))
    writer.close()
    os.replace(part, path)


def has_gguf(python: str) -> bool:
    return subprocess.run([python, "-c", "import gguf, numpy"], capture_output=True).returncode == 0


def python_with_gguf(folder: Path, named: str | None) -> str:
    """An interpreter that has the package: the named one, this one, or a private environment's."""
    if named:
        if not has_gguf(named):
            sys.exit(f"models.py: {named} has no package gguf; install {GGUF_PACKAGE}, or leave "
                     "--python out: then a private environment is made")
        return named
    private = str(folder / "venv/bin/python3")
    for python in (sys.executable, private):
        if os.path.exists(python) and has_gguf(python):
            return python
    print(f"models.py: making an environment with {GGUF_PACKAGE} in {folder}/venv", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", GGUF_PACKAGE]
    done = subprocess.run([private, *install], stdout=sys.stderr)
    if done.returncode or not has_gguf(private):
        sys.exit(f"models.py: {GGUF_PACKAGE} could not be installed; name an interpreter that has "
                 "it with --python")
    return private


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--python")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    names = arguments.names or [f"{s}-{t}" for s in ("a", "b") for t in ("q8_0", "q4_0", "bf16")]
    try:
        for name in names:
            split(name)
    except ValueError as error:
        parser.error(str(error))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    paths = [path_of(arguments.folder, name, arguments.seed) for name in names]
    missing = [n for n, path in zip(names, paths) if not path.exists()]
    if missing:
        python = python_with_gguf(arguments.folder, arguments.python)
        if os.path.abspath(python) != os.path.abspath(sys.executable):
            return subprocess.run([python, __file__, "--folder", str(arguments.folder), "--python",
                                   python, "--seed", str(arguments.seed), *names]).returncode
    for name, path in zip(names, paths):
        if name in missing:
            write(path, name, arguments.seed)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
