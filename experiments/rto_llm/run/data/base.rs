//! The model that a run starts from: its folder or GGUF file, its shape, and what tells it from another.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rto::seed::SeedTree;
use rto_bridge::checkpoint::{self, hub};
use rto_bridge::family::{Head, ModelConfig};
use rto_bridge::gguf;

/// A model on disk (or on the hub, with that feature).
pub struct Base {
    /// The folder of the model, or its GGUF file.
    pub folder: PathBuf,
    pub network: ModelConfig,
    /// What a user should know of its files.
    pub notes: Vec<String>,
}

/// The model of a name.
pub fn base(name: &str) -> Result<Base> {
    let folder = hub::resolve(name, &mut |text| eprintln!("{text}"))
        .with_context(|| format!("--model {name}"))?;
    let mut notes = Vec::new();
    let (network, head) = checkpoint::read_shape(&folder, &mut notes)?;
    if head != Head::CausalLm {
        bail!("--model {name}: is a classification model, expected one that writes text");
    }
    Ok(Base {
        folder,
        network,
        notes,
    })
}

/// Names and sizes of a model folder's files, and what its settings say: enough to see that another model was put there.
pub fn fingerprint(folder: Option<&Path>) -> Result<Option<String>> {
    let Some(folder) = folder else {
        return Ok(None);
    };
    if gguf::is_gguf(folder) {
        // Its size and a little of everything: metadata and weights.
        let named = || folder.display().to_string();
        let mut file = std::fs::File::open(folder).with_context(named)?;
        let size = file.metadata().with_context(named)?.len();
        let mut text = format!("{size}");
        for part in 0..256 {
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(size / 256 * part))
                .with_context(named)?;
            let mut piece = (&mut file).take(1 << 10);
            piece.read_to_end(&mut bytes).with_context(named)?;
            text.extend(bytes.iter().map(|b| char::from(*b)));
        }
        let key = SeedTree::new(0).child(&text).key64();
        return Ok(Some(format!("{key:016x}")));
    }
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut files: Vec<String> = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let small = ["config.json", "tokenizer.json"].contains(&name.as_str());
        // A model card or a log may be added later.
        if !small && !name.ends_with(".safetensors") {
            continue;
        }
        let size = entry.metadata().map_or(0, |m| m.len());
        let text = match small {
            true => std::fs::read_to_string(entry.path()).unwrap_or_default(),
            false => String::new(),
        };
        files.push(format!("{name} {size} {text}"));
    }
    files.sort();
    let key = SeedTree::new(0).child(&files.join("\n")).key64();
    Ok(Some(format!("{key:016x}")))
}
