use super::*;
use crate::collective::Solo;

/// What every rank gets, in order of rank.
fn on<T: Send>(size: usize, work: impl Fn(Threads) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let ranks = Threads::ranks(size).into_iter();
        let started: Vec<_> = ranks.map(|r| scope.spawn(|| work(r))).collect();
        started.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

#[test]
fn what_is_given_arrives_in_order_round_after_round() {
    for size in [1, 2, 3, 4] {
        let seen = on(size, |ranks| {
            let me = ranks.rank() as u8;
            for round in 0..50u8 {
                let parts: Vec<Vec<u8>> = (0..size as u8)
                    .map(|to| [round, me, to].repeat(to as usize))
                    .collect();
                let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
                let got = ranks.exchange(&parts).unwrap();
                for (from, got) in got.iter().enumerate() {
                    assert_eq!(*got, [round, from as u8, me].repeat(me as usize));
                }
                let got = ranks.gather(&[me, round]).unwrap();
                for (from, got) in got.iter().enumerate() {
                    let expected = [from as u8, round];
                    assert_eq!(*got, expected[..if me == 0 { 2 } else { 0 }]);
                }
                ranks.barrier().unwrap();
            }
            ranks.all_gather(&[me]).unwrap()
        });
        let all: Vec<Vec<u8>> = (0..size as u8).map(|r| vec![r]).collect();
        assert!(seen.iter().all(|got| *got == all));
    }
}

#[test]
fn a_rank_that_leaves_ends_the_others_calls() {
    let seen = on(3, |ranks| match ranks.rank() {
        1 => String::new(),
        _ => ranks.barrier().unwrap_err().to_string(),
    });
    let expected = "has left while it was waited for";
    assert!(seen[0].starts_with("rank 0: rank ") && seen[0].ends_with(expected));
    assert!(seen[2].ends_with(expected));
}

#[test]
fn alone_one_gets_what_one_gives() {
    assert_eq!(Solo.exchange(&[&[1, 2]]).unwrap(), [[1, 2]]);
    assert_eq!(Solo.gather(&[3]).unwrap(), [[3]]);
    let refused = Solo.exchange(&[&[1], &[2]]).unwrap_err().to_string();
    assert_eq!(
        refused,
        "parts of an exchange: found 2, expected one for each of 1 ranks"
    );
}
