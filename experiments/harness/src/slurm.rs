//! An array of Slurm jobs that computes the shards of a run, and the job that puts them together.
//!
//! Tasks are plain commands of the binary (`--resume DIR --shard I/N`), so what stands here is the scripts around them: one for the
//! array, one that waits for its end. A task that nears its time limit ends its program, whose finished cells stay, and is queued again.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, anyhow, bail};

use crate::atomic;

/// The folder of the scripts and logs inside a run folder, with one numbered folder for each submission.
pub const SLURM: &str = "slurm";

/// Slurm's own default for the size of an array; a cluster may allow fewer.
const MOST: u64 = 1000;

/// The flags of a program that can submit itself; put them in its struct with `#[command(flatten)]`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SlurmArgs {
    /// Submit the run as an array of N Slurm jobs, and the merge after them; a run that lacks cells: only the jobs that lack some
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST))]
    pub slurm: Option<u64>,
    /// Arguments for sbatch, as "--time=4:00:00 --partition=cpu --cpus-per-task=8"
    #[arg(
        long,
        value_name = "ARGS",
        requires = "slurm",
        allow_hyphen_values = true
    )]
    pub sbatch: Option<String>,
}

impl SlurmArgs {
    /// The arguments for sbatch, as a shell would cut them.
    ///
    /// # Errors
    /// An open quote, or an argument that is ours to give.
    pub fn sbatch(&self) -> Result<Vec<String>> {
        let text = self.sbatch.as_deref().unwrap_or_default();
        let words = shlex::split(text)
            .ok_or_else(|| anyhow!("--sbatch: found `{text}`, expected every quote closed"))?;
        for word in &words {
            let flag = word.split('=').next().unwrap_or(word);
            let ours = ["--array", "--dependency", "--wrap", "--parsable"];
            // `-a0-3` and `-a 0-3` are both ways of writing it.
            let short = ["-a", "-d"].iter().any(|s| word.starts_with(s)) && !word.starts_with("--");
            if ours.contains(&flag) || short {
                bail!("--sbatch: found `{word}`, which this program sets itself");
            }
        }
        Ok(words)
    }
}

/// What is to be submitted.
#[derive(Debug)]
pub struct Array<'a> {
    /// The name of the binary and of the jobs.
    pub name: &'a str,
    /// The run folder; all nodes must see it under this name.
    pub folder: PathBuf,
    /// The number of shares that the run is cut into.
    pub count: u64,
    /// The shares that lack something.
    pub indices: Vec<u64>,
    /// The words of a task after the program.
    pub task: Vec<String>,
    /// Whether `--shard I/N` comes behind them.
    pub shares: bool,
    /// How many processes a task is, which `srun --mpi=pmix` starts; without a number, the program alone.
    pub ranks: Option<u64>,
    /// The words of the job that follows the array; without any, none does.
    pub after: Vec<String>,
    /// The user's arguments for sbatch.
    pub sbatch: Vec<String>,
}

/// The scripts of one submission and where they lie.
#[derive(Debug)]
pub struct Scripts {
    /// The folder of scripts and logs.
    pub folder: PathBuf,
    /// The array; `None` when no share lacks anything.
    pub array: Option<String>,
    /// What follows it, if anything.
    pub merge: Option<String>,
}

/// The jobs that Slurm has taken.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Submitted {
    /// The array's job id.
    pub array: Option<String>,
    /// The job id of what follows it.
    pub merge: Option<String>,
    /// The folder of scripts and logs.
    pub scripts: PathBuf,
}

