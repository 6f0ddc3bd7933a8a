//! `--slurm`: a run, or one for each seed, as jobs.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use rto_harness::cli::Reporter;
use rto_harness::say;
use rto_harness::slurm::{self, Array, SlurmArgs};
use rto_harness::sweep::Shard;
use serde_json::json;

use super::args::{Args, NAME};
use super::{config, data, seeds};

/// Flags that the tasks do not get, and whether a value follows.
const OURS: [(&str, bool); 5] = [
    ("--slurm", true),
    ("--sbatch", true),
    ("--ranks", true),
    ("--dry-run", false),
    ("--json", false),
];

/// Submits what the command line asks for, or prints what that would be.
pub fn run(args: &Args, count: u64, reporter: &Reporter) -> Result<()> {
    let out = args.common.out.as_deref().context("--slurm: needs --out")?;
    let flags = SlurmArgs {
        slurm: Some(count),
        sbatch: args.sbatch.clone(),
    };
    let sbatch = flags.sbatch()?;
    let seeds = args.seeds.as_ref();
    let mut one = args.clone();
    match seeds {
        Some(list) => {
            seeds::check(list)?;
            one.common.seed = list.0.first().copied();
            one.like = seeds::begun(out, list);
            one.common.out = None;
        }
        None if args.ranks.is_none() || count != 1 => bail!(
            "--slurm {count}: found one run, expected --seeds with it, or --slurm 1 --ranks P"
        ),
        None => {}
    }
    // Bad settings and bad data fail here, not in a job.
    let config = config::resolve(&one)?;
    data::read(&config, &rto::seed::SeedTree::new(config.seed).child(NAME))?;
    if let Some(ranks) = args.ranks
        && (!ranks.is_power_of_two() || ranks as usize > config.gradient_groups)
    {
        bail!(
            "--ranks: found {ranks}, expected a power of two, at most gradient_groups = {}",
            config.gradient_groups
        );
    }
    let lacks = |index: &u64| match seeds {
        None => !out.join("done").is_file(),
        Some(list) => {
            let share = Shard::new(*index, count);
            let mut mine = list.0.iter().enumerate().filter(|(i, _)| share.has(*i));
            mine.any(|(_, seed)| !seeds::is_done(out, *seed))
        }
    };
    let task = words(std::env::args_os().skip(1).collect())?;
    let mut after = Vec::new();
    if seeds.is_some() {
        after.clone_from(&task);
        after.push("--compare".into());
    }
    let array = Array {
        name: NAME,
        folder: std::path::absolute(out).with_context(|| format!("--out {}", out.display()))?,
        count,
        indices: (0..count).filter(lacks).collect(),
        task,
        shares: seeds.is_some(),
        ranks: args.ranks,
        after,
        sbatch,
    };
    if args.dry_run {
        return print(&array, reporter);
    }
    slurm::check()?;
    if array.indices.is_empty() && array.after.is_empty() {
        return say!(
            reporter,
            "nothing to do: the run in {} is done",
            out.display()
        );
    }
    std::fs::create_dir_all(out).with_context(|| format!("--out {}", out.display()))?;
    let jobs = array.submit()?;
    let said = |id: &Option<String>| id.clone().unwrap_or_else(|| "none".into());
    say!(
        reporter,
        "{} tasks: job {}; the comparison: job {}",
        array.indices.len(),
        said(&jobs.array),
        said(&jobs.merge)
    )?;
    say!(
        reporter,
        "results will be in {}, logs are in {}",
        out.display(),
        jobs.scripts.display()
    )?;
    reporter.json(&json!({ "run": out, "tasks": array.indices, "jobs": jobs }))
}

fn print(array: &Array<'_>, reporter: &Reporter) -> Result<()> {
    let scripts = array.scripts()?;
    let folder = scripts.folder.display();
    if let Some(script) = &scripts.array {
        say!(reporter, "# {folder}/array.sh\n{script}")?;
    }
    if let Some(script) = &scripts.merge {
        say!(reporter, "# {folder}/merge.sh, after the array\n{script}")?;
    }
    reporter.json(&json!({
        "run": array.folder, "tasks": array.indices, "array": scripts.array, "merge": scripts.merge,
    }))
}

/// The words of this command line without those that are for this process alone. Jobs begin in the folder they are submitted from, so
/// paths stay as they are.
fn words(given: Vec<OsString>) -> Result<Vec<String>> {
    let mut kept = Vec::new();
    let mut given = given.into_iter();
    while let Some(word) = given.next() {
        let word = word
            .into_string()
            .map_err(|w| anyhow!("{}: not valid UTF-8 text", Path::new(&w).display()))?;
        let flag = word.split('=').next().unwrap_or(&word);
        match OURS.iter().find(|(name, _)| *name == flag) {
            None => kept.push(word),
            // `--slurm 4` is two words, `--slurm=4` is one.
            Some((name, true)) if word == *name => drop(given.next()),
            Some(_) => {}
        }
    }
    if !kept.iter().any(|word| word == "--quiet") {
        kept.push("--quiet".into());
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_get_the_words_that_are_theirs() {
        let line = "--seeds 1..4 --slurm 2 --out runs/five --sbatch=--time=1 --ranks 2 --dry-run --set ppo.gamma=0.9";
        let given = line.split(' ').map(OsString::from).collect();
        let expected = "--seeds 1..4 --out runs/five --set ppo.gamma=0.9 --quiet";
        assert_eq!(words(given).unwrap().join(" "), expected);
    }
}
