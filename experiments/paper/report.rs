//! `report.html` and `report.md`.

use crate::expectations::Outcome;
use crate::markdown::{anchor, to_html, with_folded_proofs};
use crate::runs;
use crate::verdict::{self, Statement, Tally, Verdict, badge, statements};
use anyhow::{Context, Result};
use rto_harness::html::{Page, escape};
use rto_harness::run_dir::{RunDir, Versions};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

const ERRATA: &str = include_str!("../../paper-notes/errata.md");
const SECTION5: &str = include_str!("../../paper-notes/section5.md");
const ESTIMATORS: &str = include_str!("../../paper-notes/estimators.md");
const DEVIATIONS: &str = include_str!("../../paper-notes/deviations.md");
/// A figure of a program that this one does not run: it trains networks, or takes long. It is the committed one.
struct Committed {
    name: &'static str,
    what: &'static str,
    svg: &'static str,
    command: &'static str,
}

/// The figures of the study on trees, whose section they stand beside.
const STUDY: [Committed; 8] = [
    Committed {
        name: "study/objective",
        what: "The objective against samples, each method at the point of its grid that it chose on other trees.",
        svg: include_str!("../../figures/study/objective.svg"),
        command: "cargo run --bin study",
    },
    Committed {
        name: "study/frontier",
        what: "The most true reward at each KL from SFT, with the exact optimum's frontier, best-of-n and SFT at lower temperatures.",
        svg: include_str!("../../figures/study/frontier.svg"),
        command: "cargo run --bin study",
    },
    Committed {
        name: "study/removals",
        what: "RTO against DPPO, as tuned, with λ = 1 and with the exact critic for both.",
        svg: include_str!("../../figures/study/removals.svg"),
        command: "cargo run --bin study",
    },
    Committed {
        name: "study/gradients",
        what: "How noisy the gradient of each method is along its runs, and DPPO's noise over RTO's with one thing changed.",
        svg: include_str!("../../figures/study/gradients.svg"),
        command: "cargo run --bin study",
    },
    Committed {
        name: "study/length",
        what: "Samples to half of the way, DPPO's to RTO's, against the length of a reply, by where the reward stands and what the critic knows.",
        svg: include_str!("../../figures/study/length.svg"),
        command: "cargo run --bin study",
    },
    Committed {
        name: "study/length_laws",
        what: "How fast that ratio grows with the length, against λ.",
        svg: include_str!("../../figures/study/length_laws.svg"),
        command: "cargo run --bin study",
    },
    Committed {
        name: "study/noise",
        what: "True reward against KL along training, from 250 to 64,000 pairs.",
        svg: include_str!("../../figures/study/noise.svg"),
        command: "cargo run --bin study",
    },
    Committed {
        name: "study/noise_ends",
        what: "Where those runs end, against the number of pairs.",
        svg: include_str!("../../figures/study/noise_ends.svg"),
        command: "cargo run --bin study",
    },
];

/// The figures of the study in the dialogue world.
const DIALOGUE: [Committed; 3] = [
    Committed {
        name: "rto_llm/sweep/objective",
        what: "The objective against samples in the dialogue world, exact on its corner, each method at the point of its grid that it chose on other seeds.",
        svg: include_str!("../../figures/rto_llm/sweep/objective.svg"),
        command: SWEEP,
    },
    Committed {
        name: "rto_llm/sweep/frontier",
        what: "The most true reward at each KL from SFT on that corner, with the exact optimum's frontier, best-of-n and SFT at lower temperatures.",
        svg: include_str!("../../figures/rto_llm/sweep/frontier.svg"),
        command: SWEEP,
    },
    Committed {
        name: "rto_llm/sweep/removals",
        what: "RTO against DPPO there, as tuned, both at the one's point and at the other's, with λ = 1 and without a critic.",
        svg: include_str!("../../figures/rto_llm/sweep/removals.svg"),
        command: SWEEP,
    },
];

/// Those on human preferences.
const HARMLESS: [Committed; 3] = [
    Committed {
        name: "rto_llm/hh/objective",
        what: "The objective against samples on harmless-base from scratch, by an oracle's reward of replies to held-out prompts.",
        svg: include_str!("../../figures/rto_llm/hh/objective.svg"),
        command: SWEEP_HH,
    },
    Committed {
        name: "rto_llm/hh/frontier",
        what: "The oracle's reward at each KL from SFT there, with best-of-n and SFT at lower temperatures.",
        svg: include_str!("../../figures/rto_llm/hh/frontier.svg"),
        command: SWEEP_HH,
    },
    Committed {
        name: "rto_llm/smollm2/frontier",
        what: "The oracle's reward and the KL of SmolLM2-135M-Instruct with adapters on harmless-base, two seeds; that oracle ranks pairs no better than chance.",
        svg: include_str!("../../figures/rto_llm/smollm2/frontier.svg"),
        command: "cargo run --bin rto_llm -- --config experiments/configs/smollm2.study.toml --model SmolLM2-135M-Instruct.Q4_1.gguf --data harmless.messages.jsonl --seeds 1..2 --out runs/smollm2",
    },
];

