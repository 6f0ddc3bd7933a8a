"""Small model folders of the kinds that users have, and what `transformers` computes with them.

    python bridge/scripts/compatibility.py            # rebuilds bridge/tests/fixtures/compatibility
    python bridge/scripts/compatibility.py messages   # its messages.json alone; idioms for idioms.json

A case is a base folder and a patch of its files (JSON merge patches, texts, null for a file that is taken away), so that the
fixtures stay small. `bridge/tests/compatibility/` applies the patches and compares. Networks are tiny and random, in float32.
"""

import json
import pathlib
import shutil
import sys
import tempfile

import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/compatibility"
TEXTS = [
    "Human: Hello there\n\nAssistant: Sure, plant tomatoes in the garden.",
    "Human: How do I clean the floor?\n\nAssistant: You clean the floor slowly, then you wait.",
    "the theatre there was the other thing that they had, user assistant system",
]
BYTES = {"model_type": "gpt_neox", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
         "max_position_embeddings": 128, "vocab_size": 320, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1,
         "tie_word_embeddings": False, "initializer_range": 0.5}
PIECES = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
          "intermediate_size": 32, "max_position_embeddings": 128, "vocab_size": 360, "bos_token_id": 1, "eos_token_id": 2,
          "pad_token_id": None, "tie_word_embeddings": False, "initializer_range": 0.5}


def byte_level():
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=["<|endoftext|>", "<|padding|>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>",
              "pad_token": "<|padding|>", "unk_token": "<|endoftext|>"}
    return json.loads(tokenizer.to_str()), config


def sentence_pieces():
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()  # words alone, so that no piece holds the end of one and the start of another
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)],
                                  show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    value = json.loads(tokenizer.to_str())
    value["added_tokens"] = value["added_tokens"][:3]  # the bytes are ordinary pieces
    value["pre_tokenizer"] = None
    value["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    value["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    part = lambda name: {"Sequence": {"id": name, "type_id": 0}}
    value["post_processor"] = {"type": "TemplateProcessing", "single": [begin, part("A")], "pair": [begin, part("A"), part("B")],
                               "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
              "clean_up_tokenization_spaces": False}
    return value, config


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def save_base(name, config, tokenizer, head="CausalLM", seed=0, change=None):
    folder = HERE / name
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    auto = transformers.AutoModelForCausalLM if head == "CausalLM" else transformers.AutoModelForSequenceClassification
    extra = {} if head == "CausalLM" else {"num_labels": 1}
    model = auto.from_config(transformers.AutoConfig.for_model(**config, **extra)).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.5 if parameter.dim() > 1 else 0.2) + (parameter.dim() == 1))
    weights = {k: v.contiguous().clone() for k, v in model.state_dict().items()}
    if change:
        change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    names = {"gpt_neox": "GPTNeoX", "llama": "Llama"}[config["model_type"]]
    write(folder / "config.json", {**config, "architectures": [f"{names}For{head}"], "hidden_act": {"gpt_neox": "gelu", "llama": "silu"}[config["model_type"]],
                                   **({"id2label": {"0": "LABEL_0"}} if extra else {})})
    value, settings = tokenizer
    write(folder / "tokenizer.json", value)
    write(folder / "tokenizer_config.json", settings)


def merged(value, patch):
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    value = dict(value) if isinstance(value, dict) else {}
    for key, new in patch.items():
        if new is None:
            value.pop(key, None)
        else:
            value[key] = merged(value.get(key), new)
    return value


def folder_of(case, where):
    shutil.copytree(HERE / case["base"], where)
    for name, patch in case.get("files", {}).items():
        path = where / name
        if patch is None:
            path.unlink()
        elif isinstance(patch, str):
            path.parent.mkdir(exist_ok=True)
            path.write_text(patch, encoding="utf-8")
        else:
            write(path, merged(json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}, patch))
    return where


LINES = [
    ["Human: Hello there\n\nAssistant:", " Sure, plant tomatoes."],
    ["<|im_start|>user\nHi<|im_end|>\n", "ok<|im_end|>"],
    ["</s>user [PAD] <x> the", " floor </s> [PAD]<x> end"],
    ["Zu\u0308rich the fl", "oor \u00e9e\u0301 there"],
    ["Human: the ot", "her th\u4f60ing"],
]


def token(content, **flags):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True, **flags}


