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
    /// `GPTNeoXTokenizer`.
    GptNeoX,
    /// `GPT2Tokenizer`.
    Gpt2,
    /// `LlamaTokenizer`.
    Llama,
}

impl Class {
    /// From `tokenizer_class` of `tokenizer_config.json` or `config.json`, and the family of the network.
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
            // Llama 3's folders name the class of Llama 2.
            Some("LlamaTokenizer")
                if model_type == "mistral" || is_byte_level(&files.tokenizer) =>
            {
                Self::AsItLies
            }
            Some("LlamaTokenizer") => Self::Llama,
            // Of Mistral's folders every class but its own is passed over.
            Some(_) if model_type == "mistral" => Self::AsItLies,
            Some("GPT2Tokenizer") => Self::Gpt2,
            Some("GPTNeoXTokenizer") => Self::GptNeoX,
            None if model_type == "gpt_neox" => Self::GptNeoX,
            _ => Self::AsItLies,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::AsItLies => "PreTrainedTokenizerFast",
            Self::GptNeoX => "GPTNeoXTokenizer",
            Self::Gpt2 => "GPT2Tokenizer",
            Self::Llama => "LlamaTokenizer",
        }
    }

    /// What a class calls its special tokens where `tokenizer_config.json` does not.
    pub fn default_token(self, key: &str) -> Option<&'static str> {
        match (self, key) {
            (Self::AsItLies, _) => None,
            (Self::Llama, "unk_token") => Some("<unk>"),
            (Self::Llama, "bos_token") => Some("<s>"),
            (Self::Llama, "eos_token") => Some("</s>"),
            (Self::GptNeoX, "pad_token") => Some("<|padding|>"),
            (Self::GptNeoX | Self::Gpt2, "unk_token" | "bos_token" | "eos_token") => {
                Some("<|endoftext|>")
            }
            _ => None,
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
            Self::GptNeoX => (
                json!({"type": "NFC"}),
                bytes(prefix.unwrap_or(false)),
                bytes(true),
            ),
            Self::Gpt2 => (Value::Null, bytes(prefix.unwrap_or(false)), bytes(true)),
            Self::Llama => {
                let legacy = files.settings.get("legacy") == Some(&Value::Bool(true));
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
                if prefix {
                    decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
                }
                (
                    Value::Null,
                    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false}),
                    json!({"type": "Sequence", "decoders": decoders}),
                )
            }
        };
        let llama = self == Self::Llama;
        let tokenizer = &mut files.tokenizer;
        if tokenizer["normalizer"] != normalizer || tokenizer["pre_tokenizer"] != words {
            let how = match self {
                Self::Llama => format!("a blank in front: {}", words["prepend_scheme"]),
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
            ("unk_token", Value::Null),
            ("continuing_subword_prefix", Value::Null),
            ("end_of_word_suffix", Value::Null),
            ("fuse_unk", llama.into()),
            ("byte_fallback", llama.into()),
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