impl Array<'_> {
    /// The scripts, with everything in them that does not depend on the cluster.
    ///
    /// # Errors
    /// A path that is not text, or cannot be part of a script.
    pub fn scripts(&self) -> Result<Scripts> {
        let folder = next_folder(&self.folder.join(SLURM));
        let program = std::env::current_exe().context("the path of this program")?;
        let command = |words: &[String]| -> Result<String> {
            let mut text = quoted(text_of(&program)?)?;
            for word in words {
                text.push(' ');
                text.push_str(&quoted(word)?);
            }
            Ok(text)
        };
        let array = match self.indices.is_empty() {
            true => None,
            false => Some(self.array_script(&folder, &command(&self.task)?)?),
        };
        let merge = match self.after.is_empty() {
            true => None,
            false => {
                let mut merge = head(&format!("{}-merge", self.name), &folder, "merge.log")?;
                merge.push_str("export RAYON_NUM_THREADS=\"${SLURM_CPUS_PER_TASK:-1}\"\n");
                writeln!(merge, "exec {}", command(&self.after)?)?;
                Some(merge)
            }
        };
        Ok(Scripts {
            folder,
            array,
            merge,
        })
    }

    fn array_script(&self, folder: &Path, task: &str) -> Result<String> {
        let mut script = head(self.name, folder, "%a.log")?;
        writeln!(script, "#SBATCH --array={}", ranges(&self.indices))?;
        let mut task = match self.ranks {
            None => task.to_string(),
            Some(ranks) => {
                writeln!(script, "#SBATCH --ntasks={ranks}")?;
                format!("srun --mpi=pmix --kill-on-bad-exit=1 {task}")
            }
        };
        if self.shares {
            write!(task, " --shard \"$SLURM_ARRAY_TASK_ID/{}\"", self.count)?;
        }
        script.push_str("#SBATCH --requeue\n");
        // Two minutes before the time limit the shell gets the signal, and the program has not ended.
        script.push_str("#SBATCH --signal=B:USR1@120\n");
        script.push_str("export RAYON_NUM_THREADS=\"${SLURM_CPUS_PER_TASK:-1}\"\n");
        writeln!(
            script,
            "again() {{\n    \
                 trap '' USR1\n    \
                 kill -TERM \"$child\" 2>/dev/null\n    \
                 wait \"$child\"\n    \
                 echo \"the time limit is near: this task is queued again, its finished cells are kept\"\n    \
                 scontrol requeue \"${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}\" || exit 1\n    \
                 # Slurm ends this shell.\n    \
                 sleep 600\n\
             }}\n\
             trap again USR1\n\
             {task} &\n\
             child=$!\n\
             wait \"$child\""
        )?;
        Ok(script)
    }

    /// Writes the scripts below the run folder and gives them to sbatch.
    ///
    /// # Errors
    /// One line: a file that cannot be written, or what sbatch said.
    pub fn submit(&self) -> Result<Submitted> {
        let scripts = self.scripts()?;
        fs::create_dir_all(&scripts.folder)
            .with_context(|| format!("{}: cannot make", scripts.folder.display()))?;
        let array = match &scripts.array {
            None => None,
            Some(text) => Some(self.sbatch(&scripts.folder, "array.sh", text, None)?),
        };
        let merge = scripts
            .merge
            .as_ref()
            .map(|text| self.sbatch(&scripts.folder, "merge.sh", text, array.as_deref()));
        let merge = merge.transpose().with_context(|| match &array {
            Some(id) => format!("the array was submitted as job {id}, but not what follows it"),
            None => "the merge was not submitted".to_string(),
        })?;
        Ok(Submitted {
            array,
            merge,
            scripts: scripts.folder,
        })
    }

    fn sbatch(&self, folder: &Path, file: &str, text: &str, after: Option<&str>) -> Result<String> {
        let path = folder.join(file);
        atomic::write_new(&path, text.as_bytes())?;
        let mut sbatch = Command::new("sbatch");
        sbatch.arg("--parsable").args(&self.sbatch);
        if let Some(id) = after {
            // Whatever became of the tasks: the merge names the cells that are missing.
            sbatch.arg(format!("--dependency=afterany:{id}"));
        }
        let output = sbatch.arg(&path).output().context("sbatch")?;
        let said = || {
            let text = String::from_utf8_lossy(&output.stderr);
            let words: Vec<&str> = text.split_whitespace().collect();
            words.join(" ")
        };
        if !output.status.success() {
            bail!("sbatch {}: {}", path.display(), said());
        }
        // `ID` or `ID;CLUSTER`.
        let id = String::from_utf8_lossy(&output.stdout);
        let id = id.trim().split(';').next().unwrap_or_default().to_string();
        match !id.is_empty() && id.chars().all(|c| c.is_ascii_digit()) {
            true => Ok(id),
            false => bail!(
                "sbatch {}: found no job id in what it said: {}",
                path.display(),
                said()
            ),
        }
    }
}

/// Refuses to go on where there is no Slurm, before anything is made.
///
/// # Errors
/// One line that says what to do.
pub fn check() -> Result<()> {
    match Command::new("sbatch").arg("--version").output() {
        Ok(Output { status, .. }) if status.success() => Ok(()),
        Ok(output) => bail!(
            "--slurm: sbatch --version failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ),
        Err(e) if e.kind() == ErrorKind::NotFound => bail!(
            "--slurm: there is no sbatch on the PATH; start this where jobs are submitted, or add --dry-run to see the scripts"
        ),
        Err(e) => bail!("--slurm: sbatch: {e}"),
    }
}

fn head(name: &str, folder: &Path, log: &str) -> Result<String> {
    let log = folder.join(log);
    let log = text_of(&log)?;
    // sbatch reads these lines itself, where no shell takes quotes away but its own.
    if log.contains(['"', '\n', '\\']) {
        bail!(
            "{log}: a folder of Slurm jobs cannot have quotes, backslashes or line breaks in its name"
        );
    }
    Ok(format!(
        "#!/bin/bash\n#SBATCH --job-name={name}\n#SBATCH --output=\"{}\"\n#SBATCH --open-mode=append\n",
        // Slurm replaces patterns in names, and %% by one percent sign.
        log.replace('%', "%%").replace("%%a.log", "%a.log"),
    ))
}

/// `0-3,7`.
fn ranges(indices: &[u64]) -> String {
    let mut parts: Vec<(u64, u64)> = Vec::new();
    for &i in indices {
        match parts.last_mut() {
            Some((_, end)) if *end + 1 == i => *end = i,
            _ => parts.push((i, i)),
        }
    }
    let text = |&(start, end): &(u64, u64)| match start == end {
        true => start.to_string(),
        false => format!("{start}-{end}"),
    };
    parts.iter().map(text).collect::<Vec<_>>().join(",")
}

fn next_folder(base: &Path) -> PathBuf {
    let free = |n: &u32| !base.join(format!("{n:04}")).exists();
    let n = (1..).find(free).unwrap_or(1);
    base.join(format!("{n:04}"))
}

fn text_of(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{}: not valid UTF-8 text", path.display()))
}

/// The word as a shell reads it back.
fn quoted(word: &str) -> Result<String> {
    let quoted = shlex::try_quote(word);
    Ok(quoted
        .map_err(|e| anyhow!("{word:?}: cannot stand in a script: {e}"))?
        .into_owned())
}

#[cfg(test)]
mod tests;
