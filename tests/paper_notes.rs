//! `paper-notes/equations.md` names only functions, tests and figures that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The cells of every row of the table, header and rule left out.
fn rows(table: &str) -> Vec<Vec<String>> {
    let lines = table.lines().filter(|line| line.starts_with('|'));
    let cells = |line: &str| {
        line.trim_matches('|')
            .split(" |")
            .map(|c| c.trim().to_string())
            .collect::<Vec<_>>()
    };
    lines.skip(2).map(cells).collect()
}

/// What stands between backticks.
fn names(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

fn source(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The source files that can define the items of a module path below the `src` of a crate.
fn module_files(source: &str, module: &[&str]) -> Vec<PathBuf> {
    let base = module
        .iter()
        .fold(Path::new(ROOT).join(source), |path, part| path.join(part));
    let mut files = vec![
        base.with_extension("rs"),
        base.join("mod.rs"),
        base.join("lib.rs"),
    ];
    // Items that a module re-exports from its own files.
    if let Ok(entries) = fs::read_dir(&base) {
        files.extend(
            entries
                .map(|e| e.unwrap().path())
                .filter(|p| p.extension().is_some_and(|e| e == "rs")),
        );
    }
    files.retain(|file| file.is_file());
    files
}

fn defines(path: &str) -> bool {
    let parts: Vec<&str> = path.split("::").collect();
    let (source_folder, module, item) = match &parts[..] {
        ["rto", module @ .., item] => ("src", module, item),
        ["rto_bridge", module @ .., item] => ("bridge/src", module, item),
        _ => return false,
    };
    let is_definition = |line: &str| {
        [
            "pub fn ",
            "pub struct ",
            "pub enum ",
            "pub trait ",
            "pub type ",
            "pub const ",
        ]
        .iter()
        .any(|keyword| {
            line.trim_start()
                .strip_prefix(keyword)
                .and_then(|rest| rest.strip_prefix(item))
                .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        })
    };
    module_files(source_folder, module)
        .iter()
        .filter_map(|file| source(file))
        .any(|text| text.lines().any(is_definition))
}

fn is_test(name: &str) -> bool {
    let Some((file, function)) = name.split_once("::") else {
        return false;
    };
    let Some(text) = source(&Path::new(ROOT).join(file)) else {
        return false;
    };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let signature = format!("fn {function}(");
    (1..lines.len()).any(|i| {
        lines[i].starts_with(&signature)
            && lines[..i]
                .iter()
                .rev()
                .take_while(|l| l.starts_with("#["))
                .any(|l| *l == "#[test]")
    })
}

fn is_figure(name: &str) -> bool {
    ["svg", "png"]
        .iter()
        .all(|end| Path::new(ROOT).join(format!("{name}.{end}")).is_file())
}

/// What is wrong with a table, one line for each name that does not exist.
fn problems(table: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for row in rows(table) {
        let [item, verdict, functions, tests, figure] = &row[..] else {
            problems.push(format!(
                "{} cells in the row {row:?}, expected 5",
                row.len()
            ));
            continue;
        };
        let mut missing =
            |what: &str, name: &str| problems.push(format!("{item}: no {what} {name:?}"));
        if verdict.is_empty() {
            missing("verdict", verdict);
        }
        if names(functions).is_empty() || names(tests).is_empty() {
            missing("function or test named", "");
        }
        names(functions)
            .into_iter()
            .filter(|n| !defines(n))
            .for_each(|n| missing("function", n));
        names(tests)
            .into_iter()
            .filter(|n| !is_test(n))
            .for_each(|n| missing("test", n));
        names(figure)
            .into_iter()
            .filter(|n| !is_figure(n))
            .for_each(|n| missing("figure", n));
    }
    problems
}

#[test]
fn every_name_in_the_equations_exists() {
    let table = fs::read_to_string(Path::new(ROOT).join("paper-notes/equations.md")).unwrap();
    assert!(rows(&table).len() >= 9);
    assert_eq!(problems(&table), Vec::<String>::new());
}

/// The numbered items of the paper: the number of equations of each section, and everything that has a name.
const EQUATIONS: [(&str, usize); 7] = [
    ("2", 3),
    ("3", 7),
    ("4", 6),
    ("5", 1),
    ("A", 9),
    ("B", 3),
    ("C", 4),
];
const NAMED: [(&str, &[&str]); 9] = [
    ("Algorithm", &["1", "2"]),
    ("Assumption", &["3.1", "4.1"]),
    ("Figure", &["1", "2", "3"]),
    ("Lemma", &["A.1", "A.2", "C.1"]),
    ("Proposition", &["3.2", "C.2"]),
    ("Remark", &["A.3", "B.2"]),
    ("Table", &["1", "2", "3", "4", "5", "6"]),
    ("Theorem", &["4.2", "B.1"]),
    ("footnote", &["2"]),
];

/// The equation numbers of a first cell: those in brackets, `(A.7)–(A.9)` standing for all from the first to the last.
fn equations(item: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut pieces = item.split('(').peekable();
    let mut from: Option<(String, usize)> = None;
    pieces.next();
    for piece in pieces {
        let Some((inside, after)) = piece.split_once(')') else {
            continue;
        };
        let Some((section, number)) = inside.split_once('.') else {
            continue;
        };
        let Ok(number) = number.parse::<usize>() else {
            continue;
        };
        let first = match from.take() {
            Some((start, first)) if start == section => first,
            _ => number,
        };
        found.extend((first..=number).map(|n| format!("{section}.{n}")));
        if after == "–" {
            from = Some((section.to_string(), number));
        }
    }
    found
}

/// The numbered items that no row of the table is about.
fn left_out(table: &str) -> Vec<String> {
    let items: Vec<String> = rows(table).into_iter().map(|row| row[0].clone()).collect();
    let covered: BTreeSet<String> = items.iter().flat_map(|item| equations(item)).collect();
    let all = EQUATIONS
        .iter()
        .flat_map(|(section, n)| (1..=*n).map(move |i| format!("{section}.{i}")));
    let mut missing: Vec<String> = all.filter(|number| !covered.contains(number)).collect();
    for (kind, numbers) in NAMED {
        for number in numbers {
            let name = format!("{kind} {number}");
            let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric());
            let names_it = |item: &String| {
                item.match_indices(&name)
                    .any(|(at, _)| ends(&item[at + name.len()..]))
            };
            if !items.iter().any(names_it) {
                missing.push(name);
            }
        }
    }
    missing
}

#[test]
fn no_numbered_item_of_the_paper_is_missing() {
    let table = fs::read_to_string(Path::new(ROOT).join("paper-notes/equations.md")).unwrap();
    assert_eq!(left_out(&table), Vec::<String>::new());
    for (removed, missing) in [
        ("| (3.4) optimal policy", "3.4"),
        ("| Lemma A.2, (A.7)–(A.9)", "A.8"),
        ("| Figure 1, the", "Figure 1"),
    ] {
        let cut: String = table
            .lines()
            .filter(|line| !line.starts_with(removed))
            .map(|line| format!("{line}\n"))
            .collect();
        assert!(left_out(&cut).contains(&missing.to_string()), "{missing}");
    }
}

/// The text of every file below some folders.
fn sources(folders: &[&str]) -> String {
    let mut folders: Vec<PathBuf> = folders.iter().map(|f| Path::new(ROOT).join(f)).collect();
    let mut sources = String::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => sources += &source(&path).unwrap_or_default(),
            }
        }
    }
    sources
}

