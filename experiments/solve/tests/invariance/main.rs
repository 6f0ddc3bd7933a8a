//! Everything that `solve` prints transforms as it must when rewards, β and features change their units and when actions,
//! prompts, states and pairs change their names.
//!
//! The seed is fixed; `RTO_UNITS=seed,factor` runs `factor` times as many instances from another seed.

mod compare;
mod rounding;
mod units;
mod world;

fn runs(n: u64) -> (u64, u64) {
    let Ok(given) = std::env::var("RTO_UNITS") else {
        return (15, n);
    };
    let parsed: Vec<u64> = given.split(',').map(|x| x.parse().unwrap()).collect();
    (parsed[0], n * parsed[1])
}
