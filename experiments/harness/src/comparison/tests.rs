use std::path::Path;

use std::collections::BTreeMap;

use super::*;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// What is committed of a ground, and where its notes stand.
struct Ground {
    folder: &'static str,
    report_in_envelope: bool,
    /// Its section in `paper-notes/section5.md`.
    section: &'static str,
    /// How many intervals it says at least.
    intervals: usize,
    /// Points of each grid.
    points: usize,
}

const TREES: Ground = Ground {
    folder: "figures/study",
    report_in_envelope: false,
    section: "## Does a token reward pay? The study on trees",
    intervals: 60,
    points: 12,
};

const DIALOGUE: Ground = Ground {
    folder: "figures/rto_llm/sweep",
    report_in_envelope: true,
    section: "## Does a token reward pay? The dialogue world",
    intervals: 30,
    points: 12,
};

const HARMLESS: Ground = Ground {
    folder: "figures/rto_llm/hh",
    report_in_envelope: true,
    section: "## Does a token reward pay? Human preferences",
    intervals: 10,
    points: 4,
};

impl Ground {
    fn table(&self, name: &str) -> Table {
        let path = Path::new(ROOT).join(self.folder).join(name);
        Table::from_csv(&path).unwrap()
    }

    fn reading(&self) -> Reading {
        let setting = self.table("setting.csv");
        Reading {
            beta2: setting.floats("beta2").unwrap()[0],
            every: setting.parsed("every", "a number").unwrap()[0],
            report_in_envelope: self.report_in_envelope,
        }
    }

    fn study(&self) -> Study {
        let (runs, worlds) = (self.table("runs.csv"), self.table("worlds.csv"));
        Study::read(&runs, &worlds, self.reading()).unwrap()
    }
}

/// Every number of the study's tables comes from the committed runs.
#[test]
fn the_committed_conclusions_are_those_of_the_committed_runs() {
    for ground in [TREES, DIALOGUE, HARMLESS] {
        same_conclusions(&ground);
    }
}

/// Those of length and of noise too, from `length_runs.csv`, `noise_runs.csv` and `worlds.csv`.
#[test]
fn the_committed_laws_and_losses_are_those_of_the_committed_runs() {
    let held_out = TREES.table("laws.csv").parsed("held_out", "a length");
    let held_out: Vec<usize> = held_out.unwrap();
    let lengths = length::conclude(&TREES.table("length_runs.csv"), held_out[0]).unwrap();
    same_tables(&TREES, lengths);
    let (runs, worlds) = (TREES.table("noise_runs.csv"), TREES.table("worlds.csv"));
    let noise = noise::conclude(&runs, &worlds, TREES.reading().beta2).unwrap();
    same_tables(&TREES, noise);
}

/// Those of gradients, from `gradient_runs.csv`; and what each row says of itself holds.
#[test]
fn the_committed_noise_of_gradients_is_that_of_the_committed_runs() {
    let runs = TREES.table("gradient_runs.csv");
    same_tables(&TREES, [gradients::conclude(&runs).unwrap()]);
    let floats = |t: &Table, c: &str| t.floats(c).unwrap();
    let [noise, trace, square] = ["noise", "trace", "square"].map(|c| floats(&runs, c));
    for i in 0..runs.len() {
        let of = trace[i] / square[i];
        assert!((noise[i] / of - 1.0).abs() < 1e-6 && of > 0.0, "row {i}");
    }
    // λ = 1 has no bias whatever the critic is, nor has the exact critic at any λ, nor a group whose others are its baseline.
    let exact = runs.filter("drawn", "0").unwrap();
    let (stages, methods) = (
        exact.texts("stage").unwrap(),
        exact.texts("method").unwrap(),
    );
    let (lambda, bias) = (floats(&exact, "lambda"), floats(&exact, "bias2"));
    let mut biased = 0;
    for i in 0..exact.len() {
        match lambda[i] == 1.0 || stages[i] == EXACT_CRITIC || methods[i] == "rloo" {
            true => assert_eq!(bias[i], 0.0, "row {i}"),
            false => biased += usize::from(bias[i] > 1e-6),
        }
    }
    assert!(biased > 50, "{biased}");
    // With the exact critic and one λ the two are one estimate at one policy.
    let start = runs.filter("iteration", "0").unwrap();
    let start = start.filter("stage", EXACT_CRITIC).unwrap();
    let of = |method: &str| {
        let rows = start.filter("method", method).unwrap();
        rows.filter("instance", "wide").unwrap()
    };
    let (rto, dppo) = (of("rto"), of("dppo"));
    assert!(rto.len() >= 10);
    assert_eq!(floats(&rto, "lambda"), floats(&dppo, "lambda"));
    for (a, b) in floats(&rto, "noise").iter().zip(floats(&dppo, "noise")) {
        assert!((a / b - 1.0).abs() < 1e-6, "{a} {b}");
    }
}