/// Tests named in the errata exist somewhere, and so do its figures.
#[test]
fn every_test_and_figure_in_the_errata_exists() {
    let errata = fs::read_to_string(Path::new(ROOT).join("paper-notes/errata.md")).unwrap();
    let sources = sources(&["src", "tests", "experiments/tests"]);
    let mut checked = 0;
    for name in names(&errata) {
        let exists = match name {
            figure if figure.starts_with("figures/") => is_figure(figure),
            path if path.starts_with("rto::") => {
                path.split("::").skip(1).all(|part| sources.contains(part))
            }
            other => ["fn", "struct", "trait"]
                .iter()
                .any(|k| sources.contains(&format!("{k} {other}"))),
        };
        assert!(exists, "errata.md names `{name}`");
        checked += 1;
    }
    assert!(checked > 30, "{checked}");
}

/// The last column of the details of PPO names a test each.
#[test]
fn every_detail_of_ppo_is_held_by_a_test() {
    let notes = fs::read_to_string(Path::new(ROOT).join("paper-notes/deviations.md")).unwrap();
    let (_, rest) = notes.split_once("## PPO, detail by detail").unwrap();
    let (table, _) = rest.split_once("\n## ").unwrap();
    let folders = [
        "src",
        "tests",
        "bridge/tests",
        "experiments/tests",
        "experiments/rto_llm/tests",
    ];
    let sources = sources(&folders);
    let mut checked = 0;
    for row in table.lines().filter(|l| l.starts_with("| ")).skip(1) {
        let last = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap();
        for name in names(last).into_iter().filter(|n| n.contains('_')) {
            assert!(sources.contains(&format!("fn {name}()")), "{name}");
            checked += 1;
        }
    }
    assert!(checked >= 10, "{checked}");
}

/// The crates a workspace manifest names, our own left out.
fn crates(manifest: &str) -> BTreeSet<String> {
    let manifest: toml::Table = manifest.parse().unwrap();
    let named = manifest["workspace"]["dependencies"].as_table().unwrap();
    // Ours are those that are found by a path.
    let theirs = named.iter().filter(|(_, how)| how.get("path").is_none());
    theirs.map(|(name, _)| name.clone()).collect()
}

#[test]
fn every_dependency_has_its_reason() {
    let read = |name: &str| fs::read_to_string(Path::new(ROOT).join(name)).unwrap();
    let notes = read("paper-notes/dependencies.md");
    let first_cells = notes.lines().filter(|l| l.starts_with("| `"));
    let explained: BTreeSet<String> = first_cells
        .flat_map(|row| names(row.split('|').nth(1).unwrap()))
        .map(String::from)
        .collect();
    assert_eq!(explained, crates(&read("Cargo.toml")));
}

#[test]
fn a_wrong_table_is_found_out() {
    let head = "| item | verdict | functions | tests | figure |\n|---|---|---|---|---|\n";
    let good = "| a | holds | `rto::search::bounds::minimax` | `tests/prop32/golden.rs::golden_tables` | `figures/prop32/figure2` |\n";
    assert_eq!(problems(&format!("{head}{good}")), Vec::<String>::new());
    for (from, to) in [
        ("minimax", "minimum"),
        ("bounds::minimax", "bounds::mini"),
        ("bounds", "bound"),
        ("golden_tables", "golden_table"),
        ("golden_tables", "golden"),
        ("prop32/golden.rs", "prop33/golden.rs"),
        ("figure2", "figure3"),
        ("holds", ""),
        ("`tests/prop32/golden.rs::golden_tables`", ""),
        (" | `figures/prop32/figure2`", ""),
    ] {
        let bad = good.replacen(from, to, 1);
        assert!(!problems(&format!("{head}{bad}")).is_empty(), "{bad}");
    }
}
