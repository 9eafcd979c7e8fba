"""Some of the tiny checkpoints as GGUF files whose layers the `gguf` package has quantised.

    loaded.py          writes loaded-q8.gguf or loaded-q4.gguf into folders that tiny.py wrote

What the daemon makes of model.safetensors while it loads (quantize: q8, q4) must compute the same,
bit for bit: matrices of layers and experts in blocks, everything else as it is.
"""

import json

import gguf
import torch
from gguf import GGMLQuantizationType as Q
from safetensors import safe_open

from containers import gguf_name, interleaved, keys_write, rope_of, tensor_write
from oracle import HERE

FILES = [("tiny-llama-bf16", "q8"), ("tiny-llama-bf16", "q4"), ("tiny-mixtral-bf16", "q4")]
KINDS = {"q8": Q.Q8_0, "q4": Q.Q4_0}
EXPERTS = {"w1": "gate", "w2": "down", "w3": "up"}


def tensors(file, config: dict) -> dict[str, torch.Tensor]:
    """By their names in a GGUF file; the experts of a layer in one stack."""
    found, stacks = {}, {}
    heads = {".q_proj.": config["num_attention_heads"], ".k_proj.": config["num_key_value_heads"]}
    for name in file.keys():
        tensor = file.get_tensor(name)
        for part, count in heads.items():
            tensor = interleaved(tensor, count) if part in name else tensor
        if ".experts." in name:
            _, _, layer, _, _, expert, which, _ = name.split(".")
            stack = stacks.setdefault(f"blk.{layer}.ffn_{EXPERTS[which]}_exps.weight", {})
            stack[int(expert)] = tensor
        elif ".block_sparse_moe.gate." in name:
            found[f"blk.{name.split('.')[2]}.ffn_gate_inp.weight"] = tensor
        else:
            found[gguf_name(name)] = tensor
    for name, stack in stacks.items():
        found[name] = torch.stack([stack[i] for i in range(len(stack))])
    return found


def is_quantised(name: str, tensor: torch.Tensor) -> bool:
    return name.startswith("blk.") and "ffn_gate_inp" not in name and tensor.dim() > 1


def write(folder_name: str, kind: str) -> None:
    folder = HERE / folder_name
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(folder / f"loaded-{kind}.gguf", "llama")
    keys_write(writer, config, rope_of(config), config["head_dim"])
    if "num_local_experts" in config:
        writer.add_expert_count(config["num_local_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
    with safe_open(folder / "model.safetensors", "pt") as file:
        for name, tensor in sorted(tensors(file, config).items()):
            if is_quantised(name, tensor):
                blocks = gguf.quants.quantize(tensor.float().contiguous().numpy(), KINDS[kind])
                writer.add_tensor(name, blocks, raw_dtype=KINDS[kind])
            else:
                tensor_write(writer, name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    for folder, kind in FILES:
        write(folder, kind)


if __name__ == "__main__":
    main()