/// The noise that the notes say beside their intervals.
#[test]
fn the_notes_say_how_noisy_the_gradients_are() {
    let section = section(TREES.section);
    let words: Vec<&str> = section.split_whitespace().collect();
    let table = TREES.table("gradients.csv");
    let table = table.filter("quantity", "noise").unwrap();
    let of = |method: &str, stage: &str, lambda: &str, instance: &str| {
        let rows = table.filter("iteration", "0").unwrap();
        let rows = rows.filter("stage", stage).unwrap();
        let rows = rows.filter("method", method).unwrap();
        let rows = rows.filter("lambda", lambda).unwrap();
        let rows = rows.filter("instance", instance).unwrap();
        let rows = match stage == gradients::SFT {
            true => rows.filter("whitening", gradients::WHITENED).unwrap(),
            false => rows,
        };
        assert_eq!(rows.len(), 1);
        rows.floats("estimate").unwrap()[0]
    };
    let falls = |method: &str, instance: &str| {
        let [one, less] = ["1.0", "0.9"].map(|l| of(method, gradients::SFT, l, instance));
        format!("from {one:.1} to {less:.1}")
    };
    let [long, wide] = ["long", "wide"].map(|i| of("rloo", REPORT, "", i));
    let runs = TREES.table("gradient_runs.csv");
    let part = |column: &str, method: &str, instance: &str, digits: usize| {
        let [one, less] = ["1.0", "0.9"].map(|lambda| {
            let keys = [
                ("stage", gradients::SFT),
                ("whitening", gradients::WHITENED),
                ("method", method),
                ("instance", instance),
                ("lambda", lambda),
            ];
            let rows = keys.iter().fold(runs.clone(), |rows, (key, value)| {
                rows.filter(key, value).unwrap()
            });
            let logs = rows.floats(column).unwrap().into_iter().map(f64::ln);
            Sample(logs.collect()).mean().exp()
        });
        format!("from {one:.digits$} to {less:.digits$}")
    };
    for said in [
        format!("{} and {}", falls("dppo", "long"), falls("dppo", "wide")),
        format!("{} and {}", falls("rto", "long"), falls("rto", "wide")),
        format!("RLOO's noise at SFT is {long:.1} and {wide:.1}"),
        // What DPPO's noise is made of: a covariance that falls, and a mean that falls more.
        format!(
            "{} and {}",
            part("trace", "dppo", "long", 1).replace("from ", ""),
            part("trace", "dppo", "wide", 1).replace("from ", "")
        ),
        format!(
            "{} and {}",
            part("square", "dppo", "long", 3),
            part("square", "dppo", "wide", 3)
        ),
        format!(
            "{} and {}",
            part("square", "rto", "long", 3),
            part("square", "rto", "wide", 3)
        ),
    ] {
        assert!(words.join(" ").contains(&said), "not said: {said}");
    }
}

/// Ratios are of paired seeds on the log scale, and a method that lacks a seed is named.
#[test]
fn a_ratio_of_noise_is_paired_by_seed() {
    let columns = [
        "instance",
        "method",
        "stage",
        "lambda",
        "whitening",
        "seed",
        "iteration",
        "noise",
        "bias2",
        "cosine",
        "cosine_true",
    ];
    let table = |seeds_of_dppo: u64| {
        let mut runs = Table::new("gradient_runs", &columns);
        for (method, times, seeds) in [("dppo", 2.0, seeds_of_dppo), ("rto", 1.0, 4)] {
            for seed in 1..=seeds {
                let noise = times * 10f64.powi(seed as i32);
                runs.push([
                    "long".into(),
                    method.into(),
                    REPORT.into(),
                    0.9.into(),
                    gradients::WHITENED.into(),
                    seed.into(),
                    0u64.into(),
                    noise.into(),
                    0.0.into(),
                    1.0.into(),
                    1.0.into(),
                ]);
            }
        }
        gradients::conclude(&runs)
    };
    let found = table(4).unwrap().filter("quantity", "noise_ratio").unwrap();
    let at = |c: &str| found.floats(c).unwrap()[0];
    // However far seeds lie apart, each pair says 2.
    for column in ["estimate", "low", "high"] {
        assert!((at(column) - 2.0).abs() < 1e-9);
    }
    assert_eq!(at("p"), 2.0 / 16.0);
    let said = table(3).unwrap_err().to_string();
    assert!(said.contains("seeds of rto and dppo differ"), "{said}");
}

