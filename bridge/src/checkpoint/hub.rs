//! The local folder of what a user names: a path, or a model of the Hugging Face hub.

use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// A local folder as it is, or a hub id (`owner/name`) downloaded where the feature `hub` is on. `say` is told what is
/// downloaded and where it is kept.
///
/// # Errors
/// [`Error::File`] where there is no such folder, the feature is off, or the download fails.
pub fn resolve(name: &str, say: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let path = Path::new(name);
    let previous = super::atomic::previous(path);
    if path.exists() || previous.is_some_and(|p| p.is_dir()) {
        return Ok(path.into());
    }
    if crate::gguf::is_gguf(path) {
        return Err(Error::file(path, "no such file"));
    }
    if !is_hub_id(name) {
        return Err(Error::file(path, "no such folder"));
    }
    download(name, say)
}

/// `owner/name` of the characters that a hub allows.
fn is_hub_id(name: &str) -> bool {
    let part = |p: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !p.is_empty() && p.chars().all(allowed) && !p.starts_with('.')
    };
    matches!(name.split_once('/'), Some((owner, model)) if part(owner) && part(model))
}

#[cfg(not(feature = "hub"))]
fn download(name: &str, _say: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    Err(Error::file(
        name,
        "no such folder; to download a model of that id from the Hugging Face hub, build with --features rto-llm/hub",
    ))
}

#[cfg(feature = "hub")]
fn download(name: &str, say: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    use super::{CONFIG, GENERATION_CONFIG, INDEX, TOKENIZER_FILES, WEIGHTS};
    let failed =
        |e: hf_hub::api::sync::ApiError| Error::file(name, format!("cannot download: {e}"));
    // HF_HOME and HF_ENDPOINT count, as for the tools in Python.
    let repo = hf_hub::api::sync::ApiBuilder::from_env()
        .build()
        .map_err(failed)?
        .model(name.into());
    let info = match (repo.info(), cached(name)) {
        (Ok(info), _) => info,
        (Err(e), Some(folder)) => {
            say(&format!(
                "{name}: took the copy in {} ({})",
                folder.display(),
                failed(e)
            ));
            return Ok(folder);
        }
        (Err(e), None) => return Err(failed(e)),
    };
    let listed: Vec<String> = info.siblings.into_iter().map(|s| s.rfilename).collect();
    let whole = listed.iter().any(|f| f == WEIGHTS);
    if !whole && !listed.iter().any(|f| f == INDEX) {
        return Err(Error::file(
            name,
            format!("this hub repository holds neither {WEIGHTS} nor {INDEX}"),
        ));
    }
    let weights = |f: &str| {
        if whole {
            f == WEIGHTS
        } else {
            f == INDEX || f.starts_with("model-") && f.ends_with(".safetensors")
        }
    };
    let wanted = |f: &str| {
        weights(f) || f == CONFIG || f == GENERATION_CONFIG || TOKENIZER_FILES.contains(&f)
    };
    let mut folder = None;
    for file in listed.iter().filter(|f| wanted(f)) {
        say(&format!("downloading {name}/{file}"));
        let path = repo.get(file).map_err(failed)?;
        folder = path.parent().map(Path::to_path_buf);
    }
    let folder = folder.ok_or_else(|| Error::file(name, "this hub repository is empty"))?;
    say(&format!("{name} is kept in {}", folder.display()));
    Ok(folder)
}

/// Where an earlier download is kept.
#[cfg(feature = "hub")]
fn cached(name: &str) -> Option<PathBuf> {
    let config = hf_hub::Cache::from_env()
        .model(name.into())
        .get(super::CONFIG)?;
    config.parent().map(Path::to_path_buf)
}