const SWEEP_HH: &str =
    "cargo run --bin rto_llm -- sweep experiments/configs/sweep.hh.toml --out runs/hh";

const SWEEP: &str =
    "cargo run --bin rto_llm -- sweep experiments/configs/sweep.dialogue.toml --out runs/dialogue";

const FRONTIER: Committed = Committed {
    name: "rto_llm/frontier",
    what: "Reward and KL of every method over five seeds.",
    svg: include_str!("../../figures/rto_llm/frontier.svg"),
    command: "cargo run --bin rto_llm -- --seeds 1..5 --out runs/seeds",
};

/// The figures that stand with the language-model experiment, in order.
fn of_section5() -> impl Iterator<Item = &'static Committed> {
    STUDY
        .iter()
        .chain(&DIALOGUE)
        .chain(&HARMLESS)
        .chain([&FRONTIER])
}

/// The figure of `converge`, which stands under those of the bench, whose exact minimisers it is held against.
const CONVERGE: Committed = Committed {
    name: "converge/converge",
    what: "Seven losses of pairs, trained on a table, a log-linear network and a transformer, against their exact minimisers.",
    svg: include_str!("../../figures/converge/converge.svg"),
    command: "cargo run --bin converge",
};
const SYMBOLS: &str = include_str!("../../paper-notes/symbols.md");
const TITLE: &str = "DPO Meets PPO, executed";

/// Writes both reports.
pub fn write(dir: &RunDir, full: bool, outcomes: &[Outcome], experiments: &[&str]) -> Result<()> {
    dir.write_text("report.html", &html(dir, full, outcomes, experiments)?)?;
    dir.write_text("report.md", &text(full, outcomes))
}

pub fn sizes(full: bool) -> &'static str {
    match full {
        true => "the published sizes, those of the committed figures",
        false => "small sizes that take seconds (`paper --full` for the published ones)",
    }
}

fn html(dir: &RunDir, full: bool, outcomes: &[Outcome], experiments: &[&str]) -> Result<String> {
    let mut page = Page::new(TITLE);
    let all = statements();
    let tally = Tally::of(all.iter().map(|s| s.verdict));
    let held = outcomes.iter().filter(|o| o.holds).count();
    page.lead(&escape(&tally.sentence()));
    page.say(&format!(
        "Every numbered statement of <a href=\"https://arxiv.org/abs/2404.18922v1\">DPO Meets PPO: Reinforced Token \
         Optimization for RLHF</a> (version 1) with its verdict, what is true instead where it does not hold, and the figures that \
         show it, drawn with {}. Of {} expectations about the figures {}.",
        inline(sizes(full)),
        outcomes.len(),
        match held {
            all if all == outcomes.len() => "all hold".to_string(),
            some => format!("{some} hold"),
        }
    ));
    page.say("<a href=\"index.html\">All papers of the index</a>.");
    page.section("statements", "Statements");
    page.push(&tally.filters("#all-statements"));
    table_of_statements(&mut page, &all);
    page.section("figures", "Figures");
    for outcome in outcomes {
        figure(&mut page, dir, full, outcome)?;
    }
    committed(&mut page, &CONVERGE);
    page.section("errata", "Corrections and proofs");
    page.say("What is claimed and what is true instead; proofs unfold.");
    page.push(&with_folded_proofs(ERRATA));
    page.section("section5", "The language-model experiment");
    for figure in of_section5() {
        committed(&mut page, figure);
    }
    page.push(&to_html(
        &SECTION5.replace("(deviations.md)", "(#deviations)"),
    ));
    page.section("estimators", "What the gradients of named recipes climb");
    page.push(&to_html(ESTIMATORS));
    page.section("deviations", "Paper, released code, this toolkit");
    page.push(&to_html(DEVIATIONS));
    page.section("symbols", "Symbols");
    page.push(&to_html(SYMBOLS));
    page.section("run", "This run");
    provenance(&mut page, dir, full, experiments)?;
    Ok(page.finish())
}

/// One line of Markdown without its paragraph.
pub fn inline(markdown: &str) -> String {
    let html = to_html(markdown);
    let html = html.trim().trim_start_matches("<p>");
    html.trim_end_matches("</p>").to_string()
}

