use super::*;

const A: Stage = Stage::Reward;
const B: Stage = Stage::Dpo;
const C: Stage = Stage::Oracle;
const D: Stage = Stage::Sft;

fn task<'a>(stage: Stage, work: impl FnOnce() -> Result<()> + Send + 'a) -> Task<'a> {
    Task {
        stage,
        work: Box::new(work),
    }
}

#[test]
fn every_task_runs_once_and_a_failure_stops_the_others() {
    for jobs in [1, 2, 3, 9] {
        let (stop, mut names) = (Stop::default(), Vec::new());
        let tasks = [A, B, C, D].map(|stage| task(stage, || Ok(())));
        let mut finished = |stage: Stage, _| {
            names.push(stage.name());
            Ok(())
        };
        run(tasks.into(), jobs, &stop, &mut finished).unwrap();
        names.sort_unstable();
        assert_eq!(names, ["dpo", "oracle", "reward", "sft"]);

        let (stop, late) = (Stop::default(), AtomicBool::new(false));
        let wait = || {
            // Alone it is never reached; beside the failing one it is told.
            while stop.check().is_ok() {
                std::thread::yield_now();
            }
            stop.check()
        };
        let after = || {
            late.store(true, Ordering::Relaxed);
            Ok(())
        };
        let tasks = vec![
            task(A, || bail!("the loss is NaN")),
            task(B, wait),
            task(C, after),
        ];
        let error = run(tasks, jobs.min(2), &stop, &mut |_, _| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "the loss is NaN");
        assert!(!late.load(Ordering::Relaxed));
    }
}

#[test]
fn a_fault_of_one_task_stops_the_others_too() {
    let stop = Stop::default();
    let wait = || {
        while stop.check().is_ok() {
            std::thread::yield_now();
        }
        stop.check()
    };
    let tasks = vec![task(A, || panic!("on purpose")), task(B, wait)];
    let error = run(tasks, 2, &stop, &mut |_, _| Ok(())).unwrap_err();
    assert!(error.to_string().contains("stage reward"), "{error}");
}
