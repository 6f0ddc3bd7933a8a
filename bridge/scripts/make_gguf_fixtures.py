"""Writes bridge/tests/fixtures/gguf: small random models of the Llama family as GGUF files, and what the `gguf` package, `tokenizers` and
`sentencepiece` make of them.

    pip install gguf numpy tokenizers sentencepiece && python bridge/scripts/make_gguf_fixtures.py

bytes.gguf   a byte-level tokenizer; one tensor at least of every type that is read; tied head
pieces.gguf  a SentencePiece tokenizer; an untied head, Llama 3's rotary factors
Beside each: NAME.json with the SHA-256 of every weight's little-endian f32 values under its Hugging Face name, and texts with their tokens.
"""
import hashlib, io, json, os
import gguf
import numpy as np
import sentencepiece
from gguf import GGMLQuantizationType as Q
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

OUT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests", "fixtures", "gguf")
HIDDEN, INNER, HEADS, KV, WIDTH, LAYERS = 64, 256, 4, 2, 16, 2
TEXT = ["The cat, aged 12, sat on the mat; it's 3.14 o'clock!", "Wie spät ist es? Übermorgen um 17:45.", "def f(x):\n    return x ** 2\n\n\t# naïve",
        "I'LL say: 'we've   seen   it' -- twice...", "漢字とかな 🙂👍🏽 ½ Ⅷ ٣٤٥", "", " ", "  leading and trailing  ", "<|end|>not special? <|end|>", "a\r\nb\r\n\r\nc",
        "1234567890 007 1,000,000", "ÄÖÜ äöü ßẞ e\u0301 \u00a0\u2003x", "the the the theory then thence"]
WORDS = "the cat sat on a mat while twelve older dogs were reading theory of preference and reward in the garden".split()


def lines():
    rng = np.random.default_rng(7)
    made = list(TEXT)
    for _ in range(60):
        parts = [WORDS[i] for i in rng.integers(0, len(WORDS), rng.integers(1, 9))]
        parts.insert(int(rng.integers(0, len(parts) + 1)), str(rng.integers(0, 10 ** int(rng.integers(1, 7)))))
        made.append((" " * int(rng.integers(1, 3))).join(parts) + [".", "?!", "\n", "  ", "'s"][int(rng.integers(0, 5))])
    return made


