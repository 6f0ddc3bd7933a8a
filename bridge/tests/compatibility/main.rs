//! Model folders of the kinds that users have, held to what `transformers` computes with them (`bridge/scripts/compatibility.py`).

mod models;
mod templates;
mod texts;

use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/compatibility")
}

fn cases() -> Value {
    let text = std::fs::read_to_string(fixtures().join("cases.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// RFC 7386.
fn merged(value: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let mut object = match value {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    for (key, new) in patch {
        match new {
            Value::Null => {
                object.remove(key);
            }
            new => {
                let old = object.remove(key).unwrap_or_default();
                object.insert(key.clone(), merged(old, new));
            }
        }
    }
    object.into()
}

/// The base of a case in a folder of its own, with its patches.
fn folder_of(case: &Value, root: &Path) -> PathBuf {
    let folder = root.join(case["name"].as_str().unwrap());
    std::fs::create_dir_all(&folder).unwrap();
    for entry in std::fs::read_dir(fixtures().join(case["base"].as_str().unwrap())).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    for (name, patch) in case["files"].as_object().into_iter().flatten() {
        let path = folder.join(name);
        match patch {
            Value::Null => std::fs::remove_file(path).unwrap(),
            Value::String(text) => {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            patch => {
                let old = std::fs::read(&path)
                    .map_or(Value::Null, |b| serde_json::from_slice(&b).unwrap());
                std::fs::write(&path, merged(old, patch).to_string()).unwrap();
            }
        }
    }
    if case["bom"] == true {
        for name in ["tokenizer.json", "tokenizer_config.json", "config.json"] {
            let path = folder.join(name);
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, [b"\xef\xbb\xbf", &bytes[..]].concat()).unwrap();
        }
    }
    folder
}

fn ids(value: &Value) -> Vec<u32> {
    let list = value.as_array().unwrap().iter();
    list.map(|v| v.as_u64().unwrap() as u32).collect()
}
