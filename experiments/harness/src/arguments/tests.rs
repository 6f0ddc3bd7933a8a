use super::*;
use crate::list::List;

/// A demonstration.
#[derive(Debug, Parser)]
struct Demo {
    /// Coefficient
    #[arg(long)]
    beta: Option<f64>,
    /// Sizes
    #[arg(long, value_name = "LIST")]
    sizes: Option<List<usize>>,
    /// Small
    #[arg(long)]
    smoke: bool,
    /// A file
    file: Option<String>,
    /// Steps
    #[arg(long, default_value_t = 3)]
    steps: u64,
    /// A key of the config
    #[arg(long)]
    set: Option<String>,
}

const DEFAULTS: &str = "beta = 0.1\nsizes = [1, 2]\nsteps = 7\n[fit]\nlearning_rate = 0.1\n[ppo]\nlearning_rate = 0.2\n";

fn read(words: &[&str]) -> Result<Demo, clap::Error> {
    let words = std::iter::once("demo").chain(words.iter().copied());
    try_parse(DEFAULTS, words.map(OsString::from))
}

#[test]
fn negative_numbers_are_values() {
    for (text, value) in [
        ("-1", -1.0),
        ("-.5", -0.5),
        ("-1e-3", -1e-3),
        ("-2.5", -2.5),
    ] {
        assert_eq!(read(&["--beta", text]).unwrap().beta, Some(value));
    }
    assert_eq!(
        read(&["--beta", "-inf"]).unwrap().beta,
        Some(f64::NEG_INFINITY)
    );
    assert!(read(&["--beta", "-NaN"]).unwrap().beta.unwrap().is_nan());
    let error = read(&["--sizes", "-1,2"]).unwrap_err().to_string();
    assert!(
        error.contains("found -1, expected a whole number, 0 or more"),
        "{error}"
    );
    let error = read(&["--steps", "-4"]).unwrap_err().to_string();
    assert!(
        error.contains("found -4, expected a whole number, 0 or more"),
        "{error}"
    );
    // A flag is not taken for a value, nor is what stands after `--`.
    assert!(read(&["--beta", "--smoke"]).is_err());
    assert_eq!(read(&["--", "-1"]).unwrap().file.as_deref(), Some("-1"));
}

#[test]
fn lists_may_be_ranges() {
    assert_eq!(
        read(&["--sizes", "1..3,8"]).unwrap().sizes,
        Some(List(vec![1, 2, 3, 8]))
    );
}

#[test]
fn help_shows_the_defaults_of_the_config() {
    let help = read(&["--help"]).unwrap_err().to_string();
    for expected in [
        "Coefficient [default: 0.1]",
        "Sizes [default: 1,2]",
        "Steps [default: 3]",
    ] {
        assert!(help.contains(expected), "{help}");
    }
    assert!(
        help.lines().all(|line| line.chars().count() <= COLUMNS),
        "{help}"
    );
}

#[test]
fn a_word_that_names_a_flag_gets_a_hint() {
    let error = read(&["a.txt", "smoke"]).unwrap_err().to_string();
    assert!(error.contains("'--smoke'"), "{error}");
    let error = read(&["a.txt", "other"]).unwrap_err().to_string();
    assert!(!error.contains("a flag of that name"), "{error}");
}

/// The number of threads is no flag.
#[test]
fn a_number_of_threads_is_told_its_variable() {
    for flag in ["--threads", "--num-threads"] {
        let error = read(&["a.txt", flag, "2"]).unwrap_err().to_string();
        assert!(error.contains("RAYON_NUM_THREADS=N"), "{error}");
    }
}

/// A setting that is no flag of its own is told where it goes.
#[test]
fn a_key_of_the_config_is_told_how_it_is_set() {
    let error = read(&["--learning-rate", "1"]).unwrap_err().to_string();
    let hint = "'--set fit.learning_rate=VALUE' or '--set ppo.learning_rate=VALUE'";
    assert!(error.contains(hint), "{error}");
    let error = read(&["--nothing"]).unwrap_err().to_string();
    assert!(!error.contains("--set"), "{error}");
}
