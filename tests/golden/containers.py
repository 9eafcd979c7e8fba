"""The tiny checkpoints once more, as GGUF files, the way llama.cpp's converter lays them out.

    containers.py      writes model.gguf into some of the folders that tiny.py wrote

Other names, the rows of q and k interleaved for its rotation (biases too), llama3's rope scaling as
a table of divisors. The golden numbers of the folder hold for both files.
"""

import json
import math

import gguf
import numpy as np
import torch
from safetensors import safe_open

from oracle import HERE

FOLDERS = ["tiny-llama-scaled", "tiny-llama-linear", "tiny-llama-biased"]
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    if not stem.startswith("model.layers."):
        return f"{NAMES[stem]}.{kind}"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.{kind}"


def interleaved(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Row j of half h of a head goes to row 2 j + h."""
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def divisors(rope: dict, dim: int) -> np.ndarray:
    """What each pair's speed is divided by, from the definition of llama3's scaling."""
    speed = rope["rope_theta"] ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    turns = rope["original_max_position_embeddings"] * speed / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / (kept + (1 - kept) / rope["factor"])).astype(np.float32)


def rope_of(config: dict) -> dict:
    """Either form of config.json."""
    if "rope_parameters" in config:
        return config["rope_parameters"]
    scaling = config["rope_scaling"]
    return scaling | {"rope_type": scaling["type"], "rope_theta": config["rope_theta"]}


def keys_write(writer: gguf.GGUFWriter, config: dict, rope: dict, dim: int) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(dim)
    writer.add_value_length(dim)
    writer.add_rope_dimension_count(dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_vocab_size(config["vocab_size"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])


def tensor_write(writer: gguf.GGUFWriter, name: str, tensor: torch.Tensor) -> None:
    if tensor.dtype == torch.bfloat16 and tensor.dim() > 1:
        raw = tensor.contiguous().view(torch.int16).numpy().view(np.uint8)
        writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    else:
        writer.add_tensor(name, tensor.float().contiguous().numpy())


def write(name: str) -> None:
    folder = HERE / name
    config = json.loads((folder / "config.json").read_text())
    heads, rope = config["num_attention_heads"], rope_of(config)
    dim = config["head_dim"] or config["hidden_size"] // heads
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    keys_write(writer, config, rope, dim)
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", divisors(rope, dim))
    with safe_open(folder / "model.safetensors", "pt") as file:
        for key in sorted(file.keys()):
            tensor = file.get_tensor(key)
            if ".q_proj." in key:
                tensor = interleaved(tensor, heads)
            elif ".k_proj." in key:
                tensor = interleaved(tensor, config["num_key_value_heads"])
            tensor_write(writer, gguf_name(key), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    size = (folder / "model.gguf").stat().st_size
    assert size < 400_000
    print(f"{name}/model.gguf: {size} bytes")


def main() -> None:
    for name in FOLDERS:
        write(name)


if __name__ == "__main__":
    main()
