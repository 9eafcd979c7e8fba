"""Two small vocabularies beside the models' own, and the ids of tokens/strings.json in them.

    vocabularies.py      writes tokens/characters*, tokens/headers*

`characters` is SentencePiece's byte-pair encoding with byte fallback, as Llama 2 and Mistral have
it: trained by the `sentencepiece` package, exported to tokenizer.json for the `tokenizers` library
and to a GGUF file for its scores, whose ids are those of `sentencepiece` itself. `headers` is a
byte-level vocabulary with the pattern, special tokens and chat template of Llama 3.
"""

import io
import json
import re

import gguf
import sentencepiece
from jinja2.sandbox import ImmutableSandboxedEnvironment
from sentencepiece import sentencepiece_model_pb2 as model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import Regex, processors, trainers

from languages import LANGUAGES
from oracle import HERE, read_strings, rows_json
from snippets import SNIPPETS
from tokens import encode_all, plain_rows, write

TEXTS = [s for part in (LANGUAGES, SNIPPETS) for row in part.values() for s in row]
MARK = "\u2581"
CONTROLS = ["<s>", "</s>"]
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA3_SPECIAL = ["begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eot_id"]


def characters_model() -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in TEXTS for line in text.split("\n") if line),
        model_writer=model,
        model_type="bpe",
        vocab_size=1500,
        byte_fallback=True,
        character_coverage=0.999,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def merges_of(pieces) -> list[tuple[str, str]]:
    """Best score first; of the ways to make one piece, the shortest left part first."""
    vocab = {p.piece for p in pieces if p.type == p.NORMAL}
    ways = [
        (-p.score, i, p.piece[:i], p.piece[i:])
        for p in pieces
        if p.type == p.NORMAL
        for i in range(1, len(p.piece))
        if p.piece[:i] in vocab and p.piece[i:] in vocab
    ]
    return [(left, right) for _, _, left, right in sorted(ways)]


def characters_tokenizer(pieces) -> Tokenizer:
    """As converters write it: the space in front is the normalizer's."""
    vocab = {p.piece: i for i, p in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(
            vocab, merges_of(pieces), unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(MARK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in ["<unk>", *CONTROLS]]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def characters_gguf(pieces, path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([p.piece for p in pieces])
    writer.add_token_scores([p.score for p in pieces])
    writer.add_token_types([p.type for p in pieces])  # GGUF took over SentencePiece's numbers
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def special_encode(model, text: str, names: list[str]) -> list[int]:
    """Control tokens as a whole; what lies between them as SentencePiece encodes a text."""
    ids: list[int] = []
    for part in re.split("(" + "|".join(map(re.escape, names)) + ")", text):
        ids += [model.piece_to_id(part)] if part in names else model.encode(part)
    return ids


def rows_write(name: str, head: dict, ids, plain, decoded) -> None:
    strings = read_strings()
    inexact = [
        {"index": i, "hex": got.encode().hex()}
        for i, (want, got) in enumerate(zip(strings, decoded))
        if want != got
    ]
    path = HERE / "tokens" / f"{name}.json"
    members = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in head.items()]
    members += [f'"ids": {rows_json(ids)}', f'"plain": {rows_json(plain)}']
    members.append(f'"inexact": {rows_json(inexact)}')
    path.write_text("{" + ",\n".join(members) + "}\n")
    print(f"{name}: {len(ids)} strings, {len(plain)} plain, {len(inexact)} inexact")


def characters_write() -> None:
    folder = HERE / "tokens" / "characters"
    folder.mkdir(exist_ok=True)
    trained = characters_model()
    model = sentencepiece.SentencePieceProcessor(model_proto=trained)
    proto = model_pb2.ModelProto()
    proto.ParseFromString(trained)
    pieces, strings = proto.pieces, read_strings()
    head = {
        "source": f"sentencepiece {sentencepiece.__version__}",
        "vocab_size": len(pieces),
        "added": [
            {"id": i, "text": t, "special": True} for i, t in enumerate(["<unk>", *CONTROLS])
        ],
    }
    tokenizer = characters_tokenizer(pieces)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    ids = encode_all(tokenizer, strings)
    decoded = tokenizer.decode_batch(ids, skip_special_tokens=False)
    plain = plain_rows(tokenizer, strings, ids)
    rows_write("characters", head, ids, plain, decoded)

    characters_gguf(pieces, folder / "tokenizer.gguf")
    # SentencePiece itself: one golden file serves both.
    special = [special_encode(model, s, ["<unk>", *CONTROLS]) for s in strings]
    assert special == ids
    own = {i: row for i, row in enumerate(model.encode(strings)) if row != special[i]}
    assert own == {row["index"]: row["ids"] for row in plain}


def headers_write() -> None:
    folder = HERE / "tokens" / "headers"
    folder.mkdir(exist_ok=True)
    special = [f"<|{name}|>" for name in LLAMA3_SPECIAL + ["im_start", "im_end"]]
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    first = tokenizer.token_to_id(special[0])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{special[0]} $A",
                pair=f"{special[0]} $A {special[0]} $B",
                special_tokens=[(special[0], first)],
            ),
        ]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "bos_token": special[0],
        "eos_token": "<|eot_id|>",
        "chat_template": LLAMA3_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    write("headers", tokenizer, "tests/golden/tokens/headers/tokenizer.json")


def chats_write() -> None:
    """Chats rendered by the template itself."""
    tokenizer = Tokenizer.from_file(str(HERE / "tokens" / "headers" / "tokenizer.json"))
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(LLAMA3_TEMPLATE)
    user = "What is the capital of Portugal?"
    chats = {
        "one": [("user", user)],
        "system": [("system", "  Be brief.\n"), ("user", f"\n\t {user} \u00a0\x1f\n")],
        "turns": [("user", user), ("assistant", " Lisbon. "), ("user", "and Spain?")],
        "blank": [("user", " \u2003\n"), ("assistant", ""), ("user", "\u200b x \u200b")],
    }
    prompts = []
    for name, turns in chats.items():
        messages = [{"role": r, "content": c} for r, c in turns]
        text = template.render(
            messages=messages, bos_token="<|begin_of_text|>", add_generation_prompt=True
        )
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        prompts.append({"name": name, "messages": messages, "rendered": text, "prompt": ids})
    path = HERE / "tokens" / "headers" / "chats.json"
    path.write_text(json.dumps({"prompts": prompts}) + "\n")


def main() -> None:
    characters_write()
    headers_write()
    chats_write()


if __name__ == "__main__":
    main()
