//! `rto_llm report`: the page of a made-up run, of parts of one, and of damaged ones.

#[path = "report/made_run.rs"]
mod made_run;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use made_run::make_run;

fn report(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_rto_llm");
    Command::new(program)
        .arg("report")
        .args(args)
        .output()
        .unwrap()
}

/// A fresh folder below the build's own temporary one, where a person can look at the page afterwards.
fn folder(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("report")
        .join(name);
    fs::remove_dir_all(&dir).ok();
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn page_of(dir: &Path) -> String {
    let output = report(&["--run", dir.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    fs::read_to_string(dir.join("report.html")).unwrap()
}

/// The text between two headings.
fn section<'a>(page: &'a str, id: &str) -> &'a str {
    let start = page
        .find(&format!("<h2 id=\"{id}\">"))
        .unwrap_or_else(|| panic!("no section {id}"));
    let rest = &page[start + 4..];
    &rest[..rest.find("<h2 ").unwrap_or(rest.len())]
}

#[test]
fn the_page_shows_the_whole_run_and_needs_nothing_else() {
    let dir = folder("whole");
    make_run(&dir);
    let page = page_of(&dir);
    for outside in [
        "http:", "https:", "src=", "@import", "url(", "<link", "fetch(", "import(",
    ] {
        // A reference within the page is none.
        let found = page
            .replace("http://www.w3.org/2000/svg", "")
            .replace("url(#", "")
            .contains(outside);
        assert!(!found, "the page refers to something outside: {outside}");
    }
    // The numbers are those of the files, computed here in another way.
    let rows: Vec<(String, usize, f64)> = fs::read_to_string(dir.join("evaluation.csv"))
        .unwrap()
        .lines()
        .skip(1)
        .map(|line| {
            let f: Vec<&str> = line.split(',').collect();
            (f[0].into(), f[1].parse().unwrap(), f[2].parse().unwrap())
        })
        .collect();
    let scores = |method: &str| -> Vec<f64> {
        let mut of: Vec<_> = rows.iter().filter(|r| r.0 == method).collect();
        of.sort_by_key(|r| r.1);
        of.iter().map(|r| r.2).collect()
    };
    let (rto, dppo) = (scores("rto"), scores("dppo"));
    let half = |a: &f64, b: &f64| {
        if a > b {
            1.0
        } else if a == b {
            0.5
        } else {
            0.0
        }
    };
    let rate = rto.iter().zip(&dppo).map(|(a, b)| half(a, b)).sum::<f64>() / 400.0;
    let shown = format!(">{:.1}<small>", 100.0 * rate);
    assert!(section(&page, "win-rates").contains(&shown), "{shown}");
    let mean = rto.iter().sum::<f64>() / 400.0;
    assert!(section(&page, "methods").contains(&format!(">{mean:.3}<small>")));
    let judge = section(&page, "judge");
    assert!(
        judge.contains("100 prompts; 15 replies without a verdict") && judge.contains("matrix")
    );
    let figure3 = section(&page, "figure3");
    assert!(figure3.contains("As printed: different β₂") && figure3.contains("Fair: equal β₂"));
    assert!(figure3.contains("dppo-fair, β₂ = 0.03") && figure3.matches("<svg").count() == 2);
    // The first sentence says who is ahead, and it is RTO whose level is higher.
    let lead = page.split_once("<p class=\"lead\">").unwrap().1;
    let lead = &lead[..lead.find("</p>").unwrap()];
    assert!(
        lead.contains("<b>RTO</b> has the highest mean reward")
            && lead.contains("RTO is ahead of DPPO: RTO has the higher reward on")
            && lead.contains("at equal length on"),
        "{lead}"
    );
    assert!(!page.contains("class=\"banner\""));
    assert!(section(&page, "frontier").contains("<svg"));
    assert!(section(&page, "exact").contains("0.700"));
    let samples = section(&page, "samples");
    assert!(
        samples.contains("&lt;b&gt;bees")
            && samples.contains("2 more prompts")
            && samples.contains("(no words)")
    );
    assert!(section(&page, "credit").contains("correlation over tokens"));
    assert!(section(&page, "training").contains("policy/clipfrac_avg"));
    assert!(section(&page, "config").contains("beta2 = 0.03"));
    assert!(section(&page, "versions").contains("0123abc"));
    assert!(!page.contains("class=\"absent"), "nothing is missing");
    // Nothing in it depends on time, place or chance.
    let again = folder("again");
    make_run(&again);
    assert_eq!(page_of(&again).replace("tiny: again", "tiny: whole"), page);
}

/// The reward of two methods exchanged: the first sentence turns with it.
#[test]
fn the_first_sentence_turns_with_the_data() {
    let dir = folder("turned");
    make_run(&dir);
    let text = fs::read_to_string(dir.join("evaluation.csv")).unwrap();
    let turned: Vec<String> = text
        .lines()
        .map(|line| match line.split_once(',') {
            Some(("rto", rest)) => format!("dppo,{rest}"),
            Some(("dppo", rest)) => format!("rto,{rest}"),
            _ => line.to_string(),
        })
        .collect();
    fs::write(dir.join("evaluation.csv"), turned.join("\n") + "\n").unwrap();
    let page = page_of(&dir);
    assert!(page.contains("RTO is behind DPPO: RTO has the higher reward on"));
    assert!(page.contains("<b>DPPO</b> has the highest mean reward"));
}

/// A run of two iterations or of ten prompts says so first, and calls no method better.
#[test]
fn a_small_run_ranks_nothing() {
    let dir = folder("two-iterations");
    make_run(&dir);
    for stage in ["ppo", "dppo", "rto"] {
        let path = dir.join(format!("metrics/{stage}.jsonl"));
        let text = fs::read_to_string(&path).unwrap();
        let two: Vec<&str> = text.lines().take(2).collect();
        fs::write(&path, two.join("\n") + "\n").unwrap();
    }
    let iterations = page_of(&dir);
    let dir = folder("ten-prompts");
    make_run(&dir);
    let text = fs::read_to_string(dir.join("evaluation.csv")).unwrap();
    let few = text.lines().filter(|line| {
        let id = line.split(',').nth(1).unwrap_or_default();
        id.parse::<u32>().map_or(true, |id| id < 10)
    });
    let few: Vec<&str> = few.collect();
    fs::write(dir.join("evaluation.csv"), few.join("\n") + "\n").unwrap();
    let prompts = page_of(&dir);
    for (page, said) in [
        (iterations, "2 iterations"),
        (prompts, "10 held-out prompts"),
    ] {
        let banner = page.split_once("class=\"banner\"").unwrap().1;
        assert!(banner[..400].contains(said), "{said}");
        for ranks in [
            "class=\"lead\"",
            "highest mean reward",
            "RTO is ahead",
            "RTO pays more",
            "RTO gets more",
        ] {
            assert!(!page.contains(ranks), "{said}: {ranks}");
        }
    }
}

/// Every response is there to be chosen among, and nothing in it ends the element that holds it.
#[test]
fn a_reader_can_choose_among_all_responses() {
    let dir = folder("responses");
    make_run(&dir);
    let mut lines = String::new();
    for id in 0..100 {
        for (method, reward) in [("rto", 1.0), ("dppo", f64::from(id % 2) * 2.0)] {
            let line = serde_json::json!({
                "method": method, "prompt_id": id, "prompt": format!("question {id} </script><b>"),
                "response": "an answer", "reward": reward, "length": 2,
            });
            let _ = writeln!(lines, "{line}");
        }
    }
    fs::write(dir.join("responses.jsonl"), lines).unwrap();
    let page = page_of(&dir);
    let data = page.split_once("id=\"sample-data\">").unwrap().1;
    let data = &data[..data.find("</script>").unwrap()];
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["names"], serde_json::json!(["rto", "dppo"]));
    assert_eq!(data["labels"], serde_json::json!(["RTO", "DPPO"]));
    let prompts = data["prompts"].as_array().unwrap();
    assert_eq!(prompts.len(), 100);
    assert_eq!(
        prompts[3],
        serde_json::json!([
            "question 3 </script><b>",
            [["an answer", 1.0], ["an answer", 2.0]]
        ])
    );
    // Without them the samples are what is chosen among.
    fs::remove_file(dir.join("responses.jsonl")).unwrap();
    assert!(page_of(&dir).contains("briefly : what do \\u003cb>bees"));
}

