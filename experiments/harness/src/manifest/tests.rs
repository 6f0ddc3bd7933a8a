use super::*;

fn entry(file: &str) -> Entry {
    Entry {
        file: file.into(),
        csv: "figures/a.csv".into(),
        binary: "prop32".into(),
        command: "cargo run --bin prop32".into(),
        config: "experiments/configs/prop32.toml".into(),
        seed: 1,
    }
}

#[test]
fn a_whole_manifest_passes_and_each_gap_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let mut manifest = Manifest::default();
    manifest.upsert(entry("figures/a.svg"));
    manifest.upsert(entry("figures/a.png"));
    assert_eq!(manifest.figures.len(), 1);
    manifest.save(root).unwrap();
    assert_eq!(Manifest::load(root).unwrap(), manifest);
    fs::create_dir_all(root.join("experiments/configs")).unwrap();
    for file in [
        "figures/a.svg",
        "figures/a.png",
        "figures/a.csv",
        "experiments/configs/prop32.toml",
    ] {
        fs::write(root.join(file), "x").unwrap();
    }
    Manifest::check(root).unwrap();
    fs::remove_file(root.join("figures/a.svg")).unwrap();
    fs::create_dir(root.join("figures/sub")).unwrap();
    fs::write(root.join("figures/sub/b.png"), "x").unwrap();
    let error = Manifest::check(root).unwrap_err().to_string();
    assert!(
        error.contains("`figures/a.svg` of figure `figures/a.png` does not exist"),
        "{error}"
    );
    assert!(
        error.contains("`figures/sub/b.png` is not listed"),
        "{error}"
    );
}

#[test]
fn a_bad_manifest_names_the_line() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("figures")).unwrap();
    fs::write(
        dir.path().join(MANIFEST),
        "[[figure]]\nfile = \"a.svg\"\nsed = 1\n",
    )
    .unwrap();
    let error = Manifest::load(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("manifest.toml:3: unknown field `sed`"),
        "{error}"
    );
}