/// A learning rate that was tried, the negative logs of its samples and how many of its runs arrived.
type Tried = (f64, Vec<f64>, usize);

/// What is reported of a length is the learning rate that the rows of its tuning choose by the rule, among as many for both methods and on as many seeds,
/// none of which is reported.
#[test]
fn lengths_are_reported_at_the_rates_that_were_chosen() {
    let runs = TREES.table("length_runs.csv");
    let keys = ["placement", "horizon", "critic", "lambda", "method"];
    let tune = runs.filter("stage", TUNE).unwrap();
    let tuned_on = tune.distinct("seed").unwrap();
    let columns = keys.map(|c| tune.texts(c).unwrap());
    let [samples, rates, reached] =
        ["samples", "learning_rate", "reached"].map(|c| tune.floats(c).unwrap());
    let mut grids: BTreeMap<[String; 5], Vec<Tried>> = BTreeMap::new();
    for i in 0..tune.len() {
        let grid = grids
            .entry(columns.each_ref().map(|c| c[i].clone()))
            .or_default();
        if grid.last().is_none_or(|(rate, ..)| *rate != rates[i]) {
            grid.push((rates[i], Vec::new(), 0));
        }
        let (_, logs, arrived) = grid.last_mut().unwrap();
        logs.push(-samples[i].ln());
        *arrived += reached[i] as usize;
    }
    let points = grids.values().next().unwrap().len();
    assert!(points >= 3 && tuned_on.len() >= 3);
    for grid in grids.values() {
        assert!(
            grid.len() == points && grid.iter().all(|(_, logs, _)| logs.len() == tuned_on.len())
        );
    }
    let chosen = |grid: &[Tried]| -> f64 {
        let point = |(learning_rate, ..): &Tried| Point {
            learning_rate: *learning_rate,
            lambda: 1.0,
            critic_learning_rate: 1.0,
            clip: 1.0,
        };
        let points: Vec<Point> = grid.iter().map(point).collect();
        let logs: Vec<Sample> = grid.iter().map(|t| Sample(t.1.clone())).collect();
        let arrived: Vec<usize> = grid.iter().map(|t| t.2).collect();
        points[choose_arrived(&points, &logs, &arrived)].learning_rate
    };
    let report = runs.filter("stage", REPORT).unwrap();
    let columns = keys.map(|c| report.texts(c).unwrap());
    let [rates, samples, reached] =
        ["learning_rate", "samples", "reached"].map(|c| report.floats(c).unwrap());
    let most = samples.iter().copied().fold(0.0, f64::max);
    for i in 0..report.len() {
        let key = columns.each_ref().map(|c| c[i].clone());
        assert_eq!(rates[i], chosen(&grids[&key]), "{key:?}");
        // Nothing is cut that says it arrived.
        assert!(reached[i] == 1.0 || samples[i] == most);
    }
    let seeds = report.distinct("seed").unwrap();
    assert_eq!(report.len(), grids.len() * seeds.len());
    assert!(seeds.len() >= 10 && seeds.iter().all(|s| !tuned_on.contains(s)));
}

fn same_conclusions(ground: &Ground) {
    same_tables(ground, ground.study().conclude().unwrap().tables);
}

fn same_tables(ground: &Ground, tables: impl IntoIterator<Item = Table>) {
    for table in tables {
        let kept = ground.table(&format!("{}.csv", table.name()));
        let again = table.to_csv();
        let kept = kept.to_csv();
        for (again, kept) in again.lines().zip(kept.lines()) {
            let fields = again.split(',').zip(kept.split(','));
            for (a, b) in fields {
                // Sums of logarithms may round differently on another processor.
                let close = match (a.parse::<f64>(), b.parse::<f64>()) {
                    (Ok(a), Ok(b)) => (a - b).abs() <= 1e-12 + 1e-9 * b.abs(),
                    _ => a == b,
                };
                assert!(close, "{}: {again}\ncommitted: {kept}", table.name());
            }
        }
        assert_eq!(
            again.lines().count(),
            kept.lines().count(),
            "{}",
            table.name()
        );
    }
}