#[test]
fn missing_parts_are_named_where_they_would_be() {
    let all = [
        "evaluation.csv",
        "samples.jsonl",
        "exact.csv",
        "credit.jsonl",
        "config.toml",
        "versions.json",
    ];
    for (missing, id) in all.iter().zip([
        "win-rates",
        "samples",
        "exact",
        "credit",
        "config",
        "versions",
    ]) {
        let dir = folder(&format!("without-{missing}"));
        make_run(&dir);
        fs::remove_file(dir.join(missing)).unwrap();
        let said = format!("{missing} is not in this run folder.");
        assert!(section(&page_of(&dir), id).contains(&said), "{said}");
    }
    let dir = folder("without-metrics");
    make_run(&dir);
    fs::remove_dir_all(dir.join("metrics")).unwrap();
    let page = page_of(&dir);
    assert!(section(&page, "training").contains("metrics is not in this run folder."));
    assert!(section(&page, "win-rates").contains("matrix"));
    // Without the fair run the page says what it cannot compare.
    let dir = folder("confounded-alone");
    make_run(&dir);
    fs::remove_file(dir.join("metrics/dppo-fair.jsonl")).unwrap();
    let page = page_of(&dir);
    let figure3 = section(&page, "figure3");
    assert!(figure3.contains("have the same β₂ here, so that comparison is missing"));
    assert!(figure3.contains("As printed") && !figure3.contains("Fair: equal"));
    // Most runs ask no judge, and their page says nothing of one.
    fs::remove_file(dir.join("judge.csv")).unwrap();
    assert!(!page_of(&dir).contains("judge"));
    // One file alone is enough for a page.
    let dir = folder("config-alone");
    fs::write(dir.join("config.toml"), "seed = 4\n").unwrap();
    assert!(section(&page_of(&dir), "config").contains("seed 4"));
}

