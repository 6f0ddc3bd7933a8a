//! Every command of the README is run, and its first two commands are what CI runs.

use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The README's code blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let fence = format!("```{language}\n");
    let rest = readme.split(&fence).skip(1);
    rest.map(|rest| rest.split("```").next().unwrap().to_string())
        .collect()
}

/// The commands of the README's shell blocks, without comments.
fn commands() -> Vec<String> {
    let blocks = blocks("sh");
    let lines = blocks
        .iter()
        .flat_map(|block| block.lines())
        .map(|line| line.split(" #").next().unwrap().trim().to_string());
    lines.filter(|line| !line.is_empty()).collect()
}

/// Splits at spaces outside double quotes.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in command.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words
}

#[test]
fn every_command_runs() {
    // Run folders go to a copy of the layout, so that a test leaves nothing in the checkout.
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("experiments/data");
    fs::create_dir_all(&data).unwrap();
    for entry in fs::read_dir(Path::new(ROOT).join("experiments/data")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, data.join(path.file_name().unwrap())).unwrap();
    }
    let commands = commands();
    assert_eq!(commands[0], "cargo run --bin prop32");
    assert_eq!(commands[1], "cargo test --workspace");
    let mut ran = 0;
    for command in commands.iter().filter(|c| *c != "cargo test --workspace") {
        let words = words(command);
        assert_eq!(
            words[..3],
            ["cargo", "run", "--bin"],
            "no test runs {command}"
        );
        let binary = match words[3].as_str() {
            "prop32" => env!("CARGO_BIN_EXE_prop32"),
            "solve" => env!("CARGO_BIN_EXE_solve"),
            "algorithm2" => env!("CARGO_BIN_EXE_algorithm2"),
            "thm42" => env!("CARGO_BIN_EXE_thm42"),
            "audit" => env!("CARGO_BIN_EXE_audit"),
            "bench" => env!("CARGO_BIN_EXE_bench"),
            "paper" => env!("CARGO_BIN_EXE_paper"),
            // Of the other package, whose tests run it.
            "rto_llm" => continue,
            other => panic!("no test runs the binary {other}"),
        };
        let args = words[4..]
            .strip_prefix(&["--".to_string()])
            .unwrap_or_default();
        let output = Command::new(binary)
            .args(args)
            .current_dir(dir.path())
            // `paper` then takes the programs that were built for this test.
            .env_remove("CARGO")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        ran += 1;
    }
    assert_eq!(ran, 20);
}

/// The example instance is the file that is named, and `solve` prints what the README says.
#[test]
fn the_example_of_solve_gives_the_lines_shown() {
    let own = Path::new(ROOT).join("experiments/data/own.json");
    assert_eq!(blocks("json"), [fs::read_to_string(&own).unwrap()]);
    let output = Command::new(env!("CARGO_BIN_EXE_solve"))
        .arg(&own)
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let printed: Vec<String> = text.lines().map(words).collect();
    let shown = blocks("text").concat();
    assert!(shown.lines().count() >= 5);
    for line in shown.lines() {
        assert!(
            printed.contains(&words(line)),
            "solve does not print: {line}"
        );
    }
}

#[test]
fn ci_runs_the_readme_test_command() {
    let ci = fs::read_to_string(Path::new(ROOT).join(".ci/run")).unwrap();
    let test = commands()[1].clone();
    assert!(ci.lines().any(|line| line.trim() == format!("step {test}")));
}

/// The fragments by which a page's headings are linked: lower case, hyphens for spaces, without punctuation.
fn headings(page: &str) -> impl Iterator<Item = String> {
    let lines = page.lines().filter(|line| line.starts_with('#'));
    lines.map(|line| {
        let text = line.trim_start_matches('#').trim().to_lowercase();
        let kept = text
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

#[test]
fn a_heading_is_linked_by_its_words() {
    let page = "# One\n\n## Two: `words`, and_more\nno # heading";
    let found: Vec<String> = headings(page).collect();
    assert_eq!(found, ["one", "two-words-and_more"]);
}

#[test]
fn every_link_and_picture_exists() {
    for page in ["README.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(Path::new(ROOT).join(page)).unwrap();
        let targets = text
            .split("](")
            .skip(1)
            .map(|rest| rest.split(')').next().unwrap());
        for target in targets.filter(|t| !t.starts_with("http")) {
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = Path::new(ROOT).join(if path.is_empty() { page } else { path });
            assert!(path.exists(), "{page}: {target}");
            if !heading.is_empty() {
                let linked = fs::read_to_string(&path).unwrap();
                assert!(headings(&linked).any(|h| h == heading), "{page}: {target}");
            }
        }
    }
}

/// What the guide tells a contributor to run is there: examples, tests and packages.
#[test]
fn the_guide_names_what_is_there() {
    let root = Path::new(ROOT);
    let guide = fs::read_to_string(root.join("CONTRIBUTING.md")).unwrap();
    let after = |flag: &str| -> Vec<String> {
        let words = guide.split(flag).skip(1);
        let words = words.map(|rest| rest.split([' ', '`', '\n']).next().unwrap());
        words.map(String::from).collect()
    };
    let examples = after("--example ");
    assert!(examples.len() >= 5);
    for name in examples {
        let file = format!("examples/{name}.rs");
        assert!(
            ["", "bridge"]
                .iter()
                .any(|p| root.join(p).join(&file).is_file()),
            "{name}"
        );
    }
    // A path in backquotes is a file or a folder.
    let paths = guide.split('`').skip(1).step_by(2);
    for path in paths.filter(|p| {
        p.contains('/')
            && !p.contains([' ', ':', '*'])
            && !p.contains("foo/")
            && !p.contains("NAME")
    }) {
        assert!(root.join(path).exists(), "{path}");
    }
}