/// The grid was the same size for all, and what is reported is the point that was chosen, on seeds that no tuning saw.
#[test]
fn the_report_is_of_the_chosen_points_on_unseen_seeds() {
    for ground in [TREES, DIALOGUE, HARMLESS] {
        reports_what_was_chosen(&ground);
    }
}

fn reports_what_was_chosen(ground: &Ground) {
    let (runs, points) = (ground.table("runs.csv"), ground.table("points.csv"));
    let every = ground.reading().every;
    let tuned = runs.filter("stage", TUNE).unwrap();
    let seeds = tuned.distinct("seed").unwrap();
    let chosen = points.filter("chosen", "1").unwrap();
    let of = |t: &Table, c: &str| t.texts(c).unwrap();
    let columns = ["learning_rate", "lambda", "critic_learning_rate", "clip"];
    let tuned_on = points.distinct("instance").unwrap().len();
    for i in 0..chosen.len() {
        let key = ["instance", "method"].map(|c| of(&chosen, c)[i].clone());
        let here = |t: &Table| {
            let t = t.filter("instance", &key[0]).unwrap();
            t.filter("method", &key[1]).unwrap()
        };
        assert_eq!(here(&points).len(), ground.points, "{key:?}");
        assert_eq!(here(&tuned).len(), ground.points * seeds.len(), "{key:?}");
        // Chosen on one world, a point is kept for the others.
        let everywhere = runs.filter("method", &key[1]).unwrap();
        let report = match tuned_on {
            1 => everywhere,
            _ => here(&runs),
        };
        let report = report.filter("stage", REPORT).unwrap();
        for column in columns {
            let said = of(&chosen, column)[i].clone();
            assert!(
                of(&report, column).iter().all(|v| *v == said),
                "{key:?} {column}"
            );
        }
        let reported = report.distinct("seed").unwrap();
        assert!(reported.len() >= 10 && reported.iter().all(|s| !seeds.contains(s)));
        // 12 times along the run and its start, for every seed, beside what lies around a level.
        let times = report.parsed::<u64>("iteration", "a number").unwrap();
        let due = times.iter().filter(|t| t.is_multiple_of(every)).count();
        assert!(due >= 13 * reported.len(), "{key:?}");
    }
    let methods = points.distinct("method").unwrap().len();
    assert_eq!(chosen.len(), tuned_on * methods);
}

/// Shares are of the exact optimum, and no curve of reward at KL crosses the exact frontier.
#[test]
fn no_policy_is_above_the_optimum_and_none_above_the_frontier() {
    for ground in [TREES, DIALOGUE] {
        nothing_above(&ground.study());
    }
}

fn nothing_above(study: &Study) {
    let ends = study.ends().unwrap();
    for share in ends.floats("share").unwrap() {
        assert!(share <= 1.0 + 1e-6, "{share}");
    }
    let curves = study.frontier().unwrap();
    for instance in curves.distinct("instance").unwrap() {
        let of = |curve: &str| {
            let rows = curves.filter("instance", &instance).unwrap();
            rows.filter("curve", curve).unwrap().floats("gain").unwrap()
        };
        let best = of("frontier");
        for curve in curves.distinct("curve").unwrap() {
            // The frontier is drawn by chords between 37 values of β.
            let above = of(&curve)
                .iter()
                .zip(&best)
                .any(|(a, b)| a > &(b * 1.002 + 1e-9));
            assert!(!above, "{instance} {curve}");
        }
    }
}

#[test]
fn verdicts_follow_the_protocol() {
    let test = |estimate, low, high, p_holm| Test {
        estimate,
        low,
        high,
        p_holm,
    };
    let none = test(0.0, -0.2, 0.2, 1.0);
    for (end, matched, says) in [
        (test(0.2, 0.1, 0.3, 0.04), none, "RTO wins"),
        (none, test(0.06, 0.05, 0.07, 0.04), "RTO wins"),
        (test(-0.2, -0.3, -0.1, 0.04), none, "RTO loses"),
        (test(-0.2, -0.3, -0.1, 0.06), none, "not decided"),
        // Significant, but too small to count.
        (test(0.02, 0.01, 0.03, 0.04), none, "equal"),
        (none, none, "not decided"),
    ] {
        assert_eq!(objective_verdict(end, matched), says);
    }
    for (ratio, says) in [
        (test(2.0, 1.5, 3.0, 0.04), "RTO saves samples"),
        (test(0.5, 0.4, 0.6, 0.04), "DPPO saves samples"),
        (test(1.2, 1.1, 1.3, 0.04), "not decided"),
        (test(2.0, 0.9, 4.0, 0.2), "not decided"),
    ] {
        assert_eq!(samples_verdict(ratio), says);
    }
}

