//! The program `paper`, run as a reader runs it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

fn paper(out: &Path) -> Output {
    // Without Cargo it takes the programs that were built beside it.
    Command::new(env!("CARGO_BIN_EXE_paper"))
        .args(["--quiet", "--json", "--out"])
        .arg(out)
        .env_remove("CARGO")
        .output()
        .unwrap()
}

/// What stands between `before` and the next `after`, everywhere in the text.
fn between<'a>(text: &'a str, before: &str, after: char) -> BTreeSet<&'a str> {
    text.split(before)
        .skip(1)
        .filter_map(|rest| rest.split_once(after))
        .map(|(found, _)| found)
        .collect()
}

#[test]
fn one_page_holds_every_statement_and_figure_and_a_wrong_number_is_an_error() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    let output = paper(&out);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    let outcomes: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let claims = outcomes["claims"].as_array().unwrap();
    let outcomes = outcomes["figures"].as_array().unwrap();
    assert_eq!((outcomes.len(), claims.len()), (30, 35));
    assert!(outcomes.iter().chain(claims).all(|o| o["holds"] == true));

    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.len() < 5_000_000);
    // Sixteen of them are committed: those of programs that train networks, and of the study.
    assert_eq!(page.matches("<svg").count(), 46);
    let links = between(&page, "href=\"#", '"');
    let ids = between(&page, "id=\"", '"');
    assert!(links.len() > 20);
    assert_eq!(
        links.difference(&ids).collect::<Vec<_>>(),
        Vec::<&&str>::new()
    );
    for loads in ["src=", "<link", "@import", "url(", "fetch(", "import("] {
        // A reference within the page is none.
        let found = page.replace("url(#", "").contains(loads);
        assert!(!found, "the page loads something: {loads}");
    }
    // The answer stands on top, its numbers are those of the badges, and proofs are folded.
    let lead = page.split_once("<p class=\"lead\">").unwrap().1;
    let lead = &lead[..lead.find("</p>").unwrap()];
    let badges = |class: &str| {
        page.matches(&format!("<span class=\"badge {class}\">{class}<"))
            .count()
    };
    let (hold, wrong, repaired) = (badges("holds"), badges("false"), badges("repaired"));
    assert!(hold > 0 && wrong > 0 && repaired > 0);
    for said in [
        format!("{hold} hold;"),
        format!("{wrong} are false as printed"),
        format!("{repaired} are repaired"),
    ] {
        assert!(lead.contains(&said), "{said}: {lead}");
    }
    assert!(page.contains("<details class=\"proof\"><summary>\n<h4 id=\"note-A3\">"));
    let text = fs::read_to_string(out.join("report.md")).unwrap();
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let manifest = fs::read_to_string(root.join("figures/manifest.toml")).unwrap();
    for figure in between(&manifest, "file = \"figures/", '"') {
        let name = figure.trim_end_matches(".svg");
        assert!(
            page.contains(&format!("<h3 id=\"figure-{}\"", name.replace('/', "-"))),
            "{name}"
        );
        assert!(text.contains(&format!("[`{name}`]")), "{name}");
    }
    let equations = fs::read_to_string(root.join("paper-notes/equations.md")).unwrap();
    let statements = equations.lines().filter(|l| l.starts_with("| ")).count() - 1;
    assert_eq!(page.matches("code and tests").count(), statements);

    // The index links to a page for each paper, whose claims show their numbers.
    let index = fs::read_to_string(out.join("index.html")).unwrap();
    let pages = fs::read_dir(out.join("papers")).unwrap().count();
    assert_eq!(index.matches("<a href=\"papers/").count(), pages);
    assert!(
        index.contains("href=\"report.html\"") && pages >= 20,
        "{pages}"
    );
    let chipo = fs::read_to_string(out.join("papers/chipo.html")).unwrap();
    for part in [
        "K1. ",
        "K1b. ",
        "slope, chi-PO",
        "<svg",
        "cargo run --bin bench",
    ] {
        assert!(chipo.contains(part), "{part}");
    }

    // The same command again finds everything done.
    let again = paper(&out);
    assert!(again.status.success() && again.stdout == output.stdout);

    // A number that contradicts its expectation.
    let counts = out.join("prop32/counts.csv");
    let edited = fs::read_to_string(&counts).unwrap().replace(
        "best-first, adversary\",measured,",
        "best-first, adversary\",measured,9",
    );
    fs::write(&counts, edited).unwrap();
    for old in ["report.html", "report.md", "results.json", "timings.json"] {
        fs::remove_file(out.join(old)).unwrap();
    }
    let wrong = paper(&out);
    assert!(!wrong.status.success());
    let error = String::from_utf8_lossy(&wrong.stderr).into_owned();
    let line = error.lines().find(|l| l.starts_with("error: ")).unwrap();
    assert!(
        line.contains(
            "2 of 65 expectations do not hold: prop32/queries_vs_horizon, prop32/queries_vs_xi"
        ),
        "{line}"
    );
    assert!(
        fs::read_to_string(out.join("report.html"))
            .unwrap()
            .contains("NOT as expected")
    );
}

