use super::*;

#[test]
fn verdicts_are_told_apart_by_how_they_begin() {
    for (text, verdict) in [
        ("holds", Verdict::Holds),
        ("holds, exactly 1 and ½ (errata B9)", Verdict::Holds),
        ("hold where Lemma A.1 does", Verdict::Holds),
        ("false as counted (errata A2)", Verdict::False),
        ("β missing on KL (errata B1)", Verdict::Repaired),
        ("off by one, worst case only (errata A4)", Verdict::Repaired),
        ("holdsnot", Verdict::TakenOver),
        ("a description of Algorithm 2", Verdict::TakenOver),
        ("", Verdict::TakenOver),
    ] {
        assert_eq!(Verdict::of(text), verdict, "{text}");
    }
}

#[test]
fn a_badge_is_not_repeated() {
    let rest = |text| Verdict::of(text).rest(text);
    assert_eq!(rest("holds"), "");
    assert_eq!(rest("holds; = β E KL"), "= β E KL");
    assert_eq!(
        rest("false as counted (errata A2)"),
        "as counted (errata A2)"
    );
    assert_eq!(
        rest("hold where Lemma A.1 does"),
        "hold where Lemma A.1 does"
    );
    assert_eq!(rest("used"), "used");
}

#[test]
fn the_sentence_counts() {
    let says = |verdicts: &[&str]| Tally::of(verdicts.iter().copied()).sentence();
    assert_eq!(
        says(&["holds", "hold", "false (errata A1)", "used"]),
        "Of 4 numbered items of the paper 2 hold; 1 is false as printed, with a true statement and its proof in place of \
         each; 1 is a definition, a choice or a description."
    );
    // A false statement without a correction is not said to have one.
    assert_eq!(
        says(&["false (errata A1)", "false"]),
        "Of 2 numbered items of the paper 2 are false as printed."
    );
}

/// Every row of the table has a kind, and no row is lost.
#[test]
fn the_table_is_tallied_whole() {
    let all = statements();
    let tally = Tally::of(all.iter().map(|s| s.verdict));
    let counted: usize = Verdict::ALL.iter().map(|v| tally.count(*v)).sum();
    assert_eq!(counted, all.len());
    assert!(tally.count(Verdict::Holds) > 0 && tally.count(Verdict::False) > 0);
    assert!(
        all.iter()
            .all(|s| !s.item.is_empty() && !s.verdict.is_empty())
    );
}