/// `0.021 [−0.012, 0.055]` as the notes write it, with so many digits.
fn written(values: [f64; 3], digits: usize) -> String {
    let one = |v: f64| {
        let text = format!("{v:.digits$}");
        match text.parse::<f64>() {
            Ok(0.0) => text.trim_start_matches('-').to_string(),
            _ => text.replace('-', "−"),
        }
    };
    let [estimate, low, high] = values.map(one);
    format!("{estimate} [{low}, {high}]")
}

/// Every interval and every p that `paper-notes/section5.md` says of a ground is one of its committed conclusions.
#[test]
fn the_notes_say_what_the_conclusions_say() {
    for ground in [TREES, DIALOGUE, HARMLESS] {
        notes_agree(&ground);
    }
}

/// The estimates of a table with intervals, at two digits and at three, with their p.
fn said_of(table: &Table, [estimate, low, high]: [&str; 3], p: Option<&str>) -> Vec<[String; 3]> {
    let column = |name: &str| table.floats(name).unwrap();
    let (estimate, low, high) = (column(estimate), column(low), column(high));
    let p = p.map(column);
    let row = |i: usize| {
        let [two, three] = [2, 3].map(|digits| written([estimate[i], low[i], high[i]], digits));
        let p = p.as_ref().map_or(String::new(), |p| format!("{:.3}", p[i]));
        [two, three, p]
    };
    (0..table.len()).map(row).collect()
}

/// A section of `paper-notes/section5.md`.
fn section(head: &str) -> String {
    let notes = std::fs::read_to_string(Path::new(ROOT).join("paper-notes/section5.md")).unwrap();
    let section = &notes[notes.find(head).expect(head)..];
    section[..section[3..].find("\n## ").unwrap() + 3].to_string()
}

/// Every interval and every p of the sections on length and on noise is a row of their committed tables.
#[test]
fn the_notes_say_what_the_laws_and_losses_say() {
    let (lengths, laws) = (TREES.table("lengths.csv"), TREES.table("laws.csv"));
    let mut rows = said_of(&lengths, ["ratio", "low", "high"], Some("p"));
    rows.extend(said_of(&laws, ["b", "b_low", "b_high"], Some("b_p")));
    rows.extend(said_of(
        &laws,
        ["measured", "measured_low", "measured_high"],
        None,
    ));
    let worlds = TREES.table("length_worlds.csv");
    rows.extend(said_of(&worlds, ["mean", "low", "high"], None));
    let said = intervals_of(&section("## Does it grow with length?"), &rows, &[]);
    assert!(said >= 12, "{said}");
    let noise = TREES.table("noise.csv");
    let rows = said_of(&noise, ["estimate", "low", "high"], Some("p"));
    let said = intervals_of(&section("## How many pairs?"), &rows, &[]);
    assert!(said >= 12, "{said}");
}

