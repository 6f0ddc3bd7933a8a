//! What the classes of `transformers` make of a `tokenizer.json`.
//!
//! Some of them take vocabulary, merges and post-processor from the file and cut texts by rules of their own. Those count here too, so
//! that a model reads the ids it would read there.

use super::files::Files;
use serde_json::{Map, Value, json};

/// The class that reads a folder, as `AutoTokenizer` of `transformers` 5 chooses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// `tokenizer.json` as it lies.
    AsItLies,
    /// The same, under the name of a class whose own rules, if it has some, are not known here.
    Other,
    /// `GPTNeoXTokenizer`.
    GptNeoX,
    /// `GPT2Tokenizer`.
    Gpt2,
    /// `LlamaTokenizer`.
    Llama,
    /// `CodeLlamaTokenizer`.
    CodeLlama,
    /// `Qwen2Tokenizer`.
    Qwen2,
    /// `GemmaTokenizer`.
    Gemma,
}

/// How Qwen2's class cuts a text into words: digits one by one.
const QWEN2_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Class {
    /// The class that is read from `tokenizer_class` of `tokenizer_config.json` or `config.json`, and the family of the network.
    pub fn of(files: &Files, model_type: &str, config: Option<&Map<String, Value>>) -> Self {
        let class =
            |map: &Map<String, Value>| Some(map.get("tokenizer_class")?.as_str()?.to_string());
        let named = class(&files.settings).or(config.and_then(class));
        let named = named
            .as_deref()
            .map(|n| n.strip_suffix("Fast").unwrap_or(n));
        if files.tokenizer["model"]["type"] != "BPE" || files.settings.contains_key("auto_map") {
            return Self::AsItLies;
        }
        match named {
            // Their folders name classes that are known not to be theirs, so that the name is passed over.
            _ if model_type == "qwen2" => Self::Qwen2,
            _ if matches!(model_type, "olmo2" | "phi3") => Self::AsItLies,
            // Llama 3's folders name the class of Llama 2.
            Some("LlamaTokenizer")
                if model_type == "mistral" || is_byte_level(&files.tokenizer) =>
            {
                Self::AsItLies
            }
            Some("LlamaTokenizer") => Self::Llama,
            Some("CodeLlamaTokenizer") if model_type == "llama" => Self::CodeLlama,
            // Of Mistral's folders every class but its own is passed over.
            Some(_) if model_type == "mistral" => Self::AsItLies,
            Some("GPT2Tokenizer") => Self::Gpt2,
            Some("GPTNeoXTokenizer") => Self::GptNeoX,
            Some("Qwen2Tokenizer") => Self::Qwen2,
            Some("GemmaTokenizer") => Self::Gemma,
            None => match model_type {
                "gpt_neox" => Self::GptNeoX,
                "gpt2" => Self::Gpt2,
                "qwen3" => Self::Qwen2,
                "gemma2" | "gemma3_text" => Self::Gemma,
                _ => Self::AsItLies,
            },
            Some("PreTrainedTokenizer" | "TokenizersBackend") => Self::AsItLies,
            Some(_) => Self::Other,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::AsItLies | Self::Other => "PreTrainedTokenizerFast",
            Self::GptNeoX => "GPTNeoXTokenizer",
            Self::Gpt2 => "GPT2Tokenizer",
            Self::Llama => "LlamaTokenizer",
            Self::CodeLlama => "CodeLlamaTokenizer",
            Self::Qwen2 => "Qwen2Tokenizer",
            Self::Gemma => "GemmaTokenizer",
        }
    }

    /// What a class calls its special tokens where `tokenizer_config.json` does not.
    pub fn default_token(self, key: &str) -> Option<&'static str> {
        match (self, key) {
            (Self::AsItLies | Self::Other, _) => None,
            (Self::Llama | Self::CodeLlama, "unk_token") => Some("<unk>"),
            (Self::Llama | Self::CodeLlama, "bos_token") => Some("<s>"),
            (Self::Llama | Self::CodeLlama, "eos_token") => Some("</s>"),
            (Self::GptNeoX, "pad_token") => Some("<|padding|>"),
            (Self::GptNeoX | Self::Gpt2, "unk_token" | "bos_token" | "eos_token")
            | (Self::Qwen2, "unk_token" | "eos_token" | "pad_token") => Some("<|endoftext|>"),
            (Self::Gemma, "unk_token") => Some("<unk>"),
            (Self::Gemma, "bos_token") => Some("<bos>"),
            (Self::Gemma, "eos_token") => Some("<eos>"),
            (Self::Gemma, "pad_token") => Some("<pad>"),
            (Self::Gemma, "mask_token") => Some("<mask>"),
            _ => None,
        }
    }

    /// Special tokens of the class alone, by the keys that may give them other texts.
    pub fn own_tokens(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::CodeLlama => &[
                ("prefix_token", "▁<PRE>"),
                ("middle_token", "▁<MID>"),
                ("suffix_token", "▁<SUF>"),
                ("eot_token", "▁<EOT>"),
                ("fill_token", "<FILL_ME>"),
            ],
            _ => &[],
        }
    }

    /// Puts the rules of the class into `tokenizer.json`; a note where they differ from what it says.
    pub fn apply(self, files: &mut Files) {
        let prefix = files
            .settings
            .get("add_prefix_space")
            .and_then(Value::as_bool);
        let bytes = |prefix: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true});
        let (normalizer, words, decoder) = match self {
            Self::AsItLies => return,
            Self::Other => {
                let class = files
                    .settings
                    .get("tokenizer_class")
                    .and_then(Value::as_str);
                files.notes.push(format!(
                    "tokenizer_class {:?} is not known here: texts are cut as tokenizer.json says, and transformers may cut them by rules of that class",
                    class.unwrap_or("of config.json")
                ));
                return;
            }
            Self::GptNeoX => (
                json!({"type": "NFC"}),
                bytes(prefix.unwrap_or(false)),
                bytes(true),
            ),
            Self::Gpt2 => (Value::Null, bytes(prefix.unwrap_or(false)), bytes(true)),
            Self::Qwen2 => {
                let mut words = bytes(prefix.unwrap_or(false));
                words["use_regex"] = false.into();
                let split = json!({"type": "Split", "pattern": {"Regex": QWEN2_WORDS}, "behavior": "Isolated", "invert": false});
                (
                    json!({"type": "NFC"}),
                    json!({"type": "Sequence", "pretokenizers": [split, words]}),
                    bytes(true),
                )
            }
            Self::Gemma => (
                json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
                json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false}),
                json!({"type": "Sequence", "decoders": [
                    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                    {"type": "ByteFallback"},
                    {"type": "Fuse"},
                ]}),
            ),
            Self::Llama | Self::CodeLlama => {
                let legacy = files.settings.get("legacy") == Some(&Value::Bool(true));
                let legacy = legacy && self == Self::Llama;
                let prefix = prefix.unwrap_or(true);
                let scheme = match (prefix, legacy) {
                    (false, _) => "never",
                    (true, true) => "always",
                    (true, false) => "first",
                };
                let mut decoders = vec![
                    json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
                    json!({"type": "ByteFallback"}),
                    json!({"type": "Fuse"}),
                ];
                if prefix || self == Self::CodeLlama {
                    decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
                }
                (
                    Value::Null,
                    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false}),
                    json!({"type": "Sequence", "decoders": decoders}),
                )
            }
        };
        let fallback = matches!(self, Self::Llama | Self::CodeLlama | Self::Gemma);
        let unknown = match self {
            Self::Gemma | Self::CodeLlama => files.named("unk_token").into(),
            _ => Value::Null,
        };
        let tokenizer = &mut files.tokenizer;
        if tokenizer["normalizer"] != normalizer || tokenizer["pre_tokenizer"] != words {
            let how = match self {
                Self::Llama | Self::CodeLlama => {
                    format!("a blank in front: {}", words["prepend_scheme"])
                }
                Self::Qwen2 => "digits one by one, texts in NFC".into(),
                Self::Gemma => "no blank in front".into(),
                _ => format!("add_prefix_space {}", words["add_prefix_space"]),
            };
            files.notes.push(format!(
                "texts are cut as {} of transformers 5 cuts them ({how}), which is not what tokenizer.json says; tokenizer_class PreTrainedTokenizerFast would take tokenizer.json as it lies",
                self.name()
            ));
        }
        tokenizer["normalizer"] = normalizer;
        tokenizer["pre_tokenizer"] = words;
        tokenizer["decoder"] = decoder;
        if self == Self::GptNeoX {
            // It puts nothing in front and nothing behind, whatever the file's post-processor does.
            tokenizer["post_processor"] = Value::Null;
        }
        let model = &mut tokenizer["model"];
        for (key, value) in [
            ("dropout", Value::Null),
            ("unk_token", unknown),
            ("continuing_subword_prefix", Value::Null),
            ("end_of_word_suffix", Value::Null),
            ("fuse_unk", fallback.into()),
            ("byte_fallback", fallback.into()),
            ("ignore_merges", false.into()),
        ] {
            model[key] = value;
        }
    }
}

