use super::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

const COLUMNS: &[&str] = &["x", "y"];

fn tasks(computed: &AtomicUsize) -> Vec<Task<'_>> {
    let task = |i: usize| {
        Task::new(format!("t/a/{i}"), COLUMNS, move || {
            computed.fetch_add(1, Ordering::Relaxed);
            let y = 1.0 / (i as f64 + 3.0);
            Ok(vec![
                vec![i.into(), y.into()],
                vec![Cell::Empty, f64::NAN.into()],
            ])
        })
    };
    (0..7).map(task).collect()
}

fn run_in(dir: &Path, name: &str) -> RunDir {
    let config = BTreeMap::from([("seed", 3)]);
    RunDir::create_or_resume("t", Some(&dir.join(name)), &config).unwrap()
}

fn quiet() -> Progress {
    Progress::new(true)
}

#[test]
fn shards_split_the_list_from_zero_or_from_one() {
    let shard = |text: &str| text.parse::<Shard>();
    for count in 1..6usize {
        for (first, last) in [(0, count - 1), (1, count)] {
            let mut owners = [0; 20];
            for index in first..=last {
                let shard = shard(&format!("{index}/{count}")).unwrap();
                (0..20)
                    .filter(|i| shard.has(*i))
                    .for_each(|i| owners[i] += 1);
            }
            assert!(
                owners.iter().all(|n| *n == 1),
                "{first}..={last} of {count}"
            );
        }
    }
    assert!(shard("1/1").unwrap().is_whole() && !shard("1/2").unwrap().is_whole());
    assert_eq!(shard("2/5").unwrap().to_string(), "2/5");
    for bad in ["", "3", "3/2", "0/0", "-1/2", "1/2/3", "a/b", "1/"] {
        let error = shard(bad).unwrap_err().to_string();
        assert!(error.contains("expected i/n") && error.contains(bad));
    }
}

#[test]
fn finished_cells_are_not_computed_again() {
    let dir = tempfile::tempdir().unwrap();
    let computed = AtomicUsize::new(0);
    let tasks = tasks(&computed);
    let store = CellStore::open(&run_in(dir.path(), "one")).unwrap();
    assert_eq!(store.run(&tasks, Shard::WHOLE, &quiet()).unwrap(), 7);
    let whole = store.collect("a", &tasks).unwrap().to_csv();
    assert!(whole.starts_with("id,x,y\nt/a/0,0,0.3333333333333333\nt/a/0,,NaN\nt/a/1,1,0.25\n"));
    assert_eq!(store.run(&tasks, Shard::WHOLE, &quiet()).unwrap(), 0);
    // What a kill leaves: some cells, and a part of one under a temporary name.
    fs::remove_file(store.path("t/a/2")).unwrap();
    fs::write(store.dir.join(".t-a-2.csv.999999999-0.tmp"), "x,y\n1").unwrap();
    assert_eq!(store.missing(&tasks), ["t/a/2"]);
    assert_eq!(
        store.collect("a", &tasks).unwrap_err().to_string(),
        "cell t/a/2"
    );
    assert_eq!(store.run(&tasks, Shard::WHOLE, &quiet()).unwrap(), 1);
    assert_eq!(store.collect("a", &tasks).unwrap().to_csv(), whole);
    store.tidy();
    assert_eq!(fs::read_dir(&store.dir).unwrap().count(), 7);
    assert_eq!(computed.load(Ordering::Relaxed), 8);
}

#[test]
fn shards_in_folders_of_their_own_are_put_together() {
    let dir = tempfile::tempdir().unwrap();
    let computed = AtomicUsize::new(0);
    let tasks = tasks(&computed);
    let whole = CellStore::open(&run_in(dir.path(), "whole")).unwrap();
    whole.run(&tasks, Shard::WHOLE, &quiet()).unwrap();
    let merged = CellStore::open(&run_in(dir.path(), "merged")).unwrap();
    let mut runs = Vec::new();
    for i in 1..=3 {
        let run = run_in(dir.path(), &i.to_string());
        let store = CellStore::open(&run).unwrap();
        let shard = format!("{i}/3").parse().unwrap();
        store.run(&tasks, shard, &quiet()).unwrap();
        merged.copy_from(run.root(), &tasks).unwrap();
        runs.push(run.root().to_path_buf());
    }
    assert_eq!(CellStore::missing_in(&runs[1..], &tasks).len(), 2);
    assert!(CellStore::missing_in(&runs, &tasks).is_empty());
    let csv = |store: &CellStore| store.collect("a", &tasks).unwrap().to_csv();
    assert_eq!(csv(&merged), csv(&whole));
    // The same cell with other contents is refused.
    fs::write(merged.path("t/a/0"), "x,y\n1,2\n").unwrap();
    let error = merged.copy_from(&dir.path().join("whole"), &tasks);
    assert!(error.unwrap_err().to_string().contains("t-a-0.csv"));
}

#[test]
fn errors_name_the_cell_and_keep_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = CellStore::open(&run_in(dir.path(), "run")).unwrap();
    let task = |i: usize| {
        Task::new(format!("t/b/{i}"), COLUMNS, move || match i {
            3 => bail!("no convergence"),
            _ => Ok(vec![vec![i.into(), 0.into()]]),
        })
    };
    let tasks: Vec<Task> = (0..4).map(task).collect();
    let error = store.run(&tasks, Shard::WHOLE, &quiet()).unwrap_err();
    assert_eq!(format!("{error:#}"), "t/b/3: no convergence");
    assert!(store.missing(&tasks).contains(&"t/b/3"));
    fs::write(store.path("t/b/0"), "x,z\n1,2\n").unwrap();
    let error = store.collect("b", &tasks[..1]).unwrap_err().to_string();
    assert!(error.contains("x,z") && error.contains("delete it"));
}

#[test]
#[should_panic(expected = "share the file")]
fn two_ids_with_one_file_are_a_bug() {
    let dir = tempfile::tempdir().unwrap();
    let store = CellStore::open(&run_in(dir.path(), "run")).unwrap();
    let same = || Task::new("t/a/1", COLUMNS, || Ok(Vec::new()));
    store.run(&[same(), same()], Shard::WHOLE, &quiet()).ok();
}