/// The counts, predictions and KLs that these sections say beside their intervals.
#[test]
fn the_notes_count_what_the_tables_count() {
    let words = |head: &str| {
        let section = section(head);
        let words: Vec<&str> = section.split_whitespace().collect();
        words.join(" ")
    };
    let text = words("## Does it grow with length?");
    let says = |text: &str, said: String| assert!(text.contains(&said), "not said: {said}");
    let lengths = TREES.table("lengths.csv");
    let floats = |t: &Table, c: &str| t.floats(c).unwrap();
    let sum = |v: Vec<f64>| v.iter().sum::<f64>();
    let state = lengths.filter("critic", "state").unwrap();
    let [rto, dppo] = ["missed", "missed_against"].map(|c| sum(floats(&state, c)));
    says(
        &text,
        format!("{dppo} of 1,200 runs, RTO in {rto}, and its ratios"),
    );
    let values = lengths.filter("critic", "values").unwrap();
    let ratios = floats(&values, "ratio");
    let same = ratios.iter().filter(|r| (*r - 1.0).abs() <= 1e-3).count();
    says(&text, format!("{same} of {} ratios are 1", ratios.len()));
    let mut rates = floats(&lengths, "rto_learning_rate");
    rates.extend(floats(&lengths, "dppo_learning_rate"));
    let top = rates.iter().copied().fold(0.0, f64::max);
    let largest = rates.iter().filter(|r| **r == top).count();
    says(
        &text,
        format!("{largest} of the {} choices are the largest", rates.len()),
    );
    let runs = TREES.table("length_runs.csv");
    let tune = runs.filter("stage", TUNE).unwrap();
    let keys = ["placement", "horizon", "critic", "lambda", "method"];
    let (keys, reached) = (
        keys.map(|c| tune.texts(c).unwrap()),
        floats(&tune, "reached"),
    );
    let mut arrived: BTreeMap<[&str; 5], f64> = BTreeMap::new();
    for (i, reached) in reached.iter().enumerate() {
        let key = keys.each_ref().map(|c| c[i].as_str());
        *arrived.entry(key).or_default() += reached;
    }
    let none = arrived.values().filter(|a| **a == 0.0).count();
    says(
        &text,
        format!("in {none} no rate arrived on any tuning seed"),
    );
    // Laws, but for those that have nothing but runs that were cut at the length that is left out.
    let laws = TREES.table("laws.csv");
    let zero = laws.filter("critic", "zero").unwrap();
    let cut = |low: &f64, high: &f64| *low == 1.0 && *high == 1.0;
    let (lows, highs) = (
        floats(&zero, "measured_low"),
        floats(&zero, "measured_high"),
    );
    let empty = lows.iter().zip(&highs).filter(|(l, h)| cut(l, h)).count();
    let holds = zero.texts("holds").unwrap();
    let yes = holds.iter().filter(|h| h.starts_with("yes")).count();
    let whole = holds.iter().filter(|h| *h == "yes").count();
    says(
        &text,
        format!("in {yes} of {} ({whole} of these", zero.len() - empty),
    );
    // "predicted against measured [low, high]".
    let (predicted, measured) = (floats(&laws, "predicted"), floats(&laws, "measured"));
    let mut looked_up = 0;
    for (at, _) in text.match_indices(" against ") {
        let before = text[..at].rsplit(' ').next().unwrap();
        let after: Vec<&str> = text[at + 9..].splitn(3, ' ').collect();
        if before.parse::<f64>().is_err() || !after[1].starts_with('[') {
            continue;
        }
        let mut rows = predicted.iter().zip(&measured);
        let is_said =
            rows.any(|(p, m)| format!("{p:.2}") == before && format!("{m:.2}") == after[0]);
        assert!(is_said, "no law: {before} against {}", after[0]);
        looked_up += 1;
    }
    assert!(looked_up >= 6, "{looked_up}");
    // Single runs of RTO at small λ.
    let runs = runs.filter("stage", REPORT).unwrap();
    let runs = runs.filter("method", "rto").unwrap();
    let placements = runs.texts("placement").unwrap();
    let (lambdas, samples) = (floats(&runs, "lambda"), floats(&runs, "samples"));
    let reached = floats(&runs, "reached");
    let small: Vec<usize> = (0..runs.len())
        .filter(|i| placements[*i] != "rare" && lambdas[*i] <= 0.5)
        .collect();
    let long = small.iter().filter(|i| samples[**i] > 64.0).count();
    let never = small.iter().filter(|i| reached[**i] == 0.0).count();
    assert_eq!(small.len(), 1440);
    says(
        &text,
        format!("{long} take more than eight, of which {never} never arrive"),
    );
    let text = words("## How many pairs?");
    let noise = TREES.table("noise.csv");
    let noise = noise.filter("instance", "wide").unwrap();
    let noise = noise.filter("pairs", "250").unwrap();
    let of = |variant: &str, quantity: &str| {
        let rows = noise.filter("variant", variant).unwrap();
        floats(&rows.filter("quantity", quantity).unwrap(), "estimate")[0]
    };
    let [rto, dppo, ppo] =
        ["rto", "dppo", "ppo_dense"].map(|variant| of(variant, "kl_at_most_reward"));
    says(
        &text,
        format!("{rto:.1} for RTO, {dppo:.1} for DPPO and {ppo:.1} for PPO"),
    );
    let samples = of("rto", "samples_at_most_objective");
    let (most, end) = (of("rto", "kl_at_most_objective"), of("rto", "kl_end"));
    says(
        &text,
        format!(
            "{samples:.0} replies at a KL of {most:.1} in the mean over seeds, and at the end KL is {end:.1}"
        ),
    );
}