def stored(kind, rows, columns, rng):
    """Random values of a type, as the file holds them; types without a quantiser in Python are random blocks with small scales."""
    if kind in (Q.Q4_K, Q.Q5_K, Q.Q6_K):
        size, width = gguf.GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (rows * columns // size, width), dtype=np.uint8)
        scales = rng.normal(0, 0.01, (len(blocks), 2)).astype(np.float16).view(np.uint8).reshape(len(blocks), 4)
        if kind == Q.Q6_K:
            blocks[:, -2:] = scales[:, :2]
        else:
            blocks[:, :4] = scales
        return blocks.reshape(rows, -1)
    values = rng.normal(0, 1.0 / columns ** 0.5, (rows, columns)).astype(np.float32)
    return values if kind == Q.F32 else gguf.quants.quantize(values, kind)


def undo(values, heads):
    """From the file's order of a head's dimensions to Hugging Face's."""
    return values.reshape(heads, WIDTH // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)


def write(name, vocabulary, kinds, tokenizer, untied=False, factors=None):
    rng = np.random.default_rng(3)
    out = gguf.GGUFWriter(os.path.join(OUT, name + ".gguf"), "llama")
    out.add_block_count(LAYERS); out.add_context_length(128); out.add_embedding_length(HIDDEN); out.add_feed_forward_length(INNER)
    out.add_head_count(HEADS); out.add_head_count_kv(KV); out.add_layer_norm_rms_eps(1e-5); out.add_rope_freq_base(10000.0)
    out.add_rope_dimension_count(WIDTH); out.add_vocab_size(vocabulary)
    tokenizer(out)
    hashes, kinds = {}, iter(kinds)

    def add(theirs, ours, rows, columns, heads=0):
        kind = Q.F32 if columns == 0 else next(kinds)
        data = 1 + 0.1 * rng.normal(size=rows).astype(np.float32) if columns == 0 else stored(kind, rows, columns, rng)
        out.add_tensor(theirs + ".weight", data, raw_dtype=kind)
        values = gguf.quants.dequantize(data, kind).astype(np.float32)
        if heads:
            values = undo(values, heads)
        hashes[ours + ".weight"] = hashlib.sha256(np.ascontiguousarray(values, dtype="<f4").tobytes()).hexdigest()

    add("token_embd", "model.embed_tokens", vocabulary, HIDDEN)
    for i in range(LAYERS):
        a, b = f"blk.{i}.", f"model.layers.{i}."
        add(a + "attn_norm", b + "input_layernorm", HIDDEN, 0)
        add(a + "attn_q", b + "self_attn.q_proj", HEADS * WIDTH, HIDDEN, HEADS)
        add(a + "attn_k", b + "self_attn.k_proj", KV * WIDTH, HIDDEN, KV)
        add(a + "attn_v", b + "self_attn.v_proj", KV * WIDTH, HIDDEN)
        add(a + "attn_output", b + "self_attn.o_proj", HIDDEN, HEADS * WIDTH)
        add(a + "ffn_norm", b + "post_attention_layernorm", HIDDEN, 0)
        add(a + "ffn_gate", b + "mlp.gate_proj", INNER, HIDDEN)
        add(a + "ffn_up", b + "mlp.up_proj", INNER, HIDDEN)
        add(a + "ffn_down", b + "mlp.down_proj", HIDDEN, INNER)
    add("output_norm", "model.norm", HIDDEN, 0)
    if untied:
        add("output", "lm_head", vocabulary, HIDDEN)
    if factors is not None:
        out.add_tensor("rope_freqs.weight", np.array(factors, dtype=np.float32))
    out.write_header_to_file(); out.write_kv_data_to_file(); out.write_tensors_to_file(); out.close()
    return hashes


def save(name, hashes, texts, encode):
    with open(os.path.join(OUT, name + ".json"), "w") as file:
        json.dump({"sha256": hashes, "texts": [[text, encode(text)] for text in texts]}, file, indent=0, ensure_ascii=True)
        file.write("\n")


def byte_level():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=["<|end|>", "<|pad|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    made.train_from_iterator(lines() * 3, trainer)
    return made


def bytes_file():
    made = byte_level()
    vocabulary = sorted(made.get_vocab(), key=made.get_vocab().get)
    merges = [" ".join(pair) for pair in json.loads(made.to_str())["model"]["merges"]]

    def tokenizer(out):
        out.add_tokenizer_model("gpt2"); out.add_tokenizer_pre("smollm"); out.add_token_list(vocabulary); out.add_token_merges(merges)
        out.add_token_types([3, 3] + [1] * (len(vocabulary) - 2))
        out.add_bos_token_id(0); out.add_eos_token_id(0); out.add_unk_token_id(0); out.add_pad_token_id(1)
        out.add_chat_template("{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}")

    kinds = [Q.Q8_0, Q.Q4_1, Q.Q4_1, Q.F16, Q.Q5_1, Q.Q4_0, Q.Q5_0, Q.Q4_K, Q.Q8_0, Q.BF16, Q.F32, Q.Q4_1, Q.Q4_1, Q.Q5_K, Q.Q6_K]
    # The second layer's MLP: rows of 64 for gate and up, of 256 for down.
    kinds[13], kinds[14] = Q.Q4_0, Q.Q6_K
    hashes = write("bytes", len(vocabulary), kinds, tokenizer)
    save("bytes", hashes, lines(), lambda text: made.encode(text, add_special_tokens=False).ids)


def pieces_file():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter([l for l in lines() * 20 if l.strip()]), model_writer=model, vocab_size=360, model_type="bpe",
                                             byte_fallback=True, split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
                                             add_dummy_prefix=True, character_coverage=0.99, minloglevel=2)
    made = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(made.get_piece_size())
    kind = lambda i: 2 if made.is_unknown(i) else 3 if made.is_control(i) else 6 if made.is_byte(i) else 1

    def tokenizer(out):
        out.add_tokenizer_model("llama"); out.add_token_list([made.id_to_piece(i) for i in ids]); out.add_token_scores([made.get_score(i) for i in ids])
        out.add_token_types([kind(i) for i in ids]); out.add_bos_token_id(1); out.add_eos_token_id(2); out.add_unk_token_id(0)

    base = 1.0 / 10000.0 ** (np.arange(0, WIDTH, 2) / WIDTH)
    wavelength, factors = 2 * np.pi / base, []
    for w in wavelength:  # factor 8, low 1, high 4, 8192 positions
        smooth = (8192 / w - 1) / 3
        factors.append(1.0 if w < 2048 else 8.0 if w > 8192 else 1 / ((1 - smooth) / 8 + smooth))
    kinds = [Q.Q4_1, Q.Q8_0, Q.F16, Q.Q8_0, Q.Q4_1, Q.Q4_0, Q.Q4_0, Q.Q5_K] * 2
    kinds[7:] = [Q.Q5_K, Q.Q8_0, Q.Q8_0, Q.Q4_0, Q.Q4_1, Q.Q4_0, Q.Q4_0, Q.Q4_K, Q.Q8_0]
    hashes = write("pieces", made.get_piece_size(), kinds, tokenizer, untied=True, factors=factors)
    texts = [t for t in lines() if "<|end|>" not in t]
    save("pieces", hashes, texts, made.encode)


os.makedirs(OUT, exist_ok=True)
bytes_file()
pieces_file()
