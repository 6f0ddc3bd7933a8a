//! `index.html` with a tally over all papers, and a page for each.

use anyhow::Result;
use rto_harness::html::{Page, escape};
use rto_harness::run_dir::RunDir;
use std::fs;

use crate::registry::{Claim, Judged, Kind, Paper, Registry, SEED};
use crate::verdict::{Tally, Verdict, statements};
use crate::{report, runs};

/// Where the page of a paper lies.
pub fn file(paper: &Paper) -> String {
    if paper.id == SEED {
        "report.html".into()
    } else {
        format!("papers/{}.html", paper.short)
    }
}

fn link(paper: &Paper) -> String {
    let arxiv = paper.id.starts_with(|c: char| c.is_ascii_digit());
    if arxiv {
        format!(
            "<a href=\"https://arxiv.org/abs/{0}\">arXiv {0}</a>",
            escape(&paper.id)
        )
    } else {
        escape(&paper.id)
    }
}

/// How many claims there are of each kind.
fn counts<'a>(kinds: impl Iterator<Item = &'a Kind> + Clone) -> [usize; 4] {
    Kind::ALL.map(|kind| kinds.clone().filter(|k| **k == kind).count())
}

/// The statements of the seed paper in the words of the index.
fn seed_counts() -> [usize; 4] {
    let tally = Tally::of(statements().iter().map(|s| s.verdict));
    [
        tally.count(Verdict::Holds),
        tally.count(Verdict::Repaired),
        tally.count(Verdict::False),
        tally.count(Verdict::TakenOver),
    ]
}

/// One sentence over all papers of the registry.
pub fn sentence(registry: &Registry) -> String {
    let own = counts(registry.claims.iter().map(|c| &c.verdict));
    let seed = seed_counts();
    let all: Vec<usize> = own.iter().zip(seed).map(|(a, b)| a + b).collect();
    format!(
        "Of {} claims of {} papers {} hold, {} hold with a price or after a repair, {} are false, and {} are definitions, \
         choices or nothing that an exact experiment can decide.",
        all.iter().sum::<usize>(),
        registry.papers.len(),
        all[0],
        all[1],
        all[2],
        all[3]
    )
}

/// Writes the index and the pages of these papers.
pub fn write(
    dir: &RunDir,
    registry: &Registry,
    papers: &[&Paper],
    judged: &[Judged],
    full: bool,
) -> Result<()> {
    fs::create_dir_all(dir.path("papers"))?;
    for paper in papers.iter().filter(|p| p.id != SEED) {
        dir.write_text(&file(paper), &page(dir, registry, paper, judged, full)?)?;
    }
    dir.write_text("index.html", &index(registry, papers))
}

fn index(registry: &Registry, papers: &[&Paper]) -> String {
    let mut page = Page::new("Papers, executed");
    page.lead(&escape(&sentence(registry)));
    page.say(
        "Claims of the registry are judged by exact experiments of this run: no optimisation error, and sampling error only where \
         data are the subject. Those of DPO Meets PPO are held by the tests that its page names. Statements are in our words.",
    );
    page.section("papers", "Papers");
    let head = ["paper", "holds", "with a price", "false", "not testable"];
    let rows: Vec<Vec<String>> = registry
        .papers
        .iter()
        .map(|paper| {
            let counts = if paper.id == SEED {
                seed_counts()
            } else {
                counts(
                    registry
                        .claims_of(&paper.id)
                        .map(|c| &c.verdict)
                        .collect::<Vec<_>>()
                        .into_iter(),
                )
            };
            let name = if papers.iter().any(|p| p.id == paper.id) {
                format!("<a href=\"{}\">{}</a>", file(paper), escape(&paper.short))
            } else {
                escape(&paper.short)
            };
            let title = format!("<small>{} ({})</small>", escape(&paper.title), link(paper));
            let mut row = vec![format!("{name}{title}")];
            row.extend(counts.map(|n| if n == 0 { String::new() } else { n.to_string() }));
            row
        })
        .collect();
    page.table("sortable index", &head, &rows);
    page.finish()
}

fn page(
    dir: &RunDir,
    registry: &Registry,
    paper: &Paper,
    judged: &[Judged],
    full: bool,
) -> Result<String> {
    let mut page = Page::new(&paper.title);
    let claims: Vec<&Claim> = registry.claims_of(&paper.id).collect();
    let counts = counts(claims.iter().map(|c| &c.verdict));
    let parts: Vec<String> = Kind::ALL
        .iter()
        .zip(counts)
        .filter(|(_, n)| *n > 0)
        .map(|(kind, n)| format!("{n} {}", kind.word()))
        .collect();
    page.lead(&escape(&format!("{}.", parts.join(", "))));
    page.say(&format!(
        "{}. <a href=\"../index.html\">All papers</a>. Verdicts are those of the published sizes; numbers and figures below are drawn with {}.",
        link(paper),
        report::inline(report::sizes(full))
    ));
    page.section("claims", "Claims");
    for claim in &claims {
        let found = judged.iter().find(|j| j.claim == claim.id);
        let state = match found {
            Some(j) if j.holds => "",
            _ => " <span class=\"badge false\">NOT borne out by this run</span>",
        };
        page.push(&format!(
            "<h3 id=\"{id}\">{id}. {}</h3>\n<p><span class=\"badge {}\">{}</span>{state} {}</p>\n<p class=\"note\">{}</p>\n",
            report::inline(&claim.statement),
            claim.verdict.class(),
            claim.verdict.word(),
            report::inline(&claim.says),
            report::inline(&claim.family),
            id = escape(&claim.id),
        ));
        if let Some(j) = found.filter(|j| !j.found.is_empty()) {
            let items: String = j
                .found
                .iter()
                .map(|f| format!("<li>{}</li>", escape(f)))
                .collect();
            page.push(&format!("<ul>{items}</ul>\n"));
        }
        let tests: Vec<String> = claim
            .tests
            .iter()
            .map(|t| format!("<code>{}</code>", escape(t)))
            .collect();
        page.push(&format!(
            "<details><summary>test and command</summary>{}<pre>{}</pre></details>\n",
            tests.join("<br>"),
            escape(&runs::command(&claim.experiment, full))
        ));
    }
    let mut drawn: Vec<&str> = claims.iter().filter_map(|c| c.figure.as_deref()).collect();
    drawn.dedup();
    if !drawn.is_empty() {
        page.section("figures", "Figures");
    }
    for name in drawn {
        let svg = fs::read_to_string(dir.path(&format!("{name}.svg")))?;
        page.push(&format!(
            "<h3>{}</h3>\n<div class=\"scroll\"><figure>{svg}</figure></div>\n",
            escape(name)
        ));
    }
    Ok(page.finish())
}