fn notes_agree(ground: &Ground) {
    let section = section(ground.section);
    let of = ["estimate", "low", "high"];
    let mut rows = said_of(&ground.table("conclusions.csv"), of, Some("p"));
    let held_out = Path::new(ROOT).join(ground.folder).join("held_out.csv");
    if held_out.is_file() {
        let table = Table::from_csv(&held_out).unwrap();
        rows.extend(said_of(&table, ["mean", "low", "high"], None));
        rows.extend(said_of(
            &table,
            ["rto_less_it", "rto_low", "rto_high"],
            Some("p"),
        ));
    }
    let noise = Path::new(ROOT).join(ground.folder).join("gradients.csv");
    if noise.is_file() {
        rows.extend(said_of(&Table::from_csv(&noise).unwrap(), of, Some("p")));
    }
    let variants = ground.table("variants.csv");
    for (of, p) in [
        (["share", "low", "high"], None),
        (["less_chosen", "less_low", "less_high"], Some("less_p")),
        (["rto_less_it", "rto_low", "rto_high"], Some("p")),
    ] {
        rows.extend(said_of(&variants, of, p));
    }
    let shares = ground.table("ends.csv").floats("share").unwrap();
    let shares: Vec<String> = shares
        .iter()
        .map(|s| format!("{s:.3}").replace('-', "−"))
        .collect();
    let looked_up = intervals_of(&section, &rows, &shares);
    assert!(looked_up >= ground.intervals, "{looked_up}");
    // What the table of ends says of each method.
    let ends = ground.table("ends.csv");
    for instance in ends.distinct("instance").unwrap() {
        let here = ends.filter("instance", &instance).unwrap();
        for policy in ["rto", "dppo", "ppo", "dpo"] {
            let share = here.filter("policy", policy).unwrap();
            let share = share.floats("share").unwrap()[0];
            let share = format!("{share:.3}").replace('-', "−");
            assert!(
                section.contains(&format!("| {share} |")),
                "{instance} {policy}"
            );
        }
    }
}

/// What is committed of a pretrained model: replies one by one, and how often models agree with people.
const PRETRAINED: &str = "figures/rto_llm/smollm2";

fn of_folder(folder: &str, name: &str) -> Table {
    Table::from_csv(&Path::new(ROOT).join(folder).join(name)).unwrap()
}

fn with_ends(values: Vec<f64>) -> [f64; 3] {
    let (mean, low, high) = Sample(values).interval(Support::Real);
    [mean, low.unwrap(), high.unwrap()]
}

/// Every interval of the section on a pretrained model is that of its replies: the oracle's reward of a method, and RTO's less another's by prompt, in one seed;
/// so are the KLs and lengths of its table.
#[test]
fn the_notes_say_what_the_replies_of_a_pretrained_model_say() {
    let section = section("## Does a token reward pay? A pretrained model");
    let replies = of_folder(PRETRAINED, "evaluation.csv");
    let mut rows = Vec::new();
    let seeds = replies.distinct("seed").unwrap();
    assert_eq!(seeds, ["1", "2"]);
    for method in replies.distinct("method").unwrap() {
        let mut cells = Vec::new();
        for seed in &seeds {
            let of = |method: &str| {
                let here = replies.filter("seed", seed).unwrap();
                here.filter("method", method).unwrap()
            };
            let (here, rto) = (of(&method), of("rto"));
            assert_eq!(
                here.texts("prompt_id").unwrap(),
                rto.texts("prompt_id").unwrap()
            );
            let column = |name: &str| here.floats(name).unwrap();
            let reward = column("reward");
            let pairs = rto.floats("reward").unwrap().into_iter().zip(&reward);
            let less: Vec<f64> = pairs.map(|(rto, it)| rto - it).collect();
            for values in [reward, less] {
                let values = with_ends(values);
                let [two, three] = [2, 3].map(|digits| written(values, digits));
                rows.push([two, three, String::new()]);
            }
            let mean = |name: &str| Sample(column(name)).mean();
            cells.push(format!(
                "{:.1} | {:.1} | {:.2}",
                mean("kl"),
                mean("length"),
                mean("finished")
            ));
        }
        for cell in cells {
            assert!(section.contains(&format!("| {cell} |")), "{method}: {cell}");
        }
    }
    // The cell after an interval is the next interval and no p.
    let next = |row: &[String; 3]| row[1].split(' ').next().unwrap_or_default().to_string();
    let said = intervals_of(&section, &rows, &rows.iter().map(next).collect::<Vec<_>>());
    assert!(said >= 12, "{said}");
    // The reward that is paid, and the KL, of each batch along training.
    let training = of_folder(PRETRAINED, "training.csv");
    for step in training.distinct("step").unwrap() {
        let at = training.filter("step", &step).unwrap();
        let cell = |seed: &String, method: &str| {
            let here = at.filter("seed", seed).unwrap();
            let here = here.filter("method", method).unwrap();
            let [paid, kl] = ["score", "kl"].map(|c| here.floats(c).unwrap()[0]);
            format!("{paid:.2} ({kl:.1})").replace('-', "−")
        };
        let cells: Vec<String> = seeds
            .iter()
            .flat_map(|seed| [cell(seed, "rto"), cell(seed, "dppo")])
            .collect();
        let line = format!("| {step} | {} |", cells.join(" | "));
        assert!(section.contains(&line), "{line}");
    }
    let wins = of_folder(PRETRAINED, "win_rates.csv");
    let wins = wins.filter("row", "rto").unwrap();
    for of in [
        ["rate", "low", "high"],
        ["equal_length", "equal_length_low", "equal_length_high"],
    ] {
        let [rate, low, high] = of.map(|c| wins.floats(c).unwrap());
        for i in 0..wins.len() {
            let cell = format!("| {:.3} ({:.3} to {:.3}) |", rate[i], low[i], high[i]);
            assert!(section.contains(&cell), "{cell}");
        }
    }
    let agreement = of_folder(PRETRAINED, "agreement.csv");
    let [shares, low, high] = ["accuracy", "low", "high"].map(|c| agreement.floats(c).unwrap());
    let known: Vec<[f64; 3]> = (0..shares.len())
        .map(|i| [shares[i], low[i], high[i]])
        .collect();
    assert!(percentages_of(&section, &known) >= known.len());
}

