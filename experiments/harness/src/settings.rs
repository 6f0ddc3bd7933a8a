//! Settings of an experiment: the defaults that its binary embeds, what a user gives on top, and the check of the result.

use std::path::Path;

use anyhow::Result;
use serde::{Serialize, de::DeserializeOwned};

use crate::cli::Common;
use crate::config::{self, Layers, Rules};
use crate::run_dir::CONFIG;

/// The settings of one binary, as its config files and run folders hold them.
///
/// ```
/// use rto_harness::{cli::Common, config::within, settings::Settings};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Config {
///     seed: u64,
///     beta: f64,
/// }
///
/// impl Settings for Config {
///     const NAME: &'static str = "demo";
///     const DEFAULTS: &'static str = "seed = 0\nbeta = 0.5\n";
///     const SMOKE: &'static str = "beta = 1.0\n";
///
///     fn check(&self) -> anyhow::Result<()> {
///         within("beta", self.beta, 1e-3, 1e3)
///     }
/// }
///
/// #[derive(serde::Serialize)]
/// struct Flags {
///     beta: Option<f64>,
/// }
///
/// let common = Common { smoke: true, ..Common::default() };
/// assert_eq!(Config::resolve(&common, &Flags { beta: None })?.beta, 1.0);
/// let error = Config::resolve(&common, &Flags { beta: Some(-1.0) }).err().unwrap();
/// assert_eq!(error.to_string(), "beta: found -1, expected a value from 0.001 to 1000");
/// # Ok::<(), anyhow::Error>(())
/// ```
pub trait Settings: Serialize + DeserializeOwned {
    /// The name of the binary, of its run folders, cells and random streams.
    const NAME: &'static str;
    /// What a user types to run it.
    const PROGRAM: &'static str = Self::NAME;
    /// The text of `experiments/configs/NAME.toml`, which holds and explains every key.
    const DEFAULTS: &'static str;
    /// The text of `experiments/configs/NAME.smoke.toml`, which `--smoke` puts on top.
    const SMOKE: &'static str;
    /// What is said of keys beside their defaults.
    const RULES: Rules = Rules {
        choices: &[],
        free: &[],
        moved: &[],
    };

    /// Refuses values that no run can use.
    ///
    /// # Errors
    /// One line that names the key, what was found and what was expected.
    fn check(&self) -> Result<()>;

    /// Defaults, the run that `--out` goes on with, smoke overlay, config file, seed and flags, in this order, checked.
    ///
    /// # Errors
    /// Those of [`config::resolve`] and of [`Settings::check`].
    fn resolve(common: &Common, flags: &impl Serialize) -> Result<Self> {
        let smoke = format!("experiments/configs/{}.smoke.toml", Self::NAME);
        let layers = defaults::<Self>()?.common(Self::NAME, common, &smoke, Self::SMOKE)?;
        checked(layers.flags(flags)?)
    }

    /// The settings of the run in `dir`, with flags on top, checked.
    ///
    /// # Errors
    /// As [`Settings::resolve`]; a folder that holds no run.
    fn saved(dir: &Path, flags: &impl Serialize) -> Result<Self> {
        checked(
            defaults::<Self>()?
                .user_file(Some(&dir.join(CONFIG)))?
                .flags(flags)?,
        )
    }
}

fn defaults<S: Settings>() -> Result<Layers> {
    let name = format!("experiments/configs/{}.toml", S::NAME);
    Ok(Layers::new(&name, S::DEFAULTS)?.rules(S::RULES))
}

fn checked<S: Settings>(layers: Layers) -> Result<S> {
    let settings: S = config::resolve(&layers)?;
    settings.check()?;
    Ok(settings)
}
