//! Small files that unfold into more than a memory holds, and headers that promise what is not there.

use flate2::{Compression, write::GzEncoder};
use rto_bridge::data::{self, ReadOptions};
use std::io::Write;
use std::path::Path;

/// Most memory this process has had, in MiB.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib >> 10)
}

fn refused(path: &Path) -> String {
    let said = data::read_pairs(&[path], &ReadOptions::default())
        .unwrap_err()
        .to_string();
    assert!(!said.contains('\n'), "{said}");
    said
}

/// `n` times 16 MiB of one line over and over: a stream goes on with its next member, so that a block is packed once.
fn packed(dir: &Path, name: &str, n: usize, line: &[u8; 1 << 10]) -> std::path::PathBuf {
    let block: Vec<u8> = std::iter::repeat_n(line, 1 << 14)
        .flatten()
        .copied()
        .collect();
    let member = match name {
        "zst" => zstd::encode_all(&block[..], 1).unwrap(),
        _ => gzip(&block),
    };
    let path = dir.join(name);
    std::fs::write(&path, member.repeat(n)).unwrap();
    path
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_line_without_an_end_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["gz", "zst"] {
        let path = packed(dir.path(), name, 18, &[b'a'; 1 << 10]);
        assert!(std::fs::metadata(&path).unwrap().len() < 4 << 20);
        let said = refused(&path);
        assert!(
            said.contains("a line of more than 256 MiB") || said.contains("times its size"),
            "{said}"
        );
    }
    // In an array, one record.
    let path = dir.path().join("array.gz");
    let start = gzip(b"[{\"prompt\": \"");
    std::fs::write(
        &path,
        [start, gzip(&vec![b' '; 16 << 20]).repeat(18)].concat(),
    )
    .unwrap();
    let said = refused(&path);
    assert!(
        said.contains("is longer than 256 MiB") || said.contains("times its size"),
        "{said}"
    );
    if let Some(peak) = peak() {
        assert!(peak < 1500, "{peak} MiB");
    }
}

#[test]
fn endless_lines_are_not_kept_either() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["gz", "zst"] {
        let mut line = [b' '; 1 << 10];
        line[1023] = b'\n';
        let path = packed(dir.path(), name, 18, &line);
        let said = refused(&path);
        assert!(
            said.contains("unfolds to more than 300 times its size, which data do not"),
            "{said}"
        );
    }
    // The same pair over and over is data, if it is not so many times as to fill a memory.
    let mut pair = [b' '; 1 << 10];
    let text = br#"{"prompt":"p","chosen":"c","rejected":"r"}"#;
    pair[..text.len()].copy_from_slice(text);
    pair[1023] = b'\n';
    let path = packed(dir.path(), "gz", 1, &pair);
    assert_eq!(
        data::read_pairs(&[path], &ReadOptions::default())
            .unwrap()
            .len(),
        16 << 10
    );
}

#[cfg(feature = "parquet")]
#[test]
fn a_column_that_unfolds_into_a_memory_is_refused_before() {
    use parquet::basic::{Compression, ZstdLevel};
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::{properties::WriterProperties, writer::SerializedFileWriter};
    let schema = "message d { required binary prompt (UTF8); required binary chosen (UTF8); required binary rejected (UTF8); }";
    let schema = parquet::schema::parser::parse_message_type(schema).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_dictionary_enabled(false)
        .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
        .build();
    let mut writer =
        SerializedFileWriter::new(Vec::new(), schema.into(), properties.into()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for size in [1, 300 << 20, 1] {
        let mut column = group.next_column().unwrap().unwrap();
        let text = ByteArray::from(vec![b' '; size]);
        column
            .typed::<ByteArrayType>()
            .write_batch(&[text], None, None)
            .unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.parquet");
    std::fs::write(&path, writer.into_inner().unwrap()).unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < 1 << 20);
    let said = refused(&path);
    assert!(said.contains("column \"chosen\" unfolds from"), "{said}");
}

/// Replacements one after the other multiply: four of a thousand would make a petabyte of a kilobyte.
#[test]
fn a_tokenizer_whose_replacements_multiply_is_refused() {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/compatibility/bytes");
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&from).unwrap().flatten() {
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let (config, _) = rto_bridge::checkpoint::read_config(dir.path()).unwrap();
    let file = dir.path().join("tokenizer.json");
    let whole: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let read = |key: &str, list: &str, n: usize| {
        let step = serde_json::json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(30)});
        let mut changed = whole.clone();
        let steps = vec![step; n];
        // One within another, too.
        let inner = serde_json::json!({"type": "Sequence", list: steps});
        changed[key] = serde_json::json!({"type": "Sequence", list: [inner]});
        std::fs::write(&file, changed.to_string()).unwrap();
        rto_bridge::tokenizer::Tokenizer::load(dir.path(), &config).map_err(|e| e.to_string())
    };
    for (key, list) in [("normalizer", "normalizers"), ("decoder", "decoders")] {
        assert!(read(key, list, 2).is_ok(), "{key}");
        let said = read(key, list, 4).unwrap_err();
        assert!(
            said.contains("tokenizer.json") && said.contains(key) && said.contains("times as long"),
            "{said}"
        );
    }
}