/// How often models agree with people on ground (c), means over seeds.
#[test]
fn the_notes_say_how_often_models_agree_with_people() {
    let agreement = of_folder(HARMLESS.folder, "agreement.csv");
    let models = agreement.distinct("model").unwrap();
    let means = models.iter().map(|model| {
        let of_model = agreement.filter("model", model).unwrap();
        with_ends(of_model.floats("accuracy").unwrap())
    });
    let means: Vec<[f64; 3]> = means.collect();
    assert_eq!(
        percentages_of(&section(HARMLESS.section), &means),
        means.len()
    );
}

/// Looks every `54.5% [53.0, 56.0]` of a section up among shares with their ends; returns how many there are.
fn percentages_of(section: &str, known: &[[f64; 3]]) -> usize {
    let known = known.iter().map(|values| {
        let [share, low, high] = values.map(|v| format!("{:.1}", 100.0 * v));
        format!("{share}% [{low}, {high}]")
    });
    let known: Vec<String> = known.collect();
    let mut looked_up = 0;
    for (at, _) in section.match_indices("% [") {
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let start = section[..at].rfind(|c| !is_number(c)).unwrap() + 1;
        let end = at + section[at..].find(']').unwrap() + 1;
        let said = &section[start..end];
        assert!(known.iter().any(|known| known == said), "no share: {said}");
        looked_up += 1;
    }
    looked_up
}

/// Looks every interval of a section up among rows, with the p that stands after it; returns how many there are.
fn intervals_of(section: &str, rows: &[[String; 3]], shares: &[String]) -> usize {
    let is_number = |c: char| c.is_ascii_digit() || c == '.' || c == '−';
    let mut looked_up = 0;
    for (at, _) in section.match_indices(" [") {
        let start = section[..at].rfind(|c| !is_number(c)).unwrap();
        let start = start + section[start..].chars().next().unwrap().len_utf8();
        if start == at {
            continue;
        }
        let end = at + section[at..].find(']').unwrap() + 1;
        let said = &section[start..end];
        let is_said = |row: &&[String; 3]| row[0] == said || row[1] == said;
        assert!(
            rows.iter().any(|row| is_said(&row)),
            "no conclusion: {said}"
        );
        looked_up += 1;
        // A p in brackets right after an interval, or in the next cell, is that row's.
        let rest = &section[end..];
        let next = rest
            .strip_prefix(" (p = ")
            .or_else(|| rest.strip_prefix(" | "));
        let Some(next) = next else { continue };
        let said_p = &next[..next.find(|c| !is_number(c)).unwrap_or(next.len())];
        if said_p.len() == 5 {
            let known = rows.iter().filter(is_said).any(|row| row[2] == said_p);
            // The next cell may be a share instead.
            let share = rest.starts_with(" | ") && shares.iter().any(|s| s == said_p);
            assert!(known || share, "{said}: p = {said_p}");
        }
    }
    looked_up
}
