"""Writes `bridge/tests/fixtures/tokenizers`: small tokenizers as folders of each family hold them, and the ids that `AutoTokenizer` reads.

    pip install torch transformers && python bridge/scripts/make_tokenizer_fixtures.py

Run with transformers 5.24.0. A folder is named by the `model_type` that its ids belong to, and holds `tokenizer.json`,
`tokenizer_config.json` and `ids.json`. Some of the `tokenizer.json` cut texts otherwise than the class of `transformers` does, which wins.
"""
import json, os, shutil, tempfile
os.environ.update(HF_HUB_OFFLINE="1")
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, AutoTokenizer
from compatibility import TEXTS, sentence_pieces

OUT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests/fixtures/tokenizers")
LINES = ["Hello there, you'll wait: 12345 slow  tomatoes.\n\n  The floor's", " lead", "Zu\u0308rich \u00e9e\u0301 \u4f60\u597d 7", "", "they HAD'VE\r\n\tthe<|endoftext|>other", "<eos>the <pad> garden  "]
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level(pattern, nfc):
    made = Tokenizer(models.BPE())
    split = [pre_tokenizers.Split(Regex(pattern or "x"), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    made.pre_tokenizer = pre_tokenizers.Sequence(split) if pattern else pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.normalizer = normalizers.NFC() if nfc else None
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(TEXTS * 3 + LINES + ["123 123 123 45 45"] * 3, trainers.BpeTrainer(vocab_size=330, special_tokens=["<|endoftext|>"], show_progress=False,
                                                                   initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return json.loads(made.to_str())


def gemma():
    made = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    made.train_from_iterator(TEXTS * 3, trainers.BpeTrainer(vocab_size=340, special_tokens=special + [f"<0x{i:02X}>" for i in range(256)], show_progress=False))
    value = json.loads(made.to_str())
    value["added_tokens"] = value["added_tokens"][:5]
    begin, part = {"SpecialToken": {"id": "<bos>", "type_id": 0}}, lambda name: {"Sequence": {"id": name, "type_id": 0}}
    value["post_processor"] = {"type": "TemplateProcessing", "single": [begin, part("A")], "pair": [begin, part("A"), part("B")],
                               "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}}}
    return value


def write(name, model_type, tokenizer, **settings):
    folder = os.path.join(OUT, name)
    os.makedirs(folder)
    for file, value in (("tokenizer.json", tokenizer), ("tokenizer_config.json", settings)):
        with open(os.path.join(folder, file), "w", encoding="utf-8") as out:
            json.dump(value, out, ensure_ascii=False, separators=(",", ":"))
            out.write("\n")
    with tempfile.TemporaryDirectory() as scratch:
        whole = shutil.copytree(folder, os.path.join(scratch, "folder"))
        AutoConfig.for_model(model_type, bos_token_id=0, eos_token_id=0, vocab_size=400).save_pretrained(whole)
        read = AutoTokenizer.from_pretrained(whole)
        # The tokens of infilling, which the class adds behind the vocabulary where the file has none.
        more = ["the <s> ▁<PRE> slow ▁<SUF>▁<MID>there ▁<EOT>"] if "code" in name else []
        ids = [[text, read(text)["input_ids"]] for text in LINES + more]
    with open(os.path.join(folder, "ids.json"), "w", encoding="utf-8") as out:
        json.dump({"model_type": model_type, "class": type(read).__name__, "end": read.eos_token_id, "texts": ids}, out, separators=(",", ":"))
        out.write("\n")
    print(name, type(read).__name__, ids[0][1][:12], ids[1][1])


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    end = dict(eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    write("qwen2", "qwen2", byte_level(QWEN, True), tokenizer_class="Qwen2Tokenizer", **end)
    # Whatever class is named and however the file cuts, a folder of Qwen2 is read by Qwen2's.
    write("qwen2_other_class", "qwen2", byte_level(GPT4, False), tokenizer_class="LlamaTokenizerFast", **end)
    write("qwen3", "qwen3", byte_level(QWEN, True), tokenizer_class="Qwen2Tokenizer", **end)
    write("qwen3_other_class", "qwen3", byte_level(GPT4, False), tokenizer_class="PreTrainedTokenizerFast", **end)
    write("gpt2", "gpt2", byte_level(None, False), tokenizer_class="GPT2Tokenizer")
    write("gpt2_without_class", "gpt2", byte_level(GPT4, True))
    write("gemma2", "gemma2", gemma(), tokenizer_class="GemmaTokenizer", bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>", add_bos_token=True)
    write("gemma3", "gemma3_text", gemma(), tokenizer_class="GemmaTokenizerFast", bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")
    # Published under GPT-2's class, which is not what reads it.
    write("olmo2", "olmo2", byte_level(GPT4, False), tokenizer_class="GPT2Tokenizer", bos_token="<|endoftext|>", **end)
    pieces, settings = sentence_pieces()
    write("code_llama", "llama", pieces, **{**settings, "tokenizer_class": "CodeLlamaTokenizer", "legacy": True, "fill_token": "<FILL_ME>"})
    write("phi3", "phi3", pieces, **{**settings, "tokenizer_class": "LlamaTokenizer", "legacy": False})


if __name__ == "__main__":
    main()