/// The committed figures are those of `--full`: its expectations hold of their tables, without running anything for minutes.
#[test]
fn the_committed_tables_are_as_expected_at_the_published_sizes() {
    let dir = TempDir::new().unwrap();
    let (small, full) = (dir.path().join("small"), dir.path().join("full"));
    assert!(paper(&small).status.success());
    fs::create_dir(&full).unwrap();
    fs::copy(small.join("versions.json"), full.join("versions.json")).unwrap();
    fs::write(full.join("config.toml"), "full = true\nonly = \"\"\n").unwrap();
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    for experiment in ["prop32", "thm42", "algorithm2", "audit", "bench"] {
        let (from, to) = (root.join("figures").join(experiment), full.join(experiment));
        fs::create_dir(&to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
        // What tells a finished run, and its settings.
        for name in ["results.json", "config.toml", "timings.json"] {
            fs::copy(small.join(experiment).join(name), to.join(name)).unwrap();
        }
    }
    let output = Command::new(env!("CARGO_BIN_EXE_paper"))
        .args(["--full", "--quiet", "--json", "--out"])
        .arg(&full)
        .env_remove("CARGO")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    let outcomes: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(outcomes["figures"].as_array().unwrap().len(), 30);
}

/// One paper alone runs what it needs and nothing else; an unknown one is one line with those there are.
#[test]
fn one_paper_alone() {
    let dir = TempDir::new().unwrap();
    let run = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_paper"))
            .args(args)
            .current_dir(dir.path())
            .env_remove("CARGO")
            .output()
            .unwrap()
    };
    let output = run(&["--only", "2407.13399", "--quiet", "--json", "--out", "one"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    let results: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let claims = results["claims"].as_array().unwrap();
    assert!(claims.len() == 2 && claims.iter().all(|c| c["paper"] == "2407.13399"));
    assert!(dir.path().join("one/papers/chipo.html").is_file());
    assert!(
        !dir.path().join("one/prop32").exists() && !dir.path().join("one/report.html").exists()
    );
    let output = run(&["--only", "nobody", "--out", "two"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && error.trim_end().lines().count() == 1,
        "{error}"
    );
    assert!(
        error.starts_with("error: --only: found \"nobody\", expected one of"),
        "{error}"
    );
    assert!(!dir.path().join("two").exists());
}

/// Tests that the registry names exist, and its figures are those of the expectations.
#[test]
fn the_registry_names_what_exists() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let text = fs::read_to_string(root.join("experiments/paper/registry.toml")).unwrap();
    let registry: toml::Table = text.parse().unwrap();
    let manifest = fs::read_to_string(root.join("figures/manifest.toml")).unwrap();
    for claim in registry["claim"].as_array().unwrap() {
        let id = claim["id"].as_str().unwrap();
        for test in claim["tests"].as_array().unwrap() {
            let (file, name) = test.as_str().unwrap().split_once("::").unwrap();
            let source = fs::read_to_string(root.join(file)).unwrap_or_default();
            assert!(
                source.contains(&format!("fn {name}(")),
                "{id}: {file}::{name}"
            );
        }
        if let Some(figure) = claim.get("figure") {
            let file = format!("figures/{}.svg", figure.as_str().unwrap());
            assert!(manifest.contains(&file), "{id}: {file}");
        }
        // A verdict rests on a number, but where nothing can be tested.
        let judged = claim.get("check").is_some() || claim.get("experiment").is_some();
        assert!(judged, "{id}: no check");
    }
}
