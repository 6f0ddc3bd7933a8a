//! What a driver refuses, in words that say what to do.

/// What a driver's word means, and what to do.
const KNOWN: [(&str, &str, &str); 10] = [
    (
        "CUDA_ERROR_NO_DEVICE",
        "the driver sees no GPU",
        "nvidia-smi lists those it sees, and CUDA_VISIBLE_DEVICES may hide them",
    ),
    (
        "CUDA_ERROR_INVALID_DEVICE",
        "there is no GPU of this number",
        "nvidia-smi -L lists those there are, counted from 0",
    ),
    (
        "CUDA_ERROR_OUT_OF_MEMORY",
        "the GPU's memory is taken",
        "nvidia-smi shows by which processes; fewer sequences at once need less",
    ),
    (
        "CUDA_ERROR_DEVICE_UNAVAILABLE",
        "another process has the GPU for itself",
        "nvidia-smi shows which",
    ),
    (
        "CUDA_ERROR_STUB_LIBRARY",
        "libcuda.so.1 is the stand-in that programs are linked against",
        "take the folder stubs out of LD_LIBRARY_PATH, so that the driver's own is found",
    ),
    (
        "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        "the driver's library and its kernel module are of two versions",
        "restart the machine, or install one version of both",
    ),
    (
        "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        "the driver is older than the CUDA release of this build",
        "install a newer driver, or build with an older toolkit",
    ),
    (
        "CUDA_ERROR_NO_BINARY_FOR_GPU",
        "this build has no code for this GPU",
        "build again with CUDA_COMPUTE_CAP set to its compute capability",
    ),
    (
        "CUDA_ERROR_NOT_INITIALIZED",
        "the driver does not start",
        "nvidia-smi must work first",
    ),
    (
        "CUBLAS_STATUS_NOT_INITIALIZED",
        "cuBLAS does not start",
        "it needs free memory on the GPU and the libraries of this build's CUDA release on LD_LIBRARY_PATH",
    ),
];

/// The line for a `step` that a driver refused and what it `said`: what that means, its own word in brackets, and what to do. What it says without such a
/// word stands as it is, its first line.
pub fn refusal(step: &str, said: &str) -> String {
    let is_word = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let mut words = said.split(|c| !is_word(c));
    let word = words.find(|w| w.starts_with("CUDA_ERROR_") || w.starts_with("CUBLAS_STATUS_"));
    let Some(word) = word else {
        return format!("{step}: {}", said.lines().next().unwrap_or("refused"));
    };
    let known = KNOWN.iter().find(|(name, ..)| *name == word);
    let (means, what_to_do) = match known {
        Some((_, means, what_to_do)) => (*means, *what_to_do),
        None => (
            "the driver refused",
            "nvidia-smi shows how driver and GPU are",
        ),
    };
    format!("{step}: {means} [{word}]; {what_to_do}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_the_step_the_meaning_the_word_and_what_to_do() {
        let said = r#"DriverError(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected")"#;
        assert_eq!(
            refusal("opening the GPU", said),
            "opening the GPU: the driver sees no GPU [CUDA_ERROR_NO_DEVICE]; nvidia-smi lists those it sees, and CUDA_VISIBLE_DEVICES may hide them"
        );
        for (word, means, what_to_do) in KNOWN {
            let line = refusal("a step", &format!("CublasError({word})\nmore"));
            assert_eq!(line, format!("a step: {means} [{word}]; {what_to_do}"));
        }
    }

    #[test]
    fn an_unknown_word_is_kept_and_so_is_a_text_without_one() {
        let line = refusal("opening the GPU", "DriverError(CUDA_ERROR_ECC, \"…\")");
        assert!(
            line.contains("[CUDA_ERROR_ECC]") && line.contains("nvidia-smi"),
            "{line}"
        );
        assert_eq!(
            refusal("a step", "no such file\nat x"),
            "a step: no such file"
        );
    }
}
