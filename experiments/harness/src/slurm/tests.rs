use super::*;

#[test]
fn ranges_are_as_slurm_writes_them() {
    assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
    assert_eq!(ranges(&[3]), "3");
    assert_eq!(ranges(&[]), "");
}

#[test]
fn arguments_are_cut_as_by_a_shell() {
    let args = |text: &str| SlurmArgs {
        slurm: Some(2),
        sbatch: Some(text.into()),
    };
    assert_eq!(
        args("--time=1:00 --comment='two words' -p cpu")
            .sbatch()
            .unwrap(),
        ["--time=1:00", "--comment=two words", "-p", "cpu"]
    );
    for bad in [
        "--array=0-3",
        "--dependency afterok:1",
        "-a0-3",
        "-d 5",
        "--comment='",
    ] {
        assert!(args(bad).sbatch().is_err(), "{bad}");
    }
    assert!(SlurmArgs::default().sbatch().unwrap().is_empty());
}

#[test]
fn scripts_hold_what_a_shell_must_read_as_one_word() {
    let array = Array {
        name: "demo",
        folder: "/a folder/run%j".into(),
        count: 5,
        indices: vec![0, 4],
        task: vec!["--resume".into(), "/a folder/run%j".into()],
        shares: true,
        ranks: None,
        after: vec!["merge".into(), "/a folder/run%j".into()],
        sbatch: Vec::new(),
    };
    let scripts = array.scripts().unwrap();
    let task = scripts.array.unwrap();
    assert!(task.contains("#SBATCH --array=0,4\n"), "{task}");
    assert!(
        task.contains("--resume '/a folder/run%j' --shard \"$SLURM_ARRAY_TASK_ID/5\" &"),
        "{task}"
    );
    assert!(
        task.contains("#SBATCH --output=\"/a folder/run%%j/slurm/0001/%a.log\"\n"),
        "{task}"
    );
    assert!(scripts.merge.unwrap().contains("merge '/a folder/run%j'\n"));
    let together = Array {
        ranks: Some(4),
        shares: false,
        after: Vec::new(),
        ..array
    };
    let scripts = together.scripts().unwrap();
    let task = scripts.array.unwrap();
    assert!(task.contains("#SBATCH --ntasks=4\n"), "{task}");
    assert!(
        task.contains("\nsrun --mpi=pmix --kill-on-bad-exit=1 /"),
        "{task}"
    );
    assert!(task.contains(" --resume '/a folder/run%j' &\n"), "{task}");
    assert_eq!(scripts.merge, None);
    let none = Array {
        indices: Vec::new(),
        ..together
    };
    assert!(none.scripts().unwrap().array.is_none());
    let odd = Array {
        folder: "/a\"b".into(),
        indices: vec![0],
        ..none
    };
    assert!(odd.scripts().is_err());
}
