use super::*;
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Greedy,
    Sampled,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dpo {
    beta: f64,
    steps: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    seed: u64,
    horizon: usize,
    widths: Vec<usize>,
    mode: Mode,
    dpo: Dpo,
}

const DEFAULTS: &str =
    "seed = 1\nhorizon = 4\nwidths = [2, 3]\nmode = \"greedy\"\n\n[dpo]\nbeta = 0.1\nsteps = 10\n";
const SMOKE: &str = "horizon = 2\n[dpo]\nsteps = 1\n";

#[derive(clap::Args, Serialize, Default)]
struct Flags {
    #[arg(long)]
    horizon: Option<usize>,
    #[arg(long)]
    mode: Option<String>,
}

fn base() -> Layers {
    Layers::new("defaults.toml", DEFAULTS).unwrap()
}

fn error(layers: Result<Layers>) -> String {
    let text = match layers.and_then(|l| resolve::<Config>(&l)) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(e) => format!("{e:#}"),
    };
    assert!(!text.contains('\n'), "not one line: {text}");
    text
}

#[test]
fn later_layers_win_and_tables_merge() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("my.toml");
    std::fs::write(&file, "horizon = 7\n[dpo]\nbeta = 1\n").unwrap();
    let common = Common {
        smoke: true,
        config: Some(file),
        seed: Some(9),
        ..Common::default()
    };
    let layers = base().common("demo", &common, "smoke.toml", SMOKE).unwrap();
    let layers = layers
        .flags(&Flags {
            horizon: Some(8),
            mode: None,
        })
        .unwrap();
    let config: Config = resolve(&layers).unwrap();
    let dpo = Dpo {
        beta: 1.0,
        steps: 1,
    };
    let expected = Config {
        seed: 9,
        horizon: 8,
        widths: vec![2, 3],
        mode: Mode::Greedy,
        dpo,
    };
    assert_eq!(config, expected);
}

#[test]
fn a_setting_is_changed_by_its_key() {
    let given = |set: &[&str]| {
        let set = set.iter().map(|s| s.to_string()).collect();
        let common = Common {
            set,
            ..Common::default()
        };
        base().common("demo", &common, "smoke.toml", SMOKE)
    };
    let set = ["dpo.beta=0.5", "mode = greedy", "widths=[4]", "dpo.beta=2"];
    let config: Config = resolve(&given(&set).unwrap()).unwrap();
    assert_eq!((config.dpo.beta, config.dpo.steps), (2.0, 10));
    assert_eq!((config.mode, config.widths), (Mode::Greedy, vec![4]));
    assert_eq!(error(given(&["seed"])), "--set seed: expected key=value");
    let text = error(given(&["dpo.epochs=3"]));
    assert!(text.contains("unknown key `dpo.epochs`"), "{text}");
}

#[test]
fn an_unknown_key_names_file_line_and_the_close_key() {
    let text = error(base().overlay(true, "my.toml", "seed = 2\nhorizn = 3"));
    assert_eq!(
        text,
        "config my.toml:2: unknown key `horizn`, expected `horizon`"
    );
    let text = error(base().overlay(true, "my.toml", "[dpo]\n\nepochs = 3"));
    assert_eq!(
        text,
        "config my.toml:3: unknown key `dpo.epochs`, expected one of `dpo.beta`, `dpo.steps`"
    );
}

#[test]
fn a_wrong_type_names_file_line_and_key() {
    let text = error(base().overlay(true, "my.toml", "[dpo]\nbeta = 2.0\nsteps = \"ten\""));
    assert_eq!(
        text,
        "config my.toml:3: key `dpo.steps` is \"ten\": expected a whole number of at least 0"
    );
    let text = error(base().overlay(true, "my.toml", "horizon = -2"));
    assert_eq!(
        text,
        "config my.toml:1: key `horizon` is -2: expected a whole number of at least 0"
    );
    let text = error(base().overlay(true, "my.toml", "dpo = 3"));
    assert_eq!(text, "config my.toml:1: key `dpo` is 3, expected a table");
    let flags = Flags {
        mode: Some("fast".into()),
        ..Flags::default()
    };
    let text = error(base().flags(&flags));
    assert!(
        text.starts_with("flag --mode: key `mode` is \"fast\": expected"),
        "{text}"
    );
}