fn is_byte_level(tokenizer: &Value) -> bool {
    let of = |step: &Value| step["type"] == "ByteLevel";
    let has = |part: &Value, list: &str| {
        of(part)
            || part[list]
                .as_array()
                .is_some_and(|steps| steps.iter().any(of))
    };
    has(&tokenizer["pre_tokenizer"], "pretokenizers") || has(&tokenizer["decoder"], "decoders")
}

#[cfg(test)]
mod tests {
    use super::super::Tokenizer;
    use serde_json::Value;
    use std::path::Path;

    /// Ids of `AutoTokenizer` (`bridge/scripts/make_tokenizer_fixtures.py`), also where `tokenizer.json` cuts texts otherwise.
    #[test]
    fn every_class_reads_the_ids_of_transformers() {
        let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers");
        let mut folders = 0;
        for folder in std::fs::read_dir(all).unwrap() {
            let folder = folder.unwrap().path();
            let ids = std::fs::read_to_string(folder.join("ids.json")).unwrap();
            let expected: Value = serde_json::from_str(&ids).unwrap();
            let model_type = expected["model_type"].as_str().unwrap();
            let tokenizer = Tokenizer::read(&folder, model_type).unwrap();
            assert_eq!(tokenizer.end.map(u64::from), expected["end"].as_u64());
            for line in expected["texts"].as_array().unwrap() {
                let ours = tokenizer.encode_prompt(line[0].as_str().unwrap()).unwrap();
                assert_eq!(
                    Value::from(ours),
                    line[1],
                    "{}: {}",
                    folder.display(),
                    line[0]
                );
            }
            // Only where the class and the file differ is there something to say.
            let differ = ["qwen2_other_class", "gpt2_without_class", "code_llama"];
            let name = folder.file_name().unwrap().to_str().unwrap();
            let cut = tokenizer
                .notes
                .iter()
                .any(|n| n.contains("texts are cut as"));
            assert_eq!(cut, differ.contains(&name), "{name}: {:?}", tokenizer.notes);
            folders += 1;
        }
        assert_eq!(folders, 11);
    }
}