fn table_of_statements(page: &mut Page, all: &[Statement<'_>]) {
    let rows: Vec<(&str, Vec<String>)> = all
        .iter()
        .map(|s| {
            let verdict = Verdict::of(s.verdict);
            let figures: Vec<String> = s.figures.iter().map(|f| figure_link(f)).collect();
            let code = format!(
                "<details><summary>code and tests</summary>{}<br>{}</details>",
                inline(s.functions),
                inline(s.tests)
            );
            let cell = |html: String| format!("<td class=\"text\">{html}");
            let cells = vec![
                inline(s.item),
                cell(format!(
                    "{} {}",
                    badge(verdict),
                    with_errata_links(&inline(verdict.rest(s.verdict)))
                )),
                cell(figures.join("<br>")),
                cell(code),
            ];
            (verdict.class(), cells)
        })
        .collect();
    let head = ["statement", "verdict", "figures", "held by"];
    page.push("<div id=\"all-statements\">\n");
    page.table_of_kinds("statements", &head, &rows);
    page.push("</div>\n");
}

fn figure_link(name: &str) -> String {
    format!("<a href=\"#{}\">{}</a>", figure_id(name), escape(name))
}

fn figure_id(name: &str) -> String {
    format!("figure-{}", name.replace('/', "-"))
}

/// "errata B4, B5" becomes links to the corrections on this page.
fn with_errata_links(verdict: &str) -> String {
    let mut linked = String::new();
    let mut rest = verdict;
    while let Some(at) = rest.find("(errata ") {
        let start = at + "(errata ".len();
        let end = rest[start..].find(')').map_or(rest.len(), |n| start + n);
        linked += &rest[..start];
        let links: Vec<String> = rest[start..end]
            .split(", ")
            .map(|label| format!("<a href=\"#{}\">{label}</a>", anchor(label)))
            .collect();
        linked += &links.join(", ");
        rest = &rest[end..];
    }
    linked + rest
}

fn figure(page: &mut Page, dir: &RunDir, full: bool, outcome: &Outcome) -> Result<()> {
    let path = dir.path(&format!("{}.svg", outcome.figure));
    let svg = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (experiment, _) = outcome.figure.split_once('/').unwrap_or_default();
    let (class, word) = match outcome.holds {
        true => ("holds", "as expected"),
        false => ("false", "NOT as expected"),
    };
    let about: Vec<String> = statements()
        .iter()
        .filter(|s| s.figures.contains(&outcome.figure))
        .map(|s| inline(s.item))
        .collect();
    page.push(&format!(
        "<h3 id=\"{}\">{}</h3>\n<p class=\"note\">{}</p>\n<p>{}</p>\n<p><span class=\"badge {class}\">{word}</span> Found: {}.</p>\n\
         <div class=\"scroll\"><figure>{svg}</figure></div>\n<pre>{}</pre>\n",
        figure_id(outcome.figure),
        escape(outcome.figure),
        about.join(" · "),
        escape(outcome.expectation),
        escape(&outcome.found),
        escape(&runs::command(experiment, full))
    ));
    Ok(())
}

fn committed(page: &mut Page, figure: &Committed) {
    page.push(&format!(
        "<h3 id=\"{}\">{}</h3>\n<p>{} The committed figure.</p>\n\
         <div class=\"scroll\"><figure>{}</figure></div>\n<pre>{}</pre>\n",
        figure_id(figure.name),
        figure.name,
        figure.what,
        figure.svg,
        figure.command
    ));
}

fn provenance(page: &mut Page, dir: &RunDir, full: bool, experiments: &[&str]) -> Result<()> {
    let versions = Versions::new("paper", BTreeMap::new());
    let mut text = format!("paper{}\n", if full { " --full" } else { "" });
    let _ = writeln!(
        text,
        "{} {} (revision {}, changed files: {})\n{}\n{}",
        versions.program,
        versions.version,
        versions.git_revision,
        versions.git_dirty,
        versions.rustc,
        versions.target
    );
    page.push(&format!("<pre>{}</pre>\n", escape(&text)));
    for experiment in experiments {
        let path = dir.path(experiment).join("config.toml");
        let config = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        page.push(&format!(
            "<details><summary>settings and seed of {experiment}</summary><pre>{}</pre></details>\n",
            escape(&config)
        ));
    }
    page.say(
        "To cite: the paper (Zhong et al., 2024) for its claims, and the rto toolkit, with the revision above, for the \
         corrections and the figures.",
    );
    Ok(())
}

fn text(full: bool, outcomes: &[Outcome]) -> String {
    let mut out = format!(
        "# {TITLE}\n\n{}\n\nDrawn with {}.\n\n## Figures\n\n",
        tally_sentence(),
        sizes(full)
    );
    out += "| figure | expected | found | holds | command |\n|---|---|---|---|---|\n";
    for o in outcomes {
        let (experiment, _) = o.figure.split_once('/').unwrap_or_default();
        let holds = if o.holds { "yes" } else { "**no**" };
        let command = runs::command(experiment, full);
        let cell = |text: &str| text.replace('|', "\\|");
        let _ = writeln!(
            out,
            "| [`{0}`]({0}.svg) | {1} | {2} | {holds} | `{command}` |",
            o.figure,
            cell(o.expectation),
            cell(&o.found)
        );
    }
    for Committed { name, command, .. } in [&CONVERGE].into_iter().chain(of_section5()) {
        let _ = writeln!(
            out,
            "| [`{name}`](https://github.com/rto-toolkit/rto/blob/main/figures/{name}.svg) | | the committed figure | not checked | `{command}` |"
        );
    }
    out + "\n## Statements\n" + verdict::table()
}

/// The answer in one sentence.
pub fn tally_sentence() -> String {
    Tally::of(statements().iter().map(|s| s.verdict)).sentence()
}
