//! Files by what they hold: text, plain or compressed, or a table.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;

use super::in_file;
use crate::Result;
use crate::files::stray;

/// Bytes of the longest record. A lone line of many gigabytes is no record; the limit keeps a wrong file, and a small compressed
/// one that unfolds into such a line, from filling the memory.
pub(super) const LONGEST: usize = 1 << 28;

/// An opened file.
pub(super) enum Source {
    /// Text, uncompressed by now, and what errors call the packing.
    Text(Box<dyn BufRead>, Option<&'static str>),
    /// A Parquet file.
    Parquet(File),
}

/// Opens a file by its first bytes (names lie).
pub(super) fn open(path: &Path) -> Result<Source> {
    if path.is_dir() {
        return Err(in_file(path, "is a directory, expected a file"));
    }
    let unreadable = |e: std::io::Error| in_file(path, format!("cannot read: {e}"));
    let file = File::open(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => in_file(path, "no such file"),
        _ => unreadable(e),
    })?;
    let size = file.metadata().map_err(unreadable)?.len();
    let mut reader = BufReader::new(file);
    let start = reader.fill_buf().map_err(unreadable)?;
    Ok(match start {
        [0x1f, 0x8b, ..] => packed(MultiGzDecoder::new(reader), size, "gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = zstd::Decoder::with_buffer(reader).map_err(unreadable)?;
            packed(decoder, size, "zstd")
        }
        [b'B', b'Z', b'h', ..] => packed(MultiBzDecoder::new(reader), size, "bzip2"),
        b"" => Source::Text(Box::new(reader), None),
        [b'P', b'A', b'R', b'1', ..] => Source::Parquet(reader.into_inner()),
        _ => match foreign(start)
            .or_else(|| stray(start))
            .or_else(|| table(start))
        {
            Some(what) => return Err(in_file(path, what)),
            None => Source::Text(Box::new(reader), None),
        },
    })
}

fn packed(decoder: impl Read + 'static, size: u64, name: &'static str) -> Source {
    let unpacked = Unpacked {
        decoder,
        left: size.saturating_mul(MOST_TIMES).max(LONGEST as u64),
    };
    Source::Text(Box::new(BufReader::new(unpacked)), Some(name))
}

/// How many times its size a compressed file may unfold to, once that is more than one record may hold. Text does ten times, the
/// same records over and over a hundred; files that are made to fill a memory do a thousand and more.
const MOST_TIMES: u64 = 300;

/// Counts what comes out of a decoder.
struct Unpacked<R> {
    decoder: R,
    left: u64,
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, part: &mut [u8]) -> io::Result<usize> {
        let n = self.decoder.read(part)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            let why =
                format!("unfolds to more than {MOST_TIMES} times its size, which data do not");
            io::Error::new(ErrorKind::FileTooLarge, why)
        })?;
        Ok(n)
    }
}

/// A table of texts: a first line without braces that commas or tabulators cut, and no object in the next one.
fn table(start: &[u8]) -> Option<&'static str> {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    let mut lines = start.split(|b| *b == b'\n');
    let head = lines.next()?;
    if lines
        .next()
        .is_some_and(|next| next.trim_ascii().starts_with(b"{"))
    {
        return None;
    }
    let fields = |cut: u8| {
        let names: Vec<&[u8]> = head.trim_ascii().split(|b| *b == cut).collect();
        let named = names.iter().all(|name| !name.trim_ascii().is_empty());
        names.len() > 1 && named
    };
    let is_text = head.iter().all(|b| !b"{}[]".contains(b));
    (is_text && [b',', b'\t'].into_iter().any(fields)).then_some(
        "is a table of texts (CSV or TSV), which is not read; in Python, pandas.read_csv(file).to_json(new_file, orient=\"records\", lines=True) makes JSON lines of it",
    )
}

/// Formats that data come in and that are not read, with what to do.
fn foreign(start: &[u8]) -> Option<&'static str> {
    Some(match start {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            "is compressed by xz, which is not read; unpack it with xz -d"
        }
        [0x04, 0x22, 0x4d, 0x18, ..] => {
            "is compressed by lz4, which is not read; unpack it with lz4 -d"
        }
        [b'7', b'z', 0xbc, 0xaf, ..] => "is a 7z archive, which is not read; unpack it",
        [b'P', b'K', 3, 4, ..] => "is a zip archive, which is not read; unpack it",
        [b'A', b'R', b'R', b'O', b'W', b'1', ..] | [0xff, 0xff, 0xff, 0xff, ..] => {
            "is an Arrow file, which is not read; in Python, datasets.load_from_disk(folder).to_parquet(file) makes a Parquet file of it"
        }
        [0x80, 2..=5, ..] => "is a Python pickle, which is not read; write it as JSON lines",
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "is UTF-16 text, expected UTF-8",
        _ => return None,
    })
}