#[test]
fn broken_toml_and_missing_files_are_one_line() {
    let text = error(base().overlay(true, "my.toml", "seed = 1\nhorizon = = 3"));
    assert!(
        text.starts_with("config my.toml:2: not valid TOML"),
        "{text}"
    );
    let text = error(base().user_file(Some(Path::new("no/such.toml"))));
    assert_eq!(text, "config: no/such.toml: no such file");
    let text = error(Layers::new("defaults.toml", "seed = 1"));
    assert!(
        text.starts_with("config defaults.toml: ") && text.ends_with(": missing"),
        "{text}"
    );
}

#[test]
fn keys_of_a_text() {
    let keys = keys_of(DEFAULTS).unwrap();
    assert_eq!(
        keys,
        ["dpo.beta", "dpo.steps", "horizon", "mode", "seed", "widths"]
    );
}

#[test]
fn choices_are_replaced_whole_free_tables_are_open_and_moved_keys_are_said() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Fit {
        schedule: Schedule,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Schedule {
        Constant,
        Linear { warmup: f64 },
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Own {
        fit: Fit,
        method: std::collections::BTreeMap<String, std::collections::BTreeMap<String, f64>>,
    }
    let rules = Rules {
        choices: &["schedule"],
        free: &["method"],
        moved: &[("fit_schedule", "fit.schedule")],
    };
    let text = "[fit]\nschedule = { linear = { warmup = 0.1 } }\n[method.a]\nb = 1.0\n";
    let read = |over: &str| -> Result<Own> {
        let layers = Layers::new("defaults.toml", text)?.rules(rules);
        resolve(&layers.overlay(true, "my.toml", over)?)
    };
    let own = read("fit.schedule = \"constant\"\nmethod.c.d = 2.0").unwrap();
    assert_eq!(own.fit.schedule, Schedule::Constant);
    assert_eq!((own.method["a"]["b"], own.method["c"]["d"]), (1.0, 2.0));
    let own = read("fit.schedule.linear.warmup = 0.2").unwrap();
    assert_eq!(own.fit.schedule, Schedule::Linear { warmup: 0.2 });
    for (over, said) in [
        ("seed = 1", "unknown key `seed`"),
        (
            "\nfit_schedule = \"constant\"",
            "config my.toml:2: key `fit_schedule` is of a former version, expected `fit.schedule`",
        ),
        (
            "fit.schedule = \"cubic\"",
            "config my.toml:1: key `fit.schedule` is \"cubic\"",
        ),
    ] {
        let error = read(over).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn the_resolved_config_reads_back_unchanged() {
    let config: Config = resolve(&base()).unwrap();
    let text = toml::to_string(&config).unwrap();
    let again: Config = resolve(&Layers::new("run/config.toml", &text).unwrap()).unwrap();
    assert_eq!(config, again);
}

fn table() -> impl Strategy<Value = Table> {
    let leaf = (0i64..5).prop_map(Value::Integer);
    let value = leaf.prop_recursive(3, 12, 3, |inner| {
        proptest::collection::btree_map("[abc]", inner, 0..3)
            .prop_map(|map| Value::Table(map.into_iter().collect()))
    });
    proptest::collection::btree_map("[abc]", value, 0..3).prop_map(|map| map.into_iter().collect())
}

proptest! {
    #[test]
    fn merging_is_idempotent_and_the_last_layer_wins(a in table(), b in table()) {
        let mut once = a.clone();
        Rules::default().merge(&mut once, &b);
        let mut twice = once.clone();
        Rules::default().merge(&mut twice, &b);
        prop_assert_eq!(&once, &twice);
        Rules::default().leaves(&b, &mut Vec::new(), &mut |path, value| {
            let mut at = Value::Table(once.clone());
            for key in path {
                at = at.get(key).cloned().unwrap();
            }
            // An empty table merged into a full one leaves it full.
            assert!(&at == value || value.as_table().is_some_and(|t| t.is_empty()));
        });
        for key in a.keys() {
            prop_assert!(once.contains_key(key));
        }
    }

    #[test]
    fn any_text_is_accepted_or_refused_in_one_line(text in "[a-z=\\[\\]\"{}0-9\n.# ]{0,60}") {
        if let Err(e) = base().overlay(true, "my.toml", &text).and_then(|l| resolve::<Config>(&l)) {
            let line = format!("{e:#}");
            prop_assert!(!line.contains('\n'), "{}", line);
        }
    }
}