#[test]
fn damage_is_named_and_does_not_take_the_rest_along() {
    for (file, text, id, said) in [
        (
            "samples.jsonl",
            "{\"method\": \"a\"}\n",
            "samples",
            "samples.jsonl:1: no key &quot;prompt&quot;",
        ),
        ("samples.jsonl", "{oops\n", "samples", "samples.jsonl:1: "),
        (
            "credit.jsonl",
            "{\"prompt\":\"\",\"tokens\":[\"a\"],\"dpo_reward\":[]}\n",
            "credit",
            "credit.jsonl:1: dpo_reward: found 0 numbers, expected 1",
        ),
        (
            "evaluation.csv",
            "method,prompt_id,reward,kl,length\n",
            "win-rates",
            "no column `finished`",
        ),
        (
            "evaluation.csv",
            "method,prompt_id,reward,kl,length,finished\n",
            "win-rates",
            "is empty",
        ),
        (
            "evaluation.csv",
            "method,prompt_id,reward,kl,length,finished\na,1,nan,0,1,true\n",
            "win-rates",
            "method a, prompt 0: score",
        ),
        (
            "evaluation.csv",
            "method,prompt_id,reward,kl,length,finished\na,1,1,0,1,true\nb,2,1,0,1,true\n",
            "win-rates",
            "expected the same prompts",
        ),
        (
            "evaluation.csv",
            "method,prompt_id,reward,kl,length,finished\na,1,1,0,1,yes\n",
            "win-rates",
            "found `yes`, expected true or false",
        ),
        (
            "evaluation.csv",
            "method,prompt_id,reward,kl,length,finished\na,1,1,nan,1,true\n",
            "win-rates",
            "method a, prompt 0: kl: found NaN",
        ),
        (
            "exact.csv",
            "method,subopt\nrto,0\n",
            "exact",
            "no column `value`",
        ),
        (
            "metrics/rto.jsonl",
            "{\"loss\":1}\n",
            "training",
            "no number &quot;step&quot;",
        ),
        ("versions.json", "[1]", "versions", "expected a JSON object"),
    ] {
        let dir = folder("damaged");
        make_run(&dir);
        fs::write(dir.join(file), text).unwrap();
        let page = page_of(&dir);
        let found = section(&page, id);
        assert!(
            found.contains(said) && found.contains("absent damaged"),
            "{file}: {}",
            &found[..found.len().min(300)]
        );
        assert!(section(&page, "config").contains("config.toml"));
    }
}

#[test]
fn what_is_no_run_is_refused_and_a_page_goes_where_it_is_told() {
    let dir = folder("empty");
    let output = report(&["--run", dir.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("none of the files of a run is here"),
        "{said}"
    );
    assert!(!dir.join("report.html").exists());
    let output = report(&["--run", dir.join("none").to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("no such folder"));
    make_run(&dir);
    let out = dir.join("elsewhere.html");
    let output = report(&[
        "--run",
        dir.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
        "--quiet",
    ]);
    assert!(output.status.success() && output.stderr.is_empty() && out.is_file());
}

#[test]
fn several_answers_to_a_prompt_count_once() {
    let dir = folder("several");
    let rows = "method,prompt_id,reward,kl,length,finished\n\
                a,7,1,,3,true\na,7,3,,3,false\na,8,5,,3,1\nb,8,0,,2,0\nb,7,2,,2,1\n";
    fs::write(dir.join("evaluation.csv"), rows).unwrap();
    let verdicts =
        "row,column,prompt_id,preference,length_difference\na,b,1,1,0\na,b,1,0,0\na,b,2,1,0\n";
    fs::write(dir.join("judge.csv"), verdicts).unwrap();
    let page = page_of(&dir);
    // a against b: ½ at prompt 7, 1 at prompt 8; the judge: ½ at prompt 1, 1 at prompt 2.
    for id in ["win-rates", "judge"] {
        assert!(section(&page, id).contains(">75.0<small>"), "{id}");
    }
    // Means over prompts: (2 + 5)/2.
    assert!(section(&page, "methods").contains(">3.500<small>"));
    assert!(section(&page, "methods").contains("66.7%"));
    assert!(section(&page, "frontier").contains("gives no KL"));
}