def cases():
    im = {"290": token("<|im_start|>"), "291": token("<|im_end|>")}
    metaspace = lambda scheme: {"normalizer": None, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}}
    tok = lambda name, base, **files: {"name": name, "base": base, "files": {k.replace("__", "."): v for k, v in files.items()}}
    truncation = lambda **new: {"truncation": {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0, **new}}
    padding = lambda **new: {"padding": {"strategy": {"Fixed": 24}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1, "pad_type_id": 0, "pad_token": "<|padding|>", **new}}
    return [
        tok("bytes", "bytes"),
        tok("truncation_right", "bytes", tokenizer__json=truncation()),
        tok("truncation_left", "bytes", tokenizer__json=truncation(direction="Left", max_length=4)),
        tok("truncation_of_pieces", "pieces", tokenizer__json=truncation(max_length=8, stride=2)),
        tok("padding_fixed", "bytes", tokenizer__json=padding()),
        tok("padding_left", "bytes", tokenizer__json=padding(direction="Left")),
        tok("padding_to_multiple", "pieces", tokenizer__json=padding(strategy="BatchLongest", pad_to_multiple_of=16, pad_token="</s>", pad_id=2)),
        tok("dropout_of_zero", "bytes", tokenizer__json={"model": {"dropout": 0.0}}),
        tok("blank_by_normalizer", "pieces"),
        tok("blank_by_metaspace_always", "pieces", tokenizer__json=metaspace("always")),
        tok("blank_by_metaspace_first", "pieces", tokenizer__json=metaspace("first")),
        tok("llama_class", "pieces", tokenizer_config__json={"tokenizer_class": "LlamaTokenizer"}),
        tok("llama_class_fast_legacy", "pieces", tokenizer_config__json={"tokenizer_class": "LlamaTokenizerFast", "legacy": True}),
        tok("llama_class_no_legacy", "pieces", tokenizer_config__json={"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True}),
        tok("llama_class_without_blank", "pieces", tokenizer_config__json={"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False}),
        tok("llama_class_on_bytes", "bytes", tokenizer_config__json={"tokenizer_class": "LlamaTokenizer"}),
        tok("pieces_without_begin", "pieces", tokenizer__json={"post_processor": None}, tokenizer_config__json={"add_bos_token": True}),
        tok("prefix_space_of_neox", "bytes", tokenizer_config__json={"tokenizer_class": "GPTNeoXTokenizerFast", "add_prefix_space": True}),
        tok("prefix_space_of_neox_off", "bytes", tokenizer__json={"pre_tokenizer": {"add_prefix_space": True}}, tokenizer_config__json={"tokenizer_class": "GPTNeoXTokenizer"}),
        tok("prefix_space_of_gpt2", "bytes", tokenizer_config__json={"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": True}),
        tok("prefix_space_of_gpt2_in_llama", "bytes_llama", tokenizer_config__json={"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}),
        tok("prefix_space_without_class", "bytes", tokenizer_config__json={"add_prefix_space": True}),
        tok("prefix_space_in_the_file", "bytes", tokenizer__json={"pre_tokenizer": {"add_prefix_space": True}}),
        tok("no_tokenizer_config", "bytes", tokenizer_config__json=None),
        tok("no_tokenizer_config_of_llama", "pieces", tokenizer_config__json=None),
        tok("class_in_config", "bytes", tokenizer_config__json={"tokenizer_class": None, "add_prefix_space": True}, config__json={"tokenizer_class": "GPT2Tokenizer"}),
        tok("added_tokens_decoder", "bytes", tokenizer_config__json={"added_tokens_decoder": {"0": token("<|endoftext|>"), "1": token("<|padding|>"), **im}}),
        tok("added_tokens_decoder_flags", "bytes", tokenizer_config__json={"added_tokens_decoder": {"0": token("<|endoftext|>"), "1": token("<|padding|>"), "290": token("<|im_end|>", rstrip=True, lstrip=True), "291": token("<x>", special=False, single_word=True)}}),
        tok("added_tokens_json", "bytes", added_tokens__json={"<|im_start|>": 290, "<|im_end|>": 291}),
        tok("extra_special_tokens", "bytes", tokenizer_config__json={"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]}),
        tok("extra_special_tokens_named", "pieces", tokenizer_config__json={"extra_special_tokens": {"image_token": "<x>"}}),
        tok("additional_special_tokens", "pieces", tokenizer_config__json={"additional_special_tokens": ["<|im_end|>", {"__type": "AddedToken", **token("<x>")}]}),
        tok("end_token_is_new", "bytes", tokenizer_config__json={"eos_token": "<|im_end|>"}),
        tok("pad_token_is_new", "pieces", tokenizer_config__json={"pad_token": "[PAD]", "extra_special_tokens": ["<x>"]}),
        tok("special_tokens_map", "bytes", special_tokens_map__json={"eos_token": token("<|im_end|>"), "pad_token": "[PAD]"}),
        tok("special_tokens_map_passed_over", "bytes", special_tokens_map__json={"eos_token": "<|im_end|>"}, tokenizer_config__json={"added_tokens_decoder": {"0": token("<|endoftext|>")}}),
        tok("special_without_added", "pieces", tokenizer__json={"added_tokens": []}),
        tok("split_special_tokens", "pieces", tokenizer_config__json={"split_special_tokens": True}),
        tok("bom", "bytes"), tok("bom_of_pieces", "pieces"),
        tok("tied_head_differs", "tied_head_differs"), tok("tied_head_differs_neox", "tied_head_differs_neox"),
        tok("tied_head_equal", "tied_head_equal"),
    ]


CHATML = "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
TEMPLATES = {
    "chatml": CHATML,
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{{ 'A: ' }}{% generation %}{{ m.content + eos_token }}{% endgeneration %}{% else %}{{ 'U: ' + m.content + '\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'A: ' }}{% endif %}",
    "generation_lines": "{%- for m in messages %}\n  {%- if m.role == 'assistant' %}\n    A:\n    {%- generation -%}\n    {{ m.content }}{{ eos_token }}\n    {%- endgeneration %}\n\n  {%- else %}\nU: {{ m.content }}\n  {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}A:{% endif %}\n",
    "generation_quoted": "{# {% generation %} in a comment #}{{ '{% generation %}' }}{% for m in messages %}{% generation %}{{ m.content }};{% endgeneration %}{% endfor %}",
    "tojson": "{{ messages | tojson }}{{ {'z': '<a & \\'b\\'>', 'a': [1, 2.5, none, true, 1e20, 1e-7]} | tojson }}{{ messages | tojson(indent=2) }}{{ {'b': 1, 'a': 'é'} | tojson(sort_keys=true, ensure_ascii=true, separators=(',', ':')) }}",
    "python_values": "{{ true }} {{ none }} {{ 1.0 }} {{ [1, 'a', none] }} {{ {'k': 'v\\n', 'n': \"it's\"} }} {{ messages[0] }} {{ nothing_here }}|{{ 7 // 2 }} {{ 7 / 2 }} {{ -7 % 3 }} {{ 'a' * 3 }} {{ 1e16 }} {{ 12345678.9 | string }}",
    "joined_values": "{{ 'x' ~ true ~ none ~ 1.5 ~ 2 ~ messages[0].role ~ [1, messages[0].role] ~ {'k': messages[0].role, 'n': none} }}{% set ns = namespace(text='', seen=[]) %}{% for m in messages %}{% set ns.text = ns.text ~ loop.index ~ m.content %}{% set ns.seen = ns.seen + [m.role] %}{% endfor %}{{ ns.text }}{{ ns.seen | join('+') }}{{ ns.seen * 2 }}{{ 'ab' * 3 }}{% set block %}[{{ ns.seen[0] }}]{% endset %}{{ block ~ block }}{{ '%5d|%-4s|' | format(7, 'x') }}{{ 'a\nb' | indent(2) }}{% for row in ns.seen | batch(2, '-') %}{{ row | join('/') }};{% endfor %}{{ 'aXbX'.replace('X', '--') ~ ('aXbX' | replace('X', '')) }}{{ ', '.join(ns.seen) }}",
    "what_is_supplied": "{{ tools is none }}{{ documents is none }}{{ tools is defined }}{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}{{ cls_token is defined }}{{ sep_token }}{% for m in messages %}{{ m.content }}{% endfor %}",
    "loops": "{% set ns = namespace(seen=0) %}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{% set ns.seen = ns.seen + 1 %}{{ loop.index }}/{{ loop.length }}{{ ' last' if loop.last }}:{{ m.content | trim }} {% if ns.seen > 5 %}{% break %}{% endif %}{% endfor %}{{ ns.seen }}{{ messages[1:] | length }}{{ messages[::-1][0].role }}{{ messages | map(attribute='role') | join(',') }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "methods": "{% for m in messages %}{{ m['content'].strip().upper().split(' ')[-1] }}{{ m.get('role') }}{{ m.get('name', '-') }}{{ m.content.startswith('H') }}{{ m.content.replace('o', '0') }}{{ m.items() | list | length }}{{ 'name' in m }}{% endfor %}{{ '%s-%d' | format('x', 3) }}",
    "macros": "{% macro turn(m, last=false) %}[{{ m.role | capitalize }}]{{ m.content }}{% if last %}.{% endif %}{% endmacro %}{% for m in messages %}{{ turn(m, last=loop.last) }}\n{% endfor %}{% if add_generation_prompt %}[Assistant]{% endif %}",
    "llama2": "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "tools_branch": "{%- if tools %}\n{{- '<tools>' }}\n{%- for tool in tools %}{{ tool | tojson }}{% endfor %}\n{%- else %}\n    {%- if messages[0].role != 'system' %}\n        {{- 'S: helpful\\n' }}\n    {%- endif %}\n{%- endif %}\n{%- for message in messages %}\n    {%- if message.content is string %}\n        {%- set content = message.content %}\n    {%- else %}\n        {%- set content = '' %}\n    {%- endif %}\n    {{- message.role + ': ' + content + '\\n' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- 'assistant: ' }}\n{%- endif %}\n",
    "opens_with_a_thought": "{% for m in messages %}{% if m.role == 'assistant' %}<A>{{ m.content.split('</think>')[-1] }}</s>{% else %}<U>{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<A><think>\n{% endif %}",
}
CHATS = [
    [("user", "How do I clean the floor?"), ("assistant", "You clean the <floor> slowly & \"well\".")],
    [("system", "Be kind; it's 'fine'."), ("user", " Hello there é\n"), ("assistant", "Hi."), ("user", "And then?"), ("assistant", "Then the other thing\n")],
]
# Where templates lie: files, and what is not to be used.
PLACES = {
    "jinja_file": {"chat_template.jinja": CHATML},
    "jinja_file_without_settings": {"chat_template.jinja": CHATML, "tokenizer_config.json": None},
    "jinja_file_goes_first": {"chat_template.jinja": CHATML, "tokenizer_config.json": {"chat_template": "no"}},
    "named_templates": {"tokenizer_config.json": {"chat_template": [{"name": "tool_use", "template": "no"}, {"name": "default", "template": CHATML}]}},
    "additional_template_beside": {"chat_template.jinja": CHATML, "additional_chat_templates/rag.jinja": "no"},
    "map_names_the_end": {"tokenizer_config.json": {"chat_template": "{{ eos_token }}" + CHATML}, "special_tokens_map.json": {"eos_token": "<|im_end|>"}},
}


# Conversations whose messages have more keys than two, as files write them: the order of keys is part of what templates print.
RECORDS = [
    """[{"role": "user", "content": "Is it warm in Zürich?", "name": "Ann"}, {"role": "assistant", "content": null, "tool_calls": [{"type": "function", "id": "c1", "function": {"name": "weather", "arguments": {"unit": "C", "city": "Zürich", "days": [1, 2.5, -3e-7], "now": true}}}]}, {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "{\\"t\\": 21}"}, {"role": "assistant", "content": "Yes, 21 <degrees>.", "reasoning_content": "21 is warm"}]""",
    """[{"content": "Hello", "zeta": {"b": 1, "a": {"d": null, "c": []}}, "role": "user"}, {"role": "assistant", "reasoning_content": "greet\\nback", "content": "Hi"}]""",
    """[{"role": "user", "content": "Weather?"}, {"role": "assistant", "tool_calls": [{"function": {"arguments": {"z": "last", "a": "first"}, "name": "weather"}}]}]""",
    """[{"role": "user", "content": "One"}, {"role": "assistant", "content": "Two", "tool_calls": []}, {"role": "user", "content": "Three", "name": null}, {"role": "assistant", "content": "Four"}]""",
]
OF_KEYS = {
    "whole": "{{ messages | tojson }}",
    "each": "{% for m in messages %}{{ m | tojson(indent=2) }}{{ m.keys() | list }}{% endfor %}{% if add_generation_prompt %}>{% endif %}",
    "python": "{% for m in messages %}{{ m }}\n{% endfor %}",
    "calls": "{% for m in messages %}<|{{ m.role }}{% if m.name %} {{ m.name }}{% endif %}|>{% if m.reasoning_content is string %}<think>{{ m.reasoning_content }}</think>{% endif %}{% if m.content %}{{ m.content }}{% endif %}{% for call in m.tool_calls %}{% set f = call.function %}<call>{\"name\": \"{{ f.name }}\", \"arguments\": {{ f.arguments | tojson }}}</call>{% endfor %}{% if m.role == 'tool' %}[{{ m.tool_call_id }}]{% endif %}</s>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "defined": "{% for m in messages %}{{ m.role[0] }}{{ 'tool_calls' in m }}{{ m.content is none }}{{ m.content is defined }}{{ m.tool_calls is defined and m.tool_calls is iterable }}{{ m.get('name', '-') }}{% for k, v in m.items() %}{{ k }};{% endfor %}{% endfor %}",
    "words_alone": "{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}",
}


RECORDS_OF_WORDS = [
    '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello  \\n"}]',
    '[{"role": "system", "content": " Be <b>brief</b>. "}, {"role": "user", "content": "Hello \\"you\\"\\n there \u00e9 \u4f60"}, {"role": "assistant", "content": "<think>\\nhm\\n</think>\\n\\nYes"}, {"role": "user", "content": "And\\u00a0then?"}, {"role": "assistant", "content": "No / yes"}]',
]
# Expressions of Jinja and Python that templates use or may use, and statements; each means here what it means there.
EXPRESSIONS = [
    '"a" "b"',
    '"\\u2019|\\x41|\\t|"',
    "'x' is sequence",
    'messages is sequence',
    'messages[0] is sequence',
    "'x' is iterable",
    'nothing is iterable',
    'nothing is sequence',
    'nothing is string',
    'messages[0] is iterable',
    '1 < 2 < 3',
    '3 is divisibleby 3',
    "'%s-%d' % ('a', 3)",
    "'%s' % 'a'",
    "'%.2f' % 1.5",
    '"{} {}".format(\'a\', 1)',
    '"{0:>5}|{1}".format(\'a\', 1)',
    "'a,b,c'.split(',', 1)",
    "'a,b,c'.rsplit(',', 1)",
    "' a  b '.split()",
    "'abc'.find('c')",
    "'abc'.index('c')",
    "'abc'.startswith(('x', 'a'))",
    "'abc'.title()",
    "'hello world'.capitalize()",
    "'abc'.zfill(5)",
    "'abc'.ljust(5) ~ '|'",
    "'abc'.rjust(5)",
    "'abc'.center(7)",
    "'abc'.removeprefix('a')",
    "'abcxx'.removesuffix('xx')",
    "'xxabcxx'.strip('x')",
    "'xyabc'.lstrip('yx')",
    "'abc'.isalpha()",
    "'12'.isdigit()",
    "'Abc'.islower()",
    "'a\\nb\\r\\nc'.splitlines()",
    "'a\\nb'.splitlines(true)",
    "'aXbXc'.replace('X', '-', 1)",
    "'abcabc'.count('bc')",
    "'-'.join(['a', 'b'])",
    "'a'.upper() ~ 'B'.lower()",
    "'abc'[1]",
    "'abc'[-1]",
    "'abc'[::-1]",
    "'abc'[0:2]",
    '[1,2,3][::-1]',
    '[1,2,3,4][::2]',
    '[1,2,3][-2:]',
    '[1,2,3].index(2)',
    '[1,2,1].count(1)',
    "{'a': 1}.get('b', 'd')",
    "{'a': 1}.keys() | list",
    "{'a': 1}.values() | list",
    "dict(a=1, b='x')",
    'range(3) | list',
    'range(1, 10, 3) | list',
    "messages | map(attribute='content') | map('length') | list",
    "messages | map('upper') | list | length",
    "messages | selectattr('role', 'in', ['user', 'system']) | list | length",
    "messages | rejectattr('role', 'equalto', 'user') | map(attribute='role') | list",
    "messages | selectattr('tool_calls', 'defined') | list | length",
    "messages | selectattr('tool_calls', 'undefined') | list | length",
    "messages | selectattr('tool_calls') | list | length",
    "messages | groupby('role') | list | length",
    'messages | first | tojson',
    '(messages | last).role',
    "['b','a'] | sort",
    "['b','a'] | sort(reverse=true)",
    "messages | sort(attribute='role') | map(attribute='role') | list",
    '[1,2,3] | sum',
    '[1,1,2] | unique | list',
    '[3,1] | min',
    '[3,1] | max',
    "'3' | int + 1",
    "'3.7' | float",
    '3.567 | round(2)',
    '3.5 | round',
    '7 | round',
    '-3 | abs',
    "'hello there' | title",
    "'HELLO there' | capitalize",
    '\'<a&"\' | escape',
    "'<a>' | e",
    "'<a>' | safe",
    "'abc' | reverse",
    '[1,2] | reverse | list',
    "'abc' | first",
    "'abc' | list",
    '[1,2,3] | join',
    "[1,none,'a'] | join(', ')",
    '[1,2,3,4,5] | batch(2) | list',
    '[1,2,3,4,5] | slice(2) | list',
    "nothing | default('d')",
    "'' | default('d', true)",
    "none | default('d')",
    "none | default('d', true)",
    'messages[9] is defined',
    "messages[0]['nokey'] is defined",
    "messages[0].nokey | default('none')",
    "messages[0]['content'] | length",
    '1 if false',
    '(1 if false) is defined',
    '5 // 2',
    '-5 // 2',
    '2 ** 3',
    '7 / 7',
    '1e3',
    '1_000',
    '0x10',
    '1.0',
    '0.1 + 0.2',
    '1e22',
    '123456789012345678',
    '10 ** 20',
    "None or 'x'",
    'not none',
    "'a' in 'abc'",
    "'a' not in 'abc'",
    "'k' in {'k': 1}",
    '1 in [1, 2]',
    "'a' ~ 1 ~ none ~ true",
    "'a' * 3",
    '[1] * 3',
    '[1] + [2]',
    "{'a': [1, {'b': none}]}",
    '"it\'s"',
    '["it\'s", \'a"b\', \'both\\\'"\']',
    "['é', '\\u200b', '\\xa0', '\\x7f']",
    'true',
    '[true, false]',
    '1 == 1.0',
    "'1' == 1",
    'none is none',
    'true is boolean',
    '1 is number',
    '1.5 is float',
    '1 is integer',
    'true is number',
    'true is integer',
    'messages is mapping',
    "{'a':1} is mapping",
    "'a' is lower",
    "'A' is upper",
    '1 is odd',
    '2 is even',
    '1 is eq 1',
    '1 is ne 2',
    '2 is gt 1',
    "'a' is in 'abc'",
    'none is sameas none',
    'true is true',
    'false is false',
    '1 is true',
    "'a' is filter",
    "'upper' is filter",
    "'defined' is test",
    'messages[0] | tojson(indent=2)',
    'messages[0] | tojson(ensure_ascii=True)',
    "messages | tojson(separators=(',', ':'))",
    "{'z': 1, 'a': 2} | tojson(sort_keys=True)",
    "'\\u2028<>&' | tojson",
    '1.0 | tojson',
    '1e16 | tojson',
    '[] | tojson(indent=2)',
    '{} | tojson(indent=2)',
    'none | tojson',
    'nothing is defined and nothing',
    'messages[0].role.upper()',
    "messages[0].get('name')",
    "messages[0].get('name', 'x')",
    'messages[0].keys() | list',
    'messages[0].items() | list | length',
    "messages[0]['content'].split('</think>')[-1].lstrip('\\n')",
    'messages | length - 1',
    '-1 | abs',
    "messages[-1]['role']",
    'messages[:-1] | length',
    'messages[1:][0].role',
    'loop is defined',
    'namespace(a=1).a',
    "bos_token + 'x'",
    'bos_token ~ unk_token ~ pad_token',
    'tools is none',
    'documents is defined',
    'add_generation_prompt',
    'strftime_now is defined',
    'date_string is defined',
    'enable_thinking is defined and enable_thinking is false',
    'custom_tools is defined',
    "'a' if messages else 'b'",
    'messages[0].content is string and messages[0].content is not none',
    "'x' | trim | upper",
    "'  x ' | trim ~ '|'",
    "'xxaxx' | trim('x')",
    "'a' | indent(2)",
    "'a\\nb' | indent(width=4, first=true)",
    "'a\\n\\nb' | indent(2, blank=true)",
    "'%s and %s' | format('a', 'b')",
    "'%(a)s' | format(a=1)",
    "['a','b'] | map('upper') | join",
    "['a','b'] | select('equalto', 'a') | list",
    "['a','b'] | reject('equalto', 'a') | list",
    "[0, 1, ''] | select | list",
    "[{'a': {'b': 1}}] | map(attribute='a.b') | list",
    "[{'a': 1}, {}] | map(attribute='a', default=0) | list",
    "['a'] is sequence",
    '(1,2) is sequence',
    "{'a': 1}.a",
    "{'a': 1}['a']",
    "{'items': 1}['items']",
    "'a'.__class__",
    'messages | string | length',
    'messages[0] | string',
    "1 | string ~ 'x'",
    '1.50 | string',
    'none | string',
    "[1, 'a'] | string",
    "'abc' | replace('b', '')",
    "'aXaX' | replace('a', 'b', 1)",
    "'a<b' | replace('<', '&lt;')",
    "'abc' | upper | lower",
    "'\\n'.join(['a','b'])",
    "'a' < 'b'",
    '[1,2] < [1,3]',
    "{'a':1} == {'a':1}",
    '(1,2) == (1,2)',
    "'abc' | length",
    "'%5.1f' | format(2.345)",
    "'a' 'b' ~ 'c'",
    "messages[0]['content'][:3] + '...'",
    "messages[0].content.strip().startswith('H')",
    "'a=b;c=d'.split(';') | map('upper') | list",
    '"\\"quoted\\""',
    "'{{ x }}'",
    "'%}'",
    "'\\101'",
    "'\\/'",
    "'\\d'",
]
IDIOMS = {
    'prev': '{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined }}>{{ m.role }}>{{ loop.nextitem.role if not loop.last }};{% endfor %}',
    'prev2': "{% for m in messages %}{% if loop.previtem and loop.previtem.role != m.role %}|{% endif %}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.cycle('a','b') }}{{ loop.depth }}{{ loop.changed(m.role) }}{% endfor %}",
    'recursive': '{% for x in [[1,[2]],[3,[]]] recursive %}{{ x[0] if x is not number else x }}{% if x is not number and x[1] %}({{ loop(x[1]) }}){% endif %}{% endfor %}',
    'forelse': "{% for m in messages if m.role == 'nobody' %}x{% else %}none{% endfor %}",
    'fortuple': '{% for (k, v) in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{% for k, v in messages[0] | dictsort %}{{ k }}{% endfor %}{% for k in messages[0] %}{{ k }}{% endfor %}',
    'settuple': '{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d) = (3, 4) %}{{ c + d }}',
    'scope': '{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}{% for i in [1] %}{% set x = 3 %}{{ x }}{% endfor %}{{ x }}{% set ns = namespace(x=1) %}{% for i in [1,2] %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}',
    'with': '{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}',
    'filterblock': '{% filter upper %}abc {{ messages[0].role }}{% endfilter %}',
    'setblock': '{% set x %}  a {{ 1 }} {% endset %}[{{ x }}]{% set y | trim %}  b  {% endset %}[{{ y }}]',
    'macro': "{% macro f(a, b='d', c=none) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(1) }}{{ f(1, c=3) }}{{ f(b=2, a=1) }}{{ f() }}",
    'macrorec': '{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}',
    'macrocaller': '{% macro f() %}<{{ caller() }}>{% endmacro %}{% call f() %}in{% endcall %}',
    'macrocaller2': "{% macro f() %}<{{ caller('u') }}>{% endmacro %}{% call(x) f() %}in {{ x }}{% endcall %}",
    'macroglobal': "{% set g = 'G' %}{% macro f() %}{{ g }}{{ messages | length }}{{ bos_token }}{% endmacro %}{{ f() }}",
    'macrolater': '{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}',
    'macrons': '{% set ns = namespace(n=0) %}{% macro f() %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{% endmacro %}{{ f() }}{{ f() }}{{ ns.n }}',
    'macrostrip': "{%- macro f(x) -%}  {{ x }}  {%- endmacro -%}[{{ f(' a ') | trim }}]",
    'raw': '{% raw %}{{ x }}{% endraw %}',
    'comment': 'a {# c #}\nb\n  {# d #}\nc {#- e -#} d',
    'ws': 'a\n  {% if true %}\n  b\n  {% endif %}\nc\n{%+ if true %} d {% endif +%}\n e{{ 1 }}\n\n',
    'ws2': '  {%- if true -%}\n\n  x\n\n  {%- endif -%}  y\n',
    'ws3': '  {% set a = 1 %}\n\t{% for m in messages %}\n\t\t{{ m.role }}\n\t{% endfor %}\nend\n\n\n',
    'ws4': "x {{- ' a ' -}} y\r\n{% if true %}\r\nz\r\n{% endif %}\r\n",
    'ws5': "{{ 'x' }}\n",
    'linecomment': '## not a comment\n# {{ 1 }}\n',
    'block': '{% block a %}A{% endblock %}b',
    'elif': "{% if messages | length == 99 %}a{% elif messages[0].role == 'user' %}b{% else %}c{% endif %}",
    'generation_ws': '{% for m in messages %}\n  {% generation %}\n  {{ m.content }}\n  {% endgeneration %}\n{% endfor %}',
    'generation_set': '{% for m in messages %}{% generation %}{% set x = m.role %}{% endgeneration %}{{ x }}{% endfor %}',
    'macro_state': "{%- macro f(state) -%}{%- set state.n = state.n + 1 -%}{{ state.n }}{%- endmacro -%}{%- set state = namespace(n=0, seen=none) -%}{{ f(state) }}{{ f(state) }}{%- set state.seen = messages[0].get('tool_calls') -%}{{ state.seen is none }}{{ state.seen is not none and 1 }}",
    'undefined_in': "{%- if 'x' in nothing -%}O{%- endif -%}y",
    'undef_cmp': '{{ nothing == 1 }}{{ nothing == nothing2 }}{{ nothing == none }}{{ not nothing }}',
    'undef_loop': '{% for x in nothing %}a{% else %}e{% endfor %}',
    'undef_trim': '{{ nothing | trim }}',
    'undef_join': "{{ nothing | join(',') }}{{ nothing | upper }}{{ nothing | list }}",
    'int_trim': '{{ 5 | trim }}{{ 5 | upper }}',
    'str_loop': "{% for c in 'abc' %}{{ c }}-{% endfor %}",
    'bigloop': '{% for i in range(2000) %}{% if i == 1999 %}{{ i }}{% endif %}{% endfor %}',
    'set_loopvar': "{% for m in messages %}{% set m = {'role': 'z'} %}{{ m.role }}{% endfor %}",
    'seed_int_keys': '{%- set d = {0: 0, 512: 128, 16384: 1024} -%}{%- for k, v in d | dictsort -%}{{ k }}={{ v }}{%- if 500 <= k %}!{% endif %};{%- endfor -%}{{ d[16384] }}{% for k, v in d.items() %}{{ k }}{% endfor %}{{ d }}',
    'forif_attr': '{%- for item in messages if item.role == "user" %}{{ loop.index }}/{{ loop.length }}{{ item.content }}{%- endfor %}',
}


def idioms_of():
    """What the expressions, ten to a template, and the statements make of two conversations."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(HERE / "bytes")
    tens = [EXPRESSIONS[i : i + 10] for i in range(0, len(EXPRESSIONS), 10)]
    templates = [(f"from {ten[0]}", "|".join("{{ " + e + " }}" for e in ten)) for ten in tens]
    rows = []
    for name, source in [*templates, *IDIOMS.items()]:
        for record in [RECORDS_OF_WORDS[0], RECORDS_OF_WORDS[1]]:
            row = {"name": name, "template": source, "messages": record}
            for key, opened in [("whole", False), ("opened", True)]:
                row[key] = tokenizer.apply_chat_template(json.loads(record), chat_template=source, tokenize=False, add_generation_prompt=opened)
            rows.append(row)
    write(HERE / "idioms.json", rows)
    print(f"{len(rows)} conversations of {len(EXPRESSIONS)} expressions and {len(IDIOMS)} statements")


def messages_of():
    """What the templates make of the records, whole and open for a reply; nothing where they fail."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(HERE / "bytes")
    rows = []
    for name, source in OF_KEYS.items():
        for record in RECORDS:
            row = {"name": name, "template": source, "messages": record}
            for key, opened in [("whole", False), ("opened", True)]:
                try:
                    row[key] = tokenizer.apply_chat_template(json.loads(record), chat_template=source, tokenize=False, add_generation_prompt=opened)
                except Exception:  # noqa: BLE001 whatever a template fails with
                    row[key] = None
            rows.append(row)
    write(HERE / "messages.json", rows)
    print(f"{len(rows)} conversations with more keys")


def texts_of(tokenizer, model, lines, rows):
    out = []
    for prompt, response in lines:
        alone, joined = tokenizer(prompt)["input_ids"], tokenizer(prompt + response, return_offsets_mapping=True)
        ids = joined["input_ids"]
        # As TRL: the prompt's own tokens where the joined text begins with them, else those that end within the prompt.
        if ids[: len(alone)] == alone:
            cut = len(alone)
        else:
            plain = tokenizer(prompt + response, add_special_tokens=False, return_offsets_mapping=True)
            begun = len(ids) - len(plain["input_ids"])
            cut = begun + sum(1 for _ in iter_until(plain["offset_mapping"], len(prompt)))
        if max(ids) >= rows:
            out.append({"prompt": prompt, "response": response, "refused": True})
            continue
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        log_probs = [logits[i - 1, ids[i]].item() for i in range(cut, len(ids))]
        whole, before = tokenizer.decode(ids, skip_special_tokens=True), tokenizer.decode(ids[:cut], skip_special_tokens=True)
        out.append({"prompt": prompt, "response": response, "prompt_ids": ids[:cut], "response_ids": ids[cut:],
                    "log_probs": [float(f"{x:.9g}") for x in log_probs], "text": whole[len(before):] if whole.startswith(before) else None})
    return out


def iter_until(offsets, end):
    for _, stop in offsets:
        if stop > end:
            return
        yield stop


def ends_cases():
    one = lambda name, base, ends, **files: {"name": name, "base": base, "ends": ends, "files": {k.replace("__", "."): v for k, v in files.items()}}
    return [
        one("one", "pieces", []),
        one("list_of_config", "pieces", [], config__json={"eos_token_id": ["A", "B"]}),
        one("list_of_generation_config", "pieces", [], generation_config__json={"eos_token_id": ["B", "A"]}),
        one("of_generation_config", "bytes", [], generation_config__json={"eos_token_id": "A"}),
        one("of_tokenizer", "bytes", [], tokenizer_config__json={"eos_token": "TEXT"}),
    ]


def main():
    torch.set_num_threads(1)
    shutil.rmtree(HERE, ignore_errors=True)
    of_bytes, of_pieces = byte_level(), sentence_pieces()
    save_base("bytes", BYTES, of_bytes)
    save_base("pieces", PIECES, of_pieces, seed=1)
    save_base("bytes_llama", {**PIECES, "vocab_size": 320, "bos_token_id": 0, "eos_token_id": 0}, of_bytes, seed=2)

    def other_head(name, source):
        def change(weights):
            weights[name] = torch.randn(weights[source].shape, generator=torch.Generator().manual_seed(7)) * 0.5
        return change

    def same_head(weights):
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()

    tied = {**PIECES, "tie_word_embeddings": True}
    save_base("tied_head_differs", tied, of_pieces, seed=3, change=other_head("lm_head.weight", "model.embed_tokens.weight"))
    save_base("tied_head_equal", tied, of_pieces, seed=4, change=same_head)
    save_base("tied_head_differs_neox", {**BYTES, "tie_word_embeddings": True}, of_bytes, seed=5, change=other_head("embed_out.weight", "gpt_neox.embed_in.weight"))
    save_base("score", BYTES, of_bytes, head="SequenceClassification", seed=6)
    save_base("score_llama", PIECES, of_pieces, head="SequenceClassification", seed=7)

    result = {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__, "texts": [], "chats": [], "ends": [], "scores": []}
    with tempfile.TemporaryDirectory() as temporary:
        temporary = pathlib.Path(temporary)
        for case in cases():
            folder = folder_of(case, temporary / case["name"])
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            rows = model.get_input_embeddings().weight.shape[0]
            result["texts"].append({**case, "bom": case["name"].startswith("bom"), "class": type(tokenizer).__name__,
                                    "end": tokenizer.eos_token_id, "lines": texts_of(tokenizer, model, LINES, rows)})
        places = [(f"template_{name}", {"tokenizer_config.json": {"chat_template": source}}) for name, source in TEMPLATES.items()]
        places += list(PLACES.items())
        for base in ["bytes", "pieces"]:
            for name, files in places:
                case = {"name": f"{name}_{base}", "base": base, "files": files}
                tokenizer = transformers.AutoTokenizer.from_pretrained(folder_of(case, temporary / case["name"]))
                chats = []
                for chat in CHATS:
                    messages = [{"role": role, "content": content} for role, content in chat]
                    try:
                        prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
                        whole = tokenizer.apply_chat_template(messages, tokenize=False)
                        opened = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
                        before = tokenizer.apply_chat_template(messages[:-1], tokenize=False)
                    except Exception as error:
                        chats.append({"chat": chat, "refused": str(error)})
                        continue
                    n = next((i for i, (a, b) in enumerate(zip(prompt, whole)) if a != b), min(len(prompt), len(whole)))
                    chats.append({"chat": chat, "prompt": prompt, "whole": whole, "opened": opened, "same": n,
                                  "apart": n < len(prompt) and not whole.startswith(before),
                                  "ids": tokenizer(whole, add_special_tokens=False)["input_ids"]})
                result["chats"].append({**case, "chats": chats})
        for case in ends_cases():
            plain = transformers.AutoModelForCausalLM.from_pretrained(HERE / case["base"], dtype=torch.float32).eval()
            prompt = [5, 9, 33, 7]
            free = plain.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0)[0, 4:].tolist()
            distinct = list(dict.fromkeys(free))
            first, later = distinct[min(5, len(distinct) - 1)], distinct[min(3, len(distinct) - 1)]
            text = json.loads((HERE / case["base"] / "tokenizer.json").read_text())["model"]["vocab"]
            named = {"A": first, "B": later, "TEXT": next((t for t, i in text.items() if i == later), None)}

            def put(value):
                if isinstance(value, dict):
                    return {k: put(v) for k, v in value.items()}
                if isinstance(value, list):
                    return [put(v) for v in value]
                return named.get(value, value) if isinstance(value, str) else value

            case = {**case, "files": put(case["files"])}
            folder = folder_of(case, temporary / f"ends_{case['name']}")
            model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            ids = lambda value: [] if value is None else value if isinstance(value, list) else [value]
            own = model.config.eos_token_id
            every = {*ids(own), *ids(model.generation_config.eos_token_id), tokenizer.eos_token_id}
            greedy = model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=sorted(every), pad_token_id=0)[0, 4:].tolist()
            result["ends"].append({**case, "ends": sorted(every), "reply": tokenizer.eos_token_id, "config": own, "prompt_ids": prompt, "greedy": greedy})
        for base, changes in [("score", [{}, {"pad_token_id": 0}, {"pad_token_id": None}, {"pad_token_id": 41}]),
                              ("score_llama", [{}, {"pad_token_id": 2}, {"pad_token_id": 0}])]:
            for i, change in enumerate(changes):
                case = {"name": f"{base}_{i}", "base": base, "files": {"config.json": change}}
                folder = folder_of(case, temporary / case["name"])
                value = json.loads((folder / "config.json").read_text())
                value.update(change)
                write(folder / "config.json", value)
                model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
                end = model.config.eos_token_id
                rows = [[5, 9, 33, end], [5, 9, 33], [41, 7, 41, end], [9, 5, end, end], [8, 41, 41]]
                with torch.no_grad():
                    scores = [model(torch.tensor([ids])).logits[0, 0].item() for ids in rows]
                result["scores"].append({"name": case["name"], "base": base, "config": change, "rows": rows, "scores": scores})
    write(HERE / "cases.json", result)
    messages_of()
    idioms_of()
    print(f"{len(result['texts'])} folders, {sum(len(c['lines']) for c in result['texts'])} texts, {sum(len(c['chats']) for c in result['chats'])} conversations")


if __name__ == "__main__":
    {"messages": messages_of, "idioms": idioms_of}.get("".join(sys.argv[1:]), main)()
