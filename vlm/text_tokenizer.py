"""Text and special ids: a small SentencePiece vocabulary, used through the `transformers` tokenizer class.

Knows how the vocabulary is trained and which ids are reserved. Does not know pictures or conversations.

Layout of ids: 0 unknown (never used: bytes cover everything), the special tokens of
`vlm.config.SPECIAL_TOKENS` from 1, `RESERVED` spare ones, the newline, 256 bytes, then learned pieces. Codes
of pictures begin after the last piece.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from vlm.config import SPECIAL_TOKENS

RESERVED = 16
UNKNOWN = "<unk>"
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def reserved_tokens() -> list[str]:
    """All special tokens in the order of their ids, which begin at 1."""
    return [*SPECIAL_TOKENS, *(f"<|reserved_{i}|>" for i in range(RESERVED))]


def train_text_tokenizer(
    lines: Iterable[str], vocab_size: int, path: str | Path | None = None
) -> PreTrainedTokenizerFast:
    """Learn pieces from `lines` and save the tokenizer under the folder `path` (None: do not save).

    vocab_size: rows of the embedding in all, special ids and bytes included. Deterministic for the same
    lines.
    Raises ValueError when vocab_size is too small for what is reserved, or too large for the text.
    """
    least = 1 + len(reserved_tokens()) + 256 + 1
    if vocab_size <= least:
        raise ValueError(
            f"vocab_size must be more than {least} (special ids, bytes and the newline), got {vocab_size}"
        )
    # Lines end in real text; SentencePiece strips its own newlines, so the piece is declared, not learned.
    sentences = [part for line in lines for part in line.split("\n") if part.strip()]
    if not sentences:
        raise ValueError("expected lines of text to learn from, got none")
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=written,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            control_symbols=reserved_tokens(),
            user_defined_symbols=["\n"],
            unk_id=0,
            unk_piece=UNKNOWN,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            character_coverage=1.0,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(f"vocab_size {vocab_size} does not suit this text: {error}") from error
    tokenizer = _from_sentencepiece(written.getvalue())
    if path is not None:
        tokenizer.save_pretrained(path)
    return tokenizer


def plain_encoder(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A tokenizer of the same pieces, to which special tokens are ordinary text."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.encode_special_tokens = True
    return backend


def piece_texts(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The text of every id: "" for special ones, U+FFFD for bytes outside ASCII."""
    special = set(tokenizer.all_special_ids) | {
        tokenizer.convert_tokens_to_ids(token) for token in reserved_tokens()
    }
    texts = []
    for index, piece in enumerate(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))):
        if index in special:
            texts.append("")
        elif piece.startswith("<0x") and len(piece) == 6:
            byte = int(piece[3:5], 16)
            texts.append(chr(byte) if byte < 128 else "\ufffd")
        else:
            texts.append(piece.replace("▁", " "))
    return texts


def _from_sentencepiece(model: bytes) -> PreTrainedTokenizerFast:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(i) for i in range(len(processor))]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    backend = Tokenizer(
        BPE(vocab, _merges(processor, vocab), unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True)
    )
    # The newline and each digit stand alone, and a space belongs to the word after it, as in training.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Split(Regex("[0-9]"), "isolated"),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=True),
        ]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    pad, bos, _, turn_end, *_ = SPECIAL_TOKENS
    backend.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in reserved_tokens()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=UNKNOWN,
        pad_token=pad,
        bos_token=bos,
        eos_token=turn_end,
        additional_special_tokens=[token for token in reserved_tokens() if token not in (pad, bos, turn_end)],
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE.read_text(encoding="utf-8"),
    )


def _merges(processor: sentencepiece.SentencePieceProcessor, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Scores are minus the rank of a piece; a piece joins every pair of known pieces that spells it."""
    learned = [i for i in range(len(processor)) if _is_learned(processor, i)]
    known = {processor.id_to_piece(i) for i in learned}
    merges = []
    for index in sorted(learned, key=lambda i: -processor.get_score(i)):
        piece = processor.id_to_piece(index)
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        merges += sorted(
            (pair for pair in pairs if pair[0] in known and pair[1] in known),
            key=lambda p: (vocab[p[0]], vocab[p[1]]),
        )
    return merges


def _is_learned(processor: sentencepiece.SentencePieceProcessor, index: int) -> bool:
    return not (
        processor.is_control(index)
        or processor.is_unknown(index)
        or processor.is_byte(index)
        or processor.id_to_piece(index) == "\n"
    )
