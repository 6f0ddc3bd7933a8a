//! Several processes, and Slurm, from the command line. `.ci/mpi` and `.ci/slurm` start them for real.

use std::process::{Command, Output};

/// `rto_llm` in an empty folder.
fn rto_llm(arguments: &str, environment: &[(&str, &str)]) -> (Output, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_rto_llm"))
        .args(arguments.split_whitespace())
        .env_remove("OMPI_COMM_WORLD_SIZE")
        .env_remove("PMI_SIZE")
        .env_remove("SLURM_STEP_NUM_TASKS")
        .env_remove("PMIX_RANK")
        .env_remove("OMPI_COMM_WORLD_RANK")
        .env_remove("PMI_RANK")
        .env_remove("SLURM_PROCID")
        .env_remove("RANK")
        .envs(environment.iter().copied())
        .current_dir(folder.path())
        .output()
        .unwrap();
    (output, folder)
}

/// The one line of a refusal, which leaves nothing behind.
fn refused(arguments: &str, environment: &[(&str, &str)]) -> String {
    let (output, folder) = rto_llm(arguments, environment);
    assert!(!output.status.success(), "{arguments}");
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "{arguments}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    said.trim_end().into()
}

/// Under each launcher that a user may type, the first of four processes says so and the others end without a word; a step of one
/// process is sound.
#[cfg(not(feature = "mpi"))]
#[test]
fn a_program_without_mpi_is_no_rank() {
    let launchers = [
        ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
        ("PMI_SIZE", "PMI_RANK"),
        ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ];
    for (size, rank) in launchers {
        assert_eq!(
            refused("--smoke --out run", &[(size, "4"), (rank, "0")]),
            "error: started as one of 4 processes, but this program was built without MPI; build it with --features mpi"
        );
        let (output, folder) = rto_llm("--smoke --out run", &[(size, "4"), (rank, "3")]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!((output.stdout.len(), output.stderr.len()), (0, 0));
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        // Slurm says of a script's allocation how many tasks it has room for, which starts none.
        let one = [(size, "1"), (rank, "0"), ("SLURM_NTASKS", "4")];
        let (output, _folder) = rto_llm("--smoke --dry-run", &one);
        assert!(output.status.success(), "{size}");
    }
}

#[cfg(not(feature = "nccl"))]
#[test]
fn a_program_without_nccl_says_so() {
    assert_eq!(
        refused("--smoke --out run --collective nccl", &[]),
        "error: --collective nccl: this program was built without NCCL; build it with --features nccl"
    );
    assert_eq!(
        refused("--smoke --out run --rendezvous here", &[]),
        "error: --rendezvous: is for --collective nccl; MPI's launcher says who meets"
    );
}

/// Of n trained weights 8 n (P − 1)/P bytes go round in a step, 12 where moments are shared out, which leaves each 8 n (P − 1)/P bytes
/// less for each of policy and critic.
#[test]
fn a_dry_run_says_what_each_of_several_ranks_takes_and_sends() {
    let plan = |more: &str| -> serde_json::Value {
        let line = format!("--smoke --jobs 1 --dry-run --json --set gradient_groups=4 {more}");
        let (output, _folder) = rto_llm(&line, &[]);
        let said = String::from_utf8(output.stdout).unwrap();
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"))
    };
    let (whole, shared) = (plan(""), plan("--shard-moments"));
    let n = whole["parameters"].as_u64().unwrap();
    for (i, ranks) in [1, 2, 4].into_iter().enumerate() {
        let of = |plan: &serde_json::Value, key: &str| plan["ranks"][i][key].as_u64().unwrap();
        assert_eq!(of(&whole, "ranks"), ranks);
        assert_eq!(of(&whole, "sent"), 8 * n * (ranks - 1) / ranks);
        assert_eq!(of(&shared, "sent"), 12 * n * (ranks - 1) / ranks);
        let saved = of(&whole, "bytes") - of(&shared, "bytes");
        assert_eq!(saved, 2 * 8 * n * (ranks - 1) / ranks);
    }
}

#[test]
fn groups_and_ranks_that_do_not_fit_are_refused() {
    assert_eq!(
        refused("--smoke --out run --set gradient_groups=3", &[]),
        "error: gradient_groups: found 3, expected a power of two: 1, 2, 4, 8, …"
    );
    let with = "--smoke --out run --set gradient_groups=4 --dry-run";
    assert_eq!(
        refused(&format!("{with} --slurm 1 --ranks 8"), &[]),
        "error: --ranks: found 8, expected a power of two, at most gradient_groups = 4"
    );
    assert_eq!(
        refused(&format!("{with} --slurm 2"), &[]),
        "error: --slurm 2: found one run, expected --seeds with it, or --slurm 1 --ranks P"
    );
    assert!(
        refused(
            "--smoke --seeds 1..3 --out run --slurm 2 --set hidden_size=0",
            &[]
        )
        .contains("hidden_size: found 0")
    );
}

#[test]
fn slurm_is_given_a_task_for_each_share_of_the_seeds_and_a_comparison() {
    let line = "--smoke --seeds 1..3 --out five --slurm 2 --dry-run --sbatch=--time=9:00";
    let (output, folder) = rto_llm(line, &[]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    assert!(said.contains("#SBATCH --array=0-1\n"), "{said}");
    let task = "rto_llm --smoke --seeds 1..3 --out five --quiet";
    let share = format!("{task} --shard \"$SLURM_ARRAY_TASK_ID/2\" &\n");
    assert!(said.contains(&share), "{said}");
    assert!(said.contains(&format!("{task} --compare\n")), "{said}");
}

#[test]
fn slurm_starts_the_ranks_of_a_run_by_srun() {
    let line = "--smoke --out one --slurm 1 --ranks 4 --set gradient_groups=4 --dry-run";
    let (output, _folder) = rto_llm(line, &[]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("#SBATCH --ntasks=4\n"), "{said}");
    assert!(
        said.contains("\nsrun --mpi=pmix --kill-on-bad-exit=1 /"),
        "{said}"
    );
    let task = "rto_llm --smoke --out one --set 'gradient_groups=4' --quiet &\n";
    assert!(said.contains(task), "{said}");
    assert!(!said.contains("merge.sh"), "{said}");
}
