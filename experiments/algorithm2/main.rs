//! calibration
mod config;
mod method;
mod problem;
use clap::Parser;
use method::*;
use problem::*;
use rto::seed::SeedTree;
#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    common: rto_harness::cli::Common,
    #[command(flatten)]
    flags: config::Flags,
}
fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let c = config::resolve(&cli.common, &cli.flags)?;
    let seeds = SeedTree::new(c.seed).child("algorithm2");
    for (name, a, h, n) in [
        ("long", c.long_actions, c.long_horizon, c.long_responses),
        ("wide", c.wide_actions, c.wide_horizon, c.wide_responses),
    ] {
        let t = std::time::Instant::now();
        let p = Problem::new(
            &c,
            Size {
                actions: a,
                horizon: h,
                pairs: c.pairs,
            },
            &seeds.child(name),
        )?;
        let y = Yardsticks::new(&p, c.beta2)?;
        println!("{name} fit {:?}", t.elapsed());
        let dpo = p.dpo.table()?;
        println!(
            "ref {:?}\ndpo {:?}",
            y.measure(&p.reference)?,
            y.measure(&dpo)?
        );
        let opt = rto::plan::rto_optimum(
            p.map.mdp(),
            &dpo,
            &p.reference,
            p.beta1,
            rto::mdp::Beta::try_new(c.beta2)?,
        )?;
        println!("opt {:?}", y.measure(&opt.policy)?);
        for m in Method::ALL {
            for (l, lr) in [
                (0.5, 0.05),
                (0.5, 0.5),
                (0.95, 0.05),
                (0.95, 0.5),
                (1.0, 0.5),
            ] {
                let t = std::time::Instant::now();
                let k = Knobs {
                    beta2: c.beta2,
                    lambda: l,
                    critic_learning_rate: lr,
                    responses: n,
                    iterations: c.iterations,
                };
                let mut avg = vec![[0.0; 4]; 6];
                for r in 0..c.replicates {
                    let pts = run(m, &p, &k, &c, &seeds.child("run").index(r))?;
                    for (i, it) in [0, 10, 25, 50, 100, 150].iter().enumerate() {
                        if let Some(q) = pts.iter().find(|q| q.iteration == *it) {
                            avg[i][0] += q.objective_gap / c.replicates as f64;
                            avg[i][1] += q.own_gap / c.replicates as f64;
                            avg[i][2] += q.true_gap / c.replicates as f64;
                            avg[i][3] += q.critic_error.unwrap_or(0.0) / c.replicates as f64;
                        }
                    }
                }
                let s: Vec<String> = avg
                    .iter()
                    .map(|x| format!("{:.3}/{:.3}/{:.2}/{:.2}", x[0], x[1], x[2], x[3]))
                    .collect();
                println!(
                    "{:12} {l} {lr} {} {:?}",
                    m.name(),
                    s.join("  "),
                    t.elapsed() / c.replicates as u32
                );
            }
        }
    }
    Ok(())
}
