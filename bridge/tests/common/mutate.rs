//! Damaged copies of files: a seeded stream of mutations, and a loop that finds what a parser does not survive.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Inputs a parser is given unless `RTO_MUTATIONS` says how many.
const FEW: u64 = 400;
/// No input of some kilobytes may take longer.
const LONGEST: Duration = Duration::from_secs(10);

/// SplitMix64: a generator of one number, so that an input is found again from the number it is reported with.
pub struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// What a text is likely to trip over in place of a word, a number or a string.
const WORDS: [&str; 32] = [
    "0",
    "-1",
    "1e999",
    "-0.0",
    "1e-320",
    "18446744073709551616",
    "9223372036854775807",
    "4294967296",
    "2147483648",
    "1.5",
    "NaN",
    "Infinity",
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "[[[[[[[[",
    "}",
    "]",
    ",",
    ":",
    "\"",
    "\\ud800",
    "\\u0000",
    "\u{feff}",
    "é",
    "{{",
    "{%",
    "%}",
    "[null]",
    "{\"a\":{}}",
];

const BYTES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'\n'];

const NUMBERS: [u64; 10] = [
    0,
    1,
    u64::MAX,
    1 << 31,
    1 << 32,
    1 << 40,
    (1 << 63) - 1,
    1 << 63,
    255,
    65_536,
];

/// Input number `i` of a corpus.
pub fn input(corpus: &[Vec<u8>], seed: u64, i: u64) -> Vec<u8> {
    let mut r = Random(seed ^ i.wrapping_mul(0xd134_2543_de82_ef95));
    let mut bytes = corpus[r.below(corpus.len())].clone();
    let changes = 1 + r.below(4).min(r.below(8));
    for _ in 0..changes {
        change(&mut bytes, corpus, &mut r);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], r: &mut Random) {
    let n = bytes.len();
    let at = r.below(n + 1);
    let most = 1 << r.below(8);
    let end = (at + 1 + r.below(most)).min(n);
    match r.below(12) {
        0 if n > 0 => bytes[at.min(n - 1)] ^= 1 << r.below(8),
        1 if n > 0 => bytes[at.min(n - 1)] = BYTES[r.below(BYTES.len())],
        2 => bytes.insert(at, r.next() as u8),
        3 if at < end => drop(bytes.drain(at..end)),
        4 => bytes.truncate(at),
        5 if at < end => {
            let again = bytes[at..end].to_vec();
            let to = r.below(n);
            bytes.splice(to..to, again);
        }
        6 => {
            let other = &corpus[r.below(corpus.len())];
            let from = r.below(other.len() + 1);
            let until = (from + 1 + r.below(64)).min(other.len());
            bytes.splice(at..at, other[from.min(until)..until].to_vec());
        }
        7 => {
            // A length or an offset of a binary file.
            let number = NUMBERS[r.below(NUMBERS.len())].wrapping_sub(r.below(3) as u64);
            let width = [1, 2, 4, 8][r.below(4)];
            let at = at / width * width;
            for (place, byte) in bytes
                .iter_mut()
                .skip(at)
                .take(width)
                .zip(number.to_le_bytes())
            {
                *place = byte;
            }
        }
        8 => drop(bytes.splice(at..at, WORDS[r.below(WORDS.len())].bytes())),
        _ => {
            // A number, a word or a string of a text.
            let Some((start, end)) = token(bytes, at) else {
                return;
            };
            let word = match r.below(4) {
                0 => {
                    let other = &corpus[r.below(corpus.len())];
                    token(other, r.below(other.len() + 1)).map(|(s, e)| other[s..e].to_vec())
                }
                1 => token(bytes, r.below(n)).map(|(s, e)| bytes[s..e].to_vec()),
                _ => Some(WORDS[r.below(WORDS.len())].as_bytes().to_vec()),
            };
            bytes.splice(start..end, word.unwrap_or_default());
        }
    }
}

/// The next run of word characters, or the next string in quotes.
fn token(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let word = |b: &u8| b.is_ascii_alphanumeric() || b"_.-+".contains(b);
    let start = at
        + bytes
            .get(at..)?
            .iter()
            .position(|b| word(b) || *b == b'"')?;
    let rest = &bytes[start + 1..];
    let length = match bytes[start] {
        b'"' => rest.iter().position(|b| *b == b'"').map(|n| n + 1)?,
        _ => rest.iter().position(|b| !word(b)).unwrap_or(rest.len()),
    };
    Some((start, start + 1 + length))
}

/// Time of this process on a processor, where the system says it (Linux, in hundredths of a second).
fn on_processor() -> Option<Duration> {
    let said = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the name, which may hold blanks: the 14th and 15th fields of all.
    let fields: Vec<&str> = said.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse().ok()?;
    let of_kernel: u64 = fields.get(12)?.parse().ok()?;
    Some(Duration::from_millis(10 * (ticks + of_kernel)))
}

/// Gives `parse` many inputs. `parse` returns the error it ends in, which must be one line.
///
/// # Panics
/// Where an input panics, takes seconds, or ends in an error of several lines; the input is named by its number.
pub fn survive(name: &str, corpus: &[Vec<u8>], mut parse: impl FnMut(&[u8]) -> Result<(), String>) {
    let wanted = std::env::var("RTO_MUTATIONS")
        .ok()
        .and_then(|n| n.parse().ok());
    let begin = std::env::var("RTO_MUTATIONS_FROM")
        .ok()
        .and_then(|n| n.parse().ok());
    let (begin, wanted): (u64, u64) = (begin.unwrap_or(0), wanted.unwrap_or(FEW));
    let seed = name
        .bytes()
        .fold(16, |seed: u64, b| seed.wrapping_mul(31) + u64::from(b));
    let started = Instant::now();
    let (mut read, mut slowest) = (0, (Duration::ZERO, 0));
    for whole in corpus {
        if let Err(why) = parse(whole) {
            assert!(!why.contains('\n'), "{name}: a file of the corpus: {why}");
        }
    }
    for i in begin..begin + wanted {
        let bytes = input(corpus, seed, i);
        let from = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| parse(&bytes)));
        slowest = slowest.max((from.elapsed(), i));
        let keep = || {
            let path = std::env::temp_dir().join(format!("mutation-{name}-{i}"));
            let _ = std::fs::write(&path, &bytes);
            path.display().to_string()
        };
        match done {
            Ok(Ok(())) => read += 1,
            Ok(Err(why)) if why.contains('\n') || why.is_empty() => {
                panic!(
                    "{name}: input {i} ends in several lines: {why} ({})",
                    keep()
                )
            }
            Ok(Err(_)) => {}
            Err(_) => panic!("{name}: input {i} panics ({})", keep()),
        }
        // A busy machine may have paused the first try: the second is timed by what it takes of a processor.
        if from.elapsed() >= LONGEST {
            let (again, before) = (Instant::now(), on_processor());
            let _ = catch_unwind(AssertUnwindSafe(|| parse(&bytes)));
            let took = match (before, on_processor()) {
                (Some(before), Some(after)) => after.saturating_sub(before),
                _ => again.elapsed(),
            };
            assert!(
                took < LONGEST,
                "{name}: input {i} takes {took:?} ({})",
                keep()
            );
        }
    }
    println!(
        "{name}: {wanted} inputs in {:.1} s, {read} read, the slowest ({}) in {:.0} ms",
        started.elapsed().as_secs_f64(),
        slowest.1,
        1e3 * slowest.0.as_secs_f64()
    );
}
